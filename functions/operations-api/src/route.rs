//! Between HTTP and the workflows.

use std::fmt::Display;

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, Query as Parameters, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::http::{Problem, content_coding, read_body, require_json};
use shared::ids::IntersectionId;
use shared::intersection::{Intersection, InvalidDocument, LIMITS};
use shared::ports::{DecisionLog, IntersectionStore, Page, PlanReader, PortError};

use crate::configuration::{self, Refusal, Written};
use crate::plans::{self, Found};
use crate::precondition::{Precondition, Tags};
use crate::query::{InvalidParameter, Query, cursor_after};

/// `openapi.yaml` as JSON, made by the build script.
const OPENAPI: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json"));

const JSON: &str = "application/json";

/// Bytes of the items of a page: Lambda answers with 6 MB at most, and a page of large configurations would be more.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// All stores that the routes read and write.
pub trait Store: IntersectionStore + PlanReader + DecisionLog + Clone + 'static {}

impl<S: IntersectionStore + PlanReader + DecisionLog + Clone + 'static> Store for S {}

/// All routes; the composition root adds [`shared::http::complete`].
pub fn router<S: Store>(store: S) -> Router {
    let intersection = get(get_intersection::<S>).put(put_intersection::<S>).delete(delete_intersection::<S>);
    Router::new()
        .route("/v1/intersections", get(list_intersections::<S>))
        .route("/v1/intersections/{id}", intersection)
        .route("/v1/intersections/{id}/plan", get(get_plan::<S>))
        .route("/v1/intersections/{id}/decisions", get(list_decisions::<S>))
        .route("/v1/plans", get(list_plans::<S>))
        .route("/v1/health", get(async || Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))))
        .route("/openapi.json", get(async || ([(CONTENT_TYPE, JSON)], OPENAPI)))
        .with_state(store)
}

/// The id of an intersection in the path.
struct Id(IntersectionId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.map_or_else(|_| String::new(), |Path(text)| text);
        let id = IntersectionId::try_from(text.as_str()).map_err(|e| InvalidParameter::new("id", e.to_string()))?;
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

async fn put_intersection<S: Store>(State(store): State<S>, Id(id): Id, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    require_json(&parts.headers)?;
    content_coding(&parts.headers, &[])?;
    let precondition = precondition(&parts.headers)?;
    let body = read_body(body, LIMITS.document_bytes, "configuration_too_large").await?;
    let intersection = read_intersection(&body, &id)?;
    let written = configuration::put(&store, &intersection, &precondition).await.map_err(|refusal| refused(&id, refusal))?;
    let answer = tagged(&intersection.etag().to_string(), intersection.document().to_string().into());
    Ok(match written {
        Written::Created => {
            let location = format!("/v1/intersections/{}", id.as_str().replace('#', "%23"));
            (StatusCode::CREATED, [(LOCATION, location)], answer).into_response()
        }
        Written::Replaced | Written::Unchanged => answer,
    })
}

fn read_intersection(body: &[u8], id: &IntersectionId) -> Result<Intersection, Problem> {
    let bad = |code, detail| Problem::new(StatusCode::BAD_REQUEST, code, detail);
    let text = std::str::from_utf8(body).map_err(|e| bad("invalid_utf8", format!("Byte {} is not UTF-8.", e.valid_up_to())))?;
    let intersection = Intersection::from_json(text).map_err(|error| match error {
        InvalidDocument::NotJson(error) => bad("invalid_json", format!("The body is not JSON: {error}.")),
        InvalidDocument::Faults(faults) => faults.into(),
    })?;
    if intersection.id() == id {
        return Ok(intersection);
    }
    let detail = format!("The path names {id}, the body {}.", intersection.id());
    let fault = json!([{"pointer": "/id", "code": "id_mismatch", "message": format!("must be {id}")}]);
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "id_mismatch", detail).with_errors(fault))
}

async fn get_intersection<S: Store>(State(store): State<S>, Id(id): Id, headers: HeaderMap) -> Result<Response, Problem> {
    let known = tags(&headers, &IF_NONE_MATCH)?;
    let (etag, intersection) = store.get(&id).await?.ok_or_else(|| not_configured(&id))?;
    let etag = etag.to_string();
    Ok(if is_known(known, &etag) { unmodified(&etag) } else { tagged(&etag, intersection.document().to_string().into()) })
}

async fn delete_intersection<S: Store>(State(store): State<S>, Id(id): Id, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let precondition = Precondition { if_match: tags(&headers, &IF_MATCH)?, if_none_match: None };
    configuration::delete(&store, &id, &precondition).await.map_err(|refusal| refused(&id, refusal))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_intersections<S: Store>(State(store): State<S>, query: Query) -> Result<Response, Problem> {
    let page = store.list(query.after_id()?.as_deref(), query.limit()?).await?;
    let items = page.items.iter().map(|(_, intersection)| (cursor_after(intersection.id().as_str()), intersection.document()));
    list(items, page.next.as_deref().map(cursor_after))
}

async fn get_plan<S: Store>(State(store): State<S>, Id(id): Id, headers: HeaderMap) -> Result<Response, Problem> {
    let known = tags(&headers, &IF_NONE_MATCH)?;
    let plan = match plans::plan(&store, &id).await? {
        Found::Plan(plan) => json_of(&plan)?,
        Found::NoPlan => {
            return Err(Problem::not_found(format!(
                "Intersection {id} has no plan yet: it comes with the first readings of its detectors or its signal."
            )));
        }
        Found::NotConfigured => return Err(not_configured(&id)),
    };
    let etag = format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(&plan)));
    Ok(if is_known(known, &etag) { unmodified(&etag) } else { tagged(&etag, plan) })
}

async fn list_plans<S: Store>(State(store): State<S>, query: Query) -> Result<Response, Problem> {
    let Page { items, next } = plans::page(&store, query.prefix()?, query.after_id()?, query.limit()?).await?;
    let items = items.iter().map(|plan| (cursor_after(plan.intersection_id.as_str()), plan));
    list(items, next.as_deref().map(cursor_after))
}

async fn list_decisions<S: Store>(State(store): State<S>, Id(id): Id, query: Query) -> Result<Response, Problem> {
    let ((from, to), after, limit) = (query.span()?, query.after_time()?, query.limit()?);
    let first = after.map_or(from, |after| after.plus_millis(1).max(from));
    if first >= to {
        return list(std::iter::empty::<(String, Value)>(), None);
    }
    let page = store.decisions(&id, from, to, after, limit).await?;
    list(page.items.iter().map(|record| (record.as_of.to_string(), record)), page.next)
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
    serde_json::to_vec(value).map_err(|e| PortError::Unusable("plan store", e.to_string()).into())
}

fn tagged(etag: &str, body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, JSON.to_owned()), (ETAG, quoted(etag))], body).into_response()
}

fn unmodified(etag: &str) -> Response {
    (StatusCode::NOT_MODIFIED, [(ETAG, quoted(etag))]).into_response()
}

fn is_known(known: Option<Tags>, etag: &str) -> bool {
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

fn not_configured(id: &IntersectionId) -> Problem {
    Problem::not_found(format!("Intersection {id} is not configured."))
}

fn refused(id: &IntersectionId, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Missing => not_configured(id),
        Refusal::Failed => {
            let detail = format!("What is stored of intersection {id} is not what the request expects. Read it again first.");
            Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail)
        }
        Refusal::Required(stored) => {
            let detail = format!("Intersection {id} exists with other content. Read it, then send its etag as if-match.");
            Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail).with_header(ETAG, quoted(stored))
        }
        Refusal::Port(error) => error.into(),
    }
}

fn quoted(etag: impl Display) -> String {
    format!("\"{etag}\"")
}

impl From<InvalidParameter> for Problem {
    fn from(error: InvalidParameter) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", format!("The parameter {error}."))
    }
}
