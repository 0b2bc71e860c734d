//! Plans of configured intersections: the plan of one that was removed may outlive it in the store, but is not shown.

use std::cmp::Ordering;

use futures_util::future::try_join;
use shared::ids::IntersectionId;
use shared::plan::PublishedPlan;
use shared::ports::{IntersectionStore, Page, PlanReader, PortError};

/// Most entries of one read of the stores.
const READ_MAX: usize = 500;
/// Most reads for one page. A page that is short after them goes on with its cursor.
const READS_MAX: usize = 10;

/// The plan of one intersection.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The intersection is not configured.
    NotConfigured,
    /// No readings of it have come yet.
    NoPlan,
    /// Its current plan.
    Plan(PublishedPlan),
}

/// Reads the plan of one intersection.
///
/// # Errors
/// [`PortError`] if a store failed.
pub async fn plan<S: IntersectionStore + PlanReader>(store: &S, id: &IntersectionId) -> Result<Found, PortError> {
    // Of all ids that begin with this one it is the first itself; ids cost less to read than the whole configuration.
    let (ids, plan) = try_join(store.ids(id.as_str(), None, 1), store.plan(id)).await?;
    Ok(match plan {
        _ if ids.items.first() != Some(id) => Found::NotConfigured,
        None => Found::NoPlan,
        Some(plan) => Found::Plan(plan),
    })
}

/// Reads a page of plans by id prefix, after an id. It may hold fewer than `limit` plans and still not be the last.
///
/// # Errors
/// [`PortError`] if a store failed.
pub async fn page<S: IntersectionStore + PlanReader>(
    store: &S,
    prefix: &str,
    after: Option<String>,
    limit: usize,
) -> Result<Page<PublishedPlan>, PortError> {
    let (mut items, mut after, mut read) = (Vec::new(), after, limit);
    for _ in 0..READS_MAX {
        let (plans, ids) = try_join(store.plans(prefix, after.as_deref(), read), store.ids(prefix, after.as_deref(), read)).await?;
        let mut shown = configured(plans.items, ids.items);
        items.extend(shown.by_ref().take(limit - items.len()));
        after = if shown.next().is_some() { items.last().map(id_of) } else { nearer(plans.next, ids.next) };
        if after.is_none() || items.len() == limit {
            break;
        }
        read = READ_MAX;
    }
    Ok(Page { items, next: after })
}

fn id_of(plan: &PublishedPlan) -> String {
    plan.intersection_id.as_str().to_owned()
}

/// Up to where both lists are known; `None` if both came to their end.
fn nearer(a: Option<String>, b: Option<String>) -> Option<String> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Those of the plans whose id is in the list; both are in ascending order of id.
fn configured(plans: Vec<PublishedPlan>, ids: Vec<IntersectionId>) -> impl Iterator<Item = PublishedPlan> {
    let mut ids = ids.into_iter().peekable();
    plans.into_iter().filter(move |plan| {
        while ids.next_if(|id| id.cmp(&plan.intersection_id) == Ordering::Less).is_some() {}
        ids.peek() == Some(&plan.intersection_id)
    })
}
