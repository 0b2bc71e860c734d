//! Alerts and who knows of them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use shared::alert::AcknowledgementRequest;
use shared::http::{BODY_TOO_LARGE, Problem};
use shared::ids::AlertId;
use shared::ports::{Clock, EventBus, PortError};

use super::{Id, Store, list, read_text, refused_document};
use crate::alerts::{self, Refusal};
use crate::query::{Query, cursor_after};

/// Longest acknowledgement: its texts with every character escaped.
const ACKNOWLEDGEMENT_BYTES_MAX: usize = 32 * 1024;

/// Who takes acknowledgements and tells others.
struct Desk<S, C, B> {
    store: S,
    clock: C,
    bus: B,
}

pub(super) fn router<S: Store, C: Clock + 'static, B: EventBus + 'static>(store: S, clock: C, bus: B) -> Router {
    let reading = Router::new().route("/v1/alerts", get(list_alerts::<S>)).route("/v1/alerts/{id}", get(get_alert::<S>));
    let desk = Router::new().route("/v1/alerts/{id}/acknowledgement", post(acknowledge::<S, C, B>));
    reading.with_state(store.clone()).merge(desk.with_state(Arc::new(Desk { store, clock, bus })))
}

async fn list_alerts<S: Store>(State(store): State<S>, query: Query) -> Result<Response, Problem> {
    let page = alerts::page(&store, &query.alerts()?, query.after_id()?, query.limit()?).await?;
    let items = page.items.iter().map(|(alert, known)| (cursor_after(alert.id.as_str()), alert.shown(known.as_ref())));
    list(items, page.next.as_deref().map(cursor_after))
}

async fn get_alert<S: Store>(State(store): State<S>, Id(id): Id<AlertId>) -> Result<Response, Problem> {
    let (alert, known) = alerts::alert(&store, &id).await?.ok_or_else(|| missing(&id))?;
    Ok(Json(alert.shown(known.as_ref())).into_response())
}

async fn acknowledge<S: Store, C: Clock, B: EventBus>(
    State(desk): State<Arc<Desk<S, C, B>>>,
    Id(id): Id<AlertId>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let text = read_text(&parts.headers, body, ACKNOWLEDGEMENT_BYTES_MAX, BODY_TOO_LARGE).await?;
    let request = AcknowledgementRequest::from_json(&text).map_err(|error| refused_document(error, "invalid_request"))?;
    let acknowledged = alerts::acknowledge(&desk.store, &desk.clock, &desk.bus, &id, request).await;
    let (alert, known) = acknowledged.map_err(|refusal| refused(&id, refusal))?;
    Ok(Json(alert.shown(Some(&known))).into_response())
}

fn missing(id: &AlertId) -> Problem {
    Problem::not_found(format!("There is no alert {id}."))
}

fn refused(id: &AlertId, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Missing => missing(id),
        Refusal::Cleared => {
            Problem::new(StatusCode::CONFLICT, "alert_cleared", format!("Alert {id} is over: there is nothing to acknowledge."))
        }
        Refusal::Untold(PortError::Unavailable(bus, error)) => {
            tracing::error!(%id, bus, error, "an acknowledgement is stored but not published");
            let detail = "The acknowledgement is stored, but others do not know of it yet. Send the request again.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "event_bus_unavailable", detail).retry_after(1)
        }
        Refusal::Port(error) | Refusal::Untold(error) => error.into(),
    }
}
