//! The event bus over EventBridge.

use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};

use super::{is_passing, port_error};
use crate::alert::CloudEvent;
use crate::ports::{EventBus, PortError};

const PORT: &str = "the event bus";

/// Most events of one `PutEvents` call.
const CALL_EVENTS_MAX: usize = 10;

/// Sends to one EventBridge bus: the source of an event is its `source`, the detail type its `type`, the detail the whole
/// `CloudEvent`.
#[derive(Clone, Debug)]
pub struct EventBridge {
    client: Client,
    bus: String,
}

impl EventBridge {
    /// The bus of this name.
    pub fn new(config: &SdkConfig, bus: impl Into<String>) -> Self {
        Self { client: Client::new(config), bus: bus.into() }
    }
}

impl EventBus for EventBridge {
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        let entries: Vec<_> = events.iter().map(|event| entry(&self.bus, event)).collect::<Result<_, _>>()?;
        // One that is refused keeps none of the others from being sent.
        let mut outcomes = Vec::new();
        for call in entries.chunks(CALL_EVENTS_MAX) {
            match self.client.put_events().set_entries(Some(call.to_vec())).send().await {
                Ok(answer) => outcomes.extend(answer.entries().iter().map(outcome)),
                Err(error) => outcomes.push(Err(port_error(PORT, &error))),
            }
        }
        worst(outcomes)
    }
}

/// What is left to do: whatever may succeed later comes before what never will.
fn worst(outcomes: Vec<Result<(), PortError>>) -> Result<(), PortError> {
    let mut errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| !error.retry());
    errors.into_iter().next().map_or(Ok(()), Err)
}

fn entry(bus: &str, event: &CloudEvent) -> Result<PutEventsRequestEntry, PortError> {
    let detail = serde_json::to_string(event).map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
    let entry = PutEventsRequestEntry::builder().event_bus_name(bus).source(event.source).detail_type(event.r#type);
    Ok(entry.time(DateTime::from_millis(event.time.as_millis())).detail(detail).build())
}

/// What became of one event. EventBridge answers 200 while it refuses single ones: the call counts as failed then, and its
/// caller sends all of them again.
fn outcome(entry: &PutEventsResultEntry) -> Result<(), PortError> {
    let Some(code) = entry.error_code() else { return Ok(()) };
    let text = format!("{code}: {}", entry.error_message().unwrap_or("no message"));
    if is_passing(code) || matches!(code, "InternalFailure" | "InternalException") {
        Err(PortError::Unavailable(PORT, text))
    } else {
        Err(PortError::Unusable(PORT, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Timestamp;
    use serde_json::json;

    #[test]
    fn an_entry_has_the_whole_event_as_its_detail() {
        let event = CloudEvent {
            specversion: "1.0",
            id: "a:1:raised".into(),
            source: "/greenwave/maintenance-prediction",
            r#type: "greenwave.alert.raised",
            subject: "J1/n_0".into(),
            time: Timestamp::parse("2026-11-22T08:15:00.001Z").unwrap(),
            datacontenttype: "application/json",
            data: json!({"status": "open"}),
        };
        let entry = entry("alerts", &event).unwrap();
        assert_eq!((entry.event_bus_name(), entry.source()), (Some("alerts"), Some("/greenwave/maintenance-prediction")));
        assert_eq!(entry.detail_type(), Some("greenwave.alert.raised"));
        assert_eq!(entry.time(), Some(&DateTime::from_millis(event.time.as_millis())));
        let detail: serde_json::Value = serde_json::from_str(entry.detail().unwrap()).unwrap();
        assert_eq!(detail, json!(event));
    }

    #[test]
    fn an_event_that_may_succeed_later_comes_before_one_that_is_refused_for_good() {
        let refused = || Err(PortError::Unusable(PORT, "no".into()));
        let busy = || Err(PortError::Unavailable(PORT, "busy".into()));
        assert_eq!(worst(vec![Ok(()), refused(), busy()]), busy());
        assert_eq!(worst(vec![Ok(()), refused()]), refused());
        assert_eq!(worst(vec![Ok(())]), Ok(()));
    }

    #[test]
    fn a_refused_event_fails_its_call_and_says_whether_it_may_be_sent_again() {
        let refused = |code: &str| outcome(&PutEventsResultEntry::builder().error_code(code).build()).unwrap_err();
        assert_eq!(outcome(&PutEventsResultEntry::builder().event_id("1").build()), Ok(()));
        assert!(["ThrottlingException", "InternalFailure"].into_iter().all(|code| refused(code).retry()));
        assert!(["MalformedDetail", "NotAuthorizedForSource"].into_iter().all(|code| !refused(code).retry()));
    }
}
