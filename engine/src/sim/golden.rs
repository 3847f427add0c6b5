//! Reads `tests/data/v1_golden.csv`, what the original does with 68 sequences of datagrams. Tests only.

/// One line of the file.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) datagrams: Vec<Vec<u8>>,
    /// Texts, joined with ` | `; long ones as in [`shorthand`].
    pub(crate) delivered: String,
    pub(crate) delivered_count: usize,
    /// Joined with ` | `.
    pub(crate) timestamps: String,
    pub(crate) confirms: Vec<Vec<u8>>,
    pub(crate) survival: Survival,
    pub(crate) partial_count: usize,
}

/// What became of the receiver.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    Lives,
    /// The name of the exception.
    Dies(String),
}

/// Every case of the file.
pub(crate) fn cases() -> Vec<Case> {
    let text = include_str!("../../tests/data/v1_golden.csv");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            let column = |index: usize| record.get(index).unwrap();
            Case {
                name: column(0).to_owned(),
                datagrams: column(1).split(" | ").map(unescape).collect(),
                delivered: column(2).to_owned(),
                delivered_count: column(3).parse().unwrap(),
                timestamps: column(4).to_owned(),
                confirms: column(5)
                    .split(" | ")
                    .filter(|row| !row.is_empty())
                    .map(|row| row.as_bytes().to_vec())
                    .collect(),
                survival: match column(6).strip_prefix("dies: ") {
                    None => Survival::Lives,
                    Some(error) => Survival::Dies(error.to_owned()),
                },
                partial_count: column(7).parse().unwrap(),
            }
        })
        .collect()
}

/// How the file writes a delivered text: from 100 characters on only the start and the length.
pub(crate) fn shorthand(text: &str) -> String {
    match text.len() {
        0..100 => text.to_owned(),
        length => format!("{}...({length} characters)", &text[..3]),
    }
}

/// `\r`, `\n` and `\xNN` stand for bytes.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = match &rest[at + 1..at + 2] {
            "x" => {
                bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
                &rest[at + 4..]
            }
            letter => {
                bytes.push(if letter == "r" { b'\r' } else { b'\n' });
                &rest[at + 2..]
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
