//! Between HTTP and the workflows.

mod alerts;
mod assets;
mod intersections;
mod predictions;

use std::fmt::Display;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query as Parameters};
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use shared::http::{Problem, content_coding, read_body, require_json};
use shared::ids::InvalidId;
use shared::intersection::InvalidDocument;
use shared::ports::{
    AcknowledgementStore, AlertReader, AssetStore, Clock, ConditionReader, DecisionLog, EventBus, IntersectionStore, ModelSource,
    PlanReader, PortError,
};
use shared::prognosis::Models;

use crate::precondition::{Precondition, Tags};
use crate::query::{InvalidParameter, Query};

/// `openapi.yaml` as JSON, made by the build script.
const OPENAPI: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json"));

const JSON: &str = "application/json";

/// Bytes of the items of a page: Lambda answers with 6 MB at most, and a page of large configurations would be more.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// All stores that the routes read and write.
pub trait Store:
    IntersectionStore + PlanReader + DecisionLog + AssetStore + ConditionReader + AlertReader + AcknowledgementStore + Clone + 'static
{
}

impl<S> Store for S where
    S: IntersectionStore + PlanReader + DecisionLog + AssetStore + ConditionReader + AlertReader + AcknowledgementStore + Clone + 'static
{
}

/// All routes; the composition root adds [`shared::http::complete`].
pub fn router<S, C, B, M>(store: S, clock: C, bus: B, models: M) -> Router
where
    S: Store,
    C: Clock + Clone + 'static,
    B: EventBus + 'static,
    M: ModelSource + 'static,
{
    Router::new()
        .route("/v1/health", get(async || Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))))
        .route("/openapi.json", get(async || ([(CONTENT_TYPE, JSON)], OPENAPI)))
        .merge(intersections::router(store.clone()))
        .merge(assets::router(store.clone()))
        .merge(predictions::router(Models::new(models, clock.clone())))
        .merge(alerts::router(store, clock, bus))
}

/// The id in the path: one segment, or two with a slash between.
struct Id<T>(T);

impl<S: Send + Sync, T: for<'a> TryFrom<&'a str, Error = InvalidId>> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<Vec<String>>::from_request_parts(parts, state).await.map_or_else(|_| String::new(), |Path(text)| text.join("/"));
        let id = T::try_from(text.as_str()).map_err(|e| InvalidParameter::new("id", e.to_string()))?;
        Ok(Self(id))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = Parameters::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Parameters(parameters) = parameters.map_err(|e| InvalidParameter::new("query", e.body_text()))?;
        Ok(Self::new(parameters))
    }
}

/// Reads a JSON body of at most `limit` bytes that is sent as it is.
async fn read_text(headers: &HeaderMap, body: Body, limit: usize, too_large: &'static str) -> Result<String, Problem> {
    require_json(headers)?;
    content_coding(headers, &[])?;
    text(read_body(body, limit, too_large).await?.into())
}

fn text(body: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(body).map_err(|e| bad("invalid_utf8", format!("Byte {} is not UTF-8.", e.utf8_error().valid_up_to())))
}

fn refused_document(error: InvalidDocument, code: &'static str) -> Problem {
    match error {
        InvalidDocument::NotJson(error) => bad("invalid_json", format!("The body is not JSON: {error}.")),
        InvalidDocument::Faults(faults) => Problem::of_faults(code, &faults),
    }
}

fn bad(code: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, detail)
}

/// Checks that a document is put where it says it belongs.
fn require_same_id<T: PartialEq + Display>(path: &T, body: &T) -> Result<(), Problem> {
    if path == body {
        return Ok(());
    }
    let fault = json!([{"pointer": "/id", "code": "id_mismatch", "message": format!("must be {path}")}]);
    let detail = format!("The path names {path}, the body {body}.");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "id_mismatch", detail).with_errors(fault))
}

/// An id as one segment of a path.
fn segment(id: &str) -> String {
    id.replace('#', "%23").replace('/', "%2F")
}

/// A page of the items, each with the cursor that goes on after it; shorter than asked for if it would get too large.
fn list<T: Serialize>(items: impl Iterator<Item = (String, T)>, next_cursor: Option<String>) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Body {
        items: Vec<Box<RawValue>>,
        next_cursor: Option<String>,
    }
    let (mut body, mut bytes, mut last) = (Body { items: Vec::new(), next_cursor }, 0, None);
    for (cursor, item) in items {
        let item = to_raw_value(&item).map_err(|e| PortError::Unusable("the store", e.to_string()))?;
        bytes += item.get().len();
        if bytes > PAGE_BYTES_MAX && last.is_some() {
            body.next_cursor = last;
            break;
        }
        body.items.push(item);
        last = Some(cursor);
    }
    Ok(Json(body).into_response())
}

fn json_of(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|e| PortError::Unusable("the store", e.to_string()).into())
}

fn tagged(etag: &str, body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, JSON.to_owned()), (ETAG, quoted(etag))], body).into_response()
}

fn unmodified(etag: &str) -> Response {
    (StatusCode::NOT_MODIFIED, [(ETAG, quoted(etag))]).into_response()
}

fn is_known(known: Option<&Tags>, etag: &str) -> bool {
    known.is_some_and(|tags| tags.match_weakly(etag))
}

fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    Ok(Precondition { if_match: tags(headers, &IF_MATCH)?, if_none_match: tags(headers, &IF_NONE_MATCH)? })
}

fn tags(headers: &HeaderMap, name: &'static HeaderName) -> Result<Option<Tags>, Problem> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    if values.is_empty() {
        return Ok(None);
    }
    let tags = Tags::parse(&values.join(",")).map_err(|e| InvalidParameter::new(name.as_str(), e.to_string()))?;
    Ok(Some(tags))
}

/// What is stored of this is not what the request expects.
fn precondition_failed(what: impl Display) -> Problem {
    let detail = format!("What is stored of {what} is not what the request expects. Read it again first.");
    Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
}

fn quoted(etag: impl Display) -> String {
    format!("\"{etag}\"")
}

impl From<InvalidParameter> for Problem {
    fn from(error: InvalidParameter) -> Self {
        bad("invalid_parameter", format!("The parameter {error}."))
    }
}
