//! What resharding promises of the store: every key has one open shard, in every file that a crash may leave.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};
use shared::memory::ManualClock;
use shared::ports::{ReadingStream, StreamRecord};
use shared::units::Timestamp;

use super::*;
use crate::mapping::{Room, Settlement};
use crate::store::streams::STREAM;
use crate::store::writer::Writer;
use crate::store::{FILE_NAME, FORMAT_VERSION};
use crate::stream::Record;

const HALF: u32 = 1 << 31;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + ms)
}

fn memory(shards: u16) -> (Store, ManualClock) {
    let clock = ManualClock::at(at(0));
    (Store::in_memory(shards, clock.clone()).unwrap(), clock)
}

fn on_disk(directory: &Path) -> Store {
    Store::open(directory, 2, ManualClock::at(at(0))).unwrap()
}

/// Keys with a hash in the lower and in the upper half of all.
fn low_and_high() -> [&'static str; 2] {
    assert!(shard_hash("J1") < HALF && shard_hash("J2") >= HALF);
    ["J1", "J2"]
}

async fn append(store: &Store, key: &str, data: &str) {
    let record = StreamRecord { key: key.into(), data: data.into() };
    assert_eq!(store.append(&[record]).await, Ok(vec![Ok(())]));
}

fn records(store: &Store, shard: u16) -> Vec<Record> {
    store.records_after(shard, Sequence::START, Room { records: 10_000, bytes: usize::MAX }).unwrap()
}

/// Shard, number and data of the records of a key.
fn of_key(store: &Store, key: &str) -> Vec<(u16, u64, String)> {
    let all = store.shards().into_iter().flat_map(|shard| records(store, shard).into_iter().map(move |record| (shard, record)));
    let mine = all.filter(|(_, record)| record.key == key);
    mine.map(|(shard, record)| (shard, record.sequence.get(), String::from_utf8(record.data).unwrap())).collect()
}

fn texts(records: &[(u16, u64, &str)]) -> Vec<(u16, u64, String)> {
    records.iter().map(|&(shard, number, data)| (shard, number, data.to_owned())).collect()
}

async fn settle(store: &Store, mapping: &str, shard: u16, upto: u64) {
    let settlement = Settlement { checkpoints: vec![Sequence::new(upto)], discarded: Vec::new() };
    store.settle(mapping, shard, &settlement).await.unwrap();
}

fn closed(store: &Store) -> Vec<u16> {
    store.shards().into_iter().filter(|&shard| store.end_of(shard).unwrap().borrow().closed).collect()
}

#[tokio::test]
async fn after_a_split_and_a_merge_each_key_is_in_the_open_shard_of_its_hash_and_its_numbers_go_on() {
    let (store, [low, high]) = (memory(1).0, low_and_high());
    append(&store, low, "a").await;
    append(&store, high, "a").await;
    assert_eq!(store.split(0, HALF).await, Ok(vec![1, 2]));
    assert_eq!((store.open_shards().unwrap(), closed(&store)), (vec![(0, 1), (HALF, 2)], vec![0]));
    append(&store, high, "b").await;
    append(&store, high, "c").await;
    append(&store, low, "b").await;
    assert_eq!(store.merge(1, 2).await, Ok(vec![3]));
    append(&store, low, "c").await;
    append(&store, high, "d").await;
    assert_eq!((store.open_shards().unwrap(), closed(&store)), (vec![(0, 3)], vec![0, 1, 2]));
    assert_eq!(of_key(&store, low), texts(&[(0, 1, "a"), (1, 3, "b"), (3, 5, "c")]));
    assert_eq!(of_key(&store, high), texts(&[(0, 2, "a"), (2, 3, "b"), (2, 4, "c"), (3, 6, "d")]));
}

#[tokio::test]
async fn who_waits_for_records_of_a_shard_hears_that_it_closes() {
    let store = memory(1).0;
    append(&store, "J1", "a").await;
    let mut end = store.end_of(0).unwrap();
    assert!(!end.borrow_and_update().closed);
    store.split(0, HALF).await.unwrap();
    assert!(end.has_changed().unwrap());
    assert_eq!(*end.borrow_and_update(), End { last: Sequence::new(1), closed: true });
    assert_eq!(*store.end_of(1).unwrap().borrow(), End { last: Sequence::new(1), closed: false });
}

#[tokio::test]
async fn what_kinesis_would_not_reshard_is_refused_and_changes_nothing() {
    let store = memory(2).0;
    store.split(0, 9).await.unwrap();
    let before = (store.open_shards().unwrap(), store.shards());
    assert_eq!(before.0, [(0, 2), (9, 3), (HALF, 1)]);
    assert_eq!(store.split(0, 5).await, Err(ReshardError::NotOpen(0)));
    assert_eq!(store.merge(2, 7).await, Err(ReshardError::NotOpen(7)));
    assert_eq!(store.split(3, 9).await, Err(ReshardError::NotDivided { shard: 3, at: 9, first: 9, last: HALF - 1 }));
    assert_eq!(store.split(3, HALF).await, Err(ReshardError::NotDivided { shard: 3, at: HALF, first: 9, last: HALF - 1 }));
    for (low, high) in [(3, 2), (2, 1), (1, 2), (2, 2)] {
        assert_eq!(store.merge(low, high).await, Err(ReshardError::NotAdjacent(low, high)));
    }
    assert_eq!((store.open_shards().unwrap(), store.shards()), before);
}

#[tokio::test]
async fn there_are_no_more_open_shards_and_no_more_numbers_than_the_bounds_say() {
    let store = memory(SHARDS_MAX).0;
    assert_eq!(store.split(0, 1).await, Err(ReshardError::Full));
    let use_up = |transaction: &WriteTransaction| {
        transaction.open_table(META)?.insert(GIVEN_OUT, u64::from(u16::MAX) - 1)?;
        Ok(())
    };
    store.write(Durability::Disk, use_up, |()| ()).await.unwrap();
    assert_eq!(store.merge(0, 1).await, Ok(vec![u16::MAX - 1]));
    assert_eq!(store.split(u16::MAX - 1, 1).await, Err(ReshardError::NoNumber));
    assert_eq!(store.open_shards().unwrap().len(), usize::from(SHARDS_MAX) - 1);
}

#[tokio::test]
async fn a_mapping_may_read_a_shard_once_it_has_read_all_before_it_even_those_that_stayed_empty() {
    let (store, [low, high]) = (memory(2).0, low_and_high());
    store.register_mapping("signals").await.unwrap();
    append(&store, low, "a").await;
    append(&store, high, "a").await;
    store.merge(0, 1).await.unwrap();
    store.split(2, HALF).await.unwrap();
    append(&store, low, "b").await;
    assert_eq!(store.readable("signals"), Ok(vec![0, 1]), "2 is empty, but not its parents");
    settle(&store, "signals", 0, 1).await;
    assert_eq!((store.readable("signals"), store.lag("signals")), (Ok(vec![1]), Ok(2)));
    settle(&store, "signals", 1, 1).await;
    assert_eq!((store.readable("signals"), store.lag("signals")), (Ok(vec![3, 4]), Ok(1)));
    assert_eq!(store.readable("maintenance"), Ok(vec![0, 1]), "each mapping for itself");
}

#[tokio::test]
async fn a_closed_shard_is_trimmed_like_the_others_and_forgotten_after_its_parents() {
    let (store, clock) = memory(1);
    store.register_mapping("signals").await.unwrap();
    append(&store, "J1", "a").await;
    store.split(0, HALF).await.unwrap();
    store.merge(1, 2).await.unwrap();
    append(&store, "J1", "b").await;
    assert_eq!(store.shards(), [0, 1, 2, 3], "0 has a record, and before it is gone 1 and 2 may not");
    settle(&store, "signals", 0, 1).await;
    clock.set(at(DAY_MS + 1));
    append(&store, "J1", "c").await;
    assert_eq!((store.shards(), store.checkpoints("signals", 0)), (vec![3], Ok(vec![])), "1 and 2 stayed empty");
    assert_eq!((store.readable("signals"), store.lag("signals")), (Ok(vec![3]), Ok(2)));
    assert!(store.end_of(0).is_none());
    store.register_mapping("maintenance").await.unwrap();
    assert_eq!(store.readable("maintenance"), Ok(vec![3]));
}

#[tokio::test]
async fn no_record_of_a_child_is_trimmed_before_every_mapping_had_it() {
    let (store, clock) = memory(1);
    store.register_mapping("signals").await.unwrap();
    append(&store, "J1", "a").await;
    settle(&store, "signals", 0, 1).await;
    store.split(0, HALF).await.unwrap();
    append(&store, "J1", "b").await;
    clock.set(at(2 * DAY_MS));
    append(&store, "J1", "c").await;
    assert_eq!(of_key(&store, "J1").into_iter().map(|(.., data)| data).collect::<Vec<_>>(), ["b", "c"]);
}

#[tokio::test]
async fn shards_are_after_a_restart_what_they_were_and_a_reshard_is_on_disk_when_it_is_answered() {
    let (live, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = on_disk(live.path());
    append(&store, "J1", "a").await;
    store.split(1, HALF + 1).await.unwrap();
    store.merge(0, 2).await.unwrap();
    std::fs::copy(live.path().join(FILE_NAME), crashed.path().join(FILE_NAME)).unwrap();
    let after = on_disk(crashed.path());
    for store in [&store, &after] {
        assert_eq!(store.open_shards().unwrap(), [(0, 4), (HALF + 1, 3)]);
        assert_eq!((store.shards(), closed(store)), (vec![0, 1, 2, 3, 4], vec![0, 1, 2]));
    }
    append(&after, "J1", "b").await;
    assert_eq!(of_key(&after, "J1"), texts(&[(0, 1, "a"), (4, 2, "b")]));
}

/// A file that remembers what was written to it.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<std::sync::Mutex<(Vec<u8>, Vec<Written>)>>);

#[derive(Clone, Debug)]
enum Written {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

impl Written {
    fn to(&self, file: &mut Vec<u8>) {
        match self {
            Self::Length(length) => file.resize(*length, 0),
            Self::Bytes(place, bytes) => file[*place..place + bytes.len()].copy_from_slice(bytes),
        }
    }
}

impl Disk {
    fn note(&self, written: Written) {
        let mut disk = self.0.lock().unwrap();
        written.to(&mut disk.0);
        disk.1.push(written);
    }

    fn writes(&self) -> Vec<Written> {
        self.0.lock().unwrap().1.clone()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let place = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap().0[place..place + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.note(Written::Length(usize::try_from(length).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.note(Written::Bytes(usize::try_from(offset).unwrap(), data.to_vec()));
        Ok(())
    }
}

fn over(backend: impl StorageBackend) -> Store {
    let database = Database::builder().create_with_backend(backend).unwrap();
    let inline = |database| Ok(Writer::inline(database));
    Store::over(database, Path::new("test"), 1, Arc::new(ManualClock::at(at(0))), inline).unwrap()
}

#[tokio::test]
async fn a_crash_at_any_write_of_a_reshard_leaves_the_parent_open_or_all_its_children() {
    let disk = Disk::default();
    let store = over(disk.clone());
    store.register_mapping("signals").await.unwrap();
    append(&store, "J1", "a").await;
    let before = disk.writes().len();
    store.split(0, HALF).await.unwrap();
    let writes = disk.writes();
    let mut seen = BTreeMap::new();
    for kept in before..=writes.len() {
        let mut file = Vec::new();
        writes.iter().take(kept).for_each(|written| written.to(&mut file));
        let backend = InMemoryBackend::new();
        backend.set_len(file.len() as u64).unwrap();
        backend.write(0, &file).unwrap();
        let after = over(backend);
        let (open, is_closed) = (after.open_shards().unwrap(), closed(&after));
        assert!(open == [(0, 0)] && is_closed.is_empty() || open == [(0, 1), (HALF, 2)] && is_closed == [0], "{kept}: {open:?}");
        append(&after, "J1", "b").await;
        assert_eq!(of_key(&after, "J1").iter().map(|(_, number, _)| *number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((after.readable("signals"), after.lag("signals")), (Ok(vec![0]), Ok(2)));
        *seen.entry(open.len()).or_insert(0) += 1;
    }
    assert!(seen.len() == 2, "both were seen: {seen:?}");
}

/// A file as it was written while the shard of a key was the remainder of its hash.
fn of_format_1(directory: &Path, shards: u16, keys: &[&str]) {
    let database = Database::create(directory.join(FILE_NAME)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert("format_version", 1).unwrap();
        meta.insert("shards", u64::from(shards)).unwrap();
        let mut stream = transaction.open_table(STREAM).unwrap();
        let mut ends = transaction.open_table(ENDS).unwrap();
        let mut checkpoints = transaction.open_table(CHECKPOINTS).unwrap();
        for shard in 0..shards {
            checkpoints.insert(("signals", shard), vec![0, 0]).unwrap();
        }
        for key in keys {
            let shard = u16::try_from(shard_hash(key) % u32::from(shards)).unwrap();
            let number = end_of(&ends, shard).unwrap() + 1;
            stream.insert((shard, number), (at(0).as_millis(), *key, b"old".as_slice())).unwrap();
            ends.insert(shard, number).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_file_from_before_ranges_goes_on_in_new_shards_that_are_read_after_the_old_ones() {
    let directory = tempfile::tempdir().unwrap();
    of_format_1(directory.path(), 3, &["J1", "J2", "J3", "J4", "J5", "J1"]);
    for again in [false, true] {
        let store = on_disk(directory.path());
        let open: Vec<_> = store.open_shards().unwrap().into_iter().map(|(_, shard)| shard).collect();
        assert_eq!((open, closed(&store)), (vec![3, 4, 5], vec![0, 1, 2]));
        append(&store, "J1", "new").await;
        let of_j1 = of_key(&store, "J1");
        assert_eq!(of_j1.iter().map(|(.., data)| data.as_str()).collect::<Vec<_>>()[..3], ["old", "old", "new"]);
        assert!(of_j1.is_sorted_by(|a, b| a.1 < b.1), "{of_j1:?}");
        assert_eq!(store.lag("signals"), Ok(if again { 8 } else { 7 }));
        assert!(store.readable("signals").unwrap().iter().all(|shard| *shard < 3));
    }
    let store = on_disk(directory.path());
    for shard in 0..3 {
        let end = store.end_of(shard).unwrap().borrow().last.get();
        settle(&store, "signals", shard, end).await;
    }
    assert_eq!((store.readable("signals"), store.lag("signals")), (Ok(vec![3, 4, 5]), Ok(2)));
    drop(store);
    let database = Database::open(directory.path().join(FILE_NAME)).unwrap();
    let version = database.begin_read().unwrap().open_table(META).unwrap().get("format_version").unwrap().unwrap().value();
    assert_eq!(version, FORMAT_VERSION);
}

proptest! {
    #[test]
    fn whatever_is_split_and_merged_the_ranges_leave_no_gap_and_a_key_keeps_its_order(
        shards in 1..4_u16,
        steps in prop::collection::vec((0..8_usize, prop::option::of(any::<u32>()), 0..12_u8), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = memory(shards).0;
            let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (n, (which, split, key)) in steps.iter().enumerate() {
                let before = store.open_shards().unwrap();
                let place = which % before.len();
                let (first, shard) = before[place];
                let next = before.get(place + 1);
                match (split, next) {
                    (Some(at), _) => {
                        let last = next.map_or(u32::MAX, |next| next.0 - 1);
                        let outcome = store.split(shard, *at).await;
                        prop_assert_eq!(outcome.is_ok(), first < *at && *at <= last);
                    }
                    (None, Some(&(_, next))) => prop_assert!(store.merge(shard, next).await.is_ok()),
                    (None, None) => {}
                }
                let open = store.open_shards().unwrap();
                prop_assert_eq!(open[0].0, 0);
                prop_assert!(open.is_sorted_by(|a, b| a.0 < b.0), "{:?}", open);
                let key = format!("J{key}");
                append(&store, &key, &n.to_string()).await;
                let holds = open.iter().rev().find(|(first, _)| *first <= shard_hash(&key)).unwrap().1;
                prop_assert_eq!(records(&store, holds).last().map(|record| record.data.clone()), Some(n.to_string().into_bytes()));
                sent.entry(key).or_default().push(n.to_string());
            }
            for (key, sent) in sent {
                let mut kept = of_key(&store, &key);
                kept.sort_by_key(|&(_, number, _)| number);
                prop_assert_eq!(kept.into_iter().map(|(.., data)| data).collect::<Vec<_>>(), sent);
            }
            Ok(())
        })?;
    }
}
