//! Table `conditions`: `bucket`, `id` (sort key of the key of the stream), `version`, `as_of` and `received_at` (ms), `health`
//! (JSON) and `state` (bytes).
//!
//! All assets behind a key are one item: a batch is one write, and the health of a junction one read. Lists leave `state` out,
//! but DynamoDB counts what it reads.

use super::buckets::{self, Listing};
use super::tables::Conditions;
use super::{DynamoDb, Item, asset_of, attribute, over_version, readable, sdk, unstorable, written};
use crate::aws::port_error;
use crate::ids::sort_key;
use crate::ports::{Clock, Condition, ConditionReader, ConditionRow, ConditionStore, Page, PortError, WriteError};
use crate::units::Timestamp;

const PORT: &str = "the condition store";

/// Largest item that DynamoDB takes.
const ITEM_BYTES_MAX: usize = 400 * 1024;
/// What a condition is read from, besides its id.
const SHOWN: &[&str] = &["as_of", "received_at", "health"];

impl<T: AsRef<Conditions> + Send + Sync, C: Clock> ConditionStore for DynamoDb<T, C> {
    async fn load_condition(&self, key: &str) -> Result<Option<ConditionRow>, PortError> {
        let place = buckets::key(&sort_key(key));
        let call = self.client.get_item().table_name(&self.table::<Conditions>().name).set_key(Some(place)).consistent_read(true);
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        let Some(item) = answer.item else { return Ok(None) };
        let version = attribute(PORT, &item, "version")?;
        let state = attribute(PORT, &item, "state")?;
        Ok(Some(ConditionRow { version, condition: read(key, &item)?, state }))
    }

    async fn save_condition(&self, row: &ConditionRow) -> Result<(), WriteError> {
        let Some(expected) = row.version.checked_sub(1) else { return Err(WriteError::Conflict) };
        let call = self.client.put_item().table_name(&self.table::<Conditions>().name).set_item(Some(item(row)?));
        written(PORT, over_version(call, expected).send().await)
    }
}

impl<T: AsRef<Conditions> + Send + Sync, C: Clock> ConditionReader for DynamoDb<T, C> {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        let place = buckets::key(&sort_key(key));
        let mut call = self.client.get_item().table_name(&self.table::<Conditions>().name).set_key(Some(place));
        for name in SHOWN {
            call = call.expression_attribute_names(format!("#{name}"), *name);
        }
        let answer = call.projection_expression("#as_of, #received_at, #health").send().await;
        answer.map_err(|error| port_error(PORT, &error))?.item.map(|item| read(key, &item)).transpose()
    }

    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        let (client, table) = (&self.client, self.table::<Conditions>().name.as_str());
        let listing = Listing { client, port: PORT, table, index: None, consistent: false, attributes: SHOWN };
        let page = listing.page("", after.map(sort_key).as_deref(), limit).await?;
        Ok(Page { items: readable(page.items, |id, item| read(&asset_of(id), item)), next: page.next.as_deref().map(asset_of) })
    }
}

fn item(row: &ConditionRow) -> Result<Item, PortError> {
    let item = crate::item::condition(row).map_err(unstorable(PORT))?;
    let size = item.size();
    if size > ITEM_BYTES_MAX {
        let (key, assets) = (&row.condition.key, row.condition.health.len());
        return Err(PortError::Unusable(PORT, format!("{key} with {assets} assets takes {size} bytes, more than {ITEM_BYTES_MAX}")));
    }
    Ok(sdk(item))
}

fn read(key: &str, item: &Item) -> Result<Condition, PortError> {
    let health: String = attribute(PORT, item, "health")?;
    let health = serde_json::from_str(&health).map_err(|error| PortError::Unusable(PORT, format!("the condition of {key}: {error}")))?;
    let time = |name| attribute(PORT, item, name).map(Timestamp::from_millis);
    Ok(Condition { key: key.to_owned(), as_of: time("as_of")?, received_at: time("received_at")?, health })
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;
    use crate::asset::{AssetHealth, Fault, HealthState, Reason};
    use crate::ids::{AssetId, AssetKind};

    /// A junction with so many detectors, each with 2 KB of state.
    fn row(detectors: usize) -> ConditionRow {
        let as_of = Timestamp::parse("2026-11-22T08:00:05.001Z").unwrap();
        let health = |n: usize| AssetHealth {
            asset_id: AssetId::try_from(format!("district-north.4711/loop_{n}").as_str()).unwrap(),
            kind: AssetKind::try_from("detector").unwrap(),
            as_of,
            state: HealthState::Alarm,
            health_index: Some(30),
            remaining_useful_life: None,
            reasons: vec![Reason { indicator: "volume_ratio".into(), contribution: -70.0 / 3.0, text: "It misses vehicles.".repeat(4) }],
            fault: Some(Fault::Undercount),
            model: None,
        };
        let condition = Condition {
            key: "district-north.4711".into(),
            as_of,
            received_at: as_of.plus_millis(300),
            health: (0..detectors).map(health).collect(),
        };
        ConditionRow { version: 10_000_000, condition, state: vec![7; 2048 * detectors] }
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let row = row(2);
        let item = item(&row).unwrap();
        assert_eq!(read(&row.condition.key, &item).unwrap(), row.condition);
        assert_eq!(attribute::<u64>(PORT, &item, "version"), Ok(row.version));
        assert_eq!(attribute::<Vec<u8>>(PORT, &item, "state").as_deref(), Ok(row.state.as_slice()));
    }

    #[test]
    fn a_hundred_detectors_fit_and_what_does_not_is_refused_with_its_size() {
        assert!(item(&row(100)).is_ok());
        let refused = item(&row(400)).unwrap_err();
        assert!(!refused.retry());
        assert!(refused.to_string().contains("district-north.4711 with 400 assets takes 9"), "{refused}");
    }

    #[test]
    fn a_machine_with_a_slash_in_its_key_lies_at_its_sort_key() {
        let mut row = row(1);
        row.condition.key = "J1/n_0".into();
        assert_eq!(attribute::<String>(PORT, &item(&row).unwrap(), "id").map(|id| asset_of(&id)).as_deref(), Ok("J1/n_0"));
    }

    #[test]
    fn an_unreadable_condition_is_a_failure_that_will_come_again() {
        let mut item = item(&row(1)).unwrap();
        item.insert("health".into(), text("[{}]"));
        assert!(!read("J1", &item).unwrap_err().retry());
    }
}
