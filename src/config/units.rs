//! Durations and sizes as the file writes them: a whole number and a unit, such as `"20s"` and `"64KiB"`.

use core::time::Duration;

/// What is wrong with a quantity, and what to write instead where that can be guessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QuantityError {
    /// The text that was most likely meant.
    pub(super) suggestion: Option<String>,
}

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// What people write for a unit of ours. The decimal sizes are refused rather than guessed at: nobody who
/// writes `64KB` for a buffer is likely to mean 64,000.
const ALIASES: [(&str, &str); 22] = [
    ("msec", "ms"),
    ("millis", "ms"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hr", "h"),
    ("hour", "h"),
    ("hours", "h"),
    ("byte", "B"),
    ("bytes", "B"),
    ("k", "KiB"),
    ("kb", "KiB"),
    ("mb", "MiB"),
    ("mib", "MiB"),
    ("g", "GiB"),
    ("gb", "GiB"),
    ("gib", "GiB"),
];

/// Parses a duration: `ms`, `s`, `m` or `h`.
///
/// # Errors
///
/// Anything but a whole number directly followed by one of the units.
pub(super) fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// A number of seconds as a duration, to the millisecond, which is what [`format_duration`] can write; nothing for
/// one below zero or without end.
pub(super) fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64((number * 1000.0).round() / 1000.0).ok()
}

/// Parses a size in bytes: `B`, `KiB`, `MiB` or `GiB`, each 1024 times the one before.
///
/// # Errors
///
/// Anything but a whole number directly followed by one of the units.
pub(super) fn parse_size(text: &str) -> Result<u64, QuantityError> {
    parse(text, &SIZE_UNITS)
}

/// The shortest text that [`parse_duration`] reads as this duration, to the millisecond.
pub(super) fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS, "s")
}

/// The shortest text that [`parse_size`] reads as this many bytes.
pub(super) fn format_size(bytes: u64) -> String {
    format(bytes, &SIZE_UNITS, "B")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, QuantityError> {
    let (digits, unit) = split(text);
    let factor = units.iter().find(|(name, _)| *name == unit).map(|&(_, factor)| factor);
    match (digits.parse::<u64>().ok(), factor) {
        (Some(number), Some(factor)) => number.checked_mul(factor).ok_or(QuantityError { suggestion: None }),
        _ => Err(QuantityError { suggestion: suggest(text, units) }),
    }
}

fn suggest(text: &str, units: &[(&str, u64)]) -> Option<String> {
    let (digits, unit) = split(text.trim());
    let number = digits.parse::<u64>().ok()?;
    let unit = unit.trim().to_lowercase();
    let known =
        |name: &str| units.iter().map(|&(name, _)| name).find(|known| known.eq_ignore_ascii_case(name));
    let alias = ALIASES.iter().filter(|(alias, _)| *alias == unit).find_map(|(_, name)| known(name));
    alias.or_else(|| known(&unit)).map(|unit| format!("{number}{unit}"))
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn format(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    if number == 0 {
        return format!("0{zero}");
    }
    let fits = units.iter().rev().find(|(_, factor)| number.is_multiple_of(*factor));
    fits.map_or_else(|| number.to_string(), |(unit, factor)| format!("{}{unit}", number / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_a_whole_number_and_a_unit() {
        let cases = [
            // text, milliseconds or what is suggested
            ("20s", Ok(20_000)),
            ("500ms", Ok(500)),
            ("2m", Ok(120_000)),
            ("1h", Ok(3_600_000)),
            ("0s", Ok(0)),
            ("20 s", Err(Some("20s"))),
            (" 20S ", Err(Some("20s"))),
            ("20sec", Err(Some("20s"))),
            ("5 minutes", Err(Some("5m"))),
            ("20", Err(None)),
            ("1.5s", Err(None)),
            ("-1s", Err(None)),
            ("", Err(None)),
            ("s", Err(None)),
            ("é", Err(None)),
            ("99999999999999999999s", Err(None)),
            ("9999999999999999999h", Err(None)),
        ];
        for (text, wanted) in cases {
            let parsed = parse_duration(text).map(|duration| duration.as_millis());
            let wanted = wanted.map_err(|suggestion: Option<&str>| QuantityError {
                suggestion: suggestion.map(str::to_owned),
            });
            assert_eq!(parsed, wanted, "{text:?}");
        }
    }

    #[test]
    fn a_number_of_seconds_counts_to_the_millisecond() {
        let cases = [
            (2.0, Some(2000)),
            (2.0004, Some(2000)),
            (2.0006, Some(2001)),
            (0.1, Some(100)),
            (4.001, Some(4001)),
            (-0.0001, Some(0)),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ];
        for (number, millis) in cases {
            assert_eq!(seconds(number), millis.map(Duration::from_millis), "{number}");
        }
    }

    #[test]
    fn a_size_counts_in_1024s_and_other_units_are_only_suggested_from() {
        let cases = [
            ("512B", Ok(512)),
            ("64KiB", Ok(65_536)),
            ("1MiB", Ok(1_048_576)),
            ("1GiB", Ok(1_073_741_824)),
            ("64KB", Err(Some("64KiB"))),
            ("64k", Err(Some("64KiB"))),
            ("64kib", Err(Some("64KiB"))),
            ("1 MB", Err(Some("1MiB"))),
            ("1m", Err(None)),
            ("9999999999999999GiB", Err(None)),
        ];
        for (text, wanted) in cases {
            let wanted = wanted.map_err(|suggestion: Option<&str>| QuantityError {
                suggestion: suggestion.map(str::to_owned),
            });
            assert_eq!(parse_size(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_quantity_is_written_with_the_largest_unit_that_divides_it() {
        for text in ["0s", "1ms", "500ms", "20s", "90s", "2m", "1h", "25h"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["0B", "1B", "1000B", "64KiB", "1025KiB", "1MiB", "2GiB"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
        assert_eq!(format_duration(Duration::from_mins(2)), "2m");
    }
}
