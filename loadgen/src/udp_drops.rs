//! What the kernel says it dropped at UDP sockets: the last column of `/proc/net/udp`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Packets that came while the receive buffers of the sockets at these addresses were full, as long as they are open; `None`:
/// the kernel does not say. Sockets are told apart by their ports.
pub fn at(addresses: &[SocketAddr]) -> Option<u64> {
    let ports: BTreeSet<u16> = addresses.iter().map(SocketAddr::port).collect();
    let is_ipv4 = addresses.first()?.is_ipv4();
    let file = if is_ipv4 { "/proc/net/udp" } else { "/proc/net/udp6" };
    Some(of_ports(&std::fs::read_to_string(file).ok()?, &ports))
}

fn of_ports(text: &str, ports: &BTreeSet<u16>) -> u64 {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let port = u16::from_str_radix(words.nth(1)?.rsplit_once(':')?.1, 16).ok()?;
        let drops = words.last()?.parse::<u64>().ok()?;
        ports.contains(&port).then_some(drops)
    };
    text.lines().filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_the_last_column_of_our_ports() {
        let text = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                    12: 0100007F:62A4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0000000000000000 7\n\
                    13: 0100007F:62A5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0000000000000000 5\n";
        assert_eq!(of_ports(text, &BTreeSet::from([25_252])), 7);
        assert_eq!(of_ports(text, &BTreeSet::from([25_252, 25_253])), 12);
        assert_eq!(of_ports(text, &BTreeSet::from([1])), 0);
    }
}
