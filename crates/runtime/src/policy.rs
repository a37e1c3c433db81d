//! When a provider takes work: slots, reserved share, availability windows, draining (RG-5, RG-6, RG-7). Functions of their input.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use stoa_types::Timestamp;

const DAY: u16 = 24 * 60;
const WEEK: u16 = 7 * DAY;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Weekday {
    const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Monday => "mon",
            Self::Tuesday => "tue",
            Self::Wednesday => "wed",
            Self::Thursday => "thu",
            Self::Friday => "fri",
            Self::Saturday => "sat",
            Self::Sunday => "sun",
        }
    }
}

/// A moment of the provider's local week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Day.
    pub weekday: Weekday,
    /// Minute of the day, 0 to 1,439.
    pub minute: u16,
}

impl LocalTime {
    /// From a time and the offset of local time from UTC in minutes.
    pub fn at(now: Timestamp, utc_offset_minutes: i32) -> Self {
        let minutes = i128::from(now.secs() / 60) + i128::from(utc_offset_minutes);
        let day = minutes.div_euclid(i128::from(DAY));
        let minute = minutes.rem_euclid(i128::from(DAY));
        // 1970-01-01 was a Thursday.
        let weekday = (day + Weekday::Thursday as i128).rem_euclid(7);
        Self {
            weekday: Weekday::ALL[weekday as usize],
            minute: minute as u16,
        }
    }

    fn minute_of_week(self) -> u16 {
        self.weekday as u16 * DAY + self.minute
    }
}

/// Days and hours in which a provider takes work, written `mon-fri 22:00-06:00`. A window that ends before it begins reaches into
/// the next day; one that ends where it begins is the whole day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    first: Weekday,
    last: Weekday,
    from: u16,
    to: u16,
}

/// A text that is no part of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not a window.
    #[error(
        "`{0}` is not an availability window: write for example `mon-fri 22:00-06:00` or `sat 00:00-24:00`"
    )]
    Window(String),
    /// A share above the whole.
    #[error("a reserved share of {0} percent is not possible: write 0 to 100")]
    Share(u8),
}

impl Window {
    /// Whether the moment lies within.
    pub fn contains(&self, time: LocalTime) -> bool {
        let now = time.minute_of_week();
        let length = if self.to > self.from {
            self.to - self.from
        } else {
            DAY - self.from + self.to
        };
        self.days().any(|day| {
            let begin = day as u16 * DAY + self.from;
            // The last window of the week may reach into the next one.
            (now + WEEK - begin) % WEEK < length
        })
    }

    fn days(&self) -> impl Iterator<Item = Weekday> + use<> {
        let count = (self.last as u8 + 7 - self.first as u8) % 7 + 1;
        let first = self.first as u8;
        (0..count).map(move |n| Weekday::ALL[usize::from((first + n) % 7)])
    }
}

impl FromStr for Window {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let parse = || {
            let (days, hours) = text.trim().split_once(' ')?;
            let (first, last) = days.split_once('-').unwrap_or((days, days));
            let (from, to) = hours.trim().split_once('-')?;
            let window = Self {
                first: weekday(first)?,
                last: weekday(last)?,
                from: clock(from)?,
                to: clock(to)?,
            };
            (window.from < DAY).then_some(window)
        };
        parse().ok_or_else(|| PolicyError::Window(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Window {
    type Error = PolicyError;
    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first.word(), self.last.word());
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let (from, to) = (clock(self.from), clock(self.to));
        if first == last {
            write!(f, "{first} {from}-{to}")
        } else {
            write!(f, "{first}-{last} {from}-{to}")
        }
    }
}

fn weekday(word: &str) -> Option<Weekday> {
    let word = word.trim().to_ascii_lowercase();
    Weekday::ALL.into_iter().find(|day| day.word() == word)
}

/// Minutes since midnight; 24:00 is the end of the day.
fn clock(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let two_digits = |t: &str| {
        (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u16>().ok())?
    };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

/// What an operator lets the market have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderPolicy {
    /// Jobs at once before the reserve is taken off.
    pub slots: u32,
    /// Share of cores and slots that stays the operator's own, in percent.
    pub reserved_percent: u8,
    /// When work is taken; empty = always.
    pub windows: Vec<Window>,
}

impl ProviderPolicy {
    /// Refuses a share above the whole.
    pub fn check(&self) -> Result<(), PolicyError> {
        match self.reserved_percent {
            0..=100 => Ok(()),
            more => Err(PolicyError::Share(more)),
        }
    }

    /// What of `amount` cores or slots the market may use, rounded down: the reserve is never cut.
    pub fn usable(&self, amount: u32) -> u32 {
        let share = 100 - u64::from(self.reserved_percent.min(100));
        let usable = u64::from(amount) * share / 100;
        u32::try_from(usable).unwrap_or(amount)
    }

    /// Jobs that the market may run at once on a machine with this many cores: every job wants a core of its own.
    pub fn market_slots(&self, cores: u32) -> u32 {
        self.usable(self.slots).min(self.usable(cores))
    }

    /// Whether it stands within an availability window.
    pub fn is_open(&self, time: LocalTime) -> bool {
        self.windows.is_empty() || self.windows.iter().any(|window| window.contains(time))
    }

    /// Minutes until [`ProviderPolicy::is_open`] next changes, `None` if it never does.
    pub fn minutes_to_change(&self, time: LocalTime) -> Option<u16> {
        let open = self.is_open(time);
        let now = time.minute_of_week();
        (1..=WEEK).find(|after| {
            let minute = (now + after) % WEEK;
            let then = LocalTime {
                weekday: Weekday::ALL[usize::from(minute / DAY)],
                minute: minute % DAY,
            };
            self.is_open(then) != open
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(slots: u32, reserved_percent: u8, windows: &[&str]) -> ProviderPolicy {
        ProviderPolicy {
            slots,
            reserved_percent,
            windows: windows.iter().map(|w| w.parse().expect("window")).collect(),
        }
    }

    fn at(weekday: Weekday, hour: u16, minute: u16) -> LocalTime {
        LocalTime {
            weekday,
            minute: hour * 60 + minute,
        }
    }

    #[test]
    fn a_night_window_reaches_into_the_next_morning_and_over_the_end_of_the_week() {
        let night = policy(1, 0, &["mon-fri 22:00-06:00"]);
        assert!(night.is_open(at(Weekday::Monday, 22, 0)));
        assert!(night.is_open(at(Weekday::Saturday, 5, 59)));
        assert!(!night.is_open(at(Weekday::Saturday, 6, 0)));
        assert!(
            !night.is_open(at(Weekday::Monday, 5, 0)),
            "Sunday has no window"
        );
        assert!(!night.is_open(at(Weekday::Wednesday, 12, 0)));
        let sunday = policy(1, 0, &["sun 22:00-06:00"]);
        assert!(sunday.is_open(at(Weekday::Monday, 5, 59)));
        assert!(!sunday.is_open(at(Weekday::Monday, 6, 0)));
    }

    #[test]
    fn days_wrap_and_whole_days_and_no_windows_are_what_they_say() {
        let weekend = policy(1, 0, &["sat-mon 00:00-24:00"]);
        for day in Weekday::ALL {
            let open = !matches!(
                day,
                Weekday::Tuesday | Weekday::Wednesday | Weekday::Thursday | Weekday::Friday
            );
            assert_eq!(weekend.is_open(at(day, 0, 0)), open, "{day:?}");
            assert_eq!(weekend.is_open(at(day, 23, 59)), open, "{day:?}");
            assert!(policy(1, 0, &[]).is_open(at(day, 3, 0)));
            assert!(policy(1, 0, &["mon-sun 08:00-08:00"]).is_open(at(day, 7, 59)));
        }
    }

    #[test]
    fn windows_are_read_strictly_and_written_as_read() {
        for text in ["mon-fri 22:00-06:00", "sat 00:00-24:00"] {
            assert_eq!(text.parse::<Window>().expect("valid").to_string(), text);
        }
        for text in [
            "",
            "mon",
            "mon 9-17",
            "mon 25:00-26:00",
            "mon 10:60-11:00",
            "xyz 10:00-11:00",
            "mon 24:00-01:00",
            "mon +1:00-02:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_reserve_is_never_cut() {
        assert_eq!(policy(8, 25, &[]).market_slots(64), 6);
        assert_eq!(policy(8, 30, &[]).market_slots(64), 5);
        assert_eq!(policy(8, 50, &[]).market_slots(4), 2, "cores limit too");
        assert_eq!(policy(8, 100, &[]).market_slots(64), 0);
        assert_eq!(policy(u32::MAX, 0, &[]).market_slots(u32::MAX), u32::MAX);
        assert_eq!(policy(1, 101, &[]).check(), Err(PolicyError::Share(101)));
    }

    #[test]
    fn the_next_change_is_found_or_there_is_none() {
        let office = policy(1, 0, &["mon-fri 08:00-18:00"]);
        assert_eq!(
            office.minutes_to_change(at(Weekday::Monday, 17, 59)),
            Some(1)
        );
        assert_eq!(
            office.minutes_to_change(at(Weekday::Friday, 18, 0)),
            Some(62 * 60)
        );
        assert_eq!(
            policy(1, 0, &[]).minutes_to_change(at(Weekday::Monday, 0, 0)),
            None
        );
    }

    #[test]
    fn local_time_follows_the_offset_over_midnight() {
        // 2026-01-01 00:30 UTC was a Thursday.
        let time = Timestamp::from_secs(1_767_227_400);
        assert_eq!(LocalTime::at(time, 0), at(Weekday::Thursday, 0, 30));
        assert_eq!(LocalTime::at(time, -60), at(Weekday::Wednesday, 23, 30));
        assert_eq!(LocalTime::at(time, 330), at(Weekday::Thursday, 6, 0));
        assert_eq!(
            LocalTime::at(Timestamp(0), -1),
            at(Weekday::Wednesday, 23, 59)
        );
    }
}
