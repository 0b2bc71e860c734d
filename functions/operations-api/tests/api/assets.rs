//! Registering assets, and reading what is known of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::asset::{Asset, AssetHealth, HealthState};
use shared::ids::{AssetId, AssetKind};
use shared::intersection::Intersection;
use shared::memory::Memory;
use shared::ports::{AssetStore, Condition, ConditionRow, ConditionStore, IntersectionStore};
use shared::units::Timestamp;

use crate::client::{Answer, Client, over};

const PATH: &str = "/v1/assets/truck-17";
const STALE: &str = "\"00000000000000000000000000000000\"";

fn id(text: &str) -> AssetId {
    AssetId::try_from(text).unwrap()
}

fn health(asset: &str, kind: &str, state: HealthState) -> AssetHealth {
    AssetHealth {
        asset_id: id(asset),
        kind: AssetKind::try_from(kind).unwrap(),
        as_of: Timestamp::from_millis(0),
        state,
        health_index: (state != HealthState::Unknown).then_some(62),
        remaining_useful_life: None,
        reasons: Vec::new(),
        fault: None,
        model: None,
    }
}

/// Stores the condition behind one key.
async fn judge(memory: &Memory, key: &str, health: Vec<AssetHealth>) {
    let now = Timestamp::from_millis(0);
    let condition = Condition { key: key.to_owned(), as_of: now, received_at: now, health };
    memory.save_condition(&ConditionRow { version: 1, condition, state: Vec::new() }).await.unwrap();
}

/// An intersection with these detectors at its lanes.
async fn configure(memory: &Memory, junction: &Value, id: &str, detectors: &[String]) {
    let mut junction = junction.clone();
    junction["id"] = json!(id);
    for exit in junction["exits"].as_array_mut().unwrap() {
        exit["detector_id"] = Value::Null;
    }
    for (number, lane) in junction["lanes"].as_array_mut().unwrap().iter_mut().enumerate() {
        lane["detector_id"] = json!(detectors.get(number));
    }
    memory.put(None, &Intersection::try_from(junction).unwrap()).await.unwrap();
}

async fn register(api: &Client, asset: &Value, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/v1/assets/{}", asset["id"].as_str().unwrap().replace('/', "%2F").replace('#', "%23"));
    api.send("PUT", &path, headers, asset.to_string()).await
}

fn named(name: &str) -> Value {
    json!({"id": "truck-17", "kind": "vehicle_engine", "name": name})
}

fn ids(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_new_asset_is_registered_and_read_back_as_it_was_put() {
    let api = over(&Memory::new()).await;
    let asset = api.example("Asset").clone();
    let created = register(&api, &asset, &[]).await;
    assert_eq!((created.status.as_u16(), created.header("location")), (201, PATH));
    let read = api.get(PATH).await;
    assert_eq!((read.status.as_u16(), read.json(), created.json()), (200, asset.clone(), asset));
    assert_eq!(read.header("etag"), created.header("etag"));
    let known = api.send("GET", PATH, &[("if-none-match", created.header("etag"))], "").await;
    assert_eq!((known.status.as_u16(), known.text.as_str()), (304, ""));
}

#[tokio::test]
async fn what_a_document_leaves_out_is_null_and_text_is_just_text() {
    let api = over(&Memory::new()).await;
    let name = r#"<script>alert("1")</script> & {{x}} 'ä' 𝄞"#;
    assert_eq!(register(&api, &named(name), &[]).await.status, 201);
    let expected = json!({"id": "truck-17", "kind": "vehicle_engine", "name": name,
        "location": null, "installed_at": null, "intersection_id": null});
    assert_eq!(api.get(PATH).await.json(), expected);
}

#[tokio::test]
async fn without_a_precondition_the_newest_word_counts() {
    let api = over(&Memory::new()).await;
    let first = register(&api, &named("first"), &[]).await;
    let again = register(&api, &named("first"), &[]).await;
    assert_eq!((again.status.as_u16(), again.header("etag")), (200, first.header("etag")));
    let second = register(&api, &named("second"), &[]).await;
    assert_eq!(second.status, 200);
    assert_ne!(second.header("etag"), first.header("etag"));
    assert_eq!(api.get(PATH).await.json()["name"], "second");
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_changes_nothing() {
    let api = over(&Memory::new()).await;
    let failed = (412, "precondition_failed".to_owned());
    for expected in [STALE, "*"] {
        assert_eq!(register(&api, &named("own"), &[("if-match", expected)]).await.problem(), failed, "{expected}");
    }
    assert_eq!(api.get(PATH).await.status, 404);
    let first = register(&api, &named("first"), &[("if-none-match", "*")]).await;
    assert_eq!(first.status, 201);
    for condition in [("if-none-match", "*"), ("if-match", STALE)] {
        assert_eq!(register(&api, &named("own"), &[condition]).await.problem(), failed, "{condition:?}");
        assert_eq!(api.get(PATH).await.json()["name"], "first");
    }
    let seen = register(&api, &named("second"), &[("if-match", first.header("etag"))]).await;
    assert_eq!((seen.status.as_u16(), seen.json()["name"].as_str()), (200, Some("second")));
}

#[tokio::test]
async fn a_detector_has_two_paths() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let detector = json!({"id": "J#1/n_0", "kind": "detector", "name": "North"});
    let created = register(&api, &detector, &[]).await;
    assert_eq!((created.status.as_u16(), created.header("location")), (201, "/v1/assets/J%231%2Fn_0"));
    judge(&memory, "J#1", vec![health("J#1/n_0", "detector", HealthState::Alarm)]).await;
    for path in [created.header("location"), "/v1/assets/J%231/n_0"] {
        assert_eq!(api.get(path).await.json()["name"], "North", "{path}");
        assert_eq!(api.get(&format!("{path}/health")).await.json()["state"], "alarm", "{path}");
        assert_eq!(api.send("PUT", path, &[], detector.to_string()).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_detector_called_health_has_its_encoded_path() {
    let api = over(&Memory::new()).await;
    let detector = json!({"id": "J1/health", "kind": "detector", "name": "Odd"});
    let created = register(&api, &detector, &[]).await;
    assert_eq!(created.header("location"), "/v1/assets/J1%2Fhealth");
    assert_eq!(api.get("/v1/assets/J1%2Fhealth").await.json()["name"], "Odd");
    assert_eq!(api.get("/v1/assets/J1/health").await.problem(), (404, "not_found".into()), "this is the health of J1");
}

#[tokio::test]
async fn a_detector_of_a_configured_intersection_is_an_asset_without_health() {
    let memory = Memory::new();
    let api = over(&memory).await;
    memory.put(None, &Intersection::try_from(api.junction()).unwrap()).await.unwrap();
    for detector in ["n_0", "s_out_0"] {
        let answer = api.get(&format!("/v1/assets/J1/{detector}")).await;
        let expected = json!({"id": format!("J1/{detector}"), "kind": "detector", "name": format!("J1/{detector}"),
            "location": null, "installed_at": null, "intersection_id": "J1"});
        assert_eq!((answer.status.as_u16(), answer.json()), (200, expected));
        assert_eq!(answer.header("etag"), "", "nobody registered it");
        let answer = api.get(&format!("/v1/assets/J1/{detector}/health")).await;
        assert_eq!(answer.problem(), (404, "not_found".into()));
        assert!(answer.text.contains("has no health yet"), "{}", answer.text);
    }
    assert_eq!(register(&api, &json!({"id": "J1/n_0", "kind": "detector", "name": "North"}), &[("if-none-match", "*")]).await.status, 201);
}

#[tokio::test]
async fn an_asset_registers_itself_by_its_readings() {
    let memory = Memory::new();
    let api = over(&memory).await;
    let example = api.example("AssetHealth").clone();
    judge(&memory, "truck-17", vec![serde_json::from_value(example.clone()).unwrap()]).await;
    let asset = api.get(PATH).await.json();
    assert_eq!((asset["kind"].as_str(), asset["name"].as_str()), (Some("vehicle_engine"), Some("truck-17")));
    assert_eq!(api.get("/v1/assets/truck-17/health").await.json(), example);

    judge(&memory, "J9", vec![health("J9/n_0", "detector", HealthState::Normal)]).await;
    assert_eq!(api.get("/v1/assets/J9/n_0/health").await.json()["state"], "normal", "its intersection need not be configured");
}

#[tokio::test]
async fn what_an_intersection_says_of_a_detector_goes_before_its_telemetry() {
    let memory = Memory::new();
    let api = over(&memory).await;
    judge(&memory, "J1/n_0", vec![health("J1/n_0", "radar", HealthState::Normal)]).await;
    assert_eq!(api.get("/v1/assets/J1/n_0/health").await.json()["kind"], "radar");
    judge(&memory, "J1", vec![health("J1/n_0", "detector", HealthState::Alarm)]).await;
    assert_eq!(api.get("/v1/assets/J1/n_0/health").await.json()["kind"], "detector");
    let listed = api.all("/v1/assets", "", 1).await;
    assert_eq!((listed.len(), listed[0]["state"].as_str()), (1, Some("alarm")));
}

#[tokio::test]
async fn an_unknown_asset_is_a_404_that_says_what_to_do() {
    let memory = Memory::new();
    let api = over(&memory).await;
    memory.put(None, &Intersection::try_from(api.junction()).unwrap()).await.unwrap();
    for path in [PATH, "/v1/assets/truck-17/health", "/v1/assets/J1/none", "/v1/assets/J1/none/health", "/v1/assets/J1"] {
        let answer = api.get(path).await;
        assert_eq!(answer.problem(), (404, "not_found".into()), "{path}");
        assert!(answer.text.contains("register it"), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn every_fault_of_a_document_is_refused_by_its_code_and_place() {
    let api = over(&Memory::new()).await;
    for (field, value, code, pointer) in [
        ("id", json!("truck-18"), "id_mismatch", "/id"),
        ("id", json!("a b"), "invalid_id", "/id"),
        ("kind", Value::Null, "missing_field", "/kind"),
        ("name", json!(7), "wrong_type", "/name"),
        ("name", json!("x".repeat(258)), "out_of_range", "/name"),
        ("installed_at", json!("soon"), "invalid_time", "/installed_at"),
        ("location", json!({"lat": 0, "lon": 181}), "out_of_range", "/location/lon"),
        ("owner", json!("me"), "unknown_field", "/owner"),
    ] {
        let mut asset = named("Truck 17");
        asset[field] = value;
        let answer = api.send("PUT", PATH, &[], asset.to_string()).await;
        let whole = if code == "id_mismatch" { code } else { "invalid_configuration" };
        assert_eq!((answer.problem(), answer.faults()), ((422, whole.into()), vec![(code.into(), pointer.into())]), "{asset}");
        assert_eq!(api.get(PATH).await.status, 404, "nothing is stored");
    }
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_refused() {
    let api = over(&Memory::new()).await;
    let fill = |bytes: usize| named("Truck 17").to_string() + &" ".repeat(bytes - named("Truck 17").to_string().len());
    assert_eq!(api.send("PUT", PATH, &[], fill(16 * 1024)).await.status, 201);
    for (headers, body, expected) in [
        (&[][..], fill(16 * 1024 + 1).into_bytes(), (413, "configuration_too_large")),
        (&[("content-type", "text/plain")], fill(1_000).into_bytes(), (415, "unsupported_media_type")),
        (&[("content-encoding", "gzip")], fill(1_000).into_bytes(), (415, "unsupported_media_type")),
        (&[("if-match", "no-quotes")], fill(1_000).into_bytes(), (400, "invalid_parameter")),
        (&[], b"{".to_vec(), (400, "invalid_json")),
        (&[], b"\"\xff\"".to_vec(), (400, "invalid_utf8")),
    ] {
        let answer = api.send("PUT", PATH, headers, body).await;
        assert_eq!(answer.problem(), (expected.0, expected.1.to_owned()), "{headers:?}");
    }
}

#[tokio::test]
async fn the_list_joins_what_is_registered_with_what_readings_say() {
    let memory = Memory::new();
    let api = over(&memory).await;
    configure(&memory, &api.junction(), "J1", &["n_0".into()]).await;
    register(&api, api.example("Asset"), &[]).await;
    judge(&memory, "truck-17", vec![health("truck-17", "vehicle_engine", HealthState::Alert)]).await;
    assert_eq!(api.get("/v1/assets").await.json(), *api.example("Assets"));

    register(&api, &json!({"id": "J1/n_0", "kind": "radar", "name": "North"}), &[]).await;
    judge(&memory, "J1", vec![health("J1/n_0", "detector", HealthState::Normal)]).await;
    let listed = api.all("/v1/assets", "", 500).await;
    let detector = &listed[0];
    let shown = ["kind", "name", "state"].map(|field| detector[field].as_str().unwrap());
    assert_eq!(shown, ["radar", "North", "normal"], "what somebody registered goes before what readings say");
    assert_eq!(detector["health_index"], 62);
}

#[tokio::test]
async fn the_list_shows_one_kind_or_one_state() {
    let memory = Memory::new();
    let api = over(&memory).await;
    configure(&memory, &api.junction(), "J1", &["a".into(), "b".into()]).await;
    judge(&memory, "J1", vec![health("J1/b", "detector", HealthState::Alarm)]).await;
    judge(&memory, "truck-1", vec![health("truck-1", "vehicle_engine", HealthState::Alarm)]).await;
    judge(&memory, "truck-2", vec![health("truck-2", "vehicle_engine", HealthState::Unknown)]).await;
    for (query, expected) in [
        ("kind=detector", &["J1/a", "J1/b"][..]),
        ("kind=vehicle_engine", &["truck-1", "truck-2"]),
        ("kind=pump", &[]),
        ("state=alarm", &["J1/b", "truck-1"]),
        ("state=unknown", &["J1/a", "truck-2"]),
        ("state=alarm&kind=detector", &["J1/b"]),
        ("state=normal", &[]),
    ] {
        for limit in [1, 2, 500] {
            assert_eq!(ids(&api.all("/v1/assets", query, limit).await), expected, "{query} {limit}");
        }
    }
    for query in ["state=broken", "state=", "kind=a%20b", "kind=&kind=", "kind="] {
        let answer = api.get(&format!("/v1/assets?{query}")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".into()), "{query}");
    }
}

#[tokio::test]
async fn many_assets_of_another_kind_cost_short_pages_but_no_asset() {
    let memory = Memory::new();
    let api = over(&memory).await;
    for number in 0..1_500 {
        let asset = format!("truck-{number:04}");
        judge(&memory, &asset, vec![health(&asset, "vehicle_engine", HealthState::Normal)]).await;
    }
    judge(&memory, "truck-1500", vec![health("truck-1500", "pump", HealthState::Normal)]).await;
    let page = api.get("/v1/assets?kind=pump").await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 0, "reads for one page are bounded");
    assert_eq!(ids(&api.all("/v1/assets", "kind=pump", 100).await), ["truck-1500"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn paging_shows_each_asset_of_all_sources_once_and_in_order(
        configured in proptest::collection::btree_map("[AB][0-9#-]{0,1}", proptest::collection::btree_set("[a-c]", 0..3), 0..8),
        registered in proptest::collection::btree_set("[AB][0-9#-]{0,1}(/[a-d])?", 0..12),
        judged in proptest::collection::btree_map("[AB][0-9#-]{0,1}(/[a-d])?", proptest::collection::btree_set("(/[a-d])?", 0..4), 0..12),
        limit in 1_usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let memory = Memory::new();
            let api = over(&memory).await;
            let junction = api.junction();
            let mut expected = BTreeMap::new();
            for (intersection, detectors) in &configured {
                configure(&memory, &junction, intersection, &detectors.iter().cloned().collect::<Vec<_>>()).await;
                expected.extend(detectors.iter().map(|detector| id(&format!("{intersection}/{detector}"))).map(|id| (id.sort_key(), id)));
            }
            for asset in &registered {
                let kind = AssetKind::detector();
                memory.put_asset(None, &Asset::unregistered(id(asset), kind)).await.unwrap();
                expected.insert(id(asset).sort_key(), id(asset));
            }
            for (key, suffixes) in &judged {
                // A detector that sends telemetry is alone behind its key.
                let alone = BTreeSet::from([String::new()]);
                let suffixes = if key.contains('/') { &alone } else { suffixes };
                let assets: Vec<_> = suffixes.iter().map(|suffix| format!("{key}{suffix}")).collect();
                expected.extend(assets.iter().map(|asset| (id(asset).sort_key(), id(asset))));
                judge(&memory, key, assets.iter().map(|asset| health(asset, "detector", HealthState::Normal)).collect()).await;
            }
            let expected: Vec<_> = expected.into_values().map(|id| id.to_string()).collect();
            assert_eq!(ids(&api.all("/v1/assets", "", limit).await), expected);
        });
    }
}
