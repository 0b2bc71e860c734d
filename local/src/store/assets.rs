//! What people say of assets.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use shared::asset::Asset;
use shared::ids::AssetId;
use shared::intersection::ETag;
use shared::ports::{AssetStore, Page, PortError, WriteError};

use super::rows::conflict_unless;
use super::{Durability, Store, unavailable, unusable};

/// Sort key -> (tag, JSON).
const ASSETS: TableDefinition<&str, (&str, &[u8])> = TableDefinition::new("assets");

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(ASSETS)?;
    Ok(())
}

impl AssetStore for Store {
    async fn asset(&self, id: &AssetId) -> Result<Option<Asset>, PortError> {
        let table = self.read()?.open_table(ASSETS).map_err(unavailable)?;
        let row = table.get(id.sort_key().as_str()).map_err(unavailable)?;
        row.map(|row| read(row.value().1)).transpose()
    }

    async fn put_asset(&self, expected: Option<&ETag>, asset: &Asset) -> Result<(), WriteError> {
        let (key, expected, tag) = (asset.id.sort_key(), expected.map(ToString::to_string), asset.etag().to_string());
        let json = serde_json::to_vec(asset).map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(ASSETS)?;
            let holds = table.get(key.as_str())?.map(|row| row.value().0.to_owned()) == expected;
            if holds {
                table.insert(key.as_str(), (tag.as_str(), json.as_slice()))?;
            }
            Ok(holds)
        };
        self.write(Durability::Disk, work, conflict_unless).await?
    }

    async fn assets(&self, after: Option<&AssetId>, limit: usize) -> Result<Page<Asset>, PortError> {
        let after = after.map(AssetId::sort_key);
        let page = self.page(ASSETS, "", after.as_deref(), limit, |_, (_, json)| read(json))?;
        let next = page.next.and(page.items.last()).map(|asset| asset.id.to_string());
        Ok(Page { next, ..page })
    }
}

fn read(json: &[u8]) -> Result<Asset, PortError> {
    serde_json::from_slice(json).map_err(unusable)
}
