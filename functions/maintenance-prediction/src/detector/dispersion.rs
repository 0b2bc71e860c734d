//! How much counts scatter around what is expected of them, learned per detector.
//!
//! Within a bin the variance is `m + k m^2` (negative binomial): `k` by block of four hours. From bin to bin the scatter
//! persists, because traffic does: evidence of a run of bins counts for less than that of as many independent ones, by the
//! variance of sums over eight hours.

use serde::{Deserialize, Serialize};

use super::profile::Slot;

/// Overdispersion assumed before anything is learned: 14 % beyond Poisson's.
const OVERDISPERSION_PRIOR: f32 = 0.02;
/// Weight of that assumption, in units of the learned mass (about 0.7 a bin of a busy detector).
const OVERDISPERSION_PRIOR_MASS: f32 = 40.0;
/// Range of the overdispersion.
const OVERDISPERSION: (f32, f32) = (0.005, 2.0);
/// What is kept of older bins at each new one of the block: 12 days' worth.
const BLOCK_KEPT: f32 = 1.0 - 1.0 / (16.0 * 12.0);
/// Squared residuals count up to so many variances.
const SQUARE_MAX: f32 = 16.0;
/// Standardised residuals count up to this.
const RESIDUAL_MAX: f32 = 4.0;

/// Bins over which residuals are summed: eight hours, longer than most swings of traffic and shorter than a shift.
const RUN_BINS: u8 = 32;
/// Persistence assumed before anything is learned, and its weight in runs of four hours.
const PERSISTENCE_PRIOR: (f32, f32) = (2.0, 10.0);
/// A run counts up to so many times the persistence known.
const RUN_RATIO_MAX: f32 = 9.0;
/// What is kept of older runs at each new one.
const RUN_KEPT: f32 = 0.98;
/// Weight of a run, in runs of four hours.
const RUN_WEIGHT: f32 = 2.0;
/// Least persistence: bins are not better than independent.
const PERSISTENCE_MIN: f32 = 1.0;

/// Scatter of the counts of one detector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Dispersion {
    /// Weighted sums of `(x - m)^2 - m` and of `m^2`, by block.
    blocks: [(f32, f32); 6],
    /// Busy hours and quiet hours.
    runs: [Run; 2],
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Run {
    sum: f32,
    bins: u8,
    squares: f32,
    weight: f32,
}

impl Run {
    fn persistence(&self) -> f32 {
        let (prior, weight) = PERSISTENCE_PRIOR;
        (self.squares + prior * weight) / (self.weight + weight)
    }
}

impl Dispersion {
    /// The overdispersion `k` of a block of the day.
    pub(super) fn overdispersion(&self, slot: Slot) -> f32 {
        let (excess, mass) = self.blocks.get(slot.block()).copied().unwrap_or_default();
        let estimate = (excess + OVERDISPERSION_PRIOR * OVERDISPERSION_PRIOR_MASS) / (mass + OVERDISPERSION_PRIOR_MASS);
        estimate.clamp(OVERDISPERSION.0, OVERDISPERSION.1)
    }

    /// By how much evidence of a run of bins has to be divided.
    pub(super) fn persistence(&self, quiet: bool) -> f32 {
        self.runs.get(usize::from(quiet)).map_or(PERSISTENCE_PRIOR.0, Run::persistence).max(PERSISTENCE_MIN)
    }

    /// Learns from a count `x` where `m` was expected with size parameter `size` (`1 / k`).
    pub(super) fn learn(&mut self, slot: Slot, quiet: bool, x: f32, m: f32, size: f32) {
        let variance = m + m * m / size;
        if let Some((excess, mass)) = self.blocks.get_mut(slot.block()) {
            let square = (x - m).powi(2).min(SQUARE_MAX * variance);
            let weight = m / ((1.0 + 0.05 * m) * m.max(0.3)).powi(2);
            *excess = *excess * BLOCK_KEPT + weight * (square - m);
            *mass = *mass * BLOCK_KEPT + weight * m * m;
        }
        if let Some(run) = self.runs.get_mut(usize::from(quiet)) {
            run.sum += ((x - m) / variance.sqrt()).clamp(-RESIDUAL_MAX, RESIDUAL_MAX);
            run.bins += 1;
            if run.bins >= RUN_BINS {
                let square = (run.sum * run.sum / f32::from(run.bins)).min(RUN_RATIO_MAX * run.persistence());
                run.squares = run.squares * RUN_KEPT + RUN_WEIGHT * square;
                run.weight = run.weight * RUN_KEPT + RUN_WEIGHT;
                (run.sum, run.bins) = (0.0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Slot = Slot { day_kind: 0, index: 48 };

    #[test]
    fn a_constant_factor_on_the_counts_of_a_run_is_persistence() {
        let (mut steady, mut swinging) = (Dispersion::default(), Dispersion::default());
        for bin in 0..4_000 {
            let chance = if bin % 2 == 0 { 6.0 } else { -6.0 };
            let swing = if (bin / 32) % 2 == 0 { 6.0 } else { -6.0 };
            steady.learn(NOON, false, 40.0 + chance, 40.0, 50.0);
            swinging.learn(NOON, false, 40.0 + swing, 40.0, 50.0);
        }
        assert!(steady.persistence(false) <= 1.0, "{}", steady.persistence(false));
        assert!(swinging.persistence(false) > 5.0, "{}", swinging.persistence(false));
    }

    #[test]
    fn scatter_beyond_poisson_is_learned_by_block_of_the_day() {
        let mut dispersion = Dispersion::default();
        for bin in 0..2_000 {
            let x = if bin % 2 == 0 { 20.0 } else { 60.0 };
            dispersion.learn(NOON, false, x, 40.0, 5.0);
        }
        // Variance 400 = 40 + k 1600.
        assert!((dispersion.overdispersion(NOON) - 0.225).abs() < 0.05);
        assert!(dispersion.overdispersion(Slot { day_kind: 0, index: 0 }) < 0.03);
    }
}
