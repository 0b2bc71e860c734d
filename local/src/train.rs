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
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::PathBuf;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use shared::ids::AssetKind;
use shared::prognosis::{Content, Frame, JOINED_MAX, Model, ModelError, Point, Thresholds};
use shared::wire::is_metric_name;

use crate::runs::{Run, Runs, RunsError};
use fit::{Effort, Row, Unseen};

/// Fewer lives than this teach nothing that holds for others.
const LIVES_MIN: usize = 10;

/// What `greenwave train` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The kind of machine, as its readings name it.
    #[arg(long)]
    pub kind: String,
    /// CSV of lives from the start, which is cycle 1, up to the failure: columns unit, cycle and metrics, gzipped or plain.
    /// May be repeated: units of different files are different machines.
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
    /// Life left (p50) above which it is cleared, less than --cap.
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
    /// Columns that the stream cannot bring.
    #[error(
        "no reading can name a metric '{0}': a name is a-z, then a-z, 0-9 and '_', at most 64 characters; rename the columns, in the readings as well"
    )]
    Names(String),
    /// Lives without their start.
    #[error(
        "{late} of {lives} lives begin later than cycle {JOINED_MAX}, and a model says nothing of machines that it meets so late: number the cycles of each life from 1, and include its start"
    )]
    Late {
        /// How many begin so.
        late: usize,
        /// Of how many.
        lives: usize,
    },
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
    #[error(
        "--alarm {}, --alert {}, --clear {} and --cap {} cannot work: it must be 0 <= alarm <= alert <= clear < cap, and all finite",
        .0.alarm, .0.raise, .0.clear, .1
    )]
    Thresholds(Thresholds, f64),
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
    let thresholds = thresholds(args)?;
    let runs = Runs::read(&args.data)?;
    suits(&runs)?;
    let [model_path, report_path] = outputs(args)?;
    let named = |name: &&String| name.starts_with("op") || name.starts_with("setting");
    let settings = match &args.settings {
        Some(settings) => settings.iter().filter(|name| !name.is_empty()).cloned().collect(),
        None => runs.metrics.iter().filter(named).cloned().collect::<Vec<_>>(),
    };
    let samples: usize = runs.lives.iter().map(|life| life.samples.len()).sum();
    say(&format!("{} lives with {samples} samples from {} files", runs.lives.len(), runs.files.len()));
    let mut warnings: Vec<String> = [lateness(&runs), haste(&runs, args)].into_iter().flatten().collect();
    for warning in &warnings {
        say(&format!("warning: {warning}"));
    }

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
    if let Some(warning) = report::narrowness(&judged, runs.lives.len()) {
        say(&format!("warning: {warning}"));
        warnings.push(warning);
    }

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
    let report = report::Report::new(&model, bytes.len(), repaired, &runs, &judged, warnings);
    for (path, content) in [(model_path, bytes.as_slice()), (report_path, report.to_json().as_bytes())] {
        std::fs::write(&path, content).map_err(|error| TrainError::Write(path.clone(), error))?;
        say(&format!("wrote {}", path.display()));
    }
    report.lines().iter().for_each(|line| say(line));
    Ok(())
}

/// The thresholds, if they can work together: a life left that is called `cap` at most is never above a higher `clear`.
fn thresholds(args: &Args) -> Result<Thresholds, TrainError> {
    let Args { cap, alert, clear, alarm, .. } = *args;
    let thresholds = Thresholds { raise: alert, clear, alarm };
    let works = 0.0 <= alarm && alarm <= alert && alert <= clear && clear < cap && cap.is_finite();
    if works { Ok(thresholds) } else { Err(TrainError::Thresholds(thresholds, cap)) }
}

/// Refuses lives from which no useful model can come.
fn suits(runs: &Runs) -> Result<(), TrainError> {
    let misnamed: Vec<&str> = runs.metrics.iter().map(String::as_str).filter(|name| !is_metric_name(name)).collect();
    if !misnamed.is_empty() {
        return Err(TrainError::Names(misnamed.join("', '")));
    }
    let (late, lives) = (late(runs).count(), runs.lives.len());
    if lives < LIVES_MIN {
        return Err(TrainError::Lives(lives));
    }
    if 2 * late > lives { Err(TrainError::Late { late, lives }) } else { Ok(()) }
}

fn late(runs: &Runs) -> impl Iterator<Item = &Run> {
    runs.lives.iter().filter(|life| life.start() > JOINED_MAX)
}

/// A warning if some lives lack their start.
fn lateness(runs: &Runs) -> Option<String> {
    let first = late(runs).next()?;
    let (late, lives) = (late(runs).count(), runs.lives.len());
    let file = runs.files.get(first.file).map_or("", String::as_str);
    Some(format!(
        "{late} of {lives} lives begin later than cycle {JOINED_MAX}, first unit {} of {file} at cycle {}: the model says nothing of \
         machines that it meets so late; number the cycles of each life from 1, and include its start",
        first.unit,
        first.start()
    ))
}

/// A warning if alerts are raised while much of a usual life is left.
fn haste(runs: &Runs, args: &Args) -> Option<String> {
    let mut ends: Vec<f64> = runs.lives.iter().map(|life| float(usize::try_from(life.end()).unwrap_or(usize::MAX))).collect();
    ends.sort_by(f64::total_cmp);
    let median = fit::quantile(&ends, 0.5);
    (3.0 * args.alert > median).then(|| {
        format!(
            "--alert {} is more than a third of the median life, {median} {}: many alerts will be open for much of a life; \
             `greenwave backtest` tells what each threshold costs",
            args.alert, args.unit
        )
    })
}

/// The files to write, which can be written: better found before training than after.
fn outputs(args: &Args) -> Result<[PathBuf; 2], TrainError> {
    std::fs::create_dir_all(&args.out).map_err(|error| TrainError::Write(args.out.clone(), error))?;
    let paths = [args.out.join(format!("{}.model", args.kind)), args.out.join("report.json")];
    for path in &paths {
        let probe = match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => std::fs::remove_file(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => OpenOptions::new().append(true).open(path).map(drop),
            Err(error) => Err(error),
        };
        probe.map_err(|error| TrainError::Write(path.clone(), error))?;
    }
    Ok(paths)
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
        assert!(refusal(&|args| args.settings = Some(vec!["op7".into()])).contains("'op7', which is no column"));
        let few = lives(1).lines().take(100).collect::<Vec<_>>().join("\n");
        let path = directory.path().join("few.csv");
        std::fs::write(&path, few).unwrap();
        assert!(refusal(&|args| args.data = vec![path.clone()]).contains("too few"));
    }

    /// The refusal, before which nothing was said, and so nothing was trained.
    fn refused_at_once(args: &Args) -> String {
        let mut lines = Vec::new();
        let error = run_with(args, QUICK, |line| lines.push(line.to_owned())).unwrap_err();
        assert_eq!(lines, Vec::<String>::new());
        error.to_string()
    }

    #[test]
    fn columns_that_no_reading_can_bring_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let args = args(directory.path());
        for data in &args.data {
            let csv = std::fs::read_to_string(data).unwrap();
            std::fs::write(data, csv.replacen("op1,a,b,c", "Op1,Temp (C),b,c", 1)).unwrap();
        }
        assert_eq!(
            refused_at_once(&args),
            "no reading can name a metric 'Op1', 'Temp (C)': a name is a-z, then a-z, 0-9 and '_', at most 64 characters; \
             rename the columns, in the readings as well"
        );
        assert!(!args.out.exists());
    }

    #[test]
    fn thresholds_that_cannot_work_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let args = args(directory.path());
        let with = |alarm, alert, clear, cap| thresholds(&Args { cap, alert, clear, alarm, ..args.clone() });
        assert!(with(5.0, 5.0, 5.0, 5.1).is_ok());
        for (alarm, alert, clear, cap) in [
            (-1.0, 15.0, 20.0, 60.0),
            (16.0, 15.0, 20.0, 60.0),
            (5.0, 21.0, 20.0, 60.0),
            (5.0, 15.0, 60.0, 60.0),
            (5.0, f64::NAN, 20.0, 60.0),
            (5.0, 15.0, 20.0, f64::INFINITY),
        ] {
            assert!(with(alarm, alert, clear, cap).is_err(), "{alarm} {alert} {clear} {cap}");
        }
        let refusal = refused_at_once(&Args { cap: 20.0, ..args });
        assert!(refusal.starts_with("--alarm 5, --alert 15, --clear 20 and --cap 20 cannot work: "), "{refusal}");
    }

    #[test]
    fn lives_without_their_start_are_refused_if_they_are_most() {
        let directory = tempfile::tempdir().unwrap();
        let args = args(directory.path());
        begin_at(&args, |_| JOINED_MAX + 1);
        let refusal = refused_at_once(&args);
        assert!(refusal.starts_with("32 of 32 lives begin later than cycle 30, and a model says nothing"), "{refusal}");
        assert!(refusal.ends_with("number the cycles of each life from 1, and include its start"), "{refusal}");
    }

    /// Leaves out what is before the cycle at which each unit shall begin.
    fn begin_at(args: &Args, start: impl Fn(u64) -> u64) {
        for data in &args.data {
            let csv = std::fs::read_to_string(data).unwrap();
            let stays = |line: &&str| {
                let mut cells = line.split(',').map(str::parse::<u64>);
                let (Some(Ok(unit)), Some(Ok(cycle))) = (cells.next(), cells.next()) else { return true };
                cycle >= start(unit)
            };
            std::fs::write(data, csv.lines().filter(stays).collect::<Vec<_>>().join("\n")).unwrap();
        }
    }

    #[test]
    fn what_may_disappoint_is_warned_of_in_the_lines_and_in_the_report() {
        let directory = tempfile::tempdir().unwrap();
        let args = Args { alert: 40.0, clear: 45.0, ..args(directory.path()) };
        begin_at(&args, |unit| if unit == 3 { JOINED_MAX + 1 } else { JOINED_MAX });
        let mut lines = Vec::new();
        run_with(&args, QUICK, |line| lines.push(line.to_owned())).unwrap();
        let said: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("warning: ")).collect();
        let late = format!("2 of 32 lives begin later than cycle 30, first unit 3 of {} at cycle 31: ", args.data[0].display());
        assert!(said[0].starts_with(&late), "{said:?}");
        assert!(said[1].starts_with("--alert 40 is more than a third of the median life, "), "{said:?}");
        assert!(said[2].starts_with("the intervals hold "), "{said:?}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(args.out.join("report.json")).unwrap()).unwrap();
        assert_eq!(report["warnings"], serde_json::json!(said));

        // The model is silent on just these.
        let model = Model::from_bytes(&std::fs::read(args.out.join("pump.model")).unwrap()).unwrap();
        let runs = Runs::read(&args.data).unwrap();
        for run in &runs.lives {
            let mut life = Life::new();
            runs.replay(run, |sample, metrics| {
                life.fold(&model, Some(sample.cycle), metrics);
            });
            let known = matches!(model.assess(&life), Assessment::Known(_));
            assert_eq!(known, run.unit != "3", "{}", run.unit);
        }
    }

    #[test]
    fn an_output_that_cannot_be_written_is_found_before_training() {
        let directory = tempfile::tempdir().unwrap();
        let args = args(directory.path());
        let refusal = refused_at_once(&Args { out: args.data[0].join("pump"), ..args.clone() });
        assert!(refusal.contains("one.csv/pump: cannot be written: "), "{refusal}");
        let [model, report] = outputs(&args).unwrap();
        assert!(!model.exists() && !report.exists());
        std::fs::write(&model, "of yesterday").unwrap();
        std::fs::create_dir(&report).unwrap();
        let refusal = refused_at_once(&args);
        assert!(refusal.contains("report.json: cannot be written: "), "{refusal}");
        assert_eq!(std::fs::read(&model).unwrap(), b"of yesterday");
    }
}
