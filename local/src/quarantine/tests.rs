//! The quarantine of the local store through the commands: what they say, what they do, and what they leave alone.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::{pending, poll_fn, ready};
use std::sync::Arc;
use std::task::Poll;

use aws_lambda_events::event::kinesis::KinesisEvent;
use clap::Parser;
use proptest::prelude::*;
use shared::ports::{PoisonRecord, Quarantine, StreamRecord};
use shared::units::Timestamp;

use super::*;
use crate::faults::{FaultyStore, FaultyStream, Seed, StoreFaults, StreamFaults, VirtualClock};
use crate::mapping::{Condition, Discarded, Room, Settings, Settlement};
use crate::poller::{Consumer, Poller};
use crate::stream::{Record, Sequence, shard_name};

const SIGNALS: &str = "signal-adjustment";
const MAINTENANCE: &str = "maintenance-prediction";
const READING: &str = r#"{"v":1,"key":"J1","received_at":"2026-11-22T08:00:00Z","request_id":"r-7","readings":[{"type":"detector","intersection_id":"J1","detector_id":"D1","time":"2026-11-22T08:00:00Z","period_s":5,"volume":2}]}"#;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    action: Action,
}

fn action(line: &str) -> Action {
    Line::try_parse_from(std::iter::once("quarantine").chain(line.split_whitespace())).unwrap_or_else(|error| panic!("{error}")).action
}

fn start() -> Timestamp {
    Timestamp::parse("2026-11-22T08:00:00Z").unwrap()
}

fn store() -> (Store, VirtualClock) {
    let clock = VirtualClock::at(start());
    (Store::in_memory(4, clock.clone()).unwrap(), clock)
}

async fn poison(store: &Store, function: &'static str, sequence: u64, key: &str, data: &[u8], reason: &str) {
    let id = format!("{}:{}", shard_name(0), Sequence::new(sequence));
    store.quarantine(&PoisonRecord { id, key: key.into(), data: data.to_vec(), function, reason: reason.into() }).await.unwrap();
}

async fn batch(store: &Store, function: &str, records: &[(u64, &str, &[u8])]) {
    let record = |&(sequence, key, data): &(u64, &str, &[u8])| {
        Arc::new(Record { sequence: Sequence::new(sequence), key: key.into(), data: data.to_vec(), arrived_at: start() })
    };
    let records = records.iter().map(record).collect();
    let discarded = Discarded { condition: Condition::RetryAttemptsExhausted, invocations: 6, records };
    store.settle(function, 0, &Settlement { checkpoints: vec![Sequence::START], discarded: vec![discarded] }).await.unwrap();
}

/// Gives a command and takes what it says.
async fn give(store: &Store, clock: &VirtualClock, line: &str) -> (String, Result<(), QuarantineError>) {
    let mut said = Vec::new();
    let outcome = work(&action(line), store, store, clock, pending(), |line| said.push(line.to_owned())).await;
    (said.join("\n"), outcome)
}

async fn say(store: &Store, clock: &VirtualClock, line: &str) -> String {
    let (said, outcome) = give(store, clock, line).await;
    outcome.unwrap();
    said
}

/// What the stream has, by key.
fn stream(store: &Store) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for shard in store.shards() {
        for record in store.records_after(shard, Sequence::START, Room { records: usize::MAX, bytes: usize::MAX }).unwrap() {
            all.entry(record.key).or_default().push(String::from_utf8_lossy(&record.data).into_owned());
        }
    }
    all
}

async fn ids(store: &Store) -> Vec<String> {
    survey(store, &Filter::default()).await.unwrap().found.into_iter().map(|found| found.id).collect()
}

#[tokio::test(start_paused = true)]
async fn an_empty_quarantine_says_so() {
    let (store, clock) = store();
    assert_eq!(say(&store, &clock, "list").await, "Nothing is in the quarantine.");
    assert_eq!(say(&store, &clock, "list --json").await, "[]");
    assert_eq!(say(&store, &clock, "replay --yes").await, "Nothing to replay.");
    assert_eq!(say(&store, &clock, "discard --key J1").await, "Nothing to discard.");
}

#[tokio::test(start_paused = true)]
async fn a_list_tells_what_lies_there_and_filters_choose() {
    let (store, clock) = store();
    poison(&store, SIGNALS, 3, "J1", b"?", "not a record: expected value").await;
    clock.set(start().plus_millis(60_000));
    batch(&store, MAINTENANCE, &[(5, "J2", b"abc"), (7, "J3", b"de")]).await;
    let list = say(&store, &clock, "list").await;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("WHEN") && lines[0].ends_with("ID"), "{list}");
    for (line, parts) in [
        (1, ["2026-11-22T08:00:00.000Z", "poison", "J1", "not a record", "poison:signal-adjustment:shardId-000000000000:0"]),
        (2, ["2026-11-22T08:01:00.000Z", "failed batch", "J2 +1", "RetryAttemptsExhausted after 6 calls", "batch:maintenance-prediction:"]),
    ] {
        assert!(parts.iter().all(|part| lines[line].contains(part)), "{list}");
    }
    assert_eq!(lines[3], "2 entries: 1 poison, 1 failed batch.");
    for (filter, wanted) in [
        ("--reason NOT", 1),
        ("--reason exhausted", 1),
        ("--function SignalAdjustment", 1),
        ("--function maintenance-prediction", 1),
        ("--key J3", 1),
        ("--key J", 0),
        ("--since 2026-11-22T08:01:00Z", 1),
        ("--until 2026-11-22T08:01:00Z", 1),
        ("--since 2026-11-22T08:00:00Z --until 2026-11-22T08:02:00Z", 2),
        ("--since 2026-11-22T08:00:30Z --key J1", 0),
    ] {
        let found: serde_json::Value = serde_json::from_str(&say(&store, &clock, &format!("list --json {filter}")).await).unwrap();
        assert_eq!(found.as_array().unwrap().len(), wanted, "{filter}: {found}");
    }
    assert!(say(&store, &clock, "list --key J1").await.ends_with("1 entry of 2: 1 poison."));
    assert_eq!(say(&store, &clock, "list --key J9").await, "Nothing fits, of 2 entries in the quarantine.");
}

#[tokio::test(start_paused = true)]
async fn a_list_goes_over_as_many_pages_as_there_are() {
    let (store, clock) = store();
    for sequence in 1..=230 {
        poison(&store, SIGNALS, sequence, "J1", b"?", "no").await;
        batch(&store, SIGNALS, &[(sequence, "J1", b"?")]).await;
    }
    assert!(say(&store, &clock, "list").await.ends_with("460 entries: 230 poison, 230 failed batch."));
    assert_eq!(ids(&store).await.into_iter().collect::<BTreeSet<_>>().len(), 460);
}

#[tokio::test(start_paused = true)]
async fn show_decodes_readings_and_lets_nothing_steer_the_terminal() {
    let (store, clock) = store();
    batch(
        &store,
        SIGNALS,
        &[(1, "J1", READING.as_bytes()), (2, "J1", b"{\"a\": \"\x1b[2J\xe2\x80\xae\"}\n"), (3, "J\x1b1", b"\xff\x00text")],
    )
    .await;
    let (shown, _) = give(&store, &clock, &format!("show {}", ids(&store).await[0])).await;
    for part in [
        "1 reading received 2026-11-22T08:00:00.000Z with request r-7:",
        r#""volume":2"#,
        r#"{"a": "\u{1b}[2J\u{202e}"}\n"#,
        "key J\\u{1b}1, arrived 2026-11-22T08:00:00.000Z",
        "  00000000  ff 00 74 65 78 74   ",
        "   ..text",
        "reason    RetryAttemptsExhausted after 6 calls",
    ] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    assert!(!shown.contains(['\u{1b}', '\u{202e}']));
    assert_eq!(give(&store, &clock, "show poison:x").await.1.unwrap_err().to_string(), "the quarantine has no entry poison:x");
}

#[tokio::test(start_paused = true)]
async fn without_yes_nothing_changes() {
    let (store, clock) = store();
    poison(&store, SIGNALS, 3, "J1", b"?", "no").await;
    poison(&store, MAINTENANCE, 3, "J1", b"?", "no").await;
    batch(&store, SIGNALS, &[(4, "J2", b"a"), (5, "J2", b"b")]).await;
    let before = ids(&store).await;
    let said = say(&store, &clock, "replay").await;
    assert!(said.starts_with("Would put on the stream again: 3 records of 2 keys from 3 entries."), "{said}");
    assert!(said.contains("1 record lies in more than one entry") && said.contains("       2  J2\n       1  J1\n"), "{said}");
    assert!(said.ends_with("Nothing was done; --yes does it."));
    assert!(
        say(&store, &clock, "discard --function signal")
            .await
            .ends_with("Would discard for good: 2 entries. Nothing was done; --yes does it.")
    );
    assert_eq!((ids(&store).await, stream(&store).len()), (before, 0));
}

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_the_order_of_each_key_and_sends_a_record_once() {
    let (store, clock) = store();
    // Two functions gave up on overlapping stretches, and both could not read record 4.
    batch(&store, SIGNALS, &[(2, "J1", b"2"), (6, "J1", b"6"), (8, "J2", b"8")]).await;
    batch(&store, MAINTENANCE, &[(1, "J2", b"1"), (6, "J1", b"6"), (10, "J1", b"10")]).await;
    poison(&store, SIGNALS, 4, "J1", b"4", "no").await;
    poison(&store, MAINTENANCE, 4, "J1", b"4", "no").await;
    let said = say(&store, &clock, "replay --yes").await;
    assert_eq!(said, "6 of 6 records are on the stream again, 4 of 4 entries done. What fails again comes back with its history.");
    let wanted = [("J1", vec!["2", "4", "6", "10"]), ("J2", vec!["1", "8"])];
    assert_eq!(stream(&store), wanted.map(|(key, data)| (key.to_owned(), data.into_iter().map(str::to_owned).collect())).into());
    assert!(ids(&store).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_replay_takes_the_named_entries_or_those_that_fit() {
    let (store, clock) = store();
    for (sequence, key) in [(1, "J1"), (2, "J2"), (3, "J3")] {
        poison(&store, SIGNALS, sequence, key, b"x", "no").await;
    }
    let id = ids(&store).await[2].clone();
    say(&store, &clock, &format!("replay {id} --yes")).await;
    say(&store, &clock, "replay --key J1 --yes").await;
    assert_eq!(stream(&store).into_keys().collect::<Vec<_>>(), ["J1", "J3"]);
    let again = give(&store, &clock, &format!("replay {id} --yes")).await.1.unwrap_err().to_string();
    assert!(again.ends_with("it was replayed at 2026-11-22T08:00:00.000Z"), "{again}");
    assert!(Line::try_parse_from(["quarantine", "replay", "--key", "J1", &id]).is_err());
}

/// The whole circle: the real mapping and batch processor put a record aside, a replay sends it, and it fails again.
#[tokio::test(start_paused = true)]
async fn a_replayed_record_that_fails_again_comes_back_with_its_history() {
    let (store, clock) = store();
    store.append(&[StreamRecord { key: "J1".into(), data: b"no JSON".to_vec() }]).await.unwrap();
    let run = || async {
        let quarantine = store.clone();
        let function = move |event: KinesisEvent| {
            let quarantine = quarantine.clone();
            let handle = |_, _| ready(Ok::<_, PortError>(()));
            async move { Ok::<_, Infallible>(shared::batch::process(event, SIGNALS, &quarantine, handle).await.response) }
        };
        let settings = Settings { report_batch_item_failures: true, ..Settings::default() };
        let consumer = Consumer { name: SIGNALS, settings, timeout_ms: 1_000 };
        let poller = Poller::start(&store, consumer, function, clock.clone()).await.unwrap();
        while store.lag(SIGNALS).unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        poller.stop().await;
    };
    run().await;
    for times in 0..3 {
        let found = survey(&store, &Filter::default()).await.unwrap().found;
        assert_eq!((found.len(), found[0].came_back), (1, times));
        let shown = say(&store, &clock, &format!("show {}", found[0].id)).await;
        assert_eq!(shown.matches("poison by signal-adjustment: not a record: expected ident").count(), times, "{shown}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        say(&store, &clock, "replay --yes").await;
        run().await;
    }
    let list = say(&store, &clock, "list").await;
    assert!(list.contains(" 3x "), "{list}");
    let shown = say(&store, &clock, &format!("show {}", ids(&store).await[0])).await;
    assert!(shown.contains("history   came back 3 times:") && shown.contains("; replayed 2026-11-22T08:01:00"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn the_same_content_elsewhere_has_no_history_until_it_was_sent_again() {
    let (store, clock) = store();
    poison(&store, SIGNALS, 3, "J1", b"?", "no").await;
    poison(&store, MAINTENANCE, 3, "J1", b"?", "no").await;
    say(&store, &clock, "replay --function signal --yes").await;
    let back = || async { survey(&store, &Filter::default()).await.unwrap().found.iter().map(|found| found.came_back).collect::<Vec<_>>() };
    assert_eq!(back().await, [0], "the other function's copy was not sent");
    say(&store, &clock, "replay --yes").await;
    // In a batch of the other kind, and counted once although two entries were replayed.
    batch(&store, SIGNALS, &[(9, "J1", b"?"), (10, "J1", b"new")]).await;
    assert_eq!(back().await, [1]);
}

#[tokio::test(start_paused = true)]
async fn discard_needs_a_choice_and_takes_only_what_fits() {
    let (store, clock) = store();
    poison(&store, SIGNALS, 1, "J1", b"x", "no").await;
    batch(&store, SIGNALS, &[(2, "J2", b"x")]).await;
    assert!(matches!(give(&store, &clock, "discard --yes").await.1, Err(QuarantineError::NoSelection)));
    assert_eq!(say(&store, &clock, "discard --key J2 --yes").await, "Discarded 1 entry.");
    assert_eq!(ids(&store).await.len(), 1);
    say(&store, &clock, "discard --until 2026-11-22T09:00:00Z --yes").await;
    assert_eq!((ids(&store).await.len(), stream(&store).len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_interrupted_says_where_and_goes_on_later() {
    let (store, clock) = store();
    for sequence in 1..=1_200 {
        poison(&store, SIGNALS, sequence, &format!("J{}", sequence % 3), sequence.to_string().as_bytes(), "no").await;
    }
    let left = || store.quarantined(None, 5_000).unwrap().items.len();
    let stop = poll_fn(|_| if left() <= 200 { Poll::Ready(()) } else { Poll::Pending });
    let outcome = work(&action("replay --yes"), &store, &store, &clock, stop, |_| ()).await.unwrap_err().to_string();
    assert!(outcome.starts_with("interrupted: 1000 of 1200 records are on the stream again, 1000 of 1200 entries done"), "{outcome}");
    assert!(say(&store, &clock, "replay --yes").await.starts_with("200 of 200 records"));
    for (key, data) in stream(&store) {
        let numbers: Vec<u64> = data.iter().map(|data| data.parse().unwrap()).collect();
        assert!(numbers.len() == 400 && numbers.is_sorted(), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_stream_refuses_stays_in_the_quarantine() {
    let (store, clock) = store();
    // Its key is too long for the stream that it is sent to.
    poison(&store, SIGNALS, 1, &"J".repeat(300), b"x", "no").await;
    poison(&store, SIGNALS, 2, "J2", b"y", "no").await;
    let refused = give(&store, &clock, "replay --yes").await.1.unwrap_err().to_string();
    assert!(refused.starts_with("the stream refused 1 record: 1 of 2 records are on the stream again, 1 of 2 entries done"), "{refused}");
    assert_eq!(ids(&store).await.len(), 1);
}

#[test]
fn a_data_directory_without_data_and_one_in_use_are_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(error, QuarantineError::NoData(_)) && !directory.path().join(FILE_NAME).exists());
    let _serving = Store::open(directory.path(), 2, SystemClock).unwrap();
    let error = open(directory.path()).err().unwrap().to_string();
    assert!(error.contains("Stop it, give this command again, and start it"), "{error}");
}

#[cfg(not(feature = "aws"))]
#[tokio::test]
async fn without_the_sdk_a_bucket_is_refused_with_how_to_build() {
    let outcome = run(&action("list --bucket b"), pending(), |_| ()).await.unwrap_err().to_string();
    assert!(outcome.contains("cargo install --path local --features aws"), "{outcome}");
}

#[tokio::test]
async fn a_bucket_goes_with_a_stream_and_without_a_data_directory() {
    assert!(Line::try_parse_from(["quarantine", "list", "--bucket", "b", "--data-dir", "d"]).is_err());
    assert!(Line::try_parse_from(["quarantine", "replay", "--stream", "s"]).is_err());
    assert!(matches!(run(&action("replay --bucket b --yes"), pending(), |_| ()).await, Err(QuarantineError::NoStream)));
}

/// One record somewhere: (sequence, key), and which entries hold it.
fn any_entries() -> impl Strategy<Value = Vec<(bool, bool, BTreeSet<u64>)>> {
    // Which function, poison or batch, and the records of the batch.
    prop::collection::vec((any::<bool>(), any::<bool>(), prop::collection::btree_set(1_u64..60, 1..6)), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Runs that are throttled, refused, cut off between append and mark, and interrupted, one after the other until all is
    /// done: nothing is lost, each run keeps the order of each key, and what comes first of each record does so over all runs.
    #[test]
    fn whatever_breaks_a_replay_loses_nothing_and_keeps_order(entries in any_entries(), seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, clock) = store();
            let mut wanted: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
            let key = |sequence: u64| format!("J{}", sequence % 3);
            for (first, as_batch, sequences) in &entries {
                let function = if *first { SIGNALS } else { MAINTENANCE };
                if *as_batch {
                    let records: Vec<_> = sequences.iter().map(|&n| (n, key(n), n.to_string())).collect();
                    let records: Vec<_> = records.iter().map(|(n, key, data)| (*n, key.as_str(), data.as_bytes())).collect();
                    // A batch that begins where another one did takes its place.
                    let id = format!("batch:{function}:{}:{}", shard_name(0), Sequence::new(records[0].0));
                    store.discard(&id).await.unwrap();
                    batch(&store, function, &records).await;
                } else {
                    let n = *sequences.first().unwrap();
                    poison(&store, function, n, &key(n), n.to_string().as_bytes(), "no").await;
                }
            }
            for entry in store.entries(None, 500).await.unwrap().items.iter().chain(&store.entries(Some("poison:"), 500).await.unwrap().items) {
                for record in &entry.records {
                    wanted.entry(record.key.clone()).or_default().insert(String::from_utf8_lossy(&record.data).parse().unwrap());
                }
            }
            let seeds = Seed::new(seed);
            let faults = StoreFaults { throttle: 0.1, timeout_after: 0.1, ..StoreFaults::default() };
            let quarantine = FaultyStore { inner: store.clone(), faults, dice: seeds.stream() };
            let well = FaultyStore { inner: store.clone(), faults: StoreFaults::default(), dice: seeds.stream() };
            let faults = StreamFaults { refuse: 0.3, fail_before: 0.2, fail_after: 0.2 };
            let shaky = FaultyStream { inner: store.clone(), faults, dice: seeds.stream() };
            let mut run = 0;
            while !ids(&store).await.is_empty() {
                let before = stream(&store);
                let mut looks = 0;
                let stop = poll_fn(|_| {
                    looks += 1;
                    if looks > 1 + run && run < 8 { Poll::Ready(()) } else { Poll::Pending }
                });
                // A dozen entries are seldom all read if every fifth call fails: in the end none does.
                let quarantine = if run < 100 { &quarantine } else { &well };
                let _ = work(&action("replay --yes"), quarantine, &shaky, &clock, stop, |_| ()).await;
                for (key, data) in stream(&store) {
                    let sent: Vec<u64> = data.iter().skip(before.get(&key).map_or(0, Vec::len)).map(|n| n.parse().unwrap()).collect();
                    prop_assert!(sent.is_sorted(), "run {run} of {key}: {sent:?}");
                }
                run += 1;
                prop_assert!(run < 200, "it never ends");
            }
            for (key, wanted) in wanted {
                let (mut seen, mut first) = (BTreeSet::new(), Vec::new());
                for n in stream(&store).remove(&key).unwrap_or_default() {
                    let n: u64 = n.parse().unwrap();
                    if seen.insert(n) {
                        first.push(n);
                    }
                }
                prop_assert_eq!(first, wanted.into_iter().collect::<Vec<_>>());
            }
            Ok(())
        })?;
    }
}
