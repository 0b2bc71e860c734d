//! The poller over the real store: whole runs, by hand and by seed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shared::ports::{Clock, ReadingStream, StreamRecord};
use shared::units::Timestamp;

use super::*;
use crate::clock::SystemClock;
use crate::faults::{FaultyFunction, FaultyStream, FunctionFaults, Seed, StreamFaults, VirtualClock};
use crate::mapping::Condition;

/// What a function did: (key, data) in the order of the effects.
#[derive(Clone, Default)]
struct Effects(Arc<Mutex<Vec<(String, u64)>>>);

impl Effects {
    fn take(&self, event: &KinesisEvent) {
        let mut effects = self.0.lock().unwrap();
        for record in &event.records {
            let data = String::from_utf8(record.kinesis.data.0.clone()).unwrap();
            effects.push((record.kinesis.partition_key.clone(), data.parse().unwrap()));
        }
    }

    fn all(&self) -> Vec<(String, u64)> {
        self.0.lock().unwrap().clone()
    }

    fn function(&self) -> impl StreamFunction<Error = String> + use<> {
        let effects = self.clone();
        move |event: KinesisEvent| {
            effects.take(&event);
            async { Ok(KinesisEventResponse::default()) }
        }
    }
}

fn consumer() -> Consumer {
    let settings = Settings { report_batch_item_failures: true, maximum_retry_attempts: 2, ..Settings::default() };
    Consumer { name: "signals", settings, timeout_ms: 3_000 }
}

fn reading(key: &str, n: u64) -> StreamRecord {
    StreamRecord { key: key.into(), data: n.to_string().into_bytes() }
}

fn virtual_clock() -> VirtualClock {
    VirtualClock::at(Timestamp::from_millis(1_800_000_000_000))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn every_record_reaches_the_function_and_the_checkpoint_follows() {
    let (clock, effects) = (virtual_clock(), Effects::default());
    let store = Store::in_memory(4, clock.clone()).unwrap();
    store.append(&[reading("J1", 1), reading("J2", 1)]).await.unwrap();
    let poller = Poller::start(&store, consumer(), effects.function(), clock).await.unwrap();
    store.append(&[reading("J1", 2)]).await.unwrap();
    until("settled", || store.lag("signals").unwrap() == 0).await;
    let mut seen = effects.all();
    seen.sort();
    assert_eq!(seen, [("J1".into(), 1), ("J1".into(), 2), ("J2".into(), 1)]);
    poller.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_the_next_poller_goes_on_where_the_last_one_settled() {
    let (clock, effects) = (virtual_clock(), Effects::default());
    let store = Store::in_memory(4, clock.clone()).unwrap();
    for n in 0..10 {
        let poller = Poller::start(&store, consumer(), effects.function(), clock.clone()).await.unwrap();
        store.append(&[reading("J1", n)]).await.unwrap();
        until("settled", || store.lag("signals").unwrap() == 0).await;
        poller.stop().await;
    }
    assert_eq!(effects.all(), (0..10).map(|n| ("J1".into(), n)).collect::<Vec<_>>(), "nothing lost, nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_running_call_and_stores_its_checkpoint() {
    let clock = virtual_clock();
    let store = Store::in_memory(1, clock.clone()).unwrap();
    store.append(&[reading("J1", 1)]).await.unwrap();
    let started = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&started);
    let slow = move |_: KinesisEvent| {
        counter.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok::<_, String>(KinesisEventResponse::default())
        }
    };
    let poller = Poller::start(&store, consumer(), slow, clock).await.unwrap();
    until("started", || started.load(Ordering::Relaxed) == 1).await;
    assert_eq!(store.lag("signals").unwrap(), 1);
    poller.stop().await;
    assert_eq!((store.lag("signals").unwrap(), started.load(Ordering::Relaxed)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_long_wait_for_a_retry_ends_at_once() {
    let clock = virtual_clock();
    let store = Store::in_memory(1, clock.clone()).unwrap();
    store.append(&[reading("J1", 1)]).await.unwrap();
    let mut consumer = consumer();
    (consumer.settings.backoff_ms, consumer.settings.backoff_ms_max) = (3_600_000, 3_600_000);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let failing = move |_: KinesisEvent| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Err::<KinesisEventResponse, _>("no") }
    };
    let poller = Poller::start(&store, consumer, failing, clock.clone()).await.unwrap();
    until("failed", || calls.load(Ordering::Relaxed) == 1).await;
    let before = clock.now();
    poller.stop().await;
    assert!(clock.now().as_millis() - before.as_millis() < 1_000);
    assert_eq!(store.lag("signals").unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_an_error_and_a_call_that_hangs_are_failed_calls_and_the_batch_is_kept_aside() {
    let clock = virtual_clock();
    let store = Store::in_memory(1, clock.clone()).unwrap();
    store.append(&[reading("J1", 1)]).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let function = move |_: KinesisEvent| {
        let call = counter.fetch_add(1, Ordering::Relaxed);
        async move {
            match call {
                0 => panic!("as programmed"),
                1 => Err("as programmed"),
                _ => std::future::pending().await,
            }
        }
    };
    let poller = Poller::start(&store, consumer(), function, clock).await.unwrap();
    until("given up", || store.lag("signals").unwrap() == 0).await;
    poller.stop().await;
    let failed = store.failed_batches(None, 10).unwrap().items;
    assert_eq!((failed[0].condition, failed[0].invocations, failed[0].records.len()), (Condition::RetryAttemptsExhausted, 3, 1));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn with_bisect_one_poison_record_is_kept_aside_and_all_others_take_effect() {
    let (clock, effects) = (virtual_clock(), Effects::default());
    let store = Store::in_memory(1, clock.clone()).unwrap();
    store.append(&(0..100).map(|n| reading("J1", n)).collect::<Vec<_>>()).await.unwrap();
    let mut consumer = consumer();
    consumer.settings.bisect_batch_on_function_error = true;
    let seen = effects.clone();
    let function = move |event: KinesisEvent| {
        let poison = event.records.iter().any(|record| record.kinesis.data.0 == b"42");
        if !poison {
            seen.take(&event);
        }
        async move { if poison { Err("poison") } else { Ok(KinesisEventResponse::default()) } }
    };
    let poller = Poller::start(&store, consumer, function, clock).await.unwrap();
    until("settled", || store.lag("signals").unwrap() == 0).await;
    poller.stop().await;
    assert_eq!(effects.all().into_iter().map(|(_, n)| n).collect::<Vec<_>>(), (0..100).filter(|&n| n != 42).collect::<Vec<_>>());
    let failed = store.failed_batches(None, 10).unwrap().items;
    assert_eq!((failed.len(), failed[0].records[0].data.as_slice()), (1, b"42".as_slice()));
}

/// One whole run by seed: producers over a stream that refuses, a function that fails, pollers that crash.
async fn simulate(seed: u64) -> (Vec<(String, u64)>, i64) {
    let (seeds, clock, effects) = (Seed::new(seed), virtual_clock(), Effects::default());
    let store = Store::in_memory(4, clock.clone()).unwrap();
    let faults = StreamFaults { refuse: 0.2, fail_before: 0.05, fail_after: 0.05 };
    let stream = FaultyStream { inner: store.clone(), faults, dice: seeds.stream() };
    let dice = seeds.stream();
    let mut consumer = consumer();
    consumer.settings.parallelization_factor = usize::try_from(seed % 3 + 1).unwrap();
    consumer.settings.batch_size = usize::try_from(seed % 7 + 1).unwrap();
    consumer.settings.bisect_batch_on_function_error = seed.is_multiple_of(2);
    consumer.settings.maximum_retry_attempts = -1;
    let start = || {
        let faults = FunctionFaults { crash_before: 0.1, crash_after: 0.1, panic: 0.05, partial: 0.15, unknown: 0.05, timeout: 0.05 };
        let function = FaultyFunction { inner: effects.function(), faults, dice: dice.clone() };
        Poller::start(&store, consumer.clone(), function, clock.clone())
    };
    let mut poller = start().await.unwrap();
    for n in 0..30 {
        for key in ["J1", "J2", "J3", "J4", "J5"] {
            // At least once, one record of a key at a time: the caller's part of the contract.
            while !matches!(stream.append(&[reading(key, n)]).await.as_deref(), Ok([Ok(())])) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if n % 10 == 9 {
            drop(poller);
            poller = start().await.unwrap();
        }
    }
    dice.quiet();
    until("settled", || store.lag("signals").unwrap() == 0).await;
    poller.stop().await;
    assert!(store.failed_batches(None, 10).unwrap().items.is_empty());
    (effects.all(), clock.now().as_millis())
}

#[tokio::test(start_paused = true)]
async fn under_any_seed_nothing_is_lost_and_the_first_effects_of_a_key_keep_their_order() {
    for seed in 0..20 {
        let (effects, _) = simulate(seed).await;
        let mut first: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (key, n) in effects {
            let seen = first.entry(key).or_default();
            if !seen.contains(&n) {
                seen.push(n);
            }
        }
        assert_eq!(first.len(), 5, "seed {seed}");
        assert!(first.values().all(|seen| *seen == (0..30).collect::<Vec<_>>()), "seed {seed}: {first:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(simulate(seed))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_reaches_the_function_within_milliseconds_of_its_append() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 4, SystemClock).unwrap();
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let function = move |_: KinesisEvent| {
        let _ = called.send(tokio::time::Instant::now());
        async { Ok::<_, String>(KinesisEventResponse::default()) }
    };
    let poller = Poller::start(&store, consumer(), function, SystemClock).await.unwrap();
    let mut latencies = Vec::new();
    for n in 0..50 {
        let begun = tokio::time::Instant::now();
        store.append(&[reading("J1", n)]).await.unwrap();
        latencies.push(calls.recv().await.unwrap() - begun);
    }
    latencies.sort();
    assert!(latencies[25] < Duration::from_millis(50), "median {:?}", latencies[25]);
    poller.stop().await;
}
