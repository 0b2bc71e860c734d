//! What lies in the quarantine and fits a filter, each entry with what is known of its earlier failures.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use shared::ports::{PortError, QuarantineReview};
use shared::quarantine::{Entry, Kind, Replayed, StreamOrder};
use shared::units::Timestamp;

/// Entries of one page: a failed batch may take 8 MB, and a page of them has to fit into memory.
const PAGE: usize = 16;

/// Which entries are meant: those that fit all that is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Filter {
    /// Entries whose reason contains this text, in upper or lower case.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Entries put aside at this time or later, such as 2026-11-22T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    pub since: Option<Timestamp>,
    /// Entries put aside before this time.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    pub until: Option<Timestamp>,
    /// Entries of the function whose name contains this text; hyphens and case do not count.
    #[arg(long, value_name = "NAME")]
    pub function: Option<String>,
    /// Entries with a record of this key.
    #[arg(long)]
    pub key: Option<String>,
}

impl Filter {
    /// Whether it lets everything through.
    pub(super) const fn is_empty(&self) -> bool {
        self.reason.is_none() && self.since.is_none() && self.until.is_none() && self.function.is_none() && self.key.is_none()
    }

    fn fits(&self, entry: &Entry) -> bool {
        // CloudFormation writes SignalAdjustment where the code writes signal-adjustment.
        let plain = |name: &str| name.to_lowercase().replace('-', "");
        self.reason.as_ref().is_none_or(|text| entry.reason.to_lowercase().contains(&text.to_lowercase()))
            && self.since.is_none_or(|since| entry.at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| entry.at.is_some_and(|at| at < until))
            && self.function.as_ref().is_none_or(|name| plain(&entry.function).contains(&plain(name)))
            && self.key.as_ref().is_none_or(|key| entry.records.iter().any(|record| record.key == *key))
    }
}

/// One entry without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) function: String,
    /// When it was put aside.
    pub(super) at: Option<Timestamp>,
    pub(super) reason: String,
    pub(super) keys: BTreeSet<String>,
    pub(super) records: usize,
    pub(super) bytes: usize,
    /// How often its content, or some of it, was sent again before and failed once more.
    pub(super) came_back: usize,
    #[serde(skip)]
    pub(super) places: Vec<Place>,
}

/// Where a record of a key lies on the stream; two entries may hold the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) order: StreamOrder,
    pub(super) shard: String,
    pub(super) key: String,
}

impl Found {
    pub(super) fn of(entry: &Entry, history: &History) -> Self {
        let place =
            |record: &shared::quarantine::HeldRecord| Place { order: record.order(), shard: record.shard.clone(), key: record.key.clone() };
        Self {
            id: entry.id.clone(),
            kind: entry.kind,
            function: entry.function.clone(),
            at: entry.at,
            reason: entry.reason.clone(),
            keys: entry.records.iter().map(|record| record.key.clone()).collect(),
            records: entry.records.len(),
            bytes: entry.bytes(),
            came_back: history.times(entry),
            places: entry.records.iter().map(place).collect(),
        }
    }
}

/// Entries that were sent again, by the content of their records.
#[derive(Debug, Default)]
pub(super) struct History {
    replays: Vec<Replayed>,
    /// Digest -> sequence number of the record that was sent again, and its replay.
    by_content: HashMap<String, Vec<(StreamOrder, usize)>>,
}

impl History {
    pub(super) async fn load(quarantine: &impl QuarantineReview) -> Result<Self, PortError> {
        let (mut history, mut after) = (Self::default(), None);
        loop {
            let page = quarantine.replays(after.as_deref(), PAGE).await?;
            for replayed in page.items {
                for record in &replayed.records {
                    let replay = (StreamOrder::of(&record.sequence), history.replays.len());
                    history.by_content.entry(record.digest.clone()).or_default().push(replay);
                }
                history.replays.push(replayed);
            }
            after = page.next;
            if after.is_none() {
                return Ok(history);
            }
        }
    }

    /// How often the record that was sent again most often came back.
    fn times(&self, entry: &Entry) -> usize {
        // Two functions may have put the same record aside: it was sent again once.
        let times = self.earlier(entry).map(|record| record.iter().map(|(order, _)| order).collect::<BTreeSet<_>>().len());
        times.max().unwrap_or_default()
    }

    /// Replays that sent a record of this entry before, in the order of time.
    pub(super) fn of(&self, entry: &Entry) -> Vec<&Replayed> {
        let replays: BTreeSet<usize> = self.earlier(entry).flatten().map(|(_, replay)| *replay).collect();
        let mut replays: Vec<&Replayed> = replays.into_iter().filter_map(|replay| self.replays.get(replay)).collect();
        replays.sort_by_key(|replayed| replayed.replayed_at);
        replays
    }

    /// Replays of an entry with this id.
    pub(super) fn of_id(&self, id: &str) -> Option<&Replayed> {
        self.replays.iter().filter(|replayed| replayed.id == id).max_by_key(|replayed| replayed.replayed_at)
    }

    /// For each record, the replays of the same content from a place before it: what lies at its own place is the record itself.
    fn earlier(&self, entry: &Entry) -> impl Iterator<Item = Vec<&(StreamOrder, usize)>> {
        entry.records.iter().filter(|_| !self.replays.is_empty()).map(|record| {
            let (replays, order) = (self.by_content.get(&record.digest()), record.order());
            replays.into_iter().flatten().filter(|(before, _)| *before < order).collect()
        })
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Entries that fit, the oldest first.
    pub(super) found: Vec<Found>,
    /// Entries that were looked at.
    pub(super) total: usize,
}

/// Looks at every entry.
pub(super) async fn survey(quarantine: &impl QuarantineReview, filter: &Filter) -> Result<Survey, PortError> {
    let history = History::load(quarantine).await?;
    let (mut survey, mut after) = (Survey::default(), None);
    loop {
        let page = quarantine.entries(after.as_deref(), PAGE).await?;
        survey.total += page.items.len();
        survey.found.extend(page.items.iter().filter(|entry| filter.fits(entry)).map(|entry| Found::of(entry, &history)));
        after = page.next;
        if after.is_none() {
            survey.found.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
            return Ok(survey);
        }
    }
}
