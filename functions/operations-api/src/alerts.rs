//! Alerts joined with who knows of them.

use futures_util::future::try_join;
use shared::alert::{Acknowledgement, AcknowledgementRequest, Alert, AlertChange, AlertStatus, CloudEvent};
use shared::asset::Fault;
use shared::ids::{AlertId, AssetId, AssetKind};
use shared::ports::{AcknowledgementStore, AlertReader, Clock, EventBus, Page, PortError};

/// Most entries of one read of the stores.
const READ_MAX: usize = 500;
/// Most reads for one page. A page that is short after them goes on with its cursor.
const READS_MAX: usize = 10;

/// An alert and the newest acknowledgement of it.
pub type Joined = (Alert, Option<Acknowledgement>);

/// Which alerts a list shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only in this status.
    pub status: Option<AlertStatus>,
    /// Only of this asset.
    pub asset_id: Option<AssetId>,
    /// Only of assets of this kind.
    pub kind: Option<AssetKind>,
    /// Only of this fault.
    pub fault: Option<Fault>,
}

impl Filter {
    /// Whether the alert may be shown, as far as it alone tells.
    fn may_show(&self, alert: &Alert) -> bool {
        let asset = self.asset_id.as_ref().is_none_or(|asset| *asset == alert.asset_id);
        let kind = self.kind.as_ref().is_none_or(|kind| *kind == alert.kind);
        let cleared = self.status.is_none_or(|status| (status == AlertStatus::Cleared) == alert.cleared_at.is_some());
        asset && kind && cleared && self.fault.is_none_or(|fault| fault == alert.fault)
    }

    fn shows(&self, (alert, acknowledgement): &Joined) -> bool {
        self.status.is_none_or(|status| status == alert.status(acknowledgement.as_ref()))
    }
}

/// Reads one alert.
///
/// # Errors
/// [`PortError`] if a store failed.
pub async fn alert<S: AlertReader + AcknowledgementStore>(store: &S, id: &AlertId) -> Result<Option<Joined>, PortError> {
    let (alert, mut known) = try_join(store.alert(id), store.acknowledgements(std::slice::from_ref(id))).await?;
    Ok(alert.map(|alert| (alert, known.remove(id))))
}

/// Reads a page of alerts, oldest first, after an id. It may hold fewer than `limit` alerts and still not be the last.
///
/// # Errors
/// [`PortError`] if a store failed.
pub async fn page<S: AlertReader + AcknowledgementStore>(
    store: &S,
    filter: &Filter,
    after: Option<AlertId>,
    limit: usize,
) -> Result<Page<Joined>, PortError> {
    let (mut items, mut after, mut read) = (Vec::new(), after.map(|id| id.to_string()), limit);
    for _ in 0..READS_MAX {
        let page = store.alerts(after.as_deref(), read).await?;
        let candidates = page.items.into_iter().filter(|alert| filter.may_show(alert)).collect();
        let mut shown = join(store, candidates).await?.into_iter().filter(|joined| filter.shows(joined));
        items.extend(shown.by_ref().take(limit - items.len()));
        after = if shown.next().is_some() { items.last().map(|(alert, _)| alert.id.to_string()) } else { page.next };
        if after.is_none() || items.len() == limit {
            break;
        }
        read = READ_MAX;
    }
    Ok(Page { items, next: after })
}

async fn join(store: &impl AcknowledgementStore, alerts: Vec<Alert>) -> Result<Vec<Joined>, PortError> {
    if alerts.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = alerts.iter().map(|alert| alert.id.clone()).collect();
    let mut known = store.acknowledgements(&ids).await?;
    Ok(alerts.into_iter().map(|alert| (known.remove(&alert.id), alert)).map(|(known, alert)| (alert, known)).collect())
}

/// Why an alert was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such alert.
    #[error("there is no such alert")]
    Missing,
    /// It is over.
    #[error("the alert is cleared")]
    Cleared,
    /// A store failed.
    #[error(transparent)]
    Port(#[from] PortError),
    /// It is acknowledged, but that could not be told to others.
    #[error("the acknowledgement is stored but not published: {0}")]
    Untold(PortError),
}

/// Acknowledges the present occurrence of an alert and tells others, also if it is told already. The first acknowledgement of
/// an occurrence stays.
///
/// # Errors
/// [`Refusal`]. Doing it again is safe: the event has the same id.
pub async fn acknowledge<S: AlertReader + AcknowledgementStore>(
    store: &S,
    clock: &impl Clock,
    bus: &impl EventBus,
    id: &AlertId,
    request: AcknowledgementRequest,
) -> Result<(Alert, Acknowledgement), Refusal> {
    let alert = store.alert(id).await?.ok_or(Refusal::Missing)?;
    if alert.cleared_at.is_some() {
        return Err(Refusal::Cleared);
    }
    let AcknowledgementRequest { by, note } = request;
    let known = store.acknowledge(id, &Acknowledgement { by, note, at: clock.now(), occurrence: alert.occurrences }).await?;
    let event = CloudEvent::new(AlertChange::Acknowledged, &alert, Some(&known));
    bus.publish(&[event]).await.map_err(Refusal::Untold)?;
    Ok((alert, known))
}
