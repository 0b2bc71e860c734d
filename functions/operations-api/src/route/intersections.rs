//! Intersections, their plans and decisions.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::http::Problem;
use shared::ids::IntersectionId;
use shared::intersection::{Intersection, LIMITS};
use shared::ports::Page;

use super::{
    Id, Store, is_known, json_of, list, precondition, precondition_failed, quoted, read_text, refused_document, require_same_id, segment,
    tagged, tags, unmodified,
};
use crate::configuration::{self, Refusal, Written};
use crate::plans::{self, Found};
use crate::precondition::Precondition;
use crate::query::{Query, cursor_after};

pub(super) fn router<S: Store>(store: S) -> Router {
    let intersection = get(get_intersection::<S>).put(put_intersection::<S>).delete(delete_intersection::<S>);
    Router::new()
        .route("/v1/intersections", get(list_intersections::<S>))
        .route("/v1/intersections/{id}", intersection)
        .route("/v1/intersections/{id}/plan", get(get_plan::<S>))
        .route("/v1/intersections/{id}/decisions", get(list_decisions::<S>))
        .route("/v1/plans", get(list_plans::<S>))
        .with_state(store)
}

type IntersectionPath = Id<IntersectionId>;

async fn put_intersection<S: Store>(State(store): State<S>, Id(id): IntersectionPath, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let precondition = precondition(&parts.headers)?;
    let text = read_text(&parts.headers, body, LIMITS.document_bytes, "configuration_too_large").await?;
    let intersection = Intersection::from_json(&text).map_err(|error| refused_document(error, "invalid_configuration"))?;
    require_same_id(&id, intersection.id())?;
    let written = configuration::put(&store, &intersection, &precondition).await.map_err(|refusal| refused(&id, refusal))?;
    let answer = tagged(&intersection.etag().to_string(), intersection.document().to_string().into());
    Ok(match written {
        Written::Created => {
            let location = format!("/v1/intersections/{}", segment(id.as_str()));
            (StatusCode::CREATED, [(LOCATION, location)], answer).into_response()
        }
        Written::Replaced | Written::Unchanged => answer,
    })
}

async fn get_intersection<S: Store>(State(store): State<S>, Id(id): IntersectionPath, headers: HeaderMap) -> Result<Response, Problem> {
    let known = tags(&headers, &IF_NONE_MATCH)?;
    let (etag, intersection) = store.get(&id).await?.ok_or_else(|| not_configured(&id))?;
    let etag = etag.to_string();
    let answer = || tagged(&etag, intersection.document().to_string().into());
    Ok(if is_known(known.as_ref(), &etag) { unmodified(&etag) } else { answer() })
}

async fn delete_intersection<S: Store>(
    State(store): State<S>,
    Id(id): IntersectionPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let precondition = Precondition { if_match: tags(&headers, &IF_MATCH)?, if_none_match: None };
    configuration::delete(&store, &id, &precondition).await.map_err(|refusal| refused(&id, refusal))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_intersections<S: Store>(State(store): State<S>, query: Query) -> Result<Response, Problem> {
    let after = query.after_id::<IntersectionId>()?;
    let page = store.list(after.as_ref().map(IntersectionId::as_str), query.limit()?).await?;
    let items = page.items.iter().map(|(_, intersection)| (cursor_after(intersection.id().as_str()), intersection.document()));
    list(items, page.next.as_deref().map(cursor_after))
}

async fn get_plan<S: Store>(State(store): State<S>, Id(id): IntersectionPath, headers: HeaderMap) -> Result<Response, Problem> {
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
    Ok(if is_known(known.as_ref(), &etag) { unmodified(&etag) } else { tagged(&etag, plan) })
}

async fn list_plans<S: Store>(State(store): State<S>, query: Query) -> Result<Response, Problem> {
    let after = query.after_id::<IntersectionId>()?.map(|id| id.to_string());
    let Page { items, next } = plans::page(&store, query.prefix()?, after, query.limit()?).await?;
    let items = items.iter().map(|plan| (cursor_after(plan.intersection_id.as_str()), plan));
    list(items, next.as_deref().map(cursor_after))
}

async fn list_decisions<S: Store>(State(store): State<S>, Id(id): IntersectionPath, query: Query) -> Result<Response, Problem> {
    let ((from, to), after, limit) = (query.span()?, query.after_time()?, query.limit()?);
    let first = after.map_or(from, |after| after.plus_millis(1).max(from));
    if first >= to {
        return list(std::iter::empty::<(String, Value)>(), None);
    }
    let page = store.decisions(&id, from, to, after, limit).await?;
    list(page.items.iter().map(|record| (record.as_of.to_string(), record)), page.next)
}

fn not_configured(id: &IntersectionId) -> Problem {
    Problem::not_found(format!("Intersection {id} is not configured."))
}

fn refused(id: &IntersectionId, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Missing => not_configured(id),
        Refusal::Failed => precondition_failed(format_args!("intersection {id}")),
        Refusal::Required(stored) => {
            let detail = format!("Intersection {id} exists with other content. Read it, then send its etag as if-match.");
            Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail).with_header(ETAG, quoted(stored))
        }
        Refusal::Port(error) => error.into(),
    }
}
