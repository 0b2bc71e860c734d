//! What the junction of `events/intersection.json` decides, and why.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

use serde_json::{Value, json};
use shared::intersection::{Intersection, Planner};
use shared::plan::{PlanSource, PublishedPlan};
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::parse_reading;
use signal_adjustment::control::{Decision, Limit};
use signal_adjustment::estimate::served;
use signal_adjustment::junction::{Folded, Inputs, Junction};
use signal_adjustment::record::{decide_again, record};
use signal_adjustment::signal::Phase;

const LANES: [&str; 8] = ["n_0", "n_1", "s_0", "s_1", "e_0", "e_1", "w_0", "w_1"];

fn intersection(change: impl FnOnce(&mut Value)) -> Intersection {
    let mut document: Value = serde_json::from_str(include_str!("../../../events/intersection.json")).unwrap();
    change(&mut document);
    Intersection::try_from(document).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    // 2026-11-22T08:00:00Z
    Timestamp::from_millis(1_795_334_400_000 + 1000 * seconds)
}

fn reading(value: &Value) -> SensorReading {
    parse_reading(&serde_json::value::to_raw_value(value).unwrap()).unwrap()
}

fn detector(lane: &str, seconds: i64, measures: &Value) -> SensorReading {
    let mut value = json!({"type": "detector", "intersection_id": "J1", "detector_id": lane, "time": at(seconds), "period_s": 5});
    value.as_object_mut().unwrap().extend(measures.as_object().unwrap().clone());
    reading(&value)
}

fn signal(stage: &str, elapsed: f64, seconds: i64, mode: &str) -> SensorReading {
    reading(&json!({
        "type": "signal_state", "intersection_id": "J1", "time": at(seconds), "stage": stage, "stage_elapsed_s": elapsed, "mode": mode,
    }))
}

/// One step: the signal, and a queue on each lane.
fn step(stage: &str, elapsed: f64, seconds: i64, queues: [u32; 8]) -> Vec<SensorReading> {
    let mut readings = vec![signal(stage, elapsed, seconds, "adaptive")];
    readings.extend(LANES.iter().zip(queues).map(|(lane, queue)| detector(lane, seconds, &json!({"queue": queue}))));
    readings
}

fn decide(junction: &mut Junction, intersection: &Intersection, readings: &[SensorReading]) -> (Inputs, Decision, PublishedPlan) {
    for reading in readings {
        let _ = junction.fold(intersection, reading);
    }
    let (inputs, decision, plan) = junction.decide(intersection);
    (inputs, decision, plan.unwrap())
}

fn first(intersection: &Intersection, readings: &[SensorReading]) -> (Inputs, Decision, PublishedPlan) {
    decide(&mut Junction::unknown(intersection), intersection, readings)
}

/// The second stage of a plan, and how many seconds after the step its green begins.
fn next(plan: &PublishedPlan) -> (&str, i64) {
    let next = &plan.stages[1];
    (next.stage.as_str(), (next.start.as_millis() - plan.as_of.as_millis()) / 1000)
}

#[test]
fn the_stage_with_most_waiting_vehicles_is_next() {
    let junction = intersection(|_| {});
    let (_, decision, plan) = first(&junction, &step("0", 20.0, 0, [0, 1, 0, 1, 2, 9, 2, 8]));
    assert_eq!(plan.reason.code, "queue_pressure");
    // Yellow 3 s and red clearance 1 s from now on.
    assert_eq!(next(&plan), ("3", 4));
    assert_eq!(plan.source, PlanSource::Adaptive);
    let cheapest = decision.candidates.iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).unwrap();
    assert_eq!(cheapest.stage.as_str(), "3");
}

#[test]
fn a_queue_that_is_almost_served_is_served_before_a_longer_one() {
    let junction = intersection(|_| {});
    let (_, _, plan) = first(&junction, &step("0", 20.0, 0, [3, 0, 0, 0, 4, 0, 0, 0]));
    // Three vehicles need almost six seconds; yellow and red clearance take four.
    let (stage, start) = next(&plan);
    assert_eq!(stage, "2");
    assert!((4 + 4..=8 + 4).contains(&start), "{plan:?}");
}

#[test]
fn a_stage_turns_green_when_its_vehicles_arrive_not_when_they_have_stopped() {
    let junction = intersection(|_| {});
    let arriving = |away_m: usize| {
        let bin = away_m / 25;
        let moving: Vec<u32> = (0..8).map(|b| if b == bin { 3 } else { 0 }).collect();
        let speeds: Vec<Option<f64>> = (0..8).map(|b| (b == bin).then_some(45.0)).collect();
        json!({"profile": {"bin_m": 25, "vehicles": moving, "moving": moving, "speed_mean_kmh": speeds}})
    };
    let mut readings = step("0", 20.0, 0, [0; 8]);
    // 100 m at 12.5 m/s are 8 s, and the clearance takes four of them.
    readings[5] = detector("e_0", 0, &arriving(100));
    let (_, _, plan) = first(&junction, &readings);
    let (stage, start) = next(&plan);
    assert_eq!(stage, "2");
    assert!((4..=9).contains(&start), "{plan:?}");
    assert_eq!(plan.reason.code, "queue_pressure");
}

#[test]
fn turning_vehicles_that_stand_at_a_green_get_right_of_way_before_crossing_traffic_gets_green() {
    let junction = intersection(|document| {
        document["stages"][0]["permitted"] = json!(["n_left", "s_left"]);
        document["control"]["planner"] = json!({"stranding_cost_s": 60});
    });
    let standing = |vehicles: u32| json!({"profile": {"bin_m": 25, "vehicles": [vehicles], "moving": [0], "speed_mean_kmh": [null]}});
    for (n_left, next_stage) in [(0, "2"), (2, "1")] {
        let mut readings = step("0", 20.0, 0, [0, 0, 0, 0, 2, 0, 2, 0]);
        readings[2] = detector("n_1", 0, &standing(n_left));
        assert_eq!(next(&first(&junction, &readings).2).0, next_stage, "{n_left} vehicles stand");
    }
}

#[test]
fn greens_start_later_where_turns_that_give_way_share_more_than_one_lane_with_through_vehicles() {
    let cost = |turns: &[(&str, &str)], right_of_way: &str, green_for: f64, (stage, queues): (&str, [u32; 8]), margin_s: f64| {
        let junction = intersection(|document| {
            for (lane, exit) in turns {
                let turn = json!({"id": format!("{lane}_right"), "from_lane": lane, "to_exit": exit, "turn": "right"});
                document["movements"].as_array_mut().unwrap().push(turn);
                document["stages"][2][right_of_way].as_array_mut().unwrap().push(json!(format!("{lane}_right")));
            }
            // Who gives way discharges like the others, so that the margin is all that tells them apart.
            document["control"]["planner"] = json!({"give_way_margin_s": margin_s, "permitted_share": 1});
        });
        let (_, decision, _) = first(&junction, &step("0", green_for, 0, queues));
        decision.candidates.iter().find(|candidate| candidate.stage.as_str() == stage).unwrap().cost
    };
    let six_at = |lane: &str| LANES.map(|l| if l == lane { 6 } else { 0 });
    let both = [("e_0", "n_out"), ("w_0", "s_out")];
    for (turns, right_of_way) in [(&both[..], "protected"), (&both[..1], "permitted"), (&[], "permitted")] {
        let cost = |margin_s| cost(turns, right_of_way, 20.0, ("2", six_at("e_0")), margin_s);
        let more = cost(2.0) - cost(0.0);
        assert!(more.abs() < 0.01, "{turns:?} {right_of_way}: {more}");
    }
    // In the stage with these turns and in another, six vehicles wait for two seconds more.
    for (stage, lane) in [("2", "e_0"), ("3", "e_1")] {
        let cost = |margin_s| cost(&both, "permitted", 20.0, (stage, six_at(lane)), margin_s);
        let more = cost(2.0) - cost(0.0);
        assert!((more - 12.0).abs() < 0.01, "stage {stage}: {more}");
    }
    // Those whom the running stage leaves behind at its maximum green are fewer, as more of its yellow is used.
    let cost = |margin_s| cost(&both, "permitted", 50.0, ("2", six_at("n_0")), margin_s);
    assert!(cost(2.0) < cost(0.0) - 6.0, "{} {}", cost(2.0), cost(0.0));
}

/// Since when the running green is on after reports of stage 0: their time, `stage_elapsed_s` and mode.
fn green_since(reports: &[(i64, f64, &str)]) -> Timestamp {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    // The detectors come first: what the signal shows is assumed until it is reported.
    let assumed: Vec<_> = LANES.iter().map(|lane| detector(lane, -5, &json!({"queue": 1}))).collect();
    decide(&mut state, &junction, &assumed);
    let mut since = None;
    for &(seconds, elapsed, mode) in reports {
        let mut readings = step("0", elapsed, seconds, [1; 8]);
        readings[0] = signal("0", elapsed, seconds, mode);
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        let Phase::Green { stage: 0, since: on } = inputs.state.phase else { panic!("{:?}", inputs.state.phase) };
        since = Some(on);
    }
    since.unwrap()
}

#[test]
fn a_green_is_as_old_as_all_reports_of_it_allow() {
    let adaptive = "adaptive";
    assert_eq!(green_since(&[(0, 3.0, adaptive)]), at(-3), "the first report is believed, whatever was assumed");
    assert_eq!(green_since(&[(0, 3.0, adaptive), (5, 8.0, adaptive)]), at(-3));
    for wrong in [0.0, 90.0] {
        assert_eq!(green_since(&[(0, 3.0, adaptive), (5, wrong, adaptive)]), at(-3), "{wrong}");
    }
    assert_eq!(green_since(&[(0, 600.0, "flash"), (5, 3.0, adaptive)]), at(2), "after flashing it began anew");
    assert_eq!(green_since(&[(0, 600.0, adaptive), (100, 3.0, adaptive)]), at(97), "there was time for other stages");
}

#[test]
fn a_movement_is_red_since_its_clearance_began_however_long_that_takes_but_not_since_an_earlier_one() {
    let junction = intersection(|_| {});
    let red_after = |gap: i64| {
        let mut state = Junction::unknown(&junction);
        let clearing = |seconds: i64| {
            let mut readings = step("0", 0.0, seconds, [1; 8]);
            readings[0] = reading(&json!({
                "type": "signal_state", "intersection_id": "J1", "time": at(seconds), "stage": "0", "stage_elapsed_s": 0,
                "clearing_to": "2", "clearance_remaining_s": 4, "mode": "adaptive",
            }));
            readings
        };
        decide(&mut state, &junction, &clearing(0));
        let (inputs, ..) = decide(&mut state, &junction, &clearing(gap));
        let ended = junction.movements_of(0).minus(junction.movements_of(2)).iter().next().unwrap();
        inputs.state.red_since[ended].unwrap()
    };
    let began = at(4) - junction.clearance(0);
    assert_eq!(red_after(5), began);
    assert_eq!(red_after(400), began + Deciseconds::from_secs(400));
}

#[test]
fn a_stage_keeps_its_minimum_green_whatever_waits() {
    let junction = intersection(|_| {});
    // Stage 0 serves pedestrians: 7 s to walk, 11 s to clear.
    let (_, decision, plan) = first(&junction, &step("0", 6.0, 0, [0, 0, 0, 0, 40, 0, 40, 0]));
    assert_eq!((plan.reason.code.as_str(), decision.limits), ("green_min", vec![Limit::GreenMin]));
    assert_eq!(next(&plan), ("2", 18 - 6 + 4));
}

#[test]
fn a_stage_ends_at_its_maximum_green_although_more_wait_for_it() {
    let junction = intersection(|_| {});
    let (_, decision, plan) = first(&junction, &step("0", 50.0, 0, [30, 0, 30, 0, 1, 0, 0, 0]));
    assert_eq!((plan.reason.code.as_str(), decision.limits[0]), ("green_max", Limit::GreenMax));
    assert_eq!(next(&plan).1, 4);
}

#[test]
fn a_movement_is_served_before_its_red_gets_too_long_although_nobody_is_seen() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut served = vec![];
    let (mut stage, mut since) = ("0".to_owned(), 0);
    for seconds in (0..600).step_by(5) {
        let elapsed = f64::from(u32::try_from(seconds - since).unwrap());
        // A queue that never ends for the through movements of one road.
        let (_, _, plan) = decide(&mut state, &junction, &step(&stage, elapsed, seconds, [20, 0, 20, 0, 0, 0, 0, 0]));
        // The controller follows; changes are looked at every 5 s here, so a green may begin up to 4 s before a step.
        let now = at(seconds + 5);
        let shown = plan.stages.iter().rev().find(|s| s.start <= now).unwrap();
        if shown.stage.as_str() != stage {
            stage = shown.stage.as_str().to_owned();
            since = (shown.start.as_millis() - at(0).as_millis()) / 1000;
            served.push(stage.clone());
        }
    }
    for id in ["0", "1", "2", "3"] {
        let times = served.iter().filter(|s| *s == id).count();
        assert!(times >= 4, "stage {id} was served {times} times in 10 minutes: {served:?}");
    }
}

#[test]
fn what_counts_as_waiting_comes_from_the_best_measure_there_is() {
    let junction = intersection(|_| {});
    let speeds = json!([36, 36, 36, 36]);
    let profile =
        json!({"profile": {"bin_m": 25, "vehicles": [1, 1, 3, 2], "moving": [1, 1, 1, 2], "speed_mean_kmh": speeds}, "queue": 50});
    for (measures, waiting, arriving) in [
        // Who stands waits, who moves arrives: from the middle of 25 m at 10 m/s.
        (profile, 2.0, vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 2.0]),
        (json!({"queue": 3, "vehicles": 9, "occupancy": 0.5}), 3.0, vec![]),
        (json!({"vehicles": 9, "occupancy": 0.5}), 9.0, vec![]),
    ] {
        let mut readings = step("2", 30.0, 0, [0; 8]);
        readings[1] = detector("n_0", 0, &measures);
        let (inputs, _, _) = first(&junction, &readings);
        let known = inputs.estimate.detectors()[0];
        assert!((queue_on(&inputs, "n_0") - waiting).abs() < 0.1, "{measures}: {known:?}");
        let mut seconds: Vec<f64> = known.arrivals.vehicles().collect();
        seconds.truncate(seconds.iter().rposition(|&n| n > 0.0).map_or(0, |last| last + 1));
        assert_eq!(seconds, arriving, "{measures}");
    }
}

/// Vehicles that a decision took to wait on a lane.
fn queue_on(inputs: &Inputs, lane: &str) -> f64 {
    inputs.estimate.waiting().nth(LANES.iter().position(|l| *l == lane).unwrap()).unwrap()
}

/// What a decision took to wait on lane `n_0`, step after step of 5 s: what its detector said, the stage shown and for how long.
fn queues_of_n_0(steps: &[(Option<Value>, &str, f64)]) -> Vec<f64> {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut seconds = 0;
    let mut queue = |(said, stage, elapsed): &(Option<Value>, &str, f64)| {
        let mut readings = step(stage, *elapsed, seconds, [0; 8]);
        match said {
            Some(measures) => readings[1] = detector("n_0", seconds, measures),
            None => drop(readings.remove(1)),
        }
        seconds += 5;
        queue_on(&decide(&mut state, &junction, &readings).0, "n_0")
    };
    steps.iter().map(&mut queue).collect()
}

/// What detectors of all kinds say, one kind after the other; of some lanes nobody says anything.
fn of_all_kinds(lane: usize, vehicles: u32) -> Option<Value> {
    let bins = json!({"bin_m": 25, "vehicles": [vehicles, 2], "moving": [0, 2], "speed_mean_kmh": [null, 40.0]});
    match lane % 5 {
        0 => Some(json!({"volume": vehicles % 4})),
        1 => Some(json!({"volume": vehicles % 3, "occupancy": f64::from(vehicles % 11) / 10.0})),
        2 => Some(json!({"occupancy": f64::from(vehicles % 11) / 10.0})),
        3 => Some(json!({"profile": bins})),
        _ => None,
    }
}

/// One step with detectors of all kinds.
fn mixed_step(seconds: i64) -> Vec<SensorReading> {
    let number = u32::try_from(seconds / 5).unwrap();
    let stage = ["0", "1", "2", "3"][usize::try_from(number / 3 % 4).unwrap()];
    let mut readings = vec![signal(stage, f64::from(number % 3) * 5.0 + 1.0, seconds, "adaptive")];
    let said = LANES.iter().enumerate().filter_map(|(at, lane)| Some((lane, of_all_kinds(at, (number * 7 + 3) % 13)?)));
    readings.extend(said.map(|(lane, measures)| detector(lane, seconds, &measures)));
    readings
}

#[test]
fn with_detectors_of_all_kinds_a_step_in_parts_a_stored_state_and_a_record_give_the_same_decision() {
    let junction = intersection(|_| {});
    let (mut whole, mut parts) = (Junction::unknown(&junction), Junction::unknown(&junction));
    let mut reckoned = 0;
    for seconds in (0..300).step_by(5) {
        let readings = mixed_step(seconds);
        let (inputs, decision, plan) = decide(&mut whole, &junction, &readings);
        let (first, second) = readings.split_at(readings.len() / 2);
        decide(&mut parts, &junction, first);
        parts = Junction::from_bytes(&parts.to_bytes().unwrap()).unwrap();
        let again = decide(&mut parts, &junction, second);
        assert_eq!((&again.0, &again.1), (&inputs, &decision), "at {seconds} s");
        let written = record(&junction, &inputs, &decision, None, &plan);
        let read = serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(decide_again(&junction, &read).unwrap(), decision, "at {seconds} s");
        let bytes = whole.to_bytes().unwrap().len();
        assert!(bytes < 850, "{bytes} bytes");
        reckoned += usize::from(queue_on(&inputs, "n_0") > 0.0) + usize::from(queue_on(&inputs, "e_0") > 0.0);
    }
    assert!(reckoned > 60, "{reckoned}");
}

fn assert_queues(steps: &[(Option<Value>, &str, f64)], expected: &[f64]) {
    let queues = queues_of_n_0(steps);
    assert_eq!(queues.len(), expected.len());
    assert!(queues.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.1), "{queues:?} instead of {expected:?}");
}

/// Vehicles a second that lane `n_0` discharges while it is green, in stage 0.
fn flow() -> f64 {
    Planner::default().saturation_flow_vph / 3600.0
}

/// How long `n_0` has been red when stage 2 has been green for 30 s: since the stage before it, by the time-of-day plan, and its clearance.
const RED_S: f64 = 30.0 + 4.0 + 10.0 + 4.0;

#[test]
fn on_a_lane_that_only_counts_wait_those_of_the_usual_rate_since_red_less_those_that_were_counted() {
    // A tenth of a vehicle a second is the prior.
    let counted = |vehicles: f64| Some(json!({"volume": vehicles}));
    let rate = |counts: &[f64]| counts.iter().fold(0.1, |rate: f64, count| rate + 5.0 / 300.0 * (count / 5.0 - rate));
    let red = RED_S * rate(&[0.0]);
    let more = red + 5.0 * rate(&[0.0, 0.0]);
    let green = more + 5.0 * rate(&[0.0, 0.0, 2.0]) - 2.0;
    assert_queues(&[(counted(0.0), "2", 30.0), (counted(0.0), "2", 35.0), (counted(2.0), "0", 1.0)], &[red, more, green]);
    // Where nobody waited, nobody is made up while others have green.
    let empty = Some(json!({"queue": 0}));
    assert_queues(&[(empty, "2", 30.0), (counted(0.0), "2", 35.0)], &[0.0, 5.0 * rate(&[0.0])]);
}

#[test]
fn a_queue_is_over_when_fewer_pass_than_a_queue_discharges_and_lasts_while_as_many_pass() {
    let counted = |vehicles: f64| Some(json!({"volume": vehicles}));
    let last = |count: f64| {
        queues_of_n_0(&[(counted(0.0), "2", 60.0), (counted(0.0), "0", 1.0), (counted(2.0), "0", 6.0), (counted(count), "0", 11.0)])[3]
    };
    assert!(last(1.0) < f64::EPSILON, "{}", last(1.0));
    assert!(last(2.0) > 4.0, "{}", last(2.0));
    // However many were reckoned, who passes at full flow is followed.
    assert_queues(&[(counted(0.0), "0", 30.0), (counted(3.0), "0", 35.0), (counted(3.0), "0", 40.0)], &[0.0, 2.0, 2.0]);
}

#[test]
fn a_loop_shows_whether_somebody_stands_at_the_stop_line() {
    let occupied = |share: f64| Some(json!({"volume": 0, "occupancy": share}));
    assert_queues(&[(occupied(0.0), "2", 30.0), (occupied(1.0), "2", 35.0), (occupied(0.02), "2", 40.0)], &[0.0, 1.0, 0.0]);
    // One vehicle on the loop is one vehicle, however long it stands there: the others are those of the usual rate.
    let standing = queues_of_n_0(&[(occupied(1.0), "2", 30.0), (occupied(1.0), "2", 35.0)]);
    assert!(standing[1] < 6.0, "{standing:?}");
    // Of a loop that does not count, the signal tells how many left.
    let occupancy = |share: f64| Some(json!({"occupancy": share}));
    let green = [(occupancy(0.5), "2", 30.0), (occupancy(0.5), "2", 35.0), (occupancy(0.5), "0", 1.0), (occupancy(0.5), "0", 6.0)];
    assert_queues(&green, &[4.8, 5.3, 5.3 + 0.5 - flow(), 5.3 + 1.0 - 6.0 * flow()]);
}

#[test]
fn a_lane_that_nobody_sees_is_reckoned_with_its_own_rate_or_that_of_the_others_and_what_the_signal_lets_pass() {
    let junction = intersection(|_| {});
    // Nobody counts: 360 vehicles an hour.
    assert_queues(
        &[(None, "2", 30.0), (None, "2", 35.0), (None, "0", 1.0), (None, "0", 6.0)],
        &[4.8, 5.3, 5.3 + 0.5 - flow(), 5.3 + 1.0 - 6.0 * flow()],
    );
    // It counted much until its detector said that it is out of order: 20 minutes of 900 vehicles an hour.
    let mut state = Junction::unknown(&junction);
    for seconds in (0..1200).step_by(5) {
        let mut readings = step("2", 30.0, seconds, [0; 8]);
        readings[1] = detector("n_0", seconds, &json!({"volume": 1.25, "queue": 0}));
        readings[2] = detector("n_1", seconds, &json!({"volume": 0.25, "queue": 0}));
        decide(&mut state, &junction, &readings);
    }
    let mut out_of_order = |seconds: i64| {
        let mut readings = step("2", 30.0, seconds, [0; 8]);
        readings[1] = detector("n_0", seconds, &json!({"volume": 0, "fault": "no_activity"}));
        readings[2] = detector("n_1", seconds, &json!({"volume": 0.25, "fault": "no_activity"}));
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        (queue_on(&inputs, "n_0"), queue_on(&inputs, "n_1"))
    };
    let ((busy, quiet), (busy_later, quiet_later)) = (out_of_order(1200), out_of_order(1205));
    assert!((busy_later - busy - 5.0 * 0.25).abs() < 0.1, "{busy} {busy_later}");
    // The other lanes counted nothing, so nobody has less than the prior.
    assert!((quiet_later - quiet - 5.0 * 0.1).abs() < 0.1, "{quiet} {quiet_later}");
}

#[test]
fn a_lane_without_a_detector_gets_green_although_others_wait_where_they_are_seen() {
    let junction = intersection(|document| document["lanes"][5]["detector_id"] = Value::Null);
    let mut state = Junction::unknown(&junction);
    let served = (0..24).filter(|step_number| {
        let seconds = 5 * step_number;
        let mut readings = step("2", 30.0, seconds, [2, 0, 2, 0, 0, 0, 0, 0]);
        readings.remove(6);
        readings[0] = signal("0", 20.0 + f64::from(i32::try_from(seconds).unwrap()), seconds, "adaptive");
        let (_, _, plan) = decide(&mut state, &junction, &readings);
        next(&plan).0 == "3"
    });
    assert!(served.count() > 0);
}

#[test]
fn what_left_while_a_detector_was_silent_waits_no_more_and_what_arrived_does() {
    let profile = |queue: u32, moving: u32| {
        Some(json!({"volume": 0, "profile": {
            "bin_m": 25, "vehicles": [queue, moving], "moving": [0, moving], "speed_mean_kmh": [null, 45.0],
        }}))
    };
    // Two vehicles are 37.5 m from the stop line, at 12.5 m/s.
    let red = [(profile(3, 2), "2", 30.0), (None, "2", 35.0), (profile(4, 0), "2", 40.0)];
    assert_queues(&red, &[3.0, 5.0, 4.0]);
    let green = [(profile(6, 2), "0", 30.0), (None, "0", 35.0), (None, "0", 40.0)];
    assert_queues(&green, &[6.0, 8.0 - 5.0 * flow(), 8.0 - 10.0 * flow()]);
}

#[test]
fn a_queue_is_the_same_whether_the_signal_reports_every_second_or_every_five() {
    let junction = intersection(|_| {});
    // n_0 counts, of s_0 nobody says anything, and all others count nobody: 20 vehicles an hour after a while.
    let queues = |every: i64| {
        let mut state = Junction::unknown(&junction);
        let mut queues = Vec::new();
        for seconds in (0..=900).step_by(usize::try_from(every).unwrap()) {
            let (stage, since) = if seconds < 870 { ("2", -30) } else { ("0", 870) };
            let mut readings = vec![signal(stage, f64::from(i32::try_from(seconds - since).unwrap()), seconds, "adaptive")];
            if seconds % 5 == 0 {
                let counts = LANES.iter().filter(|lane| **lane != "s_0");
                readings.extend(counts.map(|lane| detector(lane, seconds, &json!({"volume": if seconds > 875 { 2 } else { 0 }}))));
            }
            let (inputs, ..) = decide(&mut state, &junction, &readings);
            if seconds % 5 == 0 {
                queues.push((queue_on(&inputs, "n_0"), queue_on(&inputs, "s_0")));
            }
        }
        queues
    };
    for (step, (fast, slow)) in queues(1).into_iter().zip(queues(5)).enumerate() {
        assert!((fast.0 - slow.0).abs() < 0.6 && (fast.1 - slow.1).abs() < 0.6, "step {step}: {fast:?} {slow:?}");
    }
}

#[test]
fn whoever_arrives_unseen_is_planned_for_where_nobody_would_tell_of_them() {
    let junction = intersection(|_| {});
    let staying = |said: Option<Value>| {
        let mut readings = step("2", 30.0, 0, [0; 8]);
        match said {
            Some(measures) => readings[1] = detector("n_0", 0, &measures),
            None => drop(readings.remove(1)),
        }
        let (inputs, decision, _) = first(&junction, &readings);
        (queue_on(&inputs, "n_0"), decision.candidates[2].cost)
    };
    let ((waiting, unseen), (seen_waiting, seen)) = (staying(None), staying(Some(json!({"queue": RED_S * 0.1}))));
    assert!((waiting - seen_waiting).abs() < 0.1);
    assert!(unseen > seen + 1.0, "{unseen} {seen}");
}

#[test]
fn of_a_detector_in_alarm_neither_the_queue_nor_the_rate_is_believed() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let readings_at = |seconds: i64, state: &mut Junction| {
        let mut readings = step("2", 30.0, seconds, [0; 8]);
        readings[1] = detector("n_0", seconds, &json!({"volume": 3}));
        queue_on(&decide(state, &junction, &readings).0, "n_0")
    };
    for seconds in (0..600).step_by(5) {
        readings_at(seconds, &mut state);
    }
    state.set_in_alarm(&junction, &[junction.detectors().next().unwrap().clone()]);
    let (before, after) = (readings_at(600, &mut state), readings_at(605, &mut state));
    // Nobody else counts: the prior.
    assert!((after - before - 0.5).abs() < 0.05, "{before} {after}");
}

#[test]
fn a_count_after_readings_that_could_not_be_used_makes_up_for_its_own_period_alone() {
    // Out of order through a red and a green in which the model let many pass; then it counts again.
    let broken = || Some(json!({"volume": 0, "fault": "erratic"}));
    let green = (0..8).map(|step| (broken(), "0", 1.0 + 5.0 * f64::from(step)));
    let steps: Vec<_> = std::iter::once((Some(json!({"volume": 0})), "2", 60.0)).chain(green).collect();
    let back = [steps, vec![(Some(json!({"volume": 0})), "0", 41.0), (Some(json!({"volume": 1})), "0", 46.0)]].concat();
    let queues = queues_of_n_0(&back);
    assert!(queues[8] < 1.0 && queues[9] < 1.0 && queues[10] < 1.0, "{queues:?}");
    let counted_red = [back[..9].to_vec(), vec![(Some(json!({"volume": 0})), "2", 1.0)]].concat();
    assert!(queues_of_n_0(&counted_red)[9] < 2.0, "{:?}", queues_of_n_0(&counted_red));
}

#[test]
fn a_rate_that_falls_leaves_no_queue_behind_that_nobody_counted() {
    // 72 vehicles an hour on a lane whose loop counts every second, after a rate of five times as much: so short a period tells nothing.
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut most = 0.0_f64;
    for seconds in 0..1800_i64 {
        let (stage, elapsed) = if seconds % 60 < 30 { ("0", seconds % 30) } else { ("2", seconds % 30) };
        let mut readings = step(stage, f64::from(i32::try_from(elapsed).unwrap()), seconds, [0; 8]);
        let passes = u8::from(seconds % 50 == 20);
        readings[1] = reading(&json!({
            "type": "detector", "intersection_id": "J1", "detector_id": "n_0", "time": at(seconds), "period_s": 1, "volume": passes,
        }));
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        if seconds > 900 {
            most = most.max(queue_on(&inputs, "n_0"));
        }
    }
    assert!(most < 0.04 * junction.red_max().as_secs(), "{most}");
}

#[test]
fn in_a_second_of_green_a_loop_may_be_between_two_vehicles() {
    let queue = |stage: &str| {
        let junction = intersection(|_| {});
        let mut state = Junction::unknown(&junction);
        decide(&mut state, &junction, &step(stage, 20.0, 0, [9, 0, 0, 0, 0, 0, 0, 0]));
        let mut readings = step(stage, 21.0, 1, [0; 8]);
        readings[1] = reading(&json!({
            "type": "detector", "intersection_id": "J1", "detector_id": "n_0", "time": at(1), "period_s": 1, "volume": 0, "occupancy": 0,
        }));
        queue_on(&decide(&mut state, &junction, &readings).0, "n_0")
    };
    assert!(queue("0") > 8.0, "{}", queue("0"));
    assert!(queue("2") < f64::EPSILON, "{}", queue("2"));
}

#[test]
fn after_a_silence_no_more_wait_than_arrive_in_the_longest_red() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("2", 30.0, 0, [0; 8]));
    let mut readings = step("2", 3630.0, 3600, [0; 8]);
    readings.remove(1);
    let (inputs, ..) = decide(&mut state, &junction, &readings);
    let most = 0.1 * junction.red_max().as_secs();
    assert!((queue_on(&inputs, "n_0") - most).abs() < 0.01, "{} of {most}", queue_on(&inputs, "n_0"));
}

#[test]
fn a_stage_is_taken_to_have_served_nobody_if_nobody_knows_when_it_ended() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut readings = step("0", 30.0, 0, [9, 0, 0, 0, 0, 0, 0, 0]);
    let (known, ..) = decide(&mut state, &junction, &readings);
    assert!((queue_on(&known, "n_0") - 9.0).abs() < f64::EPSILON);
    // 10 s later stage 1 ends. Stage 0 may have ended at once.
    readings = step("1", 5.0, 10, [0; 8]);
    readings.remove(1);
    readings[0] = reading(&json!({
        "type": "signal_state", "intersection_id": "J1", "time": at(10), "stage": "1", "stage_elapsed_s": 5.0, "clearing_to": "2",
        "clearance_remaining_s": 3.0, "mode": "adaptive",
    }));
    let (inputs, ..) = decide(&mut state, &junction, &readings);
    assert!(queue_on(&inputs, "n_0") > 8.9, "{}", queue_on(&inputs, "n_0"));
}

#[test]
fn on_a_lane_with_a_turn_that_gives_way_a_pause_is_no_end_of_the_queue() {
    let junction = intersection(|document| {
        let movements = document["movements"].as_array_mut().unwrap();
        movements.iter_mut().find(|m| m["id"] == "n_left").unwrap()["from_lane"] = json!("n_0");
        document["lanes"].as_array_mut().unwrap().retain(|lane| lane["id"] != "n_1");
        document["stages"][0]["permitted"] = json!(["n_left"]);
    });
    let mut state = Junction::unknown(&junction);
    let mut queue = |seconds: i64, stage: &str, elapsed: f64, measures: &Value| {
        let _ = state.fold(&junction, &signal(stage, elapsed, seconds, "adaptive"));
        for lane in LANES.iter().filter(|lane| **lane != "n_1") {
            let said = if *lane == "n_0" { measures.clone() } else { json!({"queue": 0}) };
            let _ = state.fold(&junction, &detector(lane, seconds, &said));
        }
        queue_on(&state.decide(&junction).0, "n_0")
    };
    queue(0, "2", 30.0, &json!({"queue": 9}));
    let nobody = json!({"volume": 0});
    let queues = [(5, 1.0), (10, 6.0), (15, 11.0), (20, 16.0)].map(|(seconds, elapsed)| queue(seconds, "0", elapsed, &nobody));
    assert!(queues[2] > 9.0 && queues[3] < f64::EPSILON, "{queues:?}");
}

#[test]
fn a_lost_count_is_made_up_for_by_what_the_signal_let_pass() {
    let counted = |vehicles: f64| Some(json!({"volume": vehicles}));
    let many = Some(json!({"queue": 11}));
    let lost = [(many.clone(), "0", 30.0), (counted(2.0), "0", 35.0), (None, "0", 40.0), (counted(2.0), "0", 45.0)];
    let queues = queues_of_n_0(&lost);
    // Of the ten seconds, five were counted; in the others as many left as the model lets pass.
    let expected = 11.0 + 15.0 * 0.1 - 2.0 - 2.0 - 5.0 * flow();
    assert!((queues[3] - expected).abs() < 0.3, "{queues:?} {expected}");
}

#[test]
fn more_green_is_no_use_to_those_who_stand_behind_a_loop_that_nobody_leaves() {
    let stuck = |seconds: u32| (Some(json!({"volume": 0, "occupancy": 1})), "0", 1.0 + f64::from(seconds));
    let steps: Vec<_> = std::iter::once((Some(json!({"queue": 9})), "2", 60.0)).chain((0..5).map(|step| stuck(5 * step))).collect();
    let queues = queues_of_n_0(&steps);
    assert!(queues[1] > 8.0 && (queues[5] - 1.0).abs() < 0.01, "{queues:?}");
}

/// What is learnt of the discharge of lane `n_0` in stage 0 from steps with this queue and these counts; `exit` vehicles stand in its exit.
fn learnt(queue: u32, volume: f64, exit: u32, steps: i64) -> f64 {
    let junction = intersection(|document| {
        document["exits"][0]["detector_id"] = json!("out");
        document["timing"]["green_max_s"] = json!(600);
        document["timing"]["red_max_s"] = json!(3600);
    });
    let lane = junction.movements().iter().find(|m| m.to_exit == Some(0)).and_then(|m| m.from_lane).unwrap();
    let stage = (0..junction.stages().len())
        .find(|&stage| junction.movements_of(stage).iter().any(|m| junction.movements()[m].from_lane == Some(lane)))
        .unwrap();
    let mut state = Junction::unknown(&junction);
    let mut learnt = 1.0;
    for number in 0..steps {
        let seconds = 5 * number;
        let elapsed = 10.0 + f64::from(i32::try_from(seconds).unwrap());
        let mut readings = step(junction.stages()[stage].id.as_str(), elapsed, seconds, [0; 8]);
        let profile = json!({"bin_m": 25, "vehicles": [queue], "moving": [0], "speed_mean_kmh": [null]});
        readings[1 + lane] = detector(LANES[lane], seconds, &json!({"volume": volume, "profile": profile}));
        readings.push(detector("out", seconds, &json!({"queue": exit})));
        let (inputs, ..) = decide(&mut state, &junction, &readings);
        let number = served(&junction).position(|pair| pair == (lane, stage)).unwrap();
        learnt = inputs.estimate.discharge()[number].factor();
    }
    learnt
}

#[test]
fn discharge_is_learnt_within_bounds_from_periods_in_which_a_queue_lasts_and_can_leave() {
    // The prior is 2.6 vehicles in 5 s.
    let sample = 3.0 / 5.0 / flow();
    let once = learnt(12, 3.0, 0, 3);
    assert!((1.01..1.0 + 0.2 * (sample - 1.0) + 0.01).contains(&once), "{once}");
    assert!((learnt(12, 3.0, 0, 60) - sample).abs() < 0.02);
    assert!((learnt(12, 8.0, 0, 60) - 1.5).abs() < 0.02);
    assert!((learnt(12, 0.0, 0, 60) - 0.5).abs() < 0.02);
    for (queue, exit) in [(0, 0), (12, 30)] {
        assert!((learnt(queue, 4.0, exit, 60) - 1.0).abs() < f64::EPSILON, "queue {queue}, exit {exit}");
    }
}

#[test]
fn an_exit_whose_loop_is_stood_upon_takes_fewer() {
    let junction = intersection(|document| document["exits"][0]["detector_id"] = json!("out"));
    let exit = junction.exits()[0].id.clone();
    let lane = junction.movements().iter().find(|m| m.to_exit == Some(0)).and_then(|m| m.from_lane).unwrap();
    let cost = |measures: &Value| {
        let mut queues = [0; 8];
        queues[lane] = 8;
        let mut readings = step("2", 30.0, 0, queues);
        readings.push(detector("out", 0, measures));
        let (_, decision, _) = first(&junction, &readings);
        decision.candidates.iter().map(|candidate| candidate.cost).fold(f64::INFINITY, f64::min)
    };
    let stands = json!({"occupancy": 0.95, "volume": 0});
    // In a discharging queue it is hardly ever free, but they get away.
    for free in [json!({"occupancy": 0.6}), json!({"occupancy": 0.9, "volume": 2}), json!({"volume": 0})] {
        assert!(cost(&stands) > 1.2 * cost(&free), "{exit}, {free}: {} {}", cost(&stands), cost(&free));
    }
}

#[test]
fn a_detector_loses_its_say_when_it_is_silent_at_fault_or_absurd() {
    let junction = intersection(|_| {});
    for (said, reason) in [
        (Some(json!({"queue": 3, "fault": "erratic"})), "fault_reported"),
        (Some(json!({"queue": 1e6})), "implausible"),
        (Some(json!({"volume": 11, "queue": 1})), "implausible"),
        (Some(json!({"speed_mean_kmh": 400, "queue": 1})), "implausible"),
        (None, "never_seen"),
    ] {
        let mut readings = step("0", 20.0, 0, [1; 8]);
        match &said {
            Some(measures) => readings[5] = detector("e_0", 0, measures),
            None => drop(readings.remove(5)),
        }
        let (_, decision, _) = first(&junction, &readings);
        let distrusted: Vec<_> = decision.distrusted.iter().map(|d| (d.detector_id.as_str(), d.reason.as_str())).collect();
        let expected: Vec<_> = std::iter::once(("e_0", reason)).collect();
        assert_eq!(distrusted.iter().filter(|(id, _)| LANES.contains(id)).copied().collect::<Vec<_>>(), expected, "{said:?}");
    }
}

#[test]
fn a_detector_has_a_say_until_three_of_its_periods_have_passed_without_it() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("0", 20.0, 0, [1; 8]));
    for (seconds, distrusted) in [(5, false), (10, false), (15, true)] {
        let mut readings = step("0", 20.0, seconds, [1; 8]);
        readings.remove(5);
        let (_, decision, _) = decide(&mut state, &junction, &readings);
        assert_eq!(decision.distrusted.iter().any(|d| d.detector_id.as_str() == "e_0"), distrusted, "after {seconds} s");
    }
}

#[test]
fn without_a_trusted_detector_for_a_stage_the_time_of_day_plan_takes_over_and_says_why() {
    let junction = intersection(|_| {});
    let mut readings = step("0", 20.0, 0, [1; 8]);
    readings.retain(|r| !matches!(r, SensorReading::Detector(d) if ["e_1", "w_1"].contains(&d.detector_id.as_str())));
    let (_, _, plan) = first(&junction, &readings);
    assert_eq!((plan.source, plan.reason.code.as_str()), (PlanSource::TimeOfDay, "no_trusted_detector"));
    assert!(plan.reason.text.contains('3'), "{}", plan.reason.text);
}

#[test]
fn the_time_of_day_plan_finds_back_to_its_place_in_the_cycle() {
    let junction = intersection(|document| document["control"]["mode"] = json!("time_of_day"));
    // Cycle: 30 + 10 + 25 + 10 s of green and 4 clearances of 4 s.
    assert_eq!(junction.time_of_day_cycle().tenths(), 910);
    let mut state = Junction::unknown(&junction);
    // The signal says stage 2 while the cycle says something else; nothing but the clock leads it.
    let _ = state.fold(&junction, &signal("2", 3.0, 0, "adaptive"));
    let mut plan = state.decide(&junction).2.unwrap();
    for seconds in (5..600).step_by(5) {
        let _ = state.fold(&junction, &detector("n_0", seconds, &json!({"queue": 1})));
        plan = state.decide(&junction).2.unwrap();
        assert_eq!((plan.source, plan.reason.code.as_str()), (PlanSource::TimeOfDay, "time_of_day_mode"));
    }
    // The next green begins when the cycle says: entry 0 at its offset, 0 s.
    let cycle = i64::from(junction.time_of_day_cycle().tenths()) * 100;
    let next = plan.stages.iter().find(|entry| entry.stage.as_str() == "0").unwrap();
    assert_eq!(next.start.as_millis().rem_euclid(cycle), 0, "{plan:?}");
}

#[test]
fn a_signal_that_others_run_gets_its_time_of_day_plan() {
    let junction = intersection(|_| {});
    for (mode, code) in [("flash", "controller_flash"), ("preempted", "controller_preempted"), ("manual", "controller_manual")] {
        let mut readings = step("0", 20.0, 0, [1; 8]);
        readings[0] = signal("0", 20.0, 0, mode);
        let (_, _, plan) = first(&junction, &readings);
        assert_eq!((plan.source, plan.reason.code.as_str()), (PlanSource::TimeOfDay, code));
    }
}

#[test]
fn a_step_in_two_parts_gives_the_same_stages_as_in_one() {
    let junction = intersection(|_| {});
    let (mut whole, mut parts) = (Junction::unknown(&junction), Junction::unknown(&junction));
    for seconds in (0..60).step_by(5) {
        let queues = [3, 1, 4, 1, 5, 9, 2, 6].map(|q: u32| q * u32::try_from(seconds).unwrap() % 11);
        let readings = step("0", 20.0, seconds, queues);
        let (_, _, expected) = decide(&mut whole, &junction, &readings);
        decide(&mut parts, &junction, &readings[..4]);
        let (_, _, plan) = decide(&mut parts, &junction, &readings[4..]);
        assert_eq!((plan.stages, plan.reason), (expected.stages, expected.reason));
    }
}

#[test]
fn late_replayed_and_foreign_readings_change_nothing() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("0", 20.0, 0, [1; 8]));
    decide(&mut state, &junction, &step("0", 25.0, 5, [2; 8]));
    let before = state.clone();
    for (reading, expected) in [
        (detector("n_0", 5, &json!({"queue": 50})), Folded::Replayed),
        (signal("1", 0.0, 5, "manual"), Folded::Replayed),
        (detector("n_0", 4, &json!({"queue": 50})), Folded::Late),
        (signal("1", 0.0, 4, "manual"), Folded::Late),
        (detector("nowhere", 5, &json!({"queue": 50})), Folded::Ignored),
        (
            reading(&json!({"type": "controller_event", "intersection_id": "J1", "time": at(9), "code": 82, "parameter": 5})),
            Folded::Ignored,
        ),
    ] {
        assert_eq!(state.fold(&junction, &reading), expected, "{reading:?}");
        assert_eq!(state, before, "{reading:?}");
    }
}

#[test]
fn a_decision_can_be_made_again_from_its_record() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut previous = None;
    for seconds in (0..120).step_by(5) {
        let mut readings = step("0", 20.0, seconds, [3, 1, 4, 1, 5, 9, 2, 6].map(|q: u32| q * u32::try_from(seconds).unwrap() % 13));
        readings.remove(usize::try_from(seconds / 5 % 9).unwrap());
        let (inputs, decision, plan) = decide(&mut state, &junction, &readings);
        let written = record(&junction, &inputs, &decision, previous.as_ref(), &plan);
        let read = serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(decide_again(&junction, &read).unwrap(), decision);
        previous = Some(plan);
    }
}

#[test]
fn a_record_from_before_queues_were_kept_gives_the_same_decision_where_all_lanes_are_seen() {
    let junction = intersection(|_| {});
    let (inputs, decision, plan) = first(&junction, &step("0", 20.0, 0, [3, 1, 4, 1, 5, 9, 2, 6]));
    let mut written = serde_json::to_value(record(&junction, &inputs, &decision, None, &plan)).unwrap();
    assert!(written["inputs"].as_object_mut().unwrap().remove("queues").is_some());
    assert_eq!(decide_again(&junction, &serde_json::from_value(written).unwrap()).unwrap(), decision);
}

#[test]
fn a_state_survives_its_bytes_and_a_four_leg_junction_takes_less_than_a_kilobyte() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    for seconds in (0..600).step_by(5) {
        let queues = [3, 1, 4, 1, 5, 9, 2, 6].map(|q: u32| q * u32::try_from(seconds).unwrap() % 60);
        let (_, _, plan) = decide(&mut state, &junction, &step("0", 20.0, seconds, queues));
        let bytes = state.to_bytes().unwrap();
        assert_eq!(Junction::from_bytes(&bytes).unwrap(), state);
        // What is left of the kilobyte pays for the keys and the names of the attributes.
        let item = bytes.len() + plan.to_bytes().unwrap().len();
        assert!(item < 850, "{item} bytes");
    }
}

#[test]
fn another_configuration_forgets_what_belonged_to_the_old_one_but_not_the_time() {
    let old = intersection(|_| {});
    let new = intersection(|document| document["timing"]["green_max_s"] = json!(40));
    let mut state = Junction::unknown(&old);
    let (_, _, before) = decide(&mut state, &old, &step("0", 20.0, 10, [1; 8]));
    let mut state = state.under(&new);
    assert_eq!(state.fold(&new, &detector("n_0", 5, &json!({"queue": 1}))), Folded::Late);
    let (_, _, after) = decide(&mut state, &new, &step("0", 25.0, 15, [1; 8]));
    assert!(after.revision > before.revision);
}

#[test]
fn what_another_version_stored_is_forgotten_but_not_its_time() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let _ = decide(&mut state, &junction, &step("0", 20.0, 0, [3; 8]));
    let bytes = state.to_bytes().unwrap();
    let (layout, rest): (u64, &[u8]) = postcard::take_from_bytes(&bytes).unwrap();
    // Format 1 had the layout as it is.
    let earlier = [postcard::to_stdvec(&(layout ^ 3)).unwrap(), rest.to_vec()].concat();
    let read = Junction::from_bytes(&earlier).unwrap().under(&junction);
    assert_eq!((read.as_of(), read == state), (at(0), false));
    assert_eq!(Junction::from_bytes(&bytes).unwrap().under(&junction), state);
}

#[test]
fn readings_that_cannot_be_used_leave_the_plan_in_force() {
    let junction = intersection(|_| {});
    let (mut asked, mut undisturbed) = (Junction::unknown(&junction), Junction::unknown(&junction));
    for state in [&mut asked, &mut undisturbed] {
        decide(state, &junction, &step("0", 20.0, 0, [0, 0, 0, 0, 9, 0, 9, 0]));
    }
    for seconds in [1, 2, 3] {
        for reading in [detector("nowhere", seconds, &json!({"queue": 1})), signal("nowhere", 1.0, seconds, "adaptive")] {
            assert!(!asked.begins_step(&junction, &reading));
            assert_eq!(asked.fold(&junction, &reading), Folded::Ignored);
        }
    }
    let next = [detector("n_0", 5, &json!({"queue": 1}))];
    assert_eq!(decide(&mut asked, &junction, &next).2, decide(&mut undisturbed, &junction, &next).2);
}

#[test]
fn another_name_or_limit_leaves_the_running_stage_and_the_reds_known() {
    let old = intersection(|_| {});
    let new = intersection(|document| {
        document["name"] = json!("renamed");
        document["timing"]["green_max_s"] = json!(40);
    });
    let mut state = Junction::unknown(&old);
    decide(&mut state, &old, &step("0", 20.0, 0, [0, 0, 0, 0, 9, 0, 9, 0]));
    // Stage 2 began 4 s after the step; without a report, that is known from the plan alone.
    let mut state = state.under(&new);
    let (inputs, _, plan) = decide(&mut state, &new, &[detector("n_0", 5, &json!({"queue": 1}))]);
    assert_eq!((plan.stages[0].stage.as_str(), plan.stages[0].start), ("2", at(4)));
    assert_eq!(inputs.state.red_since[0], Some(at(0)));
}

#[test]
fn a_clearance_that_cannot_be_is_not_believed() {
    let junction = intersection(|_| {});
    let report = |remaining: f64| {
        reading(&json!({
            "type": "signal_state", "intersection_id": "J1", "time": at(0), "stage": "0", "stage_elapsed_s": 20,
            "clearing_to": "2", "clearance_remaining_s": remaining,
        }))
    };
    // Configured are 3 s and 1 s; a controller may need some seconds more.
    assert_eq!(Junction::unknown(&junction).fold(&junction, &report(14.0)), Folded::New);
    assert_eq!(Junction::unknown(&junction).fold(&junction, &report(14.1)), Folded::Ignored);
}

#[test]
fn a_long_period_buys_no_trust_beyond_the_life_of_a_plan() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut readings = step("0", 20.0, 0, [1; 8]);
    readings[5] = reading(&json!({
        "type": "detector", "intersection_id": "J1", "detector_id": "e_0", "time": at(0), "period_s": 86400, "queue": 9,
    }));
    decide(&mut state, &junction, &readings);
    for (seconds, distrusted) in [(25, false), (30, true)] {
        let mut readings = step("0", 20.0, seconds, [1; 8]);
        readings.remove(5);
        let (_, decision, _) = decide(&mut state, &junction, &readings);
        assert_eq!(decision.distrusted.iter().any(|d| d.detector_id.as_str() == "e_0"), distrusted, "after {seconds} s");
    }
}

#[test]
fn a_signal_that_was_run_by_hand_and_says_nothing_more_follows_again() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let mut readings = step("0", 20.0, 0, [1; 8]);
    readings[0] = signal("0", 20.0, 0, "manual");
    decide(&mut state, &junction, &readings);
    for (seconds, source) in [(30, PlanSource::TimeOfDay), (35, PlanSource::Adaptive)] {
        let (_, _, plan) = decide(&mut state, &junction, &step("0", 20.0, seconds, [1; 8])[1..]);
        assert_eq!(plan.source, source, "after {seconds} s");
    }
}

#[test]
fn a_stage_seen_after_a_gap_leaves_the_reds_before_it_at_their_longest() {
    let junction = intersection(|document| document["control"]["plan_ttl_s"] = json!(60));
    let mut state = Junction::unknown(&junction);
    decide(&mut state, &junction, &step("0", 20.0, 0, [9, 0, 9, 0, 0, 0, 0, 0]));
    // 65 s later stage 3 has been green for 20 s: stages 1 and 2 may have been between, so stage 0 may have ended at once.
    let (inputs, _, _) = decide(&mut state, &junction, &step("3", 20.0, 65, [0; 8]));
    assert_eq!(inputs.state.red_since[0], Some(at(0)));
    // 5 s later there was no time for a stage between.
    let (inputs, _, _) = decide(&mut state, &junction, &step("0", 0.0, 70, [0; 8]));
    assert_eq!(inputs.state.red_since[5], Some(at(66)));
}

#[test]
fn readings_of_clocks_that_differ_within_a_second_are_one_step() {
    let junction = intersection(|_| {});
    let mut state = Junction::unknown(&junction);
    let late = |reading: &SensorReading, millis: i64| match reading.clone() {
        SensorReading::Detector(mut r) => {
            r.time = r.time.plus_millis(millis);
            SensorReading::Detector(r)
        }
        other => other,
    };
    let readings = step("0", 20.0, 0, [1; 8]);
    let skewed: Vec<_> = readings.iter().zip([0, 137, 45, 999, 1, 350, 12, 600, 7]).map(|(reading, by)| late(reading, by)).collect();
    for reading in &skewed {
        assert_eq!(state.fold(&junction, reading), Folded::New, "{reading:?}");
    }
    let plan = state.decide(&junction).2.unwrap();
    assert_eq!((plan.as_of, plan.source), (at(0).plus_millis(999), PlanSource::Adaptive));
}
