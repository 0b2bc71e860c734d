//! The rule: serve the stage for which most vehicles wait, with hysteresis.

use shared::intersection::Intersection;
use shared::plan::{Candidate, Reason};
use shared::units::{Deciseconds, Timestamp};

use super::Limit;
use super::schedule::{PLAN_LATENCY, Schedule, Wish};
use crate::estimate::{Estimate, longest_silence};
use crate::plan::{PlannedStage, SafetyViolation, SignalPlan};
use crate::signal::{Phase, SignalState};

/// A permitted movement has to find gaps: it counts this much of a protected one. A prior, not measured here: it depends on
/// the opposing volume, which this rule does not look at.
const PERMITTED_SHARE: f64 = 0.5;
/// Hysteresis: another stage must have so many vehicles more than the running one before it is worth a clearance.
const SWITCH_MARGIN_VEHICLES: f64 = 1.0;
/// Green that one queued vehicle of a lane needs, s: 1800 veh/h, a little below the base saturation flow of HCM 6 (1900 pc/h).
const GREEN_PER_VEHICLE: f64 = 2.0;

/// What the rule chose.
pub(super) struct Choice {
    pub(super) plan: Result<SignalPlan, SafetyViolation>,
    pub(super) reason: Reason,
    pub(super) candidates: Vec<Candidate>,
    pub(super) limits: Vec<Limit>,
}

/// What waits for one stage.
#[derive(Clone, Copy, Default)]
struct Demand {
    /// Vehicles on all its lanes, by the share of the lane that it serves.
    vehicles: f64,
    /// Vehicles on its fullest lane.
    on_fullest_lane: f64,
}

pub(super) fn choose(intersection: &Intersection, estimate: &Estimate, state: &SignalState, in_force: &[PlannedStage]) -> Choice {
    let demand = demand_by_stage(intersection, estimate, state);
    let of = |stage: usize| demand.get(stage).copied().unwrap_or_default();
    let mut schedule = Schedule::begin(intersection, state);
    let running = schedule.stage();
    let committed = schedule.keep_imminent_change(in_force);
    let best = best_stage(&demand, running);
    let change = best != running && of(best).vehicles > of(running).vehicles + SWITCH_MARGIN_VEHICLES;

    let mut limits = Vec::new();
    if committed || matches!(state.phase, Phase::Clearing { .. }) {
        limits.push(Limit::Clearing);
    } else {
        limits.extend(bounds(&schedule, state.at, change));
    }
    let mut reason = explain(intersection, &schedule, &limits, change, running, best, &demand);

    let (start_of_running, fresh) = (schedule.start(), schedule.stage() == running);
    let mut served = vec![schedule.stage()];
    let plan = schedule.finish(|schedule| {
        let (stage, start) = (schedule.stage(), schedule.start());
        served.push(stage);
        let next = next_stage(&demand, schedule, &served);
        let decides_now = fresh && start == start_of_running;
        let end = match (decides_now, change) {
            (true, true) => return Wish { end: state.at, next: best },
            (true, false) => (state.at + green_for(of(stage))).max(state.at + intersection.control().step + PLAN_LATENCY),
            (false, _) => start + green_for(of(stage)),
        };
        Wish { end, next }
    });
    if let Ok(plan) = &plan
        && let [first, second, ..] = plan.stages()
        && change
        && first.end() <= state.at
        && second.stage != best
    {
        let text = format!("Stage {} comes first: one of its movements would be red for too long.", id_of(intersection, second.stage));
        reason = Reason { code: Limit::RedMax.as_str().into(), text };
        limits.push(Limit::RedMax);
    }
    Choice { plan, reason, candidates: candidates(intersection, &demand, state, running), limits }
}

fn green_for(demand: Demand) -> Deciseconds {
    Deciseconds::round(demand.on_fullest_lane * GREEN_PER_VEHICLE).unwrap_or(Deciseconds::ZERO)
}

/// The fullest stage; the running one wins a tie, then the first.
fn best_stage(demand: &[Demand], running: usize) -> usize {
    let mut best = running;
    for (stage, here) in demand.iter().enumerate() {
        if here.vehicles > demand.get(best).map_or(0.0, |d| d.vehicles) {
            best = stage;
        }
    }
    best
}

/// The fullest stage that the plan has not served yet; after all were served, the most urgent one.
fn next_stage(demand: &[Demand], schedule: &Schedule<'_>, served: &[usize]) -> usize {
    let left = demand.iter().enumerate().filter(|(stage, _)| !served.contains(stage));
    let fullest = left.max_by(|(i, a), (j, b)| a.vehicles.total_cmp(&b.vehicles).then(j.cmp(i))).map(|(stage, _)| stage);
    fullest.or_else(|| schedule.most_urgent(schedule.earliest_end())).unwrap_or(schedule.stage())
}

fn demand_by_stage(intersection: &Intersection, estimate: &Estimate, state: &SignalState) -> Vec<Demand> {
    let detectors = estimate.by_lane(intersection);
    let longest = longest_silence(intersection);
    let mut demand = vec![Demand::default(); intersection.stages().len()];
    for (lane, detector) in detectors.iter().enumerate() {
        let movements: Vec<usize> =
            intersection.movements().iter().enumerate().filter(|(_, m)| m.from_lane == Some(lane)).map(|(i, _)| i).collect();
        let red = movements.iter().filter_map(|&m| state.red_since.get(m).copied()).map(|red| red.map_or(state.at, |since| since)).max();
        let red_for = red.map_or(Deciseconds::ZERO, |since| state.at.since(since));
        let Some(waiting) = detector.and_then(|d| d.demand(state.at, longest, red_for)) else { continue };
        for (stage, sum) in intersection.stages().iter().zip(&mut demand) {
            let share = movements.iter().map(|&m| match (stage.protected.contains(m), stage.permitted.contains(m)) {
                (true, _) => 1.0,
                (false, true) => PERMITTED_SHARE,
                (false, false) => 0.0,
            });
            #[expect(clippy::cast_precision_loss, reason = "at most 128 movements")]
            let vehicles = waiting * share.sum::<f64>() / movements.len().max(1) as f64;
            sum.vehicles += vehicles;
            sum.on_fullest_lane = sum.on_fullest_lane.max(vehicles);
        }
    }
    demand
}

/// Limits that bind the running stage now.
fn bounds(schedule: &Schedule<'_>, now: Timestamp, change: bool) -> Vec<Limit> {
    let mut limits = Vec::new();
    if schedule.earliest_end() > now {
        if change {
            limits.push(Limit::GreenMin);
        }
        return limits;
    }
    if schedule.green_max_end() <= now {
        limits.push(Limit::GreenMax);
    }
    if schedule.red_max_end() <= now {
        limits.push(Limit::RedMax);
    }
    limits
}

fn explain(
    intersection: &Intersection,
    schedule: &Schedule<'_>,
    limits: &[Limit],
    change: bool,
    running: usize,
    best: usize,
    demand: &[Demand],
) -> Reason {
    let vehicles = |stage: usize| demand.get(stage).map_or(0.0, |d| d.vehicles);
    if let Some(&limit) = limits.first() {
        let stage = if limit == Limit::Clearing { schedule.stage() } else { running };
        return named(intersection, limit, stage);
    }
    let (running_id, best_id) = (id_of(intersection, running), id_of(intersection, best));
    if change {
        let text = format!("Stage {best_id} has {:.1} vehicles waiting, stage {running_id} {:.1}.", vehicles(best), vehicles(running));
        return Reason { code: "queue_pressure".into(), text };
    }
    let text = if best == running && vehicles(running) <= 0.0 {
        format!("No vehicle waits; stage {running_id} stays green.")
    } else if best == running {
        format!("Stage {running_id} has the most vehicles waiting, {:.1}.", vehicles(running))
    } else {
        format!(
            "Stage {best_id} has {:.1} vehicles waiting, too few more than stage {running_id} with {:.1}.",
            vehicles(best),
            vehicles(running)
        )
    };
    Reason { code: "hold".into(), text }
}

fn named(intersection: &Intersection, limit: Limit, stage: usize) -> Reason {
    let id = id_of(intersection, stage);
    let text = match limit {
        Limit::GreenMin => format!("Stage {id} has not been green for its minimum yet."),
        Limit::GreenMax => format!("Stage {id} has been green for its maximum."),
        Limit::RedMax => format!("Stage {id} has to end: a movement would be red for too long."),
        Limit::Clearing => format!("The signal is changing to stage {id}."),
    };
    Reason { code: limit.as_str().into(), text }
}

fn id_of(intersection: &Intersection, stage: usize) -> &str {
    intersection.stages().get(stage).map_or("", |s| s.id.as_str())
}

/// Cost of a stage: vehicles that wait on while it is served.
fn candidates(intersection: &Intersection, demand: &[Demand], state: &SignalState, running: usize) -> Vec<Candidate> {
    let all: f64 = demand.iter().map(|d| d.vehicles).sum();
    let schedule = Schedule::begin(intersection, state);
    let end = schedule.earliest_end();
    let stages = intersection.stages().iter().zip(demand).enumerate();
    stages
        .map(|(number, (stage, here))| {
            let limit = if number == running {
                (schedule.green_max_end() <= state.at).then_some(Limit::GreenMax)
            } else if end > state.at {
                Some(Limit::GreenMin)
            } else {
                (!schedule.may_follow(end, number)).then_some(Limit::RedMax)
            };
            Candidate { stage: stage.id.clone(), cost: all - here.vehicles, limit: limit.map(|limit| limit.as_str().to_owned()) }
        })
        .collect()
}
