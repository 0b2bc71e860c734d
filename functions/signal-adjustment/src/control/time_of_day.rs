//! The time-of-day plan as a plan of ours: the configured greens, led back to their place in the cycle within the limits.

use shared::intersection::Intersection;
use shared::units::{Deciseconds, Timestamp};

use super::schedule::{Schedule, Wish};
use crate::plan::{PlannedStage, SafetyViolation, SignalPlan};
use crate::signal::SignalState;

/// The plan that brings the signal into its time-of-day cycle and keeps it there.
///
/// Each stage ends where the cycle says. Where the signal is out of step, greens are stretched or cut within their limits
/// until it is in step again ("dwell and shortway" of NTCIP 1202 coordination).
pub(super) fn plan(intersection: &Intersection, state: &SignalState, in_force: &[PlannedStage]) -> Result<SignalPlan, SafetyViolation> {
    let mut schedule = Schedule::begin(intersection, state, Deciseconds::ZERO);
    schedule.keep_imminent_change(in_force);
    let mut entry: Option<usize> = None;
    schedule.finish(|schedule| {
        let plan = &intersection.time_of_day().stages;
        let earliest = schedule.earliest_end();
        let (due, _) = intersection.time_of_day_at(earliest);
        // The entry of the cycle that the stage reached stands for: the one expected next, else the nearest of that stage.
        let here = entry.filter(|&e| plan.get(e).is_some_and(|p| p.0 == schedule.stage())).or_else(|| {
            let stands = |e: &usize| plan.get(*e % plan.len()).is_some_and(|p| p.0 == schedule.stage());
            (due..due + plan.len()).find(stands).map(|e| e % plan.len())
        });
        // A stage that the cycle does not know is left at once, for the one that is due.
        let Some(here) = here else {
            entry = Some(due);
            return Wish { end: earliest, next: plan.get(due).map_or(0, |p| p.0) };
        };
        let following = (here + 1) % plan.len();
        entry = Some(following);
        Wish { end: next_end(intersection, here, earliest), next: plan.get(following).map_or(0, |p| p.0) }
    })
}

/// When the green of an entry ends in the cycle, not before `earliest`.
fn next_end(intersection: &Intersection, entry: usize, earliest: Timestamp) -> Timestamp {
    let plan = &intersection.time_of_day().stages;
    let before: Deciseconds = plan.iter().take(entry).map(|&(stage, green)| green + intersection.clearance(stage)).sum();
    let end = before + plan.get(entry).map_or(Deciseconds::ZERO, |e| e.1) + intersection.time_of_day().offset;
    let cycle = intersection.time_of_day_cycle().as_millis().max(1);
    let wait = (end.as_millis() - earliest.as_millis()).rem_euclid(cycle);
    earliest.plus_millis(wait)
}
