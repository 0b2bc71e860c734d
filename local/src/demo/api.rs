//! The demo's way to Greenwave: the public API, called in this process.

use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::alert::Alert;
use shared::intersection::Intersection;
use shared::plan::PublishedPlan;
use tower::ServiceExt;

use super::city::PREFIX;

const ANSWER_MAX: usize = 16 << 20;

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The API refused a request: its problem document says why.
    #[error("{request} was answered {status}: {detail}")]
    Refused {
        /// Method and path.
        request: String,
        /// Status of the answer.
        status: StatusCode,
        /// Code and detail of the problem.
        detail: String,
    },
    /// An answer is not what `openapi.yaml` says: the API is of another version or broken.
    #[error("{request} gave an answer that cannot be read: {problem}")]
    Unreadable {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The public API, called in this process.
pub(super) struct Api(pub(super) Router);

struct Answer {
    request: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    /// The body, unless the answer is a refusal.
    fn accepted(self) -> Result<(String, Value), DemoError> {
        if self.status.is_success() && self.status != StatusCode::MULTI_STATUS {
            return Ok((self.request, self.body));
        }
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        let first = self.body.get("rejected").or_else(|| self.body.get("errors")).and_then(|list| list.get(0));
        let first = first.map_or(String::new(), |fault| format!(" First: {} {}.", text(fault, "pointer"), text(fault, "message")));
        let detail = format!("{} ({}).{first}", text(&self.body, "detail").trim_end_matches('.'), text(&self.body, "code"));
        Err(DemoError::Refused { request: self.request, status: self.status, detail })
    }
}

impl Api {
    /// Configures an intersection; content that is there already changes nothing. Gives what the cabinet has to know.
    pub(super) async fn configure(&self, id: &str, document: &Value) -> Result<Intersection, DemoError> {
        let path = format!("/v1/intersections/{id}");
        let mut answer = self.call(Method::PUT, &path, Some(document), None).await?;
        // The city of another version of the demo is there: its junctions are ours to replace.
        if answer.status == StatusCode::PRECONDITION_REQUIRED {
            let etag = answer.headers.remove(ETAG);
            answer = self.call(Method::PUT, &path, Some(document), etag).await?;
        }
        let (request, configured) = answer.accepted()?;
        Intersection::try_from(configured).map_err(|faults| DemoError::Unreadable { request, problem: format!("{faults:?}") })
    }

    /// Registers an asset.
    pub(super) async fn register(&self, id: &str, document: &Value) -> Result<(), DemoError> {
        self.call(Method::PUT, &format!("/v1/assets/{id}"), Some(document), None).await?.accepted().map(drop)
    }

    /// Posts readings; tells how many were accepted.
    pub(super) async fn post(&self, readings: &[Value]) -> Result<u64, DemoError> {
        let (request, body) = self.call(Method::POST, "/v1/readings", Some(&json!({"readings": readings})), None).await?.accepted()?;
        let problem = || DemoError::Unreadable { request, problem: "it has no count of accepted readings".into() };
        body.get("accepted").and_then(Value::as_u64).ok_or_else(problem)
    }

    /// The plans of the city.
    pub(super) async fn plans(&self) -> Result<Vec<PublishedPlan>, DemoError> {
        self.list(&format!("/v1/plans?limit=500&prefix={PREFIX}")).await
    }

    /// Alerts that nobody has acknowledged, or that are over, or whatever else the status says.
    pub(super) async fn alerts(&self, status: &str) -> Result<Vec<Alert>, DemoError> {
        self.list(&format!("/v1/alerts?limit=500&status={status}")).await
    }

    /// Says that somebody knows of the alert.
    pub(super) async fn acknowledge(&self, alert: &Alert, by: &str, note: &str) -> Result<(), DemoError> {
        let path = format!("/v1/alerts/{}/acknowledgement", alert.id);
        self.call(Method::POST, &path, Some(&json!({"by": by, "note": note})), None).await?.accepted().map(drop)
    }

    /// The whole list, page by page.
    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, DemoError> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let (request, mut body) = self.call(Method::GET, &format!("{path}&cursor={cursor}"), None, None).await?.accepted()?;
            let part = body.get_mut("items").map(Value::take).unwrap_or_default();
            let part: Vec<T> = serde_json::from_value(part).map_err(|e| DemoError::Unreadable { request, problem: e.to_string() })?;
            items.extend(part);
            match body.get("next_cursor").and_then(Value::as_str) {
                Some(next) => next.clone_into(&mut cursor),
                None => return Ok(items),
            }
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>, if_match: Option<HeaderValue>) -> Result<Answer, DemoError> {
        let request = format!("{method} {path}");
        let unreadable = |problem: String| DemoError::Unreadable { request: request.clone(), problem };
        let uri = Uri::try_from(path).map_err(|e| unreadable(e.to_string()))?;
        let mut sent = Request::new(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
        *sent.method_mut() = method;
        *sent.uri_mut() = uri;
        sent.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        sent.headers_mut().extend(if_match.map(|etag| (IF_MATCH, etag)));
        let answer = self.0.clone().oneshot(sent).await.unwrap_or_else(|never: Infallible| match never {});
        let (parts, content) = answer.into_parts();
        let bytes = to_bytes(content, ANSWER_MAX).await.map_err(|e| unreadable(e.to_string()))?;
        let body = serde_json::from_slice(&bytes).map_err(|e| unreadable(format!("{}: {e}", parts.status)))?;
        Ok(Answer { request: request.clone(), status: parts.status, headers: parts.headers, body })
    }
}
