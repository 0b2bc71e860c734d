//! `greenwave backtest`: what a model would have said of lives whose end is known, and which alert threshold costs least.
//!
//! The lives go through the same code as the stream. An alert is raised when the life left (p50) is at or below the
//! threshold in three samples in a row, not counting those of which nothing can be said, and brings a visit that replaces the
//! machine. A failure without an alert long enough before is a miss. What is compared is the cost per 1000 cycles of work, so that a visit that comes too early costs, too.

use std::fmt::Write as _;
use std::path::PathBuf;

use shared::ids::AssetKind;
use shared::prognosis::{Assessment, Life, Model, ModelError, shipped};

use crate::runs::{Run, Runs, RunsError};

/// Samples in a row that raise an alert, as in the stream: one of which nothing can be said speaks neither for it nor against.
const CONFIRMED_BY: u32 = 3;
/// Thresholds that are tried, cycles.
const STEP: u32 = 5;

/// What `greenwave backtest` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A model file.
    #[arg(long, required_unless_present = "kind")]
    pub model: Option<PathBuf>,
    /// Instead of a file, the kind of machine whose shipped model is asked.
    #[arg(long, conflicts_with = "model")]
    pub kind: Option<String>,
    /// CSV of lives up to the failure that the model has not learnt from: columns unit, cycle and metrics. May be repeated.
    #[arg(long, required = true)]
    pub data: Vec<PathBuf>,
    /// What a failure without a timely alert costs.
    #[arg(long)]
    pub cost_miss: f64,
    /// What a visit costs.
    #[arg(long)]
    pub cost_visit: f64,
    /// Cycles that a visit needs to be arranged: a later alert is a miss.
    #[arg(long, default_value_t = 5)]
    pub lead: u64,
}

/// The history cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// A data file cannot be used.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// The model file cannot be read.
    #[error("{0}: cannot be read: {1}")]
    Read(PathBuf, std::io::Error),
    /// It is no model.
    #[error("the model {0}")]
    Model(#[from] ModelError),
    /// No such model ships.
    #[error("no model of kind '{0}' ships: give the file with --model")]
    Kind(String),
    /// Costs.
    #[error("--cost-miss and --cost-visit must be positive")]
    Cost,
    /// The model has no business with these machines.
    #[error("the model says nothing of any of these lives; of the first: {0}")]
    Unknown(String),
}

/// What the model said at one sample.
#[derive(Clone, Copy, Debug)]
struct Said {
    cycle: u64,
    /// Cycles to the failure.
    left: u64,
    /// `p50`, if it was known.
    predicted: Option<f64>,
}

/// What one threshold would have brought.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    threshold: f64,
    precision: f64,
    recall: f64,
    misses: usize,
    /// Cycles that were left at the alerts, ascending.
    leads: Vec<u64>,
    cost_per_1000: f64,
}

/// Replays the history and tells line by line what each threshold brings.
///
/// # Errors
/// [`BacktestError`] says what to do.
pub fn run(args: &Args, mut say: impl FnMut(&str)) -> Result<(), BacktestError> {
    if !(args.cost_miss > 0.0 && args.cost_visit > 0.0) {
        return Err(BacktestError::Cost);
    }
    let model = model(args)?;
    let runs = Runs::read(&args.data)?;
    let mut refusal = String::from("it has no samples");
    let lives: Vec<Vec<Said>> = runs.lives.iter().map(|life| replay(&model, &runs, life, &mut refusal)).collect();
    if lives.iter().flatten().all(|said| said.predicted.is_none()) {
        return Err(BacktestError::Unknown(refusal));
    }
    let version = model.version();
    say(&format!(
        "{} {}: {} lives replayed; only lives it has not learnt from tell how good it is",
        version.name,
        version.version,
        lives.len()
    ));
    say("threshold  precision  recall  misses  lead p10  lead p50  lead p90  cost per 1000");
    let outcomes: Vec<Outcome> = thresholds(model.content().cap).map(|threshold| outcome(&lives, threshold, args)).collect();
    for outcome in &outcomes {
        say(&outcome.line());
    }
    if let Some(best) = outcomes.iter().min_by(|a, b| a.cost_per_1000.total_cmp(&b.cost_per_1000)) {
        say(&advice(best, without_alerts(&lives, args.cost_miss), &model.content().unit));
    }
    Ok(())
}

fn advice(best: &Outcome, without_alerts: f64, unit: &str) -> String {
    let Outcome { threshold, cost_per_1000, .. } = best;
    if *cost_per_1000 >= without_alerts {
        return format!(
            "No alert pays: with one at {threshold:.0} {unit} it costs {cost_per_1000:.2} per 1000 {unit}, without alerts {without_alerts:.2}."
        );
    }
    format!(
        "Least cost with an alert at {threshold:.0} {unit}: train with --alert {threshold:.0}. Without alerts it would be {without_alerts:.2} per 1000 {unit}."
    )
}

fn model(args: &Args) -> Result<Model, BacktestError> {
    let brought = match &args.model {
        Some(path) => Some(std::fs::read(path).map_err(|error| BacktestError::Read(path.clone(), error))?),
        None => None,
    };
    let kind = args.kind.as_deref().unwrap_or_default();
    let ships = || AssetKind::try_from(kind).ok().as_ref().and_then(shipped);
    let bytes = brought.as_deref().or_else(ships).ok_or_else(|| BacktestError::Kind(kind.to_owned()))?;
    Ok(Model::from_bytes(bytes)?)
}

fn replay(model: &Model, runs: &Runs, run: &Run, refusal: &mut String) -> Vec<Said> {
    let (mut life, mut said) = (Life::new(), Vec::with_capacity(run.samples.len()));
    runs.replay(run, |sample, metrics| {
        let counts = life.fold(model, Some(sample.cycle), metrics);
        let predicted = match model.assess(&life) {
            Assessment::Known(prognosis) => counts.then_some(prognosis.remaining_useful_life.p50),
            Assessment::Unknown { text, .. } => {
                *refusal = text;
                None
            }
        };
        said.push(Said { cycle: sample.cycle, left: run.end() - sample.cycle, predicted });
    });
    said
}

/// Up to half the longest life that can be told.
fn thresholds(cap: f64) -> impl Iterator<Item = f64> {
    (1..).map(|step| f64::from(step * STEP)).take_while(move |threshold| *threshold <= 0.5 * cap)
}

fn outcome(lives: &[Vec<Said>], threshold: f64, args: &Args) -> Outcome {
    let (mut hits, mut alarms, mut due) = (0_u32, 0_u32, 0_u32);
    for said in lives.iter().flatten() {
        let Some(predicted) = said.predicted else { continue };
        let (low, is_low) = (predicted <= threshold, float(said.left) <= threshold);
        hits += u32::from(low && is_low);
        alarms += u32::from(low);
        due += u32::from(is_low);
    }
    let (mut misses, mut leads, mut worked) = (0, Vec::new(), 0.0);
    for said in lives {
        let timely = raised(said, threshold).filter(|alert| alert.left >= args.lead);
        let end = said.last().map_or(0, |last| last.cycle);
        if let Some(alert) = timely {
            leads.push(alert.left);
            worked += float(alert.cycle + args.lead);
        } else {
            misses += 1;
            worked += float(end);
        }
    }
    leads.sort_unstable();
    let cost = count(misses) * args.cost_miss + count(leads.len()) * args.cost_visit;
    let share = |of: u32, all: u32| f64::from(of) / f64::from(all.max(1));
    Outcome {
        threshold,
        precision: share(hits, alarms),
        recall: share(hits, due),
        misses,
        leads,
        cost_per_1000: 1000.0 * cost / f64::max(worked, 1.0),
    }
}

/// The sample that raises the alert.
fn raised(said: &[Said], threshold: f64) -> Option<Said> {
    let mut row = 0;
    said.iter().copied().find(|said| {
        let Some(predicted) = said.predicted else { return false };
        row = if predicted <= threshold { row + 1 } else { 0 };
        row >= CONFIRMED_BY
    })
}

fn without_alerts(lives: &[Vec<Said>], cost_miss: f64) -> f64 {
    let ends = lives.iter().filter_map(|said| said.last()).map(|last| float(last.cycle));
    1000.0 * (count(lives.len()) * cost_miss) / ends.sum::<f64>().max(1.0)
}

impl Outcome {
    fn line(&self) -> String {
        let mut line = format!("{:>9.0} {:>10.3} {:>7.3} {:>7}", self.threshold, self.precision, self.recall, self.misses);
        for tenths in [1, 5, 9] {
            let at = self.leads.len().saturating_sub(1) * tenths / 10;
            let _ = match self.leads.get(at) {
                Some(lead) => write!(line, " {lead:>9}"),
                None => write!(line, " {:>9}", "-"),
            };
        }
        let _ = write!(line, " {:>14.2}", self.cost_per_1000);
        line
    }
}

fn count(lives: usize) -> f64 {
    float(u64::try_from(lives).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "cycles are far below 2^52")]
fn float(cycles: u64) -> f64 {
    cycles as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(lead: u64) -> Args {
        Args { model: None, kind: Some("turbofan".into()), data: Vec::new(), cost_miss: 100.0, cost_visit: 10.0, lead }
    }

    /// A life of 100 cycles of which the model says the truth and `error` more.
    fn life(error: f64) -> Vec<Said> {
        (1..=100).map(|cycle| Said { cycle, left: 100 - cycle, predicted: Some((float(100 - cycle) + error).max(0.0)) }).collect()
    }

    #[test]
    fn an_alert_needs_three_samples_in_a_row() {
        let mut said = life(0.0);
        assert_eq!(raised(&said, 10.0).map(|said| said.left), Some(8));
        said[90].predicted = Some(11.0);
        assert_eq!(raised(&said, 10.0).map(|said| said.left), Some(6));
    }

    #[test]
    fn a_sample_of_which_nothing_can_be_said_delays_an_alert_by_no_more_than_itself() {
        let mut said = life(0.0);
        said[90].predicted = None;
        assert_eq!(raised(&said, 10.0).map(|said| said.left), Some(7));
        said = life(0.0);
        for at in (89..100).step_by(2) {
            said[at].predicted = None;
        }
        assert_eq!(raised(&said, 10.0).map(|said| said.left), Some(5));
        for said in &mut said {
            said.predicted = None;
        }
        assert!(raised(&said, 10.0).is_none());
    }

    #[test]
    fn an_alert_that_comes_too_late_to_act_is_a_miss() {
        let lives = [life(0.0), life(6.0)];
        let outcome = outcome(&lives, 10.0, &args(5));
        assert_eq!((outcome.misses, outcome.leads), (1, vec![8]));
        assert_eq!((outcome.precision, outcome.recall), (1.0, 16.0 / 22.0));
        // A visit after 92 + 5 cycles of work, and a failure after 100.
        assert!((outcome.cost_per_1000 - 110_000.0 / 197.0).abs() < 1e-9);
    }

    #[test]
    fn early_visits_cost_because_they_come_more_often() {
        let lives = [life(0.0)];
        let cost = |threshold| outcome(&lives, threshold, &args(5)).cost_per_1000;
        assert!(cost(10.0) < cost(40.0));
        assert!(cost(40.0) < without_alerts(&lives, 100.0));
    }

    #[test]
    fn where_a_visit_costs_as_much_as_a_failure_no_alert_is_advised() {
        let lives = [life(0.0)];
        let told = |cost_visit: f64| {
            let args = Args { cost_visit, ..args(5) };
            advice(&outcome(&lives, 10.0, &args), without_alerts(&lives, args.cost_miss), "cycles")
        };
        assert!(told(10.0).starts_with("Least cost with an alert at 10 cycles"), "{}", told(10.0));
        assert!(told(100.0).starts_with("No alert pays: "), "{}", told(100.0));
        assert!(told(100.0).ends_with("without alerts 1000.00."), "{}", told(100.0));
        // Ten times a tenth is one, also if all of them are missed.
        let args = Args { cost_miss: 0.1, ..args(20) };
        let lives = vec![life(0.0); 10];
        let told = advice(&outcome(&lives, 10.0, &args), without_alerts(&lives, args.cost_miss), "cycles");
        assert!(told.starts_with("No alert pays: "), "{told}");
    }

    #[test]
    fn a_kind_without_a_model_is_refused() {
        let args = Args { kind: Some("lathe".into()), ..args(5) };
        assert!(matches!(run(&args, |_| {}), Err(BacktestError::Kind(kind)) if kind == "lathe"));
    }
}
