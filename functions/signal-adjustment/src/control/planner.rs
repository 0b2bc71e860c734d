//! The planner: asks the search for the cheapest course of stages and makes it a plan within the envelope.
//!
//! Only the beginning of the course is decided; the next step of readings decides again.

use shared::intersection::{Intersection, MovementSet};
use shared::plan::{Candidate, Reason};
use shared::units::{Deciseconds, Timestamp};

use super::model::{seconds_up, single, whole_seconds};
use super::schedule::{Schedule, Wish};
use super::search::{Found, Greens, Start, search};
use super::{Inputs, Limit};
use crate::estimate::Estimate;
use crate::plan::{SafetyViolation, SignalPlan};
use crate::signal::{Phase, SignalState};

/// What the planner chose.
pub(super) struct Choice {
    pub(super) plan: Result<SignalPlan, SafetyViolation>,
    pub(super) reason: Reason,
    pub(super) candidates: Vec<Candidate>,
    pub(super) limits: Vec<Limit>,
}

pub(super) fn choose(intersection: &Intersection, inputs: &Inputs) -> Choice {
    let Inputs { estimate, state, in_force, latency } = inputs;
    let planner = intersection.control().planner;
    let mut schedule = Schedule::begin(intersection, state, *latency);
    let running = schedule.stage();
    let committed = schedule.keep_imminent_change(in_force);
    let start = start_of(&schedule, state, intersection.control().step);
    let stuck = stuck_turns(intersection, estimate, state, &start);
    let greens: Vec<Greens> = intersection
        .stages()
        .iter()
        .map(|stage| Greens {
            min: seconds_up(stage.green_min),
            max: seconds_up(stage.green_max),
            stranding: single(planner.stranding_cost_s) * count(stuck.minus(stage.protected)),
        })
        .collect();
    let horizon = whole_seconds(planner.horizon_s);
    let allowed_until: Vec<_> = (0..greens.len()).map(|next| allowed_until(&schedule, state.at, &start, next, horizon)).collect();
    let found = search(intersection, inputs, &greens, &start, &allowed_until);
    let change = found.best.change(0).filter(|_| found.best.changes_before(start.decided_until)).map(|(_, next)| next);

    let mut limits = Vec::new();
    if committed || matches!(state.phase, Phase::Clearing { .. }) {
        limits.push(Limit::Clearing);
    } else {
        limits.extend(bounds(&schedule, state.at, change.is_some()));
    }
    let mut reason = explain(intersection, &schedule, &limits, change, running, &found);
    let held = schedule.earliest_end() > state.at;
    let candidates = candidates(intersection, &found, &start, &allowed_until, held);

    let mut number = 0;
    let plan = schedule.finish(|schedule| {
        let change = found.best.change(number);
        number += 1;
        let urgent = || schedule.most_urgent(schedule.earliest_end()).unwrap_or(schedule.stage());
        change
            .map_or_else(|| Wish { end: schedule.green_max_end(), next: urgent() }, |(end, next)| Wish { end: after(state.at, end), next })
    });
    if let (Ok(plan), Some(wanted)) = (&plan, change)
        && let [first, second, ..] = plan.stages()
        && first.end() <= state.at
        && second.stage != wanted
    {
        let text = format!("Stage {} comes first: one of its movements would be red for too long.", id_of(intersection, second.stage));
        reason = Reason { code: Limit::RedMax.as_str().into(), text };
        limits.push(Limit::RedMax);
    }
    Choice { plan, reason, candidates, limits }
}

/// At most 128 movements.
fn count(movements: MovementSet) -> f32 {
    f32::from(u8::try_from(movements.len()).unwrap_or(u8::MAX))
}

fn start_of(schedule: &Schedule<'_>, state: &SignalState, step: Deciseconds) -> Start {
    let until = |at: Timestamp| seconds_up(at.since(state.at));
    let allowed = until(schedule.earliest_end());
    let limit = schedule.green_max_end().min(schedule.red_max_end());
    // Until the plan is there, the stage goes on, but no further than it may.
    let earliest = allowed.max(seconds_up(schedule.latency()).min((limit.since(state.at).tenths() / 10) as usize));
    Start {
        before: match state.phase {
            Phase::Green { stage, .. } => stage,
            Phase::Clearing { from, .. } => from,
        },
        stage: schedule.stage(),
        begins: until(schedule.start()),
        age: (state.at.since(schedule.start()).tenths() / 10) as usize,
        earliest,
        latest: until(limit),
        decided_until: seconds_up(step + schedule.latency()).max(earliest + 1),
    }
}

/// Movements that give way in the running stage, whose lane stands at its head although it is green, and which have right of way in
/// another stage.
fn stuck_turns(intersection: &Intersection, estimate: &Estimate, state: &SignalState, start: &Start) -> MovementSet {
    /// By then the first vehicle of a lane has moved.
    const MOVING_S: usize = 4;
    let Some(running) = intersection.stages().get(start.stage).filter(|_| start.begins == 0 && start.age >= MOVING_S) else {
        return MovementSet::default();
    };
    let lanes = estimate.by_lane(intersection);
    let stands = |lane: usize| {
        let detector = lanes.get(lane).copied().flatten();
        detector.is_some_and(|detector| detector.head_stands && detector.is_trusted(intersection, state.at))
    };
    let stuck = running.permitted.iter().filter(|&movement| {
        let lane = intersection.movements().get(movement).and_then(|m| m.from_lane);
        lane.is_some_and(stands) && intersection.stages().iter().any(|stage| stage.protected.contains(movement))
    });
    stuck.collect()
}

fn after(at: Timestamp, seconds: usize) -> Timestamp {
    at + Deciseconds::from_secs(u32::try_from(seconds).unwrap_or(u32::MAX / 10))
}

/// Until when the stage reached may end so that this one may follow, in seconds from now. Who may follow at one moment may follow
/// at every earlier one.
fn allowed_until(schedule: &Schedule<'_>, now: Timestamp, start: &Start, next: usize, horizon: usize) -> Option<usize> {
    let may = |end: usize| schedule.may_follow(after(now, end), next);
    let last = start.latest.min(horizon).max(start.earliest);
    if may(last) {
        return Some(last);
    }
    let (mut allowed, mut refused) = (may(start.earliest).then_some(start.earliest)?, last);
    while refused - allowed > 1 {
        let middle = usize::midpoint(allowed, refused);
        if may(middle) { allowed = middle } else { refused = middle }
    }
    Some(allowed)
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
    change: Option<usize>,
    running: usize,
    found: &Found,
) -> Reason {
    if let Some(&limit) = limits.first() {
        let stage = if limit == Limit::Clearing { schedule.stage() } else { running };
        return named(intersection, limit, stage);
    }
    let cost = |stage: usize| found.by_stage.get(stage).map_or(f32::INFINITY, |course| course.cost);
    let running_id = id_of(intersection, running);
    let waiting = |cost: f32| format!("{cost:.0} vehicle-seconds of waiting ahead");
    if let Some(next) = change {
        let text = format!(
            "Changing to stage {} means {}, staying in stage {running_id} {:.0}.",
            id_of(intersection, next),
            waiting(cost(next)),
            cost(running)
        );
        return Reason { code: "queue_pressure".into(), text };
    }
    let others = (0..intersection.stages().len()).filter(|&stage| stage != running);
    let text = match others.min_by(|&a, &b| cost(a).total_cmp(&cost(b))) {
        _ if cost(running) <= 0.0 => format!("No vehicle waits; stage {running_id} stays green."),
        Some(other) if found.best.change(0).is_none_or(|(_, next)| next != other) => format!(
            "Staying in stage {running_id} means {}, changing to stage {} {:.0}.",
            waiting(cost(running)),
            id_of(intersection, other),
            cost(other)
        ),
        _ => format!("Stage {running_id} stays green for now: changing later means {}.", waiting(cost(running))),
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

fn candidates(intersection: &Intersection, found: &Found, start: &Start, allowed_until: &[Option<usize>], held: bool) -> Vec<Candidate> {
    let stages = intersection.stages().iter().zip(&found.by_stage).zip(allowed_until).enumerate();
    stages
        .map(|(number, ((stage, course), allowed))| {
            let limit = if number == start.stage {
                // Nothing else may follow where nothing else is.
                (start.latest == 0 && intersection.stages().len() > 1).then_some(Limit::GreenMax)
            } else if allowed.is_none() {
                Some(Limit::RedMax)
            } else {
                held.then_some(Limit::GreenMin)
            };
            let change_in_s = course.change(0).map(|(end, _)| Deciseconds::from_secs(u32::try_from(end).unwrap_or(u32::MAX / 10)));
            Candidate {
                stage: stage.id.clone(),
                cost: f64::from(course.cost),
                change_in_s,
                limit: limit.map(|limit| limit.as_str().to_owned()),
            }
        })
        .collect()
}
