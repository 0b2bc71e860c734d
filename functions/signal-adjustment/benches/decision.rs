//! What a decision costs: at most 100 µs with 4 stages and 12 lanes, 400 µs with 8 stages and 24 lanes is the goal.

#![expect(missing_docs, reason = "criterion makes a public function")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::units::Timestamp;
use signal_adjustment::control::Inputs;
use signal_adjustment::junction::Junction;

/// Each stage serves an equal share of the lanes; every lane has a through and a right turn, and two streams of vehicles.
fn junction(stages: usize, lanes: usize) -> Option<(Intersection, Inputs)> {
    let lane = |n: usize| json!({"id": format!("l{n}"), "length_m": 180.0, "speed_limit_kmh": 50.0, "detector_id": format!("l{n}")});
    let exit = |n: usize| json!({"id": format!("x{n}"), "length_m": 200.0, "detector_id": null, "to_intersection": null});
    let through = |n: usize| json!({"id": format!("t{n}"), "from_lane": format!("l{n}"), "to_exit": format!("x{n}"), "turn": "through"});
    let right = |n: usize| json!({"id": format!("r{n}"), "from_lane": format!("l{n}"), "to_exit": format!("x{n}"), "turn": "right"});
    let all = || 0..lanes;
    let stage = |s: usize| {
        let served = all().filter(|n| n % stages == s).flat_map(|n| [format!("t{n}"), format!("r{n}")]);
        json!({"id": format!("s{s}"), "protected": served.collect::<Vec<_>>(), "permitted": []})
    };
    let document = json!({
        "id": "J1", "name": "", "location": null,
        "lanes": all().map(lane).collect::<Vec<_>>(), "exits": all().map(exit).collect::<Vec<_>>(),
        "movements": all().flat_map(|n| [through(n), right(n)]).collect::<Vec<_>>(),
        "stages": (0..stages).map(stage).collect::<Vec<_>>(), "conflicts": [],
        "timing": {"green_min_s": 5, "green_max_s": 50, "yellow_change_s": 3, "red_clearance_s": 1, "red_max_s": 180},
        "time_of_day_plan": {"offset_s": 0, "stages": (0..stages).map(|s| json!({"stage": format!("s{s}"), "green_s": 10})).collect::<Vec<_>>()},
        "control": {"mode": "adaptive", "step_s": 5, "plan_ttl_s": 30},
    });
    let intersection = Intersection::try_from(document).ok()?;
    let time = Timestamp::from_millis(1_795_334_400_000);
    let mut junction = Junction::unknown(&intersection);
    let mut fold = |reading: Value| {
        let raw = serde_json::value::to_raw_value(&reading).ok()?;
        shared::wire::parse_reading(&raw).ok().map(|reading| junction.fold(&intersection, &reading))
    };
    fold(
        json!({"type": "signal_state", "intersection_id": "J1", "time": time, "stage": "s0", "stage_elapsed_s": 12.0, "mode": "adaptive"}),
    )?;
    for n in all() {
        let moving: Vec<usize> = (0..8).map(|bin| usize::from((bin + n) % 3 == 0)).collect();
        let vehicles: Vec<usize> = moving.iter().enumerate().map(|(bin, moving)| moving + (n + bin) % 2).collect();
        fold(json!({
            "type": "detector", "intersection_id": "J1", "detector_id": format!("l{n}"), "time": time, "period_s": 5, "volume": 1,
            "profile": {"bin_m": 25, "vehicles": vehicles, "moving": moving, "speed_mean_kmh": vec![40.0; 8]},
        }))?;
    }
    let (inputs, ..) = junction.decide(&intersection);
    Some((intersection, inputs))
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for (stages, lanes) in [(2, 6), (4, 12), (4, 24), (4, 48), (8, 24)] {
        let Some((intersection, inputs)) = junction(stages, lanes) else { continue };
        group.bench_function(BenchmarkId::from_parameter(format!("{stages} stages, {lanes} lanes")), |b| {
            b.iter(|| black_box(&inputs).decide(black_box(&intersection)));
        });
    }
    group.finish();
}

criterion_group!(decision, benches);
criterion_main!(decision);
