//! Configuration of intersections and rows of junctions.

use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use shared::ids::IntersectionId;
use shared::intersection::{ETag, Intersection};
use shared::plan::PublishedPlan;
use shared::ports::{IntersectionStore, JunctionRow, JunctionStore, Page, PlanReader, PortError, StoredIntersection, WriteError};

use super::{Durability, Store, unavailable, unusable};

/// Decoded intersections kept; past that all are decoded anew.
const DECODED_MAX: usize = 4096;

/// Id -> (tag, JSON document).
pub(super) const INTERSECTIONS: TableDefinition<&str, (&str, &[u8])> = TableDefinition::new("intersections");
/// Id -> (version, plan, state).
const JUNCTIONS: TableDefinition<&str, (u64, &[u8], &[u8])> = TableDefinition::new("junctions");

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(INTERSECTIONS)?;
    transaction.open_table(JUNCTIONS)?;
    Ok(())
}

impl IntersectionStore for Store {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        let table = self.read()?.open_table(INTERSECTIONS).map_err(unavailable)?;
        let Some(row) = table.get(id.as_str()).map_err(unavailable)? else { return Ok(None) };
        let (tag, document) = row.value();
        self.decode(id.as_str(), tag, document).map(Some)
    }

    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        let table = self.read()?.open_table(INTERSECTIONS).map_err(unavailable)?;
        let row = table.get(id.as_str()).map_err(unavailable)?;
        row.map(|row| row.value().0.parse().map_err(unusable)).transpose()
    }

    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        let (id, expected, tag) = (intersection.id().clone(), expected.map(ToString::to_string), intersection.etag().to_string());
        let document = serde_json::to_vec(intersection.document()).map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(INTERSECTIONS)?;
            let holds = table.get(id.as_str())?.map(|row| row.value().0.to_owned()) == expected;
            if holds {
                table.insert(id.as_str(), (tag.as_str(), document.as_slice()))?;
            }
            Ok(holds)
        };
        self.write(Durability::Disk, work, conflict_unless).await?
    }

    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        let (id, expected) = (id.clone(), expected.to_string());
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(INTERSECTIONS)?;
            let holds = table.get(id.as_str())?.is_some_and(|row| row.value().0 == expected);
            if holds {
                table.remove(id.as_str())?;
            }
            Ok(holds)
        };
        self.write(Durability::Disk, work, conflict_unless).await?
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        // One that this version refuses does not hide all others.
        let page = self.page(INTERSECTIONS, "", after, limit, |id, (tag, document)| {
            let decoded = self.decode(id, tag, document);
            Ok(decoded.inspect_err(|error| tracing::error!(id, %error, "an entry is left out of a list")).ok())
        })?;
        Ok(Page { items: page.items.into_iter().flatten().collect(), next: page.next })
    }

    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        self.page(INTERSECTIONS, prefix, after, limit, |id, _| IntersectionId::try_from(id).map_err(unusable))
    }
}

impl JunctionStore for Store {
    async fn load(&self, id: &IntersectionId) -> Result<Option<JunctionRow>, PortError> {
        let table = self.read()?.open_table(JUNCTIONS).map_err(unavailable)?;
        let Some(row) = table.get(id.as_str()).map_err(unavailable)? else { return Ok(None) };
        let (version, plan, state) = row.value();
        let plan = PublishedPlan::from_bytes(id.clone(), plan).map_err(unusable)?;
        Ok(Some(JunctionRow { version, plan, state: state.to_owned() }))
    }

    async fn save(&self, row: &JunctionRow) -> Result<(), WriteError> {
        let (id, version, state) = (row.plan.intersection_id.clone(), row.version, row.state.clone());
        let plan = row.plan.to_bytes().map_err(unusable)?;
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(JUNCTIONS)?;
            let stored = table.get(id.as_str())?.map_or(0, |row| row.value().0);
            let holds = stored.checked_add(1) == Some(version);
            if holds {
                table.insert(id.as_str(), (version, plan.as_slice(), state.as_slice()))?;
            }
            Ok(holds)
        };
        self.write(Durability::Ride, work, conflict_unless).await?
    }
}

impl PlanReader for Store {
    async fn plan(&self, id: &IntersectionId) -> Result<Option<PublishedPlan>, PortError> {
        let table = self.read()?.open_table(JUNCTIONS).map_err(unavailable)?;
        let row = table.get(id.as_str()).map_err(unavailable)?;
        row.map(|row| PublishedPlan::from_bytes(id.clone(), row.value().1).map_err(unusable)).transpose()
    }

    async fn plans(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<PublishedPlan>, PortError> {
        self.page(JUNCTIONS, prefix, after, limit, |id, (_, plan, _)| {
            let id = IntersectionId::try_from(id).map_err(unusable)?;
            PublishedPlan::from_bytes(id, plan).map_err(unusable)
        })
    }
}

impl Store {
    /// The intersection of a row; decoded only if its tag is not the one decoded last.
    fn decode(&self, id: &str, tag: &str, document: &[u8]) -> Result<StoredIntersection, PortError> {
        let tag: ETag = tag.parse().map_err(unusable)?;
        let lock = || self.0.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(id).filter(|(known, _)| *known == tag) {
            return Ok(known.clone());
        }
        let document = std::str::from_utf8(document).map_err(unusable)?;
        let intersection = Intersection::stored(IntersectionId::try_from(id).map_err(unusable)?, document)?;
        let decoded = (tag, Arc::new(intersection));
        let mut all = lock();
        if all.len() >= DECODED_MAX {
            all.clear();
        }
        all.insert(id.to_owned(), decoded.clone());
        Ok(decoded)
    }

    /// Rows whose key begins with a prefix, after a key, as one page.
    pub(super) fn page<V: redb::Value + 'static, T>(
        &self,
        table: TableDefinition<&'static str, V>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        show: impl Fn(&str, V::SelfType<'_>) -> Result<T, PortError>,
    ) -> Result<Page<T>, PortError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let table = self.read()?.open_table(table).map_err(unavailable)?;
        let (mut items, mut last) = (Vec::new(), None);
        for row in table.range::<&str>((start, Bound::Unbounded)).map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if items.len() == limit {
                return Ok(Page { items, next: last });
            }
            items.push(show(key.value(), value.value())?);
            last = Some(key.value().to_owned());
        }
        Ok(Page { items, next: None })
    }
}

pub(super) fn conflict_unless(holds: bool) -> Result<(), WriteError> {
    if holds { Ok(()) } else { Err(WriteError::Conflict) }
}
