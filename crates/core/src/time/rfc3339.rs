//! RFC 3339 as we write it ourselves, quickly: a document holds tens of times, and is read and written at each change.
//!
//! What is written otherwise (another zone, more digits) is left to the `time` crate, with which the tests compare. Days
//! are counted from the first of March, so that the leap day is a year's last one.

const DAY: i64 = 86_400;
const MICROS: i64 = 1_000_000;
/// Days of 400 years, after which the calendar repeats itself.
const ERA: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01.
const TO_1970: i64 = 719_468;

/// Year, month and day of a day since 1970.
fn date(day: i64) -> (i64, i64, i64) {
    let day = day + TO_1970;
    let (era, of_era) = (day.div_euclid(ERA), day.rem_euclid(ERA));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let january = month >= 10;
    (year + era * 400 + i64::from(january), if january { month - 9 } else { month + 3 }, day)
}

/// The day since 1970 of a date, where there is such a date.
fn day_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let found = era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - TO_1970;
    (date(found) == (year, month, day)).then_some(found)
}

/// Microseconds since 1970 in UTC, with as many digits of a second as it has; `None` outside of the years 0 to 9999.
pub(super) fn write(micros: i64) -> Option<String> {
    let (seconds, mut fraction) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS));
    let (year, month, day) = date(seconds.div_euclid(DAY));
    if !(0..=9999).contains(&year) {
        return None;
    }
    let of_day = seconds.rem_euclid(DAY);
    let mut text = String::with_capacity(27);
    digits(&mut text, year, 4);
    let parts = [('-', month), ('-', day), ('T', of_day / 3600), (':', of_day / 60 % 60), (':', of_day % 60)];
    for (before, number) in parts {
        text.push(before);
        digits(&mut text, number, 2);
    }
    if fraction > 0 {
        let mut width = 6;
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        text.push('.');
        digits(&mut text, fraction, width);
    }
    text.push('Z');
    Some(text)
}

fn digits(text: &mut String, number: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = u8::try_from(number / 10_i64.pow(place) % 10).unwrap_or(0);
        text.push(char::from(b'0' + digit));
    }
}

/// Reads what [`write`] writes; `None` for everything else.
pub(super) fn read(text: &str) -> Option<i64> {
    let rest = text.strip_suffix('Z')?;
    let (whole, fraction) = rest.split_once('.').map_or((rest, None), |(whole, fraction)| (whole, Some(fraction)));
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2] = whole.as_bytes() else {
        return None;
    };
    let year = number(&[*y1, *y2, *y3, *y4])?;
    let (month, day) = (number(&[*m1, *m2])?, number(&[*d1, *d2])?);
    let (hour, minute, second) = (number(&[*h1, *h2])?, number(&[*i1, *i2])?, number(&[*s1, *s2])?);
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match fraction.map(str::as_bytes) {
        None => 0,
        Some(bytes) if (1..=6).contains(&bytes.len()) => {
            bytes.iter().chain([b'0'; 6].iter()).take(6).try_fold(0, |sum, byte| Some(sum * 10 + number(&[*byte])?))?
        }
        Some(_) => return None,
    };
    Some(((day_of(year, month, day)? * 24 + hour) * 60 + minute) * 60 * MICROS + second * MICROS + micros)
}

fn number(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, SplitMix};
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    /// What the `time` crate says.
    fn known(micros: i64) -> Option<String> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?.format(&Rfc3339).ok()
    }

    #[test]
    fn it_is_what_the_time_crate_writes_and_reads_back() {
        let mut chance = SplitMix::new(11);
        let mut some = vec![0, -1, 1, MICROS, i64::MAX, i64::MIN, -62_167_219_200 * MICROS, -62_167_219_200 * MICROS - 1];
        for day in -800_000..3_000_000 {
            if day % 1009 == 0 || (day_of(2000, 2, 1)..day_of(2000, 4, 1)).contains(&Some(day)) {
                some.push(day * DAY * MICROS + i64::try_from(chance.below(86_400_000_000)).unwrap());
            }
        }
        for power in 0..7 {
            some.push(1_795_000_000 * MICROS + 10_i64.pow(power));
        }
        for micros in some {
            let text = write(micros);
            assert_eq!(text, known(micros), "{micros}");
            if let Some(text) = text {
                assert_eq!(read(&text), Some(micros), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567Z",
            "2026-01-01T00:00:00+01:00",
            "2026-01-01 00:00:00Z",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "",
            "Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
