//! The contract of the ports, held against every twin: what is true of one store is true of all.
//!
//! The adapters for AWS are held against it where an emulator runs (`make adapters`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use greenwave::mapping::Room;
use greenwave::store::Store;
use greenwave::stream::{Sequence, shard_of};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shared::alert::{Acknowledgement, Alert, Urgency};
use shared::asset::{
    Asset, AssetHealth, DETECTOR, Fault, HealthState, Location, ModelVersion, Reason as HealthReason, RemainingUsefulLife,
};
use shared::ids::{AlertId, AssetId, AssetKind, DetectorId, IntersectionId, StageId, sort_key};
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::plan::{Candidate, DecisionRecord, DistrustedDetector, PlanSource, PlanStage, PublishedPlan, Reason};
use shared::ports::{
    AcknowledgementStore, AlertReader, AlertStore, AssetStore, Condition, ConditionReader, ConditionRow, ConditionStore, DecisionLog,
    IntersectionStore, JunctionRow, JunctionStore, Page, PlanReader, PoisonRecord, PortError, Quarantine, ReadingStream, StreamRecord,
    WriteError,
};
use shared::units::{Deciseconds, Timestamp};
use tests::junction::{at, configuration};
use tokio::task::JoinSet;

#[cfg(feature = "aws")]
#[path = "ports/deployed.rs"]
mod deployed;

const SHARDS: u16 = 4;

trait Signals: IntersectionStore + JunctionStore + PlanReader + DecisionLog {}
impl<S: IntersectionStore + JunctionStore + PlanReader + DecisionLog> Signals for S {}

trait Maintenance: AssetStore + ConditionStore + ConditionReader + AlertStore + AlertReader + AcknowledgementStore {}
impl<S: AssetStore + ConditionStore + ConditionReader + AlertStore + AlertReader + AcknowledgementStore> Maintenance for S {}

/// A store whose content outlives the handle.
trait Stores: Signals + Maintenance + Clone + 'static {}
impl<S: Signals + Maintenance + Clone + 'static> Stores for S {}

/// A stream that can be read as well.
trait Stream: ReadingStream {
    /// What the stream has of one key, in order.
    async fn records_of(&self, key: &str) -> Vec<Vec<u8>>;
}

/// A quarantine that can be looked into.
trait Cellar: Quarantine {
    /// Id, function, key, data and reason of each poison record, in any order.
    async fn poison(&self) -> Vec<[String; 5]>;
}

impl Stream for Memory {
    async fn records_of(&self, key: &str) -> Vec<Vec<u8>> {
        self.stream().into_iter().filter(|record| record.key == key).map(|record| record.data).collect()
    }
}

impl Cellar for Memory {
    async fn poison(&self) -> Vec<[String; 5]> {
        self.quarantined().iter().map(|r| row_of(&r.id, r.function, &r.key, &r.data, &r.reason)).collect()
    }
}

impl Stream for Store {
    async fn records_of(&self, key: &str) -> Vec<Vec<u8>> {
        let room = Room { records: usize::MAX, bytes: usize::MAX };
        let (mut all, mut after) = (Vec::new(), Sequence::START);
        loop {
            let records = self.records_after(shard_of(key, SHARDS), after, room).unwrap();
            let Some(last) = records.last() else { return all };
            after = last.sequence;
            all.extend(records.into_iter().filter(|record| record.key == key).map(|record| record.data));
        }
    }
}

impl Cellar for Store {
    async fn poison(&self) -> Vec<[String; 5]> {
        let records = self.quarantined(None, 500).unwrap().items;
        records.iter().map(|r| row_of(&r.id, &r.function, &r.key, &r.data, &r.reason)).collect()
    }
}

fn row_of(id: &str, function: &str, key: &str, data: &[u8], reason: &str) -> [String; 5] {
    [id, function, key, &String::from_utf8_lossy(data), reason].map(str::to_owned)
}

/// Makes a test of each behaviour for each twin.
macro_rules! contract {
    (
        of the stores { $($store:ident)* }
        of the stream { $($stream:ident)* }
        of the quarantine { $($quarantine:ident)* }
    ) => {
        local! { $($store)* $($stream)* $($quarantine)* }
        #[cfg(feature = "aws")]
        mod aws {
            $(deployed!($store(stores));)*
            $(deployed!($stream(stream));)*
            $(deployed!($quarantine(quarantine));)*
        }
    };
}

#[cfg(feature = "aws")]
macro_rules! deployed {
    ($behaviour:ident($part:ident)) => {
        #[tokio::test]
        #[ignore = "needs an emulator: make adapters"]
        async fn $behaviour() {
            super::$behaviour(&super::deployed::$part(stringify!($behaviour)).await).await;
        }
    };
}

macro_rules! local {
    ($($behaviour:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&shared::memory::Memory::new()).await;
            })*
        }
        mod store_on_disk {
            $(#[tokio::test]
            async fn $behaviour() {
                let directory = tempfile::tempdir().unwrap();
                let store = super::Store::open(directory.path(), super::SHARDS, super::ManualClock::at(super::at(0))).unwrap();
                super::$behaviour(&store).await;
            })*
        }
        mod store_in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&super::Store::in_memory(super::SHARDS, super::ManualClock::at(super::at(0))).unwrap()).await;
            })*
        }
    };
}

contract! {
    of the stores {
        a_new_store_has_nothing
        a_configuration_is_written_only_over_the_expected_content
        a_configuration_is_read_as_it_was_written
        a_configuration_is_removed_only_with_the_expected_content
        a_row_is_written_only_over_the_version_before_it
        the_plan_of_a_row_is_read_as_it_was_written
        of_writers_that_race_for_one_version_exactly_one_wins
        every_list_read_page_by_page_is_the_whole_list
        decisions_of_a_span_come_oldest_first_and_without_its_end
        decisions_read_page_by_page_are_all_of_the_span
        a_decision_of_the_same_time_is_replaced
        a_decision_is_read_as_it_was_written
        decisions_of_junctions_with_similar_ids_do_not_mix
        a_new_store_knows_no_asset
        an_asset_is_written_only_over_the_expected_content
        an_asset_is_read_as_it_was_written
        a_condition_is_written_only_over_the_version_before_it
        a_condition_is_read_as_it_was_written
        of_writers_that_race_for_one_condition_exactly_one_wins
        detectors_are_listed_with_their_intersection
        an_alert_of_the_same_id_is_replaced_by_its_next_change
        an_alert_is_read_as_it_was_written
        alerts_read_page_by_page_are_all_oldest_first
        the_first_acknowledgement_of_the_latest_occurrence_stays
        acknowledgements_are_found_by_their_alerts
    }
    of the stream {
        each_record_of_an_append_is_answered_in_its_place
        appended_records_of_a_key_keep_their_order
        an_append_takes_as_much_as_the_contract_says
        a_record_that_is_too_large_is_refused_alone
    }
    of the quarantine {
        a_poison_record_is_kept_once_for_each_function
    }
}

fn id(text: &str) -> IntersectionId {
    IntersectionId::try_from(text).unwrap()
}

fn intersection(id: &str, name: &str) -> Intersection {
    let mut document = configuration(id);
    document["name"] = name.into();
    Intersection::try_from(document).unwrap()
}

fn plan(intersection: &str, as_of: Timestamp) -> PublishedPlan {
    let stage = |id: &str, start, green| PlanStage { stage: StageId::try_from(id).unwrap(), start, green_s: Deciseconds::new(green) };
    PublishedPlan {
        intersection_id: id(intersection),
        revision: 7,
        as_of,
        valid_until: as_of + Deciseconds::new(305),
        source: PlanSource::Shadow,
        // Begun long ago, and to a millisecond.
        stages: vec![stage("2", as_of.plus_millis(-4_000_001), 40_123), stage("0", as_of.plus_millis(12_345), 50)],
        reason: Reason { code: "hold".into(), text: "Stage 2 – nobody waits.".into() },
    }
}

fn row(intersection: &str, version: u64) -> JunctionRow {
    JunctionRow { version, plan: plan(intersection, at(version.try_into().unwrap())), state: vec![0, 255, version.try_into().unwrap()] }
}

fn decision(intersection: &str, as_of: Timestamp, revision: u64) -> DecisionRecord {
    DecisionRecord {
        intersection_id: id(intersection),
        as_of,
        revision,
        configuration: self::intersection(intersection, "").etag(),
        reason: Reason { code: "queue_pressure".into(), text: String::new() },
        inputs: serde_json::json!({"detectors": {"n_0": {"last": null, "rate_4096th": 65535}}}),
        candidates: vec![],
        limits: vec!["green_min".into()],
        distrusted: vec![DistrustedDetector { detector_id: DetectorId::try_from("n_0").unwrap(), reason: "silent".into() }],
        previous: (revision > 1).then(|| plan(intersection, as_of)),
        next: plan(intersection, as_of),
    }
}

async fn everything(log: &impl DecisionLog, intersection: &str) -> Vec<DecisionRecord> {
    log.decisions(&id(intersection), Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX), None, 500).await.unwrap().items
}

async fn a_new_store_has_nothing(twin: &impl Stores) {
    assert_eq!(twin.get(&id("J1")).await, Ok(None));
    assert_eq!(twin.load(&id("J1")).await, Ok(None));
    assert_eq!(twin.plan(&id("J1")).await, Ok(None));
    assert_eq!(twin.list(None, 1).await, Ok(Page { items: vec![], next: None }));
    assert_eq!(twin.ids("J", Some("J0"), 1).await, Ok(Page { items: vec![], next: None }));
    assert_eq!(twin.plans("", None, 1).await, Ok(Page { items: vec![], next: None }));
    assert_eq!(everything(twin, "J1").await, []);
}

async fn a_configuration_is_written_only_over_the_expected_content(twin: &impl Stores) {
    let [first, second, third] = ["first", "second", "third"].map(|name| intersection("J1", name));
    let stored = async || {
        let stored = twin.get(&id("J1")).await.unwrap();
        assert_eq!(twin.tag(&id("J1")).await, Ok(stored.as_ref().map(|(tag, _)| *tag)));
        stored.map(|(tag, stored)| (tag, stored.document().clone()))
    };

    assert_eq!(twin.put(Some(&first.etag()), &first).await, Err(WriteError::Conflict));
    assert_eq!(stored().await, None);
    assert_eq!(twin.put(None, &first).await, Ok(()));
    assert_eq!(stored().await, Some((first.etag(), first.document().clone())));
    for expected in [None, Some(&second.etag()), Some(&third.etag())] {
        assert_eq!(twin.put(expected, &second).await, Err(WriteError::Conflict), "{expected:?}");
    }
    assert_eq!(stored().await, Some((first.etag(), first.document().clone())));
    assert_eq!(twin.put(Some(&first.etag()), &second).await, Ok(()));
    assert_eq!(stored().await, Some((second.etag(), second.document().clone())));
    assert_eq!(twin.put(Some(&first.etag()), &third).await, Err(WriteError::Conflict));
}

async fn a_configuration_is_read_as_it_was_written(twin: &impl Stores) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for n in 0..20 {
        let mut document = configuration(&format!("J{n}"));
        document["location"] = serde_json::json!({"lat": rng.random_range(-90.0..90.0), "lon": rng.random_range(-180.0..180.0)});
        for lane in document["lanes"].as_array_mut().unwrap() {
            lane["length_m"] = rng.random_range(50.0..500.0).into();
        }
        let written = Intersection::try_from(document).unwrap();
        twin.put(None, &written).await.unwrap();
        let (tag, read) = twin.get(written.id()).await.unwrap().unwrap();
        assert_eq!((tag, read.etag()), (written.etag(), written.etag()), "{n}: {} is not {}", read.document(), written.document());
        assert_eq!(*read, written);
    }
}

async fn a_configuration_is_removed_only_with_the_expected_content(twin: &impl Stores) {
    let [first, second] = ["first", "second"].map(|name| intersection("J1", name));
    assert_eq!(twin.delete(&id("J1"), &first.etag()).await, Err(WriteError::Conflict));
    twin.put(None, &first).await.unwrap();
    twin.put(None, &intersection("J2", "first")).await.unwrap();
    assert_eq!(twin.delete(&id("J1"), &second.etag()).await, Err(WriteError::Conflict));
    assert_eq!(twin.tag(&id("J1")).await.unwrap().unwrap(), first.etag());

    assert_eq!(twin.delete(&id("J1"), &first.etag()).await, Ok(()));
    assert_eq!(twin.tag(&id("J1")).await, Ok(None));
    assert_eq!(twin.delete(&id("J1"), &first.etag()).await, Err(WriteError::Conflict));
    assert_eq!(twin.ids("", None, 9).await.unwrap().items, [id("J2")]);

    assert_eq!(twin.put(Some(&first.etag()), &second).await, Err(WriteError::Conflict));
    assert_eq!(twin.put(None, &second).await, Ok(()));
    assert_eq!(twin.tag(&id("J1")).await.unwrap().unwrap(), second.etag());
}

async fn a_row_is_written_only_over_the_version_before_it(twin: &impl Stores) {
    for version in [0, 2] {
        assert_eq!(twin.save(&row("J1", version)).await, Err(WriteError::Conflict), "{version} over nothing");
    }
    assert_eq!(twin.load(&id("J1")).await, Ok(None));
    twin.save(&row("J2", 1)).await.unwrap();
    for stored in 1..4 {
        assert_eq!(twin.save(&row("J1", stored)).await, Ok(()));
        for version in (0..6).filter(|version| *version != stored + 1) {
            assert_eq!(twin.save(&row("J1", version)).await, Err(WriteError::Conflict), "{version} over {stored}");
        }
        assert_eq!(twin.load(&id("J1")).await, Ok(Some(row("J1", stored))));
    }
    assert_eq!(twin.load(&id("J2")).await, Ok(Some(row("J2", 1))));
}

async fn the_plan_of_a_row_is_read_as_it_was_written(twin: &impl Stores) {
    twin.save(&row("J1", 1)).await.unwrap();
    assert_eq!(twin.plan(&id("J1")).await, Ok(Some(row("J1", 1).plan)));
    twin.save(&row("J1", 2)).await.unwrap();
    assert_eq!(twin.plan(&id("J1")).await, Ok(Some(row("J1", 2).plan)));
    assert_eq!(twin.plans("", None, 9).await, Ok(Page { items: vec![row("J1", 2).plan], next: None }));
    assert_eq!(twin.plan(&id("J")).await, Ok(None));
}

async fn of_writers_that_race_for_one_version_exactly_one_wins(twin: &impl Stores) {
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (twin, row) = (twin.clone(), JunctionRow { state: vec![writer], ..row("J1", 1) });
        writers.spawn(async move { twin.save(&row).await.map(|()| row) });
    }
    let won: Vec<_> = writers.join_all().await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(won.len(), 1);
    assert_eq!(twin.load(&id("J1")).await.unwrap().as_ref(), won.first());
}

async fn every_list_read_page_by_page_is_the_whole_list(twin: &impl Stores) {
    let mut ids = ["J10", "J", "J1", "J2", "J1-a", "J1.b", "J1:c", "J1#d", "J1_e", "K", "9", "j1"];
    for text in ids {
        twin.put(None, &intersection(text, "")).await.unwrap();
        twin.save(&row(text, 1)).await.unwrap();
    }
    ids.sort_unstable();
    for after in [None, Some("0"), Some("J1"), Some("J1-"), Some("J1zz"), Some("J2"), Some("K"), Some("zz")] {
        for prefix in ["", "J", "J1", "J1#d", "J3", "Z"] {
            let whole: Vec<_> = ids.iter().copied().filter(|id| id.starts_with(prefix) && after.is_none_or(|after| *id > after)).collect();
            for limit in (1..=ids.len() + 1).chain([500]) {
                let place = format!("after {after:?}, prefix {prefix:?}, limit {limit}");
                let plans = walk(after, limit, async |after, limit| twin.plans(prefix, after, limit).await).await;
                assert_eq!(plans.iter().map(|plan| plan.intersection_id.as_str()).collect::<Vec<_>>(), whole, "plans {place}");
                let found = walk(after, limit, async |after, limit| twin.ids(prefix, after, limit).await).await;
                assert_eq!(found.iter().map(IntersectionId::as_str).collect::<Vec<_>>(), whole, "ids {place}");
                if prefix.is_empty() {
                    let stored = walk(after, limit, async |after, limit| twin.list(after, limit).await).await;
                    assert_eq!(stored.iter().map(|(_, i)| i.id().as_str()).collect::<Vec<_>>(), whole, "list {place}");
                    assert!(stored.iter().all(|(tag, i)| *tag == i.etag()), "tags {place}");
                }
            }
        }
    }
}

/// Follows a list to its end.
async fn walk<T>(after: Option<&str>, limit: usize, page: impl AsyncFn(Option<&str>, usize) -> Result<Page<T>, PortError>) -> Vec<T> {
    let (mut all, mut after) = (Vec::new(), after.map(str::to_owned));
    loop {
        let Page { items, next } = page(after.as_deref(), limit).await.unwrap();
        assert!(items.len() <= limit, "{} entries on a page of {limit}", items.len());
        let (place, before) = (next.as_deref().map(sort_key), after.as_deref().map(sort_key));
        assert!(place.is_none() || place > before, "{next:?} leads back");
        all.extend(items);
        if next.is_none() {
            return all;
        }
        after = next;
    }
}

async fn decisions_of_a_span_come_oldest_first_and_without_its_end(twin: &impl Stores) {
    let times = [30, 10, 40, 20].map(at);
    twin.record(&times.map(|time| decision("J1", time, 1))).await.unwrap();
    let span = async |from: i64, to: i64| {
        let page = twin.decisions(&id("J1"), at(from), at(to), None, 9).await.unwrap();
        assert_eq!(page.next, None);
        page.items.iter().map(|record| record.as_of).collect::<Vec<_>>()
    };
    assert_eq!(span(0, 99).await, [10, 20, 30, 40].map(at));
    assert_eq!(span(10, 40).await, [10, 20, 30].map(at));
    assert_eq!(span(11, 31).await, [20, 30].map(at));
    for (from, to) in [(20, 20), (30, 10), (41, 99), (0, 10)] {
        assert_eq!(span(from, to).await, [], "{from} to {to}");
    }
}

async fn decisions_read_page_by_page_are_all_of_the_span(twin: &impl Stores) {
    let records: Vec<_> = (0..7).map(|n| decision("J1", at(n).plus_millis(n), 1)).collect();
    twin.record(&records).await.unwrap();
    for limit in [1, 2, 3, 6, 7, 8, 500] {
        for (first, after) in [(2, None), (2, Some(at(1))), (2, Some(at(2))), (4, Some(records[3].as_of)), (6, Some(at(99)))] {
            let (mut found, mut after) = (Vec::new(), after);
            loop {
                let page = twin.decisions(&id("J1"), at(2), records[6].as_of, after, limit).await.unwrap();
                assert!(page.items.len() <= limit);
                found.extend(page.items);
                let Some(next) = page.next else { break };
                after = Some(Timestamp::parse(&next).unwrap());
            }
            assert_eq!(found, records[first..6], "limit {limit}, after {after:?}");
        }
    }
}

async fn a_decision_of_the_same_time_is_replaced(twin: &impl Stores) {
    twin.record(&[decision("J1", at(1), 1), decision("J1", at(2), 1), decision("J1", at(2), 2)]).await.unwrap();
    twin.record(&[decision("J1", at(1), 3)]).await.unwrap();
    twin.record(&[decision("J1", at(1), 3)]).await.unwrap();
    twin.record(&[]).await.unwrap();
    assert_eq!(everything(twin, "J1").await, [decision("J1", at(1), 3), decision("J1", at(2), 2)]);
}

async fn a_decision_is_read_as_it_was_written(twin: &impl Stores) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut record = decision("J1", at(1), 2);
    let costs =
        [0.0, 0.1 + 0.2, 1.0 / 3.0, f64::MIN_POSITIVE, f64::MAX, -0.0].into_iter().chain((0..1000).map(|_| rng.random::<f64>() * 100.0));
    record.candidates = costs
        .map(|cost| Candidate {
            stage: StageId::try_from("0").unwrap(),
            cost,
            change_in_s: None,
            limit: (cost > 50.0).then(|| "red_max".into()),
        })
        .collect();
    twin.record(std::slice::from_ref(&record)).await.unwrap();
    let read = everything(twin, "J1").await;
    for (read, written) in read[0].candidates.iter().zip(&record.candidates) {
        assert_eq!(read.cost.to_bits(), written.cost.to_bits(), "{} is read as {}", written.cost, read.cost);
    }
    assert_eq!(read, [record]);
}

async fn decisions_of_junctions_with_similar_ids_do_not_mix(twin: &impl Stores) {
    let ids = ["J", "J1", "J10", "J1#", "J1:0"];
    for id in ids {
        twin.record(&[decision(id, at(1), 1), decision(id, at(2), 1)]).await.unwrap();
    }
    for id in ids {
        assert_eq!(everything(twin, id).await, [decision(id, at(1), 1), decision(id, at(2), 1)]);
    }
}

async fn a_poison_record_is_kept_once_for_each_function(twin: &impl Cellar) {
    let poison = |n: u8, function| PoisonRecord {
        id: format!("shardId-000000000001:{n}"),
        key: "J1".into(),
        data: vec![b'{', b'0' + n],
        function,
        reason: "not a record".into(),
    };
    for record in [poison(1, "a"), poison(2, "a"), poison(1, "a"), poison(1, "b"), poison(1, "a")] {
        twin.quarantine(&record).await.unwrap();
    }
    let mut kept = twin.poison().await;
    kept.sort();
    let row = |n: u8, function| row_of(&format!("shardId-000000000001:{n}"), function, "J1", &[b'{', b'0' + n], "not a record");
    assert_eq!(kept, [row(1, "a"), row(1, "b"), row(2, "a")]);
}

fn record(key: &str, data: Vec<u8>) -> StreamRecord {
    StreamRecord { key: key.into(), data }
}

async fn each_record_of_an_append_is_answered_in_its_place(twin: &impl Stream) {
    assert_eq!(twin.append(&[]).await, Ok(vec![]));
    let records: Vec<_> = (0..20).map(|n| record(&format!("J{n}"), vec![n, 0, 255])).collect();
    assert_eq!(twin.append(&records).await, Ok(vec![Ok(()); 20]));
    for record in &records {
        assert_eq!(twin.records_of(&record.key).await, [record.data.as_slice()]);
    }
}

async fn appended_records_of_a_key_keep_their_order(twin: &impl Stream) {
    for n in 0..50 {
        twin.append(&[record("J1", vec![n]), record("J2", vec![n])]).await.unwrap();
        twin.append(&[record("J1", vec![n])]).await.unwrap();
    }
    assert_eq!(twin.records_of("J1").await, (0..50).flat_map(|n| [vec![n], vec![n]]).collect::<Vec<_>>());
    assert_eq!(twin.records_of("J2").await, (0..50).map(|n| vec![n]).collect::<Vec<_>>());
}

async fn an_append_takes_as_much_as_the_contract_says(twin: &impl Stream) {
    let many: Vec<_> = (0..500).map(|n| record(&format!("J{n}"), vec![1])).collect();
    assert_eq!(twin.append(&many).await, Ok(vec![Ok(()); 500]));
    let large = vec![record("K", vec![1; 1024 * 1024 - 1]); 5];
    assert_eq!(twin.append(&large).await, Ok(vec![Ok(()); 5]));
    assert_eq!(twin.records_of("K").await.len(), 5);
}

async fn a_record_that_is_too_large_is_refused_alone(twin: &impl Stream) {
    let records = [record("J1", vec![1]), record("J1", vec![2; 1024 * 1024]), record("J2", vec![3])];
    let answers = twin.append(&records).await.unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|error| !error.retry()), "{answers:?}");
    assert_eq!((twin.records_of("J1").await, twin.records_of("J2").await), (vec![vec![1]], vec![vec![3]]));
}

fn asset_id(text: &str) -> AssetId {
    AssetId::try_from(text).unwrap()
}

fn asset(id: &str, name: &str) -> Asset {
    Asset { name: name.into(), ..Asset::unregistered(asset_id(id), AssetKind::try_from(DETECTOR).unwrap()) }
}

/// A number that has no short decimal form.
fn third(n: i32) -> f64 {
    f64::from(n) / 3.0
}

fn health(id: &str) -> AssetHealth {
    AssetHealth {
        asset_id: asset_id(id),
        kind: AssetKind::try_from("vehicle_engine").unwrap(),
        as_of: at(5).plus_millis(1),
        state: HealthState::Alert,
        health_index: Some(62),
        remaining_useful_life: Some(RemainingUsefulLife {
            unit: "cycles".into(),
            p05: third(64),
            p50: third(100),
            p95: third(200),
            coverage_target: 0.9,
        }),
        reasons: vec![HealthReason { indicator: "s11".into(), contribution: -third(50), text: "Sensor s11 – too high.".into() }],
        fault: Some(Fault::EndOfLife),
        model: Some(ModelVersion { name: "vehicle_engine".into(), version: "0123".into() }),
    }
}

fn condition(key: &str, version: u64) -> ConditionRow {
    let n: i64 = version.try_into().unwrap();
    let condition = Condition { key: key.into(), as_of: at(n), received_at: at(n + 2).plus_millis(1), health: vec![health(key)] };
    ConditionRow { version, condition, state: vec![0, 255, version.try_into().unwrap()] }
}

fn alert(asset: &str, raised_at: Timestamp) -> Alert {
    let asset_id = asset_id(asset);
    Alert {
        id: Alert::id_of(&asset_id, Fault::Undercount, raised_at),
        asset_id,
        kind: AssetKind::try_from(DETECTOR).unwrap(),
        fault: Fault::Undercount,
        urgency: Urgency::NextVisit,
        raised_at,
        last_raised_at: raised_at.plus_millis(1),
        cleared_at: None,
        occurrences: 1,
        text: "It misses vehicles.".into(),
        evidence: [("ratio".to_owned(), third(1)), ("hours".to_owned(), 6.0)].into(),
        recommended_action: "Check its sensitivity.".into(),
    }
}

fn acknowledgement(by: &str, occurrence: u32) -> Acknowledgement {
    Acknowledgement { by: by.into(), note: Some("Wir wissen – schon.".into()), at: at(9).plus_millis(1), occurrence }
}

async fn a_new_store_knows_no_asset(twin: &impl Stores) {
    let unknown = alert("J1/n_0", at(0)).id;
    assert_eq!(twin.asset(&asset_id("J1/n_0")).await, Ok(None));
    assert_eq!(twin.assets(None, 1).await, Ok(Page { items: vec![], next: None }));
    assert_eq!(twin.load_condition("J1").await, Ok(None));
    assert_eq!(twin.condition("J1").await, Ok(None));
    assert_eq!(twin.conditions(Some("J0"), 1).await, Ok(Page { items: vec![], next: None }));
    assert_eq!(twin.alert(&unknown).await, Ok(None));
    assert_eq!(twin.alerts(None, 1).await, Ok(Page { items: vec![], next: None }));
    assert_eq!(twin.acknowledgements(&[unknown]).await, Ok([].into()));
}

async fn an_asset_is_written_only_over_the_expected_content(twin: &impl Stores) {
    let [first, second, third] = ["first", "second", "third"].map(|name| asset("J1/n_0", name));
    let stored = async || twin.asset(&asset_id("J1/n_0")).await.unwrap();

    assert_eq!(twin.put_asset(Some(&first.etag()), &first).await, Err(WriteError::Conflict));
    assert_eq!(stored().await, None);
    assert_eq!(twin.put_asset(None, &first).await, Ok(()));
    for expected in [None, Some(&second.etag()), Some(&third.etag())] {
        assert_eq!(twin.put_asset(expected, &second).await, Err(WriteError::Conflict), "{expected:?}");
    }
    assert_eq!(stored().await.as_ref(), Some(&first));
    assert_eq!(twin.put_asset(Some(&first.etag()), &second).await, Ok(()));
    assert_eq!(stored().await.as_ref(), Some(&second));
    assert_eq!(twin.put_asset(Some(&first.etag()), &third).await, Err(WriteError::Conflict));
    assert_eq!(twin.asset(&asset_id("J1")).await, Ok(None), "the intersection is not its detector");
}

async fn an_asset_is_read_as_it_was_written(twin: &impl Stores) {
    let written = Asset {
        location: Some(Location { lat: third(150), lon: -third(20) }),
        installed_at: Some(at(0).plus_millis(1)),
        ..asset("truck-17", "Wagen 17 – grün")
    };
    twin.put_asset(None, &written).await.unwrap();
    let read = twin.asset(&written.id).await.unwrap().unwrap();
    assert_eq!((read.etag(), &read), (written.etag(), &written));
    assert_eq!(twin.assets(None, 9).await, Ok(Page { items: vec![written], next: None }));
}

async fn a_condition_is_written_only_over_the_version_before_it(twin: &impl Stores) {
    for version in [0, 2] {
        assert_eq!(twin.save_condition(&condition("J1", version)).await, Err(WriteError::Conflict), "{version} over nothing");
    }
    assert_eq!(twin.load_condition("J1").await, Ok(None));
    twin.save_condition(&condition("J2", 1)).await.unwrap();
    for stored in 1..4 {
        assert_eq!(twin.save_condition(&condition("J1", stored)).await, Ok(()));
        for version in (0..6).filter(|version| *version != stored + 1) {
            assert_eq!(twin.save_condition(&condition("J1", version)).await, Err(WriteError::Conflict), "{version} over {stored}");
        }
        assert_eq!(twin.load_condition("J1").await, Ok(Some(condition("J1", stored))));
    }
    assert_eq!(twin.load_condition("J2").await, Ok(Some(condition("J2", 1))));
}

async fn a_condition_is_read_as_it_was_written(twin: &impl Stores) {
    let mut row = condition("J1", 1);
    let bare = AssetHealth {
        state: HealthState::Unknown,
        health_index: None,
        remaining_useful_life: None,
        reasons: vec![],
        fault: None,
        model: None,
        ..health("J1/n_1")
    };
    row.condition.health = vec![health("J1/n_0"), bare];
    twin.save_condition(&row).await.unwrap();
    assert_eq!(twin.load_condition("J1").await.unwrap().as_ref(), Some(&row));
    assert_eq!(twin.condition("J1").await.unwrap().as_ref(), Some(&row.condition));
    assert_eq!(twin.conditions(None, 9).await, Ok(Page { items: vec![row.condition], next: None }));
    assert_eq!(twin.condition("J").await, Ok(None));
    assert_eq!(twin.condition("J1/n_0").await, Ok(None), "the intersection is not its detector");
}

async fn of_writers_that_race_for_one_condition_exactly_one_wins(twin: &impl Stores) {
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (twin, row) = (twin.clone(), ConditionRow { state: vec![writer], ..condition("J1", 1) });
        writers.spawn(async move { twin.save_condition(&row).await.map(|()| row) });
    }
    let won: Vec<_> = writers.join_all().await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(won.len(), 1);
    assert_eq!(twin.load_condition("J1").await.unwrap().as_ref(), won.first());
}

async fn detectors_are_listed_with_their_intersection(twin: &impl Stores) {
    let sorted = ["J", "J1", "J1/a", "J1/a#", "J1/z", "J1#", "J1#/a", "J1-b/a", "J1.c", "J10", "j1/a"];
    for text in ["J1-b/a", "J1", "J10", "J1/z", "J1#", "J", "J1/a", "J1#/a", "J1/a#", "j1/a", "J1.c"] {
        twin.put_asset(None, &asset(text, "x")).await.unwrap();
        twin.save_condition(&condition(text, 1)).await.unwrap();
    }
    // What is not stored may be gone on from, too.
    for (start, after) in
        [(0, None), (0, Some("9")), (2, Some("J1")), (5, Some("J1/z")), (5, Some("J1/zz")), (7, Some("J1#/a")), (11, Some("zz"))]
    {
        for limit in (1..=sorted.len() + 1).chain([500]) {
            let assets = walk(after, limit, async |after, limit| twin.assets(after.map(asset_id).as_ref(), limit).await).await;
            assert_eq!(assets.iter().map(|asset| asset.id.as_str()).collect::<Vec<_>>(), sorted[start..], "after {after:?}, limit {limit}");
            let found = walk(after, limit, async |after, limit| twin.conditions(after, limit).await).await;
            assert_eq!(found.iter().map(|found| found.key.as_str()).collect::<Vec<_>>(), sorted[start..], "after {after:?}, limit {limit}");
        }
    }
}

async fn an_alert_of_the_same_id_is_replaced_by_its_next_change(twin: &impl Stores) {
    let open = alert("J1/n_0", at(1));
    let cleared = Alert { cleared_at: Some(at(60)), occurrences: 2, ..open.clone() };
    let other = alert("J1/n_1", at(1));
    twin.put_alerts(&[]).await.unwrap();
    twin.put_alerts(&[open.clone(), other.clone()]).await.unwrap();
    assert_eq!(twin.alert(&open.id).await, Ok(Some(open.clone())));
    for _ in 0..2 {
        twin.put_alerts(&[open.clone(), cleared.clone()]).await.unwrap();
        assert_eq!(twin.alert(&open.id).await, Ok(Some(cleared.clone())), "the last one of a call stays");
    }
    let raised = Alert { occurrences: 2, ..open.clone() };
    for late in [&open, &raised] {
        twin.put_alerts(std::slice::from_ref(late)).await.unwrap();
        assert_eq!(twin.alert(&open.id).await, Ok(Some(cleared.clone())), "who is late takes nothing back");
    }
    assert_eq!(twin.alert(&other.id).await, Ok(Some(other)));
    assert_eq!(twin.alerts(None, 9).await.unwrap().items.len(), 2);
}

async fn an_alert_is_read_as_it_was_written(twin: &impl Stores) {
    let written = Alert { cleared_at: Some(at(60).plus_millis(1)), ..alert("J1/n_0", at(1).plus_millis(1)) };
    twin.put_alerts(std::slice::from_ref(&written)).await.unwrap();
    assert_eq!(twin.alert(&written.id).await.unwrap().as_ref(), Some(&written));
    assert_eq!(twin.alerts(None, 1).await, Ok(Page { items: vec![written], next: None }));
}

async fn alerts_read_page_by_page_are_all_oldest_first(twin: &impl Stores) {
    let mut alerts: Vec<_> = (0..60).map(|n| alert(&format!("J{}/n_{n}", n % 7), at(n / 2).plus_millis(n % 2))).collect();
    alerts.sort_by(|a, b| a.id.cmp(&b.id));
    let shuffled: Vec<_> = (0..60).map(|n| alerts[n * 37 % 60].clone()).collect();
    twin.put_alerts(&shuffled).await.unwrap();
    for limit in [1, 7, 59, 60, 61, 500] {
        for (start, after) in [(0, None), (0, Some("2000")), (31, Some(alerts[30].id.as_str())), (60, Some(alerts[59].id.as_str()))] {
            let found = walk(after, limit, async |after, limit| twin.alerts(after, limit).await).await;
            assert_eq!(found, alerts[start..], "after {after:?}, limit {limit}");
            assert!(found.is_sorted_by_key(|alert| alert.raised_at));
        }
    }
}

async fn the_first_acknowledgement_of_the_latest_occurrence_stays(twin: &impl Stores) {
    let id = alert("J1/n_0", at(0)).id;
    for (said, stays) in [
        (acknowledgement("Ada", 2), acknowledgement("Ada", 2)),
        (acknowledgement("Bo", 2), acknowledgement("Ada", 2)),
        (acknowledgement("Bo", 1), acknowledgement("Ada", 2)),
        (Acknowledgement { note: None, ..acknowledgement("Bo", 3) }, Acknowledgement { note: None, ..acknowledgement("Bo", 3) }),
    ] {
        assert_eq!(twin.acknowledge(&id, &said).await.as_ref(), Ok(&stays));
        assert_eq!(twin.acknowledgements(std::slice::from_ref(&id)).await, Ok([(id.clone(), stays)].into()));
    }
}

async fn acknowledgements_are_found_by_their_alerts(twin: &impl Stores) {
    let ids: Vec<AlertId> = (0..500).map(|n| alert("J1/n_0", at(n)).id).collect();
    for id in ids.iter().step_by(5) {
        twin.acknowledge(id, &acknowledgement(id.as_str(), 1)).await.unwrap();
    }
    let found = twin.acknowledgements(&ids).await.unwrap();
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|(id, known)| known.by == id.as_str()));
    assert_eq!(twin.acknowledgements(&[]).await, Ok([].into()));
    let twice = [ids[0].clone(), ids[0].clone(), ids[1].clone()];
    assert_eq!(twin.acknowledgements(&twice).await.unwrap().len(), 1);
}
