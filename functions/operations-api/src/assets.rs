//! Assets from three sources: those that somebody registered, detectors of configured intersections, and whatever has a
//! condition because it sent readings. What somebody registered is what is shown; the condition adds how the asset is.

use std::collections::BTreeMap;

use futures_util::future::{try_join3, try_join5};
use serde::Serialize;
use shared::asset::{Asset, AssetHealth, HealthState};
use shared::ids::{AssetId, AssetKind, IntersectionId};
use shared::intersection::Intersection;
use shared::ports::{AssetStore, Condition, ConditionReader, IntersectionStore, Page, PortError, StoredIntersection};

/// Most entries of one read of a store. An intersection is several assets, and a large document.
const READ_MAX: usize = 100;
/// Most reads for one page. A page that is short after them goes on with its cursor.
const READS_MAX: usize = 10;

/// An asset and how it is: an entry of `GET /v1/assets`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListedAsset {
    /// What is known of it.
    #[serde(flatten)]
    pub asset: Asset,
    /// How it is; unknown before its first readings.
    pub state: HealthState,
    /// 100 as new, 0 failed; none if unknown.
    pub health_index: Option<u8>,
}

impl ListedAsset {
    fn without_health(asset: Asset) -> Self {
        Self { asset, state: HealthState::Unknown, health_index: None }
    }

    fn unregistered(health: AssetHealth) -> Self {
        let AssetHealth { asset_id, kind, state, health_index, .. } = health;
        Self { asset: Asset::unregistered(asset_id, kind), state, health_index }
    }
}

/// What is known of one asset. At least one of both is there.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownAsset {
    /// What somebody registered.
    pub registered: Option<Asset>,
    /// What its readings say.
    pub health: Option<AssetHealth>,
    id: AssetId,
}

impl KnownAsset {
    /// The asset as it is shown.
    pub fn shown(self) -> Asset {
        let Self { registered, health, id } = self;
        registered.unwrap_or_else(|| Asset::unregistered(id, health.map_or_else(AssetKind::detector, |health| health.kind)))
    }
}

/// Everything known of one asset, if it is known at all.
///
/// # Errors
/// [`PortError`] if a store failed.
pub async fn known<S>(store: &S, id: &AssetId) -> Result<Option<KnownAsset>, PortError>
where
    S: AssetStore + ConditionReader + IntersectionStore,
{
    let (registered, own, shared) = try_join3(store.asset(id), store.condition(id.as_str()), shared_condition(store, id)).await?;
    let health = [shared, own].into_iter().flatten().find_map(|condition| health_of(condition, id));
    let is_known = registered.is_some() || health.is_some() || is_configured(store, id).await?;
    Ok(is_known.then(|| KnownAsset { registered, health, id: id.clone() }))
}

/// The condition that a detector shares with the others of its intersection.
async fn shared_condition(store: &impl ConditionReader, id: &AssetId) -> Result<Option<Condition>, PortError> {
    match id.as_detector() {
        Some((intersection, _)) => store.condition(intersection.as_str()).await,
        None => Ok(None),
    }
}

fn health_of(condition: Condition, id: &AssetId) -> Option<AssetHealth> {
    condition.health.into_iter().find(|health| health.asset_id == *id)
}

/// Whether it is a detector of a configured intersection.
async fn is_configured(store: &impl IntersectionStore, id: &AssetId) -> Result<bool, PortError> {
    let Some((intersection, detector)) = id.as_detector() else { return Ok(false) };
    let stored = readable(store.get(&intersection).await)?;
    Ok(stored.is_some_and(|(_, intersection)| intersection.detectors().any(|configured| *configured == detector)))
}

/// A configuration that this version refuses is none here, as in lists.
fn readable(stored: Result<Option<StoredIntersection>, PortError>) -> Result<Option<StoredIntersection>, PortError> {
    match stored {
        Err(error @ PortError::Outdated(..)) => {
            tracing::error!(%error, "the detectors of an intersection are left out");
            Ok(None)
        }
        stored => stored,
    }
}

/// Which assets a list shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only of this kind.
    pub kind: Option<AssetKind>,
    /// Only in this state.
    pub state: Option<HealthState>,
}

impl Filter {
    fn shows(&self, listed: &ListedAsset) -> bool {
        let kind = self.kind.as_ref().is_none_or(|kind| *kind == listed.asset.kind);
        kind && self.state.is_none_or(|state| state == listed.state)
    }
}

/// Reads a page of assets in the order of [`AssetId::sort_key`], after an id. It may hold fewer than `limit` assets and still
/// not be the last.
///
/// # Errors
/// [`PortError`] if a store failed.
pub async fn page<S>(store: &S, filter: &Filter, after: Option<AssetId>, limit: usize) -> Result<Page<ListedAsset>, PortError>
where
    S: AssetStore + ConditionReader + IntersectionStore,
{
    let (mut items, mut after, mut read) = (Vec::new(), after, limit.min(READ_MAX));
    for _ in 0..READS_MAX {
        let (found, end) = merged(store, after.as_ref(), read).await?;
        let mut shown = found.into_iter().filter(|listed| filter.shows(listed));
        items.extend(shown.by_ref().take(limit - items.len()));
        after = if shown.next().is_some() { items.last().map(|listed: &ListedAsset| listed.asset.id.clone()) } else { end };
        if after.is_none() || items.len() == limit {
            break;
        }
        read = READ_MAX;
    }
    Ok(Page { items, next: after.map(|id| id.to_string()) })
}

/// All assets after one, up to where all three sources are known; the end is `None` if all came to theirs.
async fn merged<S>(store: &S, after: Option<&AssetId>, read: usize) -> Result<(Vec<ListedAsset>, Option<AssetId>), PortError>
where
    S: AssetStore + ConditionReader + IntersectionStore,
{
    // The page before may have ended among the detectors of an intersection.
    let group = after.map(group).transpose()?;
    let own_condition = async {
        match &group {
            Some(group) => store.condition(group.as_str()).await,
            None => Ok(None),
        }
    };
    let own_intersection = async {
        match &group {
            Some(group) => readable(store.get(group).await),
            None => Ok(None),
        }
    };
    let (registered, conditions, intersections, condition, intersection) = try_join5(
        store.assets(after, read),
        store.conditions(after.map(AssetId::as_str), read),
        store.list(group.as_ref().map(IntersectionId::as_str), read),
        own_condition,
        own_intersection,
    )
    .await?;

    let ends = [&registered.next, &conditions.next, &intersections.next].into_iter().flatten().map(|end| asset_id(end));
    let end = ends.collect::<Result<Vec<_>, _>>()?.into_iter().min_by_key(AssetId::sort_key);

    let mut found = BTreeMap::new();
    for (_, intersection) in intersections.items.into_iter().chain(intersection) {
        found.extend(detectors(&intersection).map(|listed| (listed.asset.id.sort_key(), listed)));
    }
    // What an intersection says of its detectors comes last and counts more than what one of them says as a machine.
    for condition in conditions.items.into_iter().rev().chain(condition) {
        found.extend(condition.health.into_iter().map(|health| (health.asset_id.sort_key(), ListedAsset::unregistered(health))));
    }
    for asset in registered.items {
        match found.get_mut(&asset.id.sort_key()) {
            Some(listed) => listed.asset = asset,
            None => drop(found.insert(asset.id.sort_key(), ListedAsset::without_health(asset))),
        }
    }

    let (first, last) = (after.map(AssetId::sort_key), end.as_ref().map(AssetId::sort_key));
    found.retain(|key, _| first.as_ref().is_none_or(|first| key > first) && last.as_ref().is_none_or(|last| key <= last));
    Ok((found.into_values().collect(), end))
}

fn detectors(intersection: &Intersection) -> impl Iterator<Item = ListedAsset> {
    let ids = intersection.detectors().map(|detector| AssetId::of_detector(intersection.id(), detector));
    ids.map(|id| ListedAsset::without_health(Asset::unregistered(id, AssetKind::detector())))
}

/// The intersection among whose detectors the asset is, or would be.
fn group(id: &AssetId) -> Result<IntersectionId, PortError> {
    let (group, _) = id.as_str().split_once('/').unwrap_or((id.as_str(), ""));
    IntersectionId::try_from(group).map_err(|error| unusable(group, &error))
}

fn asset_id(key: &str) -> Result<AssetId, PortError> {
    AssetId::try_from(key).map_err(|error| unusable(key, &error))
}

fn unusable(key: &str, error: &impl std::fmt::Display) -> PortError {
    PortError::Unusable("a list of assets", format!("'{key}' {error}"))
}
