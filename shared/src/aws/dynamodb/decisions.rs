//! Table `decisions`: `id`, `as_of` (ms), `record` (JSON), `expires_at` (epoch seconds, the table's time to live).

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::config::AsyncSleep;
use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};

use super::{DynamoDb, Item, attribute, number, text};
use crate::aws::port_error;
use crate::ids::IntersectionId;
use crate::plan::DecisionRecord;
use crate::ports::{Clock, DecisionLog, Page, PortError};
use crate::units::Timestamp;

const PORT: &str = "the decision log";

/// Most items of one `BatchWriteItem`.
const BATCH_MAX: usize = 25;
/// Tries for what a batch leaves unprocessed, with pauses of 50, 100 and 200 ms: long enough for a table that is splitting a hot
/// partition to take some, short beside the 5 s of a step.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);

impl<C: Clock> DynamoDb<C> {
    async fn write(&self, mut requests: Vec<WriteRequest>) -> Result<(), PortError> {
        let table = &self.tables.decisions;
        for attempt in 0..TRIES {
            let answer = self.client.batch_write_item().request_items(table, requests).send().await;
            let answer = answer.map_err(|error| port_error(PORT, &error))?;
            requests = answer.unprocessed_items.and_then(|mut items| items.remove(table)).unwrap_or_default();
            if requests.is_empty() {
                return Ok(());
            }
            if let Some(sleep) = self.sleep.as_ref().filter(|_| attempt + 1 < TRIES) {
                sleep.sleep(PAUSE * 2_u32.pow(attempt)).await;
            }
        }
        Err(PortError::Unavailable(PORT, format!("{} records stayed unprocessed", requests.len())))
    }
}

impl<C: Clock> DecisionLog for DynamoDb<C> {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        let expires_at = expiry(self.clock.now(), self.tables.decisions_retention_days);
        // A batch may name a key once; the last record of a key is the one that stays.
        let latest: BTreeMap<_, _> = records.iter().map(|r| ((r.intersection_id.as_str(), r.as_of), r)).collect();
        let requests: Vec<_> = latest.into_values().map(|record| request(record, expires_at)).collect::<Result<_, _>>()?;
        for batch in requests.chunks(BATCH_MAX) {
            self.write(batch.to_vec()).await?;
        }
        Ok(())
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
                .table_name(&self.tables.decisions)
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

/// When a record written now is forgotten, in epoch seconds.
fn expiry(now: Timestamp, retention_days: u32) -> i64 {
    now.as_millis() / 1000 + i64::from(retention_days) * 86_400
}

fn request(record: &DecisionRecord, expires_at: i64) -> Result<WriteRequest, PortError> {
    let json = serde_json::to_string(record).map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
    let put = PutRequest::builder()
        .item("id", text(record.intersection_id.as_str()))
        .item("as_of", number(record.as_of.as_millis()))
        .item("record", text(json))
        .item("expires_at", number(expires_at))
        .build();
    let put = put.map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
    Ok(WriteRequest::builder().put_request(put).build())
}

fn read(item: &Item) -> Result<DecisionRecord, PortError> {
    let json: String = attribute(PORT, item, "record")?;
    serde_json::from_str(&json).map_err(|error| PortError::Unusable(PORT, format!("a record is not readable: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_forgotten_after_its_retention_counted_from_the_writing() {
        let now = Timestamp::parse("2026-11-22T08:00:05.999Z").unwrap();
        let forgotten = Timestamp::parse("2026-12-22T08:00:05Z").unwrap();
        assert_eq!(expiry(now, 30) * 1000, forgotten.as_millis());
    }
}
