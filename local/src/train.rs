//! `greenwave train`: a model from lives that ended with a failure.
//!
//! Lives are parted into folds; a model of all but one fold predicts that one. These predictions of unseen lives make the
//! report and the intervals; the model that is written has learnt from all lives.

mod fit;
mod frame;
mod linear;
mod network;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use shared::ids::AssetKind;
use shared::prognosis::{Content, Frame, Model, ModelError, Point, Thresholds};

use crate::runs::{Runs, RunsError};
use fit::{Effort, Row, Unseen};

/// Fewer lives than this teach nothing that holds for others.
const LIVES_MIN: usize = 10;

/// What `greenwave train` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The kind of machine, as its readings name it.
    #[arg(long)]
    pub kind: String,
    /// CSV of lives up to the failure: columns unit, cycle and metrics, gzipped or plain. May be repeated: units of
    /// different files are different machines.
    #[arg(long, required = true)]
    pub data: Vec<PathBuf>,
    /// Directory for KIND.model and report.json.
    #[arg(long)]
    pub out: PathBuf,
    /// Columns that tell how the machine is operated, such as op1,op2; without it, those that begin with op or setting.
    #[arg(long, value_delimiter = ',')]
    pub settings: Option<Vec<String>>,
    /// What life is counted in.
    #[arg(long, default_value = "cycles")]
    pub unit: String,
    /// Longer lives are called this long.
    #[arg(long, default_value_t = 125.0)]
    pub cap: f64,
    /// Life left (p50) at which an alert is raised; see `greenwave backtest`.
    #[arg(long, default_value_t = 30.0)]
    pub alert: f64,
    /// Life left (p50) above which it is cleared.
    #[arg(long, default_value_t = 45.0)]
    pub clear: f64,
    /// Life left (p50) at which the state is alarm.
    #[arg(long, default_value_t = 10.0)]
    pub alarm: f64,
    /// Folds of the cross-validation.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub folds: u8,
    /// The same seed and data give the same file, byte for byte.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// No model came of it.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file cannot be used.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// The kind is no id.
    #[error("--kind '{0}': {1}")]
    Kind(String, shared::ids::InvalidId),
    /// Too few lives.
    #[error("{0} lives are too few: give at least {LIVES_MIN} that ended with a failure")]
    Lives(usize),
    /// A setting is not there.
    #[error("--settings names '{0}', which is no column")]
    NoSetting(String),
    /// No clear regimes.
    #[error(
        "the settings have {0} regimes with enough samples, instead of 1 to 32: name those that matter with --settings, or none with --settings ''"
    )]
    Regimes(usize),
    /// Nothing to learn from.
    #[error("no metric follows the life that is left: are these lives that ended with a failure, and is their last row the failure?")]
    NoMetric,
    /// Cap and thresholds.
    #[error("--cap must be positive, and --alarm <= --alert <= --clear")]
    Thresholds,
    /// The trees.
    #[error("the trees cannot be grown: {0}")]
    Booster(String),
    /// The model.
    #[error("the model {0}")]
    Model(#[from] ModelError),
    /// The output.
    #[error("{0}: cannot be written: {1}")]
    Write(PathBuf, std::io::Error),
}

/// Trains a model, writes it with its report, and tells of both line by line.
///
/// # Errors
/// [`TrainError`] says what to do.
pub fn run(args: &Args, say: impl FnMut(&str)) -> Result<(), TrainError> {
    run_with(args, Effort::FULL, say)
}

fn run_with(args: &Args, effort: Effort, mut say: impl FnMut(&str)) -> Result<(), TrainError> {
    AssetKind::try_from(args.kind.as_str()).map_err(|error| TrainError::Kind(args.kind.clone(), error))?;
    let thresholds = Thresholds { raise: args.alert, clear: args.clear, alarm: args.alarm };
    if !(args.cap > 0.0 && 0.0 <= args.alarm && args.alarm <= args.alert && args.alert <= args.clear) {
        return Err(TrainError::Thresholds);
    }
    let runs = Runs::read(&args.data)?;
    if runs.lives.len() < LIVES_MIN {
        return Err(TrainError::Lives(runs.lives.len()));
    }
    let named = |name: &&String| name.starts_with("op") || name.starts_with("setting");
    let settings = match &args.settings {
        Some(settings) => settings.iter().filter(|name| !name.is_empty()).cloned().collect(),
        None => runs.metrics.iter().filter(named).cloned().collect::<Vec<_>>(),
    };
    let samples: usize = runs.lives.iter().map(|life| life.samples.len()).sum();
    say(&format!("{} lives with {samples} samples from {} files", runs.lives.len(), runs.files.len()));

    let trainer = Trainer { runs: &runs, settings: &settings, cap: args.cap, effort, seed: args.seed };
    let parts = folds(&runs, usize::from(args.folds), args.seed);
    let mut unseen_rows = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let others: Vec<usize> =
            parts.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, part)| part.iter().copied()).collect();
        let learnt = trainer.learn(&others)?;
        let rows = fit::rows(&runs, part, &learnt.begins, &learnt.frame);
        let predicted: Vec<f64> = rows.iter().map(|row| learnt.point.predict(&row.features).clamp(0.0, args.cap)).collect();
        unseen_rows.push(rows.into_iter().zip(predicted).collect::<Vec<(Row, f64)>>());
        say(&format!("fold {} of {}: {} lives predicted by a model of {} others", at + 1, parts.len(), part.len(), others.len()));
    }
    let unseen: Vec<Vec<Unseen<'_>>> = unseen_rows
        .iter()
        .map(|rows| rows.iter().map(|(row, predicted)| Unseen { row, predicted: *predicted, left: row.left.min(args.cap) }).collect())
        .collect();
    let judged = report::judge(&unseen, &runs, args)?;

    let all: Vec<usize> = (0..runs.lives.len()).collect();
    let learnt = trainer.learn(&all)?;
    let calibration: Vec<&Unseen<'_>> = unseen.iter().flatten().filter(|unseen| report::is_cut(unseen.row, args.cap)).collect();
    let band = fit::band(&calibration, args.cap, args.seed)?;
    let (as_new, wear) = fit::as_new(&fit::rows(&runs, &all, &learnt.begins, &learnt.frame), args.cap);
    let content = Content {
        kind: args.kind.clone(),
        unit: args.unit.clone(),
        cap: args.cap,
        thresholds,
        frame: learnt.frame,
        as_new,
        wear,
        point: learnt.point,
        band,
    };
    let bytes = content.to_bytes()?;
    let model = Model::from_bytes(&bytes)?;
    let repaired = learnt.begins.iter().filter(|begin| **begin > 0).count();
    let report = report::Report::new(&model, bytes.len(), repaired, &runs, &judged);
    std::fs::create_dir_all(&args.out).map_err(|error| TrainError::Write(args.out.clone(), error))?;
    let mut write = |name: &str, content: &[u8]| {
        let path = args.out.join(name);
        std::fs::write(&path, content).map_err(|error| TrainError::Write(path.clone(), error))?;
        say(&format!("wrote {}", path.display()));
        Ok::<_, TrainError>(())
    };
    write(&format!("{}.model", args.kind), &bytes)?;
    write("report.json", report.to_json().as_bytes())?;
    report.lines().iter().for_each(|line| say(line));
    Ok(())
}

/// Lives in folds: those of each file shuffled and dealt out.
fn folds(runs: &Runs, folds: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut by_file: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, life) in runs.lives.iter().enumerate() {
        by_file.entry(life.file).or_default().push(at);
    }
    let mut parts = vec![Vec::new(); folds];
    let mut next = 0;
    for lives in by_file.values_mut() {
        lives.shuffle(&mut rng);
        for life in lives.iter() {
            parts.iter_mut().skip(next % folds).take(1).for_each(|part: &mut Vec<usize>| part.push(*life));
            next += 1;
        }
    }
    for part in &mut parts {
        part.sort_unstable();
    }
    parts
}

struct Trainer<'a> {
    runs: &'a Runs,
    settings: &'a [String],
    cap: f64,
    effort: Effort,
    seed: u64,
}

/// What some lives taught.
struct Learnt {
    frame: Frame,
    /// With which sample each life begins, or begins anew after a repair; of all lives.
    begins: Vec<usize>,
    point: Point,
}

impl Trainer<'_> {
    fn learn(&self, lives: &[usize]) -> Result<Learnt, TrainError> {
        // A first frame finds the repairs; without the worn machines that did not fail, the second one is better.
        let frame = frame::find(self.runs, lives, &vec![0; self.runs.lives.len()], self.settings, self.cap)?;
        let begins = frame::begins(self.runs, &frame);
        let frame = frame::find(self.runs, lives, &begins, self.settings, self.cap)?;
        let begins = frame::begins(self.runs, &frame);
        let rows = fit::rows(self.runs, lives, &begins, &frame);
        let (forest, networks) = fit::point(&fit::teaching(&rows, self.cap), self.cap, self.effort, self.seed)?;
        Ok(Learnt { frame, begins, point: Point { forest, networks } })
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows and cycles are far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows are far below 2^23, or need not be exact")]
fn float32(count: usize) -> f32 {
    count as f32
}

#[expect(clippy::cast_possible_truncation, reason = "models are single precision")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use rand::RngExt;
    use shared::prognosis::{Assessment, Life};

    use super::*;

    const QUICK: Effort = Effort { trees: 20, networks: 1, epochs: 2 };

    /// Lives of 60 to 120 cycles: `a` falls towards the end and differs between the regimes of `op1`, `b` is noise, `c` constant.
    fn lives(seed: u64) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut csv = String::from("unit,cycle,op1,a,b,c\n");
        for unit in 1..=16 {
            let end = rng.random_range(60..120_i32);
            for cycle in 1..=end {
                let op = if rng.random_bool(0.5) { 10.0 } else { 0.0 };
                let worn = 20.0 * (-f64::from(end - cycle) / 25.0).exp();
                let (noise, b) = (rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0));
                let _ = writeln!(csv, "{unit},{cycle},{},{},{b},7", op + 0.01 * b, 100.0 + 5.0 * op - worn + noise);
            }
        }
        csv
    }

    fn args(directory: &std::path::Path) -> Args {
        let data = ["one.csv", "two.csv"].map(|name| directory.join(name));
        std::fs::write(&data[0], lives(1)).unwrap();
        std::fs::write(&data[1], lives(2)).unwrap();
        Args {
            kind: "pump".into(),
            data: data.into(),
            out: directory.join("models/pump"),
            settings: None,
            unit: "hours".into(),
            cap: 60.0,
            alert: 15.0,
            clear: 20.0,
            alarm: 5.0,
            folds: 2,
            seed: 1,
        }
    }

    #[test]
    fn a_model_and_its_report_come_of_lives_and_the_same_ones_again() {
        let directory = tempfile::tempdir().unwrap();
        let args = args(directory.path());
        let mut lines = Vec::new();
        run_with(&args, QUICK, |line| lines.push(line.to_owned())).unwrap();
        let file = args.out.join("pump.model");
        let bytes = std::fs::read(&file).unwrap();
        let model = Model::from_bytes(&bytes).unwrap();
        let content = model.content();
        assert_eq!(
            (content.kind.as_str(), content.unit.as_str(), content.frame.metrics.as_slice()),
            ("pump", "hours", &["a".to_owned()][..])
        );
        assert_eq!(content.frame.regimes.len(), 2);
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(args.out.join("report.json")).unwrap()).unwrap();
        assert_eq!((&report["lives"], &report["version"]), (&32.into(), &model.version().version.into()));
        assert!(lines.iter().any(|line| line.starts_with("largest reasons: a ")), "{lines:?}");

        run_with(&args, QUICK, |_| {}).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }

    #[test]
    fn a_trained_model_tells_a_worn_machine_from_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let args = args(directory.path());
        run_with(&args, Effort { trees: 100, ..QUICK }, |_| {}).unwrap();
        let model = Model::from_bytes(&std::fs::read(args.out.join("pump.model")).unwrap()).unwrap();
        let runs = Runs::read(&args.data).unwrap();
        let (mut life, mut said) = (Life::new(), Vec::new());
        runs.replay(&runs.lives[0], |sample, metrics| {
            life.fold(&model, Some(sample.cycle), metrics);
            if let Assessment::Known(prognosis) = model.assess(&life) {
                said.push(prognosis.remaining_useful_life.p50);
            }
        });
        assert!(said[10] > 40.0 && said[said.len() - 1] < 20.0, "{said:?}");
    }

    #[test]
    fn what_cannot_be_learnt_from_is_refused_with_advice() {
        let directory = tempfile::tempdir().unwrap();
        let args = args(directory.path());
        let refusal = |change: &dyn Fn(&mut Args)| {
            let mut args = args.clone();
            change(&mut args);
            run_with(&args, QUICK, |_| {}).unwrap_err().to_string()
        };
        assert!(refusal(&|args| args.kind = "a b".into()).starts_with("--kind 'a b': must be"));
        assert!(refusal(&|args| args.alert = 50.0).contains("--alarm <= --alert <= --clear"));
        assert!(refusal(&|args| args.settings = Some(vec!["op7".into()])).contains("'op7', which is no column"));
        let few = lives(1).lines().take(100).collect::<Vec<_>>().join("\n");
        let path = directory.path().join("few.csv");
        std::fs::write(&path, few).unwrap();
        assert!(refusal(&|args| args.data = vec![path.clone()]).contains("too few"));
    }
}
