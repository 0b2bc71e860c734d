//! Table `decisions`: `id`, `as_of` (ms), `record` (JSON), `expires_at` (epoch seconds, the table's time to live).

use std::collections::BTreeMap;

use super::tables::Decisions;
use super::{DynamoDb, Item, attribute, expiry, number, text};
use crate::aws::port_error;
use crate::ids::IntersectionId;
use crate::plan::DecisionRecord;
use crate::ports::{Clock, DecisionLog, Page, PortError};
use crate::units::Timestamp;

const PORT: &str = "the decision log";

impl<T: AsRef<Decisions> + Send + Sync, C: Clock> DecisionLog for DynamoDb<T, C> {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        let Decisions { name, retention_days } = self.table();
        let expires_at = expiry(self.clock.now(), *retention_days);
        // A batch may name a key once; the last record of a key is the one that stays.
        let latest: BTreeMap<_, _> = records.iter().map(|r| ((r.intersection_id.as_str(), r.as_of), r)).collect();
        let items: Vec<_> = latest.into_values().map(|record| item(record, expires_at)).collect::<Result<_, _>>()?;
        self.batch(PORT, name).put(items).await
    }

    async fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> Result<Page<DecisionRecord>, PortError> {
        let mut records = Vec::new();
        let mut first = after.map_or(from, |after| from.max(after.plus_millis(1)));
        let mut more = first < to;
        // One record beyond the page tells whether more follow. A read ends after 1 MiB, so a page may take several.
        while more && records.len() <= limit {
            let query = self
                .client
                .query()
                .table_name(&self.table::<Decisions>().name)
                .key_condition_expression("#id = :id AND #as_of BETWEEN :first AND :last")
                .projection_expression("#as_of, #record")
                .expression_attribute_names("#id", "id")
                .expression_attribute_names("#as_of", "as_of")
                .expression_attribute_names("#record", "record")
                .expression_attribute_values(":id", text(id.as_str()))
                .expression_attribute_values(":first", number(first.as_millis()))
                .expression_attribute_values(":last", number(to.as_millis() - 1))
                .limit(i32::try_from(limit + 1 - records.len()).unwrap_or(i32::MAX));
            let answer = query.send().await.map_err(|error| port_error(PORT, &error))?;
            for item in answer.items() {
                records.push(read(item)?);
            }
            first = records.last().map_or(first, |record| record.as_of.plus_millis(1));
            more = answer.last_evaluated_key.is_some() && first < to;
        }
        let follows = records.len() > limit;
        records.truncate(limit);
        let next = if follows { records.last().map(|record| record.as_of.to_string()) } else { None };
        Ok(Page { items: records, next })
    }
}

fn item(record: &DecisionRecord, expires_at: i64) -> Result<Item, PortError> {
    let json = serde_json::to_string(record).map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
    Ok(Item::from([
        ("id".to_owned(), text(record.intersection_id.as_str())),
        ("as_of".to_owned(), number(record.as_of.as_millis())),
        ("record".to_owned(), text(json)),
        ("expires_at".to_owned(), number(expires_at)),
    ]))
}

fn read(item: &Item) -> Result<DecisionRecord, PortError> {
    let json: String = attribute(PORT, item, "record")?;
    serde_json::from_str(&json).map_err(|error| PortError::Unusable(PORT, format!("a record is not readable: {error}")))
}
