//! Assets and their condition: what is registered of a detector or machine, and what `maintenance-prediction` says of it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fields::{At, Faults, Fields, Misfit, id, number, text, time};
use crate::ids::{AssetId, AssetKind, DetectorId, ID_MAX_LEN, IntersectionId};
use crate::intersection::{ETag, InvalidDocument};
use crate::units::Timestamp;

/// The kind of every traffic detector.
pub const DETECTOR: &str = "detector";

/// Longest name of an asset, in characters: that of the longest id, which is its name until somebody gives another.
const NAME_MAX: usize = 2 * ID_MAX_LEN + 1;

/// Where an asset stands (WGS 84).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Latitude, degrees, -90..=90.
    pub lat: f64,
    /// Longitude, degrees, -180..=180.
    pub lon: f64,
}

impl Location {
    /// Reads a location; `None` always comes with a fault.
    pub(crate) fn read(value: &Value, at: &At<'_>, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(value, at, faults)?;
        let lat = fields.required("lat", at, faults, number(-90.0, 90.0));
        let lon = fields.required("lon", at, faults, number(-180.0, 180.0));
        fields.refuse_others(at, faults);
        Some(Self { lat: lat?, lon: lon? })
    }
}

/// What people say of an asset. `PUT /v1/assets/{id}` is its only source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asset {
    /// Its id.
    pub id: AssetId,
    /// What it is.
    pub kind: AssetKind,
    /// How people call it, 1 to 257 characters.
    pub name: String,
    /// Where it stands, if it does.
    pub location: Option<Location>,
    /// When it was put in place.
    pub installed_at: Option<Timestamp>,
    /// The intersection it belongs to.
    pub intersection_id: Option<IntersectionId>,
}

impl Asset {
    /// Reads the document of an asset.
    ///
    /// # Errors
    /// [`InvalidDocument`] names every fault.
    pub fn from_json(text: &str) -> Result<Self, InvalidDocument> {
        let document = serde_json::from_str(text)?;
        let mut faults = Faults::default();
        let asset = read(&document, &mut faults);
        match asset {
            Some(asset) if faults.is_empty() => Ok(asset),
            _ => Err(InvalidDocument::Faults(faults.into_vec())),
        }
    }

    /// What is known of an asset that nobody registered: its name is its id.
    pub fn unregistered(id: AssetId, kind: AssetKind) -> Self {
        let intersection_id = id.as_detector().map(|(intersection, _)| intersection);
        Self { name: id.to_string(), id, kind, location: None, installed_at: None, intersection_id }
    }

    /// Identifies this very content.
    pub fn etag(&self) -> ETag {
        ETag::of(&json!(self))
    }
}

fn read(document: &Value, faults: &mut Faults) -> Option<Asset> {
    let at = At::Root;
    let mut fields = Fields::of(document, &at, faults)?;
    let asset_id = fields.required("id", &at, faults, id);
    let kind = fields.required("kind", &at, faults, id);
    let name = fields.required("name", &at, faults, name);
    let location = fields.raw("location").and_then(|value| Location::read(value, &at.field("location"), faults));
    let installed_at = fields.optional("installed_at", &at, faults, time);
    let intersection_id = fields.optional("intersection_id", &at, faults, id);
    fields.refuse_others(&at, faults);
    Some(Asset { id: asset_id?, kind: kind?, name: name?, location, installed_at, intersection_id })
}

fn name(value: &Value) -> Result<String, Misfit> {
    let name = text(value)?;
    if (1..=NAME_MAX).contains(&name.chars().count()) {
        Ok(name.to_owned())
    } else {
        Err(("out_of_range", format!("must have 1 to {NAME_MAX} characters")))
    }
}

/// How an asset is (ISO 13374).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// As it should be.
    Normal,
    /// Something deserves a look; what it says is still used.
    Alert,
    /// It has failed or is about to: a detector has no say in signals.
    Alarm,
    /// Too little is known to say.
    Unknown,
}

/// What can be wrong with an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A detector does not report.
    NoData,
    /// A detector sees nothing although there is traffic.
    StuckOff,
    /// A detector is occupied without end.
    StuckOn,
    /// A detector counts what is not there, in bursts.
    Chatter,
    /// A detector misses vehicles.
    Undercount,
    /// A detector counts vehicles more than once.
    Overcount,
    /// A detector's counts leave its pattern slowly.
    Drift,
    /// A machine has little life left.
    EndOfLife,
}

impl Fault {
    /// All faults with their names on the wire.
    pub const NAMES: &[(&str, Self)] = &[
        ("no_data", Self::NoData),
        ("stuck_off", Self::StuckOff),
        ("stuck_on", Self::StuckOn),
        ("chatter", Self::Chatter),
        ("undercount", Self::Undercount),
        ("overcount", Self::Overcount),
        ("drift", Self::Drift),
        ("end_of_life", Self::EndOfLife),
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        crate::fields::word_of(Self::NAMES, self)
    }
}

/// How long a machine will last, as an interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemainingUsefulLife {
    /// What is counted, such as `cycles`.
    pub unit: String,
    /// It lasts longer than this in 95 of 100 cases.
    pub p05: f64,
    /// It lasts longer than this in half of the cases.
    pub p50: f64,
    /// It lasts longer than this in 5 of 100 cases.
    pub p95: f64,
    /// Share of cases that should lie between `p05` and `p95`.
    pub coverage_target: f64,
}

/// What speaks for or against an asset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The condition indicator: a metric of a machine, or a measure of a detector.
    pub indicator: String,
    /// How much it moves the verdict, negative to the worse: units of remaining life of a machine, points of the health index
    /// of a detector.
    pub contribution: f64,
    /// One sentence for people.
    pub text: String,
}

/// The model that judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Its name: the kind of asset it knows.
    pub name: String,
    /// Hash of its content.
    pub version: String,
}

/// The condition of one asset as `GET /v1/assets/{id}/health` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssetHealth {
    /// The asset.
    pub asset_id: AssetId,
    /// What it is.
    pub kind: AssetKind,
    /// Event time of the newest reading that it rests on.
    pub as_of: Timestamp,
    /// The verdict.
    pub state: HealthState,
    /// 100 as new, 0 failed; none if unknown.
    pub health_index: Option<u8>,
    /// For machines whose kind has a model.
    pub remaining_useful_life: Option<RemainingUsefulLife>,
    /// What it rests on, largest contribution first.
    pub reasons: Vec<Reason>,
    /// What is wrong, if something is.
    pub fault: Option<Fault>,
    /// Who judged, if it was a model.
    pub model: Option<ModelVersion>,
}

/// The detectors among the assets that are in alarm: they have no say in signals.
pub fn detectors_in_alarm(health: &[AssetHealth]) -> impl Iterator<Item = DetectorId> {
    let in_alarm = health.iter().filter(|health| health.state == HealthState::Alarm);
    in_alarm.filter_map(|health| health.asset_id.as_detector().map(|(_, detector)| detector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_reads_back_as_it_was_written() {
        let document = json!({"id": "truck-17", "kind": "vehicle_engine", "name": "Truck 17", "location": {"lat": 50.94, "lon": 6.96},
            "installed_at": "2026-11-22T08:00:00.000Z", "intersection_id": null});
        let asset = Asset::from_json(&document.to_string()).unwrap();
        assert_eq!(serde_json::to_value(&asset).unwrap(), document);
        let again = Asset::from_json(&document.to_string()).unwrap();
        assert_eq!(asset.etag(), again.etag());
    }

    #[test]
    fn every_fault_of_an_asset_is_named() {
        let document = json!({"id": "a b", "kind": 1, "name": "", "location": {"lat": 91}, "installed_at": "soon", "owner": "me"});
        let Err(InvalidDocument::Faults(faults)) = Asset::from_json(&document.to_string()) else { panic!("it was accepted") };
        let found: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
        let expected = [
            ("/id", "invalid_id"),
            ("/kind", "wrong_type"),
            ("/name", "out_of_range"),
            ("/location/lat", "out_of_range"),
            ("/location/lon", "missing_field"),
            ("/installed_at", "invalid_time"),
            ("/owner", "unknown_field"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_names_of_faults_are_those_of_their_json() {
        for (name, fault) in Fault::NAMES {
            assert_eq!(serde_json::to_value(fault).unwrap(), json!(name));
            assert_eq!(fault.name(), *name);
        }
    }
}
