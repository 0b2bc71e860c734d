//! Reading plans.

use proptest::prelude::*;
use serde_json::Value;
use shared::ids::{IntersectionId, StageId};
use shared::intersection::Intersection;
use shared::memory::Memory;
use shared::plan::{PlanSource, PlanStage, PublishedPlan, Reason};
use shared::ports::{IntersectionStore, JunctionRow, JunctionStore};
use shared::units::{Deciseconds, Timestamp};

use crate::client::{Client, over};

const PATH: &str = "/v1/intersections/J1/plan";

pub(crate) fn plan_of(id: &str, as_of: Timestamp) -> PublishedPlan {
    PublishedPlan {
        intersection_id: IntersectionId::try_from(id).unwrap(),
        revision: 1,
        as_of,
        valid_until: as_of + Deciseconds::from_secs(30),
        source: PlanSource::Adaptive,
        stages: vec![PlanStage { stage: StageId::try_from("0").unwrap(), start: as_of, green_s: Deciseconds::from_secs(12) }],
        reason: Reason { code: "hold".into(), text: "4.0 vehicles still approach stage 0.".into() },
    }
}

async fn publish(memory: &Memory, id: &str, version: u64) {
    let as_of = Timestamp::from_millis(i64::try_from(version).unwrap() * 5_000);
    memory.save(&JunctionRow { version, plan: plan_of(id, as_of), state: Vec::new() }).await.unwrap();
}

async fn configure(memory: &Memory, junction: &Value, id: &str) {
    let mut junction = junction.clone();
    junction["id"] = id.into();
    memory.put(None, &Intersection::try_from(junction).unwrap()).await.unwrap();
}

/// All ids of `/v1/plans`, page by page; checks that no page is over the limit.
async fn all_ids(api: &Client, prefix: &str, limit: usize) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/plans?prefix={prefix}&limit={limit}&cursor={cursor}")).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        ids.extend(items.iter().map(|plan| plan["intersection_id"].as_str().unwrap().to_owned()));
        match &page["next_cursor"] {
            Value::String(next) => cursor.clone_from(next),
            _ => return ids,
        }
    }
}

#[tokio::test]
async fn a_missing_plan_says_whether_configuration_or_readings_are_missing() {
    let memory = Memory::new();
    let api = over(&memory).await;
    publish(&memory, "J1", 1).await;
    configure(&memory, &api.junction(), "J10").await;
    let answer = api.get(PATH).await;
    assert_eq!(answer.problem(), (404, "not_found".into()));
    assert!(answer.text.contains("is not configured"), "{}", answer.text);

    let answer = api.get("/v1/intersections/J10/plan").await;
    assert_eq!(answer.problem(), (404, "not_found".into()));
    assert!(answer.text.contains("has no plan yet"), "{}", answer.text);
}

#[tokio::test]
async fn a_plan_has_the_shape_of_the_description_and_a_tag_over_all_of_it() {
    let memory = Memory::new();
    let api = over(&memory).await;
    configure(&memory, &api.junction(), "J1").await;
    publish(&memory, "J1", 1).await;
    let first = api.get(PATH).await;
    let example = &api.description()["components"]["examples"]["Plan"]["value"];
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&first.json()), fields(example));
    assert_eq!(fields(&first.json()["stages"][0]), fields(&example["stages"][0]));

    let known = [("if-none-match", first.header("etag"))];
    let again = api.send("GET", PATH, &known, "").await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));
    publish(&memory, "J1", 2).await;
    let newer = api.send("GET", PATH, &known, "").await;
    assert_eq!(newer.status, 200, "the same revision with a newer as_of is another plan");
    assert_ne!(newer.header("etag"), first.header("etag"));
}

#[tokio::test]
async fn the_plan_of_a_deleted_intersection_is_not_shown() {
    let memory = Memory::new();
    let api = over(&memory).await;
    for id in ["J1", "J2", "J3"] {
        configure(&memory, &api.junction(), id).await;
        publish(&memory, id, 1).await;
    }
    assert_eq!(all_ids(&api, "", 2).await, ["J1", "J2", "J3"]);
    assert_eq!(api.send("DELETE", "/v1/intersections/J2", &[], "").await.status, 204);
    assert_eq!(all_ids(&api, "", 2).await, ["J1", "J3"]);
    assert_eq!(api.get("/v1/intersections/J2/plan").await.status, 404);
    let page = api.get("/v1/plans?limit=2").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 2, "the page is filled up");
    assert!(page["next_cursor"].is_null());
}

#[tokio::test]
async fn many_plans_of_deleted_intersections_cost_short_pages_but_no_plan() {
    let memory = Memory::new();
    let api = over(&memory).await;
    for number in 0..6_000 {
        publish(&memory, &format!("J{number:04}"), 1).await;
    }
    configure(&memory, &api.junction(), "J5999").await;
    let page = api.get("/v1/plans?limit=1").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 0, "reads for one page are bounded");
    assert_eq!(all_ids(&api, "", 1).await, ["J5999"]);
}

#[tokio::test]
async fn a_prefix_that_no_id_begins_with_is_refused() {
    let api = over(&Memory::new()).await;
    let long = "x".repeat(129);
    for prefix in ["%20", ".", "%23a", "J%00", "%FF", long.as_str()] {
        let answer = api.get(&format!("/v1/plans?prefix={prefix}")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".into()), "{prefix}");
        assert!(answer.text.contains("prefix"), "{}", answer.text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn paging_shows_each_configured_plan_of_the_prefix_once_and_in_order(
        configured in proptest::collection::btree_set("[AB][0-9#]{1,2}", 0..30),
        planned in proptest::collection::btree_set("[AB][0-9#]{1,2}", 0..30),
        both in proptest::collection::btree_set("[AB][0-9#]{1,2}", 0..30),
        prefix in "(|A|B|B1)",
        limit in 1_usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let memory = Memory::new();
            let api = over(&memory).await;
            let junction = api.junction();
            for id in configured.union(&both) {
                configure(&memory, &junction, id).await;
            }
            for id in planned.union(&both) {
                publish(&memory, id, 1).await;
            }
            let (configured, planned) = (&configured | &both, &planned | &both);
            let expected: Vec<_> = configured.intersection(&planned).filter(|id| id.starts_with(&prefix)).cloned().collect();
            assert_eq!(all_ids(&api, &prefix, limit).await, expected);
        });
    }
}
