//! A set of faults, and how reports of devices are named.

use serde::{Deserialize, Serialize};
use shared::asset::Fault;
use shared::reading::DetectorFault;

/// Faults of detectors, the gravest first.
const ALL: [Fault; 7] = [Fault::NoData, Fault::StuckOn, Fault::StuckOff, Fault::Chatter, Fault::Undercount, Fault::Overcount, Fault::Drift];

/// A set of faults of a detector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Faults(u8);

impl Faults {
    fn bit(fault: Fault) -> u8 {
        ALL.iter().position(|known| *known == fault).map_or(0, |place| 1 << place)
    }

    /// Whether it is there.
    pub(super) fn has(self, fault: Fault) -> bool {
        self.0 & Self::bit(fault) != 0
    }

    /// Whether there is none.
    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The faults, the gravest first.
    pub(super) fn iter(self) -> impl Iterator<Item = Fault> {
        ALL.into_iter().filter(move |fault| self.has(*fault))
    }

    /// These without those.
    pub(super) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self(faults.into_iter().fold(0, |bits, fault| bits | Self::bit(fault)))
    }
}

/// Our name for what a device reports (NTCIP 1202 `vehicleDetectorAlarms`).
pub(super) const fn reported(fault: DetectorFault) -> Fault {
    match fault {
        DetectorFault::NoActivity => Fault::StuckOff,
        DetectorFault::MaxPresence => Fault::StuckOn,
        DetectorFault::Erratic => Fault::Chatter,
        // What a detector sends that is set up wrongly is no data either.
        DetectorFault::Communication | DetectorFault::Configuration => Fault::NoData,
    }
}

/// What a controller event says of one of its detector channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChannelEvent {
    /// A vehicle left.
    Off,
    /// A vehicle came.
    On,
    /// A fault is over.
    Restored,
    /// A fault began.
    Failed(Fault),
}

impl ChannelEvent {
    /// None if it is about something else. Source: Indiana Traffic Signal Hi Resolution Data Logger Enumerations, 81 to 88.
    pub(super) const fn of(code: u16) -> Option<Self> {
        Some(match code {
            81 => Self::Off,
            82 => Self::On,
            83 => Self::Restored,
            // Other, watchdog, open loop and shorted loop: the channel answers with a constant call or with nothing.
            84..=87 => Self::Failed(Fault::NoData),
            // Excessive change.
            88 => Self::Failed(Fault::Chatter),
            _ => return None,
        })
    }
}
