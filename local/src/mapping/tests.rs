//! What the mapping promises, by example and over random runs.

use std::collections::{BTreeMap, BTreeSet};

use aws_lambda_events::event::streams::KinesisBatchItemFailure;
use proptest::prelude::*;

use super::*;

const T0: i64 = 1_800_000_000_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(T0 + ms)
}

fn record(sequence: u64, key: &str, arrived_ms: i64) -> Record {
    Record { sequence: Sequence::new(sequence), key: key.into(), data: vec![b'x'; 8], arrived_at: at(arrived_ms) }
}

fn records(n: u64) -> Vec<Record> {
    (1..=n).map(|i| record(i, "J1", 0)).collect()
}

fn settings() -> Settings {
    Settings { report_batch_item_failures: true, maximum_retry_attempts: 2, ..Settings::default() }
}

fn with(settings: Settings, records: Vec<Record>) -> Mapping {
    let mut mapping = Mapping::new(settings, &[]).unwrap();
    mapping.arrive(records, at(0));
    mapping
}

fn failing(ids: &[&str]) -> Outcome {
    let mut response = KinesisEventResponse::default();
    response.set_failures(ids.iter().copied());
    Outcome::Response(response)
}

fn failing_at(sequence: u64) -> Outcome {
    failing(&[&Sequence::new(sequence).to_string()])
}

fn success() -> Outcome {
    Outcome::Response(KinesisEventResponse::default())
}

fn numbers(records: &[Arc<Record>]) -> Vec<u64> {
    records.iter().map(|r| r.sequence.get()).collect()
}

/// What happened in a run: calls with their sequence numbers, what was given up, the last checkpoint.
#[derive(Debug, Default, PartialEq)]
struct Run {
    calls: Vec<Vec<u64>>,
    discarded: Vec<(Condition, u32, Vec<u64>)>,
    checkpoints: Vec<Vec<u64>>,
    ended_ms: i64,
}

/// Runs one call after the other until nothing is left to do; time passes only while the mapping waits.
fn run(mapping: &mut Mapping, mut function: impl FnMut(&[u64]) -> Outcome) -> Run {
    let (mut run, mut now) = (Run::default(), at(0));
    for _ in 0..100_000 {
        match mapping.next(now) {
            Some(Action::Invoke(invocation)) => {
                let called = numbers(&invocation.records);
                let outcome = function(&called);
                run.calls.push(called);
                mapping.complete(invocation.lane, &outcome, now);
            }
            Some(Action::Settle(settlement)) => {
                run.checkpoints.push(settlement.checkpoints.iter().map(|s| s.get()).collect());
                run.discarded.extend(settlement.discarded.iter().map(|d| (d.condition, d.invocations, numbers(&d.records))));
            }
            None => {
                let Some(at) = mapping.wake_at() else {
                    run.ended_ms = now.as_millis() - T0;
                    return run;
                };
                now = now.max(at);
            }
        }
    }
    panic!("the run does not end: {run:?}");
}

fn fails_on(poison: u64) -> impl FnMut(&[u64]) -> Outcome {
    move |called| if called.contains(&poison) { Outcome::Failed } else { success() }
}

#[test]
fn nobody_waits_longer_because_the_clock_was_set_back() {
    let settings = Settings { maximum_batching_window_in_seconds: 10, ..settings() };
    let mut mapping = with(settings, records(1));
    assert_eq!(mapping.next(at(9_000)), None);
    assert_eq!(mapping.next(at(-1_000_000)), None);
    assert_eq!(mapping.wake_at(), Some(at(-999_000)));
    let Some(Action::Invoke(_)) = mapping.next(at(-999_000)) else { panic!("the window is over") };
    mapping.complete(0, &Outcome::Failed, at(-999_000));
    assert_eq!(mapping.next(at(-2_000_000)), None, "the retry is not due");
    assert_eq!(mapping.wake_at(), Some(at(-1_999_900)));
}

#[test]
fn records_go_out_in_order_and_in_batches_of_the_set_size() {
    let run = run(&mut with(Settings { batch_size: 2, ..settings() }, records(5)), |_| success());
    assert_eq!(run.calls, [vec![1, 2], vec![3, 4], vec![5]]);
    assert_eq!(run.checkpoints, [[2], [4], [5]]);
}

#[test]
fn a_batch_stays_below_the_payload_limit_in_base64() {
    let big = |n| Record { data: vec![0; 1024 * 1024], ..record(n, "J1", 0) };
    let run = run(&mut with(settings(), (1..=6).map(big).collect()), |_| success());
    assert_eq!(run.calls, [vec![1, 2, 3, 4], vec![5, 6]]);
}

#[test]
fn a_small_batch_waits_for_its_window_and_a_full_one_does_not() {
    let windowed = Settings { batch_size: 3, maximum_batching_window_in_seconds: 2, ..settings() };
    let mut mapping = with(windowed, records(2));
    assert_eq!((mapping.next(at(1_999)), mapping.wake_at()), (None, Some(at(2_000))));
    mapping.arrive([record(3, "J1", 1_000)], at(1_000));
    assert!(matches!(mapping.next(at(1_000)), Some(Action::Invoke(i)) if i.records.len() == 3));
}

#[test]
fn a_failed_batch_is_tried_again_in_the_same_shape_until_its_retries_are_used_up() {
    let run = run(&mut with(settings(), records(2)), |_| Outcome::Failed);
    assert_eq!(run.calls, [[1, 2], [1, 2], [1, 2]]);
    assert_eq!(run.discarded, [(Condition::RetryAttemptsExhausted, 3, vec![1, 2])]);
    assert_eq!(run.checkpoints, [[2]]);
}

#[test]
fn the_wait_between_retries_doubles_up_to_its_cap() {
    let slow = Settings { maximum_retry_attempts: 6, backoff_ms: 100, backoff_ms_max: 500, ..settings() };
    assert_eq!(run(&mut with(slow, records(1)), |_| Outcome::Failed).ended_ms, 100 + 200 + 400 + 500 + 500 + 500);
}

#[test]
fn without_a_limit_a_batch_is_tried_until_it_succeeds() {
    let mut left = 500;
    let run = run(&mut with(Settings { maximum_retry_attempts: -1, ..settings() }, records(1)), |_| {
        left -= 1;
        if left > 0 { Outcome::Failed } else { success() }
    });
    assert_eq!((run.calls.len(), run.discarded.len()), (500, 0));
}

#[test]
fn records_that_arrive_during_a_retry_do_not_join_the_batch() {
    let mut mapping = with(settings(), records(1));
    assert!(matches!(mapping.next(at(0)), Some(Action::Invoke(_))));
    mapping.arrive([record(2, "J1", 0)], at(0));
    mapping.complete(0, &Outcome::Failed, at(0));
    assert_eq!(mapping.next(at(99)), None);
    assert!(matches!(mapping.next(at(100)), Some(Action::Invoke(i)) if numbers(&i.records) == [1]));
}

#[test]
fn a_partial_failure_checkpoints_before_the_lowest_reported_record() {
    let mut first = true;
    let run = run(&mut with(settings(), records(5)), |_| {
        if std::mem::take(&mut first) { failing(&[&Sequence::new(4).to_string(), &Sequence::new(3).to_string()]) } else { success() }
    });
    assert_eq!(run.calls, [vec![1, 2, 3, 4, 5], vec![3, 4, 5]]);
    assert_eq!(run.checkpoints, [[2], [5]]);
}

#[test]
fn an_identifier_that_is_empty_missing_or_unknown_fails_the_whole_batch() {
    let mut missing = KinesisEventResponse::default();
    missing.batch_item_failures.push(KinesisBatchItemFailure::default());
    let third = Sequence::new(3).to_string();
    for outcome in [failing(&[""]), failing_at(9), failing(&["3"]), failing(&[&third, "?"]), Outcome::Response(missing)] {
        let mut first = true;
        let run = run(&mut with(settings(), records(3)), |_| if std::mem::take(&mut first) { outcome.clone() } else { success() });
        assert_eq!(run.calls, [[1, 2, 3], [1, 2, 3]], "{outcome:?}");
    }
}

#[test]
fn without_report_batch_item_failures_every_response_is_a_success() {
    let plain = Settings { report_batch_item_failures: false, ..settings() };
    assert_eq!(run(&mut with(plain, records(3)), |_| failing_at(1)).calls.len(), 1);
}

#[test]
fn a_batch_that_got_shorter_starts_with_all_its_retries() {
    let run = run(&mut with(settings(), records(3)), |called| if called.contains(&2) { failing_at(2) } else { success() });
    assert_eq!(run.calls, [vec![1, 2, 3], vec![2, 3], vec![2, 3], vec![2, 3]]);
    assert_eq!(run.discarded, [(Condition::RetryAttemptsExhausted, 4, vec![2, 3])], "without bisect the neighbours go with it");
}

#[test]
fn bisect_isolates_a_poison_record_and_only_that_one_is_given_up() {
    for poison in 1..=9 {
        let bisect = Settings { bisect_batch_on_function_error: true, ..settings() };
        let run = run(&mut with(bisect, records(9)), fails_on(poison));
        let given_up: Vec<_> = run.discarded.iter().map(|(condition, _, numbers)| (*condition, numbers.clone())).collect();
        assert_eq!(given_up, [(Condition::RetryAttemptsExhausted, vec![poison])]);
    }
}

#[test]
fn a_split_uses_up_no_retry() {
    let bisect = Settings { bisect_batch_on_function_error: true, maximum_retry_attempts: 0, ..settings() };
    let run = run(&mut with(bisect, records(4)), fails_on(1));
    assert_eq!(run.calls, [vec![1, 2, 3, 4], vec![1, 2], vec![1], vec![2], vec![3, 4]]);
}

#[test]
fn with_bisect_a_reported_batch_is_split_at_the_reported_record() {
    let bisect = Settings { bisect_batch_on_function_error: true, maximum_retry_attempts: 0, ..settings() };
    let run = run(&mut with(bisect, records(8)), |called| if called.contains(&3) { failing_at(3) } else { success() });
    assert_eq!(run.calls[..4], [(1..=8).collect(), (3..=8).collect(), vec![3, 4, 5], vec![3]]);
    assert_eq!(run.discarded, [(Condition::RetryAttemptsExhausted, 4, vec![3])]);
}

#[test]
fn records_that_are_too_old_are_given_up_and_younger_ones_are_not() {
    let aged = Settings { maximum_record_age_in_seconds: 60, maximum_retry_attempts: -1, ..settings() };
    let mut mapping = Mapping::new(aged, &[]).unwrap();
    mapping.arrive([record(1, "J1", -60_001), record(2, "J1", -50_000), record(3, "J1", 0)], at(0));
    let run = run(&mut mapping, |called| if called.contains(&2) { Outcome::Failed } else { success() });
    assert_eq!(run.discarded[0], (Condition::MaxRecordAgeExceeded, 0, vec![1]));
    assert_eq!((run.discarded[1].0, &run.discarded[1].2), (Condition::MaxRecordAgeExceeded, &vec![2]));
    assert_eq!(run.calls.last(), Some(&vec![3]));
}

#[test]
fn a_stuck_lane_does_not_hold_up_the_others() {
    let lanes = Settings { parallelization_factor: 2, maximum_retry_attempts: -1, ..settings() };
    let [stuck, free] = [0, 1].map(|lane| (0..100).map(|i| format!("J{i}")).find(|key| lane_of(key, 2) == lane).unwrap());
    let mut mapping = Mapping::new(lanes, &[]).unwrap();
    mapping.arrive([record(1, &stuck, 0), record(2, &free, 0), record(3, &free, 0)], at(0));
    let [Some(Action::Invoke(a)), Some(Action::Invoke(b))] = [mapping.next(at(0)), mapping.next(at(0))] else {
        panic!("two calls at once")
    };
    assert_eq!((numbers(&a.records), numbers(&b.records)), (vec![1], vec![2, 3]));
    mapping.complete(a.lane, &Outcome::Failed, at(0));
    mapping.complete(b.lane, &success(), at(0));
    let Some(Action::Settle(settlement)) = mapping.next(at(0)) else { panic!("a checkpoint") };
    assert_eq!(settlement.checkpoints, [Sequence::new(0), Sequence::new(3)]);

    let mut resumed = Mapping::new(Settings { parallelization_factor: 2, ..settings() }, &settlement.checkpoints).unwrap();
    resumed.arrive([record(1, &stuck, 0), record(2, &free, 0), record(3, &free, 0)], at(0));
    assert_eq!(run(&mut resumed, |_| success()).calls, [[1]], "a lane takes up its own checkpoint");
}

#[test]
fn another_number_of_lanes_goes_on_from_the_lowest_checkpoint() {
    let mut mapping = Mapping::new(Settings { parallelization_factor: 3, ..settings() }, &[Sequence::new(5), Sequence::new(2)]).unwrap();
    assert_eq!(mapping.position(), Sequence::new(2));
    mapping.arrive(records(6), at(0));
    assert_eq!(run(&mut mapping, |_| success()).calls, [[3, 4, 5, 6]]);
}

#[test]
fn a_mapping_stops_to_read_when_it_holds_enough() {
    let mut mapping = with(settings(), Vec::new());
    assert_eq!(mapping.room(), Some(Room { records: HELD_RECORDS_MAX, bytes: HELD_BYTES_MAX }));
    mapping.arrive(records(HELD_RECORDS_MAX as u64), at(0));
    assert_eq!(mapping.room(), None);
    run(&mut mapping, |_| success());
    assert_eq!(mapping.room().unwrap().records, HELD_RECORDS_MAX);
}

#[test]
fn a_closed_shard_is_finished_when_its_last_record_is_processed_or_given_up_and_that_is_stored() {
    for (outcome, calls) in [(success(), 1), (Outcome::Failed, 3)] {
        let mut mapping = with(settings(), records(2));
        let Some(Action::Invoke(call)) = mapping.next(at(0)) else { panic!("a call") };
        mapping.close(Sequence::new(2));
        assert!(!mapping.finished() && mapping.next(at(0)).is_none(), "its call is under way");
        mapping.complete(call.lane, &outcome, at(0));
        assert!(!mapping.finished(), "nothing is stored");
        let rest = run(&mut mapping, |_| outcome.clone());
        assert!(mapping.finished());
        assert_eq!((rest.calls.len() + 1, rest.checkpoints), (calls, vec![vec![2]]));
    }
}

#[test]
fn a_shard_that_is_closed_when_all_is_settled_is_finished_without_a_write() {
    let mut mapping = with(settings(), records(2));
    run(&mut mapping, |_| success());
    assert!(!mapping.finished());
    mapping.close(Sequence::new(2));
    assert!(mapping.finished() && mapping.next(at(0)).is_none());
}

#[test]
fn a_closed_shard_whose_last_records_are_gone_is_settled_at_its_end() {
    let mut mapping = Mapping::new(Settings { parallelization_factor: 2, ..settings() }, &[Sequence::new(3)]).unwrap();
    mapping.close(Sequence::new(7));
    assert!(!mapping.finished());
    assert_eq!(run(&mut mapping, |_| success()).checkpoints, [[7, 7]]);
    assert!(mapping.finished());
}

#[test]
fn settings_outside_what_aws_accepts_are_refused() {
    let wrong = [
        Settings { batch_size: 0, ..settings() },
        Settings { batch_size: 10_001, ..settings() },
        Settings { parallelization_factor: 11, ..settings() },
        Settings { parallelization_factor: 0, ..settings() },
        Settings { maximum_batching_window_in_seconds: 301, ..settings() },
        Settings { maximum_retry_attempts: -2, ..settings() },
        Settings { maximum_record_age_in_seconds: 59, ..settings() },
    ];
    for settings in wrong {
        assert!(Mapping::new(settings.clone(), &[]).is_err(), "{settings:?}");
    }
}

#[test]
fn settings_read_as_the_template_names_them() {
    let text = r#"{"BatchSize": 50, "FunctionResponseTypes": ["ReportBatchItemFailures"], "MaximumRetryAttempts": 3,
                   "BisectBatchOnFunctionError": true, "StartingPosition": "TRIM_HORIZON", "MaximumBatchingWindowInSeconds": 1}"#;
    let read: Settings = serde_json::from_str(text).unwrap();
    assert!(read.report_batch_item_failures && read.bisect_batch_on_function_error);
    assert_eq!((read.batch_size, read.maximum_retry_attempts, read.parallelization_factor), (50, 3, 1));
}

/// A random function: how often each record makes a call fail, and how it says so.
#[derive(Clone, Debug)]
struct Flaky {
    settings: Settings,
    keys: Vec<u8>,
    failures: Vec<u8>,
    reports: Vec<bool>,
    interleave: Vec<u8>,
}

fn flaky() -> impl Strategy<Value = Flaky> {
    let settings = (1_usize..8, 0_u32..2, 1_usize..=4, any::<bool>(), any::<bool>(), 0_i32..4).prop_map(
        |(size, window, lanes, report, bisect, retries)| Settings {
            batch_size: size,
            maximum_batching_window_in_seconds: window,
            parallelization_factor: lanes,
            report_batch_item_failures: report,
            bisect_batch_on_function_error: bisect,
            maximum_retry_attempts: retries,
            ..Settings::default()
        },
    );
    let bytes = |range: std::ops::Range<u8>| prop::collection::vec(range, 40);
    (settings, prop::collection::vec(0_u8..6, 1..40), bytes(0..7), prop::collection::vec(any::<bool>(), 40), bytes(0..6))
        .prop_map(|(settings, keys, failures, reports, interleave)| Flaky { settings, keys, failures, reports, interleave })
}

proptest! {
    /// Calls of several lanes overlap here and end in any order.
    #[test]
    fn nothing_is_skipped_order_holds_per_key_and_no_checkpoint_passes_an_open_record(flaky in flaky()) {
        let n = flaky.keys.len() as u64;
        let index = |s: u64| usize::try_from(s).unwrap() - 1;
        let key = |s: u64| format!("J{}", flaky.keys[index(s)]);
        let mut left: BTreeMap<u64, u8> = (1..=n).map(|s| (s, flaky.failures[index(s)])).collect();
        let mut mapping = Mapping::new(flaky.settings.clone(), &[]).unwrap();
        let (mut now, mut arrived, mut calls, mut turn, mut idle) = (at(0), 0, 0_u64, 0_usize, false);
        let (mut running, mut done, mut given_up): (Vec<Invocation>, BTreeSet<u64>, BTreeSet<u64>) = Default::default();
        let mut done_per_key: BTreeMap<String, u64> = BTreeMap::new();
        let mut last_checkpoints = vec![Sequence::START; flaky.settings.parallelization_factor];
        loop {
            turn += 1;
            prop_assert!(turn < 50_000);
            let choice = flaky.interleave[turn % 40];
            if arrived < n && choice < 3 {
                arrived += 1;
                mapping.arrive([record(arrived, &key(arrived), 0)], now);
            } else if (choice == 3 || idle) && !running.is_empty() {
                idle = false;
                let call = running.remove(turn % running.len());
                let called = numbers(&call.records);
                let bad = called.iter().copied().find(|s| left[s] > 0);
                // Records before the bad one, and all of a good call, have had their effect.
                let effective = called.iter().copied().take_while(|&s| Some(s) != bad);
                for s in effective {
                    let last = done_per_key.entry(key(s)).or_default();
                    // First-time effects of one key come in order.
                    if !done.contains(&s) { prop_assert!(*last < s, "key {} got {s} after {last}", key(s)); *last = s; }
                    done.insert(s);
                }
                let outcome = match bad {
                    None => success(),
                    Some(s) => {
                        *left.get_mut(&s).unwrap() -= 1;
                        if flaky.reports[index(s)] && flaky.settings.report_batch_item_failures { failing_at(s) } else { Outcome::Failed }
                    }
                };
                mapping.complete(call.lane, &outcome, now);
            } else {
                match mapping.next(now) {
                    Some(Action::Invoke(call)) => {
                        calls += 1;
                        prop_assert!(running.iter().all(|other| other.lane != call.lane), "one call at a time per lane");
                        prop_assert!(call.records.len() <= flaky.settings.batch_size);
                        running.push(call);
                    }
                    Some(Action::Settle(settlement)) => {
                        given_up.extend(settlement.discarded.iter().flat_map(|d| numbers(&d.records)));
                        for (lane, &checkpoint) in settlement.checkpoints.iter().enumerate() {
                            prop_assert!(last_checkpoints[lane] <= checkpoint, "a checkpoint never goes back");
                            for s in (1..=checkpoint.get()).filter(|&s| lane_of(&key(s), flaky.settings.parallelization_factor) == lane) {
                                prop_assert!(done.contains(&s) || given_up.contains(&s), "{s} was passed");
                            }
                        }
                        last_checkpoints = settlement.checkpoints;
                    }
                    None => match mapping.wake_at() {
                        Some(at) if running.is_empty() => now = now.max(at),
                        _ if arrived == n && running.is_empty() => break,
                        // Nothing to do but to end a call, whatever the dice say.
                        _ => idle = arrived == n,
                    },
                }
            }
        }
        for s in 1..=n {
            prop_assert!(done.contains(&s) || given_up.contains(&s), "{s} was lost");
            let retries = u8::try_from(flaky.settings.maximum_retry_attempts).unwrap();
            prop_assert!(!given_up.contains(&s) || !flaky.settings.bisect_batch_on_function_error || flaky.failures[index(s)] > retries,
                "with bisect only a record that fails too often is given up");
        }
        // Every retry belongs to a record at the head of a batch; a batch of m splits at most m - 1 times.
        let retries = u64::try_from(flaky.settings.maximum_retry_attempts).unwrap();
        prop_assert!(calls <= n * (retries + 1) + 2 * n, "{calls} calls for {n} records");
    }
}
