//! Keys without sockets: what is read, what is made of it, and how long it lasts.

use super::cipher::{Sealer, Secret};
use super::traffic::{Limits, Traffic};
use super::*;
use crate::proto::protection::{End, PacketHead};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

fn problem(text: &str) -> String {
    PreSharedKeys::parse(text.as_bytes(), Cipher::default()).unwrap_err().problem
}

#[test]
fn lines_are_read_or_said_to_be_wrong_by_their_number() {
    let hex = "0f1e2d3c4b5a69788796a5b4c3d2e1f00F1E2D3C4B5A69788796A5B4C3D2E1F0";
    let text =
        format!("# a comment\r\n\r\n\t7\t{KEY}\r\n4294967295 {hex} 10.0.0.0/8 [::1]:5 # another\n 1 {hex}");
    let keys = PreSharedKeys::parse(text.as_bytes(), Cipher::default()).unwrap();
    assert_eq!(keys.ids(), [7, 4_294_967_295, 1]);
    for (text, wanted) in [
        (String::new(), "no key in it"),
        ("# nothing\n\n".into(), "no key in it"),
        (format!("\n0 {KEY}"), "line 2: the first word is no key id"),
        (format!("-1 {KEY}"), "line 1: the first word is no key id"),
        (format!("4294967296 {KEY}"), "line 1: the first word is no key id"),
        ("1".into(), "line 1: the second word is no key"),
        (format!("1 {}", &KEY[..43]), "line 1: the second word is no key"),
        (format!("1 {KEY}="), "line 1: the second word is no key"),
        (format!("1 {}", &hex[..63]), "line 1: the second word is no key"),
        (format!("1 {}x", &hex[..63]), "line 1: the second word is no key"),
        (format!("1 {}", "A".repeat(44)), "line 1: the second word is no key"),
        (format!("1 {}=", "A".repeat(43)), "line 1: the key is one byte 32 times"),
        (format!("1 {}", "7e".repeat(32)), "line 1: the key is one byte 32 times"),
        (format!("1 {KEY}\n1 {hex}"), "line 2: its key id stands in an earlier line"),
        (format!("1 {KEY} nobody"), "line 1: a word behind the key"),
        (format!("1 {KEY} 10.0.0.1:0"), "line 1: a word behind the key"),
        (format!("1 {KEY} 10.0.0.1 old"), "line 1: a word behind the key"),
        (format!("1 {KEY} old"), "line 1: no other key of the same peers stands before it"),
        (format!("1 {KEY}\n2 {hex} old 10.0.0.1"), "line 2: no other key of the same peers"),
        (
            format!("1 {KEY} 10.0.0.1\n2 {hex} old 10.0.0.1 10.0.0.2"),
            "line 2: no other key of the same peers",
        ),
        ("#".repeat(TEXT_BYTES_MAX + 1), "more than 65536 bytes"),
    ] {
        assert!(problem(&text).starts_with(wanted), "{}", problem(&text));
    }
    assert!(PreSharedKeys::parse(b"\xff\xfe 1", Cipher::default()).is_err());
    // What the message for it says to type makes a line.
    let made: Vec<u8> = (0..32).collect();
    let made = base64_simd::STANDARD.encode_to_string(made);
    assert!(PreSharedKeys::parse(format!("1 {made}").as_bytes(), Cipher::default()).is_ok());
}

#[test]
fn the_keys_of_a_peer_are_those_of_its_most_specific_rule_in_the_order_of_the_lines() {
    let hex = |byte: u8| format!("{:02x}{}", byte, "5a".repeat(31));
    let lines = [
        (1, "10.0.0.0/8"),
        (2, ""),
        (3, "10.0.0.7 10.0.0.8:9"),
        (4, "10.0.0.7"),
        (5, ""),
        (6, "10.0.0.0/8"),
        (7, "10.0.0.8:9"),
    ];
    let text: String = lines.map(|(id, peers)| format!("{id} {} {peers}\n", hex(id))).concat();
    let keys = PreSharedKeys::parse(text.as_bytes(), Cipher::default()).unwrap();
    for (peer, ids) in [
        ("192.0.2.1:5", &[2, 5][..]),
        ("[::1]:5", &[2, 5]),
        ("10.9.9.9:5", &[1, 6]),
        ("10.0.0.7:5", &[3, 4]),
        ("[::ffff:10.0.0.7]:5", &[3, 4]),
        ("10.0.0.8:9", &[3, 7]),
        ("10.0.0.8:8", &[1, 6]),
    ] {
        let peer = peer.parse().unwrap();
        assert_eq!(keys.key_id(peer, None), ids.first().copied(), "{peer}");
        for id in 0..9 {
            let has = ids.contains(&id);
            assert_eq!(keys.find(peer, id).is_some(), has, "{peer} {id}");
            // What a flow began with stays as long as it is there.
            assert_eq!(keys.key_id(peer, Some(id)), Some(if has { id } else { ids[0] }), "{peer} {id}");
        }
    }
    keys.replace(format!("1 {} 10.0.0.7", hex(1)).as_bytes()).unwrap();
    assert_eq!(keys.clone().key_id("10.0.0.7:1".parse().unwrap(), Some(3)), Some(1));
    assert_eq!(keys.key_id("10.0.0.8:1".parse().unwrap(), None), None);
}

fn pair(limits: Limits) -> (Traffic, Traffic) {
    let secret = Secret::root(&[7; 32]);
    let traffic = || Traffic::new(Cipher::Aes256Gcm, limits, secret.clone());
    (traffic(), traffic())
}

const LIMITS: Limits = Limits { datagrams: 10, bytes: 1 << 30, forgeries: 1 << 36 };

struct Sealed {
    number: u64,
    key_phase: bool,
    body: Vec<u8>,
}

fn seal(sender: &mut Traffic, number: u64, plain: &[u8]) -> Sealed {
    let key_phase = sender.key_phase(number);
    let mut body = [plain, &[0; TAG_BYTES]].concat();
    sender.seal(&PacketHead { associated: b"head", packet_number: number, key_phase }, &mut body);
    assert!(plain.is_empty() || body[..plain.len()] != *plain);
    Sealed { number, key_phase, body }
}

fn open(receiver: &mut Traffic, sealed: &Sealed) -> Result<Vec<u8>, Unauthentic> {
    let mut plain = vec![0; sealed.body.len()];
    let head = PacketHead { associated: b"head", packet_number: sealed.number, key_phase: sealed.key_phase };
    receiver.open_to(&head, &sealed.body, &mut plain).map(|()| plain[..plain.len() - TAG_BYTES].to_vec())
}

#[test]
fn keys_follow_one_another_and_what_comes_late_still_opens() {
    let (mut sender, mut receiver) = pair(LIMITS);
    let sealed: Vec<Sealed> = (100..145).map(|number| seal(&mut sender, number, b"plain")).collect();
    let phases: Vec<usize> =
        sealed.chunk_by(|a, b| a.key_phase == b.key_phase).map(<[Sealed]>::len).collect();
    assert_eq!(phases, [10, 10, 10, 10, 5]);
    // Pairs swapped across every border: 109 after 110, and so on; 100 comes last of its key, and late.
    let mut order: Vec<usize> = (1..45).collect();
    order.retain(|&at| at != 9 && at != 19);
    order.insert(9, 9);
    order.insert(22, 19);
    for &at in &order {
        assert_eq!(open(&mut receiver, &sealed[at]), Ok(b"plain".to_vec()), "{at}");
        if at == 12 {
            assert_eq!(open(&mut receiver, &sealed[0]), Ok(b"plain".to_vec()), "the key before");
        }
    }
    assert_eq!(receiver.forgeries, 0);
    // Two keys ago is too long ago.
    assert_eq!(open(&mut receiver, &sealed[15]), Err(Unauthentic));
    assert_eq!(receiver.forgeries, 1);
    assert_eq!(receiver.phase, sender.phase);
}

#[test]
fn what_does_not_open_changes_no_key() {
    let (mut sender, mut receiver) = pair(LIMITS);
    let first = seal(&mut sender, 5, b"one");
    for phase in [false, true] {
        for number in [0, 4, 5, 6, u64::MAX] {
            for body in [vec![0; 15], vec![0; 16], vec![7; 100], first.body.clone()] {
                let forged = Sealed { number, key_phase: phase, body };
                if (forged.number, phase) != (5, false) || forged.body != first.body {
                    assert_eq!(open(&mut receiver, &forged), Err(Unauthentic));
                }
            }
        }
    }
    assert_eq!(open(&mut receiver, &first), Ok(b"one".to_vec()));
    // The turned bit of a sound one.
    assert!(open(&mut receiver, &Sealed { key_phase: true, ..seal(&mut sender, 6, b"two") }).is_err());
    assert_eq!(open(&mut receiver, &seal(&mut sender, 7, b"three")), Ok(b"three".to_vec()));
    assert!(!receiver.phase);
}

#[test]
fn a_key_ends_after_its_bytes_as_well() {
    let (mut sender, _) = pair(Limits { bytes: 1_000, ..LIMITS });
    let phases: Vec<bool> = (0..8).map(|number| seal(&mut sender, number, &[7; 484]).key_phase).collect();
    assert_eq!(phases, [false, false, true, true, false, false, true, true]);
}

/// RFC 9001 section 6.6, the integrity limit: it counts over all keys of a direction.
#[test]
fn after_too_many_forgeries_nothing_opens_any_more() {
    let (mut sender, mut receiver) = pair(Limits { forgeries: 20, ..LIMITS });
    for number in 0..15 {
        assert!(open(&mut receiver, &seal(&mut sender, number, b"sound")).is_ok());
        let forged = Sealed { number: number + 100, key_phase: receiver.phase, body: vec![9; 40] };
        assert_eq!(open(&mut receiver, &forged), Err(Unauthentic));
    }
    for number in 15..20 {
        assert!(open(&mut receiver, &seal(&mut sender, number, b"sound")).is_ok());
        assert!(open(&mut receiver, &Sealed { number: 0, key_phase: true, body: vec![9; 40] }).is_err());
    }
    assert!(open(&mut receiver, &seal(&mut sender, 20, b"sound")).is_err());
    assert_eq!(
        (Cipher::Aes256Gcm.forgeries_max(), Cipher::ChaCha20Poly1305.forgeries_max()),
        (1 << 52, 1 << 36)
    );
}

#[test]
fn a_number_of_datagrams_for_a_key_is_within_its_limits() {
    let keys = PreSharedKeys::parse(format!("1 {KEY}").as_bytes(), Cipher::default()).unwrap();
    assert_eq!((keys.limits.datagrams, keys.limits.bytes), (1 << 26, 1 << 37));
    assert_eq!(keys.clone().rekey_after(0).limits.datagrams, 1 << 12);
    assert_eq!(keys.rekey_after(u64::MAX).limits.datagrams, 1 << 26);
}

#[test]
fn nothing_here_prints_a_key() {
    let (mut traffic, _) = pair(LIMITS);
    traffic.key_phase(0);
    let secret = Secret::root(&[171; 32]);
    let sealer: Sealer = secret.sealer(Cipher::Aes256Gcm);
    assert_eq!(format!("{secret:?} {sealer:?}"), "Secret(..) Sealer(..)");
    let shown = format!("{traffic:?}");
    assert!(shown.contains("Secret(..)") && shown.contains("Sealer(..)") && !shown.contains('['), "{shown}");
    for cipher in Cipher::ALL {
        assert_eq!(cipher.to_string().parse(), Ok(cipher));
    }
    assert!("aes".parse::<Cipher>().unwrap_err().to_string().contains("aes-256-gcm"));
}

/// Bytes of hex.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// What another implementation sealed, we seal alike, and open.
#[test]
fn known_answers() {
    let text = include_str!("../../../tests/data/v2_sealed.txt");
    let field = |text: &'static str, name: &str| {
        let from = text.find(&format!("\n{name}: ")).unwrap() + name.len() + 3;
        let value = &text[from..];
        let end = value.match_indices('\n').find(|(at, _)| !value[at + 1..].starts_with(' '));
        &value[..end.map_or(value.len(), |(at, _)| at)]
    };
    let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
    let end = |name| {
        let words: BTreeMap<&str, &str> =
            field(text, name).split(' ').filter_map(|word| word.split_once('=')).collect();
        let random = bytes(words["random"]).try_into().unwrap();
        End {
            tag: number(words["tag"]),
            nonce: number(words["nonce"]),
            random,
            epoch: number(words["epoch"]) as u32,
        }
    };
    let (opener, other) = (end("opener"), end("other"));
    let (key_id, route) = (number(field(text, "key_id")) as u32, number(field(text, "route")) as u8);
    let peer = "192.0.2.1:5".parse().unwrap();
    let mut cases = 0;
    for case in text.split("\n\n").filter(|part| part.starts_with("case: ")) {
        let (plain, sealed) = (bytes(field(case, "plain")), bytes(field(case, "sealed")));
        let name = case.lines().next().unwrap();
        let cipher: Cipher = name["case: ".len()..].split(',').next().unwrap().parse().unwrap();
        let line = format!("{key_id} {}", field(text, "key"));
        let mut keys = PreSharedKeys::parse(line.as_bytes(), cipher).unwrap();
        keys.limits.datagrams = 1;
        let body_at = if name.contains("HELLO") { 60 } else { 28 };
        let associated = &sealed[..body_at];
        let (mut body, mut opened) = ([&plain[..], &[0; TAG_BYTES]].concat(), sealed[body_at..].to_vec());
        if name.contains("HELLO") {
            assert_eq!(associated[24..28], key_id.to_le_bytes());
            let salt = associated.last_chunk().unwrap();
            let head = HelloHead { peer, associated, salt, key_id };
            keys.seal_hello(&head, &mut body);
            keys.open_hello(&head, &mut opened).unwrap();
        } else {
            let from_opener = name.contains("from the opener");
            let (sender, receiver) = if from_opener { (opener, other) } else { (other, opener) };
            assert_eq!(sealed[16..24], receiver.tag.to_le_bytes());
            let direction = Direction { sender, receiver, route, from_opener, key_id, peer };
            let (mut seals, mut opens) = (keys.flow(&direction), keys.flow(&direction));
            let packet_number = u64::from_le_bytes(*sealed[8..].first_chunk().unwrap());
            let key_phase = sealed[1] & 4 != 0;
            if key_phase {
                assert!(!seals.key_phase(0));
                seals.seal(&PacketHead { associated, packet_number: 0, key_phase: false }, &mut [0; 20]);
            }
            assert_eq!(seals.key_phase(packet_number), key_phase);
            let head = PacketHead { associated, packet_number, key_phase };
            seals.seal(&head, &mut body);
            opens.open(&head, &mut opened).unwrap();
            // The same from one place to another.
            let (mut copy, mut plain_copy) = (vec![1; body.len()], vec![1; body.len()]);
            seals.seal_to(&head, &plain, &mut copy);
            opens.open_to(&head, &copy, &mut plain_copy).unwrap();
            assert_eq!((&copy, &plain_copy[..plain.len()]), (&body, &plain[..]), "{name}");
        }
        assert_eq!(body, sealed[body_at..], "{name}");
        assert_eq!(opened[..plain.len()], plain, "{name}");
        cases += 1;
    }
    assert_eq!(cases, 8);
}

#[test]
fn a_key_is_retired_for_those_for_whom_another_one_seals() {
    let peers: [SocketAddr; 2] = [([10, 0, 0, 1], 5).into(), ([10, 0, 0, 2], 5).into()];
    let [one, two] =
        [("1", "5a6b7c8d"), ("2", "0f1e2d3c")].map(|(id, key)| format!("{id} {}", key.repeat(8)));
    let keys = PreSharedKeys::parse(one.as_bytes(), Cipher::default()).unwrap();
    let retired = |text: String| {
        keys.replace(text.as_bytes()).unwrap();
        peers.map(|peer| [1, 2].map(|id| keys.is_retired(peer, id)))
    };
    const NONE: [bool; 2] = [false, false];
    const FIRST: [bool; 2] = [true, false];
    // One of them gets a key of its own; then both the same.
    assert_eq!(retired(format!("{two} 10.0.0.1\n{one}")), [FIRST, NONE]);
    assert_eq!(retired(format!("{two}\n{one}")), [FIRST, FIRST]);
    // It stays so as long as it is there, and is not the first one again.
    assert_eq!(retired(format!("{two}\n{one}")), [FIRST, FIRST]);
    assert_eq!(retired(format!("{one}\n{two}")), [[false, true]; 2]);
    assert_eq!(retired(one.clone()), [NONE; 2]);
    assert_eq!(retired(two.clone()), [NONE; 2]);
    // A line for one of a network's peers: what sealed for the network before did so for this peer.
    assert_eq!(retired(format!("{one} 10.0.0.0/8")), [NONE; 2]);
    assert_eq!(retired(format!("{two} 10.0.0.1\n{one} 10.0.0.0/8")), [FIRST, NONE]);
}

/// Who is started between two reloads has no other way to know.
#[test]
fn a_key_is_old_because_the_file_says_so() {
    let peers: [SocketAddr; 2] = [([10, 0, 0, 1], 5).into(), ([10, 0, 0, 2], 5).into()];
    let [one, two] =
        [("1", "5a6b7c8d"), ("2", "0f1e2d3c")].map(|(id, key)| format!("{id} {}", key.repeat(8)));
    let keys_of = |text: String| PreSharedKeys::parse(text.as_bytes(), Cipher::default()).unwrap();
    let retired =
        |keys: &PreSharedKeys| peers.map(|peer| (keys.key_id(peer, None), keys.is_retired(peer, 1)));
    let keys = keys_of(format!("{two}\n{one} old"));
    assert_eq!(retired(&keys), [(Some(2), true); 2]);
    assert!(peers.iter().all(|&peer| keys.has_key(peer, 1)), "it opens");
    let of_one = format!("{two} 10.0.0.1\n{one} old 10.0.0.1");
    assert_eq!(retired(&keys_of(of_one.clone())), [(Some(2), true), (None, false)]);
    assert_eq!(retired(&keys_of(format!("{two}\n{one}"))), [(Some(2), false); 2]);
    // The word comes, stays as long as another one seals, and what it says goes with the key's return to the first place.
    let keys = keys_of(format!("{two}\n{one}"));
    keys.replace(format!("{two}\n{one} old").as_bytes()).unwrap();
    assert_eq!(retired(&keys), [(Some(2), true); 2]);
    keys.replace(format!("{two}\n{one}").as_bytes()).unwrap();
    assert_eq!(retired(&keys), [(Some(2), true); 2]);
    keys.replace(format!("{one}\n{two}").as_bytes()).unwrap();
    assert_eq!(retired(&keys), [(Some(1), false); 2]);
    keys.replace(of_one.as_bytes()).unwrap();
    assert_eq!(retired(&keys)[0], (Some(2), true));
}

/// A line that is gone: its peers have what all others of the network have, or nothing.
#[test]
fn what_peers_had_under_a_line_that_is_gone_is_retired_or_revoked() {
    let peers: [SocketAddr; 2] = [([10, 0, 0, 1], 5).into(), ([10, 0, 0, 2], 5).into()];
    let [one, two] =
        [("1", "5a6b7c8d"), ("2", "0f1e2d3c")].map(|(id, key)| format!("{id} {}", key.repeat(8)));
    let changed = |texts: &[String]| {
        let keys = PreSharedKeys::parse(texts[0].as_bytes(), Cipher::default()).unwrap();
        texts[1..].iter().for_each(|text| keys.replace(text.as_bytes()).unwrap());
        let of = |peer, id| match (keys.is_retired(peer, id), keys.has_key(peer, id)) {
            (_, false) => "gone",
            (true, true) => "retired",
            (false, true) => "there",
        };
        let all = peers.map(|peer| [1, 2].map(|id| of(peer, id)));
        (all, keys.read(|ring| ring.of_peers.matches().count()))
    };
    let own = format!("{two}\n{one} 10.0.0.1");
    let texts = [format!("{one} 10.0.0.1 10.0.0.2"), format!("{one} 10.0.0.2")];
    assert_eq!(changed(&texts), ([["gone", "gone"], ["there", "gone"]], 2));
    // The first one has what all have; the other one goes over to a line of his own.
    let other = format!("{two}\n{one} 10.0.0.2");
    let of_both = [["gone", "there"], ["there", "retired"]];
    assert_eq!(changed(&[own.clone(), other.clone()]), (of_both, 2));
    // It stays so, until the key is gone from the file, or theirs again.
    let three = format!("{other}\n3 {}78", "77".repeat(31));
    assert_eq!(changed(&[own.clone(), other.clone(), three]), (of_both, 2));
    assert_eq!(changed(&[own.clone(), other.clone(), two.clone()]), ([["gone", "there"]; 2], 0));
    assert_eq!(changed(&[own.clone(), other, own.clone()]).0[0], ["there", "retired"]);
    // All have it now, but another one seals.
    let all = format!("{two}\n{one}");
    let of_both = [["retired", "there"], ["there", "there"]];
    assert_eq!(changed(&[own.clone(), all.clone()]), (of_both, 1));
    assert_eq!(changed(&[own.clone(), all, format!("{one}\n{two}")]).0[0], ["there", "retired"]);
    // Nor is it then any more for those who had fallen under it.
    let nobody = format!("{two} 10.0.0.9\n{one} 10.0.0.2");
    let texts = [own.clone(), format!("{two}\n{one} 10.0.0.2"), nobody];
    assert_eq!(changed(&texts).0, [["gone", "gone"], ["there", "retired"]]);
    // No longer for all others, whoever they are.
    let of_both = [["there", "there"], ["gone", "there"]];
    assert_eq!(changed(&[format!("{one}\n{two}"), own]), (of_both, 1));
}
