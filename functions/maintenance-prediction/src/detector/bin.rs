//! From readings of any period to bins of a quarter of an hour.
//!
//! A reading belongs to the bin in which its period ends. One that is longer than a bin counts as its mean flow there:
//! as it ends in the same slots every day, its profile knows those alone.

use serde::{Deserialize, Serialize};

use super::counts::Counted;
use super::profile::BIN_MS;

/// Length of a bin, ms.
const WHOLE_MS: u32 = 900_000;
/// Least share of a bin that has to be covered to judge its count.
const COVERED_MIN: f32 = 0.5;

/// The number of the bin in which a period ends; one that ends on the grid closes its bin.
pub(super) const fn bin_of(end_ms: i64) -> i64 {
    end_ms.saturating_sub(1).div_euclid(BIN_MS)
}

/// When a bin starts.
pub(super) const fn start_of(bin: i64) -> i64 {
    bin.saturating_mul(BIN_MS)
}

/// What a detector sent in the open bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct OpenBin {
    /// Vehicles, by the time covered with counts.
    vehicles: f32,
    counted_ms: u32,
    /// Time covered with readings, of whatever measure.
    heard_ms: u32,
    /// Bins that its longest reading stands for.
    bins: u16,
}

impl OpenBin {
    /// Takes up a reading of so many ms, with its volume if that is there and can be believed.
    pub(super) fn fold(&mut self, period_ms: u32, volume: Option<f32>) {
        let bins = u16::try_from((i64::from(period_ms) + BIN_MS / 2) / BIN_MS).unwrap_or(u16::MAX).max(1);
        self.bins = self.bins.max(bins);
        let within = period_ms / u32::from(bins);
        self.heard_ms = self.heard_ms.saturating_add(within);
        if let Some(volume) = volume {
            self.vehicles += volume / f32::from(bins);
            self.counted_ms = self.counted_ms.saturating_add(within);
        }
    }

    /// A vehicle that a controller reported.
    pub(super) fn vehicle(&mut self) {
        self.vehicles += 1.0;
    }

    /// All of the bin counts: the controller was heard, and reports every vehicle.
    pub(super) fn cover(&mut self) {
        self.bins = 1;
        (self.heard_ms, self.counted_ms) = (WHOLE_MS, WHOLE_MS);
    }

    /// Share of the bin from which readings came, 0..=1.
    pub(super) fn heard(&self) -> f32 {
        share(self.heard_ms)
    }

    /// The count, if enough of the bin is covered.
    pub(super) fn counted(&self) -> Option<Counted> {
        let covered = share(self.counted_ms);
        // Periods that overlap, as after a restart, count vehicles twice.
        let overlap = ratio(self.counted_ms).max(1.0);
        (covered >= COVERED_MIN).then(|| Counted { vehicles: self.vehicles / overlap, share: covered, bins: self.bins.max(1) })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 24 bits")]
const fn ratio(ms: u32) -> f32 {
    ms as f32 / WHOLE_MS as f32
}

const fn share(ms: u32) -> f32 {
    ratio(ms).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_that_ends_on_the_grid_closes_its_bin() {
        assert_eq!([bin_of(0), bin_of(1), bin_of(BIN_MS), bin_of(BIN_MS + 1)], [-1, 0, 0, 1]);
    }

    #[test]
    fn short_readings_add_up_and_half_a_bin_is_enough() {
        let mut bin = OpenBin::default();
        (0..90).for_each(|_| bin.fold(5_000, Some(0.5)));
        let counted = bin.counted().unwrap();
        assert!((counted.vehicles - 45.0).abs() < 1e-3 && (counted.share - 0.5).abs() < 1e-3);
        let mut bin = OpenBin::default();
        (0..89).for_each(|_| bin.fold(5_000, Some(0.5)));
        assert!(bin.counted().is_none());
    }

    #[test]
    fn an_hour_counts_as_its_mean_flow() {
        let mut bin = OpenBin::default();
        bin.fold(3_600_000, Some(400.0));
        let counted = bin.counted().unwrap();
        assert!((counted.vehicles - 100.0).abs() < 1e-3 && (counted.share - 1.0).abs() < 1e-3);
        assert_eq!(counted.bins, 4);
    }

    #[test]
    fn readings_that_overlap_do_not_count_twice() {
        let mut bin = OpenBin::default();
        (0..2).for_each(|_| bin.fold(900_000, Some(50.0)));
        let counted = bin.counted().unwrap();
        assert!((counted.vehicles - 50.0).abs() < 1e-3 && (counted.share - 1.0).abs() < 1e-3);
    }
}
