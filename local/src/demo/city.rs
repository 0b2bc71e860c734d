//! The street grid of the demo and the configuration of its junctions.
//!
//! Roads that run east and west are the main ones. Each leg has a lane for through and right and one for left.

use serde_json::{Map, Value, json};

/// Ids of all junctions begin with this.
pub(crate) const PREFIX: &str = "demo-";
/// Time between two readings, s.
pub(crate) const STEP_S: u32 = 5;
/// Speed of a vehicle that nothing holds up, m/s: 50 km/h.
pub(crate) const SPEED_MS: f64 = 50.0 / 3.6;
/// Walk, s, and clearance for 10.5 m of road at 1.2 m/s. Source: `RiLSA` 2015.
const WALK_S: u32 = 5;
const WALK_CLEARANCE_S: u32 = 9;
/// What each controller does alone: stages and their greens, s. Of 416 plans with one split for all junctions (with and without
/// `ns_left`, up to three green waves) it gave the least delay from 07:00 to 09:00, so that the yardstick is a fair one.
const TIME_OF_DAY_S: [(&str, u32); 3] = [("ns", 14), ("ew", 20), ("ew_left", 5)];
/// Yellow change and red clearance, s.
const YELLOW_S: u32 = 3;
const RED_S: u32 = 1;

/// A leg of a junction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    North,
    East,
    South,
    West,
}

/// What a vehicle does at a junction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Through,
    Right,
    Left,
}

#[expect(clippy::indexing_slicing, reason = "the index is the number of a variant")]
impl Turn {
    const fn name(self) -> &'static str {
        ["through", "right", "left"][self as usize]
    }
}

#[expect(clippy::indexing_slicing, reason = "the index is the number of a variant")]
impl Side {
    pub(crate) const ALL: [Self; 4] = [Self::North, Self::East, Self::South, Self::West];

    const fn clockwise(self, quarters: usize) -> Self {
        Self::ALL[(self as usize + quarters) % 4]
    }

    pub(crate) const fn opposite(self) -> Self {
        self.clockwise(2)
    }

    /// The leg by which a vehicle leaves that comes from this one.
    pub(crate) const fn exit(self, turn: Turn) -> Self {
        match turn {
            Turn::Through => self.opposite(),
            Turn::Right => self.clockwise(3),
            Turn::Left => self.clockwise(1),
        }
    }

    /// Time along the road of this leg at free speed, s.
    pub(crate) const fn travel_s(self) -> u32 {
        if self.is_main() { 22 } else { 18 }
    }

    pub(crate) const fn is_main(self) -> bool {
        matches!(self, Self::East | Self::West)
    }

    pub(crate) fn length_m(self) -> f64 {
        (f64::from(self.travel_s()) * SPEED_MS * 10.0).round() / 10.0
    }

    const fn letter(self) -> char {
        ['n', 'e', 's', 'w'][self as usize]
    }
}

/// A grid of junctions, numbered from 0 along the rows from the north-west corner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct City {
    rows: usize,
    columns: usize,
    /// Time between two readings of a detector, s.
    pub(crate) step_s: u32,
}

impl Default for City {
    fn default() -> Self {
        Self { rows: 2, columns: 3, step_s: STEP_S }
    }
}

impl City {
    /// A grid of so many junctions, as square as their number allows.
    pub(crate) fn of(junctions: usize, step_s: u32) -> Self {
        let rows = (1..=junctions).take_while(|rows| rows * rows <= junctions).filter(|rows| junctions.is_multiple_of(*rows)).max();
        let rows = rows.unwrap_or(1);
        Self { rows, columns: junctions / rows, step_s }
    }

    pub(crate) fn junctions(self) -> impl Iterator<Item = usize> {
        0..self.rows * self.columns
    }

    /// `demo-{row}-{column}`, from 1.
    pub(crate) fn id(self, junction: usize) -> String {
        format!("{PREFIX}{}-{}", junction / self.columns + 1, junction % self.columns + 1)
    }

    /// The junction at the other end of a leg; none where the road leaves the city.
    pub(crate) fn neighbour(self, junction: usize, side: Side) -> Option<usize> {
        let (row, column) = (junction / self.columns, junction % self.columns);
        match side {
            Side::North => junction.checked_sub(self.columns),
            Side::East => (column + 1 < self.columns).then_some(junction + 1),
            Side::South => (row + 1 < self.rows).then_some(junction + self.columns),
            Side::West => column.checked_sub(1).map(|_| junction - 1),
        }
    }

    /// Number of an approach lane among all lanes of the city.
    pub(crate) const fn approach(junction: usize, side: Side, turn: Turn) -> usize {
        (junction * 4 + side as usize) * 2 + matches!(turn, Turn::Left) as usize
    }

    /// Number of the lane by which a leg leaves the city, after all approach lanes. In the middle of the city it stays empty.
    pub(crate) const fn way_out(self, junction: usize, side: Side) -> usize {
        self.rows * self.columns * 8 + junction * 4 + side as usize
    }

    /// Number of a movement in the configuration of a junction.
    pub(crate) const fn movement(side: Side, turn: Turn) -> usize {
        side as usize * 3 + turn as usize
    }

    /// Id of the detector of an approach lane.
    pub(crate) fn lane_id(side: Side, turn: Turn) -> String {
        format!("{}_{}", side.letter(), if turn == Turn::Left { "left" } else { "through" })
    }

    /// Id of an exit and its detector.
    pub(crate) fn exit_id(side: Side) -> String {
        format!("{}_out", side.letter())
    }

    /// The configuration as the API takes it.
    pub(crate) fn document(self, junction: usize) -> Value {
        let (row, column) = (junction / self.columns, junction % self.columns);
        let lane = |side: Side, turn| {
            let id = Self::lane_id(side, turn);
            json!({"id": id, "detector_id": id, "length_m": side.length_m(), "speed_limit_kmh": 50.0})
        };
        let exit = |side: Side| {
            let (id, to) = (Self::exit_id(side), self.neighbour(junction, side).map(|next| self.id(next)));
            json!({"id": id, "detector_id": id, "length_m": side.length_m(), "to_intersection": to})
        };
        let walks = Side::ALL.map(|side| (walk_id(side), json!({"walk_s": WALK_S, "clearance_s": WALK_CLEARANCE_S})));
        let with_walk = json!({"green_min_s": WALK_S + WALK_CLEARANCE_S});
        json!({
            "id": self.id(junction),
            "name": format!("Main Street {} / Avenue {}", row + 1, column + 1),
            "location": {"lat": degrees(509_400 - 22 * row), "lon": degrees(69_600 + 44 * column)},
            "lanes": Side::ALL.map(|side| [lane(side, Turn::Through), lane(side, Turn::Left)]).concat(),
            "exits": Side::ALL.map(exit),
            "movements": movements(),
            "stages": [through("ns", Side::North), left("ns_left", Side::North), through("ew", Side::East), left("ew_left", Side::East)],
            "conflicts": conflicts(),
            "timing": {
                "green_min_s": 5, "green_max_s": 60, "yellow_change_s": YELLOW_S, "red_clearance_s": RED_S, "red_max_s": 150,
                "stages": {"ns": with_walk, "ew": with_walk}, "pedestrian": walks.into_iter().collect::<Map<_, _>>(),
            },
            "time_of_day_plan": {
                "offset_s": offset_s(column),
                "stages": TIME_OF_DAY_S.map(|(stage, green)| json!({"stage": stage, "green_s": green})),
            },
            "control": {"mode": "adaptive", "step_s": self.step_s, "plan_ttl_s": 6 * self.step_s},
        })
    }
}

/// Degrees from ten-thousandths, so that the document has no rounding in it.
fn degrees(value: usize) -> f64 {
    u32::try_from(value).map_or(0.0, f64::from) / 10_000.0
}

/// A green wave eastbound, where the morning's traffic goes.
fn offset_s(column: usize) -> u32 {
    let cycle: u32 = TIME_OF_DAY_S.iter().map(|(_, green)| green + YELLOW_S + RED_S).sum();
    u32::try_from(column).unwrap_or_default() * Side::West.travel_s() % cycle
}

/// All ways to drive, in the order of [`City::movement`].
fn drives() -> impl Iterator<Item = (Side, Turn)> {
    Side::ALL.into_iter().flat_map(|side| [Turn::Through, Turn::Right, Turn::Left].map(|turn| (side, turn)))
}

fn movements() -> Vec<Value> {
    let drive = |(side, turn): (Side, Turn)| {
        let (from, to) = (City::lane_id(side, turn), City::exit_id(side.exit(turn)));
        json!({"id": drive_id(side, turn), "from_lane": from, "to_exit": to, "turn": turn.name()})
    };
    let walk = |side| json!({"id": walk_id(side), "turn": "pedestrian"});
    drives().map(drive).chain(Side::ALL.map(walk)).collect()
}

fn drive_id(side: Side, turn: Turn) -> String {
    format!("{}_{}", side.letter(), turn.name())
}

/// People who cross this leg.
fn walk_id(side: Side) -> String {
    format!("{}_walk", side.letter())
}

/// Through traffic of two opposite legs and people beside it. Who turns gives way; off the main road, where traffic is fast
/// and dense, left turns have to wait for their own stage.
fn through(id: &str, side: Side) -> Value {
    let both = [side, side.opposite()];
    let mut protected = both.map(|s| drive_id(s, Turn::Through)).to_vec();
    protected.extend(both.map(|s| walk_id(s.clockwise(1))));
    let mut permitted = both.map(|s| drive_id(s, Turn::Right)).to_vec();
    if !side.is_main() {
        permitted.extend(both.map(|s| drive_id(s, Turn::Left)));
    }
    json!({"id": id, "protected": protected, "permitted": permitted})
}

fn left(id: &str, side: Side) -> Value {
    json!({"id": id, "protected": [drive_id(side, Turn::Left), drive_id(side.opposite(), Turn::Left)]})
}

/// Crossing streets; opposite left turns against what they cross or join; vehicles and people on the same leg.
fn conflicts() -> Vec<[String; 2]> {
    let mut pairs = Vec::new();
    for (i, (a, turn_a)) in drives().enumerate() {
        for (b, turn_b) in drives().skip(i + 1) {
            let crossing = a.is_main() != b.is_main();
            let against = a.opposite() == b && (turn_a == Turn::Left) != (turn_b == Turn::Left);
            if crossing || against {
                pairs.push([drive_id(a, turn_a), drive_id(b, turn_b)]);
            }
        }
        pairs.extend([a, a.exit(turn_a)].map(|leg| [drive_id(a, turn_a), walk_id(leg)]));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use shared::intersection::Intersection;

    use super::*;

    #[test]
    fn every_junction_is_a_valid_configuration_and_its_roads_lead_to_the_neighbour_and_back() {
        let city = City::default();
        assert_eq!(city.id(5), "demo-2-3");
        for junction in city.junctions() {
            let intersection = Intersection::try_from(city.document(junction)).unwrap();
            for (side, turn) in drives() {
                assert_eq!(intersection.movements()[City::movement(side, turn)].id.as_str(), drive_id(side, turn));
                let back = city.neighbour(junction, side).map(|next| city.neighbour(next, side.opposite()));
                assert!(back.is_none() || back == Some(Some(junction)));
            }
        }
    }

    #[test]
    fn vehicles_of_two_legs_that_are_never_green_together_are_declared_as_conflicts() {
        let intersection = Intersection::try_from(City::default().document(0)).unwrap();
        for (a, b) in (0..12).flat_map(|a| (a + 1..12).map(move |b| (a, b))).filter(|(a, b)| a / 3 != b / 3) {
            let together = intersection.stages().iter().any(|s| s.movements().contains(a) && s.movements().contains(b));
            assert!(together || intersection.conflicts().contains(&(a, b)), "{a} and {b}");
        }
    }
}
