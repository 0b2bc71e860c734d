//! Detectors of a junction: are their counts still true?
//!
//! The blocks of ISO 13374 are the modules: `bin` manipulates data, `profile`, `dispersion` and `peers` say what is to be
//! expected, `presence` and `evidence` detect states, `health` assesses them. Two kinds of tests work side by side:
//!
//! - *Physics* (`presence`), from the first minute: silence, an endless occupancy while the others count, flows that no lane
//!   carries, faults that devices report.
//! - *Statistics* (`counts`), once a profile is mature: each closed bin adds evidence for what may be wrong. Only the best
//!   explanation is raised, and none if others changed at the same time: that is traffic.
//!
//! Event time alone drives both. The junction's time is that of its newest believed reading; a bin closes once all detectors
//! have reported its end, or with the first reading beyond it. A reading that is not newer than the newest of its detector
//! changes nothing; one that is late for its bin only tells that the detector lives.

mod bin;
mod clock;
mod counts;
mod dispersion;
mod evidence;
mod faults;
mod health;
mod peers;
mod presence;
mod profile;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use shared::ids::{AssetId, AssetKind, DetectorId, IntersectionId};
use shared::reading::{ControllerEvent, DetectorReading, SensorReading};
use shared::units::Timestamp;

use self::bin::{OpenBin, bin_of, start_of};
use self::clock::{Belief, Clock, ClockBefore, Source};
use self::counts::{Subject, Traffic};
use self::faults::{ChannelEvent, Faults, reported};
use self::peers::Companions;
use self::presence::{FLOW_ABSURD, Presence, Sample};
use self::profile::{BIN_MS, Slot};
use crate::advisory::{Change, Transition};
use crate::state::Folded;

/// Detectors of a junction that are followed; readings of further ones are ignored. The largest junctions have about 100.
pub const DETECTORS_MAX: usize = 128;
/// A configured detector that was never heard of has no data after so long, or three of the longest periods.
const UNHEARD_MIN_MS: i64 = 15 * 60_000;

/// What is known of the detectors of one junction: at most 2 KB each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JunctionDetectors {
    intersection_id: IntersectionId,
    clock: Clock,
    /// How much earlier than in UTC the day begins, by local mean solar time.
    offset_ms: i64,
    /// The bin that is open.
    bin: Option<i64>,
    /// Vehicles counted so far by all detectors.
    passed: f64,
    /// The newest event of the controller.
    controller: Option<i64>,
    detectors: Vec<Detector>,
    companions: Companions,
}

/// What is known of one detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Detector {
    id: DetectorId,
    /// Since when it is missed, if it is configured and was never heard of.
    missed_since: Option<i64>,
    is_expected: bool,
    /// Code of the newest event, if it is a channel of the controller.
    channel: Option<u16>,
    presence: Presence,
    bin: OpenBin,
    traffic: Traffic,
    standing: Faults,
}

impl JunctionDetectors {
    /// A junction of whose detectors nothing is known.
    pub fn new(intersection_id: IntersectionId) -> Self {
        Self {
            intersection_id,
            clock: Clock::default(),
            offset_ms: 0,
            bin: None,
            passed: 0.0,
            controller: None,
            detectors: Vec::new(),
            companions: Companions::default(),
        }
    }

    /// The bytes of a junction from before its clock remembered which readings it had not believed, as they would be now.
    ///
    /// # Errors
    /// [`postcard::Error`] if they were written otherwise.
    pub(crate) fn with_nothing_disbelieved(bytes: &[u8]) -> Result<Vec<u8>, postcard::Error> {
        let ((id, clock), rest): ((IntersectionId, ClockBefore), _) = postcard::take_from_bytes(bytes)?;
        let mut now = postcard::to_stdvec(&(id, Clock::from(clock)))?;
        now.extend_from_slice(rest);
        Ok(now)
    }

    /// Event time of the newest believed reading.
    pub fn as_of(&self) -> Option<Timestamp> {
        self.clock.now().map(Timestamp::from_millis)
    }

    /// Where the junction lies, -180..=180: decides when its weekends begin, to the half hour or so.
    pub fn set_longitude(&mut self, degrees: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "at most half a day")]
        let offset_ms = (degrees.clamp(-180.0, 180.0) * 240_000.0) as i64;
        self.offset_ms = offset_ms;
    }

    /// These detectors are configured and should report. Those that were and are no more are forgotten, and their faults are
    /// over at `now`, unless the junction's time is later. Others are not missed before their first reading.
    pub fn expect(&mut self, detectors: &[DetectorId], now: Timestamp, out: &mut Vec<Transition>) {
        let at = self.clock.now().unwrap_or(now.as_millis());
        let is_removed = |detector: &Detector| detector.is_expected && !detectors.contains(&detector.id);
        while let Some(place) = self.detectors.iter().position(is_removed) {
            self.companions.remove(place, self.detectors.len());
            self.clock.forget_waiting();
            let mut removed = self.detectors.remove(place);
            removed.presence = Presence::default();
            removed.traffic = Traffic::default();
            removed.tell(&self.intersection_id, at, out);
        }
        for id in detectors {
            if let Some(detector) = self.find(id).and_then(|place| self.detectors.get_mut(place)) {
                detector.is_expected = true;
            }
        }
    }

    /// Folds one reading, in the order of the stream.
    pub fn fold(&mut self, reading: &SensorReading, out: &mut Vec<Transition>) -> Folded {
        match reading {
            SensorReading::Detector(reading) => self.fold_detector(reading, out),
            SensorReading::ControllerEvent(event) => self.fold_event(event, out),
            _ => Folded::Ignored,
        }
    }

    /// Notes who is silent at an estimated event time, for nothing comes that would tell. Neither the junction's time nor bins
    /// nor profiles move, so a backlog that comes later is not late; its counts are judged again from the third period on.
    pub fn sweep(&mut self, now: Timestamp, out: &mut Vec<Transition>) {
        let now = now.as_millis();
        if self.clock.now().is_none_or(|newest| now > newest) {
            self.notice_silence(now);
            self.tell(now, out);
        }
    }

    /// The place of a detector, made if there is room.
    fn find(&mut self, id: &DetectorId) -> Option<usize> {
        if let Some(place) = self.detectors.iter().position(|detector| detector.id == *id) {
            return Some(place);
        }
        if self.detectors.len() >= DETECTORS_MAX {
            return None;
        }
        self.detectors.push(Detector::new(id.clone()));
        Some(self.detectors.len() - 1)
    }

    fn fold_detector(&mut self, reading: &DetectorReading, out: &mut Vec<Transition>) -> Folded {
        let at = reading.time.as_millis();
        let period_ms = u32::try_from(reading.period.as_millis()).unwrap_or(u32::MAX);
        let Some(place) = self.find(&reading.detector_id) else { return Folded::Ignored };
        if self.newest(place).is_some_and(|newest| at <= newest) {
            return Folded::Replayed;
        }
        if let Some(folded) = self.disbelieve(Source::Detector(place), at, i64::from(period_ms)) {
            return folded;
        }
        self.advance(at);
        let Some(now) = self.clock.now() else { return Folded::Ignored };
        let Some(detector) = self.detectors.get_mut(place) else { return Folded::Ignored };
        let sample = Sample {
            at,
            period_ms,
            volume: reading.volume.and_then(measure),
            occupancy: reading.occupancy.and_then(measure),
            fault: reading.fault.map(reported),
        };
        let volume = sample.volume.filter(|_| sample.fault.is_none() && sample.flow().is_some_and(|flow| flow < FLOW_ABSURD));
        detector.presence.fold(&sample, self.passed, now);
        if self.bin == Some(bin_of(at)) {
            detector.bin.fold(period_ms, volume);
        }
        self.passed += f64::from(volume.unwrap_or(0.0));
        self.close_complete();
        self.tell(now, out);
        Folded::New
    }

    /// Channels are detectors of the name `ch{parameter}`. What they report is a change, and silence means none.
    fn fold_event(&mut self, event: &ControllerEvent, out: &mut Vec<Transition>) -> Folded {
        let at = event.time.as_millis();
        let channel = ChannelEvent::of(event.code);
        let place =
            channel.and_then(|_| DetectorId::try_from(format!("ch{}", event.parameter).as_str()).ok()).and_then(|id| self.find(&id));
        let known = place.and_then(|place| self.detectors.get(place));
        let newest = known.map_or(self.controller, |detector| detector.presence.newest);
        let repeated = known.is_none_or(|detector| detector.channel == Some(event.code));
        if newest.is_some_and(|newest| at < newest || at == newest && repeated) {
            return Folded::Replayed;
        }
        if let Some(folded) = self.disbelieve(Source::Controller, at, 0) {
            return folded;
        }
        self.advance(at);
        self.controller = self.controller.max(Some(at));
        let Some(now) = self.clock.now() else { return Folded::Ignored };
        if let (Some(channel), Some(detector)) = (channel, place.and_then(|place| self.detectors.get_mut(place))) {
            detector.channel = Some(event.code);
            detector.presence.hear(at, 0, now);
            match channel {
                ChannelEvent::On => {
                    detector.presence.occupy(at, self.passed);
                    self.passed += 1.0;
                    if self.bin == Some(bin_of(at)) {
                        detector.bin.vehicle();
                    }
                }
                ChannelEvent::Off => detector.presence.free(),
                ChannelEvent::Restored => detector.presence.report(None),
                ChannelEvent::Failed(fault) => detector.presence.report(Some(fault)),
            }
        }
        self.tell(now, out);
        Folded::New
    }

    fn newest(&self, place: usize) -> Option<i64> {
        self.detectors.get(place).and_then(|detector| detector.presence.newest)
    }

    /// Answers what became of a reading whose time is not believed.
    fn disbelieve(&mut self, source: Source, at: i64, period_ms: i64) -> Option<Folded> {
        let newest = self.detectors.iter().map(|detector| detector.presence.newest).chain([self.controller]);
        // How long nobody else may be silent: nobody contradicts a clock that all others had time to contradict.
        let speaking = self.detectors.iter().filter(|detector| detector.speaks());
        let patience = speaking.map(|detector| detector.presence.silence_max_ms()).max().unwrap_or(0);
        match self.clock.judge(source, at, period_ms, patience, newest) {
            Belief::Believed => None,
            Belief::Agreed(source, heard) => {
                // The measures of the one that waited are lost; it is known all the same.
                let newest = match source {
                    Source::Detector(place) => self.detectors.get_mut(place).map(|detector| &mut detector.presence.newest),
                    Source::Controller => Some(&mut self.controller),
                };
                if let Some(newest) = newest {
                    *newest = (*newest).max(Some(heard));
                }
                None
            }
            Belief::Known => Some(Folded::Replayed),
            Belief::Waits => Some(Folded::New),
            Belief::SetBack => {
                self.bin = None;
                self.controller = self.controller.filter(|newest| *newest <= at);
                for detector in &mut self.detectors {
                    detector.presence.set_back(at);
                    detector.bin = OpenBin::default();
                }
                None
            }
        }
    }

    /// Moves the junction's time on, closing the bin that lies behind.
    fn advance(&mut self, at: i64) {
        let before = self.clock.now();
        self.clock.advance(at);
        let Some(now) = self.clock.now() else { return };
        let bin = bin_of(now);
        if self.bin.is_none_or(|open| bin > open) {
            self.close();
            self.bin = Some(bin);
        }
        if before != Some(now) {
            self.notice_silence(now);
        }
    }

    /// Closes the open bin once all detectors that speak have reported its end: waiting longer tells nothing more.
    fn close_complete(&mut self) {
        let Some(bin) = self.bin else { return };
        let end = start_of(bin + 1);
        let mut speaking = self.detectors.iter().filter(|detector| detector.speaks());
        if self.clock.now() == Some(end) && speaking.all(|detector| detector.channel.is_none() && detector.presence.newest >= Some(end)) {
            self.close();
            self.bin = Some(bin + 1);
        }
    }

    fn close(&mut self) {
        let Some(bin) = self.bin else { return };
        let start = start_of(bin);
        let controller_heard = self.controller.is_some_and(|newest| newest > start);
        for detector in self.detectors.iter_mut().filter(|detector| detector.channel.is_some()) {
            if controller_heard && detector.presence.first.is_some_and(|first| first <= start) {
                detector.bin.cover();
            }
        }
        self.judge_gaps(start);
        let mut subjects: Vec<_> = self.detectors.iter_mut().map(Detector::subject).collect();
        counts::close(bin, Slot::of(bin, self.offset_ms), &mut subjects, &mut self.companions);
        for detector in &mut self.detectors {
            detector.bin = OpenBin::default();
        }
    }

    /// A bin of which most detectors were heard shows who lost readings. Periods longer than a bin are left to silence.
    fn judge_gaps(&mut self, start: i64) {
        let is_regular = |detector: &&mut Detector| {
            let Presence { period_ms, first, .. } = detector.presence;
            detector.channel.is_none() && i64::from(period_ms) <= BIN_MS && first.is_some_and(|first| first <= start)
        };
        let mut regular: Vec<_> = self.detectors.iter_mut().filter(is_regular).collect();
        let best = regular.iter().map(|detector| detector.bin.heard()).fold(0.0, f32::max);
        let heard = regular.iter().filter(|detector| detector.bin.heard() > best / 2.0).count();
        if best > 0.5 && 2 * heard > regular.len() {
            for detector in regular.iter_mut().filter(|detector| !detector.presence.is_silent()) {
                detector.presence.judge_gaps(detector.bin.heard() / best);
            }
        }
    }

    fn notice_silence(&mut self, now: i64) {
        let longest = self.detectors.iter().map(|detector| detector.presence.silence_max_ms()).max().unwrap_or(0);
        for detector in &mut self.detectors {
            let heard = if detector.channel.is_some() { self.controller } else { detector.presence.newest };
            match heard {
                Some(heard) => detector.presence.notice_silence(self.clock.missed_from(heard), now),
                None if detector.is_expected => {
                    // The time of a sweep may be that of another year than the readings turn out to be from.
                    let since = detector.missed_since.map_or(now, |since| since.min(now));
                    detector.missed_since = Some(since);
                    if now.saturating_sub(since) >= longest.max(UNHEARD_MIN_MS) {
                        detector.presence.miss();
                    }
                }
                None => {}
            }
            if detector.channel.is_some() {
                detector.presence.notice_occupied(now, self.passed);
            }
        }
    }

    /// Tells which faults began and which are over.
    fn tell(&mut self, now: i64, out: &mut Vec<Transition>) {
        for detector in &mut self.detectors {
            detector.tell(&self.intersection_id, now, out);
        }
    }
}

impl Detector {
    fn new(id: DetectorId) -> Self {
        Self {
            id,
            missed_since: None,
            is_expected: false,
            channel: None,
            presence: Presence::default(),
            bin: OpenBin::default(),
            traffic: Traffic::default(),
            standing: Faults::default(),
        }
    }

    fn tell(&mut self, intersection_id: &IntersectionId, now: i64, out: &mut Vec<Transition>) {
        let faults = self.faults();
        let (over, begun) = (self.standing.without(faults), faults.without(self.standing));
        self.standing = faults;
        let changes = over.iter().map(|fault| (fault, Change::Cleared)).chain(begun.iter().map(|fault| (fault, Change::Raised)));
        for (fault, change) in changes {
            let (evidence, text) = match change {
                Change::Raised => self.grounds(fault, now),
                Change::Cleared => (vec![], String::new()),
            };
            let asset_id = AssetId::of_detector(intersection_id, &self.id);
            let at = Timestamp::from_millis(now);
            out.push(Transition { asset_id, kind: AssetKind::detector(), fault, at, change, evidence, text });
        }
    }

    fn faults(&self) -> Faults {
        self.presence.faults().iter().chain(self.traffic.fault()).collect()
    }

    /// Whether it was heard, and not long ago.
    fn speaks(&self) -> bool {
        self.presence.newest.is_some() && !self.presence.is_silent()
    }

    fn subject(&mut self) -> Subject<'_> {
        // What physics explains, statistics need not.
        let counted = if self.presence.faults().is_none() { self.bin.counted() } else { None };
        Subject { is_trusted: self.faults().is_none(), counted, traffic: &mut self.traffic }
    }
}

/// A measure that can be reckoned with.
fn measure(value: f64) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "measures need no more than 24 bits")]
    let value = value as f32;
    (value.is_finite() && value >= 0.0).then_some(value)
}
