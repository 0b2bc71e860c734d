use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::document::checks::red_in_plan;
use super::*;
use crate::fields::{Fault, Faults, documented_codes};

/// Four legs, ten movements, four stages; every clearance is 3 s yellow and 1 s red.
const JUNCTION: &str = include_str!("../../../events/intersection.json");

type Change = (&'static str, Option<&'static str>);

/// Puts a value at a pointer (`-` appends to a list); none removes what is there.
fn change(document: &mut Value, pointer: &str, value: Option<&str>) {
    let value = value.map(|text| serde_json::from_str(text).unwrap());
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        *document = value.unwrap();
        return;
    };
    let name = name.replace("~1", "/").replace("~0", "~");
    match (document.pointer_mut(parent).unwrap(), value) {
        (Value::Object(map), Some(value)) => drop(map.insert(name, value)),
        (Value::Object(map), None) => drop(map.remove(&name).unwrap()),
        (Value::Array(list), Some(value)) if name == "-" => list.push(value),
        (Value::Array(list), Some(value)) => list[name.parse::<usize>().unwrap()] = value,
        (Value::Array(list), None) => drop(list.remove(name.parse().unwrap())),
        (parent, _) => panic!("nothing to change in {parent}"),
    }
}

fn junction_with(changes: &[Change]) -> Value {
    let mut document = serde_json::from_str(JUNCTION).unwrap();
    for (pointer, value) in changes {
        change(&mut document, pointer, *value);
    }
    document
}

fn accepted(changes: &[Change]) -> Intersection {
    Intersection::try_from(junction_with(changes)).unwrap_or_else(|faults| panic!("{changes:?}: {faults:?}"))
}

fn codes_and_pointers(faults: &[Fault]) -> Vec<(&str, &str)> {
    faults.iter().map(|fault| (fault.code, fault.pointer.as_str())).collect()
}

/// Changes to the junction, and the code and place of every fault that they make.
type Row = (&'static [Change], &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const REFUSED: &[Row] = &[
    // The document.
    (&[("", Some("[]"))], &[("wrong_type", "")]),
    (&[("/nmae", Some("1"))], &[("unknown_field", "/nmae")]),
    (&[("/id", None)], &[("missing_field", "/id")]),
    (&[("/id", Some("1"))], &[("wrong_type", "/id")]),
    (&[("/id", Some(r#""J 1""#))], &[("invalid_id", "/id")]),
    (&[("/name", Some("1"))], &[("wrong_type", "/name")]),
    (&[("/location", Some("[]"))], &[("wrong_type", "/location")]),
    (&[("/location/lat", None)], &[("missing_field", "/location/lat")]),
    (&[("/location/lat", Some("90.1"))], &[("out_of_range", "/location/lat")]),
    (&[("/location/lon", Some("-180.1"))], &[("out_of_range", "/location/lon")]),
    (&[("/location/alt", Some("1"))], &[("unknown_field", "/location/alt")]),
    // Lanes and exits.
    (&[("/lanes/-", Some("7"))], &[("wrong_type", "/lanes/8")]),
    (&[("/lanes/-", Some("{}"))], &[("missing_field", "/lanes/8/id"), ("missing_field", "/lanes/8/length_m"), ("missing_field", "/lanes/8/speed_limit_kmh")]),
    (&[("/lanes/-", Some(r#"{"id": "a b", "length_m": 1, "speed_limit_kmh": 1}"#))], &[("invalid_id", "/lanes/8/id")]),
    (&[("/lanes/-", Some(r#"{"id": "n_0", "length_m": 1, "speed_limit_kmh": 1}"#))], &[("duplicate_id", "/lanes/8/id")]),
    (&[("/lanes/-", Some(r#"{"id": "x", "length_m": 1, "speed_limit_kmh": 1, "detector_id": "n_0"}"#))], &[("duplicate_id", "/lanes/8/detector_id")]),
    (&[("/lanes/0/detector_id", Some("1"))], &[("wrong_type", "/lanes/0/detector_id")]),
    (&[("/lanes/0/length_m", Some("0"))], &[("out_of_range", "/lanes/0/length_m")]),
    (&[("/lanes/0/length_m", Some("10000.1"))], &[("out_of_range", "/lanes/0/length_m")]),
    (&[("/lanes/0/speed_limit_kmh", Some("0"))], &[("out_of_range", "/lanes/0/speed_limit_kmh")]),
    (&[("/lanes/0/speed_limit_kmh", Some("200.1"))], &[("out_of_range", "/lanes/0/speed_limit_kmh")]),
    (&[("/lanes/0/a~1b", Some("1"))], &[("unknown_field", "/lanes/0/a~1b")]),
    (&[("/exits/-", Some("7"))], &[("wrong_type", "/exits/4")]),
    (&[("/exits/-", Some("{}"))], &[("missing_field", "/exits/4/id"), ("missing_field", "/exits/4/length_m")]),
    (&[("/exits/-", Some(r#"{"id": "n_out", "length_m": 1}"#))], &[("duplicate_id", "/exits/4/id")]),
    (&[("/exits/0/detector_id", Some(r#""n_0""#))], &[("duplicate_id", "/exits/0/detector_id")]),
    (&[("/exits/0/length_m", Some("-1"))], &[("out_of_range", "/exits/0/length_m")]),
    (&[("/exits/0/to_intersection", Some(r#""J 2""#))], &[("invalid_id", "/exits/0/to_intersection")]),
    (&[("/exits/0/speed_limit_kmh", Some("50"))], &[("unknown_field", "/exits/0/speed_limit_kmh")]),
    // Movements.
    (&[("/movements/-", Some("7"))], &[("wrong_type", "/movements/10")]),
    (&[("/movements/-", Some("{}"))], &[("missing_field", "/movements/10/id"), ("missing_field", "/movements/10/turn")]),
    (&[("/movements/-", Some(r#"{"id": "n_left", "turn": "pedestrian"}"#))], &[("duplicate_id", "/movements/10/id")]),
    (&[("/movements/0/turn", Some(r#""straight""#))], &[("unknown_value", "/movements/0/turn")]),
    (&[("/movements/0/from_lane", Some(r#""e_9""#))], &[("unknown_id", "/movements/0/from_lane")]),
    (&[("/movements/0/from_lane", Some(r#""n_out""#))], &[("unknown_id", "/movements/0/from_lane")]),
    (&[("/movements/0/to_exit", Some(r#""n_0""#))], &[("unknown_id", "/movements/0/to_exit")]),
    (&[("/movements/0/to_exit", Some("1"))], &[("wrong_type", "/movements/0/to_exit")]),
    (&[("/movements/0/from_lane", None)], &[("missing_lane", "/movements/0/from_lane")]),
    (&[("/movements/0/to_exit", Some("null"))], &[("missing_lane", "/movements/0/to_exit")]),
    (&[("/movements/0/phase", Some("2"))], &[("unknown_field", "/movements/0/phase")]),
    (&[("/movements/-", Some(r#"{"id": "x", "turn": "u_turn", "from_lane": "n_0", "to_exit": "n_out"}"#))], &[("movement_unserved", "/movements/10"), ("time_of_day_plan_limit", "/time_of_day_plan/stages")]),
    // Stages.
    (&[("/stages/-", Some("7"))], &[("wrong_type", "/stages/4")]),
    (&[("/stages/-", Some("{}"))], &[("missing_field", "/stages/4/id")]),
    (&[("/stages/-", Some(r#"{"id": "0"}"#))], &[("duplicate_id", "/stages/4/id")]),
    (&[("/stages/-", Some(r#"{"id": "4"}"#))], &[("movement_unserved", "/stages/4")]),
    (&[("/stages/0/green_s", Some("9"))], &[("unknown_field", "/stages/0/green_s")]),
    (&[("/stages/0/protected", Some("{}"))], &[("wrong_type", "/stages/0/protected")]),
    (&[("/stages/0/protected/-", Some(r#""n_right""#))], &[("unknown_id", "/stages/0/protected/3")]),
    (&[("/stages/0/permitted/-", Some("1"))], &[("wrong_type", "/stages/0/permitted/0")]),
    (&[("/stages/0/protected/-", Some(r#""e_through""#))], &[("conflict_in_stage", "/stages/0/protected"); 3]),
    // Conflicts.
    (&[("/conflicts", Some("{}"))], &[("wrong_type", "/conflicts")]),
    (&[("/conflicts/-", Some("7"))], &[("invalid_conflict", "/conflicts/28")]),
    (&[("/conflicts/-", Some(r#"["n_left"]"#))], &[("invalid_conflict", "/conflicts/28")]),
    (&[("/conflicts/-", Some(r#"["n_left", "n_left"]"#))], &[("invalid_conflict", "/conflicts/28")]),
    (&[("/conflicts/-", Some(r#"["n_left", "s_left", "w_left"]"#))], &[("invalid_conflict", "/conflicts/28")]),
    (&[("/conflicts/-", Some(r#"["x", 1]"#))], &[("unknown_id", "/conflicts/28/0"), ("wrong_type", "/conflicts/28/1")]),
    (&[("/conflicts/-", Some(r#"["s_left", "n_left"]"#))], &[("conflict_in_stage", "/stages/1/protected")]),
    // Timing.
    (&[("/timing", None)], &[("missing_field", "/timing")]),
    (&[("/timing", Some("[]"))], &[("wrong_type", "/timing")]),
    (&[("/timing/green_min_s", None)], &[("missing_field", "/timing/green_min_s")]),
    (&[("/timing/green_max_s", Some("null"))], &[("missing_field", "/timing/green_max_s")]),
    (&[("/timing/yellow_change_s", None)], &[("missing_field", "/timing/yellow_change_s")]),
    (&[("/timing/red_max_s", None)], &[("missing_field", "/timing/red_max_s")]),
    (&[("/timing/green_min_s", Some(r#""5""#))], &[("wrong_type", "/timing/green_min_s")]),
    (&[("/timing/green_min_s", Some("0.9"))], &[("out_of_range", "/timing/green_min_s")]),
    (&[("/timing/green_min_s", Some("120.1"))], &[("out_of_range", "/timing/green_min_s")]),
    (&[("/timing/green_min_s", Some("5.55"))], &[("out_of_range", "/timing/green_min_s")]),
    (&[("/timing/green_max_s", Some("600.1"))], &[("out_of_range", "/timing/green_max_s")]),
    (&[("/timing/green_max_s", Some("17.9"))], &[("out_of_range", "/stages/0")]),
    (&[("/timing/yellow_change_s", Some("2.9"))], &[("yellow_change_range", "/timing/yellow_change_s")]),
    (&[("/timing/yellow_change_s", Some("6.1"))], &[("yellow_change_range", "/timing/yellow_change_s")]),
    (&[("/timing/yellow_change_s", Some("true"))], &[("wrong_type", "/timing/yellow_change_s")]),
    (&[("/timing/red_clearance_s", Some("-0.1"))], &[("out_of_range", "/timing/red_clearance_s")]),
    (&[("/timing/red_clearance_s", Some("10.1"))], &[("out_of_range", "/timing/red_clearance_s")]),
    (&[("/timing/red_max_s", Some("0.9"))], &[("out_of_range", "/timing/red_max_s")]),
    (&[("/timing/red_max_s", Some("3600.1"))], &[("out_of_range", "/timing/red_max_s")]),
    (&[("/timing/green", Some("1"))], &[("unknown_field", "/timing/green")]),
    (&[("/timing/stages", Some("[]"))], &[("wrong_type", "/timing/stages")]),
    (&[("/timing/stages/1", Some("5"))], &[("wrong_type", "/timing/stages/1")]),
    (&[("/timing/stages/7", Some("{}"))], &[("unknown_id", "/timing/stages/7")]),
    (&[("/timing/stages/1", Some(r#"{"green": 1}"#))], &[("unknown_field", "/timing/stages/1/green")]),
    (&[("/timing/stages/1", Some(r#"{"yellow_change_s": 0}"#))], &[("yellow_change_range", "/timing/stages/1/yellow_change_s")]),
    (&[("/timing/stages/1", Some(r#"{"green_max_s": 4.9}"#))], &[("out_of_range", "/stages/1")]),
    (&[("/timing/pedestrian", Some("[]"))], &[("wrong_type", "/timing/pedestrian")]),
    (&[("/timing/pedestrian/ped_west", None)], &[("missing_field", "/timing/pedestrian/ped_west")]),
    (&[("/timing/pedestrian/ped_west", Some("7"))], &[("wrong_type", "/timing/pedestrian/ped_west")]),
    (&[("/timing/pedestrian/ped_west/walk_s", None)], &[("missing_field", "/timing/pedestrian/ped_west/walk_s")]),
    (&[("/timing/pedestrian/ped_west/clearance_s", Some("120.1"))], &[("out_of_range", "/timing/pedestrian/ped_west/clearance_s")]),
    (&[("/timing/pedestrian/ped_west/button", Some("1"))], &[("unknown_field", "/timing/pedestrian/ped_west/button")]),
    (&[("/timing/pedestrian/ped_south", Some(r#"{"walk_s": 1, "clearance_s": 1}"#))], &[("unknown_id", "/timing/pedestrian/ped_south")]),
    (&[("/timing/pedestrian/n_left", Some(r#"{"walk_s": 1, "clearance_s": 1}"#))], &[("unknown_id", "/timing/pedestrian/n_left")]),
    (&[("/timing/pedestrian/ped_west/walk_s", Some("7.1"))], &[("pedestrian_time", "/timing/pedestrian/ped_west")]),
    (&[("/timing/stages/0/green_min_s", Some("17.9"))], &[("pedestrian_time", "/timing/pedestrian/ped_west")]),
    (&[("/stages/1/permitted/-", Some(r#""ped_west""#))], &[("pedestrian_time", "/timing/pedestrian/ped_west")]),
    // The time-of-day plan.
    (&[("/time_of_day_plan", None)], &[("missing_field", "/time_of_day_plan")]),
    (&[("/time_of_day_plan", Some("[]"))], &[("wrong_type", "/time_of_day_plan")]),
    (&[("/time_of_day_plan/offset_s", Some("-1"))], &[("out_of_range", "/time_of_day_plan/offset_s")]),
    (&[("/time_of_day_plan/stages", None)], &[("missing_field", "/time_of_day_plan/stages")]),
    (&[("/time_of_day_plan/stages", Some("[]"))], &[("out_of_range", "/time_of_day_plan/stages")]),
    (&[("/time_of_day_plan/stages/-", Some("7"))], &[("wrong_type", "/time_of_day_plan/stages/4")]),
    (&[("/time_of_day_plan/stages/-", Some("{}"))], &[("missing_field", "/time_of_day_plan/stages/4/stage"), ("missing_field", "/time_of_day_plan/stages/4/green_s")]),
    (&[("/time_of_day_plan/stages/0/stage", Some(r#""7""#))], &[("unknown_id", "/time_of_day_plan/stages/0/stage")]),
    (&[("/time_of_day_plan/stages/0/green_s", Some("600.1"))], &[("out_of_range", "/time_of_day_plan/stages/0/green_s")]),
    (&[("/time_of_day_plan/stages/0/split_s", Some("9"))], &[("unknown_field", "/time_of_day_plan/stages/0/split_s")]),
    (&[("/time_of_day_plan/cycle_s", Some("90"))], &[("unknown_field", "/time_of_day_plan/cycle_s")]),
    (&[("/time_of_day_plan/stages/0/green_s", Some("17.9"))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages/0/green_s")]),
    (&[("/timing/green_max_s", Some("30")), ("/time_of_day_plan/stages/1/green_s", Some("30.1"))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages/1/green_s")]),
    (&[("/time_of_day_plan/stages/-", Some(r#"{"stage": "3", "green_s": 5}"#))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages/3/stage")]),
    (&[("/time_of_day_plan/stages/-", Some(r#"{"stage": "0", "green_s": 18}"#))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages/4/stage")]),
    (&[("/time_of_day_plan/stages/3", None)], &[("time_of_day_plan_limit", "/time_of_day_plan/stages"); 2]),
    (&[("/timing/red_max_s", Some("80.9"))], &[("time_of_day_plan_limit", "/time_of_day_plan/stages"); 4]),
    // The way out of any situation takes 64 s; at its shortest greens the time-of-day plan is red for 55 s at most.
    (&[("/timing/red_max_s", Some("63.9")), ("/time_of_day_plan/stages/0/green_s", Some("18")), ("/time_of_day_plan/stages/1/green_s", Some("5")), ("/time_of_day_plan/stages/2/green_s", Some("16")), ("/time_of_day_plan/stages/3/green_s", Some("5"))], &[("red_max_unreachable", "/timing/red_max_s")]),
    // Stage 4 follows stage 1 without a clearance; from stage 1 to another it takes 8.1 s, and 4 s from stage 4.
    (&[("/stages/-", Some(r#"{"id": "4", "protected": ["n_left", "s_left"]}"#)), ("/timing/stages/1", Some(r#"{"yellow_change_s": 6, "red_clearance_s": 2.1}"#))], &[("stage_skipped", "/stages/4")]),
    // Control.
    (&[("/control", Some("[]"))], &[("wrong_type", "/control")]),
    (&[("/control/mode", Some(r#""auto""#))], &[("unknown_value", "/control/mode")]),
    (&[("/control/step_s", Some("0.9"))], &[("out_of_range", "/control/step_s")]),
    (&[("/control/step_s", Some("60.1"))], &[("out_of_range", "/control/step_s")]),
    (&[("/control/plan_ttl_s", Some("300.1"))], &[("out_of_range", "/control/plan_ttl_s")]),
    (&[("/control/plan_ttl_s", Some("4.9"))], &[("out_of_range", "/control/plan_ttl_s")]),
    (&[("/control/planner", Some("7"))], &[("wrong_type", "/control/planner")]),
    (&[("/control/planner", Some(r#"{"horizon_s": 19.9}"#))], &[("out_of_range", "/control/planner/horizon_s")]),
    (&[("/control/planner", Some(r#"{"horizon": 45}"#))], &[("unknown_field", "/control/planner/horizon")]),
    (&[("/control/modes", Some("1"))], &[("unknown_field", "/control/modes")]),
    // All faults at once: first those of fields, in the order of the document; what contradicts what only when there are none.
    (&[("/timing/red_max_s", Some("0")), ("/lanes/0/length_m", Some("-1")), ("/nmae", Some("1")), ("/conflicts/0/0", Some("7")), ("/stages/1/protected", Some("[]"))], &[("out_of_range", "/lanes/0/length_m"), ("out_of_range", "/timing/red_max_s"), ("wrong_type", "/conflicts/0/0"), ("unknown_field", "/nmae")]),
    (&[("/stages/1/protected", Some(r#"["n_left", "s_through"]"#)), ("/timing/pedestrian/ped_west/walk_s", Some("8")), ("/time_of_day_plan/stages/0/green_s", Some("51"))],
        &[("movement_unserved", "/movements/3"), ("conflict_in_stage", "/stages/1/protected"), ("pedestrian_time", "/timing/pedestrian/ped_west"), ("time_of_day_plan_limit", "/time_of_day_plan/stages/0/green_s"), ("time_of_day_plan_limit", "/time_of_day_plan/stages")]),
];

#[test]
fn every_fault_has_its_code_and_its_place_and_all_are_named_at_once() {
    accepted(&[]);
    for (changes, expected) in REFUSED {
        let faults = Intersection::try_from(junction_with(changes)).expect_err(&format!("{changes:?}"));
        assert_eq!(codes_and_pointers(&faults), *expected, "{changes:?}");
    }
}

#[test]
fn a_list_that_is_missing_or_empty_leaves_every_reference_to_it_unknown() {
    for (list, references) in [("lanes", 8), ("exits", 8), ("movements", 12 + 56), ("stages", 2 + 4)] {
        for (value, code) in [(None, "missing_field"), (Some("[]"), "out_of_range"), (Some("7"), "wrong_type")] {
            let pointer = format!("/{list}");
            let mut document = junction_with(&[]);
            change(&mut document, &pointer, value);
            let mut faults = Intersection::try_from(document).unwrap_err();
            let of_list = faults.iter().position(|fault| fault.pointer == pointer).map(|i| faults.remove(i).code);
            // A junction may have no exits that anybody watches.
            let expected = (list != "exits" || value == Some("7")).then_some(code);
            assert_eq!(of_list, expected, "{list} {value:?}");
            assert_eq!(faults.len(), references, "{list} {value:?}: {faults:?}");
            assert!(faults.iter().all(|fault| fault.code == "unknown_id"), "{faults:?}");
        }
    }
}

#[test]
fn the_codes_of_configurations_are_the_documented_ones() {
    let mut codes: BTreeSet<_> = REFUSED.iter().flat_map(|(_, faults)| faults.iter().map(|(code, _)| *code)).collect();
    // The first two have tests of their own below, the last one comes from the path.
    codes.extend(["too_many", "duplicate_field", "id_mismatch"]);
    assert_eq!(codes, documented_codes("Of a configuration:", "type: object"));
}

#[test]
fn a_junction_may_have_parameters_of_its_own_and_keeps_the_other_defaults() {
    let own = accepted(&[("/control/planner", Some(r#"{"saturation_flow_vph": 1600, "stop_cost_s": 0}"#))]).control().planner;
    assert_eq!(own, Planner { saturation_flow_vph: 1600.0, stop_cost_s: 0.0, ..Planner::default() });
}

#[test]
fn the_parameters_of_the_planner_are_the_documented_ones() {
    let text = include_str!("../../../openapi.yaml");
    for (name, min, default, max) in Planner::PARAMETERS {
        let documented = format!("            {name}: {{type: number, minimum: {min}, maximum: {max}, default: {default}, ");
        assert!(text.contains(&documented), "{documented}");
        assert!((min..=max).contains(&default), "{name}");
    }
}

#[test]
fn no_more_faults_are_named_than_anybody_reads() {
    let mut document = junction_with(&[]);
    document.as_object_mut().unwrap().extend((0..200).map(|i| (format!("x{i}"), Value::Null)));
    assert_eq!(Intersection::try_from(document).unwrap_err().len(), Faults::MAX);
}

#[test]
fn what_is_left_out_takes_its_default() {
    let bare = accepted(&[
        ("/name", None),
        ("/location", Some("null")),
        ("/conflicts", None),
        ("/control", None),
        ("/timing/red_clearance_s", None),
        ("/time_of_day_plan/offset_s", None),
        ("/stages/0/permitted", None),
        ("/exits/0/detector_id", None),
        ("/exits/2/to_intersection", None),
    ]);
    let control = Control {
        mode: ControlMode::Adaptive,
        step: Deciseconds::from_secs(5),
        plan_ttl: Deciseconds::from_secs(30),
        planner: Planner::default(),
    };
    assert_eq!((bare.control(), bare.conflicts().len(), bare.time_of_day().offset), (control, 0, Deciseconds::ZERO));
    assert_eq!(bare.clearance(0), Deciseconds::from_secs(3));
    assert_eq!(bare.detectors().count(), 11);
}

#[test]
fn an_override_holds_for_its_stage_alone() {
    let own = r#"{"green_min_s": 6, "green_max_s": 40, "yellow_change_s": 4.5, "red_clearance_s": 0}"#;
    let junction = accepted(&[("/timing/stages/1", Some(own))]);
    let times = |stage: usize| {
        let stage = &junction.stages()[stage];
        [stage.green_min, stage.green_max, stage.yellow_change, stage.red_clearance].map(Deciseconds::tenths)
    };
    assert_eq!((times(0), times(1), times(3)), ([180, 500, 30, 10], [60, 400, 45, 0], [50, 500, 30, 10]));
}

#[test]
fn a_stage_that_lasts_longer_than_the_way_past_it_is_accepted() {
    const BETWEEN: (&str, Option<&str>) = ("/stages/-", Some(r#"{"id": "4", "protected": ["n_left", "s_left"]}"#));
    accepted(&[BETWEEN, ("/timing/stages/1", Some(r#"{"yellow_change_s": 6, "red_clearance_s": 2}"#))]);
    accepted(&[
        BETWEEN,
        ("/timing/stages/1", Some(r#"{"yellow_change_s": 6, "red_clearance_s": 3}"#)),
        ("/timing/stages/4", Some(r#"{"green_min_s": 6}"#)),
    ]);
    // Who has to clear on the way into a stage is not past it any sooner.
    accepted(&[("/timing/stages/1", Some(r#"{"yellow_change_s": 6, "red_clearance_s": 10}"#))]);
}

/// A junction of so many lanes, exits, movements, stages and entries of the time-of-day plan.
fn junction_of(lanes: usize, exits: usize, movements: usize, stages: usize, entries: usize) -> Value {
    let in_stage = |stage: usize| (0..movements).filter(move |m| m % stages == stage || stage % movements == *m).map(|m| format!("m{m}"));
    json!({
        "id": "J1",
        "lanes": (0..lanes).map(|i| json!({"id": format!("l{i}"), "length_m": 100, "speed_limit_kmh": 50})).collect::<Vec<_>>(),
        "exits": (0..exits).map(|i| json!({"id": format!("e{i}"), "length_m": 100})).collect::<Vec<_>>(),
        "movements": (0..movements).map(|i| json!({"id": format!("m{i}"), "turn": "through", "from_lane": "l0", "to_exit": "e0"})).collect::<Vec<_>>(),
        "stages": (0..stages).map(|i| json!({"id": i.to_string(), "protected": in_stage(i).collect::<Vec<_>>()})).collect::<Vec<_>>(),
        "timing": {"green_min_s": 5, "green_max_s": 50, "yellow_change_s": 3, "red_max_s": 3600},
        "time_of_day_plan": {"stages": (0..entries).map(|i| json!({"stage": (i % stages).to_string(), "green_s": 5})).collect::<Vec<_>>()},
    })
}

#[test]
fn lists_are_accepted_up_to_their_limit_and_refused_beyond() {
    let Limits { lanes, exits, movements, stages, time_of_day_stages: entries, .. } = LIMITS;
    let largest = Intersection::try_from(junction_of(lanes, exits, movements, stages, entries)).unwrap();
    assert!((0..movements).all(|m| largest.stages().iter().any(|stage| stage.movements().contains(m))));
    for (document, pointer) in [
        (junction_of(lanes + 1, exits, movements, stages, entries), "/lanes"),
        (junction_of(lanes, exits + 1, movements, stages, entries), "/exits"),
        (junction_of(lanes, exits, movements + 1, stages, entries), "/movements"),
        (junction_of(lanes, exits, movements, stages + 1, stages + 1), "/stages"),
        (junction_of(lanes, exits, movements, stages, entries + 1), "/time_of_day_plan/stages"),
    ] {
        let faults = Intersection::try_from(document).unwrap_err();
        assert_eq!(codes_and_pointers(&faults), [("too_many", pointer)]);
    }
}

#[test]
fn a_stage_for_whom_no_movement_stands_gets_one_if_the_time_of_day_plan_shows_it() {
    let with = |edits: &[Change]| {
        let shown: [Change; 2] =
            [("/stages/-", Some(r#"{"id": "4"}"#)), ("/time_of_day_plan/stages/-", Some(r#"{"stage": "4", "green_s": 8}"#))];
        Intersection::try_from(junction_with(&[&shown, edits].concat()))
    };
    let junction = with(&[]).unwrap();
    let added = junction.movements().last().unwrap();
    assert_eq!((added.id.as_str(), added.turn, added.from_lane), ("stage:4", Turn::Pedestrian, None));
    assert_eq!(junction.movements_of(4), std::iter::once(junction.movements().len() - 1).collect());
    assert!(
        junction.clearance_between(4, 0) == junction.clearance(4) && junction.clearance(4) > Deciseconds::ZERO,
        "whoever it is has to clear"
    );

    let other = r#"{"id": "stage:4", "turn": "through", "from_lane": "n_0", "to_exit": "n_out"}"#;
    let taken = with(&[("/movements/-", Some(other)), ("/stages/0/protected/-", Some(r#""stage:4""#))]).unwrap();
    assert_eq!(taken.movements().last().unwrap().id.as_str(), "stage:4_");

    let faults = with(&[("/timing/red_max_s", Some("50"))]).unwrap_err();
    let code = faults.iter().find(|fault| fault.message.contains("stage:4")).map(|fault| fault.code);
    assert_eq!(code, Some("time_of_day_plan_limit"), "{faults:?}");

    let Limits { movements, stages, .. } = LIMITS;
    let mut full = junction_of(1, 1, movements, stages - 1, stages - 1);
    full["stages"].as_array_mut().unwrap().push(json!({"id": "last"}));
    full["time_of_day_plan"]["stages"].as_array_mut().unwrap().push(json!({"stage": "last", "green_s": 5}));
    assert_eq!(codes_and_pointers(&Intersection::try_from(full).unwrap_err()), [("too_many", "/movements")]);
}

#[test]
fn a_name_is_counted_in_characters() {
    for (characters, fits) in [(200, true), (201, false)] {
        let mut document = junction_with(&[]);
        document["name"] = "ü".repeat(characters).into();
        let faults = Intersection::try_from(document).err().unwrap_or_default();
        assert_eq!(codes_and_pointers(&faults), if fits { vec![] } else { vec![("out_of_range", "/name")] });
    }
}

#[test]
fn a_field_that_occurs_twice_is_refused_wherever_it_stands() {
    assert_eq!(Intersection::from_json(JUNCTION).unwrap(), accepted(&[]));
    for (once, twice, pointer) in [
        (r#""id": "J1""#, r#""id": "J1", "id": "J1""#, "/id"),
        (r#""green_min_s": 5"#, r#""green_min_s": 1, "green_min_s": 5"#, "/timing/green_min_s"),
        (r#""green_min_s": 5"#, r#""green_min_s": 1, "green\u005fmin_s": 5"#, "/timing/green_min_s"),
        (r#""2": {"green_min_s": 16}"#, r#""2": {"green_min_s": 16}, "0": {"green_min_s": 18}"#, "/timing/stages/0"),
        (r#""turn": "left""#, r#""turn": "left", "turn": "left""#, "/movements/1/turn"),
    ] {
        let Err(InvalidDocument::Faults(faults)) = Intersection::from_json(&JUNCTION.replacen(once, twice, 1)) else { panic!("{twice}") };
        assert_eq!(codes_and_pointers(&faults), [("duplicate_field", pointer)], "{twice}");
    }
}

#[test]
fn fields_that_occur_twice_are_named_together_with_the_other_faults() {
    let text = JUNCTION.replacen(r#""id": "J1""#, r#""id": 7, "a/b": [{"x": 1, "x": 2, "x": 3}], "id": 8"#, 1);
    let Err(InvalidDocument::Faults(faults)) = Intersection::from_json(&text) else { panic!("{text}") };
    let twice = [("duplicate_field", "/a~1b/0/x"), ("duplicate_field", "/a~1b/0/x"), ("duplicate_field", "/id")];
    assert_eq!(codes_and_pointers(&faults), [&twice[..], &[("wrong_type", "/id"), ("unknown_field", "/a~1b")]].concat());
}

#[test]
fn a_text_that_is_not_json_is_no_configuration() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for text in ["", "{", "{} {}", r#"{"id": 1e400}"#, r#"{"id": "\ud800"}"#, &deep] {
        assert!(matches!(Intersection::from_json(text), Err(InvalidDocument::NotJson(_))), "{}", &text[..text.len().min(20)]);
    }
}

#[test]
fn equal_content_has_an_equal_tag_whatever_its_order_and_layout() {
    fn reversed(value: &Value) -> String {
        match value {
            Value::Object(map) => {
                let fields: Vec<_> = map.iter().rev().map(|(name, value)| format!("{} :\n{}", json!(name), reversed(value))).collect();
                format!("{{ {} }}", fields.join(" , "))
            }
            Value::Array(list) => format!("[ {} ]", list.iter().map(reversed).collect::<Vec<_>>().join(" , ")),
            other => other.to_string(),
        }
    }
    let junction = accepted(&[]);
    let text = reversed(junction.document());
    assert_ne!(text, junction.document().to_string());
    assert_eq!(Intersection::from_json(&text).unwrap().etag(), junction.etag());
    // What a store keeps and reads again.
    assert_eq!(Intersection::from_json(&junction.document().to_string()).unwrap(), junction);
}

#[test]
fn other_content_has_another_tag() {
    let changes: [&[Change]; 7] = [
        &[],
        &[("/name", Some(r#""Main St""#))],
        &[("/name", None)],
        &[("/control/mode", Some(r#""shadow""#))],
        &[("/lanes/0/length_m", Some("180.00000000000003"))],
        &[("/time_of_day_plan/offset_s", Some("0.1"))],
        &[("/conflicts/0", Some(r#"["e_through", "n_through"]"#))],
    ];
    let tags: BTreeSet<_> = changes.into_iter().map(|changes| accepted(changes).etag()).collect();
    assert_eq!(tags.len(), changes.len());
}

#[test]
fn a_text_that_is_no_tag_is_refused() {
    let digits = "0123456789abcdef0123456789abcdef";
    assert_eq!(digits.parse::<ETag>().unwrap().to_string(), digits);
    assert_eq!(digits.parse::<ETag>().unwrap().short(), 0xefcd_ab89_6745_2301);
    for text in ["", &digits[1..], &format!("{digits}0"), &digits.replace('0', "g"), &"+f".repeat(16), &"é".repeat(16)] {
        assert_eq!(text.parse::<ETag>(), Err(InvalidETag), "{text}");
    }
}

#[test]
fn a_change_takes_the_clearance_of_the_stage_that_ends_unless_all_its_movements_stay_green() {
    let junction = accepted(&[
        ("/stages/-", Some(r#"{"id": "4", "protected": ["n_left"]}"#)),
        ("/timing/stages/4", Some(r#"{"yellow_change_s": 4, "red_clearance_s": 2}"#)),
    ]);
    for (from, to, tenths) in [(0, 1, 40), (1, 0, 40), (1, 4, 40), (4, 1, 0), (4, 0, 60), (4, 4, 0), (9, 0, 0), (0, 9, 40)] {
        assert_eq!(junction.clearance_between(from, to).tenths(), tenths, "{from} to {to}");
    }
}

#[test]
fn a_protected_movement_is_cleared_before_one_that_it_conflicts_with_begins_although_it_stays_permitted() {
    let lead = r#"{"id": "4", "protected": ["n_left", "n_through"]}"#;
    let both = r#"{"id": "5", "protected": ["n_through", "s_through"], "permitted": ["n_left"]}"#;
    let junction = accepted(&[("/stages/-", Some(lead)), ("/stages/-", Some(both))]);
    assert_eq!(junction.clearance_between(4, 5).tenths(), 40);
    let without = accepted(&[("/stages/-", Some(lead)), ("/stages/-", Some(both)), ("/conflicts", Some("[]"))]);
    assert_eq!(without.clearance_between(4, 5).tenths(), 0);
}

#[test]
fn the_red_of_a_movement_in_the_time_of_day_plan_is_its_longest_one() {
    // Greens of 30, 10, 25 and 10 s, each followed by 4 s of clearance: a cycle of 91 s.
    const TWICE: Change = (
        "/time_of_day_plan/stages",
        Some(
            r#"[{"stage": "0", "green_s": 30}, {"stage": "1", "green_s": 10}, {"stage": "0", "green_s": 20}, {"stage": "2", "green_s": 25},
                {"stage": "3", "green_s": 10}]"#,
        ),
    );
    let rows: [(&[Change], usize, u32); 9] = [
        (&[], 0, 610),
        (&[], 1, 810),
        (&[], 4, 660),
        (&[], 8, 610),
        // Green in neighbours: red only once between, also where the plan begins again.
        (&[("/stages/1/permitted", Some(r#"["n_through"]"#))], 0, 470),
        (&[("/stages/3/permitted", Some(r#"["n_through"]"#))], 0, 470),
        // Green in stages that are no neighbours: 4 + 10 + 4 s and 4 + 10 + 4 s.
        (&[("/stages/2/permitted", Some(r#"["n_through"]"#))], 0, 180),
        // Twice in a cycle of 115 s: 18 s and 47 s.
        (&[TWICE], 0, 470),
        (&[TWICE], 1, 1050),
    ];
    for (changes, movement, tenths) in rows {
        let red = red_in_plan(&accepted(changes), movement).unwrap();
        assert_eq!(red.tenths(), tenths, "{changes:?} {movement}");
    }
    assert_eq!(red_in_plan(&accepted(&[]), 99), None);
}

#[test]
fn the_time_of_day_plan_runs_from_the_epoch_and_its_offset_in_both_directions() {
    let rows = [
        // Offset, instant in ms; entry, tenths since its green began.
        ("0", 0, 0, 0),
        ("0", 29_999, 0, 299),
        ("0", 30_000, 0, 300),
        ("0", 33_999, 0, 339),
        ("0", 34_000, 1, 0),
        ("0", 48_000, 2, 0),
        ("0", 77_000, 3, 0),
        ("0", 90_999, 3, 139),
        ("0", 91_000, 0, 0),
        ("0", 91_000 * 1_000_000 + 34_000, 1, 0),
        ("0", -1, 3, 139),
        ("0", -100, 3, 139),
        ("0", -14_000, 3, 0),
        ("0", -91_000, 0, 0),
        ("10", 10_000, 0, 0),
        ("10", 0, 3, 40),
        ("10.5", 10_400, 3, 139),
        // More than a cycle.
        ("101", 10_000, 0, 0),
        ("86400", 86_400_000, 0, 0),
        ("10", -81_000, 0, 0),
    ];
    for (offset, at, entry, into) in rows {
        let junction = accepted(&[("/time_of_day_plan/offset_s", Some(offset))]);
        let stands = junction.time_of_day_at(Timestamp::from_millis(at));
        assert_eq!(stands, (entry, Deciseconds::new(into)), "offset {offset}, {at} ms");
    }
}

#[test]
fn the_cover_takes_the_fullest_stage_first_and_none_in_vain() {
    assert_eq!(accepted(&[]).cover(), [0, 2, 1, 3]);
    assert_eq!(accepted(&[]).cover_cycle(), Deciseconds::from_secs(18 + 16 + 5 + 5 + 5 * 4));
    let part = accepted(&[("/stages/-", Some(r#"{"id": "4", "protected": ["n_left"]}"#))]);
    assert_eq!(part.cover(), [0, 2, 1, 3]);
    let whole = Intersection::try_from(junction_of(1, 1, 3, 1, 1)).unwrap();
    assert_eq!(whole.cover(), [0]);
}

/// A junction with any membership of movements in stages, any timing and any order of the time-of-day plan, with the longest
/// red that can be asked for.
fn any_junction() -> impl Strategy<Value = Value> {
    let stage = |movements: usize| (vec(any::<bool>(), movements), 0..movements, 10..300_u32, 30..=60_u32, 0..=100_u32);
    let sizes = (1..9_usize, 1..7_usize);
    let lists = sizes.prop_flat_map(move |(movements, stages)| {
        (vec(stage(movements), stages), vec(0..stages, movements), vec((0..stages, 0..200_u32), 0..6), 0..864_000_u32)
    });
    let documents = lists.prop_map(|(stages, homes, extra, offset)| {
        let seconds = |tenths: u32| f64::from(tenths) / 10.0;
        let members = |number: usize, (chosen, one, ..): &(Vec<bool>, usize, u32, u32, u32)| {
            let member = |m: usize| chosen[m] || *one == m || homes[m] == number;
            (0..homes.len()).filter(|&m| member(m)).map(|m| format!("m{m}")).collect::<Vec<_>>()
        };
        let mut entries: Vec<_> = (0..stages.len()).map(|stage| (stage, 0)).chain(extra).collect();
        entries.dedup_by_key(|entry| entry.0);
        if entries.len() > 1 && entries.first().map(|entry| entry.0) == entries.last().map(|entry| entry.0) {
            entries.pop();
        }
        let mut document = junction_of(1, 1, homes.len(), stages.len(), 1);
        document["stages"] =
            stages.iter().enumerate().map(|(i, stage)| json!({"id": i.to_string(), "permitted": members(i, stage)})).collect();
        let timing = |&(_, _, green_min, yellow, red): &(Vec<bool>, usize, u32, u32, u32)| {
            json!({"green_min_s": seconds(green_min), "yellow_change_s": seconds(yellow), "red_clearance_s": seconds(red)})
        };
        document["timing"]["stages"] = stages.iter().enumerate().map(|(i, stage)| (i.to_string(), timing(stage))).collect();
        let green = |(stage, more): (usize, u32)| json!({"stage": stage.to_string(), "green_s": seconds(stages[stage].2 + more)});
        document["time_of_day_plan"] = json!({"offset_s": seconds(offset), "stages": entries.into_iter().map(green).collect::<Vec<_>>()});
        document
    });
    let skips =
        |document: &Value| Intersection::try_from(document.clone()).is_err_and(|faults| faults.iter().all(|f| f.code == "stage_skipped"));
    documents.prop_filter("a stage that a controller would skip", move |document| !skips(document))
}

/// What each tenth of a second of the time-of-day cycle shows: entry, tenths since its green began, movements that are green.
fn film(junction: &Intersection) -> Vec<(usize, u32, MovementSet)> {
    let plan = &junction.time_of_day().stages;
    let mut film = Vec::new();
    for (entry, &(stage, green)) in plan.iter().enumerate() {
        let (now, next) = (junction.movements_of(stage), junction.movements_of(plan[(entry + 1) % plan.len()].0));
        let staying = now.minus(now.minus(next));
        film.extend((0..green.tenths()).map(|i| (entry, i, now)));
        film.extend((green.tenths()..(green + junction.clearance(stage)).tenths()).map(|i| (entry, i, staying)));
    }
    film
}

proptest! {
    #[test]
    fn any_junction_is_accepted_exactly_from_the_longest_red_that_its_stages_need(document in any_junction()) {
        let with_red_max = |tenths: u32| {
            let mut document = document.clone();
            document["timing"]["red_max_s"] = json!(f64::from(tenths) / 10.0);
            Intersection::try_from(document)
        };
        let junction = with_red_max(36_000).unwrap();
        let red = (0..junction.movements().len()).filter_map(|m| red_in_plan(&junction, m)).max().unwrap();
        let way_out = if junction.stages().len() > 1 { junction.cover_cycle() } else { Deciseconds::ZERO };
        let shortest = red.max(way_out).tenths().max(10);
        let junction = with_red_max(shortest).unwrap();
        prop_assert!(way_out <= junction.red_max());
        let refused = with_red_max(shortest - 1).unwrap_err();
        prop_assert!(refused.iter().all(|f| ["red_max_unreachable", "time_of_day_plan_limit", "out_of_range"].contains(&f.code)));
    }

    #[test]
    fn the_cover_serves_every_movement_and_every_stage_of_it_adds_one(document in any_junction()) {
        let junction = Intersection::try_from(document).unwrap();
        let mut served = MovementSet::default();
        for &stage in junction.cover() {
            let more = junction.movements_of(stage).minus(served);
            prop_assert!(!more.is_empty(), "stage {} serves nobody new", stage);
            served = served.union(more);
        }
        prop_assert_eq!(served, (0..junction.movements().len()).collect());
    }

    #[test]
    fn the_time_of_day_plan_stands_where_its_film_is_and_repeats(document in any_junction(), tenths in -900_000..900_000_i64) {
        let junction = Intersection::try_from(document).unwrap();
        let film = film(&junction);
        prop_assert_eq!(film.len(), usize::try_from(junction.time_of_day_cycle().tenths()).unwrap());
        let begin = i64::from(junction.time_of_day().offset.tenths());
        let frame = usize::try_from((tenths - begin).rem_euclid(i64::try_from(film.len()).unwrap())).unwrap();
        let at = Timestamp::from_millis(tenths * 100);
        let (entry, into) = junction.time_of_day_at(at);
        prop_assert_eq!((entry, into.tenths()), (film[frame].0, film[frame].1));
        prop_assert_eq!(junction.time_of_day_at(at + junction.time_of_day_cycle()), (entry, into));
    }

    #[test]
    fn the_longest_red_is_that_of_the_film(document in any_junction()) {
        let junction = Intersection::try_from(document).unwrap();
        let film = film(&junction);
        for movement in 0..junction.movements().len() {
            let green = film.iter().map(|frame| frame.2.contains(movement));
            let (mut red, mut longest) = (0, 0);
            for green in green.clone().chain(green) {
                red = if green { 0 } else { red + 1 };
                longest = longest.max(red);
            }
            prop_assert_eq!(red_in_plan(&junction, movement).unwrap().tenths(), longest, "movement {}", movement);
        }
    }

    #[test]
    fn a_set_of_movements_is_a_set(a in vec(0..128_usize, 0..20), b in vec(0..128_usize, 0..20)) {
        let set = |list: &[usize]| list.iter().copied().collect::<MovementSet>();
        let tree = |list: &[usize]| list.iter().copied().collect::<BTreeSet<_>>();
        let list = |tree: BTreeSet<usize>| tree.into_iter().collect::<Vec<_>>();
        let (sa, sb, ta, tb) = (set(&a), set(&b), tree(&a), tree(&b));
        prop_assert_eq!(sa.union(sb).iter().collect::<Vec<_>>(), list(&ta | &tb));
        prop_assert_eq!(sa.minus(sb).iter().collect::<Vec<_>>(), list(&ta - &tb));
        prop_assert_eq!((sa.len() as usize, sa.is_empty()), (ta.len(), ta.is_empty()));
        prop_assert!((0..130).all(|movement| sa.contains(movement) == ta.contains(&movement)));
    }
}
