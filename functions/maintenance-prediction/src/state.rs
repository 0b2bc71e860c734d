//! The state behind one key of the stream: the detectors of an intersection, a machine, and the alerts of both.

use serde::{Deserialize, Serialize};
use shared::asset::{AssetHealth, DETECTOR};
use shared::ids::{AssetKind, IntersectionId};
use shared::intersection::Intersection;
use shared::prognosis::Model;
use shared::reading::SensorReading;
use shared::units::Timestamp;

use crate::advisory::Advisory;
use crate::detector::JunctionDetectors;
use crate::machine::Machine;

/// What a reading did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It changed what is known.
    New,
    /// It is not newer than the newest of its source: replayed or late.
    Replayed,
    /// It says nothing about the condition of an asset.
    Ignored,
}

/// Everything that is known behind one key.
#[derive(Debug, Default)]
pub struct State {
    detectors: Option<JunctionDetectors>,
    machine: Option<Machine>,
    advisory: Advisory,
}

/// The first byte of a row: it grows with each change of what is stored, of a part as well as of the whole. Rows without it began with
/// 0 or 1.
const FORMAT: u8 = 2;

/// Why bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    /// Written by another version.
    #[error("format {0:?} is not known to this version")]
    Format(Option<u8>),
    /// Not the layout of this format.
    #[error("{0}")]
    Layout(#[from] postcard::Error),
    /// Longer than the layout: `postcard` itself would take the beginning for the whole.
    #[error("{0} bytes too many")]
    TooLong(usize),
}

/// A value that takes up all of the bytes.
fn whole<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, Unreadable> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(Unreadable::TooLong(rest.len())),
    }
}

/// The parts are encoded each for itself: another version of one leaves the alerts readable.
#[derive(Serialize, Deserialize)]
struct Stored {
    detectors: Option<Vec<u8>>,
    machine: Option<Vec<u8>>,
    advisory: Vec<u8>,
}

impl State {
    /// Folds one reading, in the order of the stream. `model` knows the kind of its machine, if it is telemetry.
    pub fn fold(&mut self, reading: &SensorReading, model: Option<&Model>) -> Folded {
        let mut transitions = Vec::new();
        let folded = match reading {
            SensorReading::Detector(_) | SensorReading::ControllerEvent(_) => {
                let Ok(id) = IntersectionId::try_from(reading.key()) else { return Folded::Ignored };
                self.detectors.get_or_insert_with(|| JunctionDetectors::new(id)).fold(reading, &mut transitions)
            }
            SensorReading::Telemetry(telemetry) => {
                self.machine.get_or_insert_with(|| Machine::new(telemetry)).fold(telemetry, model, &mut transitions)
            }
            SensorReading::SignalState(_) | SensorReading::Position(_) => Folded::Ignored,
        };
        self.advise(transitions);
        folded
    }

    /// The detectors of this intersection should report; those that were configured before are forgotten.
    pub fn expect(&mut self, intersection: &Intersection, now: Timestamp) {
        let mut transitions = Vec::new();
        let known = self.detectors.get_or_insert_with(|| JunctionDetectors::new(intersection.id().clone()));
        known.expect(&intersection.detectors().cloned().collect::<Vec<_>>(), now, &mut transitions);
        if let Some(location) = intersection.location() {
            known.set_longitude(location.lon);
        }
        self.advise(transitions);
    }

    /// The intersection is not configured: detectors that were are forgotten.
    pub fn expect_nothing(&mut self, now: Timestamp) {
        let mut transitions = Vec::new();
        if let Some(known) = &mut self.detectors {
            known.expect(&[], now, &mut transitions);
        }
        self.advise(transitions);
    }

    /// Notes what has not reported for too long at this (estimated) event time.
    pub fn sweep(&mut self, now: Timestamp) {
        let mut transitions = Vec::new();
        if let Some(detectors) = &mut self.detectors {
            detectors.sweep(now, &mut transitions);
        }
        self.advise(transitions);
    }

    fn advise(&mut self, transitions: Vec<crate::advisory::Transition>) {
        for transition in transitions {
            self.advisory.apply(transition);
        }
    }

    /// The alerts.
    pub const fn advisory(&mut self) -> &mut Advisory {
        &mut self.advisory
    }

    /// Event time of the newest reading.
    pub fn as_of(&self) -> Option<Timestamp> {
        self.detectors.as_ref().and_then(JunctionDetectors::as_of).max(self.machine.as_ref().map(Machine::as_of))
    }

    /// The condition of each asset, the machine first, then the detectors in order of id; `unheard_at` is the time of a junction
    /// that was never heard.
    pub fn health(&self, unheard_at: Timestamp) -> Vec<AssetHealth> {
        let machine = self.machine.as_ref().map(Machine::health);
        machine.into_iter().chain(self.detectors.iter().flat_map(|detectors| detectors.health(unheard_at))).collect()
    }

    /// Compact bytes for the store.
    ///
    /// # Errors
    /// [`postcard::Error`] if memory runs out.
    pub fn to_bytes(&self) -> Result<Vec<u8>, postcard::Error> {
        let stored = Stored {
            detectors: self.detectors.as_ref().map(postcard::to_stdvec).transpose()?,
            machine: self.machine.as_ref().map(postcard::to_stdvec).transpose()?,
            advisory: postcard::to_stdvec(&self.advisory)?,
        };
        postcard::to_extend(&stored, vec![FORMAT])
    }

    /// Reads what [`Self::to_bytes`] of this version or one before wrote. A row of a newer version begins anew. A part that cannot be
    /// read does so as well: its open alerts are cleared at `as_of`, and come back as the same ones if their faults do.
    pub fn from_bytes(bytes: &[u8], key: &str, as_of: Timestamp) -> Self {
        let unreadable = |part: &str, error: Unreadable| tracing::error!(key, part, %error, "a part of the state begins anew");
        let (format, stored) = match bytes.split_first() {
            Some((&FORMAT, stored)) => (Some(FORMAT), whole::<Stored>(stored)),
            Some((0 | 1, _)) => (None, whole::<Stored>(bytes)),
            other => (None, Err(Unreadable::Format(other.map(|(format, _)| *format)))),
        };
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                unreadable("everything", error);
                return Self::default();
            }
        };
        let mut advisory: Advisory = whole(&stored.advisory).unwrap_or_else(|error| {
            unreadable("alerts", error);
            Advisory::default()
        });
        let detectors = stored.detectors.and_then(|bytes| {
            let lost = |error| {
                unreadable("detectors", error);
                advisory.clear_all(as_of, |kind| kind.as_str() == DETECTOR);
            };
            let read = match format {
                Some(_) => whole(&bytes),
                None => whole(&bytes).or_else(|_| whole(&JunctionDetectors::with_nothing_disbelieved(&bytes)?)),
            };
            read.map_err(lost).ok()
        });
        let machine = stored.machine.and_then(|bytes| {
            let lost = |error| {
                unreadable("machine", error);
                advisory.clear_all(as_of, |kind: &AssetKind| kind.as_str() != DETECTOR);
            };
            whole(&bytes).map_err(lost).ok()
        });
        Self { detectors, machine, advisory }
    }
}
