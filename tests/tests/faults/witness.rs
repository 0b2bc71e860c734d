//! What really happened: every call of the functions, and every write that a store took.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lambda_events::event::kinesis::KinesisEvent;
use aws_lambda_events::event::streams::KinesisEventResponse;
use greenwave::store::Store;
use greenwave::stream::Sequence;
use shared::alert::Alert;
use shared::ids::IntersectionId;
use shared::intersection::{ETag, Intersection};
use shared::plan::DecisionRecord;
use shared::ports::{
    AlertStore, Condition, ConditionReader, ConditionRow, ConditionStore, DecisionLog, IntersectionStore, JunctionRow, JunctionStore, Page,
    PortError, StoredIntersection, WriteError,
};
use shared::units::Timestamp;

/// Shard and place of a record.
pub(crate) type Place = (u16, Sequence);

/// What a function was asked to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// To process a batch; whether by the mapping or once more by the storm.
    Batch { event: KinesisEvent, places: Vec<Place>, again: bool },
    /// To look for silent junctions at this time.
    Sweep(Timestamp),
}

/// One call of a function.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: &'static str,
    pub(crate) task: Task,
    /// Its answer, if it gave one.
    pub(crate) response: Mutex<Option<KinesisEventResponse>>,
}

impl Call {
    pub(crate) fn batch(function: &'static str, event: KinesisEvent, again: bool) -> Self {
        let places = event.records.iter().map(|record| {
            let (shard, sequence) = record.event_id.as_deref().unwrap().split_once(':').unwrap();
            (shard.trim_start_matches("shardId-").parse().unwrap(), Sequence::new(sequence.parse().unwrap()))
        });
        Self { function, task: Task::Batch { places: places.collect(), event, again }, response: Mutex::default() }
    }
}

tokio::task_local! {
    /// The call that is under way in this task.
    pub(crate) static CALL: Arc<Call>;
}

/// A write that a store took.
#[derive(Debug)]
pub(crate) struct Saved<R> {
    pub(crate) row: R,
    /// The call that wrote it.
    pub(crate) call: Arc<Call>,
    /// The condition of the detectors as the function knew it.
    pub(crate) known: Option<Condition>,
}

/// Everything that happened, in order.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) calls: Mutex<Vec<Arc<Call>>>,
    pub(crate) junctions: Mutex<Vec<Saved<JunctionRow>>>,
    pub(crate) conditions: Mutex<Vec<Saved<ConditionRow>>>,
    /// Decision records, also those of attempts that came to nothing.
    pub(crate) decisions: Mutex<Vec<DecisionRecord>>,
}

impl Log {
    /// What happened, as text.
    pub(crate) fn trace(&self) -> String {
        let calls: Vec<_> = self.calls.lock().unwrap().iter().map(|call| format!("{:?}", call.response)).collect();
        format!("{calls:?} {:?} {:?}", self.junctions.lock().unwrap(), self.conditions.lock().unwrap())
    }
}

/// The store as one instance of a function sees it, and a note of what it wrote.
#[derive(Clone)]
pub(crate) struct Witness {
    store: Store,
    log: Arc<Log>,
    /// What this instance read of the condition behind each key.
    known: Arc<Mutex<HashMap<String, Option<Condition>>>>,
}

impl Witness {
    pub(crate) fn new(store: Store, log: Arc<Log>) -> Self {
        Self { store, log, known: Arc::default() }
    }

    fn saved<R>(&self, row: R, key: &str) -> Saved<R> {
        Saved { row, call: CALL.get(), known: self.known.lock().unwrap().get(key).cloned().flatten() }
    }
}

impl IntersectionStore for Witness {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        self.store.get(id).await
    }

    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        self.store.tag(id).await
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        self.store.put(expected, intersection).await
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        self.store.delete(id, expected).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        self.store.list(after, limit).await
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        self.store.ids(prefix, after, limit).await
    }
}

impl JunctionStore for Witness {
    async fn load(&self, id: &IntersectionId) -> Result<Option<JunctionRow>, PortError> {
        self.store.load(id).await
    }

    async fn save(&self, row: &JunctionRow) -> Result<(), WriteError> {
        self.store.save(row).await?;
        self.log.junctions.lock().unwrap().push(self.saved(row.clone(), row.plan.intersection_id.as_str()));
        Ok(())
    }
}

impl DecisionLog for Witness {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        self.store.record(records).await?;
        self.log.decisions.lock().unwrap().extend_from_slice(records);
        Ok(())
    }

    async fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> Result<Page<DecisionRecord>, PortError> {
        self.store.decisions(id, from, to, after, limit).await
    }
}

impl ConditionStore for Witness {
    async fn load_condition(&self, key: &str) -> Result<Option<ConditionRow>, PortError> {
        self.store.load_condition(key).await
    }

    async fn save_condition(&self, row: &ConditionRow) -> Result<(), WriteError> {
        self.store.save_condition(row).await?;
        self.log.conditions.lock().unwrap().push(self.saved(row.clone(), &row.condition.key));
        Ok(())
    }
}

impl ConditionReader for Witness {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        let condition = self.store.condition(key).await?;
        self.known.lock().unwrap().insert(key.to_owned(), condition.clone());
        Ok(condition)
    }

    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        self.store.conditions(after, limit).await
    }
}

impl AlertStore for Witness {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        self.store.put_alerts(alerts).await
    }
}
