//! Functions as Lambda runs them: environments that handle one call at a time, and pollers that hand them batches.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shared::ports::{Clock, PortError, ReadingStream, StreamRecord};
use shared::units::Timestamp;
use tokio::time::{Instant as VirtualInstant, MissedTickBehavior, interval_at, sleep_until};

use super::meter::{Meter, Metered, as_f64};
use super::prices;
use crate::faults::VirtualClock;
use crate::mapping::{Action, Mapping, Outcome, Settings};
use crate::stream::{Record, Sequence, event, shard_of};

/// Memory that comes with one whole vCPU. Source: AWS Lambda Developer Guide, "Configure Lambda function memory".
const VCPU_MIB: f64 = 1769.0;
/// What the SDK takes of a vCPU for a call: signing, TLS, HTTP. An allowance.
const SDK_CPU: Duration = Duration::from_micros(200);
/// How often a mapping asks a shard. Source: AWS Lambda Developer Guide, "Using Lambda with Kinesis".
const POLL: Duration = Duration::from_secs(1);
/// A line of metrics in the embedded metric format, as each call writes one: an allowance for eleven metrics.
const LOG_LINE_BYTES: f64 = 1000.0;
/// Time of `PutRecords`, an allowance.
const PUT_RECORDS: Duration = Duration::from_millis(15);

/// Names of a function's lines in the bill.
pub(super) struct Lines {
    pub(super) requests: &'static str,
    pub(super) duration: &'static str,
    pub(super) logs: &'static str,
}

/// A function: its environments, and what its calls take.
pub(super) struct Function<E> {
    lines: Lines,
    memory_mib: f64,
    meter: Meter,
    make: Box<dyn Fn() -> (E, Arc<AtomicU32>)>,
    idle: RefCell<Vec<(E, Arc<AtomicU32>)>>,
    rng: RefCell<ChaCha8Rng>,
    made: Cell<usize>,
}

impl<E> Function<E> {
    /// A function with so much memory; `make` starts an environment and gives the count of its store calls.
    pub(super) fn new(lines: Lines, memory_mib: u32, meter: &Meter, make: impl Fn() -> (E, Arc<AtomicU32>) + 'static) -> Self {
        Self {
            lines,
            memory_mib: f64::from(memory_mib),
            meter: meter.clone(),
            make: Box::new(make),
            idle: RefCell::default(),
            rng: RefCell::new(ChaCha8Rng::seed_from_u64(1)),
            made: Cell::new(0),
        }
    }

    /// Environments so far.
    pub(super) const fn environments(&self) -> usize {
        self.made.get()
    }

    /// Calls the function: any idle environment may get the call, for Lambda promises nothing.
    pub(super) async fn call<T>(&self, work: impl AsyncFnOnce(&E) -> T) -> T {
        let (environment, calls) = self.take();
        let (began, calls_before) = (VirtualInstant::now(), calls.load(Ordering::Relaxed));
        let (out, cpu) = Timed { work: Box::pin(work(&environment)), cpu: Duration::ZERO }.await;
        let cpu = cpu + SDK_CPU * calls.load(Ordering::Relaxed).wrapping_sub(calls_before);
        let seconds = began.elapsed().as_secs_f64() + cpu.as_secs_f64() * (VCPU_MIB / self.memory_mib).max(1.0);
        // Billed by the started millisecond.
        let billed = (seconds * 1000.0).ceil() / 1000.0;
        self.meter.add(self.lines.requests, &prices::LAMBDA_REQUEST, 1.0);
        self.meter.add(self.lines.duration, &prices::LAMBDA_GB_S_X86, billed * self.memory_mib / 1024.0);
        self.meter.add(self.lines.logs, &prices::LOG_IN, LOG_LINE_BYTES / GIB);
        self.idle.borrow_mut().push((environment, calls));
        out
    }

    fn take(&self) -> (E, Arc<AtomicU32>) {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            self.made.set(self.made.get() + 1);
            return (self.make)();
        }
        let place = self.rng.borrow_mut().random_range(0..idle.len());
        idle.swap_remove(place)
    }
}

/// Bytes in what AWS calls a GB.
pub(super) const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Work, and the time of this machine's CPU that it takes.
struct Timed<F> {
    work: Pin<Box<F>>,
    cpu: Duration,
}

impl<F: Future> Future for Timed<F> {
    type Output = (F::Output, Duration);

    #[expect(clippy::disallowed_methods, reason = "it measures what the code takes, whatever the virtual clock shows")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let began = Instant::now();
        let outcome = self.work.as_mut().poll(context);
        self.cpu += began.elapsed();
        outcome.map(|out| (out, self.cpu))
    }
}

/// The stream: records by shard, and what they are billed.
#[derive(Clone)]
pub(super) struct Shards {
    logs: Arc<Vec<std::sync::Mutex<Vec<Record>>>>,
    provisioned: bool,
    clock: VirtualClock,
    metered: Metered,
}

impl Shards {
    pub(super) fn new(count: u16, provisioned: bool, clock: VirtualClock, metered: Metered) -> Self {
        Self { logs: Arc::new((0..count).map(|_| std::sync::Mutex::default()).collect()), provisioned, clock, metered }
    }

    /// The same stream, its calls counted for another environment.
    pub(super) fn seen_by(&self, metered: Metered) -> Self {
        Self { metered, ..self.clone() }
    }

    pub(super) fn count(&self) -> usize {
        self.logs.len()
    }

    fn after(&self, shard: usize, position: Sequence) -> Vec<Record> {
        let records = self.logs.get(shard).and_then(|shard| shard.lock().ok());
        let from = usize::try_from(position.get()).unwrap_or(usize::MAX);
        records.and_then(|records| records.get(from..).map(<[_]>::to_vec)).unwrap_or_default()
    }
}

impl ReadingStream for Shards {
    async fn append(&self, records: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> {
        for record in records {
            let bytes = record.key.len() + record.data.len();
            if self.provisioned {
                self.metered.meter.add("stream in", &prices::PUT_UNIT, as_f64(bytes.div_ceil(25 * 1024)));
            } else {
                self.metered.meter.add("stream in", &prices::STREAM_IN, as_f64(bytes.div_ceil(1024)) * 1024.0 / GIB);
            }
            let count = u16::try_from(self.logs.len()).unwrap_or(u16::MAX);
            let shard = self.logs.get(usize::from(shard_of(&record.key, count)));
            if let Some(mut shard) = shard.and_then(|shard| shard.lock().ok()) {
                let sequence = Sequence::new(shard.len() as u64 + 1);
                let arrived_at = self.clock.now();
                shard.push(Record { sequence, key: record.key.clone(), data: record.data.clone(), arrived_at });
            }
        }
        self.metered.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PUT_RECORDS).await;
        Ok(records.iter().map(|_| Ok(())).collect())
    }
}

/// Reads a shard for ever and calls the function with its batches, as an event source mapping does.
pub(super) async fn consume<E, F>(stream: &Shards, shard: usize, settings: Settings, function: &Function<E>, handle: F)
where
    F: AsyncFn(&E, &[u8]) -> Outcome,
{
    let Ok(mut mapping) = Mapping::new(settings, &[]) else { return };
    let clock = &stream.clock;
    // Pollers are not in step with each other.
    let phase = POLL * u32::try_from(shard * 37 % 100).unwrap_or_default() / 100;
    let mut poll = interval_at(VirtualInstant::now() + phase, POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = FuturesUnordered::new();
    loop {
        while let Some(action) = mapping.next(clock.now()) {
            let Action::Invoke(invocation) = action else { continue };
            let number = u16::try_from(shard).unwrap_or_default();
            let payload = serde_json::to_vec(&event(number, invocation.records.iter().map(|record| &**record))).unwrap_or_default();
            let handle = &handle;
            let call = async move { (invocation.lane, function.call(async |environment| handle(environment, &payload).await).await) };
            calls.push(call);
        }
        let wait_ms = |at: Timestamp| u64::try_from(at.as_millis() - clock.now().as_millis()).unwrap_or_default().max(1);
        let wake = mapping.wake_at().map(|at| VirtualInstant::now() + Duration::from_millis(wait_ms(at)));
        tokio::select! {
            _ = poll.tick() => {
                let records = stream.after(shard, mapping.position());
                let bytes: usize = records.iter().map(|record| record.key.len() + record.data.len()).sum();
                if !stream.provisioned && bytes > 0 {
                    stream.metered.meter.add("stream out", &prices::STREAM_OUT, as_f64(bytes) / GIB);
                }
                mapping.arrive(records, clock.now());
            }
            Some((lane, outcome)) = calls.next() => mapping.complete(lane, &outcome, clock.now()),
            () = sleep_until(wake.unwrap_or_else(VirtualInstant::now)), if wake.is_some() => {}
        }
    }
}
