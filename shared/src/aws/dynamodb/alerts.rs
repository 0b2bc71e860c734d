//! Table `alerts`: `bucket`, `id`, `alert` (JSON) and, once it is cleared, `expires_at` (epoch seconds, the table's time to
//! live).

use std::collections::BTreeMap;

use super::buckets::{self, Listing};
use super::tables::Alerts;
use super::{DynamoDb, Item, attribute, expiry, number, readable, text};
use crate::alert::Alert;
use crate::aws::port_error;
use crate::ids::AlertId;
use crate::ports::{AlertReader, AlertStore, Clock, Page, PortError};

const PORT: &str = "the alert store";

impl<T: AsRef<Alerts> + Send + Sync, C: Clock> AlertStore for DynamoDb<T, C> {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        let Alerts { name, retention_days } = self.table();
        let expires_at = expiry(self.clock.now(), *retention_days);
        // A batch may name a key once; the last alert of an id is the one that stays.
        let latest: BTreeMap<_, _> = alerts.iter().map(|alert| (&alert.id, alert)).collect();
        let items: Vec<_> = latest.into_values().map(|alert| item(alert, expires_at)).collect::<Result<_, _>>()?;
        self.batch(PORT, name).put(items).await
    }
}

impl<T: AsRef<Alerts> + Send + Sync, C: Clock> AlertReader for DynamoDb<T, C> {
    async fn alert(&self, id: &AlertId) -> Result<Option<Alert>, PortError> {
        let key = buckets::key(id.as_str()).into();
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
    let json = serde_json::to_string(alert).map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
    let mut item = Item::from(buckets::key(alert.id.as_str()));
    item.insert("alert".into(), text(json));
    if alert.cleared_at.is_some() {
        item.insert("expires_at".into(), number(expires_at));
    }
    Ok(item)
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
