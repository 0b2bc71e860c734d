//! Table `intersections`: `bucket`, `id`, `document` (JSON as it was put), `etag`. Its index `ids` holds the keys alone, so that
//! going over the ids of a city does not read its documents.

use std::sync::Arc;

use aws_sdk_dynamodb::operation::get_item::builders::GetItemFluentBuilder;

use super::buckets::{self, Listing};
use super::tables::Intersections;
use super::{DynamoDb, Item, attribute, over_tag, readable, sdk, text, written};
use crate::aws::port_error;
use crate::ids::IntersectionId;
use crate::intersection::{ETag, Intersection};
use crate::ports::{Clock, IntersectionStore, Page, PortError, StoredIntersection, WriteError};

const PORT: &str = "the configuration store";

impl<T: AsRef<Intersections>, C: Clock> DynamoDb<T, C> {
    fn listing(&self) -> Listing<'_> {
        // Consistent: people list what they have just written.
        let (client, table) = (&self.client, self.table::<Intersections>().name.as_str());
        Listing { client, port: PORT, table, index: None, consistent: true, attributes: &["document", "etag"] }
    }

    fn one(&self, id: &IntersectionId) -> GetItemFluentBuilder {
        let key = buckets::key(id.as_str());
        self.client.get_item().table_name(&self.table::<Intersections>().name).set_key(Some(key)).consistent_read(true)
    }
}

impl<T: AsRef<Intersections> + Send + Sync, C: Clock> IntersectionStore for DynamoDb<T, C> {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        let answer = self.one(id).send().await.map_err(|error| port_error(PORT, &error))?;
        answer.item.map(|item| read(id.as_str(), &item)).transpose()
    }

    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        let call = self.one(id).projection_expression("#etag").expression_attribute_names("#etag", "etag");
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        answer.item.map(|item| read_tag(&item)).transpose()
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        let item = sdk(crate::item::intersection(intersection));
        let call = self.client.put_item().table_name(&self.table::<Intersections>().name).set_item(Some(item));
        written(PORT, over_tag(call, expected).send().await)
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        let call = self
            .client
            .delete_item()
            .table_name(&self.table::<Intersections>().name)
            .set_key(Some(buckets::key(id.as_str())))
            .condition_expression("#etag = :expected")
            .expression_attribute_names("#etag", "etag")
            .expression_attribute_values(":expected", text(expected.to_string()));
        written(PORT, call.send().await)
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        let page = self.listing().page("", after, limit).await?;
        Ok(Page { items: readable(page.items, read), next: page.next })
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        let listing = Listing { index: Some("ids"), consistent: false, attributes: &[], ..self.listing() };
        let page = listing.page(prefix, after, limit).await?;
        Ok(Page { items: readable(page.items, |id, _| read_id(id)), next: page.next })
    }
}

fn read_id(id: &str) -> Result<IntersectionId, PortError> {
    IntersectionId::try_from(id).map_err(|error| PortError::Unusable(PORT, format!("the id '{id}' {error}")))
}

fn read_tag(item: &Item) -> Result<ETag, PortError> {
    let tag: String = attribute(PORT, item, "etag")?;
    tag.parse().map_err(|error| PortError::Unusable(PORT, format!("the tag '{tag}' {error}")))
}

fn read(id: &str, item: &Item) -> Result<StoredIntersection, PortError> {
    let document: String = attribute(PORT, item, "document")?;
    let intersection = Intersection::stored(read_id(id)?, &document)?;
    Ok((read_tag(item)?, Arc::new(intersection)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_refused_is_told_from_other_failures() {
        for document in ["", "{", "{}", r#"{"id": "J1"}"#] {
            let item = Item::from([("document".to_owned(), text(document))]);
            assert!(matches!(read("J1", &item), Err(PortError::Outdated(..))), "{document}");
        }
        assert!(matches!(read("J1", &Item::new()), Err(PortError::Unusable(..))));
    }
}
