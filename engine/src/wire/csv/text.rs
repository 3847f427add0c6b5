//! Numbers as text: fixed-width hex and timestamps eight characters at a time, and what Python's `int` accepts.
//!
//! The fixed-width readers accept exactly what the writers produce, nothing else.

use crate::units::UnixMicros;

/// A timestamp as our rows carry it: `1764123456.123456`.
pub type Timestamp17 = [u8; 17];

/// A 1 in every byte: `ONES * c` is eight times the character `c`.
const ONES: u64 = 0x0101_0101_0101_0101;
const LOW_NIBBLES: u64 = ONES * 0x0f;
const HIGH_BITS: u64 = ONES * 0x80;
/// Largest time 17 characters can hold: ten digits of seconds, until the year 2286.
const TIMESTAMP_MICROS_MAX: u64 = 9_999_999_999_999_999;

/// Eight lower-case hex digits, most significant first.
#[inline]
#[must_use]
pub const fn hex8(value: u32) -> [u8; 8] {
    // Spread the nibbles, one per byte: halves, quarters, eighths.
    let mut spread = value as u64;
    spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | spread << 4) & LOW_NIBBLES;
    // A nibble of 10 or more carries into bit 4 when 6 is added; those become letters.
    let letters = ((spread + ONES * 6) >> 4) & ONES;
    (spread + ONES * b'0' as u64 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

/// Sixteen lower-case hex digits, most significant first.
#[inline]
#[must_use]
pub fn hex16(value: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let (high, low) = digits.split_at_mut(8);
    high.copy_from_slice(&hex8((value >> 32) as u32));
    low.copy_from_slice(&hex8((value & 0xffff_ffff) as u32));
    digits
}

/// Reads what [`hex8`] writes.
#[inline(always)]
pub(super) fn parse_hex8(digits: [u8; 8]) -> Option<u32> {
    let (value, bad) = hex8_value(digits);
    (bad == 0).then_some(value)
}

/// Reads what [`hex16`] writes.
#[inline(always)]
pub(super) fn parse_hex16(digits: &[u8; 16]) -> Option<u64> {
    let (high, rest) = digits.split_first_chunk::<8>()?;
    let (low, _) = rest.split_first_chunk::<8>()?;
    let (high, high_bad) = hex8_value(*high);
    let (low, low_bad) = hex8_value(*low);
    (high_bad | low_bad == 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Six hex digits and whatever follows them, if they are as [`hex16`] writes them; otherwise any number.
#[inline(always)]
#[must_use]
pub fn guess_hex6(text: [u8; 8]) -> u32 {
    hex8_value(text).0 >> 8
}

/// Some value, and zero if the text is a lower-case hex number: without a branch, so that several can be read at once.
#[inline(always)]
fn hex8_value(digits: [u8; 8]) -> (u32, u64) {
    let text = u64::from_be_bytes(digits);
    // Digits are 0x30 + n, letters 0x60 + n with bit 6 set. No sum below carries from one byte into the next.
    let letters = (text >> 6) & ONES;
    let low = text & LOW_NIBBLES;
    let spread = low + letters * 9;
    let rewritten = low + ONES * 0x30 + letters * 0x30;
    let is_ten_or_more = ((spread + ONES * 6) >> 4) & ONES;
    let bad = (text ^ rewritten) | (is_ten_or_more ^ letters) | (spread & (ONES * 0x10));
    let mut nibbles = (spread | spread >> 4) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles >> 8) & 0x0000_ffff_0000_ffff;
    (((nibbles | nibbles >> 16) & 0xffff_ffff) as u32, bad)
}

/// `seconds.microseconds` in 17 characters. Times after the year 2286 are shown as the last one that fits.
#[must_use]
pub fn format_timestamp(time: UnixMicros) -> Timestamp17 {
    let mut rest = time.0.min(TIMESTAMP_MICROS_MAX);
    let mut text = *b"0000000000.000000";
    for (at, character) in text.iter_mut().enumerate().rev() {
        if at != 10 {
            *character = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    text
}

/// Reads what [`format_timestamp`] writes.
#[inline(always)]
pub(super) fn parse_timestamp17(text: &Timestamp17) -> Option<UnixMicros> {
    let (first8, rest) = text.split_first_chunk::<8>()?;
    let (_, last8) = text.split_last_chunk::<8>()?;
    let [digit8, digit9, dot, ..] = rest else { return None };
    if *dot != b'.' {
        return None;
    }
    // The last eight characters are `9.cccccc`; digit 8 takes the place of digit 9, and that the place of the point.
    let last8 = u64::from_le_bytes(*last8) & !0xffff | u64::from(*digit8) | u64::from(*digit9) << 8;
    let high = parse_digits8(u64::from_le_bytes(*first8))?;
    Some(UnixMicros(high * 100_000_000 + parse_digits8(last8)?))
}

/// The value of eight decimal digits, the first one in the lowest byte.
#[inline(always)]
fn parse_digits8(text: u64) -> Option<u64> {
    let digits = text ^ (ONES * b'0' as u64);
    // Adding 0x76 sets the high bit of every byte from 10 on; a byte that has it already is no digit either.
    if (digits.wrapping_add(ONES * 0x76) | digits) & HIGH_BITS != 0 {
        return None;
    }
    let pairs = digits * 10 + (digits >> 8);
    let even = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let odd = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    Some(even.wrapping_add(odd) >> 32)
}

/// A whole number the way Python's `int` reads ASCII text: white space around it, a sign, `_` between digits. Values
/// beyond an `i64` become its nearest end.
pub(super) fn parse_int(text: &[u8]) -> Option<i64> {
    let text = trim(text);
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let mut value = 0i64;
    let mut after_digit = false;
    for &character in digits {
        match character {
            b'0'..=b'9' => {
                let digit = i64::from(character - b'0');
                let digit = if negative { -digit } else { digit };
                value = value.saturating_mul(10).saturating_add(digit);
                after_digit = true;
            }
            b'_' if after_digit => after_digit = false,
            _ => return None,
        }
    }
    after_digit.then_some(value)
}

/// A chunk id in the only spelling that a message of several chunks can use: no sign, no leading zero. Values beyond a
/// `u32` become its largest.
pub(super) fn parse_canonical(text: &[u8]) -> Option<u32> {
    if matches!(text, [] | [b'0', _, ..]) {
        return None;
    }
    text.iter().try_fold(0u32, |value, character| {
        let digit = character.wrapping_sub(b'0');
        (digit <= 9).then(|| value.saturating_mul(10).saturating_add(u32::from(digit)))
    })
}

/// A time the way Python's `float` reads the ordinary spellings of one; digits below a microsecond are dropped.
pub(super) fn parse_time(text: &[u8]) -> Option<UnixMicros> {
    let text = trim(text);
    let unsigned = text.strip_prefix(b"+").unwrap_or(text);
    parse_decimal_time(unsigned).or_else(|| parse_float_time(text))
}

/// `digits`, `digits.`, `.digits` or `digits.digits`, exactly.
fn parse_decimal_time(text: &[u8]) -> Option<UnixMicros> {
    let mut micros = 0u64;
    let mut digits_seen = false;
    let mut fraction_digits = None;
    for &character in text {
        match (character, fraction_digits) {
            (b'0'..=b'9', Some(6..)) => {}
            (b'0'..=b'9', _) => {
                micros = micros.checked_mul(10)?.checked_add(u64::from(character - b'0'))?;
                fraction_digits = fraction_digits.map(|count| count + 1);
            }
            (b'.', None) => fraction_digits = Some(0),
            _ => return None,
        }
        digits_seen |= character != b'.';
    }
    let scale = 10u64.pow(6 - fraction_digits.unwrap_or(0));
    if digits_seen { micros.checked_mul(scale).map(UnixMicros) } else { None }
}

/// Spellings with an exponent. Times before 1970 and after all time are none.
fn parse_float_time(text: &[u8]) -> Option<UnixMicros> {
    let seconds: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let micros = seconds * 1e6;
    (micros >= 0.0 && micros < u64::MAX as f64).then_some(UnixMicros(micros as u64))
}

/// Without the white space around it, as C's `isspace` defines it.
fn trim(mut text: &[u8]) -> &[u8] {
    const fn is_space(character: u8) -> bool {
        matches!(character, b' ' | b'\t'..=b'\r')
    }
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}
