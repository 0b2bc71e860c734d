//! `openapi.yaml` against the routes.

use serde_json::json;
use shared::memory::Memory;

use crate::client::over;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

#[tokio::test]
async fn every_documented_operation_is_served_and_no_other_on_its_path() {
    let api = over(&Memory::new()).await;
    for (template, item) in api.description()["paths"].as_object().unwrap() {
        let path = template.replace("{id}", "J1").replace("{detector_id}", "n_0");
        let served_here = path != "/v1/readings";
        for method in METHODS {
            let answer = api.exchange(&method.to_uppercase(), &path, &[], "").await;
            if !served_here {
                assert_eq!(answer.problem(), (404, "not_found".into()), "{method} {path} belongs to sensor-ingestion");
            } else if item.get(method).is_some() {
                assert_ne!(answer.status, 405, "{method} {path}");
                assert!(!answer.text.contains("There is nothing at"), "{method} {path}: {}", answer.text);
            } else {
                assert_eq!(answer.problem(), (405, "method_not_allowed".into()), "{method} {path}");
                let allowed = answer.header("allow").to_lowercase();
                assert!(allowed.split(',').all(|allowed| allowed == "head" || item.get(allowed).is_some()), "{path}: {allowed}");
            }
        }
    }
}

#[tokio::test]
async fn the_description_is_served_as_json_and_refers_to_nothing_that_is_missing() {
    let api = over(&Memory::new()).await;
    let answer = api.get("/openapi.json").await;
    assert_eq!(answer.json()["openapi"], "3.1.0");
    let references = answer.text.split(r##""$ref":"#"##).skip(1).map(|rest| rest.split('"').next().unwrap());
    for reference in references {
        assert!(answer.json().pointer(reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn health_tells_that_the_service_answers_and_its_version() {
    let api = over(&Memory::new()).await;
    let answer = api.get("/v1/health").await;
    assert_eq!(answer.json(), json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
}

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let api = over(&Memory::new()).await;
    api.put(&api.junction()).await;
    for path in ["/v1/intersections/J1", "/v1/intersections", "/v1/plans", "/v1/assets/J1/n_0", "/v1/alerts", "/v1/health", "/openapi.json"]
    {
        let (get, head) = (api.get(path).await, api.exchange("HEAD", path, &[], "").await);
        assert_eq!((head.status, head.text.as_str(), head.header("etag")), (get.status, "", get.header("etag")), "{path}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_a_problem() {
    let api = over(&Memory::new()).await;
    for path in
        ["/v1", "/v1/intersections/", "/v1/intersections/J1/", "/v1/intersections/J1/plan/x", "/v1/assets/J1/n_0/x", "/v2/plans", "//"]
    {
        assert_eq!(api.exchange("GET", path, &[], "").await.problem(), (404, "not_found".into()), "{path}");
    }
}
