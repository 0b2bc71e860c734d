//! Remaining useful life of machines: what a model file holds, what is remembered of a machine, and the verdict.
//!
//! A [`Life`] is folded sample by sample in O(1); [`Model::assess`] judges it. Stream, `POST /v1/predictions` and
//! training call the same code, so that they agree to the last bit.
//!
//! ```text
//! sample ─▶ regime ─▶ standard metrics ─▶ wear indices ─▶ averages, slopes, start ─▶ trees + networks ─▶ p50 ─▶ interval
//! ```

mod band;
mod forest;
mod frame;
mod life;
mod models;
mod network;

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::asset::{HealthState, ModelVersion, Reason, RemainingUsefulLife};

pub use band::{Band, Knot};
pub use forest::{Forest, Node, Tree};
pub use frame::{Frame, INDICES_MAX, Index, METRICS_MAX, Normal, REGIMES_MAX, Regime, Repair};
pub use life::Life;
pub use models::{Models, shipped};
pub use network::{Layer, Network, Networks, STANDARD_MAX};

/// First bytes of a model file, with the version of its format.
const MAGIC: &[u8] = b"greenwave model 1\n";
const HASH_LEN: usize = 32;
/// Largest model file, bytes.
pub const MODEL_MAX_LEN: usize = 1_500_000;
/// Share of cases that should lie between `p05` and `p95`.
pub const COVERAGE_TARGET: f64 = 0.9;
/// Samples before anything is said.
const SAMPLES_MIN: u32 = 5;
/// A machine that is met at a later cycle than this has no known start.
pub const JOINED_MAX: u64 = 30;
/// A machine this many times as old as the oldest one seen is none that the model knows.
const AGE_MAX_LIVES: u64 = 2;
/// Reasons given.
const REASONS_MAX: usize = 5;
/// Share of the trees in a prediction; the networks have the rest.
const FOREST_SHARE: f64 = 0.5;
/// The indicator that stands for the age of a machine.
const AGE: &str = "cycle";

/// Everything in a model file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The kind of machine it knows.
    pub kind: String,
    /// What life is counted in, such as `cycles`.
    pub unit: String,
    /// Longer lives are called this long, > 0.
    pub cap: f64,
    /// When people are told.
    pub thresholds: Thresholds,
    /// How samples become features.
    pub frame: Frame,
    /// Features of a machine as new, against which reasons are measured.
    pub as_new: Vec<f32>,
    /// Mean of the repair index on machines as new and at their end.
    pub wear: (f32, f32),
    /// Predicts the life that is left.
    pub point: Point,
    /// The interval.
    pub band: Band,
}

/// Remaining lives (p50) at which something is said.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// An alert is raised at this or less.
    pub raise: f64,
    /// It is cleared above this, which is not less than `raise`.
    pub clear: f64,
    /// The state is alarm at this or less.
    pub alarm: f64,
}

/// Trees and networks: they err in different ways, so that their mean errs less than either.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The trees.
    pub forest: Forest,
    /// The networks.
    pub networks: Networks,
}

impl Point {
    /// The prediction, not cut to any range.
    pub fn predict(&self, features: &[f32]) -> f64 {
        FOREST_SHARE * self.forest.predict(features) + (1.0 - FOREST_SHARE) * self.networks.predict(features)
    }

    /// What each feature contributes to the difference between the predictions for `features` and for `reference`.
    fn explain(&self, features: &[f32], reference: &[f32]) -> Vec<f64> {
        let mut contributions = vec![0.0; features.len()];
        self.forest.explain(features, reference, FOREST_SHARE, &mut contributions);
        self.networks.explain(features, reference, 1.0 - FOREST_SHARE, &mut contributions);
        contributions
    }
}

impl Content {
    /// `p05`, `p50` and `p95` for these features, not rounded.
    pub fn quantiles(&self, features: &[f32]) -> [f64; 3] {
        let middle = self.point.predict(features).clamp(0.0, self.cap);
        let (lower, upper) = self.band.around(features, frame::narrow(middle));
        [lower.min(middle).clamp(0.0, self.cap), middle, upper.max(middle).clamp(0.0, self.cap)]
    }

    /// The model file.
    ///
    /// # Errors
    /// [`ModelError`] if the parts do not fit, or the file would be larger than [`MODEL_MAX_LEN`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        self.check()?;
        let body = postcard::to_stdvec(self).map_err(|_| ModelError::Invalid("it cannot be written"))?;
        let bytes = [MAGIC, Sha256::digest(&body).as_slice(), &body].concat();
        if bytes.len() > MODEL_MAX_LEN { Err(ModelError::TooLarge(bytes.len())) } else { Ok(bytes) }
    }

    fn check(&self) -> Result<(), ModelError> {
        let Thresholds { raise, clear, alarm } = self.thresholds;
        let numbers = [self.cap, raise, clear, alarm].iter().all(|number| number.is_finite() && *number >= 0.0);
        if !numbers || self.cap <= 0.0 || clear < raise || alarm > raise || !self.wear.0.is_finite() || !self.wear.1.is_finite() {
            return Err(ModelError::Invalid("its thresholds contradict themselves"));
        }
        self.frame.check()?;
        let features = life::feature_count(self.frame.index_count());
        if self.as_new.len() != features || !self.as_new.iter().all(|feature| feature.is_finite()) {
            return Err(ModelError::Invalid("its machine as new has other features"));
        }
        self.point.forest.check(features)?;
        self.point.networks.check(features)?;
        self.band.check(features)
    }
}

/// Bytes are no model that this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The first bytes are others.
    #[error("is no Greenwave model of format 1: train it again with this version's `greenwave train`")]
    Format,
    /// The hash is another.
    #[error("is damaged: its content does not have the hash it was written with; copy it again")]
    Damaged,
    /// More than [`MODEL_MAX_LEN`] bytes.
    #[error("has {0} bytes, more than the 1500000 that are allowed: train it with fewer trees")]
    TooLarge(usize),
    /// The hash is right, the content is not.
    #[error("cannot be used: {0}; train it again")]
    Invalid(&'static str),
}

/// A model, ready to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    content: Content,
    version: String,
    /// How much each index moves with each metric, whatever the regime: by index, then by metric.
    shares: Vec<Vec<f64>>,
}

/// The verdict on one machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Assessment {
    /// The model can say something.
    Known(Prognosis),
    /// It has no business here.
    Unknown {
        /// What is missing or odd: a metric, a setting, `samples` or `cycle`.
        indicator: String,
        /// One sentence for people.
        text: String,
    },
}

/// What a model says of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Prognosis {
    /// From `p50` and the thresholds; never unknown.
    pub state: HealthState,
    /// 0..=100, 100 as new: the mean of the life that is left, as a share of `cap`, and of the wear that is not there.
    pub health_index: u8,
    /// In tenths; `p05 <= p50 <= p95`, all in 0..=`cap`.
    pub remaining_useful_life: RemainingUsefulLife,
    /// At most five, largest first; contributions in tenths of a cycle, against a machine as new.
    pub reasons: Vec<Reason>,
}

impl Model {
    /// Reads a model file.
    ///
    /// # Errors
    /// [`ModelError`] if it is of another format, damaged, too large or contradicts itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        if bytes.len() > MODEL_MAX_LEN {
            return Err(ModelError::TooLarge(bytes.len()));
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(ModelError::Format)?;
        let (hash, body) = rest.split_at_checked(HASH_LEN).ok_or(ModelError::Damaged)?;
        if Sha256::digest(body).as_slice() != hash {
            return Err(ModelError::Damaged);
        }
        let content: Content = postcard::from_bytes(body).map_err(|_| ModelError::Invalid("its content cannot be read"))?;
        content.check()?;
        let mut version = String::new();
        for byte in hash.iter().take(6) {
            let _ = write!(version, "{byte:02x}");
        }
        let shares = (0..content.frame.index_count())
            .map(|index| {
                let of = |metric: usize| {
                    let weights = content.frame.regimes.iter().filter_map(|regime| regime.indices.get(index)?.weights.get(metric));
                    weights.map(|weight| f64::from(*weight)).sum()
                };
                (0..content.frame.metrics.len()).map(of).collect()
            })
            .collect();
        Ok(Self { content, version, shares })
    }

    /// The kind it knows, and the first 12 digits of the hash of its content.
    pub fn version(&self) -> ModelVersion {
        ModelVersion { name: self.content.kind.clone(), version: self.version.clone() }
    }

    /// When an alert is raised and cleared.
    pub fn alert(&self) -> Thresholds {
        self.content.thresholds
    }

    /// What the file holds.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Judges a machine by its newest sample and what went before.
    pub fn assess(&self, life: &Life) -> Assessment {
        if let Some((indicator, text)) = self.doubt(life) {
            return Assessment::Unknown { indicator, text };
        }
        let features = life.features();
        let [p05, p50, p95] = self.content.quantiles(&features).map(tenths);
        let Content { unit, cap, thresholds, wear: (new, end), frame, .. } = &self.content;
        let state = if p50 <= thresholds.alarm {
            HealthState::Alarm
        } else if p50 <= thresholds.raise {
            HealthState::Alert
        } else {
            HealthState::Normal
        };
        let level = life.index_average(usize::from(frame.repair.index));
        let unworn = f64::from((level - end) / (new - end)).clamp(0.0, 1.0);
        let unworn = if unworn.is_finite() { unworn } else { p50 / cap };
        Assessment::Known(Prognosis {
            state,
            health_index: percent(0.5 * p50 / cap + 0.5 * unworn),
            remaining_useful_life: RemainingUsefulLife { unit: unit.clone(), p05, p50, p95, coverage_target: COVERAGE_TARGET },
            reasons: self.reasons(life, &features),
        })
    }

    /// Why nothing can be said.
    fn doubt(&self, life: &Life) -> Option<(String, String)> {
        let (Some(joined), Some(newest)) = (life.joined, life.newest) else {
            return Some(("samples".into(), "No sample has come yet.".into()));
        };
        if let Some(doubt) = life.doubt {
            return Some(self.content.frame.explain(doubt));
        }
        if joined > JOINED_MAX {
            let text = format!(
                "The machine was first met at cycle {joined}; the model needs the first {JOINED_MAX} cycles of a life to compare with."
            );
            return Some((AGE.into(), text));
        }
        let oldest = self.content.frame.life_max.saturating_mul(AGE_MAX_LIVES);
        if newest > oldest {
            return Some((AGE.into(), format!("The machine has reached cycle {newest}; the model knows lives up to {oldest}.")));
        }
        let samples = life.samples;
        (samples < SAMPLES_MIN).then(|| ("samples".into(), format!("{samples} of the {SAMPLES_MIN} samples that are needed have come.")))
    }

    fn reasons(&self, life: &Life, features: &[f32]) -> Vec<Reason> {
        let moved: Vec<(f32, f32)> = life.metrics().collect();
        let mut by_metric = vec![0.0; moved.len()];
        let mut by_index = vec![0.0; self.shares.len()];
        let mut by_age = 0.0;
        for (feature, contribution) in self.content.point.explain(features, &self.content.as_new).into_iter().enumerate() {
            match life::index_of_feature(feature).and_then(|index| by_index.get_mut(index)) {
                Some(sum) => *sum += contribution,
                None => by_age += contribution,
            }
        }
        // An index is a sum over the metrics: each has the share by which it moved the index away from new.
        for (contribution, weights) in by_index.into_iter().zip(&self.shares) {
            let parts = moved.iter().zip(&self.content.frame.as_new).zip(weights);
            let parts: Vec<f64> = parts.map(|(((average, _), new), weight)| (weight * f64::from(average - new)).abs()).collect();
            let whole: f64 = parts.iter().sum();
            if whole > 0.0 {
                by_metric.iter_mut().zip(parts).for_each(|(sum, part)| *sum += contribution * part / whole);
            }
        }
        let age = life.newest.unwrap_or_default();
        let age_text = format!("It has worked for {age} {}.", self.content.unit);
        let metric = |((name, contribution), (average, start)): ((&String, f64), (f32, f32))| {
            let away = average - start;
            let side = if away < 0.0 { "below" } else { "above" };
            (name.clone(), contribution, format!("{name} is {:.1} standard deviations {side} where it started.", away.abs()))
        };
        let mut reasons: Vec<_> = self.content.frame.metrics.iter().zip(by_metric).zip(moved).map(metric).collect();
        reasons.push((AGE.to_owned(), by_age, age_text));
        reasons.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let rounded =
            reasons.into_iter().map(|(indicator, contribution, text)| Reason { indicator, contribution: tenths(contribution), text });
        rounded.filter(|reason| reason.contribution != 0.0).take(REASONS_MAX).collect()
    }
}

/// Rounded to tenths; never minus zero.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0 + 0.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=100 first")]
fn percent(share: f64) -> u8 {
    (100.0 * share).round().clamp(0.0, 100.0) as u8
}

#[cfg(test)]
mod tests;
