//! The storm: schedules of faults by seed against the whole suite, and what must hold after each of them.
//!
//! A schedule is a value ([`schedule`]). [`town`] runs it on one thread with paused time, so it gives the same run each time;
//! [`witness`] notes what the stores took, and [`checks`] holds that against a run without any fault.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

mod checks;
mod schedule;
mod town;
mod witness;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, OnceLock};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::schedule::{Schedule, schedule};

/// Schedules of every test run.
const SCHEDULES: u64 = 200;
/// After so many schedules a line tells how far it has come.
const PROGRESS: u64 = 500;
/// Tries to make a schedule that fails smaller.
const SHRINKS: u32 = 4_000;

/// On a thread of its own time, which jumps to the next wait when there is nothing to do.
fn in_virtual_time<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

fn run(schedule: &Schedule) -> Result<(), String> {
    let outcome = catch_unwind(|| in_virtual_time(async { checks::check(&town::weather(schedule).await?).await }));
    outcome.unwrap_or_else(|_| Err("a panic, see above".into()))
}

/// Runs the schedule of a seed; if it fails, gives the smallest one found that does.
fn run_seed(seed: u64) -> Result<(), String> {
    let mut tree = generate(seed);
    let Err(mut said) = run(&tree.current()) else { return Ok(()) };
    let (mut smallest, mut tries) = (tree.current(), 0);
    let mut goes_on = tree.simplify();
    while goes_on && tries < SHRINKS {
        tries += 1;
        goes_on = match run(&tree.current()) {
            Err(other) => {
                (said, smallest) = (other, tree.current());
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
    }
    Err(format!("seed {seed}: {said}\n{smallest:#?}\nOnce more: make storm STORM_SEED={seed} STORM_SCHEDULES=1"))
}

fn generate(seed: u64) -> impl ValueTree<Value = Schedule> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    schedule().new_tree(&mut runner).unwrap()
}

/// Injected panics are no news.
fn silence_injected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.payload_as_str().is_some_and(|said| said.starts_with("injected")) {
                default(panic);
            }
        }));
    });
}

/// Runs so many schedules on all cores; panics with the first that fails, made small.
fn storm(first: u64, count: u64, threads: usize) {
    silence_injected_panics();
    let (next, failed) = (AtomicU64::new(first), OnceLock::new());
    let work = || {
        while failed.get().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            if let Err(said) = run_seed(seed) {
                let _ = failed.set(said);
            }
            let done = seed + 1 - first;
            if done.is_multiple_of(PROGRESS) {
                eprintln!("{done} of {count} schedules");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some(said) = failed.get() {
        panic!("{said}");
    }
}

#[test]
fn whatever_fails_every_reading_has_its_effect_once_or_is_kept_aside() {
    storm(0, SCHEDULES, 1);
}

/// `make storm`: from the seed `STORM_SEED` (0) on, `STORM_SCHEDULES` (10 000) schedules.
#[test]
#[ignore = "takes minutes: make storm"]
#[expect(clippy::disallowed_methods, reason = "its size is the caller's choice")]
fn whatever_fails_in_a_long_storm_every_reading_has_its_effect_once_or_is_kept_aside() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    storm(number("STORM_SEED").unwrap_or(0), number("STORM_SCHEDULES").unwrap_or(10_000), threads);
}

#[test]
fn a_schedule_gives_the_same_run_each_time() {
    silence_injected_panics();
    for seed in 0..5 {
        let traces = [(); 2].map(|()| in_virtual_time(async { town::weather(&generate(seed).current()).await.unwrap().log.trace() }));
        let differs = traces[0].bytes().zip(traces[1].bytes()).position(|(one, other)| one != other);
        if let Some(place) = differs {
            panic!(
                "seed {seed}: {:?} and {:?}",
                &traces[0][place.saturating_sub(300)..place + 100],
                &traces[1][place.saturating_sub(20)..place + 100]
            );
        }
    }
}
