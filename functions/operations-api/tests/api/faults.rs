//! Everything that can be wrong with a configuration.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shared::memory::Memory;

use crate::client::over;

const PATH: &str = "/v1/intersections/J1";

/// Where in the example which value goes (none removes it), and the code and pointer of each fault that it makes.
type Row = (&'static [(&'static str, Option<&'static str>)], &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (&[("/nmae", Some("1"))], &[("unknown_field", "/nmae")]),
    (&[("/location/alt", Some("1"))], &[("unknown_field", "/location/alt")]),
    (&[("/lanes/0/a~1b", Some("1"))], &[("unknown_field", "/lanes/0/a~1b")]),
    (&[("/timing/stages/1/green", Some("1"))], &[("unknown_field", "/timing/stages/1/green")]),
    (&[("/timing", None)], &[("missing_field", "/timing")]),
    (&[("/timing/yellow_change_s", None)], &[("missing_field", "/timing/yellow_change_s")]),
    (&[("/timing/pedestrian/m9", None)], &[("missing_field", "/timing/pedestrian/m9")]),
    (&[("/timing/pedestrian/m9/walk_s", None)], &[("missing_field", "/timing/pedestrian/m9/walk_s")]),
    (&[("", Some("[]"))], &[("wrong_type", "")]),
    (&[("/lanes/0/length_m", Some(r#""180""#))], &[("wrong_type", "/lanes/0/length_m")]),
    (&[("/exits", Some("{}"))], &[("wrong_type", "/exits"), ("unknown_id", "/movements/0/to_exit"), ("unknown_id", "/movements/1/to_exit"), ("unknown_id", "/movements/2/to_exit")]),
    (&[("/lanes/0/length_m", Some("0"))], &[("out_of_range", "/lanes/0/length_m")]),
    (&[("/location/lat", Some("90.1"))], &[("out_of_range", "/location/lat")]),
    (&[("/timing/green_min_s", Some("5.55"))], &[("out_of_range", "/timing/green_min_s")]),
    (&[("/timing/green_max_s", Some("4.9"))], &[("out_of_range", "/stages/0"), ("out_of_range", "/stages/1")]),
    (&[("/control/plan_ttl_s", Some("4"))], &[("out_of_range", "/control/plan_ttl_s")]),
    (&[("/control/mode", Some(r#""auto""#))], &[("unknown_value", "/control/mode")]),
    (&[("/exits/1/to_intersection", Some(r#""J 2""#))], &[("invalid_id", "/exits/1/to_intersection")]),
    (&[("/lanes/-", Some(r#"{"id": "n_0", "length_m": 9, "speed_limit_kmh": 30}"#))], &[("duplicate_id", "/lanes/2/id")]),
    (&[("/exits/1/detector_id", Some(r#""n_0""#))], &[("duplicate_id", "/exits/1/detector_id")]),
    (&[("/movements/1/from_lane", Some(r#""e_9""#))], &[("unknown_id", "/movements/1/from_lane")]),
    (&[("/stages/0/protected/-", Some(r#""m7""#))], &[("unknown_id", "/stages/0/protected/1")]),
    (&[("/conflicts/0/1", Some(r#""m7""#))], &[("unknown_id", "/conflicts/0/1")]),
    (&[("/timing/stages/7", Some("{}"))], &[("unknown_id", "/timing/stages/7")]),
    (&[("/timing/pedestrian/m0", Some(r#"{"walk_s": 1, "clearance_s": 1}"#))], &[("unknown_id", "/timing/pedestrian/m0")]),
    (&[("/time_of_day_plan/stages/0/stage", Some(r#""7""#))], &[("unknown_id", "/time_of_day_plan/stages/0/stage")]),
    (&[("/conflicts/0", Some(r#"["m0"]"#))], &[("invalid_conflict", "/conflicts/0")]),
    (&[("/conflicts/0", Some(r#"["m0", "m0"]"#))], &[("invalid_conflict", "/conflicts/0")]),
    (&[("/movements/0/from_lane", None)], &[("missing_lane", "/movements/0/from_lane")]),
    (&[("/movements/0/to_exit", Some("null"))], &[("missing_lane", "/movements/0/to_exit")]),
    (&[("/stages/1/permitted", Some("[]"))], &[("movement_unserved", "/movements/2"), ("time_of_day_plan_limit", "/time_of_day_plan/stages")]),
    (&[("/conflicts/-", Some(r#"["m1", "m9"]"#))], &[("conflict_in_stage", "/stages/1/protected")]),
    (&[("/timing/pedestrian/m9/walk_s", Some("7.1"))], &[("pedestrian_time", "/timing/pedestrian/m9")]),
    (&[("/timing/yellow_change_s", Some("2.9"))], &[("yellow_change_range", "/timing/yellow_change_s")]),
    (&[("/timing/yellow_change_s", Some("6.1"))], &[("yellow_change_range", "/timing/yellow_change_s")]),
    (&[("/timing/stages/1/yellow_change_s", Some("0"))], &[("yellow_change_range", "/timing/stages/1/yellow_change_s")]),
    (&[("/timing/red_max_s", Some("34")), ("/time_of_day_plan/stages/0/green_s", Some("5")), ("/time_of_day_plan/stages/1/green_s", Some("18"))], &[("red_max_unreachable", "/timing/red_max_s")]),
    (&[("/stages/-", Some(r#"{"id": "2", "protected": ["m0"]}"#)), ("/timing/stages/0", Some(r#"{"yellow_change_s": 6, "red_clearance_s": 3}"#))], &[("stage_skipped", "/stages/2")]),
    (&[("/time_of_day_plan/stages/0/green_s", Some("4.9"))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages/0/green_s")]),
    (&[("/time_of_day_plan/stages/1/green_s", Some("50.1"))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages/1/green_s")]),
    (&[("/time_of_day_plan/stages/-", Some(r#"{"stage": "1", "green_s": 18}"#))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages/1/stage")]),
    (&[("/timing/red_max_s", Some("38.9"))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages"); 3]),
];

fn change(document: &mut Value, pointer: &str, value: Option<&str>) {
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        *document = serde_json::from_str(value.unwrap()).unwrap();
        return;
    };
    let value = value.map(|text| serde_json::from_str(text).unwrap());
    let name = name.replace("~1", "/").replace("~0", "~");
    match (document.pointer_mut(parent).unwrap(), value) {
        (Value::Object(map), Some(value)) => drop(map.insert(name, value)),
        (Value::Object(map), None) => drop(map.remove(&name).unwrap()),
        (Value::Array(list), Some(value)) if name == "-" => list.push(value),
        (Value::Array(list), Some(value)) => list[name.parse::<usize>().unwrap()] = value,
        (parent, _) => panic!("nothing to change in {parent}"),
    }
}

#[tokio::test]
async fn every_fault_is_refused_by_its_code_and_place_and_nothing_is_stored() {
    let api = over(&Memory::new()).await;
    for (changes, faults) in ROWS {
        let mut document = api.junction();
        changes.iter().for_each(|(pointer, value)| change(&mut document, pointer, *value));
        let answer = api.send("PUT", PATH, &[], document.to_string()).await;
        assert_eq!(answer.problem(), (422, "invalid_configuration".into()), "{changes:?}");
        let found = answer.faults();
        let found: Vec<_> = found.iter().map(|(code, pointer)| (code.as_str(), pointer.as_str())).collect();
        assert_eq!(found, *faults, "{changes:?}");
        assert_eq!(api.get(PATH).await.status, 404, "{changes:?}");
    }
}

#[tokio::test]
async fn a_list_over_its_limit_is_refused() {
    let api = over(&Memory::new()).await;
    let mut document = api.junction();
    let stages = document["stages"].as_array_mut().unwrap();
    stages.extend((2..33).map(|id| json!({"id": id.to_string(), "protected": ["m0"]})));
    assert_eq!(api.put(&document).await.faults(), [("too_many".to_owned(), "/stages".to_owned())]);
}

#[tokio::test]
async fn an_id_in_the_body_that_is_not_the_one_in_the_path_is_refused() {
    let api = over(&Memory::new()).await;
    let answer = api.send("PUT", "/v1/intersections/J2", &[], api.junction().to_string()).await;
    assert_eq!(answer.problem(), (422, "id_mismatch".into()));
    assert_eq!(answer.faults(), [("id_mismatch".to_owned(), "/id".to_owned())]);
}

#[tokio::test]
async fn a_field_that_occurs_twice_is_refused_and_nothing_is_stored() {
    let api = over(&Memory::new()).await;
    let twice = api.junction().to_string().replacen(r#""green_min_s":5"#, r#""green_min_s":1,"green_min_s":5"#, 1);
    let answer = api.send("PUT", PATH, &[], twice).await;
    assert_eq!(answer.problem(), (422, "invalid_configuration".into()));
    assert_eq!(answer.faults(), [("duplicate_field".to_owned(), "/timing/green_min_s".to_owned())]);
    assert_eq!(api.get(PATH).await.status, 404);
}

#[tokio::test]
async fn every_documented_code_of_a_configuration_is_in_a_test() {
    let api = over(&Memory::new()).await;
    let description = api.description()["components"]["schemas"]["Fault"]["description"].as_str().unwrap();
    let (_, of_configuration) = description.split_once("Of a configuration:").unwrap();
    // Codes stand in backticks before a comma or a colon.
    let quoted: Vec<_> = of_configuration.split('`').skip(1).collect();
    let codes = quoted.chunks(2).filter(|pair| pair.get(1).is_some_and(|after| after.starts_with([',', ':'])));
    let documented: BTreeSet<_> = codes.map(|pair| pair[0]).collect();
    let mut tested: BTreeSet<_> = ROWS.iter().flat_map(|(_, faults)| faults.iter().map(|(code, _)| *code)).collect();
    tested.extend(["too_many", "id_mismatch", "duplicate_field"]);
    let untested: Vec<_> = documented.difference(&tested).collect();
    assert!(documented.len() > 10 && untested.is_empty(), "{untested:?}");
}
