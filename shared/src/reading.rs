//! What sensors say: one observation per reading, with its invariants checked where it comes in ([`crate::wire`]).

use std::collections::BTreeMap;

use crate::ids::{AssetId, AssetKind, DetectorId, IntersectionId, StageId};
use crate::units::{Deciseconds, Timestamp};

/// One observation. Its identity is (type, source, time): the same reading sent again changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum SensorReading {
    /// What a detector saw in a period.
    Detector(DetectorReading),
    /// What a signal shows.
    SignalState(SignalStateReading),
    /// A hi-res event of a controller.
    ControllerEvent(ControllerEvent),
    /// A sample of a machine.
    Telemetry(Telemetry),
    /// Where a vehicle is.
    Position(Position),
}

impl SensorReading {
    /// The partition key: intersection or asset. Order holds per key.
    pub fn key(&self) -> &str {
        match self {
            Self::Detector(r) => r.intersection_id.as_str(),
            Self::SignalState(r) => r.intersection_id.as_str(),
            Self::ControllerEvent(r) => r.intersection_id.as_str(),
            Self::Telemetry(r) => r.asset_id.as_str(),
            Self::Position(r) => r.asset_id.as_str(),
        }
    }

    /// Event time.
    pub const fn time(&self) -> Timestamp {
        match self {
            Self::Detector(r) => r.time,
            Self::SignalState(r) => r.time,
            Self::ControllerEvent(r) => r.time,
            Self::Telemetry(r) => r.time,
            Self::Position(r) => r.time,
        }
    }
}

/// What one detector saw in the period that ended at `time`; at least one measure or a fault is there.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorReading {
    /// The intersection.
    pub intersection_id: IntersectionId,
    /// The detector.
    pub detector_id: DetectorId,
    /// End of the period.
    pub time: Timestamp,
    /// Length of the period, more than 0 and at most a day.
    pub period: Deciseconds,
    /// Vehicles that passed the stop line in the period, >= 0.
    pub volume: Option<f64>,
    /// Share of the period in which it was occupied, 0..=1.
    pub occupancy: Option<f64>,
    /// Mean speed, km/h, >= 0.
    pub speed_mean_kmh: Option<f64>,
    /// Vehicles in the zone at `time`, >= 0; fractions are estimates.
    pub vehicles: Option<f64>,
    /// Of those, standing or crawling (slower than 7.2 km/h).
    pub queue: Option<f64>,
    /// Vehicles by distance from the stop line.
    pub profile: Option<Profile>,
    /// What the device says of itself.
    pub fault: Option<DetectorFault>,
}

/// Vehicles by distance from the stop line; all lists have one entry per bin, nearest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Length of a bin, m.
    pub bin_m: f64,
    /// Vehicles in the bin.
    pub vehicles: Vec<f64>,
    /// Of those, moving.
    pub moving: Vec<f64>,
    /// Mean speed of the moving ones, km/h.
    pub speed_mean_kmh: Vec<Option<f64>>,
}

impl Profile {
    /// As many vehicles as this are somebody.
    pub const SOMEBODY: f64 = 0.5;

    /// Whether somebody stands or crawls in the bin at the stop line. A bin longer than 50 m does not tell: the end of a queue stands in
    /// it while the head moves.
    pub fn head_stands(&self) -> bool {
        const HEAD_M: f64 = 50.0;
        let standing = self.vehicles.first().zip(self.moving.first()).map_or(0.0, |(vehicles, moving)| vehicles - moving);
        self.bin_m <= HEAD_M && standing > Self::SOMEBODY
    }

    /// Vehicles in the bins that begin nearer to the stop line than this, m.
    pub fn within(&self, metres: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 64 bins")]
        let near = self.vehicles.iter().enumerate().filter(|(bin, _)| (*bin as f64) * self.bin_m < metres);
        near.map(|(_, vehicles)| vehicles).sum()
    }
}

/// A fault that a detector reports of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectorFault {
    /// Nothing seen for too long.
    NoActivity,
    /// Occupied for too long.
    MaxPresence,
    /// Counts too fast to be traffic.
    Erratic,
    /// The link to the detector is down.
    Communication,
    /// The detector is set up wrongly.
    Configuration,
}

/// What a signal shows.
#[derive(Clone, Debug, PartialEq)]
pub struct SignalStateReading {
    /// The intersection.
    pub intersection_id: IntersectionId,
    /// When.
    pub time: Timestamp,
    /// The stage that is green, or that was until the clearance now shown.
    pub stage: StageId,
    /// How long its green has lasted.
    pub stage_elapsed: Deciseconds,
    /// While yellow or all red is shown: the next stage and the clearance that remains.
    pub clearing: Option<(StageId, Deciseconds)>,
    /// Who runs the signal.
    pub mode: SignalMode,
}

/// Who runs the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalMode {
    /// The plan of Greenwave.
    Adaptive,
    /// The controller's own time-of-day plan.
    TimeOfDay,
    /// Flashing.
    Flash,
    /// Preempted, by a train or a fire engine.
    Preempted,
    /// A person.
    Manual,
}

/// A hi-res controller event. Codes up to 255 are those of the Indiana enumeration; controllers send their vendor's own above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerEvent {
    /// The intersection.
    pub intersection_id: IntersectionId,
    /// When.
    pub time: Timestamp,
    /// What happened.
    pub code: u16,
    /// To which phase, overlap or detector.
    pub parameter: u8,
}

/// One sample of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// The machine.
    pub asset_id: AssetId,
    /// What it is.
    pub asset_kind: AssetKind,
    /// When.
    pub time: Timestamp,
    /// Its age in working cycles.
    pub cycle: Option<u64>,
    /// Finite values by metric name.
    pub metrics: BTreeMap<String, f64>,
}

/// Where a vehicle is (WGS 84).
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// The vehicle.
    pub asset_id: AssetId,
    /// When.
    pub time: Timestamp,
    /// Latitude, degrees, -90..=90.
    pub lat: f64,
    /// Longitude, degrees, -180..=180.
    pub lon: f64,
    /// Speed, km/h, >= 0.
    pub speed_kmh: Option<f64>,
    /// Course over ground, degrees clockwise from north, 0..=360.
    pub heading_deg: Option<f64>,
    /// Distance driven, km, >= 0.
    pub odometer_km: Option<f64>,
}
