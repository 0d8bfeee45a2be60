//! When a rule holds: weekdays and hours, in UTC.

use meshara_identity::UnixMillis;
use serde::{Deserialize, Serialize};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Why days or hours make no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// Not a weekday, twice the same, or none.
    #[error("days are a list of mon, tue, wed, thu, fri, sat, sun, each once; found {0:?}")]
    BadDay(String),
    /// Not `HH:MM-HH:MM`.
    #[error("hours read HH:MM-HH:MM in UTC (24:00 is the end of the day), found {0:?}")]
    BadHours(String),
    /// Beginning and end are the same.
    #[error("hours that begin and end at the same time are none; leave them out for the whole day")]
    NoHours,
}

/// Weekdays and hours in UTC. Hours past midnight belong to the day on which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u16, u16)", into = "(u8, u16, u16)")]
pub struct Window {
    /// Bit 0 is Monday.
    days: u8,
    /// First minute of the day.
    start: u16,
    /// Minute after the last; not after `start` when the window crosses midnight.
    end: u16,
}

impl TryFrom<(u8, u16, u16)> for Window {
    type Error = WindowError;

    fn try_from((days, start, end): (u8, u16, u16)) -> Result<Self, WindowError> {
        if days == 0 || days > 0x7f {
            return Err(WindowError::BadDay(String::new()));
        }
        if start >= DAY || end > DAY || end == 0 {
            return Err(WindowError::BadHours(String::new()));
        }
        if start == end { Err(WindowError::NoHours) } else { Ok(Self { days, start, end }) }
    }
}

impl From<Window> for (u8, u16, u16) {
    fn from(window: Window) -> Self {
        (window.days, window.start, window.end)
    }
}

impl Window {
    /// From the words of a policy file; what is left out is all days, or the whole day.
    pub fn parse(days: Option<&[String]>, hours: Option<&str>) -> Result<Self, WindowError> {
        let mut mask = if days.is_some() { 0 } else { 0x7f };
        for day in days.unwrap_or_default() {
            let bit = DAYS.iter().position(|known| known == day).map(|at| 1u8 << at);
            let bit = bit.filter(|bit| mask & bit == 0).ok_or_else(|| WindowError::BadDay(day.clone()))?;
            mask |= bit;
        }
        let (start, end) = match hours {
            None => (0, DAY),
            Some(text) => hours_of(text).ok_or_else(|| WindowError::BadHours(text.to_owned()))?,
        };
        // The end of a window across midnight is never 00:00: that is 24:00.
        let window = Self::try_from((mask, start, if end == 0 { DAY } else { end }));
        match (window, hours) {
            (Err(WindowError::BadHours(_)), Some(text)) => Err(WindowError::BadHours(text.to_owned())),
            (window, _) => window,
        }
    }

    /// Its days, if it hasn't all, and its hours as `HH:MM-HH:MM`, if it hasn't all: what [`parse`](Self::parse) reads.
    pub fn words(&self) -> (Option<Vec<&'static str>>, Option<String>) {
        let on = |at: &usize| (self.days >> at) & 1 == 1;
        let days = DAYS.iter().enumerate().filter(|(at, _)| on(at)).map(|(_, day)| *day);
        let days = (self.days != 0x7f).then(|| days.collect());
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let hours = (self.start, self.end) != (0, DAY);
        (days, hours.then(|| format!("{}-{}", time(self.start), time(self.end))))
    }

    /// Whether `now` is within it.
    pub fn contains(&self, now: UnixMillis) -> bool {
        let minutes = now.seconds() / 60;
        let day = minutes / u64::from(DAY);
        let minute = minutes % u64::from(DAY);
        // 1970-01-01 was a Thursday.
        let on = |day: u64| (self.days >> ((day + 3) % 7)) & 1 == 1;
        let (start, end) = (u64::from(self.start), u64::from(self.end));
        if start < end {
            on(day) && (start..end).contains(&minute)
        } else {
            // Yesterday's weekday is six days later in the week's circle.
            (on(day) && minute >= start) || (on(day + 6) && minute < end)
        }
    }
}

fn hours_of(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-')?;
    Some((minute_of(start)?, minute_of(end)?))
}

/// Minute of the day of `HH:MM`.
fn minute_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| {
        let good = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-16 was a Monday.
    const MONDAY: u64 = 1_794_787_200_000;

    fn at(day: u64, hour: u64, minute: u64) -> UnixMillis {
        UnixMillis(MONDAY + ((day * 24 + hour) * 60 + minute) * 60_000)
    }

    #[test]
    fn windows() {
        assert_eq!(at(0, 0, 0).to_string(), "2026-11-16 00:00:00 UTC");
        let days = |list: &[&str]| list.iter().map(|day| (*day).to_owned()).collect::<Vec<_>>();
        let work = Window::parse(Some(&days(&["mon", "fri"])), Some("08:00-18:00")).unwrap();
        assert!(work.contains(at(0, 8, 0)) && work.contains(at(0, 17, 59)) && work.contains(at(4, 12, 0)));
        assert!(!work.contains(at(0, 7, 59)) && !work.contains(at(0, 18, 0)) && !work.contains(at(1, 12, 0)));
        // Friday's night goes on until Saturday morning; Thursday's doesn't reach Friday morning.
        let night = Window::parse(Some(&days(&["fri"])), Some("22:00-06:00")).unwrap();
        assert!(night.contains(at(4, 22, 0)) && night.contains(at(5, 5, 59)));
        assert!(
            !night.contains(at(4, 5, 0)) && !night.contains(at(5, 6, 0)) && !night.contains(at(5, 22, 0))
        );
        let sunday = Window::parse(Some(&days(&["sun"])), Some("23:00-01:00")).unwrap();
        assert!(
            sunday.contains(at(7, 0, 30)) && sunday.contains(at(6, 23, 0)) && !sunday.contains(at(6, 0, 30))
        );
        let evening = Window::parse(None, Some("18:00-00:00")).unwrap();
        assert_eq!(evening, Window::parse(None, Some("18:00-24:00")).unwrap());
        assert!(evening.contains(at(3, 23, 59)) && !evening.contains(at(3, 0, 0)));
        assert_eq!(Window::parse(None, Some("08:00-08:00")), Err(WindowError::NoHours));
        for bad in
            ["8-18", "08:00", "08:60-09:00", "24:00-25:00", "08:00 - 18:00", "+8:00-18:00", "24:00-06:00"]
        {
            let error = Window::parse(None, Some(bad)).unwrap_err();
            assert!(matches!(error, WindowError::BadHours(_)), "{bad}");
        }
        for bad in [&["Mon"][..], &["mon", "mon"], &[]] {
            let error = Window::parse(Some(&days(bad)), None).unwrap_err();
            assert!(matches!(error, WindowError::BadDay(_)), "{bad:?}");
        }
    }
}
