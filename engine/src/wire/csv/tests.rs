//! The wire against the golden file, against naive models of what Python does, and against itself.

use super::columns::Columns;
use super::decode::decode_general;
use super::text::format_timestamp;
use super::*;
use crate::sim::golden::{self, Survival};
use crate::sim::python::{self, PythonError};
use crate::sim::v1_peer::{READ_BYTES_MAX, V1Peer};
use crate::wire::DropReason;
use proptest::prelude::*;

/// Everything a row says, owned: for comparing and for printing.
#[derive(Clone, Debug, PartialEq)]
enum Meaning {
    Data { id: String, place: (u32, u32), payload: Vec<u8>, confirm: String },
    Confirm { id: String, chunk_index: u32 },
}

fn meaning(row: &[u8]) -> Result<Meaning, DropReason> {
    let mut scratch = Scratch::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok(match decode(row, &mut scratch)? {
        Row::Data(data) => {
            let mut payload = vec![0; data.payload.decoded_bytes_max()];
            let payload_bytes = data.payload.decode_into(&mut payload)?;
            payload.truncate(payload_bytes);
            let confirm = data.confirm(Epoch(7));
            let mut confirm_row = vec![0; confirm_row_bytes(&confirm)];
            encode_confirm(&mut confirm_row, &confirm);
            Meaning::Data {
                id: text(data.id.text),
                place: (data.chunk_index, data.chunk_count),
                payload,
                confirm: text(&confirm_row),
            }
        }
        Row::Confirm(confirm) => {
            Meaning::Confirm { id: text(confirm.id.text), chunk_index: confirm.chunk_index }
        }
    })
}

/// Cases in which we refuse a row although the original lives on: a length or chunk id that cannot be meant.
const REFUSED: [(&str, DropReason); 6] = [
    ("cmd 2", DropReason::UnknownCommand),
    ("cmd -1", DropReason::UnknownCommand),
    ("length 0", DropReason::BadLength),
    ("length -1", DropReason::BadLength),
    ("chunk id beyond length", DropReason::ChunkBeyondLength),
    ("chunk id beyond length completes the count", DropReason::ChunkBeyondLength),
];

/// The rest of what the original refuses by dying, with the reason we count. Two rows are harmless to us.
const DEADLY: [(&str, Option<DropReason>); 16] = [
    ("cmd x", Some(DropReason::BadCommand)),
    ("four columns", Some(DropReason::TooFewColumns)),
    ("length 1.0", Some(DropReason::BadLength)),
    ("chunk id 00 and 1", Some(DropReason::BadChunkId)),
    ("chunk id beyond length completes the count", Some(DropReason::ChunkBeyondLength)),
    ("leading blank line", Some(DropReason::TooFewColumns)),
    ("base64 without padding", Some(DropReason::BadBase64)),
    ("base64 one character", Some(DropReason::BadBase64)),
    ("payload not UTF-8", None),
    ("confirm, three columns", Some(DropReason::TooFewColumns)),
    ("confirm, chunk not base64", None),
    ("empty datagram", Some(DropReason::Empty)),
    ("one comma", Some(DropReason::TooFewColumns)),
    ("garbage", Some(DropReason::BadCommand)),
    ("binary", Some(DropReason::BinaryWire)),
    ("unterminated quote", Some(DropReason::UnterminatedQuote)),
];

#[test]
fn golden_file() {
    let cases = golden::cases();
    assert_eq!(cases.len(), 68);
    for case in &cases {
        let results: Vec<_> = case.datagrams.iter().map(|row| meaning(row)).collect();
        let refused = REFUSED.iter().find(|(name, _)| *name == case.name);
        let deadly = DEADLY.iter().find(|(name, _)| *name == case.name);
        assert_eq!(deadly.is_some(), case.survival != Survival::Lives, "{}", case.name);
        let expected = match (refused, deadly) {
            (Some((_, reason)), _) | (None, Some((_, Some(reason)))) => {
                assert!(results.contains(&Err(*reason)), "{}: {results:?}", case.name);
                continue;
            }
            (None, _) => results.into_iter().collect::<Result<Vec<_>, _>>(),
        };
        let rows = expected.unwrap_or_else(|reason| panic!("{}: {reason:?}", case.name));
        if deadly.is_some() {
            continue; // Harmless to us, and there is nothing to compare with.
        }
        check_delivery(case, &rows);
        let confirms: Vec<_> = rows
            .iter()
            .filter_map(|row| match row {
                Meaning::Data { confirm, .. } => Some(confirm.as_bytes().to_vec()),
                Meaning::Confirm { .. } => None,
            })
            .collect();
        assert_eq!(confirms, case.confirms, "{}", case.name);
    }
}

/// Puts the chunks together the way the protocol layer does, which is not under test here.
fn check_delivery(case: &golden::Case, rows: &[Meaning]) {
    let mut delivered = Vec::new();
    let mut chunks = std::collections::BTreeMap::new();
    let mut count = 0;
    for row in rows {
        let Meaning::Data { place: (index, row_count), payload, .. } = row else { continue };
        if *row_count == 1 {
            delivered.push(payload.clone());
            continue;
        }
        count = if chunks.is_empty() { *row_count as usize } else { count };
        chunks.insert(*index, payload.clone());
        if chunks.len() == count {
            delivered.push(chunks.values().flatten().copied().collect());
            chunks.clear();
        }
    }
    let cut = case.datagrams.iter().any(|row| row.len() > READ_BYTES_MAX);
    if cut {
        // The original's read is too short; ours is not.
        assert_eq!(delivered.len(), 1);
        assert!(delivered[0].len() > 759);
        return;
    }
    let texts: Vec<_> =
        delivered.iter().map(|text| golden::shorthand(std::str::from_utf8(text).unwrap())).collect();
    assert_eq!(texts.join(" | "), case.delivered, "{}", case.name);
}

#[test]
fn our_rows_look_as_documented() {
    let stamp = Stamp::new(UnixMicros(1_764_123_456_123_456), Epoch(0x00c0_ffee));
    assert_eq!(stamp.as_array(), b",1764123456.123456,u+00c0ffee");
    let mut row = vec![0; data_row_bytes(5, None)];
    encode_data(&mut row, 0x0123_4567_89ab_cdef, None, b"hello", &stamp);
    assert_eq!(row, b",0123456789abcdef,,,aGVsbG8=,1764123456.123456,u+00c0ffee");
    let place = ChunkPlace { index: 9, count: 10 };
    let mut row = vec![0; data_row_bytes(5, Some(place))];
    encode_data(&mut row, 0x0123_4567_89ab_cdef, Some(place), b"hello", &stamp);
    assert_eq!(row, b",0123456789abcdef,10,9,aGVsbG8=,1764123456.123456,u+00c0ffee");
    let confirm = Confirm::Marked { id: 0x0123_4567_89ab_cdef, chunk_index: 12, epoch: Epoch(1) };
    let mut row = vec![0; confirm_row_bytes(&confirm)];
    encode_confirm(&mut row, &confirm);
    assert_eq!(row, b"1,0123456789abcdef,,12,,,u+00000001");
    assert_eq!(format_timestamp(UnixMicros(u64::MAX)), *b"9999999999.999999");
    assert_eq!(format_timestamp(UnixMicros(1_000_001)), *b"0000000001.000001");
}

#[test]
fn largest_payload() {
    assert_eq!(payload_bytes_max(1_024, 1), 729);
    assert_eq!(payload_bytes_max(1_024, 1_000), 726);
    assert_eq!(payload_bytes_max(48, 1), 0);
    for count in [1, 2, 9, 10, 11, 100, 101, 1_000, 100_001, u32::MAX] {
        let place = (count > 1).then(|| ChunkPlace { index: count - 1, count });
        for row_bytes_max in 72..300 {
            let payload_bytes = payload_bytes_max(row_bytes_max, count);
            assert!(payload_bytes == 0 || data_row_bytes(payload_bytes, place) <= row_bytes_max);
            assert!(data_row_bytes(payload_bytes + 1, place) > row_bytes_max);
        }
    }
}

#[test]
fn marks_and_ids() {
    let mut scratch = Scratch::new();
    let mut ids = |row: &str| match decode(row.as_bytes(), &mut scratch).unwrap() {
        Row::Data(data) => (data.id.native, data.epoch),
        Row::Confirm(confirm) => (confirm.id.native, confirm.epoch),
    };
    let native = Some(0x3f2a_9c1e);
    let ours = |tail: &str| format!(",000000003f2a9c1e,,,aGU=,1764123456.123456{tail}");
    assert_eq!(ids(&ours(",u+0000000a")), (native, Some(Epoch(10))));
    assert_eq!(ids(&ours(",u+0000000a,more")), (native, Some(Epoch(10))));
    assert_eq!(ids(&ours(",\"u+0000000a\"\r\n")), (native, Some(Epoch(10))));
    for foreign in ["", ",", ",u+0000000A", ",u+000000a", ",u+0000000aa", ",u-0000000a", ",x,u+0000000a"] {
        assert_eq!(ids(&ours(foreign)), (None, None), "{foreign}");
    }
    assert_eq!(ids(",3f2a9c1e,,,aGU=,soon,u+0000000a"), (None, Some(Epoch(10))));
    assert_eq!(ids("1,000000003f2a9c1e,,0,"), (native, None));
    assert_eq!(ids("1,000000003f2a9c1e,,0"), (native, None));
    assert_eq!(ids("1,000000003f2a9c1e,,0,,,u+0000000a"), (native, Some(Epoch(10))));
    assert_eq!(ids("1,000000003F2A9C1E,,0,"), (None, None));
}

#[test]
fn odd_numbers_are_refused_or_read_but_never_overflow() {
    let nines = "9".repeat(400);
    let reason = |row: String| meaning(row.as_bytes()).unwrap_err();
    assert_eq!(reason(format!(",id,{nines},0,,")), DropReason::MessageTooLarge);
    assert_eq!(reason(format!(",id,-{nines},0,,")), DropReason::BadLength);
    assert_eq!(reason(format!(",id,2,{nines},,")), DropReason::ChunkBeyondLength);
    assert_eq!(reason(format!(",id,{},{},,", u32::MAX, u32::MAX)), DropReason::ChunkBeyondLength);
    assert_eq!(reason(format!(",id,1,{nines},,")), DropReason::BadChunkId);
    assert_eq!(reason(format!("{nines},id,1,,,")), DropReason::UnknownCommand);
    assert_eq!(reason(format!(",{nines},1,,,")), DropReason::OpIdTooLong);
    for text in ["00", "01", "+1", " 1", "1_0", "-1", "x", "1 "] {
        assert_eq!(reason(format!(",id,20,{text},,")), DropReason::BadChunkId, "{text}");
        assert_eq!(reason(format!("1,id,,{text},")), DropReason::BadChunkId, "{text}");
    }
    let big = format!("1,00000000000000aa,,{},", u32::MAX);
    assert_eq!(
        meaning(big.as_bytes()).unwrap(),
        Meaning::Confirm { id: "00000000000000aa".to_owned(), chunk_index: u32::MAX }
    );
}

#[test]
fn times() {
    let time = |text: &str| text::parse_time(text.as_bytes()).map(|time| time.0);
    assert_eq!(time("1764123456.123456"), Some(1_764_123_456_123_456));
    assert_eq!(time("1764123456.1234569"), Some(1_764_123_456_123_456));
    assert_eq!(time(" +1.5\n"), Some(1_500_000));
    assert_eq!(time("1."), Some(1_000_000));
    assert_eq!(time(".5"), Some(500_000));
    assert_eq!(time("1.5e3"), Some(1_500_000_000));
    assert_eq!(time("0"), Some(0));
    for none in ["", ".", "+", "soon", "-1", "nan", "inf", "1e300", "1,5", "1 5", "99999999999999999999"] {
        assert_eq!(time(none), None, "{none}");
    }
    for text in [b"x764123456.123456", b"1764123456,123456", b"1764123456.12345x", b"17641234:6.123456"] {
        assert_eq!(text::parse_timestamp17(text), None);
    }
}

#[test]
fn a_bad_base64_text_is_a_reason_and_room_is_checked() {
    let decoded = |text: &str| {
        let mut out = vec![0; text.len()];
        Base64::new(text.as_bytes()).decode_into(&mut out).map(|bytes| out[..bytes].to_vec())
    };
    assert_eq!(decoded("aGk=aGk="), Ok(b"hi".to_vec()));
    assert_eq!(decoded("aGl="), Ok(b"hi".to_vec())); // Bits that nobody looks at.
    assert_eq!(decoded("===="), Ok(Vec::new()));
    assert_eq!(decoded("aGVs\nbG8="), Ok(b"hello".to_vec()));
    assert_eq!(decoded("a"), Err(DropReason::BadBase64));
    assert_eq!(Base64::new(b"aGVsbG8=").decoded_bytes_max(), 5);
}

/// A row of ours, of any kind.
fn own_row() -> impl Strategy<Value = Vec<u8>> {
    let place = prop_oneof![
        Just((1, 0)),
        (2u32..12).prop_flat_map(|count| (Just(count), 0..count)),
        (2u32..=u32::MAX).prop_flat_map(|count| (Just(count), 0..count))
    ];
    let payload = proptest::collection::vec(any::<u8>(), 0..120);
    (any::<u64>(), place, payload, 0u64..9_999_999_999_999_999, any::<u32>(), 0..3u8).prop_map(
        |(id, (count, index), payload, micros, epoch, kind)| {
            let chunk = (count > 1).then_some(ChunkPlace { index, count });
            let epoch = Epoch(epoch);
            let hex = format!("{id:016x}");
            let confirm = match kind {
                0 => {
                    let mut row = vec![0; data_row_bytes(payload.len(), chunk)];
                    encode_data(&mut row, id, chunk, &payload, &Stamp::new(UnixMicros(micros), epoch));
                    return row;
                }
                1 => Confirm::Marked { id, chunk_index: index, epoch },
                _ => Confirm::Plain { id: hex.as_bytes(), chunk_text: b"" },
            };
            let mut row = vec![0; confirm_row_bytes(&confirm)];
            encode_confirm(&mut row, &confirm);
            row
        },
    )
}

/// Characters that mean something to some parser, or nothing at all.
fn tricky_byte() -> impl Strategy<Value = u8> {
    prop_oneof![proptest::sample::select(b",,,\"\"\r\n01289 =+_-./aAfFgz\x00\x7f\x80u".to_vec()), any::<u8>()]
}

/// A row of ours with a few bytes replaced, inserted or removed.
fn mutated_row() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<proptest::sample::Index>(), tricky_byte(), 0..4u8), 0..4);
    (own_row(), edits).prop_map(|(mut row, edits)| {
        for (at, byte, kind) in edits {
            let at = at.index(row.len() + 1);
            match kind {
                0 | 1 if at < row.len() => row[at] = byte,
                2 if at < row.len() => drop(row.remove(at)),
                _ => row.insert(at, byte),
            }
        }
        row
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn data_rows_round_trip(
        id: u64,
        payload in proptest::collection::vec(any::<u8>(), 0..1_500),
        micros in 0u64..10_000_000_000_000_000,
        epoch: u32,
        count in 1u32..,
        at in any::<proptest::sample::Index>(),
    ) {
        let index = at.index(count as usize) as u32;
        let chunk = (count > 1).then_some(ChunkPlace { index, count });
        let mut row = vec![0; data_row_bytes(payload.len(), chunk)];
        encode_data(&mut row, id, chunk, &payload, &Stamp::new(UnixMicros(micros), Epoch(epoch)));
        let mut memo = fast::StampMemo::new();
        let Some(Row::Data(data)) = fast::decode(&row, &mut memo) else { panic!("the fast path takes our rows") };
        prop_assert_eq!((data.chunk_index, data.chunk_count), (index, count));
        prop_assert_eq!(data.id.native, Some(id));
        prop_assert_eq!(data.id.text.to_vec(), format!("{id:016x}").into_bytes());
        prop_assert_eq!(data.sent_at, Some(UnixMicros(micros)));
        prop_assert_eq!(data.epoch, Some(Epoch(epoch)));
        prop_assert_eq!(data.payload.decoded_bytes_max(), payload.len());
        let mut decoded = vec![0; payload.len()];
        prop_assert_eq!(data.payload.decode_into(&mut decoded), Ok(payload.len()));
        prop_assert_eq!(decoded, payload);
    }

    #[test]
    fn the_original_understands_our_rows(
        id: u64,
        text in "\\PC{0,100}",
        count in 2u32..4,
        micros in 1_700_000_000_000_000u64..1_900_000_000_000_000,
    ) {
        let mut peer = V1Peer::new();
        let stamp = Stamp::new(UnixMicros(micros), Epoch(1));
        let mut row = vec![0; data_row_bytes(text.len(), None)];
        encode_data(&mut row, id, None, text.as_bytes(), &stamp);
        let event = peer.handle(&row);
        prop_assert_eq!(event.delivered.map(|message| message.text), Some(text.clone()));
        let confirm = event.confirm.unwrap();
        let mut scratch = Scratch::new();
        let Ok(Row::Confirm(confirm)) = decode(&confirm, &mut scratch) else { panic!("a confirm") };
        prop_assert_eq!((confirm.id.native, confirm.chunk_index), (Some(id), 0));
        let mut delivered = None;
        for index in 0..count {
            let place = Some(ChunkPlace { index, count });
            let mut row = vec![0; data_row_bytes(text.len(), place)];
            encode_data(&mut row, id, place, text.as_bytes(), &stamp);
            delivered = peer.handle(&row).delivered;
        }
        prop_assert_eq!(delivered.map(|message| message.text), Some(text.repeat(count as usize)));
        let marked = Confirm::Marked { id, chunk_index: 0, epoch: Epoch(5) };
        let mut row = vec![0; confirm_row_bytes(&marked)];
        encode_confirm(&mut row, &marked);
        prop_assert_eq!(peer.handle(&row).death, None);
    }

    #[test]
    fn confirms_round_trip_and_are_what_python_writes(id in "\\PC{0,40}|[\"a,\r\n]{0,9}", chunk_text in "[0-9 ,\"]{0,6}") {
        let confirm = Confirm::Plain { id: id.as_bytes(), chunk_text: chunk_text.as_bytes() };
        let mut row = vec![0; confirm_row_bytes(&confirm)];
        encode_confirm(&mut row, &confirm);
        let echoed = if chunk_text.is_empty() { "0" } else { &chunk_text };
        let expected = python::csv_write_row(&["1", &id, "", echoed, ""]);
        prop_assert_eq!(std::str::from_utf8(&row).unwrap(), expected);
        let mut scratch = Scratch::new();
        match decode(&row, &mut scratch) {
            Ok(Row::Confirm(confirm)) => prop_assert_eq!(confirm.id.text, id.as_bytes()),
            other => prop_assert_eq!(other, Err(DropReason::BadChunkId)),
        }
    }

    #[test]
    fn both_paths_agree(row in mutated_row(), other in mutated_row()) {
        let (mut scratch, mut general_scratch) = (Scratch::new(), Scratch::new());
        for row in [&row, &other, &row] {
            let fast = decode(row, &mut scratch);
            prop_assert_eq!(fast, decode_general(row, &mut general_scratch));
            if let Ok(Row::Data(data)) = fast {
                let mut out = vec![0; data.payload.decoded_bytes_max()];
                let _ = data.payload.decode_into(&mut out);
            }
        }
    }

    #[test]
    fn anything_may_arrive(row in proptest::collection::vec(tricky_byte(), 0..80)) {
        let _ = meaning(&row);
    }

    #[test]
    fn we_deliver_wherever_the_original_delivers(row in prop_oneof![mutated_row(), proptest::collection::vec(
        proptest::sample::select(b",,,,,,\"\"\"01aGk= \r\n".to_vec()), 0..24)]) {
        let event = V1Peer::new().handle(&row);
        if let Some(message) = event.delivered {
            let Ok(Meaning::Data { payload, place, confirm, .. }) = meaning(&row) else {
                panic!("not delivered: {:?} {:?}", String::from_utf8_lossy(&row), meaning(&row))
            };
            prop_assert_eq!(payload, message.text.as_bytes());
            prop_assert_eq!(place, (0, 1));
            if !row.windows(3).any(|part| part == b",u+") {
                prop_assert_eq!(confirm.as_bytes(), event.confirm.unwrap());
            }
        }
    }

    #[test]
    fn columns_are_split_as_python_does(text in "([,\"ab]|[,\"ab\r\n]){0,24}") {
        let mut scratch = Scratch::new();
        let columns = Columns::split(text.as_bytes(), &mut scratch.bytes).unwrap();
        let ours: Vec<_> = (0..columns::COLUMNS_MAX).map_while(|index| columns.get(index)).collect();
        match python::csv_first_row(&text) {
            None => prop_assert!(ours.is_empty()),
            // Python refuses text behind a lone CR; for us the row ends there.
            Some(Err(error)) => prop_assert_eq!(error, PythonError::Error),
            Some(Ok(mut row)) => {
                row.truncate(columns::COLUMNS_MAX);
                prop_assert_eq!(ours, row.iter().map(String::as_bytes).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn well_formed_columns_are_split_as_the_csv_crate_does(fields in proptest::collection::vec("[a,\"\n ]{0,6}", 2..7)) {
        let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
        writer.write_record(&fields).unwrap();
        let text = writer.into_inner().unwrap();
        let mut scratch = Scratch::new();
        let columns = Columns::split(&text, &mut scratch.bytes).unwrap();
        let ours: Vec<_> = (0..columns::COLUMNS_MAX).map_while(|index| columns.get(index)).collect();
        prop_assert_eq!(ours, fields.iter().map(String::as_bytes).collect::<Vec<_>>());
    }

    #[test]
    fn integers_are_read_as_python_does(text in "[ \t]?[-+]?[0-9_]{0,5}[ x]?|[-+]?[0-9]{15,25}") {
        let clamp = |value: i128| value.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        prop_assert_eq!(text::parse_int(text.as_bytes()), python::int(&text).ok().map(clamp));
    }

    #[test]
    fn base64_is_read_as_python_does(text in "[AQgw+/a9=]{0,12}|[A-Za-z0-9+/]{0,80}={0,3}|[a-c=*\\-\n\0]{0,20}") {
        let base64 = Base64::new(text.as_bytes());
        let mut out = vec![0; base64.decoded_bytes_max()];
        let expected = python::b64decode(&text).map_err(|_| DropReason::BadBase64);
        let decoded = base64.decode_into(&mut out).map(|bytes| out[..bytes].to_vec());
        prop_assert_eq!(&decoded, &expected);
        let mut out = vec![0; base64.decoded_bytes_max()];
        let lenient = base64::decode_lenient(text.as_bytes(), &mut out).map(|bytes| out[..bytes].to_vec());
        prop_assert_eq!(lenient, expected.ok());
    }

    #[test]
    fn hex_is_exactly_what_we_write(value: u64, at in 0usize..16, byte in tricky_byte()) {
        let mut digits = text::hex16(value);
        prop_assert_eq!(digits.to_vec(), format!("{value:016x}").into_bytes());
        prop_assert_eq!(text::parse_hex16(&digits), Some(value));
        digits[at] = byte;
        let valid = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        prop_assert_eq!(text::parse_hex16(&digits).is_some(), valid);
    }
}

#[test]
fn every_hex_and_digit_character_is_judged_right() {
    for byte in 0..=255u8 {
        for at in 0..8 {
            let mut hex = *b"0a1b2c9f";
            hex[at] = byte;
            let expected = std::str::from_utf8(&hex)
                .ok()
                .filter(|text| text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)))
                .map(|text| u32::from_str_radix(text, 16).unwrap());
            assert_eq!(text::parse_hex8(hex), expected);
        }
        for at in (0..17).filter(|&at| at != 10) {
            let mut time = *b"1764123456.123456";
            time[at] = byte;
            assert_eq!(text::parse_timestamp17(&time).is_some(), byte.is_ascii_digit());
        }
    }
}

/// Every text over an alphabet, up to a length.
fn texts(alphabet: &[u8], bytes_max: usize, mut see: impl FnMut(&[u8])) {
    let mut digits = Vec::new();
    let mut text = Vec::new();
    loop {
        text.clear();
        text.extend(digits.iter().map(|&digit: &usize| alphabet[digit]));
        see(&text);
        let mut at = 0;
        while digits.get(at) == Some(&(alphabet.len() - 1)) {
            digits[at] = 0;
            at += 1;
        }
        match digits.get_mut(at) {
            Some(digit) => *digit += 1,
            None if at == bytes_max => return,
            None => digits.push(0),
        }
    }
}

#[test]
fn every_short_number_and_base64_text_is_read_as_python_does() {
    let mut count = 0;
    texts(b" \t+-_019x", 5, |bytes| {
        let text = std::str::from_utf8(bytes).unwrap();
        assert_eq!(text::parse_int(bytes).map(i128::from), python::int(text).ok(), "{text:?}");
        let canonical =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let expected = text.parse().ok().filter(|_| canonical);
        assert_eq!(text::parse_canonical(bytes), expected, "{text:?}");
        count += 1;
    });
    assert_eq!(count, (0..=5).map(|length| 9_u32.pow(length)).sum::<u32>());
    texts(b"AQg/=-\n", 6, |bytes| {
        let text = std::str::from_utf8(bytes).unwrap();
        let base64 = Base64::new(bytes);
        let mut out = vec![0; base64.decoded_bytes_max()];
        let decoded = base64.decode_into(&mut out).map(|bytes| out[..bytes].to_vec());
        assert_eq!(decoded.ok(), python::b64decode(text).ok(), "{text:?}");
    });
}

/// Rows of up to two bytes of any kind, and of up to six of those that mean something.
#[test]
fn every_short_row_is_read_alike_on_both_paths() {
    let (mut scratch, mut general_scratch) = (Scratch::new(), Scratch::new());
    let mut both = |row: &[u8]| {
        let read = decode(row, &mut scratch);
        assert_eq!(read, decode_general(row, &mut general_scratch), "{row:?}");
        // The shortest row of all is a confirm of four columns.
        assert!(read.is_err() || row.len() >= 4);
        assert_eq!(
            read.err() == Some(DropReason::BinaryWire),
            row.first().is_some_and(|&first| first >= 0x80)
        );
        assert_eq!(decode_discovery(row), None);
    };
    for word in 0..=u16::MAX {
        both(&word.to_le_bytes());
        both(&word.to_le_bytes()[..1]);
    }
    texts(b",\"1\nA=", 7, both);
}
