//! Alerts and who knows of them. What was raised first goes first, with its acknowledgement.

use std::collections::HashMap;

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use shared::alert::{Acknowledgement, Alert};
use shared::ids::AlertId;
use shared::ports::{AcknowledgementStore, AlertReader, AlertStore, Page, PortError};

use super::{Durability, Store, unavailable, unusable};

/// Alerts kept: one a day of each of 270 assets for a year.
pub(super) const ALERTS_MAX: u64 = 100_000;

/// Id -> JSON.
const ALERTS: TableDefinition<&str, &[u8]> = TableDefinition::new("alerts");
/// Id of the alert -> (occurrence, JSON).
const ACKNOWLEDGEMENTS: TableDefinition<&str, (u32, &[u8])> = TableDefinition::new("acknowledgements");

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(ALERTS)?;
    transaction.open_table(ACKNOWLEDGEMENTS)?;
    Ok(())
}

impl AlertStore for Store {
    async fn put_alerts(&self, alerts: &[Alert]) -> Result<(), PortError> {
        let rows = alerts.iter().map(|alert| Ok((alert.id.clone(), alert.changes(), serde_json::to_vec(alert)?)));
        let rows: Vec<_> = rows.collect::<Result<_, serde_json::Error>>().map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            let mut alerts = transaction.open_table(ALERTS)?;
            for (id, changes, json) in &rows {
                let stored = alerts.get(id.as_str())?.and_then(|row| serde_json::from_slice::<Alert>(row.value()).ok());
                if stored.is_none_or(|stored| stored.changes() <= *changes) {
                    alerts.insert(id.as_str(), json.as_slice())?;
                }
            }
            while alerts.len()? > ALERTS_MAX
                && let Some((oldest, _)) = alerts.pop_first()?
            {
                transaction.open_table(ACKNOWLEDGEMENTS)?.remove(oldest.value())?;
            }
            Ok(())
        };
        self.write(Durability::Ride, work, |()| ()).await
    }
}

impl AlertReader for Store {
    async fn alert(&self, id: &AlertId) -> Result<Option<Alert>, PortError> {
        let table = self.read()?.open_table(ALERTS).map_err(unavailable)?;
        let row = table.get(id.as_str()).map_err(unavailable)?;
        row.map(|row| serde_json::from_slice(row.value()).map_err(unusable)).transpose()
    }

    async fn alerts(&self, after: Option<&str>, limit: usize) -> Result<Page<Alert>, PortError> {
        self.page(ALERTS, "", after, limit, |_, json| serde_json::from_slice(json).map_err(unusable))
    }
}

impl AcknowledgementStore for Store {
    async fn acknowledge(&self, id: &AlertId, acknowledgement: &Acknowledgement) -> Result<Acknowledgement, PortError> {
        let (id, occurrence) = (id.clone(), acknowledgement.occurrence);
        let json = serde_json::to_vec(acknowledgement).map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(ACKNOWLEDGEMENTS)?;
            let stored = table.get(id.as_str())?.filter(|row| row.value().0 >= occurrence).map(|row| row.value().1.to_owned());
            if let Some(stored) = stored {
                return Ok(stored);
            }
            table.insert(id.as_str(), (occurrence, json.as_slice()))?;
            Ok(json)
        };
        self.write(Durability::Disk, work, |json| serde_json::from_slice(&json).map_err(unusable)).await?
    }

    async fn acknowledgements(&self, ids: &[AlertId]) -> Result<HashMap<AlertId, Acknowledgement>, PortError> {
        let table = self.read()?.open_table(ACKNOWLEDGEMENTS).map_err(unavailable)?;
        let mut found = HashMap::new();
        for id in ids {
            if let Some(row) = table.get(id.as_str()).map_err(unavailable)? {
                found.insert(id.clone(), serde_json::from_slice(row.value().1).map_err(unusable)?);
            }
        }
        Ok(found)
    }
}
