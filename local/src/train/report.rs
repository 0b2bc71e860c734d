//! How well lives were predicted that the model had not seen.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::prognosis::{Assessment, COVERAGE_TARGET, Life, Model};

use super::fit::{self, Row, Unseen};
use super::{Args, TrainError, float};
use crate::runs::Runs;

/// A life is cut, as if today were then, after at least so many cycles.
const CUT_CYCLE_MIN: u64 = 20;
/// And with at least so much life left.
const CUT_LEFT_MIN: f64 = 6.0;
/// And at most so much, in caps.
const CUT_LEFT_MAX_CAPS: f64 = 1.16;
/// Intervals that hold less of unseen lives than this deserve a warning.
const COVERAGE_MIN: f64 = 0.8;
/// Every so many samples the reasons are asked for.
const REASON_STRIDE: usize = 25;

/// Is this a place where a life may be cut to judge a prediction?
pub(super) fn is_cut(row: &Row, cap: f64) -> bool {
    row.cycle >= CUT_CYCLE_MIN && (CUT_LEFT_MIN..=CUT_LEFT_MAX_CAPS * cap).contains(&row.left)
}

/// One prediction with its interval and what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    file: usize,
    predicted: f64,
    lower: f64,
    upper: f64,
    left: f64,
    low: bool,
    predicted_low: bool,
}

/// Judges the predictions of each fold, with intervals learnt from the other folds.
pub(super) fn judge(folds: &[Vec<Unseen<'_>>], runs: &Runs, args: &Args) -> Result<Vec<Judged>, TrainError> {
    let mut judged = Vec::new();
    for (at, fold) in folds.iter().enumerate() {
        let others: Vec<&Unseen<'_>> = folds
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .flat_map(|(_, fold)| fold)
            .filter(|unseen| is_cut(unseen.row, args.cap) && unseen.row.counts)
            .collect();
        let band = fit::band(&others, args.cap, args.seed)?;
        for unseen in fold.iter().filter(|unseen| is_cut(unseen.row, args.cap)) {
            let (lower, upper) = band.around(&unseen.row.features, super::single(unseen.predicted));
            judged.push(Judged {
                file: runs.lives.get(unseen.row.life).map_or(0, |life| life.file),
                predicted: unseen.predicted,
                lower: lower.clamp(0.0, unseen.predicted),
                upper: upper.clamp(unseen.predicted, args.cap),
                left: unseen.left,
                low: unseen.row.left <= args.alert,
                predicted_low: unseen.predicted <= args.alert,
            });
        }
    }
    Ok(judged)
}

/// A warning if the intervals hold too little of what came of unseen lives.
pub(super) fn narrowness(judged: &[Judged], lives: usize) -> Option<String> {
    let Score { coverage, .. } = Score::of(judged.iter());
    (coverage < COVERAGE_MIN).then(|| {
        format!(
            "the intervals hold {:.0} % of what was left at cuts of unseen lives, instead of {:.0} %: they are too narrow, for {lives} \
             lives are few; train again with more",
            100.0 * coverage,
            100.0 * COVERAGE_TARGET
        )
    })
}

/// What `report.json` holds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    kind: String,
    version: String,
    model_bytes: usize,
    lives: usize,
    /// Lives in which a repair was found; what was before it is not learnt from, but judged.
    lives_repaired: usize,
    samples: usize,
    cap: f64,
    settings: Vec<String>,
    regimes: usize,
    metrics: Vec<String>,
    /// All cuts, and those of each file.
    all: Score,
    files: BTreeMap<String, Score>,
    /// By life left, from the lower to the upper bound.
    by_life_left: Vec<Bin>,
    /// Share of each metric in the reasons, largest first.
    reasons: Vec<(String, f64)>,
    /// What was said of data, thresholds and intervals that may disappoint.
    warnings: Vec<String>,
}

/// Cuts of unseen lives.
#[derive(Debug, Serialize)]
struct Score {
    cuts: usize,
    rmse: f64,
    /// Predicted minus true.
    bias: f64,
    /// Mean of `exp(-d/13) - 1` for early and `exp(d/10) - 1` for late predictions (Saxena et al., 2008).
    nasa_score_mean: f64,
    coverage: f64,
    width_mean: f64,
    /// None without a cut that is predicted to be near its end.
    alert_precision: Option<f64>,
    /// None without a cut that is near its end.
    alert_recall: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Bin {
    from: f64,
    to: f64,
    #[serde(flatten)]
    score: Score,
}

impl Score {
    fn of<'a>(judged: impl Iterator<Item = &'a Judged>) -> Self {
        let judged: Vec<&Judged> = judged.collect();
        let cuts = judged.len();
        let mean = |value: &dyn Fn(&Judged) -> f64| judged.iter().copied().map(value).sum::<f64>() / float(cuts.max(1));
        let share = |of: &dyn Fn(&Judged) -> bool, in_all: &dyn Fn(&Judged) -> bool| {
            let all = judged.iter().filter(|judged| in_all(judged)).count();
            (all > 0).then(|| float(judged.iter().filter(|judged| in_all(judged) && of(judged)).count()) / float(all))
        };
        let nasa = |judged: &Judged| {
            let late = judged.predicted - judged.left;
            if late < 0.0 { (-late / 13.0).exp_m1() } else { (late / 10.0).exp_m1() }
        };
        Self {
            cuts,
            rmse: mean(&|judged| (judged.predicted - judged.left).powi(2)).sqrt(),
            bias: mean(&|judged| judged.predicted - judged.left),
            nasa_score_mean: mean(&nasa),
            coverage: share(&|judged| (judged.lower..=judged.upper).contains(&judged.left), &|_| true).unwrap_or(0.0),
            width_mean: mean(&|judged| judged.upper - judged.lower),
            alert_precision: share(&|judged| judged.low, &|judged| judged.predicted_low),
            alert_recall: share(&|judged| judged.predicted_low, &|judged| judged.low),
        }
    }

    fn line(&self, name: &str) -> String {
        let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{share:.3}"));
        let (precision, recall) = (share(self.alert_precision), share(self.alert_recall));
        let Self { cuts, rmse, bias, nasa_score_mean, coverage, width_mean, .. } = self;
        format!(
            "{name:<24} {cuts:>7} {rmse:>6.2} {bias:>+6.2} {nasa_score_mean:>6.2} {coverage:>8.3} {width_mean:>6.1} {precision:>9} {recall:>6}"
        )
    }
}

impl Report {
    pub(super) fn new(
        model: &Model,
        model_bytes: usize,
        lives_repaired: usize,
        runs: &Runs,
        judged: &[Judged],
        warnings: Vec<String>,
    ) -> Self {
        let content = model.content();
        let files = runs
            .files
            .iter()
            .enumerate()
            .map(|(at, file)| (file.clone(), Score::of(judged.iter().filter(move |judged| judged.file == at))));
        let bounds = [0.0, 0.08, 0.24, 0.48, 0.72, 1.0].map(|share| share * content.cap);
        let bins = bounds.iter().zip(bounds.iter().skip(1)).map(|(from, to)| Bin {
            from: *from,
            to: *to,
            score: Score::of(judged.iter().filter(move |judged| *from < judged.left && judged.left <= *to)),
        });
        Self {
            kind: content.kind.clone(),
            version: model.version().version,
            model_bytes,
            lives: runs.lives.len(),
            lives_repaired,
            samples: runs.lives.iter().map(|life| life.samples.len()).sum(),
            cap: content.cap,
            settings: content.frame.settings.clone(),
            regimes: content.frame.regimes.len(),
            metrics: content.frame.metrics.clone(),
            all: Score::of(judged.iter()),
            files: files.collect(),
            by_life_left: bins.filter(|bin| bin.score.cuts > 0).collect(),
            reasons: reasons(model, runs),
            warnings,
        }
    }

    pub(super) fn to_json(&self) -> String {
        // Finite numbers and text keys: it cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let head = format!(
            "{:<24} {:>7} {:>6} {:>6} {:>6} {:>8} {:>6} {:>9} {:>6}",
            "unseen lives", "cuts", "RMSE", "bias", "score", "coverage", "width", "precision", "recall"
        );
        let name = |file: &str| std::path::Path::new(file).file_name().map_or(file.to_owned(), |name| name.to_string_lossy().into_owned());
        let mut lines = vec![
            format!(
                "{} {}: {} bytes, {} regimes, {} metrics, {} of {} lives repaired",
                self.kind,
                self.version,
                self.model_bytes,
                self.regimes,
                self.metrics.len(),
                self.lives_repaired,
                self.lives
            ),
            head,
        ];
        lines.extend(self.files.iter().map(|(file, score)| score.line(&name(file))));
        lines.push(self.all.line("all"));
        lines.extend(self.by_life_left.iter().map(|bin| bin.score.line(&format!("{:.0} to {:.0} left", bin.from, bin.to))));
        let reasons: Vec<String> = self.reasons.iter().take(8).map(|(metric, share)| format!("{metric} {:.0} %", 100.0 * share)).collect();
        lines.push(format!("largest reasons: {}", reasons.join(", ")));
        lines
    }
}

/// Share of each metric in the reasons of the model for these lives.
fn reasons(model: &Model, runs: &Runs) -> Vec<(String, f64)> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for run in &runs.lives {
        let (mut life, mut at) = (Life::new(), 0_usize);
        runs.replay(run, |sample, metrics| {
            life.fold(model, Some(sample.cycle), metrics);
            at += 1;
            if at.is_multiple_of(REASON_STRIDE)
                && let Assessment::Known(prognosis) = model.assess(&life)
            {
                for reason in prognosis.reasons {
                    *sums.entry(reason.indicator).or_default() += reason.contribution.abs();
                }
            }
        });
    }
    let whole: f64 = sums.values().sum::<f64>().max(f64::MIN_POSITIVE);
    let mut shares: Vec<(String, f64)> = sums.into_iter().map(|(metric, sum)| (metric, sum / whole)).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judged lives of which the intervals hold so many of 100.
    fn judged(held: usize) -> Vec<Judged> {
        let of = |left| Judged { file: 0, predicted: 50.0, lower: 40.0, upper: 60.0, left, low: false, predicted_low: false };
        (0..100).map(|at| of(if at < held { 55.0 } else { 65.0 })).collect()
    }

    #[test]
    fn intervals_that_hold_too_little_of_unseen_lives_are_called_too_narrow() {
        assert_eq!(narrowness(&judged(80), 12), None);
        let warning = narrowness(&judged(79), 12).unwrap();
        assert!(warning.starts_with("the intervals hold 79 % of what was left at cuts of unseen lives, instead of 90 %: "));
    }
}
