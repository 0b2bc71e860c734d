//! Alerts: what is wrong with an asset, who knows of it, and the events that tell others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::asset::Fault;
use crate::fields::{At, Faults, Fields, Misfit, text};
use crate::ids::{AlertId, AssetId, AssetKind};
use crate::intersection::{ETag, InvalidDocument};
use crate::units::Timestamp;

/// How soon somebody should act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Now.
    Immediate,
    /// When somebody is there anyway.
    NextVisit,
    /// Not yet; it is watched.
    Monitor,
}

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertStatus {
    /// Raised, and nobody has said that they know.
    Open,
    /// Raised, and somebody knows.
    Acknowledged,
    /// Over.
    Cleared,
}

impl AlertStatus {
    /// All of them with their names on the wire.
    pub const NAMES: &[(&str, Self)] = &[("open", Self::Open), ("acknowledged", Self::Acknowledged), ("cleared", Self::Cleared)];
}

/// An alert as `maintenance-prediction` writes it. At most one per (asset, fault) is not cleared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its id, made from the asset, the fault and the time of the first occurrence.
    pub id: AlertId,
    /// The asset.
    pub asset_id: AssetId,
    /// What the asset is.
    pub kind: AssetKind,
    /// What is wrong.
    pub fault: Fault,
    /// How soon to act.
    pub urgency: Urgency,
    /// Event time of the first occurrence.
    pub raised_at: Timestamp,
    /// Event time of the last occurrence.
    pub last_raised_at: Timestamp,
    /// Event time at which the last occurrence was over.
    pub cleared_at: Option<Timestamp>,
    /// How often it came back: an alert that is raised again within a day goes on as the same one.
    pub occurrences: u32,
    /// One sentence for people.
    pub text: String,
    /// The measures it rests on.
    pub evidence: BTreeMap<String, f64>,
    /// What to do.
    pub recommended_action: String,
}

impl Alert {
    /// How often it was raised and cleared so far; grows with each change.
    pub const fn changes(&self) -> u32 {
        self.occurrences.saturating_mul(2).saturating_add(self.cleared_at.is_some() as u32)
    }

    /// The id of the alert that begins with this occurrence. In the order of ids, older alerts come first.
    pub fn id_of(asset_id: &AssetId, fault: Fault, raised_at: Timestamp) -> AlertId {
        AlertId::new(raised_at, ETag::of(&json!([asset_id, fault])).short())
    }

    /// Where it is in its life, given the newest acknowledgement. An occurrence after the acknowledgement opens it again.
    pub fn status(&self, acknowledgement: Option<&Acknowledgement>) -> AlertStatus {
        match (self.cleared_at, acknowledgement) {
            (Some(_), _) => AlertStatus::Cleared,
            (None, Some(known)) if known.occurrence >= self.occurrences => AlertStatus::Acknowledged,
            (None, _) => AlertStatus::Open,
        }
    }

    /// The alert as everybody may read it.
    pub fn shown<'a>(&'a self, acknowledgement: Option<&'a Acknowledgement>) -> ShownAlert<'a> {
        ShownAlert { alert: self, status: self.status(acknowledgement), acknowledgement }
    }
}

/// An alert with its status: the body of `GET /v1/alerts/{id}` and of the events.
#[derive(Clone, Debug, Serialize)]
pub struct ShownAlert<'a> {
    #[serde(flatten)]
    alert: &'a Alert,
    status: AlertStatus,
    acknowledgement: Option<&'a Acknowledgement>,
}

/// Somebody knows of an alert. Written by `operations-api` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Who, 1 to 200 characters.
    pub by: String,
    /// What they want to say, at most 2000 characters.
    pub note: Option<String>,
    /// When they said it (wall clock).
    pub at: Timestamp,
    /// The occurrence that they know of.
    pub occurrence: u32,
}

/// The body of `POST /v1/alerts/{id}/acknowledgement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcknowledgementRequest {
    /// Who acknowledges.
    pub by: String,
    /// What they want to say.
    pub note: Option<String>,
}

impl AcknowledgementRequest {
    /// Reads the body.
    ///
    /// # Errors
    /// [`InvalidDocument`] names every fault.
    pub fn from_json(body: &str) -> Result<Self, InvalidDocument> {
        let document: Value = serde_json::from_str(body)?;
        let (at, mut faults) = (At::Root, Faults::default());
        let request = Fields::of(&document, &at, &mut faults).and_then(|mut fields| {
            let by = fields.required("by", &at, &mut faults, characters(1, 200));
            let note = fields.optional("note", &at, &mut faults, characters(0, 2_000));
            fields.refuse_others(&at, &mut faults);
            Some(Self { by: by?, note })
        });
        match request {
            Some(request) if faults.is_empty() => Ok(request),
            _ => Err(InvalidDocument::Faults(faults.into_vec())),
        }
    }
}

fn characters(min: usize, max: usize) -> impl Fn(&Value) -> Result<String, Misfit> {
    move |value| {
        let text = text(value)?;
        let fits = (min..=max).contains(&text.chars().count());
        if fits { Ok(text.to_owned()) } else { Err(("out_of_range", format!("must have {min} to {max} characters"))) }
    }
}

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertChange {
    /// It began, or came back.
    Raised,
    /// Somebody knows of it.
    Acknowledged,
    /// It is over.
    Cleared,
}

/// A `CloudEvents` 1.0 envelope in JSON around an alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: &'static str,
    /// The same event sent twice has the same id.
    pub id: String,
    /// Who sends it.
    pub source: &'static str,
    /// `greenwave.alert.raised`, `.acknowledged` or `.cleared`.
    pub r#type: &'static str,
    /// The asset.
    pub subject: String,
    /// When it happened.
    pub time: Timestamp,
    /// `application/json`.
    pub datacontenttype: &'static str,
    /// The alert as the API shows it.
    pub data: Value,
}

impl CloudEvent {
    /// The event that tells a change of an alert.
    pub fn new(change: AlertChange, alert: &Alert, acknowledgement: Option<&Acknowledgement>) -> Self {
        let maintenance = "/greenwave/maintenance-prediction";
        let (r#type, name, source, time) = match change {
            AlertChange::Raised => ("greenwave.alert.raised", "raised", maintenance, alert.last_raised_at),
            AlertChange::Cleared => ("greenwave.alert.cleared", "cleared", maintenance, alert.cleared_at.unwrap_or(alert.last_raised_at)),
            AlertChange::Acknowledged => {
                let at = acknowledgement.map_or(alert.last_raised_at, |known| known.at);
                ("greenwave.alert.acknowledged", "acknowledged", "/greenwave/operations-api", at)
            }
        };
        Self {
            specversion: "1.0",
            id: format!("{}:{}:{name}", alert.id, alert.occurrences),
            source,
            r#type,
            subject: alert.asset_id.to_string(),
            time,
            datacontenttype: "application/json",
            data: json!(alert.shown(acknowledgement)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        let asset_id = AssetId::try_from("J1/n_0").unwrap();
        let raised_at = Timestamp::parse("2026-11-22T08:15:00Z").unwrap();
        Alert {
            id: Alert::id_of(&asset_id, Fault::Undercount, raised_at),
            asset_id,
            kind: AssetKind::try_from("detector").unwrap(),
            fault: Fault::Undercount,
            urgency: Urgency::NextVisit,
            raised_at,
            last_raised_at: raised_at,
            cleared_at: None,
            occurrences: 1,
            text: "It misses vehicles.".into(),
            evidence: [("ratio".to_owned(), 0.5)].into(),
            recommended_action: "Check its sensitivity.".into(),
        }
    }

    fn known(occurrence: u32) -> Acknowledgement {
        Acknowledgement { by: "Ada".into(), note: None, at: Timestamp::parse("2026-11-22T09:00:00Z").unwrap(), occurrence }
    }

    #[test]
    fn an_acknowledgement_holds_until_the_alert_comes_back() {
        let mut alert = alert();
        assert_eq!(alert.status(None), AlertStatus::Open);
        assert_eq!(alert.status(Some(&known(1))), AlertStatus::Acknowledged);
        alert.occurrences = 2;
        assert_eq!(alert.status(Some(&known(1))), AlertStatus::Open);
        alert.cleared_at = Some(alert.raised_at);
        assert_eq!(alert.status(Some(&known(2))), AlertStatus::Cleared);
    }

    #[test]
    fn ids_sort_by_the_time_of_raising() {
        let alert = alert();
        assert_eq!(alert.id.as_str(), "2026-11-22T08:15:00.000Z-783a5376da8ab7e0");
        let later = Alert::id_of(&alert.asset_id, alert.fault, alert.raised_at.plus_millis(1));
        assert!(alert.id < later);
        assert_ne!(alert.id, Alert::id_of(&alert.asset_id, Fault::Drift, alert.raised_at));
    }

    #[test]
    fn an_event_is_a_cloud_event_with_the_alert_as_the_api_shows_it() {
        let known = known(1);
        let event = serde_json::to_value(CloudEvent::new(AlertChange::Acknowledged, &alert(), Some(&known))).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["type"], "greenwave.alert.acknowledged");
        assert_eq!(event["subject"], "J1/n_0");
        assert_eq!(event["time"], "2026-11-22T09:00:00.000Z");
        assert_eq!((&event["data"]["status"], &event["data"]["acknowledgement"]["by"]), (&json!("acknowledged"), &json!("Ada")));
        assert_eq!(event["data"]["evidence"], json!({"ratio": 0.5}));
    }

    #[test]
    fn an_acknowledgement_says_who() {
        let read = |body: Value| AcknowledgementRequest::from_json(&body.to_string());
        assert_eq!(read(json!({"by": "Ada"})).unwrap(), AcknowledgementRequest { by: "Ada".into(), note: None });
        for body in [json!({}), json!({"by": ""}), json!({"by": "Ada", "notes": "x"}), json!([])] {
            assert!(matches!(read(body.clone()), Err(InvalidDocument::Faults(_))), "{body}");
        }
    }
}
