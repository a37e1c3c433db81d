//! Instants as RFC 3339 writes them, in universal time.

use stoa_types::Timestamp;

const DAY: u64 = 86_400;

/// Year, month and day of a day since the Unix epoch (proleptic Gregorian calendar; Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil(day: u64) -> (u64, u64, u64) {
    let z = day + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// The date of a day since the Unix epoch.
pub(crate) fn date(day: u64) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// To the second.
pub fn rfc3339(at: Timestamp) -> String {
    let (secs, rest) = (at.secs(), at.secs() % DAY);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", date(secs / DAY))
}

/// Days since the Unix epoch; `None` before it, and for a date that no calendar has. The inverse of [`civil`].
fn day_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted = year.checked_sub(u64::from(month <= 2))?;
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let found = days.checked_sub(719_468)?;
    (civil(found) == (year, month, day)).then_some(found)
}

/// An instant as RFC 3339 has it, with any offset and any fraction of a second, cut to milliseconds. `None` for anything else, for a leap
/// second, and before 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| {
        let digits = bytes.get(from..to)?;
        let add = |sum: u64, b: &u8| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0'));
        digits.iter().try_fold(0, add)
    };
    let is = |at: usize, wanted: u8| {
        bytes
            .get(at)
            .is_some_and(|b| b.eq_ignore_ascii_case(&wanted))
    };
    let shape = is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':');
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !shape || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (mut end, mut millis) = (19, 0);
    if is(19, b'.') {
        let digits = bytes[20..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        end = 20 + digits;
        let kept = digits.min(3);
        millis = number(20, 20 + kept)? * [1_000, 100, 10, 1][kept];
        if digits == 0 {
            return None;
        }
    }
    let offset = match (bytes.get(end)?, bytes.len() - end) {
        (b'Z' | b'z', 1) => 0,
        (sign @ (b'+' | b'-'), 6) if is(end + 3, b':') => {
            let (hours, minutes) = (number(end + 1, end + 3)?, number(end + 4, end + 6)?);
            let seconds = i64::try_from(hours * 3_600 + minutes * 60).ok()?;
            let sound = hours <= 23 && minutes <= 59;
            sound.then_some(if *sign == b'+' { seconds } else { -seconds })?
        }
        _ => return None,
    };
    let local = day_of(year, month, day)? * DAY + hour * 3_600 + minute * 60 + second;
    let seconds = local.checked_add_signed(-offset)?;
    Some(Timestamp(seconds.checked_mul(1_000)?.checked_add(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_that_is_written_is_read_again() {
        for day in 0..150_000 {
            let at = Timestamp(day * DAY * 1_000 + day % DAY * 1_000);
            assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        }
    }

    #[test]
    fn instants_are_read_with_fractions_and_offsets_and_nothing_else_is() {
        let at = Timestamp(951_782_400_000);
        for (text, later) in [
            ("2000-02-29T00:00:00Z", 0),
            ("2000-02-29t00:00:00z", 0),
            ("2000-02-29T00:00:00.5Z", 500),
            ("2000-02-29T00:00:00.123999999Z", 123),
            ("2000-02-29T01:30:00.01+01:30", 10),
            ("2000-02-28T22:59:59-01:00", 0),
        ] {
            let late = if text.contains("22:59") {
                at.0 - 1_000
            } else {
                at.0 + later
            };
            assert_eq!(parse_rfc3339(text), Some(Timestamp(late)), "{text}");
        }
        for bad in [
            "",
            "2000",
            "2000-02-29",
            "2000-02-29T00:00:00",
            "2000-02-30T00:00:00Z",
            "1999-02-29T00:00:00Z",
            "2000-13-01T00:00:00Z",
            "2000-00-01T00:00:00Z",
            "2000-01-00T00:00:00Z",
            "2000-02-29T24:00:00Z",
            "2000-02-29T00:60:00Z",
            "2000-02-29T23:59:60Z",
            "2000-02-29 00:00:00Z",
            "2000-02-29T00:00:00.Z",
            "2000-02-29T00:00:00+0100",
            "2000-02-29T00:00:00+24:00",
            "2000-02-29T00:00:00+01:60",
            "2000-02-29T00:00:00Zz",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "+000-02-29T00:00:00Z",
            "2000-02-29T00:00:0\u{663}Z",
            "0000-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_is_written_in_order() {
        let (mut before, mut months) = (String::new(), 0);
        for day in 0..150_000 {
            let at = Timestamp::from_secs(day * DAY + day % DAY);
            let written = rfc3339(at);
            assert!(written > before, "{written} after {before}");
            months += u64::from(written[8..10] == *"01");
            before = written;
        }
        assert_eq!(
            rfc3339(Timestamp::from_secs(951_782_400)),
            "2000-02-29T00:00:00Z"
        );
        assert_eq!(months, 4_929);
    }
}
