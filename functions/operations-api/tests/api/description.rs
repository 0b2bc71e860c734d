//! `openapi.yaml` against the routes.

use serde_json::json;
use shared::memory::Memory;

use crate::client::over;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

#[tokio::test]
async fn every_documented_operation_is_served_and_no_other_on_its_path() {
    let api = over(&Memory::new()).await;
    for (template, item) in api.description()["paths"].as_object().unwrap() {
        let path = template.replace("{id}", "J1").replace("{detector_id}", "n_0").replace("{key}", "J1");
        let served_here = !path.starts_with("/v1/readings");
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
async fn an_id_that_tries_to_leave_its_key_is_refused_wherever_one_is_taken_and_nothing_changes() {
    let api = over(&Memory::new()).await;
    api.put(&api.junction()).await;
    let stored = async || (api.get("/v1/intersections").await.text, api.get("/v1/assets").await.text, api.get("/v1/alerts").await.text);
    let before = stored().await;
    let long = "x".repeat(129);
    #[rustfmt::skip]
    let hostile = [
        ".", "..", "%2E%2E", "%2e%2e%2f", "..%2F..%2FJ1", "%2FJ1", "J1%2F", "J1%2F..", "J1%2Fn_0%2Fx", "J1%252Fn_0", "J1!n_0", "J1%5Cn_0",
        "J%201", "%23", "%23J1", "%00", "J1%00", "J1%0A", "J1%3F", "%", "%zz", "%FF", "%C3%84", "J%EF%BC%91", "%F0%9F%9A%A6", "J1%E2%80%AE",
        "__proto__", "%3Cscript%3E", "*", &long,
    ];
    for (template, item) in api.description()["paths"].as_object().unwrap() {
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            for (name, id) in ["{id}", "{detector_id}"].into_iter().flat_map(|name| hostile.map(|id| (name, id))) {
                if template.contains(name) {
                    let path = template.replace(name, id).replace("{id}", "J1").replace("{detector_id}", "n_0");
                    let answer = api.send(&method.to_uppercase(), &path, &[], api.junction().to_string()).await;
                    assert_eq!(answer.problem(), (400, "invalid_parameter".into()), "{method} {path}");
                }
            }
        }
    }
    assert_eq!(stored().await, before);
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
