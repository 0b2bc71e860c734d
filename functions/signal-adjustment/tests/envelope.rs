//! Whatever the sensors say, the street stays inside the safety envelope.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a failing test may panic")]

mod street;

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;
use shared::ids::{DetectorId, IntersectionId, StageId};
use shared::intersection::Intersection;
use shared::reading::{DetectorFault, DetectorReading, Profile, SensorReading, SignalMode, SignalStateReading};
use shared::units::{Deciseconds, Timestamp};
use signal_adjustment::control::Inputs;
use signal_adjustment::estimate::Estimate;
use signal_adjustment::junction::{Folded, Junction};
use signal_adjustment::plan::{PlannedStage, SafetyViolation, SignalPlan};
use signal_adjustment::signal::{Phase, SignalState};
use street::{Cabinet, MOVEMENTS_MAX, Shown, any_intersection, any_roomy_intersection, at};

/// What comes in one step.
#[derive(Clone, Debug)]
struct Step {
    /// Steps that go missing before it, at most so many that the plan is still valid.
    skipped: i64,
    /// Per detector, what it says: 0..=59 vehicles, or one of the ways to be wrong.
    detectors: Vec<u8>,
    /// Whether the controller reports.
    reported: bool,
    /// Whether everything is sent twice, and the step before again.
    replayed: bool,
    /// Milliseconds that the clocks of the devices are behind the step.
    skew: Vec<i64>,
}

fn any_step(always_reported: bool) -> impl Strategy<Value = Step> {
    let skipped = prop_oneof![6 => Just(0_i64), 1 => 1_i64..=4];
    let skew = prop_oneof![Just(vec![0; 10]), proptest::collection::vec(0_i64..100, 10)];
    let parts = (skipped, proptest::collection::vec(any::<u8>(), 9), any::<bool>(), any::<bool>(), skew);
    parts.prop_map(move |(skipped, detectors, reported, replayed, skew)| Step {
        skipped,
        detectors,
        reported: reported || always_reported,
        replayed,
        skew,
    })
}

fn detector(number: usize, time: Timestamp, period: Deciseconds, said: u8) -> Option<SensorReading> {
    let mut reading = DetectorReading {
        intersection_id: IntersectionId::try_from("J1").unwrap(),
        detector_id: DetectorId::try_from(format!("d{number}").as_str()).unwrap(),
        time,
        period,
        volume: Some(1.0),
        occupancy: None,
        speed_mean_kmh: None,
        vehicles: None,
        queue: None,
        profile: None,
        fault: None,
    };
    match said {
        0..=119 => reading.queue = Some(f64::from(said % 60)),
        120..=149 => reading.occupancy = Some(f64::from(said - 120) / 30.0),
        150..=179 => {
            let vehicles = vec![f64::from(said % 7); 8];
            reading.profile = Some(Profile { bin_m: 25.0, moving: vehicles.clone(), vehicles, speed_mean_kmh: vec![None; 8] });
        }
        180..=199 => reading.queue = Some(1e9),
        200..=209 => reading.volume = Some(1e9),
        210..=219 => reading.fault = Some(DetectorFault::Erratic),
        220..=239 => {} // It only counts.
        240..=255 => return None,
    }
    Some(SensorReading::Detector(reading))
}

/// What a controller makes of `stage_elapsed_s`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Elapsed {
    True,
    /// It has none.
    Always(u32),
    /// It counts from somewhere else.
    More(u32),
}

fn report(intersection: &Intersection, cabinet: &Cabinet<'_>, now: i64, (skew, elapsed): (i64, Elapsed)) -> SensorReading {
    let id = |stage: usize| intersection.stages()[stage].id.clone();
    // As a controller rounds what it measures.
    let tenths = |millis: i64| Deciseconds::round(f64::from(i32::try_from(millis.max(0)).unwrap()) / 1000.0).unwrap();
    let (stage, stage_elapsed, clearing): (StageId, _, _) = match cabinet.shown {
        Shown::Green { stage, since } => (id(stage), tenths(100 * (now - since) + skew), None),
        Shown::Clearing { from, to, until } => (id(from), Deciseconds::ZERO, Some((id(to), tenths(100 * (until - now) - skew)))),
    };
    let stage_elapsed = match elapsed {
        Elapsed::True => stage_elapsed,
        Elapsed::Always(seconds) => Deciseconds::from_secs(seconds),
        Elapsed::More(seconds) => stage_elapsed + Deciseconds::from_secs(seconds),
    };
    SensorReading::SignalState(SignalStateReading {
        intersection_id: IntersectionId::try_from("J1").unwrap(),
        time: at(now).plus_millis(skew),
        stage,
        stage_elapsed,
        clearing,
        mode: SignalMode::Adaptive,
    })
}

/// How late a plan arrives and how often the controller looks at it, in tenths of a second.
#[derive(Clone, Copy)]
struct Pace {
    latency: i64,
    /// So much less at times, drawn from what the second detector says.
    jitter: i64,
    cycle: i64,
}

const IDEAL: Pace = Pace { latency: 0, jitter: 0, cycle: 1 };
const SLOW: Pace = Pace { latency: 20, jitter: 0, cycle: 10 };
const UNSTEADY: Pace = Pace { latency: 20, jitter: 20, cycle: 10 };

/// Runs steps against a cabinet.
///
/// The controller looks at its plan at a moment of its own in each of its cycles, drawn from what the first detector says first.
fn run<'i>(intersection: &'i Intersection, steps: &[Step], pace: Pace) -> Cabinet<'i> {
    run_with(intersection, steps, pace, Elapsed::True)
}

/// The same with a controller that tells this of its greens, from its second report on: the first one has to be believed.
fn run_with<'i>(intersection: &'i Intersection, steps: &[Step], pace: Pace, elapsed: Elapsed) -> Cabinet<'i> {
    let step_length = i64::from(intersection.control().step.tenths());
    let ttl = i64::from(intersection.control().plan_ttl.tenths());
    // What comes late makes greens longer by as much, and reds by as much at every change on the way.
    // A green that is said to be younger than it is may last a step too long.
    let late = pace.latency + pace.cycle - 1 + if elapsed == Elapsed::True { 0 } else { step_length };
    let reds_late = late * i64::try_from(intersection.stages().len() + 1).unwrap();
    let looks_at = steps.first().map_or(0, |step| i64::from(step.detectors[0])) % pace.cycle;
    let mut cabinet = Cabinet::new(intersection, 0);
    let mut junction = Junction::unknown(intersection);
    let mut followed: Vec<PlannedStage> = vec![];
    let mut coming: VecDeque<(i64, Vec<PlannedStage>)> = VecDeque::new();
    let mut before: Vec<SensorReading> = vec![];
    let (mut now, mut decided_at) = (0_i64, 0_i64);
    for step in steps {
        let mut readings: Vec<_> = step
            .detectors
            .iter()
            .enumerate()
            .filter_map(|(n, &said)| detector(n, at(now).plus_millis(step.skew[n]), intersection.control().step, said))
            .collect();
        // Once a plan has run out, the controller runs alone, and this cabinet cannot: no gap is longer than a plan is valid.
        let runs_out = now + step_length - decided_at > ttl;
        if step.reported || now == 0 || runs_out {
            let elapsed = if now == 0 { Elapsed::True } else { elapsed };
            readings.push(report(intersection, &cabinet, now, (step.skew[9], elapsed)));
        }
        if step.replayed {
            let again = readings.clone();
            readings.splice(0..0, before.clone());
            readings.extend(again);
        }
        let mut news = false;
        for reading in &readings {
            news |= junction.fold(intersection, reading) == Folded::New;
        }
        if news {
            decided_at = now;
            match junction.decide(intersection).1.plan {
                Ok(plan) => {
                    let earlier = i64::from(step.detectors[1]) % (pace.jitter + 1);
                    coming.push_back((now + pace.latency - earlier, plan.stages().to_vec()));
                }
                Err(violation) => cabinet.broken.push(format!("at {now} no plan was found: {violation}")),
            }
        }
        before = readings;
        let skipped = step.skipped.min((ttl - (now - decided_at)) / step_length - 1).max(0);
        for _ in 0..(1 + skipped) * step_length {
            while coming.front().is_some_and(|(due, _)| *due <= now) {
                followed = coming.pop_front().unwrap().1;
            }
            if now % pace.cycle == looks_at {
                cabinet.follow(&followed, now);
            }
            cabinet.tick(now, late, reds_late);
            now += 1;
        }
    }
    cabinet.seconds = u64::try_from(now / 10).unwrap();
    cabinet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_sequence_of_decisions_breaks_a_limit(
        intersection in any_intersection(),
        steps in proptest::collection::vec(any_step(false), 1..60),
    ) {
        let cabinet = run(&intersection, &steps, IDEAL);
        prop_assert!(cabinet.broken.is_empty(), "{:#?}\n{:#}", cabinet.broken, intersection.document());
    }

    #[test]
    fn plans_that_arrive_late_break_no_limit_either(
        intersection in any_roomy_intersection(),
        steps in proptest::collection::vec(any_step(false), 1..60),
    ) {
        for pace in [SLOW, UNSTEADY] {
            let cabinet = run(&intersection, &steps, pace);
            prop_assert!(cabinet.broken.is_empty(), "{:#?}\n{:#}", cabinet.broken, intersection.document());
        }
    }

    #[test]
    fn a_controller_that_does_not_know_how_long_its_green_has_been_on_breaks_no_limit(
        intersection in any_intersection(),
        steps in proptest::collection::vec(any_step(true), 1..60),
        elapsed in prop_oneof![(0_u32..200).prop_map(Elapsed::Always), (1_u32..200).prop_map(Elapsed::More)],
    ) {
        // What happens between two reports nobody can know: no other stage is shown there.
        let stages = 0..intersection.stages().len();
        let pairs = stages.clone().flat_map(|stage| stages.clone().filter(move |other| *other != stage).map(move |other| (stage, other)));
        let away = |(stage, other)| {
            let both = intersection.clearance_between(stage, other) + intersection.clearance_between(other, stage);
            both + intersection.stages()[other].green_min
        };
        prop_assume!(pairs.map(away).all(|away| away > intersection.control().step));
        let steps: Vec<_> = steps.into_iter().map(|step| Step { skipped: 0, ..step }).collect();
        let cabinet = run_with(&intersection, &steps, IDEAL, elapsed);
        prop_assert!(cabinet.broken.is_empty(), "{elapsed:?} {:#?}\n{:#}", cabinet.broken, intersection.document());
    }

    #[test]
    fn a_plan_is_found_from_any_state_however_bad(
        intersection in any_intersection(),
        stage in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        clearing in proptest::option::of(0_i64..100),
        green_for in 0_i64..3_000,
        reds in proptest::collection::vec(0_i64..20_000, MOVEMENTS_MAX),
        said in proptest::collection::vec(any::<u8>(), 9),
        mode in prop_oneof![4 => Just(SignalMode::Adaptive), 1 => Just(SignalMode::Flash)],
        latency in (0_u32..=30).prop_map(Deciseconds::new),
    ) {
        let inputs = Inputs { latency, ..situation(&intersection, (stage, to, clearing, green_for), &reds, &said, mode) };
        let decision = inputs.decide(&intersection);
        prop_assert!(decision.plan.is_ok(), "{:?}\n{:?}\n{:#}", decision.plan, inputs.state, intersection.document());
    }

    #[test]
    fn a_controller_that_looks_once_a_second_shows_every_stage_of_the_shortest_plan(
        intersection in any_intersection(),
        looks_at in 0_i64..10,
    ) {
        let number = intersection.stages().len();
        let ways = (0..number).flat_map(|a| (0..number).flat_map(move |b| (0..number).map(move |c| [a, b, c])));
        for way in ways.filter(|[a, b, c]| a != b && b != c) {
            let mut plan: Vec<PlannedStage> = vec![];
            for stage in way {
                let start = plan.last().map_or(at(0), |before| before.end() + intersection.clearance_between(before.stage, stage));
                plan.push(PlannedStage { stage, start, green: intersection.stages()[stage].green_min });
            }
            let mut cabinet = Cabinet::new(&intersection, 0);
            cabinet.shown = Shown::Green { stage: way[0], since: 0 };
            let mut shown = vec![way[0]];
            for now in 0..i64::from(plan[2].start.since(at(0)).tenths()) + 20 {
                if now % 10 == looks_at {
                    cabinet.follow(&plan, now);
                }
                cabinet.tick(now, 0, 0);
                if let Shown::Green { stage, .. } = cabinet.shown && shown.last() != Some(&stage) {
                    shown.push(stage);
                }
            }
            prop_assert_eq!(&shown, &way, "{:#}", intersection.document());
        }
    }

    #[test]
    fn a_plan_that_was_tampered_with_is_refused(
        intersection in any_intersection(),
        stage in any::<prop::sample::Index>(),
        reds in proptest::collection::vec(0_i64..100, MOVEMENTS_MAX),
        said in proptest::collection::vec(0_u8..180, 9),
        entry in any::<prop::sample::Index>(),
        how in 0..7,
        by in 1_u32..50,
    ) {
        let situation_of = (stage, stage, None, 0);
        let inputs = situation(&intersection, situation_of, &reds, &said, SignalMode::Adaptive);
        let plan = inputs.decide(&intersection).plan.unwrap();
        let state = inputs.state;
        prop_assert_eq!(SignalPlan::new(&intersection, &state, plan.stages().to_vec()), Ok(plan.clone()));
        let mut stages = plan.stages().to_vec();
        let i = entry.index(stages.len());
        let limits = |stage: usize| &intersection.stages()[stage];
        let only_stage = intersection.stages().len() == 1;
        let expected: &[SafetyViolation] = match how {
            0 => { stages.clear(); &[SafetyViolation::Length(0)] }
            1 => { stages[i].stage = 99; if i == 0 { &[SafetyViolation::NotRunning] } else { &[SafetyViolation::UnknownStage(i)] } }
            2 => { stages[0].start = stages[0].start + Deciseconds::new(by); &[SafetyViolation::NotRunning] }
            3 => { stages[i].green = limits(stages[i].stage).green_min.saturating_sub(Deciseconds::new(by)); &[SafetyViolation::GreenMin(i)] }
            4 if !only_stage => {
                stages[i].green = limits(stages[i].stage).green_max + Deciseconds::new(by);
                &[SafetyViolation::GreenMax(i)]
            }
            5 if i > 0 => { stages[i].start = stages[i].start - Deciseconds::new(by); &[SafetyViolation::Clearance(i)] }
            6 if stages.len() > 1 => { stages.truncate(1); &[SafetyViolation::Horizon] }
            _ => return Ok(()),
        };
        let refused = SignalPlan::new(&intersection, &state, stages).unwrap_err();
        // A fault in an earlier check may be found first: shorter greens shift nothing, but red limits come before them.
        let red = matches!(refused, SafetyViolation::RedMax { .. });
        prop_assert!(expected.contains(&refused) || red, "{refused:?} instead of {expected:?}");
    }

    #[test]
    fn a_plan_at_random_is_refused_or_keeps_every_limit_to_its_end(
        intersection in any_intersection(),
        entries in proptest::collection::vec((any::<prop::sample::Index>(), 0_u32..200), 1..12),
        reds in proptest::collection::vec(0_i64..600, MOVEMENTS_MAX),
    ) {
        let first = entries[0].0;
        let state = situation(&intersection, (first, first, None, 0), &reds, &[], SignalMode::Adaptive).state;
        let kept = |state: &SignalState| {
            let red = |since: &Option<Timestamp>| since.is_none_or(|since| state.at.since(since) < intersection.red_max());
            state.red_since.iter().all(red)
        };
        prop_assume!(kept(&state));
        let mut stages: Vec<PlannedStage> = vec![];
        for (stage, more) in &entries {
            let stage = stage.index(intersection.stages().len());
            let green = intersection.stages()[stage].green_min + Deciseconds::new(*more);
            let start = stages.last().map_or(state.at, |before| before.end() + intersection.clearance_between(before.stage, stage));
            stages.push(PlannedStage { stage, start, green });
        }
        let Ok(plan) = SignalPlan::new(&intersection, &state, stages) else { return Ok(()) };
        let mut cabinet = Cabinet::new(&intersection, 0);
        cabinet.shown = Shown::Green { stage: plan.stages()[0].stage, since: 0 };
        cabinet.red_for = state.red_since.iter().map(|red| red.map_or(0, |since| i64::from(state.at.since(since).tenths()))).collect();
        // A movement that no plan could have saved any more does not count against this one.
        let saved = SignalPlan::is_within_red_max(&intersection, &state);
        prop_assume!(saved);
        let end = i64::from(plan.stages().last().unwrap().end().since(at(0)).tenths());
        for now in 0..end {
            cabinet.follow(plan.stages(), now);
            cabinet.tick(now, 0, 0);
        }
        prop_assert!(cabinet.broken.is_empty(), "{:#?}\n{:?}\n{:#}", cabinet.broken, plan, intersection.document());
    }
}

#[test]
fn a_change_without_a_clearance_is_made_now_or_not_before_the_next_plan_is_made() {
    // Stage 1 goes on with what stage 0 serves: a controller arrives at once, a clearance before the plan says, and would go back in the
    // next second. It is wanted here where stage 2 may not come first any more.
    let document = json!({
        "id": "J1",
        "lanes": (0..3).map(|n| json!({"id": format!("l{n}"), "length_m": 120, "speed_limit_kmh": 50, "detector_id": format!("d{n}")})).collect::<Vec<_>>(),
        "exits": [{"id": "x", "length_m": 100}],
        "movements": (0..3).map(|n| json!({"id": format!("m{n}"), "from_lane": format!("l{n}"), "to_exit": "x", "turn": "through"})).collect::<Vec<_>>(),
        "stages": [{"id": "0", "protected": ["m0"]}, {"id": "1", "protected": ["m1"], "permitted": ["m0"]}, {"id": "2", "protected": ["m2"]}],
        "timing": {"green_min_s": 5, "green_max_s": 50, "yellow_change_s": 3, "red_clearance_s": 1, "red_max_s": 60},
        "time_of_day_plan": {"stages": [{"stage": "1", "green_s": 20}, {"stage": "2", "green_s": 20}, {"stage": "0", "green_s": 5}]},
    });
    let intersection = Intersection::try_from(document).unwrap();
    let step = intersection.control().step;
    let later = at(0) + step + intersection.clearance(0);
    let mut at_once = 0;
    for (red, queues) in (0..600).step_by(10).flat_map(|red| (0..10).map(move |queue| (red, [queue, 0, 2]))) {
        let mut estimate = Estimate::unknown(&intersection);
        for (number, queue) in queues.into_iter().enumerate() {
            let Some(SensorReading::Detector(reading)) = detector(number, at(0), step, queue) else { unreachable!() };
            assert!(estimate.fold(&intersection, &reading, None));
        }
        let phase = Phase::Green { stage: 0, since: at(-100) };
        let red_since = vec![None, Some(at(-red)), Some(at(-150))];
        let state = SignalState { at: at(0), phase, mode: SignalMode::Adaptive, mode_at: at(0), red_since };
        estimate.advance(&intersection, None, &state);
        let plan = Inputs { estimate, state, in_force: vec![], latency: Deciseconds::ZERO }.decide(&intersection).plan.unwrap();
        let [running, next, ..] = plan.stages() else { continue };
        if next.stage == 1 {
            at_once += 1;
            assert!(running.end() <= at(0) || running.end() >= later, "{red} {queues:?}: {plan:?}");
        }
    }
    assert!(at_once > 0, "no plan has such a change");
}

/// Controller-seconds of the long runs in `make test`, in two halves.
const HALF: u64 = 500_000;

/// Runs junctions of all kinds for some hundred steps each until so many controller-seconds are over, half of them with plans
/// that arrive late; `seed` and `seeds` share the junctions among threads.
fn soak(seconds: u64, seed: u64, seeds: u64) {
    let (mut done, mut number) = (0, seed);
    while done < seconds {
        done += soak_junction(number, false);
        number += seeds;
    }
}

/// Runs one of them and tells for how long; its controller reports in every step or in half of them.
fn soak_junction(number: u64, always_reported: bool) -> u64 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (intersection, pace) = match number % 4 {
        1 => (any_roomy_intersection().boxed(), SLOW),
        3 => (any_roomy_intersection().boxed(), UNSTEADY),
        _ => (any_intersection().boxed(), IDEAL),
    };
    let steps = proptest::collection::vec(any_step(always_reported), 300..400_usize);
    let (intersection, steps) = (intersection, steps).new_tree(&mut runner).unwrap().current();
    let cabinet = run(&intersection, &steps, pace);
    assert!(cabinet.broken.is_empty(), "junction {number}: {:#?}\n{:#}", cabinet.broken, intersection.document());
    cabinet.seconds
}

#[test]
fn half_a_million_controller_seconds_break_no_limit() {
    soak(HALF, 0, 2);
}

#[test]
fn another_half_million_controller_seconds_with_late_plans_break_no_limit() {
    soak(HALF, 1, 2);
}

/// Junction 2041 of the soak: after steps without a report, a controller was seen a moment behind its plan. It was taken for one that had
/// done something else, and the change that it had begun was taken back.
#[test]
fn a_controller_that_is_late_is_known_to_have_followed_its_plan() {
    soak_junction(2041, true);
}

/// `make soak`: `SOAK_SECONDS` (10^8) on all cores, from the junction `SOAK_SEED` (0) on.
#[test]
#[ignore = "takes minutes: make soak"]
#[expect(clippy::disallowed_methods, reason = "its size is the caller's choice")]
fn a_long_soak_breaks_no_limit() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().expect(name));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let (seconds, seed) = (number("SOAK_SECONDS", 100_000_000), number("SOAK_SEED", 0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || soak(seconds / threads, seed + thread, threads));
        }
    });
}

fn situation(
    intersection: &Intersection,
    (stage, to, clearing, green_for): (prop::sample::Index, prop::sample::Index, Option<i64>, i64),
    reds: &[i64],
    said: &[u8],
    mode: SignalMode,
) -> Inputs {
    let count = intersection.stages().len();
    let (stage, to) = (stage.index(count), to.index(count));
    let phase = match clearing {
        Some(left) if to != stage => Phase::Clearing { from: stage, to, until: at(left) },
        _ => Phase::Green { stage, since: at(-green_for) },
    };
    let green = intersection.movements_of(stage);
    let red_since = (0..intersection.movements().len())
        .map(|m| (!green.contains(m) || matches!(phase, Phase::Clearing { .. })).then(|| at(-reds[m])))
        .collect();
    let state = SignalState { at: at(0), phase, mode, mode_at: at(0), red_since };
    let mut estimate = Estimate::unknown(intersection);
    for (number, &said) in said.iter().enumerate() {
        if let Some(SensorReading::Detector(reading)) = detector(number, at(0), intersection.control().step, said) {
            let _ = estimate.fold(intersection, &reading, None);
        }
    }
    Inputs { estimate, state, in_force: vec![], latency: Deciseconds::ZERO }
}
