//! Lives of machines from CSV files: columns `unit`, `cycle` and metrics, one row a sample.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

const UNIT: &str = "unit";
const CYCLE: &str = "cycle";

/// Lives that ended with a failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runs {
    /// The files, in the order in which they were read.
    pub files: Vec<String>,
    /// Names of the metrics, sorted.
    pub metrics: Vec<String>,
    /// The lives, file by file.
    pub lives: Vec<Run>,
}

/// One machine from its first sample to its failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which file it is from: units of different files are different machines.
    pub file: usize,
    /// Its name there.
    pub unit: String,
    /// Its samples, in the order of their cycles.
    pub samples: Vec<Sample>,
}

/// What a machine said in one cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its age.
    pub cycle: u64,
    /// One value per metric; NaN where there is none.
    pub values: Vec<f64>,
}

impl Run {
    /// Cycle of the first sample.
    pub fn start(&self) -> u64 {
        self.samples.first().map_or(0, |sample| sample.cycle)
    }

    /// Cycle of the last sample: that of the failure.
    pub fn end(&self) -> u64 {
        self.samples.last().map_or(0, |sample| sample.cycle)
    }
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// It cannot be opened or read.
    #[error("{0}: cannot be read: {1}")]
    Io(PathBuf, std::io::Error),
    /// It is no CSV.
    #[error("{0}: is no CSV file: {1}")]
    Csv(PathBuf, csv::Error),
    /// A column is missing.
    #[error("{path}: has no column '{column}'; the first line must name unit, cycle and the metrics, and be the same in all files")]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// A value is not what its column holds.
    #[error("{path}, line {line}, column '{column}': '{value}' {must}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column.
        column: String,
        /// What is there.
        value: String,
        /// What to do.
        must: &'static str,
    },
    /// There is nothing to learn from.
    #[error("{0}: has no rows")]
    Empty(PathBuf),
}

impl Runs {
    /// Reads files, gzipped or plain.
    ///
    /// # Errors
    /// [`RunsError`] names the file, and the line and column if there are.
    pub fn read(paths: &[PathBuf]) -> Result<Self, RunsError> {
        let mut runs = Self::default();
        for path in paths {
            let io = |error| RunsError::Io(path.clone(), error);
            let mut reader = BufReader::new(File::open(path).map_err(io)?);
            let gzipped = reader.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
            let reader: Box<dyn Read> = if gzipped { Box::new(flate2::read::MultiGzDecoder::new(reader)) } else { Box::new(reader) };
            runs.add(path, reader)?;
        }
        Ok(runs)
    }

    fn add(&mut self, path: &Path, reader: impl Read) -> Result<(), RunsError> {
        let csv_error = |error| RunsError::Csv(path.to_owned(), error);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
        let header = reader.headers().map_err(csv_error)?.clone();
        let place = |column: &str| header.iter().position(|name| name == column);
        let need = |column: &str| place(column).ok_or_else(|| RunsError::NoColumn { path: path.to_owned(), column: column.to_owned() });
        let (unit_at, cycle_at) = (need(UNIT)?, need(CYCLE)?);
        if self.files.is_empty() {
            self.metrics = header.iter().filter(|name| ![UNIT, CYCLE, ""].contains(name)).map(str::to_owned).collect();
            self.metrics.sort();
            self.metrics.dedup();
        }
        let places = self.metrics.iter().map(|name| need(name)).collect::<Result<Vec<_>, _>>()?;
        let file = self.files.len();
        self.files.push(path.display().to_string());
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut seen = HashSet::new();
        for record in reader.records() {
            let record = record.map_err(csv_error)?;
            let line = record.position().map_or(0, csv::Position::line);
            let bad = |column: &str, value: &str, must| RunsError::Value {
                path: path.to_owned(),
                line,
                column: column.to_owned(),
                value: value.to_owned(),
                must,
            };
            let cell = |at: usize| record.get(at).unwrap_or_default();
            let unit = cell(unit_at);
            if unit.is_empty() {
                return Err(bad(UNIT, unit, "must name the machine"));
            }
            let cycle = cell(cycle_at);
            let cycle: u64 = cycle.parse().map_err(|_| bad(CYCLE, cycle, "must be a whole number of cycles"))?;
            let mut values = Vec::with_capacity(places.len());
            for (name, at) in self.metrics.iter().zip(&places) {
                let value = cell(*at);
                let number: f64 = if value.is_empty() {
                    f64::NAN
                } else {
                    value.parse().map_err(|_| bad(name, value, "must be a number, or empty if it is missing"))?
                };
                values.push(number);
            }
            let life = *known.entry(unit.to_owned()).or_insert_with(|| {
                self.lives.push(Run { file, unit: unit.to_owned(), samples: Vec::new() });
                self.lives.len() - 1
            });
            if !seen.insert((life, cycle)) {
                return Err(bad(CYCLE, cell(cycle_at), "is there twice for this unit; remove one of the rows"));
            }
            if let Some(life) = self.lives.get_mut(life) {
                life.samples.push(Sample { cycle, values });
            }
        }
        if known.is_empty() {
            return Err(RunsError::Empty(path.to_owned()));
        }
        for life in self.lives.iter_mut().filter(|life| life.file == file) {
            life.samples.sort_by_key(|sample| sample.cycle);
        }
        Ok(())
    }

    /// The samples of a life as the stream would bring them.
    pub fn replay(&self, life: &Run, mut each: impl FnMut(&Sample, &BTreeMap<String, f64>)) {
        let mut metrics: BTreeMap<String, f64> = self.metrics.iter().map(|name| (name.clone(), f64::NAN)).collect();
        for sample in &life.samples {
            for (metric, value) in metrics.values_mut().zip(&sample.values) {
                *metric = *value;
            }
            each(sample, &metrics);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(content: &[u8]) -> Result<Runs, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let path = file.path().to_owned();
        Runs::read(std::slice::from_ref(&path)).map_err(|error| error.to_string().replace(&path.display().to_string(), "runs.csv"))
    }

    #[test]
    fn lives_are_read_gzipped_or_plain_whatever_the_order_of_rows() {
        let csv = b"unit,cycle,b,a\nx,2,4,3\ny,1,6,5\nx,1,2,\n";
        let runs = read(csv).unwrap();
        assert_eq!(runs.metrics, ["a", "b"]);
        assert_eq!((runs.lives[0].start(), runs.lives[0].end()), (1, 2));
        let cycles: Vec<Vec<u64>> = runs.lives.iter().map(|life| life.samples.iter().map(|sample| sample.cycle).collect()).collect();
        assert_eq!(cycles, [vec![1, 2], vec![1]]);
        assert!(runs.lives[0].samples[0].values[0].is_nan());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(csv).unwrap();
        assert_eq!(read(&gzip.finish().unwrap()).unwrap().lives.len(), 2);
    }

    #[test]
    fn a_unit_of_another_file_is_another_machine() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a.csv", "b.csv"].map(|name| directory.path().join(name));
        for path in &paths {
            std::fs::write(path, "unit,cycle,a\n1,1,2\n").unwrap();
        }
        assert_eq!(Runs::read(&paths).unwrap().lives.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refused = |csv: &str| read(csv.as_bytes()).unwrap_err();
        assert!(refused("unit,a\n1,2\n").starts_with("runs.csv: has no column 'cycle'"));
        assert_eq!(
            refused("unit,cycle,a\n1,1,2\n1,2,x\n"),
            "runs.csv, line 3, column 'a': 'x' must be a number, or empty if it is missing"
        );
        assert_eq!(refused("unit,cycle,a\n1,1.5,2\n"), "runs.csv, line 2, column 'cycle': '1.5' must be a whole number of cycles");
        assert_eq!(refused("unit,cycle,a\n,1,2\n"), "runs.csv, line 2, column 'unit': '' must name the machine");
        assert_eq!(
            refused("unit,cycle,a\n1,1,2\n1,1,3\n"),
            "runs.csv, line 3, column 'cycle': '1' is there twice for this unit; remove one of the rows"
        );
        assert!(refused("unit,cycle,a\n1,1\n").starts_with("runs.csv: is no CSV file"));
        assert_eq!(refused("unit,cycle,a\n"), "runs.csv: has no rows");
        assert!(Runs::read(&["/nowhere.csv".into()]).unwrap_err().to_string().starts_with("/nowhere.csv: cannot be read"));
    }
}
