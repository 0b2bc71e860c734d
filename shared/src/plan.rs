//! Published plans and decision records: what everybody may read of a decision.
//!
//! Only `signal-adjustment` makes plans, and there only through its safety envelope; these are the shapes in which they
//! are stored and shown.

use serde::{Deserialize, Serialize};

use crate::ids::{DetectorId, IntersectionId, StageId};
use crate::intersection::ETag;
use crate::units::{Deciseconds, Timestamp};

/// Who decided the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanSource {
    /// Decided from what the detectors see.
    Adaptive,
    /// The configured time-of-day plan.
    TimeOfDay,
    /// Decided as if adaptive, but nobody follows it.
    Shadow,
}

/// The span in which one stage is green.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStage {
    /// The stage.
    pub stage: StageId,
    /// The moment its green begins; clearance lies before it.
    pub start: Timestamp,
    /// How long the green lasts.
    pub green_s: Deciseconds,
}

/// Why a plan is as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable code, see `openapi.yaml`.
    pub code: String,
    /// One sentence for people.
    pub text: String,
}

/// The plan of one junction as `GET /v1/intersections/{id}/plan` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPlan {
    /// The junction.
    pub intersection_id: IntersectionId,
    /// Grows when the stages change.
    pub revision: u64,
    /// Event time of the newest reading it rests on.
    pub as_of: Timestamp,
    /// Past this event time the controller returns to its time-of-day plan.
    pub valid_until: Timestamp,
    /// Who decided it.
    pub source: PlanSource,
    /// Green spans in order, clearance in the gaps; the first may be running.
    pub stages: Vec<PlanStage>,
    /// Why.
    pub reason: Reason,
}

/// The part of a plan that is stored beside the junction's id, without text that its code implies.
#[derive(Serialize, Deserialize)]
struct Stored {
    revision: u64,
    as_of: i64,
    valid_for_ms: i64,
    source: PlanSource,
    stages: Vec<(StageId, i64, u32)>,
    reason: Reason,
}

impl PublishedPlan {
    /// Compact bytes for a store that keeps the intersection's id beside them.
    ///
    /// # Errors
    /// [`postcard::Error`] if memory runs out.
    pub fn to_bytes(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(&Stored {
            revision: self.revision,
            as_of: self.as_of.as_millis(),
            valid_for_ms: self.valid_until.as_millis() - self.as_of.as_millis(),
            source: self.source,
            stages: self
                .stages
                .iter()
                .map(|s| (s.stage.clone(), s.start.as_millis() - self.as_of.as_millis(), s.green_s.tenths()))
                .collect(),
            reason: self.reason.clone(),
        })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`postcard::Error`] if the bytes are something else.
    pub fn from_bytes(intersection_id: IntersectionId, bytes: &[u8]) -> Result<Self, postcard::Error> {
        let stored: Stored = postcard::from_bytes(bytes)?;
        let as_of = Timestamp::from_millis(stored.as_of);
        Ok(Self {
            intersection_id,
            revision: stored.revision,
            as_of,
            valid_until: as_of.plus_millis(stored.valid_for_ms),
            source: stored.source,
            stages: stored
                .stages
                .into_iter()
                .map(|(stage, start, green)| PlanStage { stage, start: as_of.plus_millis(start), green_s: Deciseconds::new(green) })
                .collect(),
            reason: stored.reason,
        })
    }
}

/// One stage that could have been served, with what spoke for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The stage.
    pub stage: StageId,
    /// Vehicle-seconds of the cheapest course in which it follows the stage reached; of the stage reached, of the cheapest that
    /// keeps it until the next decision. The lowest is chosen unless a limit forbids it.
    pub cost: f64,
    /// How long after the decision the stage reached ends in that course, s; none if it stays. Records from before have none.
    #[serde(default)]
    pub change_in_s: Option<Deciseconds>,
    /// The limit that forbade it, if one did.
    pub limit: Option<String>,
}

/// A detector that had no say in a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistrustedDetector {
    /// The detector.
    pub detector_id: DetectorId,
    /// Why: `never_seen`, `silent`, `fault_reported`, `implausible` or `in_alarm`.
    pub reason: String,
}

/// Why the signal changed (or did not): enough to decide again and get the same plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The junction.
    pub intersection_id: IntersectionId,
    /// Event time of the decision.
    pub as_of: Timestamp,
    /// Revision of the plan it gave.
    pub revision: u64,
    /// The configuration it rests on.
    pub configuration: ETag,
    /// Why.
    pub reason: Reason,
    /// What the decision was given.
    pub inputs: serde_json::Value,
    /// Stages compared.
    pub candidates: Vec<Candidate>,
    /// Limits that bound the decision, such as `green_min` or `red_max`.
    pub limits: Vec<String>,
    /// Detectors that had no say.
    pub distrusted: Vec<DistrustedDetector>,
    /// The plan before.
    pub previous: Option<PublishedPlan>,
    /// The plan decided.
    pub next: PublishedPlan,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_plan_reads_back_as_it_was() {
        let as_of = Timestamp::parse("2026-11-22T08:00:05Z").unwrap();
        let stage = |id: &str, start: i64, green| PlanStage {
            stage: StageId::try_from(id).unwrap(),
            start: as_of.plus_millis(start),
            green_s: Deciseconds::new(green),
        };
        let plan = PublishedPlan {
            intersection_id: IntersectionId::try_from("J1").unwrap(),
            revision: 42,
            as_of,
            valid_until: as_of.plus_millis(29_963),
            source: PlanSource::Adaptive,
            stages: vec![stage("2", -7_000, 120), stage("0", 8_000, 90)],
            reason: Reason { code: "queue_pressure".into(), text: "Stage 2 has the most waiting vehicles.".into() },
        };
        let bytes = plan.to_bytes().unwrap();
        assert_eq!(PublishedPlan::from_bytes(plan.intersection_id.clone(), &bytes).unwrap(), plan);
        assert!(bytes.len() < 100, "{} bytes", bytes.len());
    }
}
