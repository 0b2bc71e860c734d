//! Assets and their health.

use axum::extract::{Request, State};
use axum::http::header::{IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use shared::asset::{Asset, AssetHealth};
use shared::http::Problem;
use shared::ids::AssetId;

use super::{
    Id, Store, is_known, json_of, list, precondition, precondition_failed, read_text, refused_document, require_same_id, segment, tagged,
    tags, unmodified,
};
use crate::assets::{self, KnownAsset};
use crate::query::{Query, cursor_after};
use crate::registration::{self, Refusal};

/// Longest document of an asset.
const DOCUMENT_BYTES_MAX: usize = 16 * 1024;

/// The id of a detector has a slash. Sent as `%2F` it is one segment, but API Gateway decodes it.
pub(super) fn router<S: Store>(store: S) -> Router {
    let asset = || get(get_asset::<S>).put(put_asset::<S>);
    Router::new()
        .route("/v1/assets", get(list_assets::<S>))
        .route("/v1/assets/{id}", asset())
        .route("/v1/assets/{id}/health", get(get_health::<S>))
        .route("/v1/assets/{id}/{detector_id}", asset())
        .route("/v1/assets/{id}/{detector_id}/health", get(get_health::<S>))
        .with_state(store)
}

async fn put_asset<S: Store>(State(store): State<S>, Id(id): Id<AssetId>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let precondition = precondition(&parts.headers)?;
    let text = read_text(&parts.headers, body, DOCUMENT_BYTES_MAX, "configuration_too_large").await?;
    let asset = Asset::from_json(&text).map_err(|error| refused_document(error, "invalid_configuration"))?;
    require_same_id(&id, &asset.id)?;
    let is_new = registration::put(&store, &asset, &precondition).await.map_err(|refusal| match refusal {
        Refusal::Failed => precondition_failed(format_args!("asset {id}")),
        Refusal::Port(error) => error.into(),
    })?;
    let answer = tagged(&asset.etag().to_string(), json_of(&asset)?);
    if !is_new {
        return Ok(answer);
    }
    let location = format!("/v1/assets/{}", segment(id.as_str()));
    Ok((StatusCode::CREATED, [(LOCATION, location)], answer).into_response())
}

async fn get_asset<S: Store>(State(store): State<S>, Id(id): Id<AssetId>, headers: HeaderMap) -> Result<Response, Problem> {
    let known = tags(&headers, &IF_NONE_MATCH)?;
    let asset = known_asset(&store, &id).await?;
    let Some(etag) = asset.registered.as_ref().map(|asset| asset.etag().to_string()) else {
        return Ok(Json(asset.shown()).into_response());
    };
    Ok(if is_known(known.as_ref(), &etag) { unmodified(&etag) } else { tagged(&etag, json_of(&asset.shown())?) })
}

async fn get_health<S: Store>(State(store): State<S>, Id(id): Id<AssetId>) -> Result<Json<AssetHealth>, Problem> {
    let health = known_asset(&store, &id).await?.health;
    health.map(Json).ok_or_else(|| Problem::not_found(format!("Asset {id} has no health yet: it comes with its first readings.")))
}

async fn list_assets<S: Store>(State(store): State<S>, query: Query) -> Result<Response, Problem> {
    let page = assets::page(&store, &query.assets()?, query.after_id()?, query.limit()?).await?;
    let items = page.items.iter().map(|listed| (cursor_after(listed.asset.id.as_str()), listed));
    list(items, page.next.as_deref().map(cursor_after))
}

async fn known_asset<S: Store>(store: &S, id: &AssetId) -> Result<KnownAsset, Problem> {
    let unknown = || {
        let detail = format!("Asset {id} is not known: register it, configure its intersection, or send its first readings.");
        Problem::not_found(detail)
    };
    assets::known(store, id).await?.ok_or_else(unknown)
}
