//! Table `intersections`: `bucket`, `id`, `document` (JSON as it was put), `etag`. Its index `ids` holds the keys alone, so that
//! going over the ids of a city does not read its documents.

use std::sync::Arc;

use super::buckets::{self, Listing};
use super::{DynamoDb, Item, attribute, text, written};
use crate::aws::port_error;
use crate::ids::IntersectionId;
use crate::intersection::{ETag, Intersection};
use crate::ports::{Clock, IntersectionStore, Page, PortError, StoredIntersection, WriteError};

const PORT: &str = "the configuration store";

impl<C: Clock> DynamoDb<C> {
    fn listing(&self) -> Listing<'_> {
        // Consistent: people list what they have just written.
        let (client, table) = (&self.client, self.tables.intersections.as_str());
        Listing { client, port: PORT, table, index: None, consistent: true, attributes: &["document"] }
    }
}

impl<C: Clock> IntersectionStore for DynamoDb<C> {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        let key = buckets::key(id.as_str()).into();
        let call = self.client.get_item().table_name(&self.tables.intersections).set_key(Some(key)).consistent_read(true);
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        answer.item.map(|item| read(&item)).transpose()
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        let mut call = self.client.put_item().table_name(&self.tables.intersections);
        for (name, value) in buckets::key(intersection.id().as_str()) {
            call = call.item(name, value);
        }
        call = call.item("document", text(intersection.document().to_string())).item("etag", text(intersection.etag().to_string()));
        call = match expected {
            None => call.condition_expression("attribute_not_exists(#id)").expression_attribute_names("#id", "id"),
            Some(etag) => call
                .condition_expression("#etag = :expected")
                .expression_attribute_names("#etag", "etag")
                .expression_attribute_values(":expected", text(etag.to_string())),
        };
        written(PORT, call.send().await)
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        let call = self
            .client
            .delete_item()
            .table_name(&self.tables.intersections)
            .set_key(Some(buckets::key(id.as_str()).into()))
            .condition_expression("#etag = :expected")
            .expression_attribute_names("#etag", "etag")
            .expression_attribute_values(":expected", text(expected.to_string()));
        written(PORT, call.send().await)
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        let page = self.listing().page("", after, limit).await?;
        Ok(Page { items: readable(page.items, |_, item| read(item)), next: page.next })
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        let listing = Listing { index: Some("ids"), consistent: false, attributes: &[], ..self.listing() };
        let page = listing.page(prefix, after, limit).await?;
        Ok(Page { items: readable(page.items, |id, _| read_id(id)), next: page.next })
    }
}

/// The readable entries of a page. One that is not is logged and left out, so that it does not hide all others.
pub(super) fn readable<T>(rows: Vec<(String, Item)>, read: impl Fn(&str, &Item) -> Result<T, PortError>) -> Vec<T> {
    let read = |(id, item): (String, Item)| {
        let entry = read(&id, &item).inspect_err(|error| tracing::error!(id, error = %error, "an entry is left out of a list"));
        entry.ok()
    };
    rows.into_iter().filter_map(read).collect()
}

fn read_id(id: &str) -> Result<IntersectionId, PortError> {
    IntersectionId::try_from(id).map_err(|error| PortError::Unusable(PORT, format!("the id '{id}' {error}")))
}

fn read(item: &Item) -> Result<StoredIntersection, PortError> {
    let document: String = attribute(PORT, item, "document")?;
    let document: serde_json::Value =
        serde_json::from_str(&document).map_err(|error| PortError::Unusable(PORT, format!("a document is not JSON: {error}")))?;
    let intersection = Intersection::try_from(document)
        .map_err(|faults| PortError::Unusable(PORT, format!("a stored document has {} faults: {:?}", faults.len(), faults.first())))?;
    Ok((intersection.etag(), Arc::new(intersection)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_document_is_a_failure_that_will_come_again() {
        for document in ["", "{", "{}", r#"{"id": "J1"}"#] {
            let item = Item::from([("document".to_owned(), text(document))]);
            assert!(!read(&item).unwrap_err().retry(), "{document}");
        }
        assert!(!read(&Item::new()).unwrap_err().retry());
    }

    #[test]
    fn one_unreadable_entry_does_not_hide_the_others() {
        let rows = ["J1", "not an id", "J2"].map(|id| (id.to_owned(), Item::new()));
        let ids = readable(rows.into(), |id, _| read_id(id));
        assert_eq!(ids.iter().map(IntersectionId::as_str).collect::<Vec<_>>(), ["J1", "J2"]);
    }
}
