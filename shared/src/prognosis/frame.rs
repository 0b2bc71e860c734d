//! What is known of a kind of machine before anything is predicted: its operating regimes, its metrics in standard units,
//! and the wear indices that sum them up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ModelError;

/// Most metrics a model may use; bounds the state of a machine.
pub const METRICS_MAX: usize = 32;
/// Most wear indices.
pub const INDICES_MAX: usize = 8;
/// Most operating regimes.
pub const REGIMES_MAX: usize = 32;

/// How raw samples become wear indices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Names of the operating settings that tell regimes apart; none if there is one regime.
    pub settings: Vec<String>,
    /// Names of the metrics in use, at most [`METRICS_MAX`].
    pub metrics: Vec<String>,
    /// The operating regimes, at most [`REGIMES_MAX`].
    pub regimes: Vec<Regime>,
    /// Mean standard value of each metric on a machine as new.
    pub as_new: Vec<f32>,
    /// How a repair shows.
    pub repair: Repair,
    /// Longest life seen, cycles.
    pub life_max: u64,
}

/// One way of operating the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regime {
    /// Lowest and highest value of each setting.
    pub settings: Vec<(f64, f64)>,
    /// What each metric does in this regime.
    pub metrics: Vec<Normal>,
    /// How the wear indices are made of the metrics, at most [`INDICES_MAX`] and as many in every regime.
    pub indices: Vec<Index>,
}

/// What one metric does in one regime, over whole lives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normal {
    /// Mean, in the unit of the metric.
    pub mean: f64,
    /// Standard deviation, > 0.
    pub sd: f64,
    /// Lowest value that the model may judge.
    pub lowest: f64,
    /// Highest value that the model may judge.
    pub highest: f64,
}

/// A wear index: a constant and a weighted sum of the metrics in standard units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// The constant.
    pub offset: f32,
    /// Weight of each metric.
    pub weights: Vec<f32>,
}

impl Index {
    /// Value of the index for metrics in standard units.
    pub fn of(&self, standard: &[f32]) -> f32 {
        self.offset + self.weights.iter().zip(standard).map(|(weight, value)| weight * value).sum::<f32>()
    }
}

/// How a repair shows: one index jumps towards new (Page's CUSUM on its distance from its average).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repair {
    /// Which index.
    pub index: u8,
    /// Noise of that index from sample to sample, positive if the index falls with wear, negative if it grows.
    pub noise: f32,
}

/// Why a sample cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Doubt {
    /// This setting is missing.
    Setting(u8),
    /// No regime has these settings.
    Regime,
    /// This metric has not been there for too long, or never.
    Missing(u8),
    /// This metric is out of the range seen in this regime.
    Range { metric: u8, regime: u8, value: f64 },
}

impl Frame {
    /// How many wear indices there are.
    pub fn index_count(&self) -> usize {
        self.regimes.first().map_or(0, |regime| regime.indices.len())
    }

    /// The regime of a sample and its metrics in standard units; none where one is missing.
    pub(super) fn standardise(&self, sample: &BTreeMap<String, f64>) -> Result<(&Regime, Vec<Option<f32>>), Doubt> {
        let value = |name: &String| sample.get(name).copied().filter(|value| value.is_finite());
        let mut settings = Vec::with_capacity(self.settings.len());
        for (at, name) in (0..).zip(&self.settings) {
            settings.push(value(name).ok_or(Doubt::Setting(at))?);
        }
        let (regime_at, regime) = (0..).zip(&self.regimes).find(|(_, regime)| regime.holds(&settings)).ok_or(Doubt::Regime)?;
        let standard = (0..)
            .zip(self.metrics.iter().zip(&regime.metrics))
            .map(|(metric, (name, normal))| match value(name) {
                None => Ok(None),
                Some(value) if value < normal.lowest || value > normal.highest => Err(Doubt::Range { metric, regime: regime_at, value }),
                Some(value) => Ok(Some(narrow((value - normal.mean) / normal.sd))),
            })
            .collect::<Result<_, _>>()?;
        Ok((regime, standard))
    }

    /// The indicator and one sentence that tell of the doubt.
    pub(super) fn explain(&self, doubt: Doubt) -> (String, String) {
        let name = |names: &[String], at: u8| names.get(usize::from(at)).cloned().unwrap_or_default();
        match doubt {
            Doubt::Setting(at) => {
                let setting = name(&self.settings, at);
                let text = format!("The newest sample lacks {setting}, which tells how the machine is operated.");
                (setting, text)
            }
            Doubt::Regime => {
                let settings = self.settings.join(", ");
                let text = format!("The newest sample is from an operating regime that the model has not seen: see {settings}.");
                (self.settings.first().cloned().unwrap_or_default(), text)
            }
            Doubt::Missing(at) => {
                let metric = name(&self.metrics, at);
                let text = format!("The samples lack {metric}, which the model needs.");
                (metric, text)
            }
            Doubt::Range { metric, regime, value } => {
                let normal = self.regimes.get(usize::from(regime)).and_then(|regime| regime.metrics.get(usize::from(metric)));
                let metric = name(&self.metrics, metric);
                let (lowest, highest) = normal.map_or((f64::NAN, f64::NAN), |normal| (normal.lowest, normal.highest));
                let text = format!("{metric} is {value} in the newest sample; the model knows {lowest:.4} to {highest:.4} there.");
                (metric, text)
            }
        }
    }

    /// Refuses a frame whose parts do not fit.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let metrics = self.metrics.len();
        let indices = self.index_count();
        let sizes = (1..=METRICS_MAX).contains(&metrics)
            && (1..=INDICES_MAX).contains(&indices)
            && (1..=REGIMES_MAX).contains(&self.regimes.len())
            && self.settings.len() <= METRICS_MAX
            && self.as_new.len() == metrics;
        let regimes = self.regimes.iter().all(|regime| {
            regime.settings.len() == self.settings.len()
                && regime.metrics.len() == metrics
                && regime.indices.len() == indices
                && regime.indices.iter().all(|index| index.weights.len() == metrics)
        });
        let regime_numbers = self.regimes.iter().all(|regime| {
            regime.metrics.iter().all(|normal| normal.mean.is_finite() && normal.sd.is_finite() && normal.sd > 0.0)
                && regime.indices.iter().all(|index| index.offset.is_finite() && index.weights.iter().all(|weight| weight.is_finite()))
        });
        let numbers = regimes && regime_numbers && self.as_new.iter().all(|value| value.is_finite());
        let repair = usize::from(self.repair.index) < indices && self.repair.noise.is_finite() && self.repair.noise != 0.0;
        if sizes && numbers && repair { Ok(()) } else { Err(ModelError::Invalid("its frame contradicts itself")) }
    }
}

impl Regime {
    fn holds(&self, settings: &[f64]) -> bool {
        self.settings.iter().zip(settings).all(|((lowest, highest), value)| (lowest..=highest).contains(&value))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "features are single precision")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}
