//! Table `assets`: `bucket`, `id` (the asset's sort key), `document` (JSON), `etag`.

use super::buckets::{self, Listing};
use super::tables::Assets;
use super::{DynamoDb, Item, asset_of, attribute, over_tag, readable, text, written};
use crate::asset::Asset;
use crate::aws::port_error;
use crate::ids::AssetId;
use crate::intersection::ETag;
use crate::ports::{AssetStore, Clock, Page, PortError, WriteError};

const PORT: &str = "the asset store";

impl<T: AsRef<Assets> + Send + Sync, C: Clock> AssetStore for DynamoDb<T, C> {
    async fn asset(&self, id: &AssetId) -> Result<Option<Asset>, PortError> {
        let key = buckets::key(&id.sort_key());
        let call = self.client.get_item().table_name(&self.table::<Assets>().name).set_key(Some(key)).consistent_read(true);
        let answer = call.send().await.map_err(|error| port_error(PORT, &error))?;
        answer.item.map(|item| read(&item)).transpose()
    }

    async fn put_asset(&self, expected: Option<&ETag>, asset: &Asset) -> Result<(), WriteError> {
        let call = self.client.put_item().table_name(&self.table::<Assets>().name).set_item(Some(item(asset)?));
        written(PORT, over_tag(call, expected).send().await)
    }

    async fn assets(&self, after: Option<&AssetId>, limit: usize) -> Result<Page<Asset>, PortError> {
        let (client, table) = (&self.client, self.table::<Assets>().name.as_str());
        // Consistent: people list what they have just written.
        let listing = Listing { client, port: PORT, table, index: None, consistent: true, attributes: &["document"] };
        let page = listing.page("", after.map(AssetId::sort_key).as_deref(), limit).await?;
        Ok(Page { items: readable(page.items, |_, item| read(item)), next: page.next.as_deref().map(asset_of) })
    }
}

fn item(asset: &Asset) -> Result<Item, PortError> {
    let document = serde_json::to_string(asset).map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
    let mut item = buckets::key(&asset.id.sort_key());
    item.insert("document".into(), text(document));
    item.insert("etag".into(), text(asset.etag().to_string()));
    Ok(item)
}

fn read(item: &Item) -> Result<Asset, PortError> {
    let document: String = attribute(PORT, item, "document")?;
    serde_json::from_str(&document).map_err(|error| PortError::Unusable(PORT, format!("an asset is not readable: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AssetKind;

    #[test]
    fn an_asset_reads_back_as_it_was_written() {
        let asset = Asset::unregistered(AssetId::try_from("J1/n_0").unwrap(), AssetKind::try_from("detector").unwrap());
        let item = item(&asset).unwrap();
        assert_eq!(attribute::<String>(PORT, &item, "id").as_deref(), Ok("J1!n_0"));
        assert_eq!(read(&item), Ok(asset));
        assert!(!read(&Item::new()).unwrap_err().retry());
    }
}
