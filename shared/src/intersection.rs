//! The static description of a junction: lanes, movements, stages, limits and the plan that its controller runs alone.
//!
//! An [`Intersection`] can only be made from a document in which nothing is wrong, so whoever holds one may index by its
//! numbers and rely on its limits.

mod document;
mod planner;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::asset::Location;
use crate::ids::{DetectorId, ExitId, IntersectionId, LaneId, MovementId, StageId};
use crate::units::{Deciseconds, Timestamp};

pub use document::{InvalidDocument, LIMITS, Limits};
pub use planner::Planner;

/// A controller looks at its plan once a second.
pub const CONTROLLER_CYCLE: Deciseconds = Deciseconds::from_secs(1);

/// Identifies the content of a configuration: equal content has an equal tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ETag([u8; 16]);

impl ETag {
    /// The tag of a document.
    pub fn of(document: &Value) -> Self {
        // Objects are sorted by name in `Value`, so equal documents have equal texts.
        let digest = Sha256::digest(document.to_string().as_bytes());
        Self(std::array::from_fn(|i| digest.get(i).copied().unwrap_or_default()))
    }

    /// The first bytes, where a collision does no harm.
    pub fn short(self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| self.0.get(i).copied().unwrap_or_default()))
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text is not a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a tag of 32 hexadecimal digits")]
pub struct InvalidETag;

impl FromStr for ETag {
    type Err = InvalidETag;
    fn from_str(text: &str) -> Result<Self, InvalidETag> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidETag);
        }
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * i..2 * i + 2).ok_or(InvalidETag)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidETag)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ETag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ETag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A set of movements, by their number in [`Intersection::movements`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MovementSet(u128);

impl MovementSet {
    /// Adds a movement.
    pub fn insert(&mut self, movement: usize) {
        if movement < 128 {
            self.0 |= 1 << movement;
        }
    }

    /// Whether the movement is in the set.
    pub const fn contains(self, movement: usize) -> bool {
        movement < 128 && self.0 >> movement & 1 == 1
    }

    /// Movements in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Movements of this set that are not in the other.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many movements are in the set.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether no movement is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The movements in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let lowest = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(lowest)
        })
    }
}

impl FromIterator<usize> for MovementSet {
    fn from_iter<I: IntoIterator<Item = usize>>(movements: I) -> Self {
        let mut set = Self::default();
        movements.into_iter().for_each(|movement| set.insert(movement));
        set
    }
}

/// An approach lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Lane {
    /// Its id.
    pub id: LaneId,
    /// Length up to the stop line, m.
    pub length_m: f64,
    /// Speed limit, km/h.
    pub speed_limit_kmh: f64,
    /// The detector that watches it.
    pub detector_id: Option<DetectorId>,
}

/// A lane that leaves the junction.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Its id.
    pub id: ExitId,
    /// Length from the junction on, m.
    pub length_m: f64,
    /// The detector that watches it.
    pub detector_id: Option<DetectorId>,
    /// The intersection that it leads to.
    pub to_intersection: Option<IntersectionId>,
}

/// Where a movement turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Straight on.
    Through,
    /// To the left.
    Left,
    /// To the right.
    Right,
    /// Back.
    UTurn,
    /// Across the road, on foot.
    Pedestrian,
}

/// A way through the junction.
#[derive(Clone, Debug, PartialEq)]
pub struct Movement {
    /// Its id.
    pub id: MovementId,
    /// Number of its lane in [`Intersection::lanes`]; none for pedestrians and whoever else has none.
    pub from_lane: Option<usize>,
    /// Number of its exit in [`Intersection::exits`]; none where there is no lane.
    pub to_exit: Option<usize>,
    /// Where it turns.
    pub turn: Turn,
}

/// A set of movements that are green together, with its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its id.
    pub id: StageId,
    /// Movements with right of way.
    pub protected: MovementSet,
    /// Movements that give way.
    pub permitted: MovementSet,
    /// Shortest green; covers walk and clearance of the pedestrians in the stage.
    pub green_min: Deciseconds,
    /// Longest green.
    pub green_max: Deciseconds,
    /// Yellow when the stage ends.
    pub yellow_change: Deciseconds,
    /// All red after that yellow.
    pub red_clearance: Deciseconds,
}

impl Stage {
    /// All movements that are green in the stage.
    pub const fn movements(&self) -> MovementSet {
        self.protected.union(self.permitted)
    }

    /// Time between the end of this stage's green and the start of the next: yellow and red clearance.
    pub fn clearance(&self) -> Deciseconds {
        self.yellow_change + self.red_clearance
    }
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlMode {
    /// Greenwave decides and the controller follows.
    Adaptive,
    /// Greenwave decides, nobody follows.
    Shadow,
    /// The time-of-day plan runs.
    TimeOfDay,
}

/// How Greenwave takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Control {
    /// Who decides.
    pub mode: ControlMode,
    /// Time between two steps of readings.
    pub step: Deciseconds,
    /// How long a plan is valid after the readings it rests on.
    pub plan_ttl: Deciseconds,
    /// How it plans.
    pub planner: Planner,
}

/// The plan that the controller runs alone.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeOfDayPlan {
    /// When a cycle begins, counted from the epoch modulo the cycle length.
    pub offset: Deciseconds,
    /// Stages by number in [`Intersection::stages`] with their green.
    pub stages: Vec<(usize, Deciseconds)>,
}

/// A configured junction in which nothing contradicts anything.
#[derive(Clone, Debug, PartialEq)]
pub struct Intersection {
    id: IntersectionId,
    location: Option<Location>,
    lanes: Vec<Lane>,
    exits: Vec<Exit>,
    movements: Vec<Movement>,
    stages: Vec<Stage>,
    conflicts: Vec<(usize, usize)>,
    red_max: Deciseconds,
    time_of_day: TimeOfDayPlan,
    control: Control,
    cover: Vec<usize>,
    homes: Vec<Option<usize>>,
    at_once: Vec<u32>,
    layout: u64,
    document: Value,
    etag: ETag,
}

impl Intersection {
    /// Its id.
    pub fn id(&self) -> &IntersectionId {
        &self.id
    }

    /// Where it is.
    pub const fn location(&self) -> Option<Location> {
        self.location
    }

    /// Approach lanes.
    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// Exit lanes.
    pub fn exits(&self) -> &[Exit] {
        &self.exits
    }

    /// Ways through the junction; behind those that are listed, one for each stage that lists none.
    pub fn movements(&self) -> &[Movement] {
        &self.movements
    }

    /// Stages.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Pairs of movements that are never both protected and never green at once across a change.
    pub fn conflicts(&self) -> &[(usize, usize)] {
        &self.conflicts
    }

    /// Longest red of any movement.
    pub const fn red_max(&self) -> Deciseconds {
        self.red_max
    }

    /// The plan that the controller runs alone.
    pub const fn time_of_day(&self) -> &TimeOfDayPlan {
        &self.time_of_day
    }

    /// How Greenwave takes part.
    pub const fn control(&self) -> Control {
        self.control
    }

    /// Stages that together serve every movement, and whose shortest cycle keeps [`Self::red_max`]: the way out of any
    /// situation.
    pub fn cover(&self) -> &[usize] {
        &self.cover
    }

    /// The first stage of the [`Self::cover`] that serves a movement.
    pub fn home_of(&self, movement: usize) -> Option<usize> {
        self.homes.get(movement).copied().flatten()
    }

    /// Time to serve the [`Self::cover`] once at its shortest greens, coming from any stage.
    pub fn cover_cycle(&self) -> Deciseconds {
        let visits = self.cover.iter().filter_map(|&i| self.stages.get(i)).map(|stage| stage.green_min + stage.clearance());
        visits.sum::<Deciseconds>() + self.stages.iter().map(Stage::clearance).max().unwrap_or_default()
    }

    /// Names what numbers mean: two configurations of equal layout have the same stages, movements and detectors in the same
    /// order, so that a state of one is a state of the other.
    pub const fn layout(&self) -> u64 {
        self.layout
    }

    fn describe_layout(&self) -> Value {
        let stages =
            self.stages.iter().map(|s| json!([s.id, s.protected.iter().collect::<Vec<_>>(), s.permitted.iter().collect::<Vec<_>>()]));
        let movements = self.movements.iter().map(|m| json!([m.id, m.from_lane]));
        let lanes = self.lanes.iter().map(|l| json!([l.id, l.detector_id]));
        json!([stages.collect::<Vec<_>>(), movements.collect::<Vec<_>>(), lanes.collect::<Vec<_>>(), self.detectors().collect::<Vec<_>>()])
    }

    /// The document it was made from.
    pub const fn document(&self) -> &Value {
        &self.document
    }

    /// The tag of its content.
    pub const fn etag(&self) -> ETag {
        self.etag
    }

    /// Detectors of lanes, then of exits, in the order of the configuration.
    pub fn detectors(&self) -> impl Iterator<Item = &DetectorId> {
        self.lanes.iter().filter_map(|l| l.detector_id.as_ref()).chain(self.exits.iter().filter_map(|e| e.detector_id.as_ref()))
    }

    /// Length of one cycle of the time-of-day plan: greens and clearances.
    pub fn time_of_day_cycle(&self) -> Deciseconds {
        self.time_of_day.stages.iter().map(|&(stage, green)| green + self.clearance(stage)).sum()
    }

    /// Time without green for anybody new when one stage follows another: the clearance of the first, or none if all its
    /// movements stay green and none of them conflicts with one that turns green.
    pub fn clearance_between(&self, from: usize, to: usize) -> Deciseconds {
        let bit = u32::try_from(to).ok().and_then(|to| self.at_once.get(from)?.checked_shr(to)).unwrap_or_default();
        if bit & 1 == 1 { Deciseconds::ZERO } else { self.clearance(from) }
    }

    /// The stages, as bits, that may follow each stage without a clearance.
    fn stages_at_once(&self) -> Vec<u32> {
        let at_once = |from: MovementSet, to: MovementSet| {
            let begins = to.minus(from);
            let meet = |&(a, b): &(usize, usize)| (from.contains(a) && begins.contains(b)) || (from.contains(b) && begins.contains(a));
            from.minus(to).is_empty() && !self.conflicts.iter().any(meet)
        };
        let followers = |from: &Stage| {
            let to = self.stages.iter().enumerate().filter(|(_, to)| at_once(from.movements(), to.movements()));
            to.fold(0, |bits, (number, _)| bits | 1 << number)
        };
        self.stages.iter().map(followers).collect()
    }

    /// Clearance after the stage of this number.
    pub fn clearance(&self, stage: usize) -> Deciseconds {
        self.stages.get(stage).map_or(Deciseconds::ZERO, Stage::clearance)
    }

    /// Movements of the stage of this number.
    pub fn movements_of(&self, stage: usize) -> MovementSet {
        self.stages.get(stage).map_or(MovementSet::default(), Stage::movements)
    }

    /// Where the time-of-day plan stands at an instant: entry of its list, and how long ago that entry's green began.
    /// During a clearance it is the entry that just ended.
    pub fn time_of_day_at(&self, now: Timestamp) -> (usize, Deciseconds) {
        let cycle = i64::from(self.time_of_day_cycle().tenths()).max(1);
        let tenths = now.as_millis().div_euclid(100) - i64::from(self.time_of_day.offset.tenths());
        let mut into = u32::try_from(tenths.rem_euclid(cycle)).unwrap_or_default();
        for (entry, &(stage, green)) in self.time_of_day.stages.iter().enumerate() {
            let span = (green + self.clearance(stage)).tenths();
            if into < span {
                return (entry, Deciseconds::new(into));
            }
            into -= span;
        }
        (0, Deciseconds::ZERO)
    }
}

#[cfg(test)]
mod tests;
