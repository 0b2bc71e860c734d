//! Training of small networks: Adam on the squared error, with a rate that falls along a cosine.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shared::prognosis::{Layer, Network};

use super::float32;

/// Outputs of the hidden layers.
const HIDDEN: [usize; 2] = [32, 16];
const BATCH: usize = 256;
const RATE: f32 = 2e-3;
/// Weight decay per step, as a share of the rate.
const DECAY: f32 = 1e-3;
/// Decay of the moments, and what keeps the division sane (Kingma and Ba, Adam, 2015).
const MOMENTS: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

/// Trains a network on standardised rows of `width` inputs.
pub(super) fn train(inputs: &[f32], width: usize, targets: &[f32], epochs: usize, seed: u64) -> Network {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut network = begin(width, &mut rng);
    let mut steps: Vec<Moments> = network.layers.iter().map(Moments::of).collect();
    let rows: Vec<(&[f32], f32)> = inputs.chunks_exact(width).zip(targets.iter().copied()).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let total = epochs * rows.len().div_ceil(BATCH);
    let (mut done, mut powers) = (0, (1.0, 1.0));
    for _ in 0..epochs {
        order.shuffle(&mut rng);
        for batch in order.chunks(BATCH) {
            let mut gradients: Vec<Layer> = network.layers.iter().map(empty_like).collect();
            for (input, target) in batch.iter().filter_map(|at| rows.get(*at)) {
                add_gradient(&network, input, *target, &mut gradients);
            }
            let rate = RATE * 0.5 * (1.0 + (std::f32::consts::PI * float32(done) / float32(total)).cos());
            done += 1;
            powers = (powers.0 * MOMENTS.0, powers.1 * MOMENTS.1);
            let scale = 2.0 / float32(batch.len());
            for (layer, (gradient, moments)) in network.layers.iter_mut().zip(gradients.iter().zip(&mut steps)) {
                step(&mut layer.weights, &gradient.weights, &mut moments.weights, (scale, rate, powers, DECAY));
                step(&mut layer.bias, &gradient.bias, &mut moments.bias, (scale, rate, powers, 0.0));
            }
        }
    }
    network
}

/// Weights as He et al. (2015) draw them.
fn begin(width: usize, rng: &mut ChaCha8Rng) -> Network {
    let mut inputs = width;
    let layers = HIDDEN.iter().copied().chain([1]).map(|outputs| {
        let bound = (6.0 / float32(inputs)).sqrt();
        let weights = (0..inputs * outputs).map(|_| rng.random_range(-bound..bound)).collect();
        inputs = outputs;
        Layer { bias: vec![0.0; outputs], weights }
    });
    Network { layers: layers.collect() }
}

fn empty_like(layer: &Layer) -> Layer {
    Layer { bias: vec![0.0; layer.bias.len()], weights: vec![0.0; layer.weights.len()] }
}

/// First and second moment of each gradient.
struct Moments {
    bias: Vec<(f32, f32)>,
    weights: Vec<(f32, f32)>,
}

impl Moments {
    fn of(layer: &Layer) -> Self {
        Self { bias: vec![(0.0, 0.0); layer.bias.len()], weights: vec![(0.0, 0.0); layer.weights.len()] }
    }
}

fn step(values: &mut [f32], gradients: &[f32], moments: &mut [(f32, f32)], (scale, rate, powers, decay): (f32, f32, (f32, f32), f32)) {
    for (value, (gradient, (first, second))) in values.iter_mut().zip(gradients.iter().zip(moments)) {
        let gradient = gradient * scale;
        *first = MOMENTS.0 * *first + (1.0 - MOMENTS.0) * gradient;
        *second = MOMENTS.1 * *second + (1.0 - MOMENTS.1) * gradient * gradient;
        let (mean, variance) = (*first / (1.0 - powers.0), *second / (1.0 - powers.1));
        *value -= rate * (mean / (variance.sqrt() + EPSILON) + decay * *value);
    }
}

/// Adds half the gradient of the squared error of one row.
fn add_gradient(network: &Network, input: &[f32], target: f32, gradients: &mut [Layer]) {
    let activations = network.activations(input);
    let output = activations.last().and_then(|outputs| outputs.first()).copied().unwrap_or_default();
    let mut delta = vec![output - target];
    for (at, (layer, gradient)) in network.layers.iter().zip(gradients).enumerate().rev() {
        let below = at.checked_sub(1).and_then(|below| activations.get(below));
        for (bias, delta) in gradient.bias.iter_mut().zip(&delta) {
            *bias += delta;
        }
        for (value, weights) in below.map_or(input, Vec::as_slice).iter().zip(gradient.weights.chunks_exact_mut(delta.len())) {
            for (weight, delta) in weights.iter_mut().zip(&delta) {
                *weight += value * delta;
            }
        }
        if let Some(below) = below {
            delta = layer.back(&delta);
            for (delta, value) in delta.iter_mut().zip(below) {
                *delta = if *value > 0.0 { *delta } else { 0.0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_learns_a_bend() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let inputs: Vec<f32> = (0..2000).map(|_| rng.random_range(-2.0..2.0)).collect();
        let bend = |row: &[f32]| row[0].max(0.0) - 0.5 * row[1];
        let targets: Vec<f32> = inputs.chunks_exact(2).map(bend).collect();
        let network = train(&inputs, 2, &targets, 60, 7);
        let error = |row: &[f32]| (network.activations(row)[2][0] - bend(row)).powi(2);
        let rms = (inputs.chunks_exact(2).map(error).sum::<f32>() / 1000.0).sqrt();
        assert!(rms < 0.1, "{rms}");
    }
}
