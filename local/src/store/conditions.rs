//! The condition of the assets behind each key of the stream, and the state that it was found with.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use shared::ids::sort_key;
use shared::ports::{Condition, ConditionReader, ConditionRow, ConditionStore, Page, PortError, WriteError};
use shared::units::Timestamp;

use super::rows::conflict_unless;
use super::{Durability, Store, unavailable, unusable};

/// Sort key of the key -> (version, condition, state).
const CONDITIONS: TableDefinition<&str, (u64, Shown, &[u8])> = TableDefinition::new("conditions");

/// (key, newest event time, its arrival, JSON of the health): a condition as it is stored.
type Shown = (&'static str, i64, i64, &'static [u8]);

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(CONDITIONS)?;
    Ok(())
}

impl ConditionStore for Store {
    async fn load_condition(&self, key: &str) -> Result<Option<ConditionRow>, PortError> {
        let table = self.read()?.open_table(CONDITIONS).map_err(unavailable)?;
        let Some(row) = table.get(sort_key(key).as_str()).map_err(unavailable)? else { return Ok(None) };
        let (version, shown, state) = row.value();
        Ok(Some(ConditionRow { version, condition: read(shown)?, state: state.to_owned() }))
    }

    async fn save_condition(&self, row: &ConditionRow) -> Result<(), WriteError> {
        let ConditionRow { version, condition, state } = row;
        let (version, key, state) = (*version, condition.key.clone(), state.clone());
        let (as_of, received_at) = (condition.as_of.as_millis(), condition.received_at.as_millis());
        let health = serde_json::to_vec(&condition.health).map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(CONDITIONS)?;
            let place = sort_key(&key);
            let stored = table.get(place.as_str())?.map_or(0, |row| row.value().0);
            let holds = stored.checked_add(1) == Some(version);
            if holds {
                let shown = (key.as_str(), as_of, received_at, health.as_slice());
                table.insert(place.as_str(), (version, shown, state.as_slice()))?;
            }
            Ok(holds)
        };
        self.write(Durability::Ride, work, conflict_unless).await?
    }
}

impl ConditionReader for Store {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        let table = self.read()?.open_table(CONDITIONS).map_err(unavailable)?;
        let row = table.get(sort_key(key).as_str()).map_err(unavailable)?;
        row.map(|row| read(row.value().1)).transpose()
    }

    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        let after = after.map(sort_key);
        let page = self.page(CONDITIONS, "", after.as_deref(), limit, |_, (_, shown, _)| read(shown))?;
        let next = page.next.and(page.items.last()).map(|condition| condition.key.clone());
        Ok(Page { next, ..page })
    }
}

fn read((key, as_of, received_at, health): (&str, i64, i64, &[u8])) -> Result<Condition, PortError> {
    let (as_of, received_at) = (Timestamp::from_millis(as_of), Timestamp::from_millis(received_at));
    Ok(Condition { key: key.to_owned(), as_of, received_at, health: serde_json::from_slice(health).map_err(unusable)? })
}
