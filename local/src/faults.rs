//! Faults by seed: wrappers that make a function, a stream or a store fail the way AWS does, and a clock to move by hand.
//!
//! Each wrapper draws from its own stream of one seed, or strikes where a script says, so on a runtime with one thread and
//! paused time a seed or a script gives one schedule.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lambda_events::event::kinesis::KinesisEvent;
use aws_lambda_events::event::streams::KinesisEventResponse;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shared::alert::{Alert, CloudEvent};
use shared::ids::IntersectionId;
use shared::intersection::{ETag, Intersection};
use shared::plan::DecisionRecord;
use shared::ports::{
    AlertStore, Clock, Condition, ConditionReader, ConditionRow, ConditionStore, DecisionLog, EventBus, IntersectionStore, JunctionRow,
    JunctionStore, Page, PoisonRecord, PortError, Quarantine, QuarantineReview, ReadingStream, StoredIntersection, StreamRecord,
    WriteError,
};
use shared::quarantine::{Entry, Replayed};
use shared::units::Timestamp;
use tokio::time::Instant;

use crate::clock::Time;
use crate::poller::StreamFunction;

/// Source of all faults of one run.
pub struct Seed {
    seed: u64,
    streams: AtomicU64,
}

impl Seed {
    /// The run with this number.
    pub const fn new(seed: u64) -> Self {
        Self { seed, streams: AtomicU64::new(0) }
    }

    /// A stream of random numbers of its own; the order of these calls is part of the schedule.
    pub fn stream(&self) -> Dice {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.streams.fetch_add(1, Ordering::Relaxed));
        Dice { rng: Arc::new(Mutex::new(rng)), script: None, quiet: Arc::default() }
    }
}

/// Decides what fails. Clones draw from the same stream.
#[derive(Clone)]
pub struct Dice {
    rng: Arc<Mutex<ChaCha8Rng>>,
    script: Option<Arc<Mutex<Script>>>,
    quiet: Arc<AtomicBool>,
}

/// Which rolls strike, and what they draw.
struct Script {
    rolls: u64,
    strikes: BTreeMap<u64, f64>,
}

impl Dice {
    /// Dice that strike at these rolls alone, counted from 0, and draw there what is written (0 to 1): a schedule that can be
    /// made smaller one fault at a time.
    pub fn scripted(strikes: BTreeMap<u64, f64>) -> Self {
        let script = Arc::new(Mutex::new(Script { rolls: 0, strikes }));
        Self { script: Some(script), ..Seed::new(0).stream() }
    }

    /// No faults from now on: to see that everything comes right in the end.
    pub fn quiet(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// One of the faults with the chance that stands beside it, or none. The chances add up to at most 1.
    fn roll<T: Copy>(&self, faults: &[(f64, T)]) -> Option<T> {
        let mut drawn = self.draw();
        if self.quiet.load(Ordering::Relaxed) {
            return None;
        }
        let hit = faults.iter().find(|(chance, _)| {
            drawn -= chance;
            drawn < 0.0
        });
        hit.map(|&(_, fault)| fault)
    }

    fn draw(&self) -> f64 {
        let Some(script) = &self.script else {
            return self.rng.lock().unwrap_or_else(PoisonError::into_inner).random();
        };
        let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
        let roll = script.rolls;
        script.rolls += 1;
        script.strikes.remove(&roll).unwrap_or(1.0)
    }

    /// One of so many places; 0 if there is none.
    fn pick(&self, places: usize) -> usize {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..places.max(1))
    }
}

/// Chances of the faults of a function, each 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct FunctionFaults {
    /// It fails before it did anything.
    pub crash_before: f64,
    /// It did everything, then fails.
    pub crash_after: f64,
    /// It panics before it did anything.
    pub panic: f64,
    /// It did everything, but reports a record as failed.
    pub partial: f64,
    /// It did everything, but reports a record that is not of the batch.
    pub unknown: f64,
    /// It did everything, then hangs until its time is up.
    pub timeout: f64,
}

/// A function that fails now and then.
pub struct FaultyFunction<F> {
    /// The function.
    pub inner: F,
    /// Chances.
    pub faults: FunctionFaults,
    /// Dice.
    pub dice: Dice,
}

#[derive(Clone, Copy)]
enum FunctionFault {
    CrashBefore,
    CrashAfter,
    Panic,
    Partial,
    Unknown,
    Timeout,
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum FaultyError<E: Display> {
    /// As the dice wanted it.
    #[error("injected: {0}")]
    Injected(&'static str),
    /// By itself.
    #[error("{0}")]
    Inner(E),
}

impl<F: StreamFunction> StreamFunction for FaultyFunction<F> {
    type Error = FaultyError<F::Error>;

    #[expect(clippy::panic, reason = "a panic is one of the faults")]
    async fn invoke(&self, event: KinesisEvent) -> Result<KinesisEventResponse, Self::Error> {
        let FunctionFaults { crash_before, crash_after, panic, partial, unknown, timeout } = self.faults;
        let fault = self.dice.roll(&[
            (crash_before, FunctionFault::CrashBefore),
            (crash_after, FunctionFault::CrashAfter),
            (panic, FunctionFault::Panic),
            (partial, FunctionFault::Partial),
            (unknown, FunctionFault::Unknown),
            (timeout, FunctionFault::Timeout),
        ]);
        match fault {
            Some(FunctionFault::CrashBefore) => return Err(FaultyError::Injected("crash before any effect")),
            Some(FunctionFault::Panic) => panic!("injected: panic before any effect"),
            _ => {}
        }
        let blamed = event.records.get(self.dice.pick(event.records.len())).map(|record| record.kinesis.sequence_number.clone());
        let mut response = self.inner.invoke(event).await.map_err(FaultyError::Inner)?;
        match fault {
            Some(FunctionFault::CrashAfter) => return Err(FaultyError::Injected("crash after all effects")),
            Some(FunctionFault::Partial) => response.add_failure(blamed.unwrap_or_default()),
            Some(FunctionFault::Unknown) => response.add_failure("unknown"),
            Some(FunctionFault::Timeout) => return pending().await,
            _ => {}
        }
        Ok(response)
    }
}

/// Chances of the faults of a stream, each 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamFaults {
    /// One record of a call is refused.
    pub refuse: f64,
    /// The call fails before anything is on the stream.
    pub fail_before: f64,
    /// The call fails although everything is on the stream.
    pub fail_after: f64,
}

/// A stream that refuses records now and then.
pub struct FaultyStream<S> {
    /// The stream.
    pub inner: S,
    /// Chances.
    pub faults: StreamFaults,
    /// Dice.
    pub dice: Dice,
}

impl<S: ReadingStream> ReadingStream for FaultyStream<S> {
    async fn append(&self, records: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> {
        let StreamFaults { refuse, fail_before, fail_after } = self.faults;
        let call = self.dice.roll(&[(fail_before, true), (fail_after, false)]);
        if call == Some(true) {
            return Err(injected("the stream failed before the effect"));
        }
        let refused: Vec<bool> = records.iter().map(|_| self.dice.roll(&[(refuse, ())]).is_some()).collect();
        let taken: Vec<StreamRecord> =
            records.iter().zip(&refused).filter(|&(_, refused)| !refused).map(|(record, _)| record.clone()).collect();
        let mut answers = self.inner.append(&taken).await?.into_iter();
        if call == Some(false) {
            return Err(injected("the stream failed after the effect"));
        }
        let answer = |&refused: &bool| {
            if refused {
                return Err(injected("the shard's throughput is exceeded"));
            }
            answers.next().unwrap_or_else(|| Err(injected("the stream gave no answer")))
        };
        Ok(refused.iter().map(answer).collect())
    }
}

/// Chances of the faults of a store, each 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreFaults {
    /// A call is refused before it did anything.
    pub throttle: f64,
    /// A call does its work, but its answer is lost.
    pub timeout_after: f64,
    /// A conditional write is refused as if somebody else had written.
    pub conflict_before: f64,
    /// A conditional write happens, but its answer is a conflict, as when a client sends it twice.
    pub conflict_after: f64,
    /// A call does its work and never answers: the function dies here when its time is up.
    pub hang: f64,
    /// A call waits for up to ten seconds before it does its work, so that others overtake it.
    pub slow: f64,
    /// The function panics before the call.
    pub panic: f64,
}

/// A store, a bus or a quarantine that fails now and then, whatever ports it implements.
#[derive(Clone)]
pub struct FaultyStore<S> {
    /// The store.
    pub inner: S,
    /// Chances.
    pub faults: StoreFaults,
    /// Dice.
    pub dice: Dice,
}

/// Longest wait of a slow call, ms.
const SLOW_MS_MAX: usize = 10_000;

#[derive(Clone, Copy)]
enum StoreFault {
    Throttle,
    TimeoutAfter,
    ConflictBefore,
    ConflictAfter,
    Hang,
    Slow,
    Panic,
}

impl<S> FaultyStore<S> {
    /// Does the work, or not; `conflict` is the answer of a conditional write that is refused, if it is one.
    #[expect(clippy::panic, reason = "a panic is one of the faults")]
    async fn disturbed<T, E: From<PortError>>(&self, conflict: Option<E>, work: impl Future<Output = Result<T, E>> + Send) -> Result<T, E> {
        let StoreFaults { throttle, timeout_after, conflict_before, conflict_after, hang, slow, panic } = self.faults;
        let fault = self.dice.roll(&[
            (throttle, StoreFault::Throttle),
            (timeout_after, StoreFault::TimeoutAfter),
            (conflict_before, StoreFault::ConflictBefore),
            (conflict_after, StoreFault::ConflictAfter),
            (hang, StoreFault::Hang),
            (slow, StoreFault::Slow),
            (panic, StoreFault::Panic),
        ]);
        match (fault, conflict) {
            (Some(StoreFault::Throttle), _) => Err(injected("the call was throttled").into()),
            (Some(StoreFault::TimeoutAfter), _) => work.await.and(Err(injected("the answer was lost").into())),
            (Some(StoreFault::ConflictBefore), Some(conflict)) => Err(conflict),
            (Some(StoreFault::ConflictAfter), Some(conflict)) => work.await.and(Err(conflict)),
            (Some(StoreFault::Hang), _) => {
                let _ = work.await;
                pending().await
            }
            (Some(StoreFault::Slow), _) => {
                tokio::time::sleep(Duration::from_millis(self.dice.pick(SLOW_MS_MAX) as u64)).await;
                work.await
            }
            (Some(StoreFault::Panic), _) => panic!("injected: panic between two effects"),
            (None | Some(StoreFault::ConflictBefore | StoreFault::ConflictAfter), _) => work.await,
        }
    }

    async fn plainly<T>(&self, work: impl Future<Output = Result<T, PortError>> + Send) -> Result<T, PortError> {
        self.disturbed(None, work).await
    }

    async fn conditionally(&self, write: impl Future<Output = Result<(), WriteError>> + Send) -> Result<(), WriteError> {
        self.disturbed(Some(WriteError::Conflict), write).await
    }
}

impl<S: IntersectionStore> IntersectionStore for FaultyStore<S> {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        self.plainly(self.inner.get(id)).await
    }

    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        self.plainly(self.inner.tag(id)).await
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        self.conditionally(self.inner.put(expected, intersection)).await
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        self.conditionally(self.inner.delete(id, expected)).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        self.plainly(self.inner.list(after, limit)).await
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        self.plainly(self.inner.ids(prefix, after, limit)).await
    }
}

impl<S: JunctionStore> JunctionStore for FaultyStore<S> {
    async fn load(&self, id: &IntersectionId) -> Result<Option<JunctionRow>, PortError> {
        self.plainly(self.inner.load(id)).await
    }

    async fn save(&self, row: &JunctionRow) -> Result<(), WriteError> {
        self.conditionally(self.inner.save(row)).await
    }
}

impl<S: DecisionLog> DecisionLog for FaultyStore<S> {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        self.plainly(self.inner.record(records)).await
    }

    async fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> Result<Page<DecisionRecord>, PortError> {
        self.plainly(self.inner.decisions(id, from, to, after, limit)).await
    }
}

impl<S: ConditionStore> ConditionStore for FaultyStore<S> {
    async fn load_condition(&self, key: &str) -> Result<Option<ConditionRow>, PortError> {
        self.plainly(self.inner.load_condition(key)).await
    }

    async fn save_condition(&self, row: &ConditionRow) -> Result<(), WriteError> {
        self.conditionally(self.inner.save_condition(row)).await
    }
}

impl<S: ConditionReader> ConditionReader for FaultyStore<S> {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        self.plainly(self.inner.condition(key)).await
    }

    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        self.plainly(self.inner.conditions(after, limit)).await
    }
}

impl<S: AlertStore> AlertStore for FaultyStore<S> {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        self.plainly(self.inner.put_alerts(alerts)).await
    }
}

impl<S: EventBus> EventBus for FaultyStore<S> {
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        self.plainly(self.inner.publish(events)).await
    }
}

impl<S: Quarantine> Quarantine for FaultyStore<S> {
    async fn quarantine(&self, record: &PoisonRecord) -> Result<(), PortError> {
        self.plainly(self.inner.quarantine(record)).await
    }
}

impl<S: QuarantineReview> QuarantineReview for FaultyStore<S> {
    async fn entries(&self, after: Option<&str>, limit: usize) -> Result<Page<Entry>, PortError> {
        self.plainly(self.inner.entries(after, limit)).await
    }

    async fn entry(&self, id: &str) -> Result<Option<Entry>, PortError> {
        self.plainly(self.inner.entry(id)).await
    }

    async fn replayed(&self, replayed: &Replayed) -> Result<(), PortError> {
        self.plainly(self.inner.replayed(replayed)).await
    }

    async fn replays(&self, after: Option<&str>, limit: usize) -> Result<Page<Replayed>, PortError> {
        self.plainly(self.inner.replays(after, limit)).await
    }

    async fn discard(&self, id: &str) -> Result<(), PortError> {
        self.plainly(self.inner.discard(id)).await
    }
}

fn injected(what: &str) -> PortError {
    PortError::Unavailable("injected", what.to_owned())
}

/// A clock that follows the time of the tokio runtime and can be set.
///
/// On a paused runtime time stands still while there is work and jumps to the next wait when there is none. Setting the
/// clock changes what it shows; waits that are under way keep their length.
#[derive(Clone, Debug)]
pub struct VirtualClock {
    began: Instant,
    shown_at_begin: Arc<AtomicI64>,
}

impl VirtualClock {
    /// A clock that shows this instant now.
    pub fn at(now: Timestamp) -> Self {
        Self { began: Instant::now(), shown_at_begin: Arc::new(AtomicI64::new(now.as_millis())) }
    }

    /// Shows this instant from now on.
    pub fn set(&self, now: Timestamp) {
        self.shown_at_begin.store(now.as_millis() - self.elapsed_ms(), Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.shown_at_begin.load(Ordering::Relaxed).saturating_add(self.elapsed_ms()))
    }
}

impl Time for VirtualClock {
    async fn sleep(&self, millis: i64) {
        tokio::time::sleep(Duration::from_millis(u64::try_from(millis).unwrap_or_default())).await;
    }
}
