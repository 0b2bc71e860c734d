//! `greenwave quarantine`: what lies in the quarantine, why, and how it gets out again.
//!
//! The same commands work on a data directory of this machine and on the bucket of a deployed stack.

mod replay;
mod show;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use shared::ports::{PortError, QuarantineReview, ReadingStream};
use shared::quarantine::Kind;

use self::replay::{Planned, Stopped, replay};
use self::show::{counted, safe};
pub use self::survey::Filter;
use self::survey::{Found, History, Place, Survey, survey};
use crate::clock::{SystemClock, Time};
use crate::store::{FILE_NAME, OpenError, Store};

/// Keys that a dry run names, those with most records first.
const KEYS_NAMED: usize = 20;
/// Entries discarded at a time.
const DISCARDS: usize = 16;

/// What `greenwave quarantine` is told.
#[derive(Clone, Debug, clap::Subcommand)]
#[expect(missing_docs, reason = "a doc comment on a flattened field would replace the help of its command")]
pub enum Action {
    /// List what is in the quarantine, the oldest first.
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        filter: Filter,
        /// Print a JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show everything about one entry: history, records, bytes.
    Show {
        #[command(flatten)]
        target: Target,
        /// The entry, as listed.
        id: String,
    },
    /// Put records on the stream again, those of a key in their old order. Without --yes only say what would be done.
    Replay {
        #[command(flatten)]
        target: Target,
        /// Stream to which the records of --bucket go.
        #[arg(long, requires = "bucket")]
        stream: Option<String>,
        #[command(flatten)]
        selection: Selection,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
    /// Throw entries away for good. Without --yes only say what would be done.
    Discard {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        selection: Selection,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

/// Whose quarantine.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// Where `greenwave serve` keeps everything.
    #[arg(long, value_name = "DIR", default_value = ".greenwave", conflicts_with = "bucket")]
    pub data_dir: PathBuf,
    /// Bucket of a deployed stack, its output `QuarantineBucket`; region and credentials are those of the shell.
    #[arg(long)]
    pub bucket: Option<String>,
}

/// Which entries: those named, or those that fit the filter, or all.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Selection {
    /// Entries, as listed; instead of a filter.
    #[arg(value_name = "ID", conflicts_with_all = ["reason", "since", "until", "function", "key"])]
    pub ids: Vec<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment on a flattened field would replace the help of its command")]
    pub filter: Filter,
}

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// There is no store to look into.
    #[error("{0} has no data of Greenwave: name the directory of `greenwave serve` with --data-dir")]
    NoData(PathBuf),
    /// A server has the store open.
    #[error("{0}: a running `greenwave serve` keeps it to itself. Stop it, give this command again, and start it: it goes on where it was")]
    Serving(PathBuf),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// This program has no AWS SDK in it.
    #[error("this greenwave was built without AWS: build it with `cargo install --path local --features aws`")]
    WithoutAws,
    /// A replay from a bucket needs a stream.
    #[error("which stream? Give the stack's output `StreamName` with --stream")]
    NoStream,
    /// No entry has this id.
    #[error("the quarantine has no entry {0}")]
    Unknown(String),
    /// The entry was sent again.
    #[error("the quarantine has no entry {0}: it was replayed at {1}")]
    Replayed(String, shared::units::Timestamp),
    /// To discard everything needs words.
    #[error("which entries? Name them, or give a filter: `--until` with the time of now takes all")]
    NoSelection,
    /// A replay did not come to its end.
    #[error("{0}. What is left stays in the quarantine: the same command goes on with it")]
    Unfinished(String),
    /// The quarantine cannot be reached.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The entries cannot be written as JSON.
    #[error("the list cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

impl Action {
    const fn target(&self) -> &Target {
        match self {
            Self::List { target, .. } | Self::Show { target, .. } | Self::Replay { target, .. } | Self::Discard { target, .. } => target,
        }
    }
}

/// Does it, and says line by line what there is and what was done. A replay ends early when `stop` does.
///
/// # Errors
/// [`QuarantineError`] says what to do.
pub async fn run(action: &Action, stop: impl Future<Output = ()>, say: impl FnMut(&str)) -> Result<(), QuarantineError> {
    let Some(bucket) = &action.target().bucket else {
        let store = open(&action.target().data_dir)?;
        return work(action, &store, &store, &SystemClock, stop, say).await;
    };
    let stream = match action {
        Action::Replay { stream, yes: true, .. } => stream.as_ref().ok_or(QuarantineError::NoStream)?,
        _ => "",
    };
    on_aws(action, bucket, stream, stop, say).await
}

#[cfg(feature = "aws")]
async fn on_aws(
    action: &Action,
    bucket: &str,
    stream: &str,
    stop: impl Future<Output = ()>,
    say: impl FnMut(&str),
) -> Result<(), QuarantineError> {
    let config = shared::aws::sdk_config().await;
    let quarantine = shared::aws::S3Quarantine::new(&config, bucket);
    work(action, &quarantine, &shared::aws::KinesisStream::new(&config, stream), &SystemClock, stop, say).await
}

#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "with the feature it waits")]
async fn on_aws(_: &Action, _: &str, _: &str, _: impl Future<Output = ()>, _: impl FnMut(&str)) -> Result<(), QuarantineError> {
    Err(QuarantineError::WithoutAws)
}

fn open(directory: &Path) -> Result<Store, QuarantineError> {
    if !directory.join(FILE_NAME).is_file() {
        return Err(QuarantineError::NoData(directory.to_owned()));
    }
    // The store exists, so it keeps its own number of shards.
    Store::open(directory, 1, SystemClock).map_err(|error| match error {
        OpenError::InUse(path) => QuarantineError::Serving(path),
        other => QuarantineError::Open(other),
    })
}

async fn work(
    action: &Action,
    quarantine: &impl QuarantineReview,
    stream: &impl ReadingStream,
    time: &impl Time,
    stop: impl Future<Output = ()>,
    mut say: impl FnMut(&str),
) -> Result<(), QuarantineError> {
    match action {
        Action::List { filter, json, .. } => list(quarantine, filter, *json, say).await,
        Action::Show { id, .. } => {
            let history = History::load(quarantine).await?;
            let entry = quarantine.entry(id).await?.ok_or_else(|| unknown(id, &history))?;
            let found = Found::of(&entry, &history);
            for line in show::entry(&entry, found.came_back, &history.of(&entry)) {
                say(&line);
            }
            Ok(())
        }
        Action::Replay { selection, yes, .. } => {
            let found = selected(quarantine, selection).await?.found;
            replay_all(found, *yes, quarantine, stream, time, stop, say).await
        }
        Action::Discard { selection, yes, .. } => {
            if selection.ids.is_empty() && selection.filter.is_empty() {
                return Err(QuarantineError::NoSelection);
            }
            let found = selected(quarantine, selection).await?.found;
            discard_all(&found, *yes, quarantine, say).await
        }
    }
}

fn unknown(id: &str, history: &History) -> QuarantineError {
    match history.of_id(id) {
        Some(replayed) => QuarantineError::Replayed(safe(id), replayed.replayed_at),
        None => QuarantineError::Unknown(safe(id)),
    }
}

async fn selected(quarantine: &impl QuarantineReview, selection: &Selection) -> Result<Survey, QuarantineError> {
    if selection.ids.is_empty() {
        return Ok(survey(quarantine, &selection.filter).await?);
    }
    let history = History::load(quarantine).await?;
    let mut found = Vec::new();
    for id in selection.ids.iter().collect::<BTreeSet<_>>() {
        let entry = quarantine.entry(id).await?.ok_or_else(|| unknown(id, &history))?;
        found.push(Found::of(&entry, &history));
    }
    Ok(Survey { total: found.len(), found })
}

async fn list(quarantine: &impl QuarantineReview, filter: &Filter, json: bool, mut say: impl FnMut(&str)) -> Result<(), QuarantineError> {
    let Survey { found, total } = survey(quarantine, filter).await?;
    if json {
        say(&serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    if found.is_empty() && total == 0 {
        say("Nothing is in the quarantine.");
    } else if found.is_empty() {
        say(&format!("Nothing fits, of {} in the quarantine.", counted(total, "entry", "entries")));
    } else {
        for line in show::table(&found) {
            say(&line);
        }
        let of = if found.len() == total { String::new() } else { format!(" of {total}") };
        say(&format!("{}{of}: {}.", counted(found.len(), "entry", "entries"), kinds(&found)));
    }
    Ok(())
}

/// `2 poison, 1 failed batch`.
fn kinds(found: &[Found]) -> String {
    let kinds = [Kind::Poison, Kind::FailedBatch, Kind::Unreadable].map(|kind| (kind, found.iter().filter(|f| f.kind == kind).count()));
    let named: Vec<String> =
        kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {}", show::kind(*kind))).collect();
    named.join(", ")
}

async fn replay_all(
    mut found: Vec<Found>,
    yes: bool,
    quarantine: &impl QuarantineReview,
    stream: &impl ReadingStream,
    time: &impl Time,
    stop: impl Future<Output = ()>,
    mut say: impl FnMut(&str),
) -> Result<(), QuarantineError> {
    let all = found.len();
    found.retain(|found| !found.places.is_empty());
    if found.len() < all {
        say(&format!("Left alone: {} that cannot be read; `show` tells why.", counted(all - found.len(), "entry", "entries")));
    }
    let places: BTreeSet<&Place> = found.iter().flat_map(|found| &found.places).collect();
    let held: usize = found.iter().map(|found| found.records).sum();
    let mut keys: BTreeMap<&str, usize> = BTreeMap::new();
    for place in &places {
        *keys.entry(&place.key).or_default() += 1;
    }
    if places.is_empty() {
        say("Nothing to replay.");
        return Ok(());
    }
    let what = format!(
        "{} of {} from {}",
        counted(places.len(), "record", "records"),
        counted(keys.len(), "key", "keys"),
        counted(found.len(), "entry", "entries")
    );
    if !yes {
        say(&format!("Would put on the stream again: {what}."));
        if held > places.len() {
            say(&format!("{} in more than one entry and would go once.", counted(held - places.len(), "record lies", "records lie")));
        }
        let mut keys: Vec<(&str, usize)> = keys.into_iter().collect();
        keys.sort_by_key(|(key, records)| (std::cmp::Reverse(*records), *key));
        for (key, records) in keys.iter().take(KEYS_NAMED) {
            say(&format!("{records:>8}  {}", safe(key)));
        }
        if keys.len() > KEYS_NAMED {
            say(&format!("          and {} more", counted(keys.len() - KEYS_NAMED, "key", "keys")));
        }
        say("Nothing was done; --yes does it.");
        return Ok(());
    }
    let records = places.len();
    let progress = progress(records, "records");
    let first = |found: &Found| found.places.iter().map(|place| place.order.clone()).min();
    let planned = found.iter().filter_map(|found| Some(Planned { first: first(found)?, id: found.id.clone() })).collect();
    let sleep = |wait: Duration| async move { time.sleep(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)).await };
    let moved = |records| progress.inc(u64::try_from(records).unwrap_or_default());
    let (tally, outcome) = replay(quarantine, stream, &sleep, planned, time.now(), stop, moved).await;
    progress.finish_and_clear();
    let done = format!("{} of {records} records are on the stream again, {} of {} entries done", tally.records, tally.entries, found.len());
    match outcome {
        Ok(()) => say(&format!("{done}. What fails again comes back with its history.")),
        Err(Stopped::Interrupted) => {
            return Err(QuarantineError::Unfinished(format!("interrupted: {done}; the last records may go twice")));
        }
        Err(Stopped::Refused(refused)) => {
            return Err(QuarantineError::Unfinished(format!("the stream refused {}: {done}", counted(refused, "record", "records"))));
        }
        Err(Stopped::Port(error)) => return Err(QuarantineError::Unfinished(format!("{error}: {done}; the last records may go twice"))),
    }
    Ok(())
}

async fn discard_all(
    found: &[Found],
    yes: bool,
    quarantine: &impl QuarantineReview,
    mut say: impl FnMut(&str),
) -> Result<(), QuarantineError> {
    if found.is_empty() {
        say("Nothing to discard.");
        return Ok(());
    }
    if !yes {
        for line in show::table(found) {
            say(&line);
        }
        say(&format!("Would discard for good: {}. Nothing was done; --yes does it.", counted(found.len(), "entry", "entries")));
        return Ok(());
    }
    let progress = progress(found.len(), "entries");
    let mut discards = futures_util::stream::iter(found.iter().map(|found| quarantine.discard(&found.id))).buffer_unordered(DISCARDS);
    while let Some(discarded) = discards.next().await {
        discarded?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    say(&format!("Discarded {}.", counted(found.len(), "entry", "entries")));
    Ok(())
}

/// A bar on the terminal; elsewhere nothing.
fn progress(length: usize, unit: &str) -> ProgressBar {
    let template = format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let progress = ProgressBar::new(u64::try_from(length).unwrap_or(u64::MAX)).with_style(style);
    progress.tick();
    progress
}
