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
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let (secs, rest) = (at.secs(), at.secs() % DAY);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", date(secs / DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

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
