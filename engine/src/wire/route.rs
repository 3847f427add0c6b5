//! The route of a row: the byte that decides which shard it belongs to.
//!
//! [`route`] is the user-space twin of the kernel's steering program (`sys::steering`): the two agree on
//! every input, and a test sends random rows through a real socket group to prove it. Anyone who changes one
//! changes both.

/// Shortest datagram the binary wire's route can be read from: kind, flags, route.
const BINARY_BYTES_MIN: usize = 3;
/// Where the binary wire keeps its route.
const BINARY_ROUTE_AT: usize = 2;

/// The route of a row, or `None` if the steering program makes no choice for it.
///
/// - First byte >= 0x80 (binary wire): byte 2, if there is one.
/// - Otherwise the op id starts after the first comma, which must be byte 0 or byte 1. If a comma stands
///   exactly 8 bytes behind that start the id is taken to have 8 characters; else, if one stands 16 bytes
///   behind, 16. The route is the value of the id's last two characters, both of which must be hexadecimal
///   digits (either case).
/// - Everything else: `None`. In particular an id of 8 characters that does not end in two digits is not
///   tried as one of 16. The characters before the last two are not looked at.
#[must_use]
pub fn route(row: &[u8]) -> Option<u8> {
    if row.len() < BINARY_BYTES_MIN {
        return None; // No text row is that short either.
    }
    let start = match *row {
        [0x80..=0xff, ..] => return row.get(BINARY_ROUTE_AT).copied(),
        [b',', ..] => 1,
        [_, b',', ..] => 2,
        _ => return None,
    };
    let comma = [start + 8, start + 16].into_iter().find(|&at| row.get(at) == Some(&b','))?;
    let high = hex_digit(*row.get(comma - 2)?)?;
    let low = hex_digit(*row.get(comma - 1)?)?;
    Some(high << 4 | low)
}

/// What a datagram's first bytes say about its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer<'a> {
    /// It carries a route; the kernel's program sees it too.
    Route(u8),
    /// A row with an id that has no route; the id's raw text. The kernel's program makes no choice.
    Text(&'a [u8]),
    /// Nothing to go by.
    Nothing,
}

/// The route, or what else a datagram can be sorted by.
#[must_use]
pub fn steer(datagram: &[u8]) -> Steer<'_> {
    if let Some(route) = route(datagram) {
        return Steer::Route(route);
    }
    let comma = |from: usize| datagram.iter().skip(from).position(|&byte| byte == b',').map(|at| from + at);
    match comma(0).and_then(|first| Some((first + 1, comma(first + 1)?))) {
        Some((start, end)) => Steer::Text(&datagram[start..end]),
        None => Steer::Nothing,
    }
}

fn hex_digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Steer, route, steer};

    #[test]
    fn reads_the_last_two_digits_of_an_id_of_8_or_16() {
        assert_eq!(route(b",000000a5,4,0,x"), Some(0xa5));
        assert_eq!(route(b"1,000000A5,4,0,x"), Some(0xa5));
        assert_eq!(route(b",zzzzzz7f,"), Some(0x7f));
        assert_eq!(route(b",00000000000000fe,4"), Some(0xfe));
        assert_eq!(route(b"9,00000000000000fe,"), Some(0xfe));
    }

    #[test]
    fn makes_no_choice_for_anything_else() {
        for row in [
            &b""[..],
            b",",
            b"1,",
            b"hello world!!",
            b",0000001,",
            b",000000001,",
            b",000000a5",
            b",00000000000000fe",
            b",000000000000000fe,",
            b",\"00000a\",",
            b",000000g0,",
            b",0000000:,",
            b",0000000@,",
            b"12,000000a5,",
        ] {
            assert_eq!(route(row), None, "{:?}", String::from_utf8_lossy(row));
        }
    }

    #[test]
    fn an_id_of_8_that_is_not_hexadecimal_is_not_tried_as_one_of_16() {
        assert_eq!(route(b",zzzzzzzz,zzzzz12,"), None);
    }

    #[test]
    fn reads_byte_2_of_a_binary_row() {
        assert_eq!(route(&[0x80, 0, 7]), Some(7));
        assert_eq!(route(&[0xff, b',', 255, 0]), Some(255));
        assert_eq!(route(&[0x80, 0]), None);
    }

    #[test]
    fn routes_and_texts() {
        assert_eq!(steer(b",00000000000000a7,,,aGk="), Steer::Route(0xa7));
        assert_eq!(steer(b"1,00000000000000A7,,0,"), Steer::Route(0xa7));
        assert_eq!(steer(b"0,3f2a9c1e,,,aGk="), Steer::Route(0x1e));
        assert_eq!(steer(b",3f2a9c1,,,aGk="), Steer::Text(b"3f2a9c1"));
        assert_eq!(steer(b",3f2a9cxy,,,aGk="), Steer::Text(b"3f2a9cxy"));
        assert_eq!(steer(b",\"3f2a9c1e\",,,aGk="), Steer::Text(b"\"3f2a9c1e\""));
        assert_eq!(steer(b"\xd2\x00\x05"), Steer::Route(5));
        for nothing in [&b""[..], b",", b"garbage", b"\xd2\x00", b"12,3"] {
            assert_eq!(steer(nothing), Steer::Nothing, "{nothing:?}");
        }
    }
}
