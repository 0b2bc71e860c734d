//! Between HTTP and the workflow.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;
use shared::http::{Problem, REQUEST_ID, read_packed_json};
use shared::ids::AssetId;
use shared::ports::{Clock, ReadingStream};

use crate::append::Sleep;
use crate::split::{Unreadable, split};
use crate::verdict::Config;
use crate::workflow::{Ingestion, Outcome};

/// Longest body, both as sent and unpacked.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The routes of ingestion; the composition root adds [`shared::http::complete`].
pub fn router<S, C, W>(stream: S, clock: C, sleep: W, config: Config) -> Router
where
    S: ReadingStream + 'static,
    C: Clock + 'static,
    W: Sleep + 'static,
{
    let ingestion = Arc::new(Ingestion::new(stream, clock, sleep, config));
    Router::new()
        .route("/v1/readings", post(take_readings::<S, C, W>))
        .route("/v1/readings/{key}", post(take_readings_of::<S, C, W>))
        .with_state(ingestion)
}

type Shared<S, C, W> = State<Arc<Ingestion<S, C, W>>>;

async fn take_readings<S, C, W>(State(ingestion): Shared<S, C, W>, request: Request) -> Result<Response, Problem>
where
    S: ReadingStream,
    C: Clock,
    W: Sleep,
{
    take(&ingestion, None, request).await
}

/// The same for one intersection or machine: who may call this path alone cannot speak for another.
async fn take_readings_of<S, C, W>(
    State(ingestion): Shared<S, C, W>,
    key: Result<Path<AssetId>, PathRejection>,
    request: Request,
) -> Result<Response, Problem>
where
    S: ReadingStream,
    C: Clock,
    W: Sleep,
{
    match key {
        Ok(Path(key)) if key.as_detector().is_none() => take(&ingestion, Some(key.as_str()), request).await,
        _ => {
            let detail = "The parameter key must be the id of an intersection or a machine.";
            Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail))
        }
    }
}

async fn take<S, C, W>(ingestion: &Ingestion<S, C, W>, key: Option<&str>, request: Request) -> Result<Response, Problem>
where
    S: ReadingStream,
    C: Clock,
    W: Sleep,
{
    let (parts, body) = request.into_parts();
    let bytes = read_packed_json(&parts.headers, body, BODY_BYTES_MAX).await?;
    let readings = split(&bytes)?;
    let request_id = parts.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    Ok(answer(ingestion.take(&readings, key, request_id).await))
}

impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Self {
        let (status, code, detail) = match &error {
            Unreadable::Utf8(_) => (StatusCode::BAD_REQUEST, "invalid_utf8", format!("The body is not UTF-8: {error}.")),
            Unreadable::Json(_) => (StatusCode::BAD_REQUEST, "invalid_json", format!("The body is not JSON: {error}.")),
            Unreadable::TooMany(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_many_readings", format!("The body has {error}. Send them in smaller parts."))
            }
            Unreadable::NoList => {
                let fault = json!([{"pointer": "/readings", "code": "wrong_type", "message": error.to_string()}]);
                return none_valid("The body has no list of readings.").with_errors(fault);
            }
        };
        Self::new(status, code, detail)
    }
}

fn none_valid(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_valid_readings", detail)
}

fn answer(outcome: Outcome) -> Response {
    let Outcome { accepted, rejected, unavailable } = outcome;
    if unavailable {
        let detail = "The stream did not take the readings listed under rejected. Sending these, or all, again is safe.";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stream_unavailable", detail)
            .retry_after(1)
            .with("accepted", accepted)
            .with("rejected", rejected)
            .into_response();
    }
    if accepted == 0 {
        let detail = match rejected.len() {
            0 => "The body has no reading; send at least one.".to_owned(),
            n => format!("None of {n} readings is valid; see errors."),
        };
        return none_valid(detail).with_errors(rejected).into_response();
    }
    let status = if rejected.is_empty() { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    (status, Json(json!({"accepted": accepted, "rejected": rejected}))).into_response()
}
