//! Where the events of the local host go: to its log and, if one is given, to a webhook.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use serde_json::json;
use shared::alert::CloudEvent;
use shared::ports::{EventBus, PortError};
use ureq::Agent;
use ureq::http::Uri;

/// How long one call of the webhook may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often an event is sent again before it is given up: alerts can be read from the API, readings must not wait for a
/// webhook.
const RETRIES: usize = 2;
/// Pause before an event is sent again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// A text is not the address of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an http:// or https:// address")]
pub struct InvalidWebhook;

/// The address of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook(Uri);

impl std::str::FromStr for Webhook {
    type Err = InvalidWebhook;
    fn from_str(text: &str) -> Result<Self, InvalidWebhook> {
        let uri: Uri = text.parse().map_err(|_| InvalidWebhook)?;
        let known = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if known { Ok(Self(uri)) } else { Err(InvalidWebhook) }
    }
}

/// Writes every event to the log and posts it to the webhook as a structured `CloudEvent`.
#[derive(Clone)]
pub struct Events {
    webhook: Option<(Webhook, Agent)>,
}

impl Events {
    /// Events for the log and for this webhook.
    pub fn new(webhook: Option<Webhook>) -> Self {
        let agent = || Agent::config_builder().timeout_global(Some(TIMEOUT)).build().new_agent();
        Self { webhook: webhook.map(|webhook| (webhook, agent())) }
    }
}

impl EventBus for Events {
    /// Never fails: an event that the webhook does not take is given up with an error in the log.
    async fn publish(&self, events: &[CloudEvent]) -> Result<(), PortError> {
        for event in events {
            tracing::info!(id = event.id, r#type = event.r#type, subject = event.subject, "an event");
            let Some((Webhook(uri), agent)) = self.webhook.clone() else { continue };
            let body = json!(event).to_string();
            let send = || send(agent.clone(), uri.clone(), body.clone());
            let pauses = ExponentialBuilder::default().with_min_delay(PAUSE_MIN).with_max_times(RETRIES);
            let sent = send.retry(pauses).sleep(tokio::time::sleep).when(is_passing).await;
            if let Err(error) = sent {
                tracing::error!(id = event.id, %error, "the webhook did not take an event");
            }
        }
        Ok(())
    }
}

async fn send(agent: Agent, uri: Uri, body: String) -> Result<(), ureq::Error> {
    let post = move || agent.post(uri).content_type("application/cloudevents+json").send(body).map(drop);
    tokio::task::spawn_blocking(post).await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

/// Whether the same call may succeed later.
const fn is_passing(error: &ureq::Error) -> bool {
    use ureq::Error::{ConnectionFailed, Io, StatusCode, Timeout};
    matches!(error, StatusCode(429 | 500..=599) | Io(_) | Timeout(_) | ConnectionFailed)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use axum::{Json, Router};
    use serde_json::Value;
    use shared::alert::{Alert, AlertChange, Urgency};
    use shared::asset::Fault;
    use shared::ids::{AssetId, AssetKind};
    use shared::units::Timestamp;

    use super::*;

    fn event() -> CloudEvent {
        let asset_id = AssetId::try_from("J1/n_0").unwrap();
        let raised_at = Timestamp::from_millis(0);
        let alert = Alert {
            id: Alert::id_of(&asset_id, Fault::NoData, raised_at),
            asset_id,
            kind: AssetKind::try_from("detector").unwrap(),
            fault: Fault::NoData,
            urgency: Urgency::NextVisit,
            raised_at,
            last_raised_at: raised_at,
            cleared_at: None,
            occurrences: 1,
            text: "Silent.".into(),
            evidence: [].into(),
            recommended_action: "Look.".into(),
        };
        CloudEvent::new(AlertChange::Raised, &alert, None)
    }

    #[tokio::test]
    async fn a_webhook_gets_each_event_as_a_cloud_event_and_again_after_a_failure() {
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let hook = {
            let seen = Arc::clone(&seen);
            post(move |headers: HeaderMap, Json(body): Json<Value>| async move {
                let mut seen = seen.lock().unwrap();
                seen.push((headers["content-type"].to_str().unwrap().to_owned(), body));
                if seen.len() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
            })
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, Router::new().route("/hook", hook)).await });
        let events = Events::new(Some(format!("http://{address}/hook").parse().unwrap()));
        events.publish(&[event()]).await.unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], seen[1]);
        assert_eq!((seen[1].0.as_str(), &seen[1].1["type"]), ("application/cloudevents+json", &json!("greenwave.alert.raised")));
    }

    #[tokio::test]
    async fn a_webhook_that_is_not_there_holds_nothing_back() {
        let events = Events::new(Some("http://127.0.0.1:9/".parse().unwrap()));
        assert_eq!(events.publish(&[event()]).await, Ok(()));
    }

    #[test]
    fn only_an_address_of_the_web_is_a_webhook() {
        assert!("https://example.org/hook".parse::<Webhook>().is_ok());
        for text in ["", "example.org", "ftp://example.org", "/hook"] {
            assert_eq!(text.parse::<Webhook>(), Err(InvalidWebhook), "{text}");
        }
    }
}
