//! Lists over the eight buckets of a table.

use std::collections::VecDeque;

use aws_sdk_dynamodb::Client;
use futures_util::future::try_join_all;

use super::{Item, attribute, sdk, text};
use crate::aws::port_error;
use crate::item::BUCKETS;
use crate::ports::{Page, PortError};

/// The key attributes of the item with this id.
pub(super) fn key(id: &str) -> Item {
    sdk(crate::item::Item(crate::item::key(id).into()))
}

/// What to list.
pub(super) struct Listing<'a> {
    pub(super) client: &'a Client,
    pub(super) port: &'static str,
    pub(super) table: &'a str,
    pub(super) index: Option<&'static str>,
    pub(super) consistent: bool,
    /// Attributes to bring, besides the id.
    pub(super) attributes: &'a [&'static str],
}

impl Listing<'_> {
    /// Items whose id begins with `prefix`, after the id `after`, in order of id.
    pub(super) async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<(String, Item)>, PortError> {
        let span = span(prefix, after);
        let mut merge = Merge::new(limit);
        // An even share and what the hash makes uneven; a bucket that holds more is read again.
        let share = limit / usize::from(BUCKETS) + limit / 32 + 4;
        loop {
            let dry = merge.advance();
            if dry.is_empty() {
                return Ok(merge.finish());
            }
            let reads = dry.iter().map(|bucket| {
                let low = merge.last_of(*bucket).map_or_else(|| span.0.clone(), just_after);
                self.read(*bucket, (low, span.1.clone()), share)
            });
            let reads: Vec<_> = try_join_all(reads).await?;
            for (bucket, (rows, more)) in dry.into_iter().zip(reads) {
                merge.extend(bucket, rows, more);
            }
        }
    }

    /// Items of one bucket in a span of ids, and whether more may follow.
    async fn read(&self, bucket: usize, (low, high): (String, String), limit: usize) -> Result<(Vec<(String, Item)>, bool), PortError> {
        if low > high {
            return Ok((Vec::new(), false));
        }
        let mut query = self.client.query().table_name(self.table).set_index_name(self.index.map(str::to_owned));
        query = query.consistent_read(self.consistent).limit(i32::try_from(limit).unwrap_or(i32::MAX));
        query = query
            .key_condition_expression("#bucket = :bucket AND #id BETWEEN :low AND :high")
            .expression_attribute_names("#bucket", "bucket")
            .expression_attribute_names("#id", "id")
            .expression_attribute_values(":bucket", text(bucket.to_string()))
            .expression_attribute_values(":low", text(low))
            .expression_attribute_values(":high", text(high));
        let mut projection = vec!["#id".to_owned()];
        for name in self.attributes {
            projection.push(format!("#{name}"));
            query = query.expression_attribute_names(format!("#{name}"), *name);
        }
        let answer = query.projection_expression(projection.join(", ")).send().await.map_err(|error| port_error(self.port, &error))?;
        let more = answer.last_evaluated_key.is_some();
        let rows = answer.items.unwrap_or_default().into_iter();
        let rows: Result<Vec<_>, _> = rows.map(|item| attribute(self.port, &item, "id").map(|id: String| (id, item))).collect();
        Ok((rows?, more))
    }
}

/// First and last possible id of a list.
///
/// Ids consist of characters from '#' to 'z' and compare by bytes: '!' lies before and '{' after any of them. The sort key of a
/// detector has a '!' with its own id after it, so '!' at the end still lies before it.
fn span(prefix: &str, after: Option<&str>) -> (String, String) {
    let low = if prefix.is_empty() { "!" } else { prefix };
    let low = after.map(|after| just_after(&after)).filter(|after| after.as_str() > low).unwrap_or_else(|| low.to_owned());
    (low, format!("{prefix}{{"))
}

/// A text between an id and the next one.
fn just_after(id: &impl ToString) -> String {
    format!("{}!", id.to_string())
}

/// Merges the buckets, each in order of id, into one page.
struct Merge<T> {
    buckets: Vec<Bucket<T>>,
    rows: Vec<(String, T)>,
    limit: usize,
}

/// What was read of one bucket and not taken yet.
struct Bucket<T> {
    rows: VecDeque<(String, T)>,
    last: Option<String>,
    more: bool,
}

impl<T> Merge<T> {
    fn new(limit: usize) -> Self {
        let bucket = |_| Bucket { rows: VecDeque::new(), last: None, more: true };
        Self { buckets: (0..BUCKETS).map(bucket).collect(), rows: Vec::new(), limit }
    }

    /// Takes rows until the page is full or nothing is left. Returns the buckets that must be read on before the next row is
    /// known; none when the page is done.
    fn advance(&mut self) -> Vec<usize> {
        // One row beyond the page tells whether more follow.
        while self.rows.len() <= self.limit {
            let dry = |(i, bucket): (usize, &Bucket<T>)| (bucket.rows.is_empty() && bucket.more).then_some(i);
            let dry: Vec<_> = self.buckets.iter().enumerate().filter_map(dry).collect();
            if !dry.is_empty() {
                return dry;
            }
            let heads = self.buckets.iter_mut().filter(|bucket| !bucket.rows.is_empty());
            let lowest = heads.min_by(|a, b| a.rows.front().map(|row| &row.0).cmp(&b.rows.front().map(|row| &row.0)));
            match lowest.and_then(|bucket| bucket.rows.pop_front()) {
                Some(row) => self.rows.push(row),
                None => break,
            }
        }
        Vec::new()
    }

    fn last_of(&self, bucket: usize) -> Option<&String> {
        self.buckets.get(bucket).and_then(|bucket| bucket.last.as_ref())
    }

    fn extend(&mut self, bucket: usize, rows: Vec<(String, T)>, more: bool) {
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            // Without a row there is nothing to go on from.
            bucket.more = more && !rows.is_empty();
            bucket.last = rows.last().map(|row| row.0.clone()).or_else(|| bucket.last.take());
            bucket.rows.extend(rows);
        }
    }

    fn finish(mut self) -> Page<(String, T)> {
        let more = self.rows.len() > self.limit;
        self.rows.truncate(self.limit);
        let next = if more { self.rows.last().map(|row| row.0.clone()) } else { None };
        Page { items: self.rows, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IntersectionId;
    use crate::item::bucket_of;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Lists ids as `Listing` does, with reads of `share` rows from buckets in memory.
    fn list(ids: &BTreeSet<String>, prefix: &str, after: Option<&str>, limit: usize, share: usize) -> Page<String> {
        let (first, high) = span(prefix, after);
        let mut merge = Merge::new(limit);
        loop {
            let dry = merge.advance();
            if dry.is_empty() {
                let page = merge.finish();
                return Page { items: page.items.into_iter().map(|row| row.0).collect(), next: page.next };
            }
            for bucket in dry {
                let low = merge.last_of(bucket).map_or_else(|| first.clone(), just_after);
                let inside = |id: &&String| usize::from(bucket_of(id)) == bucket && **id >= low && **id <= high;
                let rows: Vec<_> = ids.iter().filter(inside).map(|id| (id.clone(), ())).take(share).collect();
                // As DynamoDB does: a full read says that more may follow even if nothing does.
                let more = rows.len() == share;
                merge.extend(bucket, rows, more);
            }
        }
    }

    proptest! {
        #[test]
        fn the_merged_buckets_are_one_list_in_order_of_id(
            ids in prop::collection::btree_set("[A-Za-z0-9][A-Za-z0-9._:#-]{0,3}(![A-Za-z0-9]{1,2})?", 0..80),
            prefix in "[A-Za-z0-9]{0,1}",
            limit in 1_usize..20,
            share in 1_usize..6,
        ) {
            let mut listed = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let page = list(&ids, &prefix, after.as_deref(), limit, share);
                prop_assert!(page.items.len() <= limit);
                listed.extend(page.items);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            let expected: Vec<_> = ids.into_iter().filter(|id| id.starts_with(prefix.as_str())).collect();
            prop_assert_eq!(listed, expected);
        }
    }

    #[test]
    fn the_last_page_says_so_even_if_it_is_full() {
        let ids: BTreeSet<_> = (0..10).map(|n| format!("J{n}")).collect();
        assert_eq!(list(&ids, "", None, 10, 3).next, None);
        assert_eq!(list(&ids, "", None, 9, 3).next.as_deref(), Some("J8"));
        assert_eq!(list(&ids, "J", Some("J9"), 9, 3), Page { items: vec![], next: None });
    }

    #[test]
    fn a_cursor_outside_the_prefix_lists_what_follows_it() {
        let ids: BTreeSet<_> = ["A1", "B1", "B2", "C1"].map(str::to_owned).into();
        assert_eq!(list(&ids, "B", Some("A1"), 9, 3).items, ["B1", "B2"]);
        assert_eq!(list(&ids, "B", Some("C1"), 9, 3).items, Vec::<String>::new());
    }

    #[test]
    fn every_character_of_an_id_lies_inside_the_span() {
        let id = "Az09._:#-";
        assert!(IntersectionId::try_from(id).is_ok());
        assert!(id.chars().all(|c| c > '!' && c < '{'));
    }
}
