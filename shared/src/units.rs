//! Units that the whole suite agrees on: instants, controller times and shares.

use std::fmt;
use std::ops::{Add, Sub};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant in milliseconds since the Unix epoch; RFC 3339 in UTC with three decimals on the wire.
///
/// Range: the years 0000 to 9999, so that every value has an RFC 3339 form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text is not an RFC 3339 time with an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 time with an offset, such as 2026-11-22T08:00:05Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    const MIN_MS: i64 = -62_167_219_200_000;
    const MAX_MS: i64 = 253_402_300_799_999;

    /// The instant so many milliseconds after the epoch; values outside the range are clamped to it.
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::MIN_MS {
            Self(Self::MIN_MS)
        } else if millis > Self::MAX_MS {
            Self(Self::MAX_MS)
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads an RFC 3339 time; digits beyond the millisecond are cut.
    ///
    /// # Errors
    /// [`InvalidTimestamp`] if the text is no RFC 3339 time or has no offset.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        let millis = i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).map_err(|_| InvalidTimestamp)?;
        if (Self::MIN_MS..=Self::MAX_MS).contains(&millis) { Ok(Self(millis)) } else { Err(InvalidTimestamp) }
    }

    /// The instant so many milliseconds later (earlier if negative), clamped to the range.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// The last tenth of a second not after this instant: the grid on which controllers work.
    #[must_use]
    pub const fn floor_to_tenth(self) -> Self {
        Self::from_millis(self.0 - self.0.rem_euclid(100))
    }

    /// The tenth of a second nearest to this instant.
    #[must_use]
    pub const fn round_to_tenth(self) -> Self {
        self.plus_millis(50).floor_to_tenth()
    }

    /// How long `self` lies after `earlier`; zero if it does not.
    pub fn since(self, earlier: Self) -> Deciseconds {
        let millis = self.0.saturating_sub(earlier.0).max(0);
        Deciseconds(u32::try_from(millis / 100).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).map_err(|_| fmt::Error)?;
        let (date, clock) = (at.date(), at.time());
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            clock.hour(),
            clock.minute(),
            clock.second(),
            clock.millisecond()
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl Add<Deciseconds> for Timestamp {
    type Output = Self;
    fn add(self, rhs: Deciseconds) -> Self {
        self.plus_millis(rhs.as_millis())
    }
}

impl Sub<Deciseconds> for Timestamp {
    type Output = Self;
    fn sub(self, rhs: Deciseconds) -> Self {
        self.plus_millis(-rhs.as_millis())
    }
}

/// A controller time in tenths of a second, the resolution of NTCIP 1202; seconds on the wire.
///
/// Range of what comes from outside: 0 to 86 400 s in steps of 0.1 s. A green that lasts longer is written as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deciseconds(u32);

/// A number of seconds is not a controller time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number of seconds from 0 to 86400 in steps of 0.1")]
pub struct InvalidSeconds;

impl Deciseconds {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    const MAX_ON_WIRE: f64 = 86_400.0;

    /// So many tenths of a second.
    pub const fn new(tenths: u32) -> Self {
        Self(tenths)
    }

    /// So many whole seconds.
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds.saturating_mul(10))
    }

    /// Tenths of a second.
    pub const fn tenths(self) -> u32 {
        self.0
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> i64 {
        self.0 as i64 * 100
    }

    /// Seconds.
    pub fn as_secs(self) -> f64 {
        f64::from(self.0) / 10.0
    }

    /// The difference, zero where `other` is longer.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Rounds a number of seconds to the nearest tenth.
    ///
    /// # Errors
    /// [`InvalidSeconds`] if it is not finite or outside 0 to 86 400.
    pub fn round(seconds: f64) -> Result<Self, InvalidSeconds> {
        if !(0.0..=Self::MAX_ON_WIRE).contains(&seconds) {
            return Err(InvalidSeconds);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked above")]
        let tenths = (seconds * 10.0).round() as u32;
        Ok(Self(tenths))
    }
}

/// Takes seconds that are exact to a tenth.
impl TryFrom<f64> for Deciseconds {
    type Error = InvalidSeconds;
    fn try_from(seconds: f64) -> Result<Self, InvalidSeconds> {
        let rounded = Self::round(seconds)?;
        if (rounded.as_secs() - seconds).abs() < 1e-6 { Ok(rounded) } else { Err(InvalidSeconds) }
    }
}

impl Add for Deciseconds {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl std::iter::Sum for Deciseconds {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Deciseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.as_secs())
    }
}

impl Serialize for Deciseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_secs())
    }
}

impl<'de> Deserialize<'de> for Deciseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tenths = f64::deserialize(deserializer)? * 10.0;
        if !(0.0..=f64::from(u32::MAX)).contains(&tenths) {
            return Err(D::Error::custom(InvalidSeconds));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked above")]
        Ok(Self(tenths.round() as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_survives_the_wire_to_the_millisecond() {
        for text in ["2026-11-22T08:00:05.123Z", "1969-12-31T23:59:59.999Z", "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_offset_is_turned_into_utc_and_finer_digits_are_cut() {
        assert_eq!(Timestamp::parse("2026-11-22T09:00:05.1239+01:00").unwrap().to_string(), "2026-11-22T08:00:05.123Z");
    }

    #[test]
    fn a_time_without_offset_or_outside_rfc_3339_is_refused() {
        for text in [
            "",
            "2026-11-22T08:00:05",
            "2026-11-22",
            "20261122T080005Z",
            "2026-11-22T08:00:05[Europe/Berlin]",
            "1e400",
            "2026-13-01T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(text), Err(InvalidTimestamp), "{text}");
        }
    }

    #[test]
    fn a_controller_time_is_exact_to_a_tenth_of_a_second() {
        assert_eq!(Deciseconds::try_from(3.5), Ok(Deciseconds::new(35)));
        for seconds in [3.55, -0.1, 86_400.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Deciseconds::try_from(seconds), Err(InvalidSeconds), "{seconds}");
        }
        assert_eq!(serde_json::to_string(&Deciseconds::new(35)).unwrap(), "3.5");
    }

    #[test]
    fn a_green_of_days_can_be_read_back() {
        let days = Deciseconds::from_secs(10 * 86_400);
        assert_eq!(serde_json::from_str::<Deciseconds>(&serde_json::to_string(&days).unwrap()).unwrap(), days);
    }

    #[test]
    fn an_instant_is_brought_to_the_grid_of_controllers() {
        for (millis, floor, nearest) in
            [(0, 0, 0), (49, 0, 0), (50, 0, 100), (100, 100, 100), (-1, -100, 0), (-50, -100, 0), (-51, -100, -100)]
        {
            let at = Timestamp::from_millis(millis);
            assert_eq!((at.floor_to_tenth().as_millis(), at.round_to_tenth().as_millis()), (floor, nearest), "{millis}");
        }
    }

    #[test]
    fn an_instant_stays_in_range_under_arithmetic() {
        let last = Timestamp::from_millis(i64::MAX);
        assert_eq!((last + Deciseconds::new(u32::MAX)).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::default().since(last), Deciseconds::ZERO);
    }
}
