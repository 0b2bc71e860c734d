//! Table `acknowledgements`: `id` (that of the alert), `occurrence`, `acknowledgement` (JSON). Nobody lists it, so it has no
//! buckets.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use super::tables::Acknowledgements;
use super::{DynamoDb, Item, attribute, number, text, written};
use crate::alert::Acknowledgement;
use crate::aws::port_error;
use crate::ids::AlertId;
use crate::ports::{AcknowledgementStore, Clock, PortError, WriteError};

const PORT: &str = "the acknowledgement store";

impl<T: AsRef<Acknowledgements> + Send + Sync, C: Clock> AcknowledgementStore for DynamoDb<T, C> {
    async fn acknowledge(&self, id: &AlertId, acknowledgement: &Acknowledgement) -> Result<Acknowledgement, PortError> {
        let table = &self.table::<Acknowledgements>().name;
        let call = self
            .client
            .put_item()
            .table_name(table)
            .set_item(Some(item(id, acknowledgement)?))
            .condition_expression("attribute_not_exists(#id) OR #occurrence < :occurrence")
            .expression_attribute_names("#id", "id")
            .expression_attribute_names("#occurrence", "occurrence")
            .expression_attribute_values(":occurrence", number(acknowledgement.occurrence));
        match written(PORT, call.send().await) {
            Ok(()) => return Ok(acknowledgement.clone()),
            Err(WriteError::Port(error)) => return Err(error),
            Err(WriteError::Conflict) => {}
        }
        let call = self.client.get_item().table_name(table).set_key(Some(key(id).into())).consistent_read(true);
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        // Nobody removes one.
        let stored = answer.item.ok_or_else(|| PortError::Unavailable(PORT, format!("the acknowledgement of {id} has gone")))?;
        Ok(read(&stored)?.1)
    }

    async fn acknowledgements(&self, ids: &[AlertId]) -> Result<HashMap<AlertId, Acknowledgement>, PortError> {
        // A batch may name a key once.
        let ids: BTreeSet<_> = ids.iter().collect();
        let keys: Vec<_> = ids.into_iter().map(|id| Item::from(key(id))).collect();
        let items = self.batch(PORT, &self.table::<Acknowledgements>().name).get(&keys).await?;
        items.iter().map(read).collect()
    }
}

fn key(id: &AlertId) -> [(String, AttributeValue); 1] {
    [("id".to_owned(), text(id.as_str()))]
}

fn item(id: &AlertId, acknowledgement: &Acknowledgement) -> Result<Item, PortError> {
    let json = serde_json::to_string(acknowledgement).map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
    let mut item = Item::from(key(id));
    item.insert("occurrence".into(), number(acknowledgement.occurrence));
    item.insert("acknowledgement".into(), text(json));
    Ok(item)
}

fn read(item: &Item) -> Result<(AlertId, Acknowledgement), PortError> {
    let id: String = attribute(PORT, item, "id")?;
    let json: String = attribute(PORT, item, "acknowledgement")?;
    let unusable = |error: &dyn std::fmt::Display| PortError::Unusable(PORT, format!("the acknowledgement of {id}: {error}"));
    let acknowledgement = serde_json::from_str(&json).map_err(|error| unusable(&error))?;
    Ok((AlertId::try_from(id.as_str()).map_err(|error| unusable(&error))?, acknowledgement))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Timestamp;

    #[test]
    fn an_acknowledgement_reads_back_as_it_was_written() {
        let id = AlertId::try_from("2026-11-22T08:15:00.000Z-783a5376da8ab7e0").unwrap();
        let at = Timestamp::parse("2026-11-22T09:00:00.001Z").unwrap();
        let known = Acknowledgement { by: "Ada".into(), note: Some("Wir wissen – schon.".into()), at, occurrence: 2 };
        let item = item(&id, &known).unwrap();
        assert_eq!(read(&item), Ok((id, known)));
        assert!(!read(&Item::new()).unwrap_err().retry());
    }
}
