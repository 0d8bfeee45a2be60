//! Durations on the command line: a whole number and a unit, several in a row if need be (`24h`, `20ms`, `1h30m`).

use std::str::FromStr;
use std::time::Duration;

/// A duration above zero and up to ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// Longest duration taken: more is a typing mistake, and less than this never overflows a time.
const MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpanError {
    Form,
    Unit,
    Zero,
    TooLong,
}

impl std::fmt::Display for SpanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Form => "a duration is a number and a unit, such as 20ms, 1s, 5m, 24h or 7d",
            Self::Unit => "the units are us, ms, s, m, h and d",
            Self::Zero => "a duration must be above zero",
            Self::TooLong => "a duration of more than ten years is surely a mistake",
        })
    }
}

impl std::error::Error for SpanError {}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() || text.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError::Form)?;
            let (number, tail) = rest.split_at(digits);
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            if number.is_empty() {
                return Err(SpanError::Form);
            }
            let number: u64 = number.parse().map_err(|_| SpanError::TooLong)?;
            let micros: u64 = match unit {
                "us" | "µs" => 1,
                "ms" => 1000,
                "s" => 1_000_000,
                "m" => 60_000_000,
                "h" => 3_600_000_000,
                "d" => 86_400_000_000,
                _ => return Err(SpanError::Unit),
            };
            let part = number.checked_mul(micros).map(Duration::from_micros).ok_or(SpanError::TooLong)?;
            total = total.checked_add(part).filter(|total| *total <= MAX).ok_or(SpanError::TooLong)?;
            rest = tail;
        }
        if total.is_zero() { Err(SpanError::Zero) } else { Ok(Self(total)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read() {
        for (text, micros) in [
            ("24h", 86_400_000_000),
            ("20ms", 20_000),
            ("1s", 1_000_000),
            ("5m", 300_000_000),
            ("7d", 604_800_000_000),
            ("500us", 500),
            ("1h30m", 5_400_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_micros(micros))), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, error) in [
            ("", SpanError::Form),
            ("5", SpanError::Form),
            ("s", SpanError::Form),
            ("-5s", SpanError::Form),
            ("1.5s", SpanError::Unit),
            ("5 s", SpanError::Unit),
            ("5x", SpanError::Unit),
            ("5S", SpanError::Unit),
            ("0s", SpanError::Zero),
            ("4000d", SpanError::TooLong),
            ("99999999999999999999s", SpanError::TooLong),
        ] {
            assert_eq!(text.parse::<Span>(), Err(error), "{text}");
        }
    }
}
