//! What Python does with text: `csv.reader`, `csv.writer`, `int` and `base64.b64decode`, as far as the original toolkit
//! uses them.
//!
//! Naive on purpose, one character at a time and with allocation: the v1 model peer is made of it, and the wire's own
//! parsers are tested against it. ASCII spellings only (Python also knows other scripts' digits and spaces).

/// The exceptions that end the original's receive loop, by Python's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PythonError {
    /// `int("x")`, or `list.index` of something that is not there.
    ValueError,
    /// A column that the row does not have.
    IndexError,
    /// `binascii.Error` and `csv.Error`, which have the same name.
    Error,
    /// Bytes that are not UTF-8.
    UnicodeDecodeError,
    /// A coroutine that raised `StopIteration`: a datagram without a row.
    RuntimeError,
}

impl PythonError {
    /// The exception's class name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ValueError => "ValueError",
            Self::IndexError => "IndexError",
            Self::Error => "Error",
            Self::UnicodeDecodeError => "UnicodeDecodeError",
            Self::RuntimeError => "RuntimeError",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    QuoteInQuoted,
    /// A CR ended the row: nothing but more line breaks may stand on its line.
    AfterCr,
}

/// `next(csv.reader(io.StringIO(text)))`. `None` if there is no row at all.
pub fn csv_first_row(text: &str) -> Option<Result<Vec<String>, PythonError>> {
    if text.is_empty() {
        return None;
    }
    let mut row = Vec::new();
    let mut field = String::new();
    let mut state = State::FieldStart;
    // A line break at the very start makes a row of no columns.
    let blank = text.starts_with(['\r', '\n']);
    for character in text.chars() {
        state = match (state, character) {
            (State::AfterCr, '\n') => return Some(Ok(row)),
            (State::AfterCr, '\r') => State::AfterCr,
            (State::AfterCr, _) => return Some(Err(PythonError::Error)),
            (State::Quoted, '"') => State::QuoteInQuoted,
            (State::Quoted, _) => {
                field.push(character);
                State::Quoted
            }
            (State::QuoteInQuoted, '"') => {
                field.push('"');
                State::Quoted
            }
            (State::FieldStart, '"') => State::Quoted,
            (_, ',') => {
                row.push(std::mem::take(&mut field));
                State::FieldStart
            }
            (_, '\r' | '\n') => {
                if !blank {
                    row.push(std::mem::take(&mut field));
                }
                if character == '\n' {
                    return Some(Ok(row));
                }
                State::AfterCr
            }
            (_, _) => {
                field.push(character);
                State::Unquoted
            }
        };
    }
    if state != State::AfterCr {
        row.push(field);
    }
    Some(Ok(row))
}

/// One row of `csv.writer`, without its line break.
#[must_use]
pub fn csv_write_row(fields: &[&str]) -> String {
    let quote = |field: &&str| {
        if field.contains([',', '"', '\r', '\n']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            (*field).to_owned()
        }
    };
    fields.iter().map(quote).collect::<Vec<_>>().join(",")
}

/// `int(text)`; values beyond an `i128` become its nearest end.
pub fn int(text: &str) -> Result<i128, PythonError> {
    let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let misplaced = digits.is_empty()
        || digits.starts_with('_')
        || digits.ends_with('_')
        || digits.contains("__")
        || !digits.chars().all(|c| c == '_' || c.is_ascii_digit());
    if misplaced {
        return Err(PythonError::ValueError);
    }
    let negative = text.starts_with('-');
    let end = if negative { i128::MIN } else { i128::MAX };
    let digits = digits.replace('_', "");
    let signed = if negative { format!("-{digits}") } else { digits };
    Ok(signed.parse().unwrap_or(end))
}

/// `base64.b64decode(text)`: CPython's `binascii.a2b_base64`, not strict, transcribed state by state.
pub fn b64decode(text: &str) -> Result<Vec<u8>, PythonError> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut decoded = Vec::new();
    let (mut left_character, mut quad_position, mut pads) = (0u32, 0, 0);
    for character in text.chars() {
        if character == '=' {
            if quad_position >= 2 {
                pads += 1;
                if quad_position + pads >= 4 {
                    return Ok(decoded);
                }
            }
            continue;
        }
        let Some(value) = ALPHABET.find(character) else { continue };
        let value = value as u32;
        pads = 0;
        match quad_position {
            0 => left_character = value,
            1 => {
                decoded.push((left_character << 2 | value >> 4) as u8);
                left_character = value & 0x0f;
            }
            2 => {
                decoded.push((left_character << 4 | value >> 2) as u8);
                left_character = value & 0x03;
            }
            _ => decoded.push((left_character << 6 | value) as u8),
        }
        quad_position = (quad_position + 1) % 4;
    }
    if quad_position == 0 { Ok(decoded) } else { Err(PythonError::Error) }
}

/// `base64.b64encode(bytes).decode()`.
#[must_use]
pub fn b64encode(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_split_as_cpython_3_11_does() {
        let row = |text| csv_first_row(text).unwrap().unwrap();
        assert_eq!(row("\"a\"b,c"), ["ab", "c"]);
        assert_eq!(row("a\"b,\"c\"d\"e,f"), ["a\"b", "cd\"e", "f"]);
        assert_eq!(row("a\0b,\"x\ny\""), ["a\0b", "x\ny"]);
        assert_eq!(row("\"abc"), ["abc"]);
        assert_eq!(row("\"a\"\"b\"\"\""), ["a\"b\""]);
        assert_eq!(row("a\nb"), ["a"]);
        assert_eq!(row("a,\r\nb"), ["a", ""]);
        assert!(row("\n").is_empty() && row("\r\nabc").is_empty());
        assert_eq!(csv_first_row("a\rb"), Some(Err(PythonError::Error)));
        assert_eq!(csv_first_row(""), None);
    }

    #[test]
    fn integers_read_as_cpython_3_11_does() {
        for (text, value) in [(" 1 ", 1), ("1_0", 10), ("-0", 0), ("\t+7\r\n", 7), ("007", 7), ("-3", -3)] {
            assert_eq!(int(text), Ok(value), "{text:?}");
        }
        for text in ["", "+", "_1", "1_", "1__0", "+ 1", "--1", "0x1", "1.0", "1\0", "\x1f1"] {
            assert_eq!(int(text), Err(PythonError::ValueError), "{text:?}");
        }
        assert_eq!(int(&"9".repeat(60)), Ok(i128::MAX));
        assert_eq!(int(&format!("-{}", "9".repeat(60))), Ok(i128::MIN));
    }
}
