//! The models as a service.

use std::sync::Arc;

use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};
use shared::fields::Fault;
use shared::http::{Problem, read_packed_json};
use shared::ids::AssetKind;
use shared::ports::ModelSource;
use shared::prognosis::Models;

use super::{refused_document, text};
use crate::predictions::{Prediction, Refusal, Request, Unit, predict};

/// Longest body, both as sent and unpacked: Lambda takes 6 MB.
const BODY_BYTES_MAX: usize = 6 * 1024 * 1024;

/// The code of a body in which something is wrong.
const INVALID: &str = "invalid_request";

/// An entry of the answer to a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Prediction(Prediction),
    Problem(Value),
}

pub(super) fn router<M: ModelSource + 'static>(models: Models<M>) -> Router {
    Router::new().route("/v1/predictions", post(answer::<M>)).with_state(Arc::new(models))
}

async fn answer<M: ModelSource>(State(models): State<Arc<Models<M>>>, request: HttpRequest) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = text(read_packed_json(&parts.headers, body, BODY_BYTES_MAX).await?.into())?;
    let units = match Request::from_json(&body).map_err(|error| refused_document(error, INVALID))? {
        Request::Single(unit) => return Ok(Json(predict(&models, &unit).await?).into_response()),
        Request::Batch(units) => units,
    };
    let mut items = Vec::with_capacity(units.len());
    for unit in units {
        items.push(entry(&models, unit).await?);
    }
    Ok(Json(json!({"items": items})).into_response())
}

/// What is wrong with one asset costs this one alone; a source of models that fails costs the request.
async fn entry<M: ModelSource>(models: &Models<M>, unit: Result<Unit, Vec<Fault>>) -> Result<Entry, Problem> {
    let predicted = match unit {
        Ok(unit) => predict(models, &unit).await,
        Err(faults) => return Ok(Entry::Problem(Problem::of_faults(INVALID, &faults).into_body())),
    };
    match predicted {
        Ok(prediction) => Ok(Entry::Prediction(prediction)),
        Err(Refusal::UnknownKind(kind)) => Ok(Entry::Problem(unknown_kind(&kind).into_body())),
        Err(Refusal::Port(error)) => Err(error.into()),
    }
}

fn unknown_kind(kind: &AssetKind) -> Problem {
    let fault = Fault { pointer: "/asset_kind".into(), code: "unknown_kind", message: "must be a kind that a model knows".into() };
    let detail = format!("No model knows assets of kind {kind}. Train one, or ask for a kind that is known.");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_kind", detail).with_errors([fault])
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownKind(kind) => unknown_kind(&kind),
            Refusal::Port(error) => error.into(),
        }
    }
}
