//! From the JSON document of an intersection to an [`Intersection`], or to the list of everything that is wrong with it.

pub(super) mod checks;
mod duplicates;

use std::collections::HashMap;

use serde_json::Value;

use self::duplicates::note_duplicates;
use super::{Control, ControlMode, ETag, Exit, Intersection, Lane, Movement, MovementSet, Planner, Stage, TimeOfDayPlan, Turn};
use crate::asset::Location;
use crate::fields::{At, Fault, Faults, Fields, Misfit, array, id, one_of, positive, seconds, text};
use crate::ids::{DetectorId, IntersectionId, MovementId};
use crate::ports::PortError;
use crate::units::Deciseconds;

/// Bounds on the size of a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Approach lanes.
    pub lanes: usize,
    /// Exit lanes.
    pub exits: usize,
    /// Movements.
    pub movements: usize,
    /// Stages.
    pub stages: usize,
    /// Entries of the time-of-day plan.
    pub time_of_day_stages: usize,
    /// Bytes of the document.
    pub document_bytes: usize,
}

/// What fits a large urban junction twice over.
pub const LIMITS: Limits = Limits { lanes: 64, exits: 64, movements: 128, stages: 32, time_of_day_stages: 64, document_bytes: 256 * 1024 };

const TURNS: &[(&str, Turn)] =
    &[("through", Turn::Through), ("left", Turn::Left), ("right", Turn::Right), ("u_turn", Turn::UTurn), ("pedestrian", Turn::Pedestrian)];
const MODES: &[(&str, ControlMode)] =
    &[("adaptive", ControlMode::Adaptive), ("shadow", ControlMode::Shadow), ("time_of_day", ControlMode::TimeOfDay)];

impl TryFrom<Value> for Intersection {
    type Error = Vec<Fault>;

    /// Checks everything and names every fault; see `openapi.yaml` for the codes.
    fn try_from(document: Value) -> Result<Self, Vec<Fault>> {
        check(document, Faults::default())
    }
}

/// Why a text is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// It is not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// Something in it is wrong.
    #[error("{}", said(.0))]
    Faults(Vec<Fault>),
}

impl From<serde_json::Error> for InvalidDocument {
    fn from(error: serde_json::Error) -> Self {
        Self::NotJson(error.to_string())
    }
}

/// The faults, each with its place.
fn said(faults: &[Fault]) -> String {
    let said = faults.iter().map(|fault| format!("{} {}", if fault.pointer.is_empty() { "it" } else { &fault.pointer }, fault.message));
    said.collect::<Vec<_>>().join("; ")
}

impl Intersection {
    /// Reads the text of a configuration. Beyond `try_from`, it sees fields that occur twice: a [`Value`] keeps only the last.
    ///
    /// # Errors
    /// [`InvalidDocument`] says what to correct.
    pub fn from_json(text: &str) -> Result<Self, InvalidDocument> {
        let document = serde_json::from_str(text)?;
        let mut faults = Faults::default();
        note_duplicates(text, &mut faults)?;
        check(document, faults).map_err(InvalidDocument::Faults)
    }

    /// Reads what is stored under an id.
    ///
    /// # Errors
    /// [`PortError::Outdated`]: what is stored was accepted once, so another version did.
    pub fn stored(id: IntersectionId, text: &str) -> Result<Self, PortError> {
        Self::from_json(text).map_err(|error| PortError::Outdated(id, error))
    }
}

fn check(document: Value, mut faults: Faults) -> Result<Intersection, Vec<Fault>> {
    match read(&document, &mut faults) {
        Some(mut intersection) if faults.is_empty() => {
            intersection.etag = ETag::of(&document);
            intersection.document = document;
            Ok(intersection)
        }
        _ => Err(faults.into_vec()),
    }
}

/// Numbers of entries by their id; the first entry of an id wins, the others are faults.
type Numbers<'v> = HashMap<&'v str, usize>;

fn read(document: &Value, faults: &mut Faults) -> Option<Intersection> {
    let root = At::Root;
    let mut fields = Fields::of(document, &root, faults)?;
    let intersection_id: Option<IntersectionId> = fields.required("id", &root, faults, id);
    let _name = fields.optional("name", &root, faults, name);
    let location = fields.raw("location").and_then(|value| Location::read(value, &root.field("location"), faults));
    let lanes = read_list(&mut fields, "lanes", (1, LIMITS.lanes), faults, read_lane);
    let exits = read_list(&mut fields, "exits", (0, LIMITS.exits), faults, read_exit);
    let lane_numbers = number_by_id("lanes", document, faults);
    let exit_numbers = number_by_id("exits", document, faults);
    refuse_shared_detectors(&lanes, &exits, faults);
    let movements = read_list(&mut fields, "movements", (1, LIMITS.movements), faults, |value, at, faults| {
        read_movement(value, at, faults, &lane_numbers, &exit_numbers)
    });
    let movement_numbers = number_by_id("movements", document, faults);
    let stage_numbers = number_by_id("stages", document, faults);
    let timing = fields
        .required("timing", &root, faults, Ok)
        .and_then(|value| read_timing(value, &root.field("timing"), faults, &movement_numbers, &stage_numbers));
    let stages = read_list(&mut fields, "stages", (1, LIMITS.stages), faults, |value, at, faults| {
        read_stage(value, at, faults, timing.as_ref(), &movement_numbers)
    });
    let conflicts = read_conflicts(&mut fields, faults, &movement_numbers);
    let time_of_day = fields
        .required("time_of_day_plan", &root, faults, Ok)
        .and_then(|value| read_time_of_day(value, &root.field("time_of_day_plan"), faults, &stage_numbers));
    let control = read_control(&mut fields, faults);
    fields.refuse_others(&root, faults);
    if !faults.is_empty() {
        return None;
    }

    let timing = timing?;
    let mut intersection = Intersection {
        id: intersection_id?,
        location,
        lanes,
        exits,
        movements,
        stages,
        conflicts,
        red_max: timing.red_max,
        time_of_day: time_of_day?,
        control,
        cover: Vec::new(),
        homes: Vec::new(),
        at_once: Vec::new(),
        layout: 0,
        document: Value::Null,
        etag: ETag::of(&Value::Null),
    };
    checks::movements(&intersection, faults);
    checks::conflicts(&intersection, faults);
    checks::pedestrians(&intersection, &timing.pedestrian, faults);
    add_unlisted(&mut intersection, faults);
    checks::time_of_day(&intersection, faults);
    intersection.cover = checks::cover(&intersection);
    let home = |movement| intersection.cover.iter().copied().find(|&stage| intersection.movements_of(stage).contains(movement));
    intersection.homes = (0..intersection.movements.len()).map(home).collect();
    intersection.at_once = intersection.stages_at_once();
    intersection.layout = ETag::of(&intersection.describe_layout()).short();
    checks::skipped(&intersection, faults);
    checks::cover_cycle(&intersection, faults);
    Some(intersection)
}

/// A stage of the time-of-day plan without any movement serves somebody who is not listed, such as pedestrians or a tram. A movement
/// stands for them, so that they wait no longer than anybody else. Outside that plan it is a mistake.
fn add_unlisted(intersection: &mut Intersection, faults: &mut Faults) {
    /// Leaves room for an id that is still free.
    const NAME_LEN: usize = 96;
    let list = At::Root.field("stages");
    let Intersection { stages, movements, time_of_day, .. } = intersection;
    for (number, stage) in stages.iter_mut().enumerate().filter(|(_, stage)| stage.movements().is_empty()) {
        if !time_of_day.stages.iter().any(|&(shown, _)| shown == number) {
            let message = format!(
                "stage '{}' serves no movement: list one, or put the stage into the time-of-day plan if it serves somebody else",
                stage.id
            );
            faults.add(&list.index(number), "movement_unserved", message);
            continue;
        }
        let mut name: String = format!("stage:{}", stage.id).chars().take(NAME_LEN).collect();
        while movements.iter().any(|movement| movement.id.as_str() == name) {
            name.push('_');
        }
        let id = MovementId::try_from(name.as_str()).ok().filter(|_| movements.len() < LIMITS.movements);
        let Some(id) = id else {
            let message =
                format!("stage '{}' serves no movement and needs room for one; list at most {} in all", stage.id, LIMITS.movements);
            return faults.add(&At::Root.field("movements"), "too_many", message);
        };
        stage.protected.insert(movements.len());
        movements.push(Movement { id, from_lane: None, to_exit: None, turn: Turn::Pedestrian });
    }
}

fn name(value: &Value) -> Result<(), Misfit> {
    let name = text(value)?;
    if name.chars().count() <= 200 { Ok(()) } else { Err(("out_of_range", "must have at most 200 characters".into())) }
}

/// Reads every entry of an array; an entry with a fault is left out, which the faults remember.
fn read_list<'v, T>(
    fields: &mut Fields<'v>,
    name: &'static str,
    (min, max): (usize, usize),
    faults: &mut Faults,
    mut read: impl FnMut(&'v Value, &At<'_>, &mut Faults) -> Option<T>,
) -> Vec<T> {
    let at = At::Root.field(name);
    let items = if min == 0 {
        fields.optional(name, &At::Root, faults, array(min, max))
    } else {
        fields.required(name, &At::Root, faults, array(min, max))
    };
    items.into_iter().flatten().enumerate().filter_map(|(i, value)| read(value, &at.index(i), faults)).collect()
}

/// Numbers the entries of a list by their id and notes ids that occur twice.
fn number_by_id<'v>(name: &'static str, document: &'v Value, faults: &mut Faults) -> Numbers<'v> {
    let mut numbers = Numbers::new();
    let list = At::Root.field(name);
    for (i, entry) in document.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
        let Some(id) = entry.get("id").and_then(Value::as_str) else { continue };
        if numbers.contains_key(id) {
            faults.add(&list.index(i).field("id"), "duplicate_id", format!("'{id}' is taken by an entry before it"));
        } else {
            numbers.insert(id, i);
        }
    }
    numbers
}

fn known<'n>(numbers: &'n Numbers<'_>, what: &'static str) -> impl Fn(&Value) -> Result<usize, Misfit> + 'n {
    move |value| {
        let id = text(value)?;
        numbers.get(id).copied().ok_or_else(|| ("unknown_id", format!("no {what} has the id '{id}'")))
    }
}

fn read_lane(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Lane> {
    let mut fields = Fields::of(value, at, faults)?;
    let lane_id = fields.required("id", at, faults, id);
    let length_m = fields.required("length_m", at, faults, positive(10_000.0));
    let speed_limit_kmh = fields.required("speed_limit_kmh", at, faults, positive(200.0));
    let detector_id = fields.optional("detector_id", at, faults, id);
    fields.refuse_others(at, faults);
    Some(Lane { id: lane_id?, length_m: length_m?, speed_limit_kmh: speed_limit_kmh?, detector_id })
}

fn read_exit(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Exit> {
    let mut fields = Fields::of(value, at, faults)?;
    let exit_id = fields.required("id", at, faults, id);
    let length_m = fields.required("length_m", at, faults, positive(10_000.0));
    let detector_id = fields.optional("detector_id", at, faults, id);
    let to_intersection = fields.optional("to_intersection", at, faults, id);
    fields.refuse_others(at, faults);
    Some(Exit { id: exit_id?, length_m: length_m?, detector_id, to_intersection })
}

/// A detector watches one lane or one exit: its counts would otherwise be demand twice.
fn refuse_shared_detectors(lanes: &[Lane], exits: &[Exit], faults: &mut Faults) {
    let (lane_list, exit_list) = (At::Root.field("lanes"), At::Root.field("exits"));
    let of_lanes = lanes.iter().enumerate().map(|(i, lane)| (lane_list.index(i), lane.detector_id.as_ref()));
    let of_exits = exits.iter().enumerate().map(|(i, exit)| (exit_list.index(i), exit.detector_id.as_ref()));
    let mut seen: Vec<&DetectorId> = Vec::new();
    for (at, detector) in of_lanes.chain(of_exits) {
        let Some(detector) = detector else { continue };
        if seen.contains(&detector) {
            faults.add(&at.field("detector_id"), "duplicate_id", format!("detector '{detector}' watches another lane already"));
        }
        seen.push(detector);
    }
}

fn read_movement(value: &Value, at: &At<'_>, faults: &mut Faults, lanes: &Numbers<'_>, exits: &Numbers<'_>) -> Option<Movement> {
    let mut fields = Fields::of(value, at, faults)?;
    let movement_id = fields.required("id", at, faults, id);
    let turn = fields.required("turn", at, faults, one_of(TURNS));
    let from_lane = fields.optional("from_lane", at, faults, known(lanes, "lane"));
    let to_exit = fields.optional("to_exit", at, faults, known(exits, "exit"));
    if turn.is_some_and(|turn| turn != Turn::Pedestrian) {
        for name in ["from_lane", "to_exit"] {
            if value.get(name).is_none_or(Value::is_null) {
                faults.add(&at.field(name), "missing_lane", "is required unless the movement is a pedestrian one");
            }
        }
    }
    fields.refuse_others(at, faults);
    Some(Movement { id: movement_id?, from_lane, to_exit, turn: turn? })
}

struct Timing {
    base: StageTiming,
    overrides: HashMap<usize, StageTiming>,
    red_max: Deciseconds,
    pedestrian: HashMap<usize, Deciseconds>,
}

#[derive(Clone, Copy, Default)]
struct StageTiming {
    green_min: Option<Deciseconds>,
    green_max: Option<Deciseconds>,
    yellow_change: Option<Deciseconds>,
    red_clearance: Option<Deciseconds>,
}

fn read_timing(value: &Value, at: &At<'_>, faults: &mut Faults, movements: &Numbers<'_>, stages: &Numbers<'_>) -> Option<Timing> {
    let mut fields = Fields::of(value, at, faults)?;
    let mut base = read_stage_timing(&mut fields, at, faults);
    for (name, given) in [("green_min_s", base.green_min), ("green_max_s", base.green_max), ("yellow_change_s", base.yellow_change)] {
        if given.is_none() && value.get(name).is_none_or(Value::is_null) {
            faults.add(&at.field(name), "missing_field", "is required");
        }
    }
    base.red_clearance = base.red_clearance.or(Some(Deciseconds::ZERO));
    let red_max = fields.required("red_max_s", at, faults, seconds(1.0, 3600.0));

    let mut overrides = HashMap::new();
    let list = at.field("stages");
    for (name, value) in entries(&mut fields, "stages", at, faults) {
        let place = list.field(name);
        let Some(mut fields) = Fields::of(value, &place, faults) else { continue };
        let timing = read_stage_timing(&mut fields, &place, faults);
        fields.refuse_others(&place, faults);
        match stages.get(name.as_str()) {
            Some(&stage) => drop(overrides.insert(stage, timing)),
            None => faults.add(&place, "unknown_id", format!("no stage has the id '{name}'")),
        }
    }
    let mut pedestrian = HashMap::new();
    let list = at.field("pedestrian");
    for (name, value) in entries(&mut fields, "pedestrian", at, faults) {
        let place = list.field(name);
        let Some(mut fields) = Fields::of(value, &place, faults) else { continue };
        let walk = fields.required("walk_s", &place, faults, seconds(0.0, 120.0));
        let clearance = fields.required("clearance_s", &place, faults, seconds(0.0, 120.0));
        fields.refuse_others(&place, faults);
        match movements.get(name.as_str()) {
            Some(&movement) => drop(pedestrian.insert(movement, walk.unwrap_or_default() + clearance.unwrap_or_default())),
            None => faults.add(&place, "unknown_id", format!("no movement has the id '{name}'")),
        }
    }
    fields.refuse_others(at, faults);
    Some(Timing { base, overrides, red_max: red_max?, pedestrian })
}

/// The entries of a map of objects that may be absent.
fn entries<'v>(
    fields: &mut Fields<'v>,
    name: &'static str,
    at: &At<'_>,
    faults: &mut Faults,
) -> impl Iterator<Item = (&'v String, &'v Value)> + use<'v> {
    let map = fields.optional(name, at, faults, |value| value.as_object().ok_or_else(|| ("wrong_type", "must be an object".into())));
    map.into_iter().flatten()
}

fn read_stage_timing(fields: &mut Fields<'_>, at: &At<'_>, faults: &mut Faults) -> StageTiming {
    StageTiming {
        green_min: fields.optional("green_min_s", at, faults, seconds(1.0, 120.0)),
        green_max: fields.optional("green_max_s", at, faults, seconds(1.0, 600.0)),
        yellow_change: fields.optional("yellow_change_s", at, faults, |value| match seconds(3.0, 6.0)(value) {
            Err(("out_of_range", message)) => Err(("yellow_change_range", message)),
            other => other,
        }),
        red_clearance: fields.optional("red_clearance_s", at, faults, seconds(0.0, 10.0)),
    }
}

fn read_stage(value: &Value, at: &At<'_>, faults: &mut Faults, timing: Option<&Timing>, movements: &Numbers<'_>) -> Option<Stage> {
    let mut fields = Fields::of(value, at, faults)?;
    let stage_id = fields.required("id", at, faults, id);
    let protected = read_set(&mut fields, "protected", at, faults, movements);
    let permitted = read_set(&mut fields, "permitted", at, faults, movements);
    if permitted.minus(protected) != permitted {
        faults.add(&at.field("permitted"), "duplicate_id", "a movement is either protected or permitted in a stage");
    }
    fields.refuse_others(at, faults);

    let timing = timing?;
    let number = match at {
        At::Index(_, number) => *number,
        _ => 0,
    };
    let own = timing.overrides.get(&number).copied().unwrap_or_default();
    let green_min = own.green_min.or(timing.base.green_min)?;
    let green_max = own.green_max.or(timing.base.green_max)?;
    if green_max < green_min {
        faults.add(at, "out_of_range", format!("its green_max_s of {green_max} is shorter than its green_min_s of {green_min}"));
    }
    Some(Stage {
        id: stage_id?,
        protected,
        permitted,
        green_min,
        green_max,
        yellow_change: own.yellow_change.or(timing.base.yellow_change)?,
        red_clearance: own.red_clearance.or(timing.base.red_clearance)?,
    })
}

fn read_set(fields: &mut Fields<'_>, name: &'static str, at: &At<'_>, faults: &mut Faults, movements: &Numbers<'_>) -> MovementSet {
    let list = at.field(name);
    let ids = fields.optional(name, at, faults, array(0, LIMITS.movements));
    let mut set = MovementSet::default();
    for (i, value) in ids.into_iter().flatten().enumerate() {
        match known(movements, "movement")(value) {
            Ok(movement) => set.insert(movement),
            Err((code, message)) => faults.add(&list.index(i), code, message),
        }
    }
    set
}

fn read_conflicts(fields: &mut Fields<'_>, faults: &mut Faults, movements: &Numbers<'_>) -> Vec<(usize, usize)> {
    let list = At::Root.field("conflicts");
    let pairs = fields.optional("conflicts", &At::Root, faults, array(0, LIMITS.movements * LIMITS.movements));
    let mut conflicts = Vec::new();
    for (i, pair) in pairs.into_iter().flatten().enumerate() {
        let place = list.index(i);
        let Some([a, b]) = pair.as_array().map(Vec::as_slice) else {
            faults.add(&place, "invalid_conflict", "must be an array of two movement ids");
            continue;
        };
        match (known(movements, "movement")(a), known(movements, "movement")(b)) {
            (Ok(a), Ok(b)) if a == b => faults.add(&place, "invalid_conflict", "a movement cannot conflict with itself"),
            (Ok(a), Ok(b)) => conflicts.push((a, b)),
            (a, b) => {
                for (side, result) in [a, b].into_iter().enumerate() {
                    if let Err((code, message)) = result {
                        faults.add(&place.index(side), code, message);
                    }
                }
            }
        }
    }
    conflicts
}

fn read_time_of_day(value: &Value, at: &At<'_>, faults: &mut Faults, stages: &Numbers<'_>) -> Option<TimeOfDayPlan> {
    let mut fields = Fields::of(value, at, faults)?;
    let offset = fields.optional("offset_s", at, faults, seconds(0.0, 86_400.0)).unwrap_or_default();
    let entries = fields.required("stages", at, faults, array(1, LIMITS.time_of_day_stages));
    fields.refuse_others(at, faults);
    let list = at.field("stages");
    let mut plan = Vec::new();
    for (i, value) in entries?.iter().enumerate() {
        let place = list.index(i);
        let Some(mut fields) = Fields::of(value, &place, faults) else { continue };
        let stage = fields.required("stage", &place, faults, known(stages, "stage"));
        let green = fields.required("green_s", &place, faults, seconds(0.0, 600.0));
        fields.refuse_others(&place, faults);
        plan.extend(stage.zip(green));
    }
    Some(TimeOfDayPlan { offset, stages: plan })
}

fn read_control(fields: &mut Fields<'_>, faults: &mut Faults) -> Control {
    let mut control = Control {
        mode: ControlMode::Adaptive,
        step: Deciseconds::from_secs(5),
        plan_ttl: Deciseconds::from_secs(30),
        planner: Planner::default(),
    };
    let at = At::Root.field("control");
    let Some(value) = fields.raw("control") else { return control };
    let Some(mut fields) = Fields::of(value, &at, faults) else { return control };
    control.mode = fields.optional("mode", &at, faults, one_of(MODES)).unwrap_or(control.mode);
    control.step = fields.optional("step_s", &at, faults, seconds(1.0, 60.0)).unwrap_or(control.step);
    control.plan_ttl = fields.optional("plan_ttl_s", &at, faults, seconds(1.0, 300.0)).unwrap_or(control.plan_ttl);
    if control.plan_ttl < control.step {
        faults.add(&at.field("plan_ttl_s"), "out_of_range", "must not be shorter than step_s: every plan would expire before the next");
    }
    if let Some(value) = fields.raw("planner") {
        control.planner = Planner::read(value, &at.field("planner"), faults);
    }
    fields.refuse_others(&at, faults);
    control
}
