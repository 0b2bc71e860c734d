//! Table `junctions`: `bucket`, `id`, `version`, `as_of` (ms), `plan` and `state` (bytes).
//!
//! Plan and state are one item, so a step is one write, and an item of at most 1 KiB, so it is one write unit.

use super::buckets::{self, Listing};
use super::tables::Junctions;
use super::{DynamoDb, Item, attribute, over_version, readable, sdk, unstorable, written};
use crate::aws::port_error;
use crate::ids::IntersectionId;
use crate::plan::PublishedPlan;
use crate::ports::{Clock, JunctionRow, JunctionStore, Page, PlanReader, PortError, WriteError};

const PORT: &str = "the junction store";

impl<T: AsRef<Junctions> + Send + Sync, C: Clock> JunctionStore for DynamoDb<T, C> {
    async fn load(&self, id: &IntersectionId) -> Result<Option<JunctionRow>, PortError> {
        let key = buckets::key(id.as_str());
        let call = self.client.get_item().table_name(&self.table::<Junctions>().name).set_key(Some(key)).consistent_read(true);
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        let Some(item) = answer.item else { return Ok(None) };
        let version = attribute(PORT, &item, "version")?;
        let state = attribute(PORT, &item, "state")?;
        Ok(Some(JunctionRow { version, plan: read_plan(id, &item)?, state }))
    }

    async fn save(&self, row: &JunctionRow) -> Result<(), WriteError> {
        let Some(expected) = row.version.checked_sub(1) else { return Err(WriteError::Conflict) };
        let call = self.client.put_item().table_name(&self.table::<Junctions>().name).set_item(Some(item(row)?));
        written(PORT, over_version(call, expected).send().await)
    }
}

impl<T: AsRef<Junctions> + Send + Sync, C: Clock> PlanReader for DynamoDb<T, C> {
    async fn plan(&self, id: &IntersectionId) -> Result<Option<PublishedPlan>, PortError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.table::<Junctions>().name)
            .set_key(Some(buckets::key(id.as_str())))
            .projection_expression("#plan")
            .expression_attribute_names("#plan", "plan");
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        answer.item.map(|item| read_plan(id, &item)).transpose()
    }

    async fn plans(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<PublishedPlan>, PortError> {
        let (client, table) = (&self.client, self.table::<Junctions>().name.as_str());
        let listing = Listing { client, port: PORT, table, index: None, consistent: false, attributes: &["plan"] };
        let page = listing.page(prefix, after, limit).await?;
        let read = |id: &str, item: &Item| {
            let id = IntersectionId::try_from(id).map_err(|error| PortError::Unusable(PORT, format!("the id '{id}' {error}")))?;
            read_plan(&id, item)
        };
        Ok(Page { items: readable(page.items, read), next: page.next })
    }
}

fn read_plan(id: &IntersectionId, item: &Item) -> Result<PublishedPlan, PortError> {
    let bytes: Vec<u8> = attribute(PORT, item, "plan")?;
    PublishedPlan::from_bytes(id.clone(), &bytes).map_err(|error| PortError::Unusable(PORT, format!("the plan of {id}: {error}")))
}

fn item(row: &JunctionRow) -> Result<Item, PortError> {
    crate::item::junction(row).map(sdk).map_err(unstorable(PORT))
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::ids::StageId;
    use crate::plan::{PlanSource, PlanStage, Reason};
    use crate::units::{Deciseconds, Timestamp};

    fn row() -> JunctionRow {
        let as_of = Timestamp::parse("2026-11-22T08:00:05Z").unwrap();
        let stage = |n: u32| PlanStage {
            stage: StageId::try_from(format!("stage-{n}").as_str()).unwrap(),
            start: as_of.plus_millis(i64::from(n) * 40_000),
            green_s: Deciseconds::from_secs(35),
        };
        let plan = PublishedPlan {
            intersection_id: IntersectionId::try_from("district-north.4711").unwrap(),
            revision: 1_000_000,
            as_of,
            valid_until: as_of + Deciseconds::from_secs(30),
            source: PlanSource::Adaptive,
            stages: (0..4).map(stage).collect(),
            reason: Reason { code: "queue_pressure".into(), text: "Stage stage-2 has the most waiting vehicles for its green.".into() },
        };
        JunctionRow { version: 10_000_000, plan, state: vec![7; 600] }
    }

    #[test]
    fn a_step_of_a_large_junction_costs_one_write_unit() {
        let size = crate::item::junction(&row()).unwrap().size();
        assert!(size <= 1024, "{size} bytes");
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        let row = row();
        let item = item(&row).unwrap();
        assert_eq!(read_plan(&row.plan.intersection_id, &item).unwrap(), row.plan);
        assert_eq!(attribute::<u64>(PORT, &item, "version"), Ok(row.version));
        assert_eq!(attribute::<Vec<u8>>(PORT, &item, "state").as_deref(), Ok(row.state.as_slice()));
    }

    #[test]
    fn bytes_of_another_kind_are_unusable() {
        let row = row();
        let item = Item::from([("plan".to_owned(), AttributeValue::B(Blob::new([0xff; 3])))]);
        assert!(!read_plan(&row.plan.intersection_id, &item).unwrap_err().retry());
    }
}
