//! Stores that fail, and writers that overtake each other.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use shared::ids::IntersectionId;
use shared::intersection::{ETag, Intersection};
use shared::memory::Memory;
use shared::plan::{DecisionRecord, PublishedPlan};
use shared::ports::{DecisionLog, IntersectionStore, Page, PlanReader, PortError, StoredIntersection, WriteError};
use shared::units::Timestamp;

use crate::client::Client;

/// A memory whose every call fails, or in which rivals write between a read and the write that follows it.
#[derive(Clone, Default)]
struct Unlucky {
    memory: Memory,
    error: Option<PortError>,
    rivals: Arc<Mutex<Vec<Option<Intersection>>>>,
}

impl Unlucky {
    fn failing(error: PortError) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    fn luck(&self) -> Result<(), PortError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// The next rival puts (or deletes) the intersection.
    async fn overtake(&self, id: &IntersectionId) {
        let Some(rival) = self.rivals.lock().unwrap().pop() else { return };
        let stored = self.memory.get(id).await.unwrap().map(|(tag, _)| tag);
        match (rival, stored) {
            (Some(rival), stored) => self.memory.put(stored.as_ref(), &rival).await.unwrap(),
            (None, Some(stored)) => self.memory.delete(id, &stored).await.unwrap(),
            (None, None) => {}
        }
    }
}

impl IntersectionStore for Unlucky {
    async fn get(&self, id: &IntersectionId) -> Result<Option<StoredIntersection>, PortError> {
        self.luck()?;
        let stored = self.memory.get(id).await;
        self.overtake(id).await;
        stored
    }
    async fn put(&self, expected: Option<&ETag>, intersection: &Intersection) -> Result<(), WriteError> {
        self.luck()?;
        self.memory.put(expected, intersection).await
    }
    async fn delete(&self, id: &IntersectionId, expected: &ETag) -> Result<(), WriteError> {
        self.luck()?;
        self.memory.delete(id, expected).await
    }
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page<StoredIntersection>, PortError> {
        self.luck()?;
        self.memory.list(after, limit).await
    }
    async fn ids(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<IntersectionId>, PortError> {
        self.luck()?;
        self.memory.ids(prefix, after, limit).await
    }
}

impl PlanReader for Unlucky {
    async fn plan(&self, id: &IntersectionId) -> Result<Option<PublishedPlan>, PortError> {
        self.luck()?;
        self.memory.plan(id).await
    }
    async fn plans(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<PublishedPlan>, PortError> {
        self.luck()?;
        self.memory.plans(prefix, after, limit).await
    }
}

impl DecisionLog for Unlucky {
    async fn record(&self, records: &[DecisionRecord]) -> Result<(), PortError> {
        self.luck()?;
        self.memory.record(records).await
    }
    async fn decisions(
        &self,
        id: &IntersectionId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Timestamp>,
        limit: usize,
    ) -> Result<Page<DecisionRecord>, PortError> {
        self.luck()?;
        self.memory.decisions(id, from, to, after, limit).await
    }
}

#[tokio::test]
async fn a_store_that_fails_is_a_503_if_the_request_may_be_repeated_and_a_500_if_not() {
    for (error, expected, retry_after) in [
        (PortError::Unavailable("store", "throttled secret".into()), (503, "store_unavailable".to_owned()), "1"),
        (PortError::Unusable("store", "no table secret".into()), (500, "internal_error".to_owned()), ""),
    ] {
        let api = Client::new(Unlucky::failing(error)).await;
        for (method, path) in [
            ("GET", "/v1/intersections"),
            ("GET", "/v1/intersections/J1"),
            ("PUT", "/v1/intersections/J1"),
            ("DELETE", "/v1/intersections/J1"),
            ("GET", "/v1/intersections/J1/plan"),
            ("GET", "/v1/intersections/J1/decisions"),
            ("GET", "/v1/plans"),
        ] {
            let answer = api.send(method, path, &[], api.junction().to_string()).await;
            assert_eq!((answer.problem(), answer.header("retry-after")), (expected.clone(), retry_after), "{method} {path}");
            assert!(!answer.text.contains("secret"), "what the store said stays in the log: {}", answer.text);
        }
        assert_eq!(api.get("/v1/health").await.status, 200);
    }
}

fn named(junction: &Value, name: &str) -> Value {
    let mut junction = junction.clone();
    junction["name"] = json!(name);
    junction
}

/// A client and a store in which the content of J1 is taken over by these names, one after each read; none deletes it.
async fn overtaken(stored: Option<&str>, rivals: &[Option<&str>]) -> (Client, Value) {
    let store = Unlucky::default();
    let api = Client::new(store.clone()).await;
    let junction = api.junction();
    if let Some(name) = stored {
        assert_eq!(api.put(&named(&junction, name)).await.status, 201);
    }
    let rivals = rivals.iter().rev().map(|name| name.map(|name| Intersection::try_from(named(&junction, name)).unwrap()));
    *store.rivals.lock().unwrap() = rivals.collect();
    (api, junction)
}

#[tokio::test]
async fn an_overtaken_create_is_decided_again() {
    let (api, junction) = overtaken(None, &[Some("rival")]).await;
    assert_eq!(api.put(&named(&junction, "own")).await.problem(), (428, "precondition_required".into()));

    let (api, junction) = overtaken(None, &[Some("own")]).await;
    assert_eq!(api.put(&named(&junction, "own")).await.status, 200, "the rival put the same");

    let (api, junction) = overtaken(None, &[Some("rival")]).await;
    let answer = api.put_if(&named(&junction, "own"), &[("if-none-match", "*")]).await;
    assert_eq!(answer.problem(), (412, "precondition_failed".into()));
}

#[tokio::test]
async fn an_overtaken_update_is_a_failed_precondition_and_changes_nothing() {
    let (api, junction) = overtaken(Some("first"), &[Some("rival")]).await;
    let first = Intersection::try_from(named(&junction, "first")).unwrap().etag();
    let answer = api.put_if(&named(&junction, "own"), &[("if-match", &format!("\"{first}\""))]).await;
    assert_eq!(answer.problem(), (412, "precondition_failed".into()));
    assert_eq!(api.get("/v1/intersections/J1").await.json(), named(&junction, "rival"));
}

#[tokio::test]
async fn a_write_that_is_overtaken_each_time_gives_up() {
    for method in ["PUT", "DELETE"] {
        let (api, junction) = overtaken(Some("first"), &[Some("a"), Some("b"), Some("c")]).await;
        let own = named(&junction, "own").to_string();
        let answer = api.send(method, "/v1/intersections/J1", &[("if-match", "*")], own).await;
        assert_eq!(answer.problem(), (412, "precondition_failed".into()), "{method}");
        assert_eq!(api.get("/v1/intersections/J1").await.json(), named(&junction, "c"), "{method}");
    }
}

#[tokio::test]
async fn a_delete_that_a_delete_overtook_finds_nothing() {
    let (api, _) = overtaken(Some("first"), &[None]).await;
    assert_eq!(api.send("DELETE", "/v1/intersections/J1", &[], "").await.problem(), (404, "not_found".into()));
}
