//! The interval around a prediction: split conformal, scaled by the error that is expected of it.

use serde::{Deserialize, Serialize};

use super::ModelError;
use super::forest::Forest;

/// Where an interval lies around a prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// The error that is expected, from the features and, as the last one, the prediction.
    pub spread: Forest,
    /// The least error that is expected, cycles, > 0.
    pub spread_min: f32,
    /// Measured on lives that the model had not seen, by prediction; at least one, in ascending order.
    pub knots: Vec<Knot>,
}

/// How far the interval reaches at one prediction; in between, it is interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knot {
    /// The prediction, cycles.
    pub at: f32,
    /// Downwards, in expected errors.
    pub below: f32,
    /// Upwards, in expected errors.
    pub above: f32,
}

impl Band {
    /// The error that is expected of this prediction, cycles.
    pub fn expected_error(&self, features: &[f32], prediction: f32) -> f64 {
        let mut features = features.to_vec();
        features.push(prediction);
        self.spread.predict(&features).max(f64::from(self.spread_min))
    }

    /// Lower and upper end.
    pub fn around(&self, features: &[f32], prediction: f32) -> (f64, f64) {
        let error = self.expected_error(features, prediction);
        let (below, above) = self.reach(f64::from(prediction));
        (f64::from(prediction) - below * error, f64::from(prediction) + above * error)
    }

    fn reach(&self, prediction: f64) -> (f64, f64) {
        let upper = self.knots.partition_point(|knot| f64::from(knot.at) < prediction);
        let (Some(lower), Some(upper)) = (self.knots.get(upper.saturating_sub(1)), self.knots.get(upper).or(self.knots.last())) else {
            return (0.0, 0.0);
        };
        let width = f64::from(upper.at) - f64::from(lower.at);
        let share = if width > 0.0 { ((prediction - f64::from(lower.at)) / width).clamp(0.0, 1.0) } else { 0.0 };
        let between = |from: f32, to: f32| f64::from(from) + share * (f64::from(to) - f64::from(from));
        (between(lower.below, upper.below), between(lower.above, upper.above))
    }

    /// Refuses a band that says nothing.
    pub(super) fn check(&self, features: usize) -> Result<(), ModelError> {
        self.spread.check(features + 1)?;
        let finite = self.knots.iter().all(|knot| knot.at.is_finite() && knot.below.is_finite() && knot.above.is_finite());
        if finite
            && !self.knots.is_empty()
            && self.spread_min.is_finite()
            && self.spread_min > 0.0
            && self.knots.is_sorted_by(|a, b| a.at <= b.at)
        {
            Ok(())
        } else {
            Err(ModelError::Invalid("its intervals contradict themselves"))
        }
    }
}
