//! Drives mappings: reads the stream, calls the function, stores checkpoints and what was given up.
//!
//! One task per mapping and shard. It sleeps until a record arrives, a call ends, or the mapping wants to be asked again;
//! nothing is polled. The task that finishes a closed shard starts those of the children that waited for nothing else.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lambda_events::event::kinesis::KinesisEvent;
use aws_lambda_events::event::streams::KinesisEventResponse;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shared::ports::PortError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Time;
use crate::mapping::{Action, InvalidSettings, Invocation, Mapping, Outcome, Settings, Settlement};
use crate::store::{End, Store};
use crate::stream::event;

/// Wait before the store is asked again after it failed; doubles with each try to settle.
const STORE_RETRY_MS: i64 = 100;
/// Longest such wait.
const STORE_RETRY_MS_MAX: i64 = 10_000;
/// How often a settlement is tried once the poller is to stop; then its records come again after the next start.
const LAST_SETTLE_ATTEMPTS: u32 = 3;

/// A function that processes batches of the stream: any `Fn(KinesisEvent) -> impl Future<Output = Result<KinesisEventResponse, E>>`.
pub trait StreamFunction: Send + Sync + 'static {
    /// Why a call failed; goes to the log.
    type Error: Display + Send;

    /// Processes one batch.
    fn invoke(&self, event: KinesisEvent) -> impl Future<Output = Result<KinesisEventResponse, Self::Error>> + Send;
}

impl<F, R, E> StreamFunction for F
where
    F: Fn(KinesisEvent) -> R + Send + Sync + 'static,
    R: Future<Output = Result<KinesisEventResponse, E>> + Send,
    E: Display + Send,
{
    type Error = E;
    fn invoke(&self, event: KinesisEvent) -> impl Future<Output = Result<KinesisEventResponse, E>> + Send {
        self(event)
    }
}

/// A mapping of the stream to a function, as the host is told of it.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Names its checkpoints; a new name begins at the trim horizon.
    pub name: &'static str,
    /// How it behaves.
    pub settings: Settings,
    /// A call that takes longer has failed, as with the function's `Timeout`.
    pub timeout_ms: u32,
}

/// Why a poller could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is outside its range.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// A running mapping over all shards. Dropping it ends it at once, as a crash would.
pub struct Poller(Arc<Mutex<Tasks>>);

/// What runs of a mapping: a task for each shard that was readable at some time.
#[derive(Default)]
struct Tasks {
    running: JoinSet<()>,
    started: BTreeSet<u16>,
    /// One per task, for the receivers of one sender wake in an order of chance.
    stops: Vec<watch::Sender<bool>>,
    stopping: bool,
}

impl Poller {
    /// Starts to hand the records of all shards to the function, from the stored checkpoints on.
    ///
    /// # Errors
    /// [`StartError`] if a setting is out of range or the checkpoints cannot be read.
    pub async fn start<F: StreamFunction, T: Time>(store: &Store, consumer: Consumer, function: F, time: T) -> Result<Self, StartError> {
        store.register_mapping(consumer.name).await?;
        let tasks = Arc::default();
        let poller = Self(Arc::clone(&tasks));
        Arc::new(Starter { consumer, store: store.clone(), function: Arc::new(function), time, tasks }).start_readable()?;
        Ok(poller)
    }

    /// Waits for the calls that are under way, stores their checkpoints and ends.
    pub async fn stop(self) {
        {
            let mut tasks = lock(&self.0);
            tasks.stopping = true;
            for stop in &tasks.stops {
                stop.send_replace(true);
            }
        }
        while poll_fn(|context| lock(&self.0).running.poll_join_next(context)).await.is_some() {}
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let mut tasks = lock(&self.0);
        tasks.stopping = true;
        tasks.running.abort_all();
    }
}

fn lock(tasks: &Mutex<Tasks>) -> MutexGuard<'_, Tasks> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the tasks of a mapping.
struct Starter<F, T> {
    consumer: Consumer,
    store: Store,
    function: Arc<F>,
    time: T,
    tasks: Arc<Mutex<Tasks>>,
}

impl<F: StreamFunction, T: Time> Starter<F, T> {
    /// Starts a task for each shard that may be read and has none yet.
    fn start_readable(self: &Arc<Self>) -> Result<(), StartError> {
        let Consumer { name, settings, timeout_ms } = &self.consumer;
        let mut tasks = lock(&self.tasks);
        if tasks.stopping {
            return Ok(());
        }
        for shard in self.store.readable(name)? {
            let Some(end) = self.store.end_of(shard).filter(|_| !tasks.started.contains(&shard)) else { continue };
            let mapping = Mapping::new(settings.clone(), &self.store.checkpoints(name, shard)?)?;
            let (stop, stopped) = watch::channel(false);
            let (store, function, time) = (self.store.clone(), Arc::clone(&self.function), self.time.clone());
            let task = Consuming { shard, name, timeout_ms: *timeout_ms, store, function, time, mapping, end, stopped };
            tasks.running.spawn(Arc::clone(self).consume(task));
            tasks.started.insert(shard);
            tasks.stops.push(stop);
        }
        Ok(())
    }

    /// Reads a shard; if it comes to the end of a closed one, others wait for that.
    fn consume(self: Arc<Self>, mut task: Consuming<F, T>) -> BoxFuture<'static, ()> {
        let consume = async move {
            task.run().await;
            while task.mapping.finished()
                && let Err(error) = self.start_readable()
            {
                tracing::warn!(mapping = task.name, shard = task.shard, %error, "the shards behind this one could not be looked up");
                self.time.sleep(STORE_RETRY_MS).await;
            }
        };
        consume.boxed()
    }
}

struct Consuming<F, T> {
    shard: u16,
    name: &'static str,
    timeout_ms: u32,
    store: Store,
    function: Arc<F>,
    time: T,
    mapping: Mapping,
    end: watch::Receiver<End>,
    stopped: watch::Receiver<bool>,
}

impl<F: StreamFunction, T: Time> Consuming<F, T> {
    /// Until it is stopped, or the shard is closed and finished.
    async fn run(&mut self) {
        let mut calls: JoinSet<(usize, Outcome)> = JoinSet::new();
        loop {
            let stopping = *self.stopped.borrow_and_update();
            if stopping {
                self.mapping.drain();
            } else {
                self.read().await;
            }
            while let Some(action) = self.mapping.next(self.time.now()) {
                match action {
                    Action::Invoke(invocation) => {
                        calls.spawn(self.call(invocation));
                    }
                    Action::Settle(settlement) => {
                        // What comes after it must not be stored without it.
                        if !self.settle(&settlement).await {
                            return;
                        }
                    }
                }
            }
            if self.mapping.finished() || (stopping && calls.is_empty()) {
                return;
            }
            let room = self.mapping.room().is_some();
            let wake_ms = self.mapping.wake_at().map(|at| at.as_millis() - self.time.now().as_millis());
            tokio::select! {
                // In this order, so that a seed gives one schedule.
                biased;
                Some(ended) = calls.join_next() => match ended {
                    Ok((lane, outcome)) => self.mapping.complete(lane, &outcome, self.time.now()),
                    // A call catches its own panics; this is a task that the runtime gave up.
                    Err(error) => tracing::error!(mapping = self.name, shard = self.shard, %error, "a call was lost"),
                },
                changed = self.stopped.changed(), if !stopping => if changed.is_err() { return },
                changed = self.end.changed(), if room && !stopping => if changed.is_err() { return },
                () = self.time.sleep(wake_ms.unwrap_or_default()), if wake_ms.is_some() && !stopping => {}
            }
        }
    }

    /// Fills the mapping with what the shard has for it.
    async fn read(&mut self) {
        loop {
            let end = *self.end.borrow_and_update();
            let mut is_read = self.mapping.position() >= end.last;
            if !is_read {
                let Some(room) = self.mapping.room() else { return };
                match self.store.records_after(self.shard, self.mapping.position(), room) {
                    // The shard's end is announced after its commit, so only trimmed records can be missing.
                    Ok(records) if records.is_empty() => is_read = true,
                    Ok(records) => self.mapping.arrive(records, self.time.now()),
                    Err(error) => {
                        tracing::warn!(mapping = self.name, shard = self.shard, %error, "the stream could not be read");
                        self.time.sleep(STORE_RETRY_MS).await;
                        if *self.stopped.borrow() {
                            return;
                        }
                    }
                }
            }
            if is_read {
                if end.closed {
                    self.mapping.close(end.last);
                }
                return;
            }
        }
    }

    /// One call of the function; whatever happens in it becomes an outcome.
    fn call(&self, invocation: Invocation) -> impl Future<Output = (usize, Outcome)> + Send + use<F, T> {
        let event = event(self.shard, invocation.records.iter().map(AsRef::as_ref));
        let (function, time, timeout_ms, name, shard) =
            (Arc::clone(&self.function), self.time.clone(), i64::from(self.timeout_ms), self.name, self.shard);
        async move {
            let call = AssertUnwindSafe(async { function.invoke(event).await.map_err(|error| error.to_string()) }).catch_unwind();
            let failure = tokio::select! {
                biased;
                ended = call => match ended {
                    Ok(Ok(response)) => return (invocation.lane, Outcome::Response(response)),
                    Ok(Err(error)) => error,
                    Err(panic) => format!("it panicked: {}", panic_text(panic.as_ref())),
                },
                () = time.sleep(timeout_ms) => format!("it took longer than {timeout_ms} ms"),
            };
            tracing::warn!(mapping = name, shard, records = invocation.records.len(), failure, "a call of the function failed");
            (invocation.lane, Outcome::Failed)
        }
    }

    /// Stores the settlement before anything else happens in this shard, however long that takes; false if the poller is to
    /// stop before that.
    async fn settle(&self, settlement: &Settlement) -> bool {
        for discarded in &settlement.discarded {
            let (records, condition) = (discarded.records.len(), discarded.condition);
            tracing::error!(mapping = self.name, shard = self.shard, records, ?condition, "records were given up");
        }
        let (mut attempts_left, mut wait) = (LAST_SETTLE_ATTEMPTS, STORE_RETRY_MS);
        while let Err(error) = self.store.settle(self.name, self.shard, settlement).await {
            tracing::error!(mapping = self.name, shard = self.shard, %error, "a checkpoint could not be stored: the shard waits");
            if *self.stopped.borrow() {
                attempts_left -= 1;
                if attempts_left == 0 {
                    return false;
                }
            }
            self.time.sleep(wait).await;
            wait = (2 * wait).min(STORE_RETRY_MS_MAX);
        }
        true
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
