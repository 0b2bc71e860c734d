//! Small neural networks: their mean, and integrated gradients against a reference.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// Standard values beyond this are cut: a network must not extrapolate.
pub const STANDARD_MAX: f32 = 5.0;
/// Points on the way from the reference at which gradients are taken.
const STEPS: u8 = 4;

/// The mean of some networks over the same standardised features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Networks {
    /// Mean of each feature, and one over its standard deviation.
    pub inputs: Vec<(f32, f32)>,
    /// What the output is multiplied with.
    pub scale: f32,
    /// The networks.
    pub networks: Vec<Network>,
}

/// Layers with rectifiers between them; the last one has one output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The layers.
    pub layers: Vec<Layer>,
}

/// `outputs = bias + inputs * weights`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// One per output.
    pub bias: Vec<f32>,
    /// By input, then by output.
    pub weights: Vec<f32>,
}

impl Networks {
    /// The mean prediction.
    pub fn predict(&self, features: &[f32]) -> f64 {
        let inputs = self.standardise(features);
        let sum: f64 = self.networks.iter().map(|network| f64::from(network.predict(&inputs))).sum();
        sum / self.count() * f64::from(self.scale)
    }

    /// Adds to each feature what it contributes, times `scale`, to the difference between the prediction for `features` and
    /// that for `reference`. The contributions sum to that difference.
    ///
    /// Source: Sundararajan et al., Axiomatic attribution for deep networks (2017); the rest that the finite steps leave is
    /// spread in proportion.
    pub fn explain(&self, features: &[f32], reference: &[f32], scale: f64, contributions: &mut [f64]) {
        let (here, there) = (self.standardise(features), self.standardise(reference));
        let mut found = vec![0.0; here.len()];
        for step in 0..STEPS {
            let share = (f32::from(step) + 0.5) / f32::from(STEPS);
            let point: Vec<f32> = here.iter().zip(&there).map(|(here, there)| there + share * (here - there)).collect();
            for network in &self.networks {
                let gradient = network.gradient(&point);
                for (found, (gradient, (here, there))) in found.iter_mut().zip(gradient.iter().zip(here.iter().zip(&there))) {
                    *found += f64::from(gradient * (here - there));
                }
            }
        }
        let unit = f64::from(self.scale) / self.count() / f64::from(STEPS);
        let rest = self.predict(features) - self.predict(reference) - unit * found.iter().sum::<f64>();
        let spread: f64 = found.iter().map(|found| found.abs()).sum();
        for (contribution, found) in contributions.iter_mut().zip(&found) {
            let share = if spread > 0.0 { found.abs() / spread } else { 0.0 };
            *contribution += scale * (unit * found + rest * share);
        }
    }

    fn standardise(&self, features: &[f32]) -> Vec<f32> {
        let standard = |((mean, per_sd), feature): (&(f32, f32), &f32)| ((feature - mean) * per_sd).clamp(-STANDARD_MAX, STANDARD_MAX);
        self.inputs.iter().zip(features).map(standard).collect()
    }

    fn count(&self) -> f64 {
        f64::from(u32::try_from(self.networks.len()).unwrap_or(u32::MAX)).max(1.0)
    }

    /// Refuses networks whose layers do not fit.
    pub(super) fn check(&self, features: usize) -> Result<(), ModelError> {
        let finite = |numbers: &[f32]| numbers.iter().all(|number| number.is_finite());
        let sound = |network: &Network| {
            let mut inputs = features;
            for layer in &network.layers {
                if layer.bias.len().checked_mul(inputs) != Some(layer.weights.len()) || !finite(&layer.bias) || !finite(&layer.weights) {
                    return false;
                }
                inputs = layer.bias.len();
            }
            inputs == 1 && !network.layers.is_empty()
        };
        let inputs = self.inputs.len() == features && self.inputs.iter().all(|(mean, per_sd)| mean.is_finite() && per_sd.is_finite());
        if inputs && self.scale.is_finite() && !self.networks.is_empty() && self.networks.iter().all(sound) {
            Ok(())
        } else {
            Err(ModelError::Invalid("a network contradicts itself"))
        }
    }
}

impl Network {
    fn predict(&self, inputs: &[f32]) -> f32 {
        self.activations(inputs).last().and_then(|outputs| outputs.first()).copied().unwrap_or_default()
    }

    /// The outputs of each layer, rectified but for the last.
    pub fn activations(&self, inputs: &[f32]) -> Vec<Vec<f32>> {
        let mut activations: Vec<Vec<f32>> = Vec::with_capacity(self.layers.len());
        for (at, layer) in (1..).zip(&self.layers) {
            let mut outputs = layer.outputs(activations.last().map_or(inputs, Vec::as_slice));
            if at < self.layers.len() {
                for output in &mut outputs {
                    *output = output.max(0.0);
                }
            }
            activations.push(outputs);
        }
        activations
    }

    /// Derivatives of the output by the inputs.
    fn gradient(&self, inputs: &[f32]) -> Vec<f32> {
        let activations = self.activations(inputs);
        let mut gradient = vec![1.0];
        for (at, layer) in self.layers.iter().enumerate().rev() {
            gradient = layer.back(&gradient);
            if let Some(below) = at.checked_sub(1).and_then(|below| activations.get(below)) {
                for (gradient, activation) in gradient.iter_mut().zip(below) {
                    *gradient = if *activation > 0.0 { *gradient } else { 0.0 };
                }
            }
        }
        gradient
    }
}

impl Layer {
    fn outputs(&self, inputs: &[f32]) -> Vec<f32> {
        let mut outputs = self.bias.clone();
        for (input, weights) in inputs.iter().zip(self.weights.chunks_exact(self.bias.len())) {
            for (output, weight) in outputs.iter_mut().zip(weights) {
                *output += input * weight;
            }
        }
        outputs
    }

    /// Derivatives by the inputs, from those by the outputs.
    pub fn back(&self, gradient: &[f32]) -> Vec<f32> {
        let by_input = self.weights.chunks_exact(self.bias.len());
        by_input.map(|weights| dot(weights, gradient)).collect()
    }
}

/// Sum of products in eight lanes: a fixed order that the compiler can put into vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<8>();
    let (b_lanes, b_rest) = b.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
