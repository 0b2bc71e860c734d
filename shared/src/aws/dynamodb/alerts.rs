//! Table `alerts`: `bucket`, `id`, `alert` (JSON), `changes` ([`Alert::changes`]) and, once it is cleared, `expires_at` (epoch
//! seconds, the table's time to live).

use futures_util::{StreamExt, TryStreamExt, stream};

use super::buckets::{self, Listing};
use super::tables::Alerts;
use super::{DynamoDb, Item, attribute, expiry, number, readable, sdk, unstorable, written};
use crate::alert::Alert;
use crate::aws::port_error;
use crate::ids::AlertId;
use crate::ports::{AlertReader, AlertStore, Clock, Page, PortError, WriteError};

const PORT: &str = "the alert store";

/// Alerts written side by side; a junction has at most a few hundred.
const CONCURRENT_WRITES: usize = 16;

impl<T: AsRef<Alerts> + Send + Sync, C: Clock> AlertStore for DynamoDb<T, C> {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        let Alerts { name, retention_days } = self.table();
        let expires_at = expiry(self.clock.now(), *retention_days);
        let items: Vec<_> = alerts.iter().map(|alert| Ok((alert.changes(), item(alert, expires_at)?))).collect::<Result<_, _>>()?;
        let put = |(changes, item): (u32, Item)| async move {
            let call = self.client.put_item().table_name(name).set_item(Some(item));
            let call = call.condition_expression("attribute_not_exists(changes) OR changes <= :changes");
            match written(PORT, call.expression_attribute_values(":changes", number(changes)).send().await) {
                // What is stored is newer.
                Ok(()) | Err(WriteError::Conflict) => Ok(()),
                Err(WriteError::Port(error)) => Err(error),
            }
        };
        stream::iter(items).map(put).buffered(CONCURRENT_WRITES).try_collect().await
    }
}

impl<T: AsRef<Alerts> + Send + Sync, C: Clock> AlertReader for DynamoDb<T, C> {
    async fn alert(&self, id: &AlertId) -> Result<Option<Alert>, PortError> {
        let key = buckets::key(id.as_str());
        let call = self.client.get_item().table_name(&self.table::<Alerts>().name).set_key(Some(key));
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        answer.item.map(|item| read(&item)).transpose()
    }

    async fn alerts(&self, after: Option<&str>, limit: usize) -> Result<Page<Alert>, PortError> {
        let (client, table) = (&self.client, self.table::<Alerts>().name.as_str());
        let listing = Listing { client, port: PORT, table, index: None, consistent: false, attributes: &["alert"] };
        let page = listing.page("", after, limit).await?;
        Ok(Page { items: readable(page.items, |_, item| read(item)), next: page.next })
    }
}

fn item(alert: &Alert, expires_at: i64) -> Result<Item, PortError> {
    crate::item::alert(alert, expires_at).map(sdk).map_err(unstorable(PORT))
}

fn read(item: &Item) -> Result<Alert, PortError> {
    let json: String = attribute(PORT, item, "alert")?;
    serde_json::from_str(&json).map_err(|error| PortError::Unusable(PORT, format!("an alert is not readable: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Urgency;
    use crate::asset::Fault;
    use crate::ids::{AssetId, AssetKind};
    use crate::units::Timestamp;

    #[test]
    fn an_alert_is_forgotten_only_once_it_is_cleared() {
        let raised_at = Timestamp::parse("2026-11-22T08:15:00Z").unwrap();
        let asset_id = AssetId::try_from("J1/n_0").unwrap();
        let open = Alert {
            id: Alert::id_of(&asset_id, Fault::Drift, raised_at),
            asset_id,
            kind: AssetKind::try_from("detector").unwrap(),
            fault: Fault::Drift,
            urgency: Urgency::Monitor,
            raised_at,
            last_raised_at: raised_at,
            cleared_at: None,
            occurrences: 1,
            text: "Its counts leave their pattern.".into(),
            evidence: [("ratio".to_owned(), 0.7)].into(),
            recommended_action: "Set it anew.".into(),
        };
        let cleared = Alert { cleared_at: Some(raised_at.plus_millis(1)), ..open.clone() };
        for (alert, expires_at) in [(&open, None), (&cleared, Some(1_800_000_000))] {
            let item = item(alert, 1_800_000_000).unwrap();
            assert_eq!(attribute::<i64>(PORT, &item, "expires_at").ok(), expires_at);
            assert_eq!(read(&item).as_ref(), Ok(alert));
        }
    }
}
