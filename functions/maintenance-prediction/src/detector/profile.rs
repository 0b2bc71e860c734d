//! What a detector usually counts: one mean per quarter of an hour of the day, apart for weekdays and weekends.
//!
//! Slots are those of UTC, so no time zone is needed: the hour of a daylight-saving change moves all detectors of a junction
//! alike and is taken up by the common factor of its peers until the means have followed. Whether a day is a weekend is
//! decided by local mean solar time where the longitude is known, by UTC otherwise.

use serde::{Deserialize, Serialize};

/// Length of a bin, the usual one of traffic counts; bins lie on the grid of the epoch.
pub(super) const BIN_MS: i64 = 900_000;
/// Bins in a day.
pub(super) const SLOTS: usize = 96;
const DAY_MS: i64 = 86_400_000;

/// Days of a kind before its means are believed: fewer cannot tell a holiday from the rule.
const MATURE_DAYS: [f32; 2] = [2.9, 1.9];
/// Least weight of a new day, by kind of day: half of what is known of weekdays is from the last 7 of them, of weekends 4.
const GAIN_MIN: [f32; 2] = [0.1, 0.15];
/// Days that the age of a profile counts at most.
const AGE_MAX_DAYS: u16 = 20;
/// A slot follows a count at most up to this many times its mean (and 10): a burst must not become the rule.
const FOLLOWED_RATIO_MAX: f32 = 4.0;
/// Means are stored as the square root in steps of 1/500, which is finer than their error: 0.001 at 0.1, 0.06 at 200 vehicles.
const ROOT_SCALE: f32 = 500.0;

/// A bin's place in the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// 0 on weekdays, 1 on weekends.
    pub(super) day_kind: usize,
    /// Quarter of an hour of the UTC day.
    pub(super) index: usize,
}

impl Slot {
    /// The slot of a bin (number since the epoch), days beginning `offset_ms` before those of UTC.
    pub(super) fn of(bin: i64, offset_ms: i64) -> Self {
        let start = bin.saturating_mul(BIN_MS);
        // The epoch was a Thursday.
        let weekday = (start.saturating_add(offset_ms).div_euclid(DAY_MS) + 3).rem_euclid(7);
        let index = usize::try_from(start.rem_euclid(DAY_MS) / BIN_MS).unwrap_or(0);
        Self { day_kind: usize::from(weekday >= 5), index }
    }

    /// Block of four hours, 0..6.
    pub(super) const fn block(self) -> usize {
        self.index / 16
    }
}

/// Mean counts by slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Profile {
    /// Square roots of the means, weekdays first; 0 is unknown.
    roots: Vec<u16>,
    /// Bins learned by kind of day.
    bins: [u16; 2],
}

impl Default for Profile {
    fn default() -> Self {
        Self { roots: vec![0; 2 * SLOTS], bins: [0; 2] }
    }
}

impl Profile {
    fn mean(&self, day_kind: usize, index: usize) -> Option<f32> {
        let root = *self.roots.get(day_kind * SLOTS + index)?;
        (root > 0).then(|| (f32::from(root - 1) / ROOT_SCALE).powi(2))
    }

    /// Days of this kind that were learned.
    pub(super) fn days(&self, day_kind: usize) -> f32 {
        f32::from(self.bins.get(day_kind).copied().unwrap_or(0)) / 96.0
    }

    /// Whether enough days of this kind were seen.
    pub(super) fn is_mature(&self, day_kind: usize) -> bool {
        MATURE_DAYS.get(day_kind).is_some_and(|days| self.days(day_kind) >= *days)
    }

    /// The mean count of a slot, smoothed over its neighbours (1:2:1); none if it was never seen.
    pub(super) fn expected(&self, slot: Slot) -> Option<f32> {
        let own = self.mean(slot.day_kind, slot.index)?;
        let before = self.mean(slot.day_kind, (slot.index + SLOTS - 1) % SLOTS).unwrap_or(own);
        let after = self.mean(slot.day_kind, (slot.index + 1) % SLOTS).unwrap_or(own);
        Some((before + 2.0 * own + after) / 4.0)
    }

    /// The mean over the slots of a kind of day.
    pub(super) fn daily_mean(&self, day_kind: usize) -> f32 {
        let (sum, slots) =
            (0..SLOTS).filter_map(|index| self.mean(day_kind, index)).fold((0.0, 0.0), |(sum, n), mean| (sum + mean, n + 1.0));
        if slots > 0.0 { sum / slots } else { 0.0 }
    }

    /// Learns a count of so many bins' length, with `weight` (0..=1) of the usual gain.
    pub(super) fn learn(&mut self, slot: Slot, count: f32, bins: u16, weight: f32) {
        let days = self.days(slot.day_kind);
        let mature = self.is_mature(slot.day_kind);
        let mean = match self.mean(slot.day_kind, slot.index) {
            None => count,
            Some(mean) => {
                let least = GAIN_MIN.get(slot.day_kind).copied().unwrap_or(1.0);
                let gain = if mature { weight * least.max(1.0 / (days + 1.0)) } else { least.max(1.0 / (days + 1.0)) };
                let count = if mature { count.min(FOLLOWED_RATIO_MAX * mean + 10.0) } else { count };
                mean + gain * (count - mean)
            }
        };
        if let (Some(root), Some(learned)) = (self.roots.get_mut(slot.day_kind * SLOTS + slot.index), self.bins.get_mut(slot.day_kind)) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u16")]
            let scaled = (mean.max(0.0).sqrt() * ROOT_SCALE).round().min(f32::from(u16::MAX - 1)) as u16;
            *root = scaled + 1;
            *learned = learned.saturating_add(bins).min(AGE_MAX_DAYS * 96);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_told_apart_by_local_solar_time() {
        // 1970-01-02 23:00 UTC, a Friday, is a Saturday in Tokyo and a Friday in London.
        let bin = (24 + 23) * 4;
        assert_eq!(Slot::of(bin, 0), Slot { day_kind: 0, index: 92 });
        assert_eq!(Slot::of(bin, 139 * 240_000), Slot { day_kind: 1, index: 92 });
        assert_eq!(Slot::of(-1, 0), Slot { day_kind: 0, index: 95 });
    }

    #[test]
    fn a_profile_comes_to_the_mean_and_keeps_weekdays_and_weekends_apart() {
        let mut profile = Profile::default();
        for bin in 0..28 * 96 {
            let slot = Slot::of(bin, 0);
            profile.learn(slot, if slot.day_kind == 0 { 20.0 } else { 5.0 }, 1, 1.0);
        }
        for (day_kind, mean) in [(0, 20.0), (1, 5.0)] {
            assert!(profile.is_mature(day_kind));
            let expected = profile.expected(Slot { day_kind, index: 0 }).unwrap();
            assert!((expected - mean).abs() < 0.05, "{expected}");
        }
    }

    #[test]
    fn a_burst_does_not_become_the_rule() {
        let mut profile = Profile::default();
        for bin in 0..14 * 96 {
            profile.learn(Slot::of(bin, 0), 2.0, 1, 1.0);
        }
        let slot = Slot { day_kind: 0, index: 40 };
        profile.learn(slot, 60_000.0, 1, 1.0);
        assert!(profile.expected(slot).unwrap() < 4.0);
    }

    #[test]
    fn small_means_survive_their_encoding() {
        let mut profile = Profile::default();
        let slot = Slot { day_kind: 0, index: 3 };
        profile.learn(slot, 0.02, 1, 1.0);
        assert!((profile.expected(slot).unwrap() - 0.02).abs() < 0.001);
        profile.learn(Slot { day_kind: 0, index: 50 }, 4_000.0, 1, 1.0);
        assert!((profile.expected(Slot { day_kind: 0, index: 50 }).unwrap() - 4_000.0).abs() < 1.0);
    }
}
