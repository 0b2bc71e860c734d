//! `greenwave replay`: makes decisions again from their records, and shows what was compared.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use shared::intersection::{ETag, Intersection, InvalidDocument};
use shared::plan::{Candidate, DecisionRecord, PlanStage};
use signal_adjustment::control::Decision;
use signal_adjustment::record::{UnusableRecord, decide_again};

/// What `greenwave replay` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Records to decide again: an answer of GET /v1/intersections/{id}/decisions, its items, or one of them.
    #[arg(long)]
    pub decision: PathBuf,
    /// The configuration under which they were decided: an answer of GET /v1/intersections/{id}.
    #[arg(long)]
    pub configuration: PathBuf,
}

/// The decisions cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file cannot be read.
    #[error("{0}: cannot be read: {1}")]
    Read(PathBuf, std::io::Error),
    /// The records are none.
    #[error("{0}: no decision record, and no list of them: {1}")]
    Records(PathBuf, serde_json::Error),
    /// There is none.
    #[error("{0}: a list without decisions: ask for another span with `from` and `to`")]
    Empty(PathBuf),
    /// The configuration is none.
    #[error("{0}: no configuration of an intersection: {1}")]
    Configuration(PathBuf, InvalidDocument),
    /// All were made under another configuration.
    #[error("no decision was made under the configuration {given}; the newest one under {newest}")]
    OtherConfiguration {
        /// The tag of the configuration given.
        given: ETag,
        /// The tag of the one that the newest record names.
        newest: ETag,
    },
    /// A record cannot be used.
    #[error("the decision of {0}: {1}")]
    Record(String, UnusableRecord),
    /// A decision came out differently.
    #[error("{0} of {1} decisions came out differently: another version made them, or a file was changed")]
    Differs(usize, usize),
}

/// The shapes of a file of records.
#[derive(Deserialize)]
struct Page {
    items: Vec<DecisionRecord>,
    next_cursor: Option<String>,
}

fn page(value: Value) -> Result<Page, serde_json::Error> {
    if value.get("items").is_some() {
        return serde_json::from_value(value);
    }
    let items = if value.is_array() { serde_json::from_value(value)? } else { vec![serde_json::from_value(value)?] };
    Ok(Page { items, next_cursor: None })
}

/// Decides again, and says of each decision what was compared and whether the plan is the same.
///
/// # Errors
/// [`ReplayError`], also if a plan is another one than the record says.
pub fn run(args: &Args, mut say: impl FnMut(&str)) -> Result<(), ReplayError> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| ReplayError::Read(path.to_owned(), error));
    let unreadable = |error| ReplayError::Records(args.decision.clone(), error);
    let value = serde_json::from_str(&read(&args.decision)?).map_err(unreadable)?;
    let Page { items: records, next_cursor } = page(value).map_err(unreadable)?;
    let newest = records.last().ok_or_else(|| ReplayError::Empty(args.decision.clone()))?;
    let intersection = Intersection::from_json(&read(&args.configuration)?)
        .map_err(|error| ReplayError::Configuration(args.configuration.clone(), error))?;
    let (mut again, mut different) = (0, 0);
    for record in &records {
        let decision = match decide_again(&intersection, record) {
            Err(UnusableRecord::OtherConfiguration(_)) => continue,
            other => other.map_err(|error| ReplayError::Record(record.as_of.to_string(), error))?,
        };
        let same = is_same(&intersection, record, &decision);
        again += 1;
        different += usize::from(!same);
        say(&describe(record, &decision, same));
    }
    if again == 0 {
        return Err(ReplayError::OtherConfiguration { given: intersection.etag(), newest: newest.configuration });
    }
    if again < records.len() {
        say(&format!("{} of {} decisions were made under another configuration and are left out.", records.len() - again, records.len()));
    }
    if next_cursor.is_some() {
        say(&format!(
            "These are the decisions until {}; for later ones ask with `from`, or with `cursor` for the next page.",
            newest.as_of
        ));
    }
    if different > 0 { Err(ReplayError::Differs(different, again)) } else { Ok(()) }
}

fn is_same(intersection: &Intersection, record: &DecisionRecord, again: &Decision) -> bool {
    let Ok(plan) = &again.plan else { return false };
    let stages = plan.stages().iter().filter_map(|entry| {
        let stage = intersection.stages().get(entry.stage)?;
        Some(PlanStage { stage: stage.id.clone(), start: entry.start, green_s: entry.green })
    });
    stages.eq(record.next.stages.iter().cloned()) && again.reason == record.reason
}

/// The decision with its candidates, the cheapest first.
fn describe(record: &DecisionRecord, again: &Decision, same: bool) -> String {
    let mut text = format!("{} {} revision {}: {}\n", record.intersection_id, record.as_of, record.revision, again.reason.text);
    let mut candidates: Vec<&Candidate> = again.candidates.iter().collect();
    candidates.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    if !candidates.is_empty() {
        let _ = writeln!(text, "  {:<16} {:>22} {:>12}  limit", "stage", "cost, vehicle-seconds", "change in");
    }
    for candidate in candidates {
        let change = candidate.change_in_s.map_or("stays".to_owned(), |seconds| format!("{:.0} s", seconds.as_secs()));
        let limit = candidate.limit.as_deref().unwrap_or("");
        let line = format!("  {:<16} {:>22.1} {change:>12}  {limit}", candidate.stage.as_str(), candidate.cost);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str(if same { "  The same plan again." } else { "  ANOTHER PLAN than the record says." });
    text
}

#[cfg(test)]
mod tests;
