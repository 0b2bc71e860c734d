//! From rows of features to trees, networks and intervals.

use forust_ml::data::Matrix;
use forust_ml::gradientbooster::{GradientBooster, GrowPolicy};
use forust_ml::objective::ObjectiveType;
use forust_ml::sampler::SampleMethod;
use shared::prognosis::{Band, Forest, Frame, Knot, Life, Networks, Node, STANDARD_MAX, Tree};

use super::{TrainError, float, float32, network, single};
use crate::runs::Runs;

/// Rows for training; more are thinned out, for neighbours of one life are almost equal.
const ROWS_MAX: usize = 60_000;
/// Rows with more life left than this many caps teach nothing new about it.
const LEFT_MAX_CAPS: f64 = 1.6;
/// Knots of the interval.
const KNOTS: usize = 12;
/// Share of the calibration that an interval must hold for 0.9 of other lives: rows of one life err together, so that an
/// interval that holds 0.9 of the lives it was made from held 0.887 of the others.
const CALIBRATED: f64 = 0.915;
/// The least error that is expected, as a share of the cap.
const SPREAD_MIN_SHARE: f64 = 0.004;

/// What one sample shows.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) life: usize,
    pub(super) cycle: u64,
    /// Which sample of its life.
    pub(super) at: usize,
    /// Cycles to the failure.
    pub(super) left: f64,
    /// Average of the repair index.
    pub(super) level: f32,
    pub(super) features: Vec<f32>,
    /// Does the failure end the life that shows here, and not one after a repair?
    pub(super) counts: bool,
}

/// The rows of these lives as the stream would see them.
pub(super) fn rows(runs: &Runs, lives: &[usize], begins: &[usize], frame: &Frame) -> Vec<Row> {
    let mut rows = Vec::new();
    for life in lives {
        let Some(run) = runs.lives.get(*life) else { continue };
        let begin = begins.get(*life).copied().unwrap_or_default();
        let (mut state, mut at) = (Life::new(), 0);
        runs.replay(run, |sample, metrics| {
            state.follow(frame, Some(sample.cycle), metrics);
            let left = float(usize::try_from(run.end() - sample.cycle).unwrap_or(usize::MAX));
            let level = state.index_average(usize::from(frame.repair.index));
            rows.push(Row { life: *life, cycle: sample.cycle, at, left, level, features: state.features(), counts: at >= begin });
            at += 1;
        });
    }
    rows
}

/// The rows to learn from.
pub(super) fn teaching(rows: &[Row], cap: f64) -> Vec<&Row> {
    let useful: Vec<&Row> = rows.iter().filter(|row| row.counts && row.left <= LEFT_MAX_CAPS * cap).collect();
    let stride = useful.len().div_ceil(ROWS_MAX).max(1);
    useful.into_iter().filter(|row| (row.at + row.life).is_multiple_of(stride)).collect()
}

/// How much work goes into a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Trees that predict the life that is left.
    pub(super) trees: usize,
    /// Networks whose mean is taken.
    pub(super) networks: u64,
    /// How often each network sees each row.
    pub(super) epochs: usize,
}

impl Effort {
    /// More makes files larger and answers slower, but cross-validation no better.
    pub(super) const FULL: Self = Self { trees: 300, networks: 3, epochs: 30 };
}

/// How trees are grown.
struct Growth {
    trees: usize,
    leaves: usize,
    rate: f32,
    /// Rows in a leaf, as a share of all.
    leaf_share: f64,
}

/// For the error to expect.
const SPREAD: Growth = Growth { trees: 80, leaves: 8, rate: 0.06, leaf_share: 1.0 / 200.0 };

/// Trees that predict `targets` from rows of features.
fn forest(rows: &[&[f32]], targets: &[f64], growth: &Growth, seed: u64) -> Result<Forest, TrainError> {
    let width = rows.first().map_or(0, |row| row.len());
    let columns: Vec<f64> =
        (0..width).flat_map(|at| rows.iter().map(move |row| row.get(at).map_or(0.0, |value| f64::from(*value)))).collect();
    let mut booster = GradientBooster::default()
        .set_objective_type(ObjectiveType::SquaredLoss)
        .set_iterations(growth.trees)
        .set_learning_rate(growth.rate)
        .set_max_depth(12)
        .set_max_leaves(growth.leaves)
        .set_l2(5.0)
        .set_min_leaf_weight(single((float(rows.len()) * growth.leaf_share).clamp(5.0, 500.0)))
        .set_nbins(64)
        .set_sample_method(SampleMethod::Random)
        .set_subsample(0.5)
        .set_colsample_bytree(0.4)
        .set_initialize_base_score(true)
        .set_parallel(false)
        .set_seed(seed);
    booster.grow_policy = GrowPolicy::LossGuide;
    booster
        .fit_unweighted(&Matrix::new(&columns, rows.len(), width), targets, None)
        .map_err(|error| TrainError::Booster(error.to_string()))?;
    let narrow = |number: usize| u16::try_from(number).map_err(|_| TrainError::Booster("a tree is too large".into()));
    let mut trees = Vec::with_capacity(booster.trees.len());
    for tree in &booster.trees {
        let mut nodes = Vec::with_capacity(tree.nodes.len());
        // The number of a node is its place, and children come after their parent.
        for node in &tree.nodes {
            nodes.push(if node.is_leaf {
                Node::Leaf(node.weight_value)
            } else {
                let feature = u8::try_from(node.split_feature).map_err(|_| TrainError::Booster("there are too many features".into()))?;
                Node::Split {
                    feature,
                    threshold: single(node.split_value),
                    left: narrow(node.left_child)?,
                    right: narrow(node.right_child)?,
                }
            });
        }
        trees.push(Tree { nodes });
    }
    Ok(Forest { base: single(booster.base_score), trees })
}

/// Trees and networks that predict the life that is left, up to `cap`.
pub(super) fn point(rows: &[&Row], cap: f64, effort: Effort, seed: u64) -> Result<(Forest, Networks), TrainError> {
    let features: Vec<&[f32]> = rows.iter().map(|row| row.features.as_slice()).collect();
    let targets: Vec<f64> = rows.iter().map(|row| row.left.min(cap)).collect();
    let growth = Growth { trees: effort.trees, leaves: 31, rate: 0.05, leaf_share: 1.0 / 450.0 };
    let forest = forest(&features, &targets, &growth, seed)?;
    let width = features.first().map_or(0, |row| row.len());
    let count = float(features.len()).max(1.0);
    let input = |at: usize| {
        let values = || features.iter().filter_map(|row| row.get(at)).map(|value| f64::from(*value));
        let mean = values().sum::<f64>() / count;
        let sd = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        (single(mean), single(if sd > 1e-9 { 1.0 / sd } else { 0.0 }))
    };
    let inputs: Vec<(f32, f32)> = (0..width).map(input).collect();
    let standard = |(value, (mean, per_sd)): (&f32, &(f32, f32))| ((value - mean) * per_sd).clamp(-STANDARD_MAX, STANDARD_MAX);
    let standardised: Vec<f32> = features.iter().flat_map(|row| row.iter().zip(&inputs).map(standard)).collect();
    let shares: Vec<f32> = targets.iter().map(|target| single(target / cap)).collect();
    let networks =
        (0..effort.networks).map(|at| network::train(&standardised, width, &shares, effort.epochs, seed.wrapping_add(at))).collect();
    Ok((forest, Networks { inputs, scale: single(cap), networks }))
}

/// A prediction for a life that the model had not seen, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Unseen<'a> {
    pub(super) row: &'a Row,
    pub(super) predicted: f64,
    /// The life that was left, up to the cap.
    pub(super) left: f64,
}

/// The interval that holds [`shared::prognosis::COVERAGE_TARGET`] of what comes of predictions.
pub(super) fn band(unseen: &[&Unseen<'_>], cap: f64, seed: u64) -> Result<Band, TrainError> {
    let with_prediction =
        |unseen: &&Unseen<'_>| unseen.row.features.iter().copied().chain([single(unseen.predicted)]).collect::<Vec<f32>>();
    let stride = unseen.len().div_ceil(ROWS_MAX).max(1);
    let thinned: Vec<&Unseen<'_>> = unseen.iter().copied().step_by(stride).collect();
    let features: Vec<Vec<f32>> = thinned.iter().map(with_prediction).collect();
    let errors: Vec<f64> = thinned.iter().map(|unseen| (unseen.left - unseen.predicted).abs()).collect();
    let spread = forest(&features.iter().map(Vec::as_slice).collect::<Vec<_>>(), &errors, &SPREAD, seed)?;
    let mut band = Band { spread, spread_min: single(SPREAD_MIN_SHARE * cap), knots: Vec::new() };
    let mut scored: Vec<(f64, f64)> = unseen
        .iter()
        .map(|unseen| {
            (unseen.predicted, (unseen.left - unseen.predicted) / band.expected_error(&unseen.row.features, single(unseen.predicted)))
        })
        .collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    for bin in scored.chunks(scored.len().div_ceil(KNOTS).max(1)) {
        let mut scores: Vec<f64> = bin.iter().map(|(_, score)| *score).collect();
        scores.sort_by(f64::total_cmp);
        let at = bin.iter().map(|(predicted, _)| predicted).sum::<f64>() / float(bin.len());
        let tail = (1.0 - CALIBRATED) / 2.0;
        let (below, above) = (-quantile(&scores, tail), quantile(&scores, 1.0 - tail));
        band.knots.push(Knot { at: single(at), below: single(below.max(0.0)), above: single(above.max(0.0)) });
    }
    Ok(band)
}

/// Of ascending values.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    let at = (share.clamp(0.0, 1.0) * float(values.len().saturating_sub(1))).round() as usize;
    values.get(at).copied().unwrap_or_default()
}

/// What a machine as new looks like: mean features, and mean level of the repair index there and at the end.
pub(super) fn as_new(rows: &[Row], cap: f64) -> (Vec<f32>, (f32, f32)) {
    let new: Vec<&Row> = rows.iter().filter(|row| row.counts && (20..40).contains(&row.cycle) && row.left >= 0.8 * cap).collect();
    let end: Vec<&Row> = rows.iter().filter(|row| row.counts && row.left <= 0.03 * cap).collect();
    let new = if new.is_empty() { rows.iter().collect() } else { new };
    let width = rows.first().map_or(0, |row| row.features.len());
    let mean = |at: usize| new.iter().filter_map(|row| row.features.get(at)).sum::<f32>() / float32(new.len());
    let level = |rows: &[&Row]| rows.iter().map(|row| row.level).sum::<f32>() / float32(rows.len().max(1));
    ((0..width).map(mean).collect(), (level(&new), level(&end)))
}
