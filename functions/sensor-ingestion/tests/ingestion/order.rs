//! What reaches the stream, whatever the stream refuses.

use std::future::Future;
use std::time::Duration;

use crate::double::{Call, Scripted, reading};
use proptest::prelude::*;
use sensor_ingestion::Config;
use sensor_ingestion::append::{RETRIES, append};
use sensor_ingestion::records::{Pending, Queue};
use sensor_ingestion::split::split;
use sensor_ingestion::workflow::{Ingestion, Outcome};
use shared::memory::ManualClock;
use shared::ports::StreamRecord;
use shared::units::Timestamp;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const EVERYTHING: u64 = u64::MAX;

fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn take(stream: &Scripted, readings: &[String]) -> Outcome {
    let body = format!("[{}]", readings.join(","));
    let clock = ManualClock::at(Timestamp::parse("2026-11-22T08:00:40Z").unwrap());
    let ingestion = Ingestion::new(stream.clone(), clock, stream.sleep(), Config::default());
    wait_for(ingestion.take(&split(body.as_bytes()).unwrap(), None, Some("r-1")))
}

fn lost(outcome: &Outcome) -> Vec<usize> {
    assert!(outcome.rejected.iter().all(|rejection| rejection.code == "stream_unavailable"));
    outcome.rejected.iter().map(|rejection| rejection.index).collect()
}

#[test]
fn the_readings_of_one_key_are_one_record_in_the_order_of_their_times() {
    let stream = Scripted::default();
    let readings = [("a", 5), ("b", 9), ("a", 3), ("a", 5), ("b", 1)];
    let readings: Vec<_> = readings.iter().enumerate().map(|(i, (key, second))| reading(key, *second, i, false)).collect();
    let outcome = take(&stream, &readings);
    assert_eq!(outcome, Outcome { accepted: 5, rejected: vec![], unavailable: false });
    assert_eq!(stream.calls(), 1);
    let records = stream.records();
    assert_eq!(records.iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(records.iter().all(|record| record.received_at.to_string() == "2026-11-22T08:00:40.000Z"));
    assert!(records.iter().all(|record| record.request_id.as_deref() == Some("r-1")));
    assert_eq!((stream.cycles("a"), stream.cycles("b")), (vec![2, 0, 3], vec![4, 1]));
}

#[test]
fn what_is_too_large_for_one_record_becomes_several_in_order() {
    let stream = Scripted::default();
    let readings: Vec<_> = (0..40).map(|i| reading("a", 40 - i, i as usize, true)).collect();
    assert_eq!(take(&stream, &readings).accepted, 40);
    assert_eq!(stream.records().len(), 4);
    assert_eq!(stream.calls(), 4, "the next record of a key waits for the one before");
    assert_eq!(stream.cycles("a"), (0..40).rev().collect::<Vec<_>>());
}

#[test]
fn only_what_was_refused_is_sent_again() {
    let stream = Scripted::new([Call::Refuse { refused: 0b010, retry: true }]);
    let outcome = take(&stream, &["a", "b", "c"].map(|key| reading(key, 0, 0, false)));
    assert_eq!((outcome.accepted, stream.calls(), stream.waits().len()), (3, 2, 1));
    assert_eq!(stream.records().iter().map(|record| record.key.as_str()).collect::<Vec<_>>(), ["a", "c", "b"]);
}

#[test]
fn a_stream_that_stays_busy_is_asked_five_times_within_three_seconds() {
    for call in [Call::Refuse { refused: EVERYTHING, retry: true }, Call::Fail { through: 0, retry: true }] {
        let stream = Scripted::new([call; 9]);
        let outcome = take(&stream, &["a", "b"].map(|key| reading(key, 0, 0, false)));
        assert_eq!((outcome.accepted, lost(&outcome), outcome.unavailable), (0, vec![0, 1], true));
        assert_eq!(stream.calls(), 5);
        let waits = stream.waits();
        for (wait, least) in waits.iter().zip([100, 200, 400, 800]) {
            assert!((Duration::from_millis(least)..=Duration::from_millis(2 * least)).contains(wait), "{waits:?}");
        }
        assert!(waits.len() == 4 && waits.iter().sum::<Duration>() <= Duration::from_secs(3), "{waits:?}");
    }
}

#[test]
fn what_the_stream_refuses_for_good_is_not_sent_again() {
    for call in [Call::Refuse { refused: EVERYTHING, retry: false }, Call::Fail { through: 0, retry: false }] {
        let stream = Scripted::new([call]);
        let outcome = take(&stream, &["a", "b"].map(|key| reading(key, 0, 0, false)));
        assert_eq!((lost(&outcome), stream.calls(), stream.waits().len()), (vec![0, 1], 1, 0));
    }
}

#[test]
fn a_key_ends_where_the_stream_refuses_for_good_and_the_others_go_on() {
    let stream = Scripted::new([Call::Refuse { refused: 0b01, retry: false }]);
    let mut readings: Vec<_> = (0..20).map(|i| reading("a", i, i as usize, true)).collect();
    readings.push(reading("b", 0, 20, false));
    let outcome = take(&stream, &readings);
    assert_eq!((outcome.accepted, lost(&outcome)), (1, (0..20).collect()));
    assert_eq!((stream.calls(), stream.cycles("a"), stream.cycles("b")), (1, vec![], vec![20]));
}

fn any_call() -> impl Strategy<Value = Call> {
    // Mostly retryable: a refusal for good ends what there is to see.
    let retry = prop::bool::weighted(0.9);
    prop_oneof![
        3 => (any::<u64>(), retry).prop_map(|(refused, retry)| Call::Refuse { refused, retry }),
        1 => (any::<u64>(), retry).prop_map(|(through, retry)| Call::Fail { through, retry }),
    ]
}

proptest! {
    #[test]
    fn accepted_readings_are_on_the_stream_in_order_and_the_answer_tells_the_truth(
        records in prop::collection::vec((0_usize..4, 1_usize..3), 0..24),
        script in prop::collection::vec(any_call(), 0..9),
    ) {
        // Each record stands for one or two readings and carries their places as its bytes.
        let mut queues = vec![Queue::new(); 4];
        let mut readings = 0..;
        for (key, count) in &records {
            let indices: Vec<_> = readings.by_ref().take(*count).collect();
            let data = indices.iter().map(|&index| u8::try_from(index).unwrap()).collect();
            queues[*key].push_back(Pending { record: StreamRecord { key: KEYS[*key].into(), data }, indices });
        }
        let stream = Scripted::new(script.clone());
        let lost = wait_for(append(&stream, &stream.sleep(), RETRIES, queues.clone()));

        let half_failed = script.iter().any(|call| matches!(call, Call::Fail { .. }));
        for (key, queue) in KEYS.iter().zip(&queues) {
            let wanted: Vec<_> = queue.iter().map(|pending| &pending.record).collect();
            let on_stream = stream.raw(key);
            prop_assert!(wanted.starts_with(&on_stream.iter().collect::<Vec<_>>()), "{on_stream:?} are not the first of {wanted:?}");
            let accepted = queue.iter().take_while(|pending| pending.indices.iter().all(|index| !lost.contains(index))).count();
            let rest = queue.iter().skip(accepted).flat_map(|pending| &pending.indices);
            prop_assert!(rest.clone().all(|index| lost.contains(index)), "a gap in what was accepted");
            let extra = on_stream.len().checked_sub(accepted);
            prop_assert!(if half_failed { extra.is_some() } else { extra == Some(0) }, "{accepted} accepted, {on_stream:?}");
        }
        let waits = stream.waits();
        prop_assert!(waits.len() <= 4 && stream.calls() <= waits.len() + records.len() + 1);
    }

    #[test]
    fn the_answer_names_exactly_the_readings_that_are_not_on_the_stream(
        readings in prop::collection::vec((0_usize..4, 0_u32..30), 0..20),
        refusals in prop::collection::vec(any::<u64>(), 0..9),
    ) {
        let stream = Scripted::new(refusals.into_iter().map(|refused| Call::Refuse { refused, retry: true }));
        let texts: Vec<_> = readings.iter().enumerate().map(|(i, (key, second))| reading(KEYS[*key], *second, i, false)).collect();
        let outcome = take(&stream, &texts);
        let lost = lost(&outcome);
        prop_assert_eq!(outcome.accepted + lost.len(), readings.len());
        prop_assert_eq!(outcome.unavailable, !lost.is_empty());
        let mut all: Vec<_> = KEYS.iter().flat_map(|key| stream.cycles(key)).chain(lost.iter().map(|&index| index as u64)).collect();
        all.sort_unstable();
        prop_assert!(all.into_iter().eq(0..readings.len() as u64));
    }
}
