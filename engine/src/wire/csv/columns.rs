//! A row as columns, the way Python's `csv.reader` splits it (its default dialect, not strict).
//!
//! A field that starts with a quote runs to the next single quote, doubled quotes inside stand for one; text after the
//! closing quote belongs to the field, and quotes in it are ordinary. A quote later in a field is ordinary. CR or LF
//! outside quotes ends the row; what follows is ignored. A leading line break makes a row of no columns. The end of the
//! datagram ends a quoted field. Fields that cannot be borrowed from the row are put together in the [`Scratch`].

use super::fast::StampMemo;
use super::run::Gathered;

/// Columns anything ever looks at: 0 to 6.
pub(super) const COLUMNS_MAX: usize = 7;
/// Unescaping never lengthens a field, and no UDP datagram is longer than this.
const SCRATCH_BYTES: usize = 64 * 1024;

/// What decoding keeps between rows: room for fields that had to be unescaped and for runs, and the last stamp it read.
/// Allocated once, used again for every row; no answer depends on what it holds.
#[derive(Debug)]
pub struct Scratch {
    pub(super) memo: StampMemo,
    pub(super) bytes: Box<[u8]>,
    pub(super) gathered: Gathered,
}

impl Scratch {
    /// Allocates 64 KiB, enough for every datagram, and 19 KiB for runs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            memo: StampMemo::new(),
            bytes: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            gathered: Gathered::new(),
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// The first columns of a row.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    fields: [&'a [u8]; COLUMNS_MAX],
    count: usize,
    /// The row ended inside a quoted field.
    pub(super) unterminated: bool,
}

/// What ended a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Comma,
    Row,
    InsideQuotes,
}

impl<'a> Columns<'a> {
    /// Splits `row`; `None` if it holds more escaped text than any datagram can.
    pub(super) fn split(row: &'a [u8], scratch: &'a mut [u8]) -> Option<Self> {
        let mut columns = Self { fields: [&[]; COLUMNS_MAX], count: 0, unterminated: false };
        if matches!(row, [] | [b'\r' | b'\n', ..]) {
            return Some(columns);
        }
        let mut splitter = Splitter { rest: row, spare: scratch };
        for field in &mut columns.fields {
            let (text, end) = splitter.next_field()?;
            *field = text;
            columns.count += 1;
            if end != End::Comma {
                columns.unterminated = end == End::InsideQuotes;
                break;
            }
        }
        Some(columns)
    }

    /// The column's text, `None` if the row has no such column.
    pub(super) fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.fields.get(..self.count)?.get(index).copied()
    }
}

struct Splitter<'a> {
    rest: &'a [u8],
    spare: &'a mut [u8],
}

impl<'a> Splitter<'a> {
    fn next_field(&mut self) -> Option<(&'a [u8], End)> {
        match self.rest {
            [b'"', quoted @ ..] => self.quoted_field(quoted),
            _ => Some(self.plain_field()),
        }
    }

    fn plain_field(&mut self) -> (&'a [u8], End) {
        let end =
            self.rest.iter().position(|&c| matches!(c, b',' | b'\r' | b'\n')).unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        (field, self.end_field(rest))
    }

    /// `quoted` starts behind the opening quote.
    fn quoted_field(&mut self, quoted: &'a [u8]) -> Option<(&'a [u8], End)> {
        let Some(close) = quoted.iter().position(|&c| c == b'"') else {
            self.rest = &[];
            return Some((quoted, End::InsideQuotes));
        };
        let (field, rest) = quoted.split_at_checked(close)?;
        match rest {
            [_] | [_, b',' | b'\r' | b'\n', ..] => {
                let rest = rest.get(1..)?;
                Some((field, self.end_field(rest)))
            }
            _ => self.escaped_field(quoted),
        }
    }

    /// A quoted field with a doubled quote or with text behind its closing quote: copied without them.
    fn escaped_field(&mut self, quoted: &'a [u8]) -> Option<(&'a [u8], End)> {
        let mut rest = quoted;
        let mut field_bytes = 0;
        let mut inside_quotes = true;
        let end = loop {
            let (character, skipped) = match (rest, inside_quotes) {
                ([], true) => break End::InsideQuotes,
                ([b'"', b'"', ..], true) => (b'"', 2),
                ([b'"', ..], true) => {
                    inside_quotes = false;
                    rest = rest.get(1..)?;
                    continue;
                }
                ([] | [b',' | b'\r' | b'\n', ..], false) => break End::Comma,
                (&[character, ..], _) => (character, 1),
            };
            *self.spare.get_mut(field_bytes)? = character;
            field_bytes += 1;
            rest = rest.get(skipped..)?;
        };
        let (field, spare) = std::mem::take(&mut self.spare).split_at_mut_checked(field_bytes)?;
        self.spare = spare;
        let end = if end == End::InsideQuotes { end } else { self.end_field(rest) };
        Some((field, end))
    }

    /// `rest` starts with whatever ended the field.
    fn end_field(&mut self, rest: &'a [u8]) -> End {
        match rest {
            [b',', next @ ..] => {
                self.rest = next;
                End::Comma
            }
            _ => {
                self.rest = &[];
                End::Row
            }
        }
    }
}
