//! Table `decisions`: `id`, `as_of` (ms), `record` (packed JSON), `expires_at` (epoch seconds, the table's time to live).
//!
//! Packed, the record of a junction with a dozen detectors takes one write unit instead of five.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::tables::Decisions;
use super::{DynamoDb, Item, attribute, expiry, number, sdk, text, unstorable};
use crate::aws::port_error;
use crate::ids::IntersectionId;
use crate::item::unpack;
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
    crate::item::decision(record, expires_at).map(sdk).map_err(unstorable(PORT))
}

fn read(item: &Item) -> Result<DecisionRecord, PortError> {
    let unusable = |error: &dyn Display| PortError::Unusable(PORT, format!("a record is not readable: {error}"));
    let json = match attribute::<Vec<u8>>(PORT, item, "record") {
        Ok(packed) => unpack(&packed).map_err(|error| unusable(&error))?,
        // As records were written before they were packed.
        Err(_) => attribute::<String>(PORT, item, "record")?.into_bytes(),
    };
    serde_json::from_slice(&json).map_err(|error| unusable(&error))
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::intersection::Intersection;
    use crate::plan::{PlanSource, PublishedPlan, Reason};

    fn record() -> DecisionRecord {
        let document: serde_json::Value = serde_json::from_str(include_str!("../../../../events/intersection.json")).unwrap();
        let intersection = Intersection::try_from(document).unwrap();
        let as_of = Timestamp::parse("2026-11-22T08:00:05Z").unwrap();
        let reason = Reason { code: "hold".into(), text: "No vehicle waits; stage 0 stays green.".into() };
        let next = PublishedPlan {
            intersection_id: intersection.id().clone(),
            revision: 7,
            as_of,
            valid_until: as_of.plus_millis(30_000),
            source: PlanSource::Adaptive,
            stages: vec![],
            reason: reason.clone(),
        };
        DecisionRecord {
            intersection_id: intersection.id().clone(),
            as_of,
            revision: 7,
            configuration: intersection.etag(),
            reason,
            inputs: serde_json::json!({"detectors": {"n_0": {"vehicles_waiting": 0.3}}}),
            candidates: vec![],
            limits: vec!["green_min".into()],
            distrusted: vec![],
            previous: None,
            next,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_also_from_before_it_was_packed() {
        let record = record();
        let mut item = item(&record, 1_800_000_000).unwrap();
        assert_eq!(read(&item), Ok(record.clone()));
        item.insert("record".into(), text(serde_json::to_string(&record).unwrap()));
        assert_eq!(read(&item), Ok(record));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_a_failure_that_will_come_again() {
        for broken in [text("{}"), AttributeValue::B(Blob::new([1, 2, 3])), number(1)] {
            let item = Item::from([("record".to_owned(), broken)]);
            assert!(!read(&item).unwrap_err().retry());
        }
    }
}
