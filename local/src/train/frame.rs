//! Finding the frame of a kind of machine: regimes, useful metrics and wear indices.

use std::collections::{BTreeMap, BTreeSet};

use shared::prognosis::{Frame, INDICES_MAX, Index, METRICS_MAX, Normal, REGIMES_MAX, Regime, Repair};

use super::linear::{Matrix, add_outer, directions, solve, zeros};
use super::{TrainError, float, single};
use crate::runs::{Run, Runs};

/// A gap in the values of a setting that is wider than this share of its range parts two clusters.
const GAP_SHARE: f64 = 0.04;
/// A setting with more clusters has no regimes.
const CLUSTERS_MAX: usize = 12;
/// A regime with fewer samples is an accident.
const REGIME_SAMPLES_MIN: usize = 50;
/// A metric with fewer values than this is a switch or a rounded constant, and measures nothing.
const VALUES_MIN: usize = 10;
/// Lives must move a metric by so many times what noise does (squares of the means at both ends).
const SIGNAL_MIN: f64 = 4.0;
/// Samples at either end of a life that show its start and its end.
const END_SAMPLES: usize = 20;
/// Wear directions; the other indices are regressions.
const DIRECTIONS: usize = 4;
/// What a ridge regression adds to the diagonal, in samples.
const RIDGE: f64 = 10.0;
/// A range that the model may judge is that seen, and this share more on either side.
const MARGIN_SHARE: f64 = 0.5;

/// A sample of the frame's metrics.
struct Point {
    life: usize,
    regime: usize,
    values: Vec<f64>,
    /// Cycles to the failure.
    left: f64,
    /// Which sample of its life.
    at: usize,
}

/// Finds the frame. `from` is the sample of each life with which its newest life begins: after the last repair.
pub(super) fn find(runs: &Runs, lives: &[usize], from: &[usize], settings: &[String], cap: f64) -> Result<Frame, TrainError> {
    let place = |name: &String| runs.metrics.iter().position(|metric| metric == name).ok_or_else(|| TrainError::NoSetting(name.clone()));
    let settings_at = settings.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let bounds = regimes(runs, lives, &settings_at)?;
    let candidates: Vec<usize> = (0..runs.metrics.len()).filter(|at| !settings_at.contains(at)).collect();
    let mut points = Vec::new();
    for life in lives {
        let Some(run) = runs.lives.get(*life) else { continue };
        for (at, sample) in run.samples.iter().enumerate().skip(from.get(*life).copied().unwrap_or_default()) {
            let setting = |at: &usize| sample.values.get(*at).copied().unwrap_or(f64::NAN);
            let holds = |bounds: &Vec<(f64, f64)>| {
                settings_at.iter().zip(bounds).all(|(at, (lowest, highest))| (lowest..=highest).contains(&&setting(at)))
            };
            let Some(regime) = bounds.iter().position(holds) else { continue };
            let values: Vec<f64> = candidates.iter().map(setting).collect();
            let left = float(usize::try_from(run.end() - sample.cycle).unwrap_or(usize::MAX));
            points.push(Point { life: *life, regime, values, left, at });
        }
    }
    let normals: Vec<Vec<Normal>> = (0..bounds.len()).map(|regime| normals(&points, regime, candidates.len())).collect();
    let used = useful(&points, &normals);
    if used.is_empty() {
        return Err(TrainError::NoMetric);
    }
    let pick = |all: &[Normal]| -> Vec<Normal> { used.iter().filter_map(|at| all.get(*at).copied()).collect() };
    let normals: Vec<Vec<Normal>> = normals.iter().map(|all| pick(all)).collect();
    for point in &mut points {
        let normals = normals.get(point.regime).map_or(&[][..], Vec::as_slice);
        let standard = |(at, normal): (&usize, &Normal)| point.values.get(*at).map_or(0.0, |value| (value - normal.mean) / normal.sd);
        point.values = used.iter().zip(normals).map(standard).map(|value| if value.is_finite() { value } else { 0.0 }).collect();
    }
    let metrics = used.iter().filter_map(|at| runs.metrics.get(*candidates.get(*at)?).cloned()).collect();
    let (indices, repair) = indices(&points, bounds.len(), used.len(), cap);
    let regimes = bounds.into_iter().zip(normals).zip(indices).map(|((settings, metrics), indices)| Regime { settings, metrics, indices });
    let life_max = lives.iter().filter_map(|life| runs.lives.get(*life)).map(Run::end).max().unwrap_or_default();
    Ok(Frame { settings: settings.to_vec(), metrics, regimes: regimes.collect(), as_new: as_new(&points, used.len()), repair, life_max })
}

/// Lowest and highest value of each setting in each regime: the clusters of the settings that occur together.
fn regimes(runs: &Runs, lives: &[usize], settings: &[usize]) -> Result<Vec<Vec<(f64, f64)>>, TrainError> {
    let samples = || lives.iter().filter_map(|life| runs.lives.get(*life)).flat_map(|run| &run.samples);
    let clusters: Vec<Vec<(f64, f64)>> =
        settings.iter().map(|at| clusters(samples().filter_map(|sample| sample.values.get(*at).copied()))).collect();
    let mut counts: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    for sample in samples() {
        let cluster = |(at, clusters): (&usize, &Vec<(f64, f64)>)| {
            let value = sample.values.get(*at)?;
            clusters.iter().position(|(lowest, highest)| (lowest..=highest).contains(&value))
        };
        if let Some(regime) = settings.iter().zip(&clusters).map(cluster).collect::<Option<Vec<_>>>() {
            *counts.entry(regime).or_default() += 1;
        }
    }
    counts.retain(|_, count| *count >= REGIME_SAMPLES_MIN);
    if counts.is_empty() || counts.len() > REGIMES_MAX {
        return Err(TrainError::Regimes(counts.len()));
    }
    let bounds = |regime: Vec<usize>| regime.iter().zip(&clusters).filter_map(|(at, clusters)| clusters.get(*at).copied()).collect();
    Ok(counts.into_keys().map(bounds).collect())
}

/// Ranges of values with wide gaps between them.
fn clusters(values: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let (Some(lowest), Some(highest)) = (values.first().copied(), values.last().copied()) else { return Vec::new() };
    let range = highest - lowest;
    let mut clusters: Vec<(f64, f64)> = Vec::new();
    for value in values {
        match clusters.last_mut() {
            Some((_, high)) if value - *high <= GAP_SHARE * range => *high = value,
            _ => clusters.push((value, value)),
        }
    }
    if clusters.len() > CLUSTERS_MAX {
        clusters = vec![(lowest, highest)];
    }
    let widen = |(low, high): (f64, f64)| {
        let margin = (MARGIN_SHARE * (high - low)).max(0.25 * GAP_SHARE * range).max(1e-3 * low.abs().max(high.abs())).max(1e-6);
        (low - margin, high + margin)
    };
    clusters.into_iter().map(widen).collect()
}

fn normals(points: &[Point], regime: usize, metrics: usize) -> Vec<Normal> {
    let of = |metric: usize| {
        let values = || {
            points
                .iter()
                .filter(|point| point.regime == regime)
                .filter_map(|point| point.values.get(metric).copied())
                .filter(|value| value.is_finite())
        };
        let count = float(values().count()).max(1.0);
        let mean = values().sum::<f64>() / count;
        let sd = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        let (low, high) = values().fold((mean, mean), |(low, high), value| (low.min(value), high.max(value)));
        let constant = sd <= 1e-9 * mean.abs().max(1.0);
        let margin = (MARGIN_SHARE * (high - low)).max(1e-3 * mean.abs()).max(1e-6);
        Normal { mean, sd: if constant { margin } else { sd }, lowest: low - margin, highest: high + margin }
    };
    (0..metrics).map(of).collect()
}

/// The metrics that measure something and move over a life, at most [`METRICS_MAX`], in their order.
fn useful(points: &[Point], normals: &[Vec<Normal>]) -> Vec<usize> {
    let standard = |point: &Point, metric: usize| {
        let normal = normals.get(point.regime).and_then(|normals| normals.get(metric))?;
        let value = (point.values.get(metric)? - normal.mean) / normal.sd;
        value.is_finite().then_some(value)
    };
    let mean = |points: &[&Point], metric: usize| {
        points.iter().filter_map(|point| standard(point, metric)).sum::<f64>() / float(points.len().max(1))
    };
    let metrics = normals.first().map_or(0, Vec::len);
    let mut found: Vec<(f64, usize)> = Vec::new();
    for metric in (0..metrics).filter(|metric| values_of(points, *metric) >= VALUES_MIN) {
        let (mut moved, mut lives, mut noise, mut steps) = (0.0, 0.0, 0.0, 0.0);
        for life in points.chunk_by(|a, b| a.life == b.life) {
            let start: Vec<&Point> = life.iter().take(END_SAMPLES).collect();
            let end: Vec<&Point> = life.iter().rev().take(END_SAMPLES).collect();
            moved += (mean(&end, metric) - mean(&start, metric)).powi(2);
            lives += 1.0;
            for (before, after) in life.iter().zip(life.iter().skip(1)) {
                if let (Some(before), Some(after)) = (standard(before, metric), standard(after, metric)) {
                    noise += (after - before).powi(2) / 2.0;
                    steps += 1.0;
                }
            }
        }
        // What noise alone would move the mean of so many samples by, squared.
        let chance = noise / f64::max(steps, 1.0) * 2.0 / float(END_SAMPLES);
        let signal = moved / f64::max(lives, 1.0);
        if signal > SIGNAL_MIN * chance {
            found.push((signal / chance.max(f64::MIN_POSITIVE), metric));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut used: Vec<usize> = found.into_iter().take(METRICS_MAX).map(|(_, metric)| metric).collect();
    used.sort_unstable();
    used
}

/// How many different values a metric has in the middle one of the regimes, counted up to [`VALUES_MIN`].
fn values_of(points: &[Point], metric: usize) -> usize {
    let mut seen: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for point in points {
        let values = seen.entry(point.regime).or_default();
        if values.len() < VALUES_MIN {
            values.extend(point.values.get(metric).filter(|value| value.is_finite()).map(|value| value.to_bits()));
        }
    }
    let mut counts: Vec<usize> = seen.values().map(BTreeSet::len).collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or_default()
}

fn as_new(points: &[Point], metrics: usize) -> Vec<f32> {
    let new = || points.iter().filter(|point| point.at < END_SAMPLES);
    let count = float(new().count()).max(1.0);
    (0..metrics).map(|metric| single(new().filter_map(|point| point.values.get(metric)).sum::<f64>() / count)).collect()
}

/// The wear indices of each regime, and the one that shows repairs.
///
/// First the directions in which lives move most against the noise from sample to sample, then regressions, per regime, of
/// the life that is left: as it is, of the end alone, and its logarithm.
fn indices(points: &[Point], regimes: usize, metrics: usize, cap: f64) -> (Vec<Vec<Index>>, Repair) {
    let (mut noise, mut wear) = (zeros(metrics), zeros(metrics));
    for life in points.chunk_by(|a, b| a.life == b.life) {
        for (before, after) in life.iter().zip(life.iter().skip(1)) {
            let step: Vec<f64> = before.values.iter().zip(&after.values).map(|(before, after)| after - before).collect();
            add_outer(&mut noise, &step, 0.5 / float(points.len()));
        }
        let (start, end) = (mean(life.iter().take(END_SAMPLES), metrics), mean(life.iter().rev().take(END_SAMPLES), metrics));
        let worn: Vec<f64> = start.iter().zip(&end).map(|(start, end)| end - start).collect();
        add_outer(&mut wear, &worn, 1.0 / float(points.len()));
    }
    steady(&mut noise);
    let shared: Vec<Index> = directions(&wear, &noise)
        .into_iter()
        .take(DIRECTIONS.min(INDICES_MAX))
        .map(|direction| Index { offset: 0.0, weights: direction.into_iter().map(single).collect() })
        .collect();
    let repair_at = shared.len();
    let targets: [&dyn Fn(f64) -> f64; 3] = [&|left| left.min(cap), &|left| left.min(0.4 * cap), &|left| -(left + 0.08 * cap).ln()];
    let mut all = vec![shared; regimes];
    for target in targets {
        let pooled = regression(points.iter(), metrics, target);
        for (regime, indices) in all.iter_mut().enumerate() {
            let own = || points.iter().filter(move |point| point.regime == regime);
            let enough = own().count() >= 20 * (metrics + 1);
            indices.push(if enough { regression(own(), metrics, target) } else { pooled.clone() });
        }
    }
    let value = |point: &Point| {
        let index = all.get(point.regime).and_then(|indices| indices.get(repair_at));
        let values: Vec<f32> = point.values.iter().map(|value| single(*value)).collect();
        index.map_or(0.0, |index| f64::from(index.of(&values)))
    };
    let steps = points.iter().zip(points.iter().skip(1)).filter(|(before, after)| before.life == after.life);
    let (count, square) = steps.fold((0, 0.0), |(count, sum), (before, after)| (count + 1, sum + (value(after) - value(before)).powi(2)));
    let noise = (square / 2.0 / float(count).max(1.0)).sqrt().max(1e-6);
    (all, Repair { index: u8::try_from(repair_at).unwrap_or_default(), noise: single(noise) })
}

fn mean<'a>(points: impl Iterator<Item = &'a Point>, metrics: usize) -> Vec<f64> {
    let (mut sum, mut count) = (vec![0.0; metrics], 0.0);
    for point in points {
        count += 1.0;
        sum.iter_mut().zip(&point.values).for_each(|(sum, value)| *sum += value);
    }
    sum.into_iter().map(|sum| sum / f64::max(count, 1.0)).collect()
}

/// Keeps a matrix positive definite.
fn steady(matrix: &mut Matrix) {
    let trace: f64 = matrix.iter().enumerate().filter_map(|(at, row)| row.get(at)).sum();
    let least = 1e-3 * trace / float(matrix.len()) + 1e-12;
    for (at, row) in matrix.iter_mut().enumerate() {
        row.iter_mut().skip(at).take(1).for_each(|cell| *cell += least);
    }
}

fn regression<'a>(points: impl Iterator<Item = &'a Point>, metrics: usize, target: &dyn Fn(f64) -> f64) -> Index {
    let mut squares = zeros(metrics + 1);
    let mut products = vec![0.0; metrics + 1];
    for point in points {
        let mut row = point.values.clone();
        row.push(1.0);
        let target = target(point.left);
        add_outer(&mut squares, &row, 1.0);
        products.iter_mut().zip(&row).for_each(|(product, value)| *product += value * target);
    }
    for (at, row) in squares.iter_mut().enumerate() {
        row.iter_mut().skip(at).take(1).for_each(|cell| *cell += RIDGE);
    }
    let mut weights: Vec<f32> = solve(&squares, &products).into_iter().map(single).collect();
    let offset = weights.pop().unwrap_or_default();
    Index { offset, weights }
}

/// The samples with which the newest life of a machine begins: 0, or the one after its last repair.
pub(super) fn begins(runs: &Runs, frame: &Frame) -> Vec<usize> {
    let begin = |run: &Run| {
        let (mut life, mut begin, mut at) = (shared::prognosis::Life::new(), 0, 0);
        runs.replay(run, |sample, metrics| {
            life.follow(frame, Some(sample.cycle), metrics);
            if life.begins_anew() {
                begin = at;
            }
            at += 1;
        });
        begin
    };
    runs.lives.iter().map(begin).collect()
}
