//! What the suite needs from outside: one trait per capability, in words of the domain.
//!
//! [`crate::memory`] holds the in-memory twins; `shared::aws` and the local host hold the durable ones. The twins and the
//! local host's store pass the same contract tests, `tests/tests/ports.rs`.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use crate::alert::{Acknowledgement, Alert, CloudEvent};
use crate::asset::{Asset, AssetHealth};
use crate::ids::{AlertId, AssetId, AssetKind, IntersectionId};
use crate::intersection::{ETag, Intersection, InvalidDocument};
use crate::plan::{DecisionRecord, PublishedPlan};
use crate::quarantine::{Entry, Replayed};
use crate::units::Timestamp;

/// Why a port could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The store or stream is busy, out of reach or too slow: the same call may succeed later.
    #[error("{0} is unavailable: {1}")]
    Unavailable(&'static str, String),
    /// What was stored cannot be read, or was refused for what it is: the same call will fail again.
    #[error("{0} refused or returned something unusable: {1}")]
    Unusable(&'static str, String),
    /// This version refuses the configuration that an earlier one stored under this id; all others can be read.
    #[error("this version refuses the stored configuration of {0}: {1}")]
    Outdated(IntersectionId, InvalidDocument),
}

impl PortError {
    /// Whether the same call may succeed later.
    pub const fn retry(&self) -> bool {
        matches!(self, Self::Unavailable(..))
    }
}

/// The wall clock; read only at the edges.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// One record for the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRecord {
    /// Partition key: records of one key keep their order.
    pub key: String,
    /// The encoded record.
    pub data: Vec<u8>,
}

/// Appends records to the stream.
pub trait ReadingStream: Send + Sync {
    /// Appends each record; the answer says for each one, in the same order, whether it is durable.
    ///
    /// Two records of one key in one call have no promised order if one of them is refused: callers that need order put one
    /// record per key into a call. At most 500 records and 5 MiB; a record of more than 1 MiB with its key is refused alone
    /// and for good.
    ///
    /// # Errors
    /// [`PortError`] if the call as a whole failed; then any of the records may or may not be on the stream.
    fn append(&self, records: &[StreamRecord]) -> impl Future<Output = Result<Vec<Result<(), PortError>>, PortError>> + Send;
}

/// Why a conditional write did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Somebody else wrote first: load again and decide again.
    #[error("the stored version is not the expected one")]
    Conflict,
    /// The store failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A page of a list in ascending order of id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// The key of the last entry looked at, if more follow: pass it as `after` to go on.
    pub next: Option<String>,
}

/// A configured intersection and the tag of this very content.
pub type StoredIntersection = (ETag, Arc<Intersection>);

/// Reads and writes the configuration of intersections. Written by `operations-api` alone.
pub trait IntersectionStore: Send + Sync {
    /// The intersection, if it is configured; [`PortError::Outdated`] if this version refuses what is stored.
    fn get(&self, id: &IntersectionId) -> impl Future<Output = Result<Option<StoredIntersection>, PortError>> + Send;

    /// The tag alone of what is stored, so that what this version refuses to read can be written over or removed.
    fn tag(&self, id: &IntersectionId) -> impl Future<Output = Result<Option<ETag>, PortError>> + Send;

    /// Stores the intersection if what is stored has the expected tag (`None`: if nothing is stored).
    fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Removes the intersection if what is stored has the expected tag.
    fn delete(&self, id: &IntersectionId, expected: &ETag) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Configured intersections after the id `after`, at most `limit` (1 to 500). Those that cannot be read are left out,
    /// with an error in the log.
    fn list(&self, after: Option<&str>, limit: usize) -> impl Future<Output = Result<Page<StoredIntersection>, PortError>> + Send;

    /// Ids alone of configured intersections that begin with `prefix`, after the id `after`, at most `limit` (1 to 500).
    fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> impl Future<Output = Result<Page<IntersectionId>, PortError>> + Send;
}

/// What is kept per junction: the plan that everybody may read and the state that only its writer understands.
#[derive(Clone, Debug, PartialEq)]
pub struct JunctionRow {
    /// Counts the writes; the condition of the next write.
    pub version: u64,
    /// The plan in force.
    pub plan: PublishedPlan,
    /// Encoded state of `signal-adjustment`.
    pub state: Vec<u8>,
}

/// Reads and writes the rows of junctions. Written by `signal-adjustment` alone, one write per junction and step.
pub trait JunctionStore: Send + Sync {
    /// The row as last written (a consistent read).
    fn load(&self, id: &IntersectionId) -> impl Future<Output = Result<Option<JunctionRow>, PortError>> + Send;

    /// Stores the row if the stored version is `row.version - 1`; 0 means that nothing is stored.
    fn save(&self, row: &JunctionRow) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// Reads plans. An eventually consistent read is good enough.
pub trait PlanReader: Send + Sync {
    /// The current plan of one junction.
    fn plan(&self, id: &IntersectionId) -> impl Future<Output = Result<Option<PublishedPlan>, PortError>> + Send;

    /// Current plans of junctions whose id begins with `prefix`, after the id `after`, at most `limit` (1 to 500).
    fn plans(&self, prefix: &str, after: Option<&str>, limit: usize)
    -> impl Future<Output = Result<Page<PublishedPlan>, PortError>> + Send;
}

/// Keeps decision records for as long as its retention says.
pub trait DecisionLog: Send + Sync {
    /// Stores the records; a record of the same junction and time is replaced.
    fn record(&self, records: &[DecisionRecord]) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Records of one junction with `from <= as_of < to`, after the time `after`, oldest first, at most `limit` (1 to 500).
    fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> impl Future<Output = Result<Page<DecisionRecord>, PortError>> + Send;
}

/// Reads and writes what people say of assets. Written by `operations-api` alone.
pub trait AssetStore: Send + Sync {
    /// The asset, if somebody registered it.
    fn asset(&self, id: &AssetId) -> impl Future<Output = Result<Option<Asset>, PortError>> + Send;

    /// Stores the asset if what is stored has the expected tag (`None`: if nothing is stored).
    fn put_asset(&self, expected: Option<&ETag>, asset: &Asset) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Registered assets after the one with the id `after`, at most `limit` (1 to 500), in the order of [`AssetId::sort_key`].
    fn assets(&self, after: Option<&AssetId>, limit: usize) -> impl Future<Output = Result<Page<Asset>, PortError>> + Send;
}

/// What everybody may read of the assets behind one key of the stream: the detectors of an intersection, or a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The key of the stream.
    pub key: String,
    /// Event time of the newest reading.
    pub as_of: Timestamp,
    /// When ingestion received it (wall clock).
    pub received_at: Timestamp,
    /// The condition of each asset, in the order of [`AssetId::sort_key`].
    pub health: Vec<AssetHealth>,
}

/// What is kept per key: the condition that everybody may read and the state that only its writer understands.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionRow {
    /// Counts the writes; the condition of the next write.
    pub version: u64,
    /// What everybody may read.
    pub condition: Condition,
    /// Encoded state of `maintenance-prediction`.
    pub state: Vec<u8>,
}

/// Reads and writes the rows of conditions. Written by `maintenance-prediction` alone.
pub trait ConditionStore: Send + Sync {
    /// The row as last written (a consistent read).
    fn load_condition(&self, key: &str) -> impl Future<Output = Result<Option<ConditionRow>, PortError>> + Send;

    /// Stores the row if the stored version is `row.version - 1`; 0 means that nothing is stored.
    fn save_condition(&self, row: &ConditionRow) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// Reads conditions. An eventually consistent read is good enough.
pub trait ConditionReader: Send + Sync {
    /// The condition behind one key.
    fn condition(&self, key: &str) -> impl Future<Output = Result<Option<Condition>, PortError>> + Send;

    /// Conditions after the key `after`, at most `limit` (1 to 500), in the order of [`AssetId::sort_key`].
    fn conditions(&self, after: Option<&str>, limit: usize) -> impl Future<Output = Result<Page<Condition>, PortError>> + Send;
}

/// Keeps alerts. Written by `maintenance-prediction` alone.
pub trait AlertStore: Send + Sync {
    /// Stores the alerts; an alert of the same id is replaced unless it has more [`Alert::changes`]: a writer that is late does not
    /// take back what came after it.
    fn put_alerts(&self, alerts: &[Alert]) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Reads alerts.
pub trait AlertReader: Send + Sync {
    /// The alert.
    fn alert(&self, id: &AlertId) -> impl Future<Output = Result<Option<Alert>, PortError>> + Send;

    /// Alerts after the id `after`, oldest first, at most `limit` (1 to 500).
    fn alerts(&self, after: Option<&str>, limit: usize) -> impl Future<Output = Result<Page<Alert>, PortError>> + Send;
}

/// Keeps who knows of which alert. Written by `operations-api` alone.
pub trait AcknowledgementStore: Send + Sync {
    /// Stores the acknowledgement unless one of this or a later occurrence is stored; answers what is stored then.
    fn acknowledge(
        &self,
        id: &AlertId,
        acknowledgement: &Acknowledgement,
    ) -> impl Future<Output = Result<Acknowledgement, PortError>> + Send;

    /// The acknowledgements of these alerts (at most 500), as far as there are any.
    fn acknowledgements(&self, ids: &[AlertId]) -> impl Future<Output = Result<HashMap<AlertId, Acknowledgement>, PortError>> + Send;
}

/// Tells others what happened, at least once.
pub trait EventBus: Send + Sync {
    /// Sends the events in this order; sent again after a failure they have the same ids.
    fn publish(&self, events: &[CloudEvent]) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Brings models that are not shipped.
pub trait ModelSource: Send + Sync {
    /// The file of the model of this kind of asset, if there is one.
    fn model(&self, kind: &AssetKind) -> impl Future<Output = Result<Option<Vec<u8>>, PortError>> + Send;
}

/// A stream record that can never be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoisonRecord {
    /// Shard and sequence number, unique on the stream.
    pub id: String,
    /// Partition key as delivered.
    pub key: String,
    /// The bytes as delivered.
    pub data: Vec<u8>,
    /// Which function gave up on it.
    pub function: &'static str,
    /// Why.
    pub reason: String,
}

/// Keeps poison records until somebody looks at them.
pub trait Quarantine: Send + Sync {
    /// Stores the record under its function; storing it again changes nothing.
    fn quarantine(&self, record: &PoisonRecord) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Shows people what lies in the quarantine, and takes away what they are done with.
pub trait QuarantineReview: Send + Sync {
    /// Entries with an id after `after`, at most `limit` (1 to 500), with their bytes. A page may hold fewer, or none, although
    /// more follow. What cannot be read is an entry that says so.
    fn entries(&self, after: Option<&str>, limit: usize) -> impl Future<Output = Result<Page<Entry>, PortError>> + Send;

    /// The entry of this id.
    fn entry(&self, id: &str) -> impl Future<Output = Result<Option<Entry>, PortError>> + Send;

    /// Takes the entry away because its records are on the stream again, and keeps what is told of it.
    fn replayed(&self, replayed: &Replayed) -> impl Future<Output = Result<(), PortError>> + Send;

    /// What was kept of replayed entries, in any order, after the place `after`; as with [`Self::entries`], pages may be short.
    fn replays(&self, after: Option<&str>, limit: usize) -> impl Future<Output = Result<Page<Replayed>, PortError>> + Send;

    /// Takes the entry away for good.
    fn discard(&self, id: &str) -> impl Future<Output = Result<(), PortError>> + Send;
}
