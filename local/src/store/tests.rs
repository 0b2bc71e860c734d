//! What the store promises: the ports' contract, and what is still there after a restart.

use std::collections::BTreeMap;

use serde_json::json;
use shared::alert::{Acknowledgement, Alert, Urgency};
use shared::asset::{Asset, Fault};
use shared::ids::{AssetId, AssetKind, IntersectionId};
use shared::intersection::Intersection;
use shared::memory::ManualClock;
use shared::plan::{DecisionRecord, PlanSource, PublishedPlan, Reason};
use shared::ports::{
    AcknowledgementStore, AlertReader, AlertStore, AssetStore, DecisionLog, IntersectionStore, JunctionRow, JunctionStore, Page,
    PlanReader, PoisonRecord, PortError, Quarantine, QuarantineReview, ReadingStream, StreamRecord, WriteError,
};
use shared::quarantine::Kind;
use shared::units::Timestamp;

use super::rows::INTERSECTIONS;
use super::*;
use crate::mapping::{Condition, Discarded, Room, Settlement};
use crate::stream::{Record, Sequence, shard_of};

const ROOM: Room = Room { records: 10_000, bytes: usize::MAX };

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + ms)
}

fn id(text: &str) -> IntersectionId {
    IntersectionId::try_from(text).unwrap()
}

fn memory() -> (Store, ManualClock) {
    let clock = ManualClock::at(at(0));
    (Store::in_memory(4, clock.clone()).unwrap(), clock)
}

fn on_disk(directory: &Path) -> Store {
    Store::open(directory, 4, ManualClock::at(at(0))).unwrap()
}

fn reading(key: &str, data: &str) -> StreamRecord {
    StreamRecord { key: key.into(), data: data.into() }
}

fn stream(store: &Store, shard: u16) -> Vec<Record> {
    store.records_after(shard, Sequence::START, ROOM).unwrap()
}

fn intersection(name: &str) -> Intersection {
    Intersection::try_from(json!({
        "id": "J1", "name": name, "location": null,
        "lanes": [{"id": "n_0", "length_m": 180.0, "speed_limit_kmh": 50.0, "detector_id": "n_0"},
                  {"id": "e_0", "length_m": 180.0, "speed_limit_kmh": 50.0, "detector_id": "e_0"}],
        "exits": [{"id": "s_out", "length_m": 240.0, "detector_id": null, "to_intersection": null},
                  {"id": "w_out", "length_m": 240.0, "detector_id": null, "to_intersection": null}],
        "movements": [{"id": "m0", "from_lane": "n_0", "to_exit": "s_out", "turn": "through"},
                      {"id": "m1", "from_lane": "e_0", "to_exit": "w_out", "turn": "through"}],
        "stages": [{"id": "0", "protected": ["m0"], "permitted": []}, {"id": "1", "protected": ["m1"], "permitted": []}],
        "conflicts": [["m0", "m1"]],
        "timing": {"green_min_s": 5, "green_max_s": 50, "yellow_change_s": 3, "red_clearance_s": 1, "red_max_s": 120},
        "time_of_day_plan": {"offset_s": 0, "stages": [{"stage": "0", "green_s": 31}, {"stage": "1", "green_s": 20}]},
        "control": {"mode": "adaptive", "step_s": 5, "plan_ttl_s": 30}
    }))
    .unwrap()
}

fn plan(intersection: &str, revision: u64) -> PublishedPlan {
    PublishedPlan {
        intersection_id: id(intersection),
        revision,
        as_of: at(0),
        valid_until: at(30_000),
        source: PlanSource::Adaptive,
        stages: Vec::new(),
        reason: Reason { code: "queue_pressure".into(), text: "queues".into() },
    }
}

fn row(intersection: &str, version: u64) -> JunctionRow {
    JunctionRow { version, plan: plan(intersection, version), state: vec![1, 2, 3] }
}

fn decision(intersection: &str, as_of: Timestamp, revision: u64) -> DecisionRecord {
    DecisionRecord {
        intersection_id: id(intersection),
        as_of,
        revision,
        configuration: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        reason: Reason { code: "queue_pressure".into(), text: String::new() },
        inputs: json!({"m0": 0.5}),
        candidates: Vec::new(),
        limits: Vec::new(),
        distrusted: Vec::new(),
        previous: None,
        next: plan(intersection, revision),
    }
}

#[tokio::test]
async fn records_of_a_key_stay_in_one_shard_in_order_and_numbers_are_never_used_twice() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = on_disk(directory.path());
        for n in 0..3 {
            let answers = store.append(&[reading("J1", &format!("{n}")), reading("J2", "x")]).await.unwrap();
            assert_eq!(answers, [Ok(()), Ok(())]);
        }
    }
    let store = on_disk(directory.path());
    store.append(&[reading("J1", "3")]).await.unwrap();
    let records: Vec<_> = stream(&store, shard_of("J1", 4)).into_iter().filter(|r| r.key == "J1").collect();
    assert_eq!(records.iter().map(|r| r.data.as_slice()).collect::<Vec<_>>(), [b"0", b"1", b"2", b"3"]);
    assert!(records.is_sorted_by(|a, b| a.sequence < b.sequence));
    assert_eq!(store.end_of(shard_of("J1", 4)).unwrap().borrow().last, records[3].sequence);
}

#[tokio::test]
async fn a_record_that_kinesis_would_refuse_is_refused_alone_and_a_call_that_is_too_large_as_a_whole() {
    let (store, _) = memory();
    let large = StreamRecord { key: "J1".into(), data: vec![0; 1024 * 1024] };
    let answers = store.append(&[reading("", "x"), reading("J1", "y"), large.clone(), reading(&"k".repeat(257), "z")]).await.unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false, false]);
    assert!(answers.iter().flat_map(Result::as_ref).count() == 1 && answers.iter().filter_map(|a| a.as_ref().err()).all(|e| !e.retry()));
    assert!(store.append(&vec![reading("J1", ""); 501]).await.is_err());
    assert!(store.append(&vec![large; 6]).await.is_err());
    assert_eq!((0..4).map(|shard| stream(&store, shard).len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_read_begins_after_its_place_and_ends_where_there_is_no_more_room() {
    let (store, _) = memory();
    let shard = shard_of("J1", 4);
    store.append(&vec![reading("J1", "12345678"); 10]).await.unwrap();
    let numbers = |after, records, bytes| {
        let records = store.records_after(shard, Sequence::new(after), Room { records, bytes }).unwrap();
        records.iter().map(|r| r.sequence.get()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(7, 100, 1000), [8, 9, 10]);
    assert_eq!(numbers(0, 2, 1000), [1, 2]);
    assert_eq!(numbers(0, 100, 20), [1, 2, 3], "one more than fits, so that a read always gets on");
}

#[tokio::test]
async fn a_record_is_trimmed_once_it_is_a_day_old_and_every_mapping_has_settled_it() {
    let (store, clock) = memory();
    let shard = shard_of("J1", 4);
    let settle = |mapping: &'static str, upto: u64| {
        let settlement = Settlement { checkpoints: vec![Sequence::new(upto), Sequence::new(upto + 1)], discarded: Vec::new() };
        let store = store.clone();
        async move { store.settle(mapping, shard, &settlement).await.unwrap() }
    };
    store.register_mapping("signals").await.unwrap();
    store.register_mapping("maintenance").await.unwrap();
    store.append(&vec![reading("J1", "x"); 5]).await.unwrap();
    settle("signals", 5).await;
    clock.set(at(24 * 3_600_000 + 1));
    store.append(&[reading("J1", "y")]).await.unwrap();
    assert_eq!(stream(&store, shard).len(), 6, "maintenance has not settled");
    settle("maintenance", 3).await;
    store.append(&[reading("J1", "y")]).await.unwrap();
    assert_eq!(stream(&store, shard).iter().map(|r| r.sequence.get()).collect::<Vec<_>>(), [4, 5, 6, 7]);
    settle("maintenance", 7).await;
    settle("signals", 7).await;
    store.append(&[reading("J1", "y")]).await.unwrap();
    assert_eq!(stream(&store, shard).iter().map(|r| r.sequence.get()).collect::<Vec<_>>(), [6, 7, 8], "younger than a day");
}

#[tokio::test]
async fn one_append_trims_no_more_than_its_share() {
    let (store, clock) = memory();
    for _ in 0..4 {
        store.append(&vec![reading("J1", "x"); 100]).await.unwrap();
    }
    clock.set(at(25 * 3_600_000));
    store.append(&[reading("J1", "y")]).await.unwrap();
    assert_eq!(stream(&store, shard_of("J1", 4)).len(), 401 - 10);
}

#[tokio::test]
async fn configuration_is_written_only_over_the_expected_tag() {
    let (store, _) = memory();
    let (old, new) = (intersection("old"), intersection("new"));
    let (tag_old, tag_new) = (old.etag(), new.etag());
    assert_eq!(store.put(Some(&tag_old), &old).await, Err(WriteError::Conflict));
    store.put(None, &old).await.unwrap();
    assert_eq!(store.put(None, &new).await, Err(WriteError::Conflict));
    assert_eq!(store.put(Some(&tag_new), &new).await, Err(WriteError::Conflict));
    assert_eq!(store.get(&id("J1")).await.unwrap().unwrap().1.document()["name"], "old");
    store.put(Some(&tag_old), &new).await.unwrap();
    let (tag, stored) = store.get(&id("J1")).await.unwrap().unwrap();
    assert_eq!((tag, stored.document()), (tag_new, new.document()));
    assert_eq!(store.list(None, 10).await.unwrap().items.len(), 1);
    assert_eq!(store.delete(&id("J1"), &tag_old).await, Err(WriteError::Conflict));
    store.delete(&id("J1"), &tag_new).await.unwrap();
    assert_eq!(store.get(&id("J1")).await.unwrap(), None);
    assert_eq!(store.delete(&id("J1"), &tag_new).await, Err(WriteError::Conflict));
}

#[tokio::test]
async fn a_configuration_that_this_version_refuses_hides_no_other_and_is_replaced_or_removed_by_its_tag() {
    let (store, _) = memory();
    let (old, new) = (intersection("old"), intersection("new"));
    let refuse = async || {
        let tag = old.etag().to_string();
        let work = move |transaction: &redb::WriteTransaction| {
            transaction.open_table(INTERSECTIONS)?.insert("J1", (tag.as_str(), br#"{"id": "J1"}"#.as_slice()))?;
            Ok(())
        };
        store.write(Durability::Disk, work, |()| ()).await.unwrap();
    };
    let mut other = new.document().clone();
    other["id"] = json!("J2");
    store.put(None, &Intersection::try_from(other).unwrap()).await.unwrap();

    refuse().await;
    assert!(matches!(store.get(&id("J1")).await, Err(PortError::Outdated(..))));
    assert_eq!(store.tag(&id("J1")).await, Ok(Some(old.etag())));
    assert_eq!(store.list(None, 10).await.unwrap().items.len(), 1);
    assert_eq!(store.ids("", None, 10).await.unwrap().items, [id("J1"), id("J2")]);
    store.put(Some(&old.etag()), &new).await.unwrap();
    assert_eq!(store.get(&id("J1")).await.unwrap().unwrap().1.document(), new.document());

    refuse().await;
    store.delete(&id("J1"), &old.etag()).await.unwrap();
    assert_eq!(store.tag(&id("J1")).await, Ok(None));
}

#[tokio::test]
async fn a_row_is_written_only_over_the_version_before_it() {
    let (store, _) = memory();
    assert_eq!(store.save(&row("J1", 2)).await, Err(WriteError::Conflict));
    store.save(&row("J1", 1)).await.unwrap();
    assert_eq!(store.save(&row("J1", 1)).await, Err(WriteError::Conflict));
    store.save(&row("J1", 2)).await.unwrap();
    assert_eq!(store.load(&id("J1")).await.unwrap(), Some(row("J1", 2)));
    assert_eq!(store.plan(&id("J1")).await.unwrap(), Some(plan("J1", 2)));
    assert_eq!(store.load(&id("J2")).await.unwrap(), None);
}

#[tokio::test]
async fn of_writers_that_race_for_one_version_exactly_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = on_disk(directory.path());
    for version in 1..=20 {
        let mut racers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = store.clone();
            racers.spawn(async move { store.save(&row("J1", version)).await });
        }
        let won = racers.join_all().await.into_iter().flatten().count();
        assert_eq!(won, 1);
    }
}

#[tokio::test]
async fn lists_page_by_prefix_without_gap_or_repetition() {
    let (store, _) = memory();
    for name in ["A1", "B1", "B2", "B3", "C1"] {
        store.save(&row(name, 1)).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.plans("B", after.as_deref(), 2).await.unwrap();
        seen.extend(page.items.into_iter().map(|p| p.intersection_id.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["B1", "B2", "B3"]);
    assert_eq!(store.plans("B", Some("A"), 3).await.unwrap().next, None);
    assert_eq!(store.plans("", Some("B3"), 3).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn decisions_of_a_span_come_oldest_first_and_the_same_time_is_replaced() {
    let (store, _) = memory();
    let records: Vec<_> = (0..5).map(|n| decision("J1", at(n * 5_000), 1)).collect();
    store.record(&records).await.unwrap();
    store.record(&[decision("J1", at(5_000), 9), decision("J2", at(5_000), 1)]).await.unwrap();
    let page = store.decisions(&id("J1"), at(5_000), at(20_000), None, 2).await.unwrap();
    assert_eq!(page.items.iter().map(|d| (d.as_of, d.revision)).collect::<Vec<_>>(), [(at(5_000), 9), (at(10_000), 1)]);
    let after = Timestamp::parse(&page.next.unwrap()).unwrap();
    let rest = store.decisions(&id("J1"), at(5_000), at(20_000), Some(after), 2).await.unwrap();
    assert_eq!((rest.items.iter().map(|d| d.as_of).collect::<Vec<_>>(), rest.next), (vec![at(15_000)], None));
    assert!(store.decisions(&id("J1"), at(9_000), at(5_000), None, 2).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_junction_keeps_its_newest_decisions_up_to_the_bound() {
    let (store, _) = memory();
    let most = i64::try_from(logs::DECISIONS_PER_JUNCTION_MAX).unwrap();
    for start in (0..most + 10).step_by(1000) {
        let end = (start + 1000).min(most + 10);
        store.record(&(start..end).map(|n| decision("J1", at(n), 1)).collect::<Vec<_>>()).await.unwrap();
    }
    let first = store.decisions(&id("J1"), at(0), at(most * 2), None, 1).await.unwrap();
    assert_eq!(first.items[0].as_of, at(10));
    store.record(&[decision("J1", at(most), 2)]).await.unwrap();
    assert_eq!(
        store.decisions(&id("J1"), at(0), at(most * 2), None, 1).await.unwrap().items[0].as_of,
        at(10),
        "a replaced one counts once"
    );
}

fn asset() -> Asset {
    Asset::unregistered(AssetId::try_from("J1/n_0").unwrap(), AssetKind::try_from("detector").unwrap())
}

fn alert(raised_at: Timestamp) -> Alert {
    let Asset { id: asset_id, kind, .. } = asset();
    Alert {
        id: Alert::id_of(&asset_id, Fault::NoData, raised_at),
        asset_id,
        kind,
        fault: Fault::NoData,
        urgency: Urgency::NextVisit,
        raised_at,
        last_raised_at: raised_at,
        cleared_at: None,
        occurrences: 1,
        text: String::new(),
        evidence: BTreeMap::new(),
        recommended_action: String::new(),
    }
}

fn known() -> Acknowledgement {
    Acknowledgement { by: "Ada".into(), note: None, at: at(0), occurrence: 1 }
}

#[tokio::test]
async fn the_newest_alerts_are_kept_up_to_the_bound_with_their_acknowledgements() {
    let (store, _) = memory();
    let most = i64::try_from(alerts::ALERTS_MAX).unwrap();
    let alerts: Vec<_> = (0..most + 10).map(|n| alert(at(n))).collect();
    let (dropped, kept) = (&alerts[9].id, &alerts[10].id);
    for id in [dropped, kept] {
        store.acknowledge(id, &known()).await.unwrap();
    }
    for chunk in alerts.chunks(20_000) {
        store.put_alerts(chunk).await.unwrap();
    }
    store.put_alerts(alerts.last_chunk::<10>().unwrap()).await.unwrap();
    assert_eq!(store.alerts(None, 1).await.unwrap().items, [alerts[10].clone()], "a replaced one counts once");
    let found = store.acknowledgements(&[dropped.clone(), kept.clone()]).await.unwrap();
    assert_eq!(found, [(kept.clone(), known())].into());
}

#[tokio::test]
async fn what_people_said_of_assets_is_on_disk_when_it_is_answered() {
    let (live, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = on_disk(live.path());
    store.put_asset(None, &asset()).await.unwrap();
    std::fs::copy(live.path().join(FILE_NAME), crashed.path().join(FILE_NAME)).unwrap();
    assert_eq!(on_disk(crashed.path()).asset(&asset().id).await, Ok(Some(asset())));
    let id = alert(at(0)).id;
    store.acknowledge(&id, &known()).await.unwrap();
    std::fs::copy(live.path().join(FILE_NAME), crashed.path().join(FILE_NAME)).unwrap();
    assert_eq!(on_disk(crashed.path()).acknowledgements(std::slice::from_ref(&id)).await, Ok([(id, known())].into()));
}

#[tokio::test]
async fn a_file_from_before_assets_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    on_disk(directory.path()).save(&row("J1", 1)).await.unwrap();
    let database = Database::open(directory.path().join(FILE_NAME)).unwrap();
    let transaction = database.begin_write().unwrap();
    for table in ["assets", "conditions", "alerts", "acknowledgements"] {
        let table = transaction.list_tables().unwrap().find(|known| redb::TableHandle::name(known) == table).unwrap();
        assert!(transaction.delete_table(table).unwrap());
    }
    transaction.commit().unwrap();
    drop(database);
    let store = on_disk(directory.path());
    assert_eq!(store.load(&id("J1")).await, Ok(Some(row("J1", 1))));
    assert_eq!(store.put_asset(None, &asset()).await, Ok(()));
}

#[tokio::test]
async fn a_poison_record_is_kept_once_with_its_bytes() {
    let (store, _) = memory();
    let poison = PoisonRecord {
        id: "shardId-0:1".into(),
        key: "J1".into(),
        data: vec![0xff, 0],
        function: "signal-adjustment",
        reason: "not JSON".into(),
    };
    store.quarantine(&poison).await.unwrap();
    store.quarantine(&poison).await.unwrap();
    let kept = store.quarantined(None, 10).unwrap().items;
    assert_eq!((kept.len(), &kept[0].data, kept[0].function.as_str()), (1, &poison.data, "signal-adjustment"));
}

#[tokio::test]
async fn the_time_of_the_first_copy_stays() {
    let (store, clock) = memory();
    let poison =
        PoisonRecord { id: "shardId-0:1".into(), key: "J1".into(), data: vec![1], function: "signal-adjustment", reason: "no".into() };
    let put_aside = clock.now();
    store.quarantine(&poison).await.unwrap();
    clock.set(put_aside.plus_millis(60_000));
    store.quarantine(&poison).await.unwrap();
    assert_eq!(store.quarantined(None, 10).unwrap().items[0].at, Some(put_aside));
}

#[tokio::test]
async fn poison_from_before_its_time_was_kept_and_rows_that_are_damaged_are_listed() {
    #[derive(serde::Serialize)]
    struct Before<'a>(&'a str, &'a str, &'a [u8], &'a str, &'a str);
    let directory = tempfile::tempdir().unwrap();
    drop(on_disk(directory.path()));
    let database = Database::open(directory.path().join(FILE_NAME)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(logs::QUARANTINE).unwrap();
        let before = postcard::to_stdvec(&Before("shardId-0:1", "J1", b"x", "signal-adjustment", "no")).unwrap();
        table.insert("signal-adjustment:shardId-0:1", before.as_slice()).unwrap();
        table.insert("signal-adjustment:shardId-0:2", [0xff_u8; 3].as_slice()).unwrap();
        transaction.open_table(logs::FAILED).unwrap().insert("signals:shardId-0:1", [0xff_u8; 3].as_slice()).unwrap();
        transaction.open_table(review::REPLAYED).unwrap().insert("0:x", b"{".as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let store = on_disk(directory.path());
    let batches = store.entries(None, 10).await.unwrap();
    let poison = store.entries(batches.next.as_deref(), 10).await.unwrap();
    let seen: Vec<_> = batches.items.iter().chain(&poison.items).map(|entry| (entry.kind, entry.at, entry.records.len())).collect();
    assert_eq!(seen, [(Kind::Unreadable, None, 0), (Kind::Poison, None, 1), (Kind::Unreadable, None, 0)]);
    assert_eq!((poison.items[0].records[0].sequence.as_str(), poison.items[0].reason.as_str()), ("1", "no"));
    assert!(poison.items[1].reason.contains("cannot be decoded"), "{}", poison.items[1].reason);
    assert_eq!(store.replays(None, 10).await, Ok(Page { items: Vec::new(), next: None }));
    store.discard(&poison.items[1].id).await.unwrap();
    assert_eq!(store.entry(&poison.items[1].id).await, Ok(None));
}

#[tokio::test]
async fn what_was_given_up_is_stored_with_the_checkpoint_that_passes_it() {
    let directory = tempfile::tempdir().unwrap();
    let record = Record { sequence: Sequence::new(1), key: "J1".into(), data: b"x".to_vec(), arrived_at: at(0) };
    {
        let store = on_disk(directory.path());
        let discarded = Discarded { condition: Condition::RetryAttemptsExhausted, invocations: 4, records: vec![Arc::new(record.clone())] };
        let settlement = Settlement { checkpoints: vec![Sequence::new(1)], discarded: vec![discarded] };
        store.settle("signals", 2, &settlement).await.unwrap();
        store.settle("signals", 2, &settlement).await.unwrap();
    }
    let store = on_disk(directory.path());
    assert_eq!(store.checkpoints("signals", 2).unwrap(), [Sequence::new(1)]);
    let failed = store.failed_batches(None, 10).unwrap().items;
    assert_eq!(failed.len(), 1);
    assert_eq!((&failed[0].records, failed[0].invocations, failed[0].shard.as_str()), (&vec![record], 4, "shardId-000000000002"));
}

fn given_up(number: u64) -> Settlement {
    let record = Record { sequence: Sequence::new(number), key: "J1".into(), data: b"x".to_vec(), arrived_at: at(0) };
    let discarded = Discarded { condition: Condition::RetryAttemptsExhausted, invocations: 1, records: vec![Arc::new(record)] };
    Settlement { checkpoints: vec![Sequence::new(number)], discarded: vec![discarded] }
}

#[tokio::test]
async fn failed_batches_that_are_full_take_no_other_and_let_no_checkpoint_pass() {
    let (store, _) = memory();
    store.bound_logs(0, 1);
    store.settle("signals", 0, &given_up(1)).await.unwrap();
    store.settle("signals", 0, &given_up(1)).await.unwrap();
    let refused = store.settle("signals", 0, &given_up(2)).await.unwrap_err();
    assert!(refused.retry() && refused.to_string().contains("is full"), "{refused}");
    assert_eq!((store.checkpoints("signals", 0).unwrap(), store.failed_batches(None, 9).unwrap().items.len()), (vec![Sequence::new(1)], 1));
    store.settle("signals", 0, &Settlement { checkpoints: vec![Sequence::new(1)], discarded: vec![] }).await.unwrap();
    store.bound_logs(0, 2);
    store.settle("signals", 0, &given_up(2)).await.unwrap();
    assert_eq!(store.checkpoints("signals", 0).unwrap(), [Sequence::new(2)]);
}

#[tokio::test]
async fn a_full_quarantine_keeps_what_it_has_and_refuses_the_next() {
    let (store, _) = memory();
    store.bound_logs(1, 0);
    let poison = |id: &str| PoisonRecord { id: id.into(), key: "J1".into(), data: vec![1], function: "f", reason: "no JSON".into() };
    store.quarantine(&poison("1")).await.unwrap();
    store.quarantine(&poison("1")).await.unwrap();
    let refused = store.quarantine(&poison("0")).await.unwrap_err();
    assert!(refused.retry() && refused.to_string().contains("is full"), "{refused}");
    let kept = store.quarantined(None, 9).unwrap().items;
    assert_eq!(kept.iter().map(|poison| poison.id.as_str()).collect::<Vec<_>>(), ["1"]);
}

/// A crash keeps what the file held at that moment: a copy of it, opened elsewhere.
#[tokio::test]
async fn after_a_crash_everything_durable_is_there_and_no_checkpoint_without_its_state() {
    let (live, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = on_disk(live.path());
    for version in 1..=200_u64 {
        store.append(&[reading("J1", &version.to_string())]).await.unwrap();
        store.save(&row("J1", version)).await.unwrap();
        let settlement = Settlement { checkpoints: vec![Sequence::new(version)], discarded: Vec::new() };
        store.settle("signals", shard_of("J1", 4), &settlement).await.unwrap();
        if version % 10 != 0 {
            continue;
        }
        std::fs::copy(live.path().join(FILE_NAME), crashed.path().join(FILE_NAME)).unwrap();
        let after = on_disk(crashed.path());
        let records = stream(&after, shard_of("J1", 4)).len() as u64;
        let state = after.load(&id("J1")).await.unwrap().map_or(0, |row| row.version);
        let checkpoint = after.checkpoints("signals", shard_of("J1", 4)).unwrap().first().map_or(0, |s| s.get());
        assert_eq!(records, version, "an answered append is on disk");
        assert!(checkpoint <= state && state <= version, "checkpoint {checkpoint}, state {state}, version {version}");
        assert!(state + 1 >= version, "what rides is on disk with the next append");
    }
}

#[tokio::test]
async fn what_rides_is_on_disk_soon_after_the_last_write() {
    let (live, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = on_disk(live.path());
    store.save(&row("J1", 1)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    std::fs::copy(live.path().join(FILE_NAME), crashed.path().join(FILE_NAME)).unwrap();
    assert_eq!(on_disk(crashed.path()).load(&id("J1")).await.unwrap(), Some(row("J1", 1)));
}

#[test]
fn a_directory_in_use_is_refused_with_a_text_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let _store = on_disk(directory.path());
    let error = Store::open(directory.path(), 4, ManualClock::default()).err().unwrap();
    assert!(matches!(error, OpenError::InUse(_)) && error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_file_of_another_format_version_or_no_database_at_all_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(on_disk(directory.path()));
    let database = Database::open(directory.path().join(FILE_NAME)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format_version", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(Store::open(directory.path(), 4, ManualClock::default()), Err(OpenError::Format { found: 99, .. })));
    std::fs::write(directory.path().join(FILE_NAME), "not a database at all").unwrap();
    assert!(matches!(Store::open(directory.path(), 4, ManualClock::default()), Err(OpenError::Unusable(..))));
}

#[test]
fn an_existing_store_keeps_its_number_of_shards() {
    let directory = tempfile::tempdir().unwrap();
    drop(on_disk(directory.path()));
    assert_eq!(Store::open(directory.path(), 9, ManualClock::default()).unwrap().shards(), [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_share_commits_and_each_key_keeps_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = on_disk(directory.path());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..25 {
                store.append(&[reading(&format!("J{writer}"), &format!("{n:02}"))]).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let mut by_key: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for record in (0..4).flat_map(|shard| stream(&store, shard)) {
        by_key.entry(record.key).or_default().push(record.data);
    }
    assert!(by_key.len() == 16 && by_key.values().all(|data| data.len() == 25 && data.is_sorted()));
}
