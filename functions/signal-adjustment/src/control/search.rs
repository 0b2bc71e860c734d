//! The search: costs courses of stages on the model and keeps the cheapest.
//!
//! A course keeps the stage reached for some seconds, then serves a second stage until it is clear or for its shortest green, then
//! one of the three with most to serve until it is clear, and from there on the fullest, up to the horizon. A course that costs more
//! than the cheapest of its kind is given up.

use shared::intersection::{Intersection, LIMITS};

use super::Inputs;
use super::model::{GROUP, Model, Roll};

/// Long since green: past its start-up.
const LONG: usize = usize::MAX / 2;

/// So many stages are tried as the third one: those with most to serve.
const THIRDS: usize = 3;

/// Changes of a course that are kept: more do not fit into the longest horizon.
const CHANGES_MAX: usize = 16;

/// When the stage reached ends and which follows, and so on, in seconds from now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub(super) cost: f32,
    /// In one byte each, as courses are copied often: the horizon is 90 s at most, and a junction has 32 stages at most.
    changes: [(u8, u8); CHANGES_MAX],
    length: usize,
}

impl Course {
    const NONE: Self = Self { cost: f32::INFINITY, changes: [(0, 0); CHANGES_MAX], length: 0 };

    fn then(mut self, end: usize, next: usize) -> Self {
        let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        if let Some(slot) = self.changes.get_mut(self.length) {
            *slot = (byte(end), byte(next));
            self.length += 1;
        }
        self
    }

    /// The change of this number: when the stage before it ends, and the stage that follows.
    pub(super) fn change(&self, number: usize) -> Option<(usize, usize)> {
        let &(end, next) = self.changes.get(number).filter(|_| number < self.length)?;
        Some((end.into(), next.into()))
    }

    /// Whether the first stage ends before this second.
    pub(super) fn changes_before(&self, second: usize) -> bool {
        self.change(0).is_some_and(|(end, _)| end < second)
    }
}

/// Where the search begins, in seconds from now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// The stage that is or was green.
    pub(super) before: usize,
    /// The stage reached: the running one, or the one that a change under way leads to.
    pub(super) stage: usize,
    /// When its green begins; 0 if it has.
    pub(super) begins: usize,
    /// How long it has been green.
    pub(super) age: usize,
    /// When it may end at the earliest, and must end at the latest.
    pub(super) earliest: usize,
    pub(super) latest: usize,
    /// When the next decision is made: what ends before is decided now.
    pub(super) decided_until: usize,
}

/// Limits of a stage, in seconds, and what it costs if it follows the stage reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greens {
    pub(super) min: usize,
    pub(super) max: usize,
    /// Cost of the movements that it would strand in the junction.
    pub(super) stranding: f32,
}

/// What the search found.
pub(super) struct Found {
    /// The cheapest course within the limits.
    pub(super) best: Course,
    /// By stage, the cheapest course in which it follows; for the stage reached, the cheapest that keeps it until the next
    /// decision. A stage that no limit allows is costed as if it were allowed.
    pub(super) by_stage: Vec<Course>,
}

struct Search<'m, const GROUPS: usize> {
    model: &'m Model<GROUPS>,
    greens: &'m [Greens],
    found: Found,
}

/// Costs every course. `allowed_until` tells by stage until when the stage reached may end so that it may follow; none if never.
pub(super) fn search(
    intersection: &Intersection,
    inputs: &Inputs,
    greens: &[Greens],
    start: &Start,
    allowed_until: &[Option<usize>],
) -> Found {
    const { assert!(LIMITS.lanes <= 8 * GROUP, "a junction may have more lanes than are computed") };
    let in_groups = match intersection.lanes().len().div_ceil(GROUP) {
        0 | 1 => search_in::<1>,
        2 => search_in::<2>,
        3 => search_in::<3>,
        4 => search_in::<4>,
        5 => search_in::<5>,
        6 => search_in::<6>,
        7 => search_in::<7>,
        _ => search_in::<8>,
    };
    in_groups(intersection, inputs, greens, start, allowed_until)
}

/// The same, for a junction of so many groups of lanes.
fn search_in<const GROUPS: usize>(
    intersection: &Intersection,
    inputs: &Inputs,
    greens: &[Greens],
    start: &Start,
    allowed_until: &[Option<usize>],
) -> Found {
    let model = &Model::<GROUPS>::of(intersection, &inputs.estimate, &inputs.state);
    let found = Found { best: Course::NONE, by_stage: vec![Course::NONE; greens.len()] };
    let mut search = Search { model, greens, found };
    let mut stem = model.begin();
    search.approach(&mut stem, start);
    loop {
        let end = stem.second;
        if end >= start.earliest && is_costed(end - start.earliest) {
            for (next, until) in allowed_until.iter().enumerate().filter(|(next, _)| *next != start.stage) {
                let allowed = end <= start.latest.max(start.earliest) && until.is_some_and(|until| end <= until);
                if allowed || (until.is_none() && end == start.earliest) {
                    let course = Course::NONE.then(end, next);
                    search.branch(stem, start, &course, allowed);
                }
            }
        }
        if stem.second >= model.horizon() {
            break;
        }
        let age = if start.begins > 0 { end - start.begins } else { end + start.age };
        model.green_on(&mut stem, start.stage, start.before, age);
    }
    let kept = start.latest >= model.horizon() || greens.len() == 1;
    search.offer(Course::NONE, &stem, start, kept);
    search.found
}

/// Every second up to the next decision, then wider and wider apart: what lies far ahead is decided again before it comes.
const fn is_costed(after_earliest: usize) -> bool {
    matches!(after_earliest, 0..=6 | 8 | 10 | 13 | 16 | 20) || (after_earliest > 20 && after_earliest.is_multiple_of(5))
}

impl<const GROUPS: usize> Search<'_, GROUPS> {
    /// What is decided already: the rest of the stage before, and the clearance after it.
    fn approach(&self, roll: &mut Roll<GROUPS>, start: &Start) {
        let clearance = self.model.clearance(start.before, start.stage);
        while roll.second < start.begins.min(self.model.horizon()) {
            let left = start.begins - roll.second;
            if left > clearance {
                self.model.green(roll, start.before, start.before, LONG);
            } else {
                self.model.clear(roll, start.before, start.stage, clearance - left);
            }
        }
    }

    /// Goes on after the first change of a course: its stage is served for its shortest green or until it is clear.
    fn branch(&mut self, mut roll: Roll<GROUPS>, start: &Start, course: &Course, allowed: bool) {
        let Some((_, next)) = course.change(0) else { return };
        roll.extra += self.greens.get(next).map_or(0.0, |green| green.stranding);
        self.change(&mut roll, start.stage, next);
        self.serve(&mut roll, start.stage, next, false);
        if self.model.busy_for(&roll, next) > 0 {
            self.go_on(&roll, start, course, allowed);
        }
        self.extend(&mut roll, start.stage, next);
        self.go_on(&roll, start, course, allowed);
    }

    /// Goes on with each stage that may be the third.
    fn go_on(&mut self, roll: &Roll<GROUPS>, start: &Start, course: &Course, allowed: bool) {
        let Some((_, next)) = course.change(0) else { return };
        if roll.second >= self.model.horizon() {
            return self.offer(*course, roll, start, allowed);
        }
        let at_least = self.model.at_least(roll);
        // The fullest stage first: a good course found early spares the others.
        let thirds: [_; THIRDS] = self.model.ranked(roll, next);
        for (stage, _) in thirds.into_iter().filter(|(stage, _)| *stage != next) {
            let bound = self.bound(course, start);
            if at_least >= bound {
                return;
            }
            let mut third = *roll;
            let longer = course.then(third.second, stage);
            self.change(&mut third, next, stage);
            self.serve(&mut third, next, stage, true);
            let longer = self.tail(&mut third, stage, longer, bound);
            if third.second >= self.model.horizon() {
                self.offer(longer, &third, start, allowed);
            }
        }
    }

    /// A course of this cost or more is the cheapest of no kind.
    fn bound(&self, course: &Course, start: &Start) -> f32 {
        let cost = |stage: usize| self.found.by_stage.get(stage).map_or(f32::INFINITY, |course| course.cost);
        let of_next = course.change(0).map_or(f32::INFINITY, |(_, next)| cost(next));
        if course.changes_before(start.decided_until) { of_next } else { of_next.max(cost(start.stage)) }
    }

    fn change(&self, roll: &mut Roll<GROUPS>, from: usize, to: usize) {
        roll.extra += self.model.change_cost();
        for age in 0..self.model.clearance(from, to) {
            if roll.second < self.model.horizon() {
                self.model.clear(roll, from, to, age);
            }
        }
    }

    /// Serves a stage for its shortest green, and then until it is clear or at its longest, if that is wanted.
    fn serve(&self, roll: &mut Roll<GROUPS>, from: usize, stage: usize, until_clear: bool) {
        let Some(green) = self.greens.get(stage) else { return };
        for age in 0..green.min.min(self.model.horizon().saturating_sub(roll.second)) {
            self.model.green(roll, stage, from, age);
        }
        if until_clear {
            self.extend(roll, from, stage);
        }
    }

    /// Serves a stage after its shortest green until it is clear or at its longest.
    fn extend(&self, roll: &mut Roll<GROUPS>, from: usize, stage: usize) {
        let Some(green) = self.greens.get(stage) else { return };
        let mut busy = 0;
        for age in green.min..green.max.min(green.min + self.model.horizon().saturating_sub(roll.second)) {
            if busy == 0 {
                busy = self.model.busy_for(roll, stage);
                if busy == 0 {
                    return;
                }
            }
            debug_assert!(self.model.busy_for(roll, stage) > 0, "nobody is left in stage {stage} a second early");
            busy -= 1;
            self.model.green(roll, stage, from, age);
        }
    }

    /// From the end of the third stage on: the stage with most to serve, until the horizon or until it is too dear.
    fn tail(&self, roll: &mut Roll<GROUPS>, mut stage: usize, mut course: Course, bound: f32) -> Course {
        while roll.second < self.model.horizon() && self.model.at_least(roll) < bound {
            let next = self.model.fullest(roll, stage);
            if next == stage {
                self.model.green(roll, stage, stage, LONG);
            } else {
                course = course.then(roll.second, next);
                self.change(roll, stage, next);
                self.serve(roll, stage, next, true);
                stage = next;
            }
        }
        course
    }

    fn offer(&mut self, mut course: Course, roll: &Roll<GROUPS>, start: &Start, allowed: bool) {
        course.cost = self.model.total(roll);
        let mut note = |stage: usize| {
            if let Some(known) = self.found.by_stage.get_mut(stage).filter(|known| course.cost < known.cost) {
                *known = course;
            }
        };
        if let Some((_, next)) = course.change(0) {
            note(next);
        }
        if !course.changes_before(start.decided_until) {
            note(start.stage);
        }
        if allowed && course.cost < self.found.best.cost {
            self.found.best = course;
        }
    }
}
