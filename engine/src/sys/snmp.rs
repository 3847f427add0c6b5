//! What the kernel counts of UDP in a network namespace: `/proc/net/snmp` and `/proc/net/snmp6`.
//!
//! The files are opened by the thread that binds the sockets and kept: what is read later is of the sockets' namespace, whoever
//! reads. Not of the hot path: a read sums over all processors.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Longer than either file.
const BYTES_MAX: usize = 64 << 10;

/// The two files, as far as they are there.
#[derive(Debug)]
pub(crate) struct UdpSnmp {
    v4: Option<File>,
    v6: Option<File>,
}

impl UdpSnmp {
    /// Of the calling thread's namespace.
    pub(crate) fn open() -> Self {
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}")).ok();
        Self { v4: open("snmp"), v6: open("snmp6") }
    }

    /// The counters of these names, both families together; `None` if they are not to be read. A name the kernel does not
    /// know is 0.
    pub(crate) fn read<const N: usize>(&self, names: &[&str; N]) -> Option<[u64; N]> {
        let v4 = text(self.v4.as_ref()?)?;
        let v6 = self.v6.as_ref().and_then(text).unwrap_or_default();
        Some(names.map(|name| of_table(&v4, name) + of_list(&v6, name)))
    }
}

fn text(file: &File) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4_096];
    while bytes.len() < BYTES_MAX {
        match file.read_at(&mut chunk, bytes.len() as u64) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(chunk.get(..count)?),
            Err(_) => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

/// `Udp: NAMES` in one line, `Udp: NUMBERS` in the next.
fn of_table(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let column = names.split_whitespace().position(|other| other == name);
    column.and_then(|column| numbers.split_whitespace().nth(column)?.parse().ok()).unwrap_or(0)
}

/// `Udp6NAME NUMBER` in a line.
fn of_list(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp6"));
    let number = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '\t']));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let table =
            "Tcp: A\nTcp: 1\nUdp: InDatagrams NoPorts InErrors\nUdp: 5 6 7\nUdpLite: InErrors\nUdpLite: 9\n";
        assert_eq!(["InDatagrams", "InErrors", "Missing"].map(|name| of_table(table, name)), [5, 7, 0]);
        let list = "Ip6InReceives\t1\nUdp6InErrorsFoo 3\nUdp6InErrors   \t4\n";
        assert_eq!(["InErrors", "NoPorts"].map(|name| of_list(list, name)), [4, 0]);
        assert_eq!((of_table("", "InErrors"), of_list("", "InErrors")), (0, 0));
    }

    /// In a namespace of its own nobody else sends.
    #[test]
    fn a_packet_is_counted_and_who_reads_need_not_be_there() {
        let mut snmp = None;
        let ran = crate::sys::netns::in_private_netns(&["link set lo up"], || {
            let opened = UdpSnmp::open();
            let [one, other] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
            one.send_to(b"x", other.local_addr().unwrap()).unwrap();
            other.recv(&mut [0; 8]).unwrap();
            snmp = Some(opened);
        });
        if !ran {
            return eprintln!("SKIP: no right to make a network namespace");
        }
        assert_eq!(snmp.unwrap().read(&["OutDatagrams", "InDatagrams", "NoPorts"]), Some([1, 1, 0]));
    }
}
