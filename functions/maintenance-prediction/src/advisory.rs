//! Advisories: from faults that begin and end to alerts that people act on.
//!
//! At most one alert per (asset, fault) is open. A fault that comes back within a day goes on as the same alert, so that
//! one loose contact is one alert with many occurrences.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use shared::alert::{Alert, AlertChange, CloudEvent, Urgency};
use shared::asset::Fault;
use shared::ids::{AssetId, AssetKind};
use shared::units::Timestamp;

/// How long after it is over an alert may come back as the same one.
const COMES_BACK_WITHIN_MS: i64 = 24 * 3_600_000;

/// The measures that a fault rests on, by name; the unit is in the name.
pub type Evidence = Vec<(Cow<'static, str>, f64)>;

/// Whether a fault begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It begins.
    Raised,
    /// It is over.
    Cleared,
}

/// A fault of an asset begins or ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The asset.
    pub asset_id: AssetId,
    /// What the asset is.
    pub kind: AssetKind,
    /// What is wrong, or was.
    pub fault: Fault,
    /// Event time.
    pub at: Timestamp,
    /// Whether it begins or ends.
    pub change: Change,
    /// The measures at that time; of no use where it ends.
    pub evidence: Evidence,
    /// What is wrong, in one sentence for people; of no use where it ends.
    pub text: String,
}

/// The alerts of the assets behind one key that are open or may come back, and what has yet to be told of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Advisory {
    episodes: Vec<Episode>,
    untold: Vec<(AlertChange, Episode)>,
}

/// An alert in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Episode {
    asset_id: AssetId,
    kind: AssetKind,
    fault: Fault,
    raised_at: i64,
    last_raised_at: i64,
    cleared_at: Option<i64>,
    occurrences: u32,
    evidence: Evidence,
    text: String,
}

impl Advisory {
    /// Takes up a change.
    pub fn apply(&mut self, transition: Transition) {
        let Transition { asset_id, kind, fault, at, change, evidence, text } = transition;
        let at = at.as_millis();
        self.episodes.retain(|episode| {
            let same = episode.asset_id == asset_id && episode.fault == fault;
            // A time before that of its last change is of another clock: what was over by that one does not come back by this.
            // What began at this very time does all the same, for it would have the same id.
            let other_clock = |cleared| same && at < cleared && at != episode.raised_at;
            episode.cleared_at.is_none_or(|cleared| at - cleared < COMES_BACK_WITHIN_MS && !other_clock(cleared))
        });
        let known = self.episodes.iter_mut().find(|episode| episode.asset_id == asset_id && episode.fault == fault);
        let (change, episode) = match (change, known) {
            (Change::Raised, Some(episode)) if episode.cleared_at.is_some() => {
                episode.occurrences = episode.occurrences.saturating_add(1);
                (episode.last_raised_at, episode.cleared_at) = (at, None);
                (episode.evidence, episode.text) = (evidence, text);
                (AlertChange::Raised, episode.clone())
            }
            (Change::Raised, None) => {
                let episode =
                    Episode { asset_id, kind, fault, raised_at: at, last_raised_at: at, cleared_at: None, occurrences: 1, evidence, text };
                self.episodes.push(episode.clone());
                (AlertChange::Raised, episode)
            }
            (Change::Cleared, Some(episode)) if episode.cleared_at.is_none() => {
                // A sweep may have raised it at a later time than that of the backlog that clears it.
                episode.cleared_at = Some(at.max(episode.last_raised_at));
                (AlertChange::Cleared, episode.clone())
            }
            // It is open already, or was never raised: nothing changes.
            (Change::Raised, Some(_)) | (Change::Cleared, _) => return,
        };
        self.untold.push((change, episode));
    }

    /// Clears every open alert of such kinds: nothing is known of their faults any more.
    pub fn clear_all(&mut self, at: Timestamp, of: impl Fn(&AssetKind) -> bool) {
        let open: Vec<_> = self.episodes.iter().filter(|episode| episode.cleared_at.is_none() && of(&episode.kind)).cloned().collect();
        for Episode { asset_id, kind, fault, .. } in open {
            self.apply(Transition { asset_id, kind, fault, at, change: Change::Cleared, evidence: vec![], text: String::new() });
        }
    }

    /// What has yet to be told: alerts as they are now, and the events on the way there.
    pub fn untold(&self) -> (Vec<Alert>, Vec<CloudEvent>) {
        let mut alerts: Vec<Alert> = Vec::new();
        let mut events = Vec::new();
        for (change, episode) in &self.untold {
            let alert = episode.alert();
            events.push(CloudEvent::new(*change, &alert, None));
            match alerts.iter_mut().find(|known| known.id == alert.id) {
                Some(known) => *known = alert,
                None => alerts.push(alert),
            }
        }
        (alerts, events)
    }

    /// Whether something has yet to be told.
    pub fn is_told(&self) -> bool {
        self.untold.is_empty()
    }

    /// How many changes of this sort have yet to be told.
    pub fn untold_of(&self, change: AlertChange) -> u32 {
        u32::try_from(self.untold.iter().filter(|untold| untold.0 == change).count()).unwrap_or(u32::MAX)
    }

    /// Everything is told.
    pub fn told(&mut self) {
        self.untold.clear();
    }
}

impl Episode {
    fn alert(&self) -> Alert {
        let raised_at = Timestamp::from_millis(self.raised_at);
        let (urgency, action) = advice(self.fault);
        Alert {
            id: Alert::id_of(&self.asset_id, self.fault, raised_at),
            asset_id: self.asset_id.clone(),
            kind: self.kind.clone(),
            fault: self.fault,
            urgency,
            raised_at,
            last_raised_at: Timestamp::from_millis(self.last_raised_at),
            cleared_at: self.cleared_at.map(Timestamp::from_millis),
            occurrences: self.occurrences,
            text: self.text.clone(),
            evidence: self.evidence.iter().map(|(name, value)| (name.clone().into_owned(), *value)).collect(),
            recommended_action: action.to_owned(),
        }
    }
}

/// How soon to act on a fault, and what to do: the usual first look of a signal shop.
fn advice(fault: Fault) -> (Urgency, &'static str) {
    match fault {
        Fault::NoData => {
            (Urgency::NextVisit, "Check power, link and address of the detector; if all of a junction are silent, of its cabinet first.")
        }
        Fault::StuckOff => (Urgency::NextVisit, "Check lead-in, loop or lens, and whether the lane is closed."),
        Fault::StuckOn => (Urgency::Immediate, "Reset the detector; check for a parked vehicle, crosstalk and too high a sensitivity."),
        Fault::Chatter => {
            (Urgency::NextVisit, "Check splices and connectors for a loose contact, and for crosstalk of neighbouring loops.")
        }
        Fault::Undercount => (Urgency::NextVisit, "Raise the sensitivity, clean the lens, or check whether vehicles pass beside the zone."),
        Fault::Overcount => (Urgency::NextVisit, "Lower the sensitivity or check whether the zone sees the neighbouring lane."),
        Fault::Drift => (Urgency::Monitor, "Compare with a manual count at the next visit and set the detector anew."),
        Fault::EndOfLife => (Urgency::NextVisit, "Plan the overhaul before the lower bound of its remaining useful life."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn transition(change: Change, hours: i64) -> Transition {
        Transition {
            asset_id: AssetId::try_from("J1/n_0").unwrap(),
            kind: AssetKind::try_from("detector").unwrap(),
            fault: Fault::NoData,
            at: Timestamp::from_millis(hours * HOUR_MS),
            change,
            evidence: vec![("silent_s".into(), 600.0)],
            text: "Silent for 10 min.".into(),
        }
    }

    fn told(advisory: &mut Advisory, change: Change, hours: i64) -> Vec<(String, u32, bool)> {
        advisory.apply(transition(change, hours));
        let (alerts, _) = advisory.untold();
        advisory.told();
        alerts.iter().map(|alert| (alert.id.to_string(), alert.occurrences, alert.cleared_at.is_some())).collect()
    }

    #[test]
    fn an_alert_is_raised_once_and_cleared_once() {
        let mut advisory = Advisory::default();
        assert_eq!(told(&mut advisory, Change::Cleared, 0), []);
        let raised = told(&mut advisory, Change::Raised, 1);
        assert_eq!((raised.len(), raised[0].1, raised[0].2), (1, 1, false));
        assert_eq!(told(&mut advisory, Change::Raised, 2), []);
        let cleared = told(&mut advisory, Change::Cleared, 3);
        assert_eq!(cleared, [(raised[0].0.clone(), 1, true)]);
        assert_eq!(told(&mut advisory, Change::Cleared, 4), []);
    }

    #[test]
    fn a_fault_that_comes_back_within_a_day_is_the_same_alert() {
        let mut advisory = Advisory::default();
        let first = told(&mut advisory, Change::Raised, 1);
        told(&mut advisory, Change::Cleared, 2);
        assert_eq!(told(&mut advisory, Change::Raised, 25), [(first[0].0.clone(), 2, false)]);
        told(&mut advisory, Change::Cleared, 26);
        let later = told(&mut advisory, Change::Raised, 51);
        assert_ne!(later[0].0, first[0].0);
        assert_eq!(later[0].1, 1);
        assert_eq!(advisory.episodes.len(), 1, "what cannot come back is forgotten");
    }

    #[test]
    fn a_fault_that_comes_back_at_the_time_of_the_first_one_is_told_as_another_occurrence() {
        let mut advisory = Advisory::default();
        // A sweep raises it ahead of a backlog, which clears it; then the backlog reaches that time.
        let first = told(&mut advisory, Change::Raised, 2);
        told(&mut advisory, Change::Cleared, 1);
        let other = Transition { asset_id: AssetId::try_from("J1/n_1").unwrap(), ..transition(Change::Raised, 1) };
        advisory.apply(other);
        advisory.told();
        assert_eq!(told(&mut advisory, Change::Raised, 2), [(first[0].0.clone(), 2, false)]);
    }

    #[test]
    fn what_happened_in_one_go_is_told_in_order_and_stored_once() {
        let mut advisory = Advisory::default();
        advisory.apply(transition(Change::Raised, 1));
        advisory.apply(transition(Change::Cleared, 2));
        let (alerts, events) = advisory.untold();
        assert_eq!(alerts.len(), 1);
        assert!(alerts[0].cleared_at.is_some());
        let types: Vec<_> = events.iter().map(|event| event.r#type).collect();
        assert_eq!(types, ["greenwave.alert.raised", "greenwave.alert.cleared"]);
        let bytes = postcard::to_stdvec(&advisory).unwrap();
        assert_eq!(postcard::from_bytes::<Advisory>(&bytes).unwrap(), advisory);
    }
}
