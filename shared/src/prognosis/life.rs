//! What is remembered of one machine: O(1) in the length of its life.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::frame::{Doubt, Frame, Repair, narrow};
use super::{JOINED_MAX, Model};

/// Discount per cycle of the averages: memories of about 100, 33, 10 and 3 cycles.
const DISCOUNTS: [f64; SCALES] = [0.01, 0.03, 0.1, 0.3];
const SCALES: usize = 4;
/// Scales of which the features have the slope.
const SLOW_SCALES: usize = 3;
/// The scale by which single metrics are followed.
const METRIC_SCALE: usize = 2;
/// The first samples of a life, whose mean is its start.
const START_SAMPLES: u32 = 12;
/// Samples after which a slope counts in full.
const SLOPE_SAMPLES: f64 = 10.0;
/// So many samples in a row may lack a metric; its average stands in for it.
const MISSING_MAX: u8 = 5;
/// Samples in a row that have to go on from each other until a machine is another one in the middle of its life.
const TOLD_MID_LIFE: u8 = 20;
/// Gaps beyond this change nothing any more: the oldest memory is 100 cycles.
const GAP_MAX: u64 = 1000;
/// CUSUM of a repair, in noises of the index: what is forgiven per sample, what one sample can add, what is a repair.
/// On the C-MAPSS training sets it finds the six engines that were repaired, and no other.
const REPAIR_SLACK: f64 = 1.5;
const REPAIR_STEP_MAX: f64 = 6.0;
const REPAIR_LIMIT: f64 = 10.0;

/// Features per wear index: levels, distances from the start, slopes, the start itself.
const FEATURES_PER_INDEX: usize = 2 * SCALES + SLOW_SCALES + 1;

/// The life of one machine so far, as far as its model needs it.
///
/// - A sample with the cycle of the one before changes nothing.
/// - One with a lower cycle, or so far ahead as no life is long, is left out: it may be odd. If the next one goes on from it, a
///   lower one began a new life, of which that next one is the first sample; one ahead was right. A life that would begin
///   anew in its middle takes twenty in a row.
/// - Samples without a cycle are counted, each as one cycle.
/// - Cycles without a sample age the machine and fade the averages.
/// - A metric that a sample lacks is taken at its average; a sample of an unknown regime or with a value out of range is left out.
/// - After a repair the averages begin anew; age and start stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// Cycle of the first sample.
    pub(super) joined: Option<u64>,
    /// Cycle of the newest sample.
    pub(super) newest: Option<u64>,
    /// Cycle of the sample that did not fit, if it was the last one to come, and how many went on to it.
    odd: Option<(u64, u8)>,
    /// Cycle of the newest sample that counts.
    folded: u64,
    /// Samples that count.
    pub(super) samples: u32,
    /// Of those, since the newest repair.
    averaged: u32,
    /// Why the newest sample does not count.
    pub(super) doubt: Option<Doubt>,
    /// Evidence of a repair.
    repair: f32,
    /// Discounted sums of 1, age and age squared, by scale.
    weights: [[f32; 3]; SCALES],
    indices: Vec<IndexTrack>,
    metrics: Vec<MetricTrack>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct IndexTrack {
    start: f32,
    /// Discounted sums of the value and of its product with age, by scale.
    sums: [[f32; 2]; SCALES],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct MetricTrack {
    start: f32,
    sum: f32,
    missing: u8,
    seen: bool,
}

impl Life {
    /// Before the first sample.
    pub fn new() -> Self {
        Self::default()
    }

    /// Folds one sample; `cycle` is the age of the machine. Answers whether it was taken up.
    pub fn fold(&mut self, model: &Model, cycle: Option<u64>, metrics: &BTreeMap<String, f64>) -> bool {
        self.follow(&model.content().frame, cycle, metrics)
    }

    /// [`Self::fold`] for a model that is still being trained.
    pub fn follow(&mut self, frame: &Frame, cycle: Option<u64>, metrics: &BTreeMap<String, f64>) -> bool {
        let at = cycle.unwrap_or_else(|| self.newest.map_or(1, |newest| newest.saturating_add(1)));
        let goes_on = |from: u64| from < at && at - from <= frame.life_max;
        if let Some(newest) = self.newest.filter(|newest| !goes_on(*newest)) {
            if at == newest {
                return false;
            }
            let told = self.odd.filter(|(odd, _)| goes_on(*odd)).map_or(0, |(_, told)| told);
            let enough = if at > newest || at <= JOINED_MAX { 1 } else { TOLD_MID_LIFE };
            if told < enough {
                self.odd = Some((at, told + 1));
                return false;
            }
        }
        self.odd = None;
        let fits = self.indices.len() == frame.index_count() && self.metrics.len() == frame.metrics.len();
        if !fits || self.newest.is_some_and(|newest| at < newest) {
            *self = Self::default();
            self.indices.resize(frame.index_count(), IndexTrack::default());
            self.metrics.resize(frame.metrics.len(), MetricTrack::default());
        }
        self.joined = self.joined.or(Some(at));
        self.newest = Some(at);
        let judged = frame.standardise(metrics).and_then(|(regime, standard)| Ok((regime, self.complete(&standard)?)));
        self.doubt = match judged {
            Ok((regime, standard)) => {
                let values: Vec<f32> = regime.indices.iter().map(|index| index.of(&standard)).collect();
                self.count(frame.repair, at, &standard, &values);
                None
            }
            Err(doubt) => Some(doubt),
        };
        true
    }

    /// Puts its average where a metric is missing.
    fn complete(&mut self, standard: &[Option<f32>]) -> Result<Vec<f32>, Doubt> {
        let weight = self.metric_weight();
        let mut doubt = None;
        let mut complete = Vec::with_capacity(standard.len());
        for (at, (track, value)) in (0..).zip(self.metrics.iter_mut().zip(standard)) {
            track.missing = if value.is_some() { 0 } else { track.missing.saturating_add(1) };
            if track.missing > MISSING_MAX || (value.is_none() && !track.seen) {
                doubt = doubt.or(Some(Doubt::Missing(at)));
            }
            complete.push(value.unwrap_or(track.sum / weight));
        }
        doubt.map_or(Ok(complete), Err)
    }

    /// Sum of the weights in the averages of the metrics; 1 before the first sample.
    fn metric_weight(&self) -> f32 {
        self.weights.get(METRIC_SCALE).map_or(1.0, |[weight, ..]| if *weight > 0.0 { *weight } else { 1.0 })
    }

    fn count(&mut self, repair: Repair, at: u64, standard: &[f32], values: &[f32]) {
        if self.repaired(repair, values) {
            (self.averaged, self.repair) = (0, 0.0);
            self.weights = Default::default();
            self.indices.iter_mut().for_each(|track| track.sums = Default::default());
            self.metrics.iter_mut().for_each(|track| track.sum = 0.0);
        }
        let gap = if self.averaged == 0 { 1 } else { at.saturating_sub(self.folded).clamp(1, GAP_MAX) };
        let start_share = if self.samples < START_SAMPLES { 1.0 / f64::from(self.samples + 1) } else { 0.0 };
        let kept = DISCOUNTS.map(|discount| power(1.0 - discount, gap));
        let gap = f64::from(u32::try_from(gap).unwrap_or(u32::MAX));
        for ([w0, w1, w2], kept) in self.weights.iter_mut().zip(kept) {
            let (s0, s1, s2) = (f64::from(*w0), f64::from(*w1), f64::from(*w2));
            *w2 = narrow(kept * (s2 + 2.0 * gap * s1 + gap * gap * s0));
            *w1 = narrow(kept * (s1 + gap * s0));
            *w0 = narrow(kept * s0 + 1.0);
        }
        for (track, value) in self.indices.iter_mut().zip(values) {
            let value = f64::from(*value);
            track.start = narrow(f64::from(track.start) + start_share * (value - f64::from(track.start)));
            for ([sum, by_age], kept) in track.sums.iter_mut().zip(kept) {
                let (y, ky) = (f64::from(*sum), f64::from(*by_age));
                *by_age = narrow(kept * (ky + gap * y));
                *sum = narrow(kept * y + value);
            }
        }
        let kept = kept.get(METRIC_SCALE).copied().unwrap_or_default();
        for (track, value) in self.metrics.iter_mut().zip(standard) {
            let value = f64::from(*value);
            track.start = narrow(f64::from(track.start) + start_share * (value - f64::from(track.start)));
            track.sum = narrow(kept * f64::from(track.sum) + value);
            track.seen = true;
        }
        self.folded = at;
        self.samples = self.samples.saturating_add(1);
        self.averaged = self.averaged.saturating_add(1);
    }

    /// Does the index of repairs jump towards new?
    fn repaired(&mut self, repair: Repair, values: &[f32]) -> bool {
        let at = usize::from(repair.index);
        let Some(value) = values.get(at) else { return false };
        let average = self.index_average(at);
        if self.averaged < START_SAMPLES {
            return false;
        }
        let surprise = f64::from(value - average) / f64::from(repair.noise);
        let evidence = f64::from(self.repair) + (surprise - REPAIR_SLACK).min(REPAIR_STEP_MAX);
        self.repair = narrow(evidence.max(0.0));
        evidence > REPAIR_LIMIT
    }

    /// Is the newest sample the first of a life, or the first after a repair?
    pub fn begins_anew(&self) -> bool {
        self.averaged == 1
    }

    /// What the model sees: the age in cycles, then for each wear index its levels, its distances from the start of the
    /// life, its slopes per 100 cycles and the start.
    pub fn features(&self) -> Vec<f32> {
        let mut features = Vec::with_capacity(1 + self.indices.len() * FEATURES_PER_INDEX);
        features.push(narrow(f64::from(u32::try_from(self.newest.unwrap_or(0)).unwrap_or(u32::MAX))));
        let trust = (f64::from(self.averaged.saturating_sub(1)) / SLOPE_SAMPLES).min(1.0);
        for track in &self.indices {
            let level = |([sum, _], [weight, ..]): (&[f32; 2], &[f32; 3])| if *weight > 0.0 { sum / weight } else { 0.0 };
            let levels = || track.sums.iter().zip(&self.weights).map(level);
            features.extend(levels());
            features.extend(levels().map(|level| level - track.start));
            features.extend(
                track.sums.iter().zip(&self.weights).take(SLOW_SCALES).map(|(sums, weights)| narrow(trust * slope(*sums, *weights))),
            );
            features.push(track.start);
        }
        features
    }

    /// Average of a wear index.
    pub fn index_average(&self, index: usize) -> f32 {
        self.indices.get(index).and_then(|track| track.sums.get(METRIC_SCALE)).map_or(0.0, |[sum, _]| sum / self.metric_weight())
    }

    /// Of each metric in standard units: its average and its start.
    pub(super) fn metrics(&self) -> impl Iterator<Item = (f32, f32)> {
        let weight = self.metric_weight();
        self.metrics.iter().map(move |track| (track.sum / weight, track.start))
    }
}

/// The wear index of each feature but the first, which is the age.
pub(super) fn index_of_feature(feature: usize) -> Option<usize> {
    feature.checked_sub(1).map(|feature| feature / FEATURES_PER_INDEX)
}

/// How many features a machine with so many wear indices has.
pub(super) const fn feature_count(indices: usize) -> usize {
    1 + indices * FEATURES_PER_INDEX
}

/// Slope per 100 cycles of the discounted least-squares line.
fn slope([sum, by_age]: [f32; 2], [w0, w1, w2]: [f32; 3]) -> f64 {
    let (y, ky, s0, s1, s2) = (f64::from(sum), f64::from(by_age), f64::from(w0), f64::from(w1), f64::from(w2));
    let determinant = s0 * s2 - s1 * s1;
    if determinant > 1e-3 { -100.0 * (s0 * ky - s1 * y) / determinant } else { 0.0 }
}

/// `base^exponent` by squaring: the same bits on every machine.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}
