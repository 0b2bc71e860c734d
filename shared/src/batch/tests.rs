use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::memory::Memory;
use crate::units::Timestamp;

/// A record of the stream: sequence number, and either the key of a good record or none for poison.
type Sent = (u64, Option<&'static str>);

fn data_of(sent: &Sent) -> Vec<u8> {
    // The time of receipt tells the records apart.
    let at = Timestamp::from_millis(i64::try_from(sent.0).unwrap());
    sent.1
        .map_or(b"poison".to_vec(), |key| ReadingRecord { key: key.into(), received_at: at, request_id: None, readings: vec![] }.to_bytes())
}

fn event(records: &[Sent]) -> KinesisEvent {
    let mut event = KinesisEvent::default();
    event.records = records
        .iter()
        .map(|sent| {
            let mut record = KinesisEventRecord::default();
            record.event_id = Some(format!("shard-0:{}", sent.0));
            record.kinesis.partition_key = sent.1.unwrap_or("K").into();
            record.kinesis.sequence_number = sent.0.to_string();
            record.kinesis.data.0 = data_of(sent);
            record
        })
        .collect();
    event
}

fn numbers(records: &[ReadingRecord]) -> Vec<u64> {
    records.iter().map(|record| u64::try_from(record.received_at.as_millis()).unwrap()).collect()
}

/// Runs a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}

#[derive(Debug, thiserror::Error)]
#[error("the store is busy")]
struct Busy;

/// What was handed over, by key, in the order of the calls.
#[derive(Default)]
struct Seen(RefCell<Vec<(String, Vec<u64>)>>);

impl Seen {
    fn note(&self, key: String, records: &[ReadingRecord]) {
        self.0.borrow_mut().push((key, numbers(records)));
    }

    fn all(&self) -> Vec<(String, Vec<u64>)> {
        self.0.borrow().clone()
    }
}

fn reported(response: KinesisEventResponse) -> Vec<u64> {
    response.batch_item_failures.into_iter().map(|failure| failure.item_identifier.unwrap().parse().unwrap()).collect()
}

/// Processes the records; those of the keys named fail.
fn process_with(records: &[Sent], failing: &[&str], quarantine: &impl Quarantine, seen: &Seen) -> Vec<u64> {
    let handle = async |key: String, records: Vec<ReadingRecord>| {
        let fails = failing.contains(&key.as_str());
        seen.note(key, &records);
        if fails { Err(Busy) } else { Ok(()) }
    };
    reported(at_once(process(event(records), "signal-adjustment", quarantine, handle)).response)
}

/// A quarantine that is out of reach.
struct Closed;

impl Quarantine for Closed {
    async fn quarantine(&self, _: &PoisonRecord) -> Result<(), PortError> {
        Err(PortError::Unavailable("the quarantine", "closed".into()))
    }
}

#[test]
fn an_empty_batch_has_no_failures_and_no_calls() {
    let seen = Seen::default();
    assert_eq!(process_with(&[], &["A"], &Memory::new(), &seen), [] as [u64; 0]);
    assert_eq!(seen.all(), []);
}

#[test]
fn the_records_of_a_key_come_together_in_the_order_of_the_stream() {
    let seen = Seen::default();
    let records = [(1, Some("A")), (2, Some("B")), (3, Some("A")), (4, Some("C")), (5, Some("A")), (6, Some("B"))];
    assert_eq!(process_with(&records, &[], &Memory::new(), &seen), [] as [u64; 0]);
    assert_eq!(seen.all(), [("A".to_owned(), vec![1, 3, 5]), ("B".to_owned(), vec![2, 6]), ("C".to_owned(), vec![4])]);
}

#[test]
fn a_failed_key_reports_its_first_record_and_the_other_keys_go_on() {
    let seen = Seen::default();
    let records = [(1, Some("A")), (2, Some("B")), (3, Some("A")), (4, Some("B")), (5, Some("C"))];
    assert_eq!(process_with(&records, &["B"], &Memory::new(), &seen), [2]);
    assert_eq!(seen.all().len(), 3, "A and C took effect");
}

#[test]
fn the_lowest_failure_is_reported_first_by_number_and_not_by_text() {
    let records = [(99, Some("A")), (100, Some("B")), (101, Some("C")), (1000, Some("D"))];
    assert_eq!(process_with(&records, &["A", "B", "D"], &Memory::new(), &Seen::default()), [99, 100, 1000]);
}

#[test]
fn a_poison_record_is_quarantined_with_its_bytes_and_the_reason_and_passed() {
    let (memory, seen) = (Memory::new(), Seen::default());
    assert_eq!(process_with(&[(1, Some("A")), (2, None), (3, Some("A"))], &[], &memory, &seen), [] as [u64; 0]);
    assert_eq!(seen.all(), [("A".to_owned(), vec![1, 3])]);
    let expected = PoisonRecord {
        id: "shard-0:2".into(),
        key: "K".into(),
        data: b"poison".to_vec(),
        function: "signal-adjustment",
        reason: ReadingRecord::from_bytes(b"poison").unwrap_err().to_string(),
    };
    assert_eq!(memory.quarantined(), [expected]);
}

#[test]
fn a_poison_record_that_comes_again_is_quarantined_once() {
    let memory = Memory::new();
    for _ in 0..2 {
        process_with(&[(1, None)], &[], &memory, &Seen::default());
    }
    assert_eq!(memory.quarantined().len(), 1);
}

#[test]
fn a_poison_record_that_cannot_be_quarantined_is_reported_and_the_keys_go_on() {
    let seen = Seen::default();
    let records = [(1, Some("A")), (2, None), (3, Some("B")), (4, None)];
    assert_eq!(process_with(&records, &["B"], &Closed, &seen), [2, 3, 4]);
    assert_eq!(seen.all().len(), 2);
}

/// A quarantine that takes its time, and counts how many wait for it at once.
#[derive(Default)]
struct Slow {
    waiting: AtomicUsize,
    most: AtomicUsize,
}

impl Quarantine for Slow {
    async fn quarantine(&self, _: &PoisonRecord) -> Result<(), PortError> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(waiting, Ordering::Relaxed);
        let mut asked = false;
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_flood_of_poison_is_put_aside_side_by_side_but_not_all_at_once() {
    let (slow, seen) = (Slow::default(), Seen::default());
    let flood: Vec<Sent> = (1..=100).map(|number| (number, None)).collect();
    let handle = async |key: String, records: Vec<ReadingRecord>| {
        seen.note(key, &records);
        Ok::<_, Infallible>(())
    };
    let mut work = pin!(process(event(&flood), "signal-adjustment", &slow, handle));
    let mut context = Context::from_waker(Waker::noop());
    let done = (0..1_000).find_map(|_| match work.as_mut().poll(&mut context) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    });
    let done = done.expect("it ends");
    assert_eq!((done.quarantined, reported(done.response)), (100, vec![]));
    assert_eq!(slow.most.load(Ordering::Relaxed), CONCURRENT_KEYS);
}

#[test]
fn a_panic_stops_its_key_alone() {
    let seen = Seen::default();
    let records = [(1, Some("A")), (2, Some("B")), (3, Some("C")), (4, Some("B"))];
    let handle = async |key: String, records: Vec<ReadingRecord>| {
        assert_ne!(key, "B", "as programmed");
        seen.note(key, &records);
        Ok::<_, Infallible>(())
    };
    let response = at_once(process(event(&records), "signal-adjustment", &Memory::new(), handle));
    assert_eq!(reported(response.response), [2]);
    assert_eq!(seen.all(), [("A".to_owned(), vec![1]), ("C".to_owned(), vec![3])]);
}

/// Records in ascending order of their numbers, a tenth of them poison.
fn stream() -> impl Strategy<Value = Vec<Sent>> {
    let key = prop_oneof![1 => Just(None), 9 => proptest::sample::select(vec!["A", "B", "C", "D"]).prop_map(Some)];
    vec((1..40_u64, key), 0..30).prop_map(|records| {
        let mut number = 90;
        let sent = |(gap, key)| {
            number += gap;
            (number, key)
        };
        records.into_iter().map(sent).collect()
    })
}

proptest! {
    /// Kinesis takes everything below the lowest reported number as done and sends the rest again.
    #[test]
    fn whatever_fails_every_record_takes_effect_and_in_the_order_of_its_key(
        stream in stream(),
        failing in vec(proptest::sample::subsequence(vec!["A", "B", "C", "D"], 0..=4), 0..6),
    ) {
        let (memory, mut left) = (Memory::new(), stream.clone());
        let mut effects: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for failing in failing.iter().map(Vec::as_slice).chain([&[] as &[_]]) {
            let seen = Seen::default();
            let reported = process_with(&left, failing, &memory, &seen);
            for (key, numbers) in seen.all().into_iter().filter(|(key, _)| !failing.contains(&key.as_str())) {
                effects.entry(key).or_default().extend(numbers);
            }
            let lowest = reported.first().copied().unwrap_or(u64::MAX);
            prop_assert!(reported.is_sorted());
            left.retain(|(number, _)| *number >= lowest);
        }
        prop_assert!(left.is_empty(), "the last round had no failures");

        let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (number, key) in &stream {
            expected.entry(key.unwrap_or("poison").to_owned()).or_default().push(*number);
        }
        let poison = expected.remove("poison").unwrap_or_default();
        let quarantined: BTreeSet<_> = memory.quarantined().into_iter().map(|poison| poison.id).collect();
        prop_assert_eq!(quarantined, poison.iter().map(|number| format!("shard-0:{number}")).collect());
        // A replay may repeat a record; its first effects are in order.
        for numbers in effects.values_mut() {
            let mut known = BTreeSet::new();
            numbers.retain(|number| known.insert(*number));
        }
        prop_assert_eq!(effects, expected);
    }
}
