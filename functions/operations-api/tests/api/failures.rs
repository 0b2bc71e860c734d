//! Stores that fail, and writers that overtake each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use shared::alert::{Acknowledgement, Alert};
use shared::asset::Asset;
use shared::ids::{AlertId, AssetId, IntersectionId};
use shared::intersection::{ETag, Intersection};
use shared::memory::Memory;
use shared::plan::{DecisionRecord, PublishedPlan};
use shared::ports::{
    AcknowledgementStore, AlertReader, AssetStore, Condition, ConditionReader, DecisionLog, IntersectionStore, Page, PlanReader, PortError,
    StoredIntersection, WriteError,
};
use shared::units::Timestamp;

use crate::client::Client;

/// A memory whose every call fails, or in which rivals write between a read and the write that follows it.
#[derive(Clone, Default)]
struct Unlucky {
    memory: Memory,
    error: Option<PortError>,
    rivals: Arc<Mutex<Vec<Option<Intersection>>>>,
    rival_assets: Arc<Mutex<Vec<Asset>>>,
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
        let stored = self.memory.tag(id).await.unwrap();
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
        self.memory.get(id).await
    }
    async fn tag(&self, id: &IntersectionId) -> Result<Option<ETag>, PortError> {
        self.luck()?;
        let stored = self.memory.tag(id).await;
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

impl AssetStore for Unlucky {
    async fn asset(&self, id: &AssetId) -> Result<Option<Asset>, PortError> {
        self.luck()?;
        let stored = self.memory.asset(id).await;
        let rival = self.rival_assets.lock().unwrap().pop();
        if let Some(rival) = rival {
            let tag = self.memory.asset(id).await.unwrap().map(|asset| asset.etag());
            self.memory.put_asset(tag.as_ref(), &rival).await.unwrap();
        }
        stored
    }
    async fn put_asset(&self, expected: Option<&ETag>, asset: &Asset) -> Result<(), WriteError> {
        self.luck()?;
        self.memory.put_asset(expected, asset).await
    }
    async fn assets(&self, after: Option<&AssetId>, limit: usize) -> Result<Page<Asset>, PortError> {
        self.luck()?;
        self.memory.assets(after, limit).await
    }
}

impl ConditionReader for Unlucky {
    async fn condition(&self, key: &str) -> Result<Option<Condition>, PortError> {
        self.luck()?;
        self.memory.condition(key).await
    }
    async fn conditions(&self, after: Option<&str>, limit: usize) -> Result<Page<Condition>, PortError> {
        self.luck()?;
        self.memory.conditions(after, limit).await
    }
}

impl AlertReader for Unlucky {
    async fn alert(&self, id: &AlertId) -> Result<Option<Alert>, PortError> {
        self.luck()?;
        self.memory.alert(id).await
    }
    async fn alerts(&self, after: Option<&str>, limit: usize) -> Result<Page<Alert>, PortError> {
        self.luck()?;
        self.memory.alerts(after, limit).await
    }
}

impl AcknowledgementStore for Unlucky {
    async fn acknowledge(&self, id: &AlertId, acknowledgement: &Acknowledgement) -> Result<Acknowledgement, PortError> {
        self.luck()?;
        self.memory.acknowledge(id, acknowledgement).await
    }
    async fn acknowledgements(&self, ids: &[AlertId]) -> Result<HashMap<AlertId, Acknowledgement>, PortError> {
        self.luck()?;
        self.memory.acknowledgements(ids).await
    }
}

#[tokio::test]
async fn a_store_that_fails_is_a_503_if_the_request_may_be_repeated_and_a_500_if_not() {
    for (error, expected, retry_after) in [
        (PortError::Unavailable("store", "throttled secret".into()), (503, "store_unavailable".to_owned()), "1"),
        (PortError::Unusable("store", "no table secret".into()), (500, "internal_error".to_owned()), ""),
    ] {
        let api = Client::new(Unlucky::failing(error), Memory::new()).await;
        let body = |path: &str| match path {
            "/v1/assets/truck-17" => api.example("Asset").to_string(),
            "/v1/alerts/A1/acknowledgement" => json!({"by": "Ada"}).to_string(),
            _ => api.junction().to_string(),
        };
        for (method, path) in [
            ("GET", "/v1/intersections"),
            ("GET", "/v1/intersections/J1"),
            ("PUT", "/v1/intersections/J1"),
            ("DELETE", "/v1/intersections/J1"),
            ("GET", "/v1/intersections/J1/plan"),
            ("GET", "/v1/intersections/J1/decisions"),
            ("GET", "/v1/plans"),
            ("GET", "/v1/assets"),
            ("GET", "/v1/assets/truck-17"),
            ("PUT", "/v1/assets/truck-17"),
            ("GET", "/v1/assets/J1/n_0/health"),
            ("GET", "/v1/alerts"),
            ("GET", "/v1/alerts/A1"),
            ("POST", "/v1/alerts/A1/acknowledgement"),
        ] {
            let answer = api.send(method, path, &[], body(path)).await;
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
    let api = Client::new(store.clone(), Memory::new()).await;
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

#[tokio::test]
async fn a_configuration_that_this_version_refuses_says_so_and_is_replaced_or_removed_like_any_other() {
    const PATH: &str = "/v1/intersections/J1";
    let memory = Memory::new();
    let api = Client::new(memory.clone(), Memory::new()).await;
    let own = api.junction();
    let mut old = own.clone();
    old["timing"]["green_min_s"] = json!(-1);
    memory.keep_outdated(&"J1".try_into().unwrap(), &old.to_string());

    let answer = api.get(PATH).await;
    assert_eq!(answer.problem(), (500, "outdated_configuration".into()));
    assert_eq!(answer.json()["errors"][0]["pointer"], "/timing/green_min_s");
    assert_eq!(api.get("/v1/intersections").await.json()["items"], json!([]), "a list leaves it out");
    assert_eq!(api.get("/v1/assets/J1/n_0").await.problem(), (404, "not_found".into()));
    assert_eq!(api.put(&own).await.problem(), (428, "precondition_required".into()), "nobody overwrites what they have not seen");
    assert_eq!(api.put_if(&own, &[("if-match", "*")]).await.status, 200);
    assert_eq!(api.get(PATH).await.json(), own);

    memory.keep_outdated(&"J1".try_into().unwrap(), &old.to_string());
    assert_eq!(api.send("DELETE", PATH, &[], "").await.status, 204);
    assert_eq!(api.send("DELETE", PATH, &[], "").await.problem(), (404, "not_found".into()));
}

/// A client and a store in which truck-17 is taken over by these names, one after each read.
async fn overtaken_asset(rivals: &[&str]) -> (Client, Value) {
    let store = Unlucky::default();
    let api = Client::new(store.clone(), Memory::new()).await;
    let asset = api.example("Asset").clone();
    *store.rival_assets.lock().unwrap() =
        rivals.iter().rev().map(|name| Asset::from_json(&named(&asset, name).to_string()).unwrap()).collect();
    (api, asset)
}

#[tokio::test]
async fn an_overtaken_registration_is_decided_again() {
    const PATH: &str = "/v1/assets/truck-17";
    let only = [("if-none-match", "*")];

    let (api, asset) = overtaken_asset(&["rival"]).await;
    let own = named(&asset, "own");
    assert_eq!(api.send("PUT", PATH, &[], own.to_string()).await.status, 200, "the rival created it");
    assert_eq!(api.get(PATH).await.json(), own);

    let (api, asset) = overtaken_asset(&["rival"]).await;
    let answer = api.send("PUT", PATH, &only, named(&asset, "own").to_string()).await;
    assert_eq!(answer.problem(), (412, "precondition_failed".into()));

    let (api, asset) = overtaken_asset(&["a", "b", "c"]).await;
    let answer = api.send("PUT", PATH, &[], named(&asset, "own").to_string()).await;
    assert_eq!(answer.problem(), (503, "store_unavailable".into()), "it gives up, and may be repeated");
    assert_eq!(api.get(PATH).await.json(), named(&asset, "c"));
}
