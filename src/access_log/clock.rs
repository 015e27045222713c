//! The time of a line, as RFC 3339 in UTC with milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_A_DAY: u64 = 86_400;

/// `2026-01-02T03:04:05.678Z`
const LENGTH: usize = 24;

/// Formats times. All but the milliseconds is kept while the second is the same.
pub(super) struct Clock {
    second: u64,
    text: [u8; LENGTH],
}

impl Default for Clock {
    fn default() -> Self {
        let mut clock = Self {
            second: 0,
            text: *b"1970-01-01T00:00:00.000Z",
        };
        clock.set_second(0);
        clock
    }
}

impl Clock {
    /// The time as text. A time before 1970 is written as its beginning.
    pub fn at(&mut self, time: SystemTime) -> &str {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second {
            self.set_second(since.as_secs());
        }
        put(&mut self.text[20..23], since.subsec_millis().into());
        // Only ASCII digits were written over ASCII.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    fn set_second(&mut self, second: u64) {
        self.second = second;
        let (year, month, day) = date(second / SECONDS_A_DAY);
        let of_day = second % SECONDS_A_DAY;
        put(&mut self.text[0..4], year);
        put(&mut self.text[5..7], month);
        put(&mut self.text[8..10], day);
        put(&mut self.text[11..13], of_day / 3600);
        put(&mut self.text[14..16], of_day / 60 % 60);
        put(&mut self.text[17..19], of_day % 60);
    }
}

/// Writes the last digits of a number into the whole of `place`.
fn put(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a number of days since 1970.
///
/// Counting from 1 March puts the leap day at the end of a year, and 1 March of the year 0 begins a
/// cycle of 400 years, all of which have the same 146 097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let of_cycle = days % 146_097;
    let year_of_cycle = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_cycle + days / 146_097 * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn agrees_with_another_implementation() {
        let mut clock = Clock::default();
        for second in (0..4_102_444_800_u64).step_by(40_000_003) {
            let time = UNIX_EPOCH + Duration::from_millis(second * 1000 + second % 1000);
            let expected = humantime::format_rfc3339_millis(time).to_string();
            assert_eq!(clock.at(time), expected);
        }
    }

    #[test]
    fn knows_leap_days_and_the_beginning() {
        let mut clock = Clock::default();
        for (second, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            assert_eq!(clock.at(time), expected);
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(clock.at(before), "1970-01-01T00:00:00.000Z");
    }
}
