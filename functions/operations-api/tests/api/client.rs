//! A client that believes `openapi.yaml` and fails where an answer is not in it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use operations_api::{Store, router};
use serde_json::Value;
use shared::memory::{ManualClock, Memory};
use shared::ports::{EventBus, ModelSource};
use shared::units::Timestamp;
use tower::ServiceExt;

pub(crate) struct Client {
    router: Router,
    description: Value,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status and problem code.
    pub(crate) fn problem(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["code"].as_str().unwrap().to_owned())
    }

    /// Code and pointer of each fault.
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let text = |fault: &Value, name: &str| fault[name].as_str().unwrap().to_owned();
        self.json()["errors"].as_array().unwrap().iter().map(|fault| (text(fault, "code"), text(fault, "pointer"))).collect()
    }
}

pub(crate) async fn over(memory: &Memory) -> Client {
    Client::with(memory.clone(), memory.clone(), memory.clone()).await
}

impl Client {
    /// Without models that are not shipped.
    pub(crate) async fn new(store: impl Store, bus: impl EventBus + 'static) -> Self {
        Self::with(store, bus, Memory::new()).await
    }

    /// At nine o'clock.
    pub(crate) async fn with(store: impl Store, bus: impl EventBus + 'static, models: impl ModelSource + 'static) -> Self {
        let clock = ManualClock::at(Timestamp::parse("2026-11-22T09:00:00Z").unwrap());
        let mut client = Self { router: shared::http::complete(router(store, clock, bus, models)), description: Value::Null };
        client.description = client.exchange("GET", "/openapi.json", &[], "").await.json();
        client
    }

    pub(crate) fn description(&self) -> &Value {
        &self.description
    }

    /// The junction of the description's example.
    pub(crate) fn junction(&self) -> Value {
        self.description["components"]["examples"]["Intersection"]["value"].clone()
    }

    /// An example of the description.
    pub(crate) fn example(&self, name: &str) -> &Value {
        &self.description["components"]["examples"][name]["value"]
    }

    /// All entries of a list, page by page; checks that no page is over the limit. The cursor goes into the address as it is, as
    /// a careless client does it.
    pub(crate) async fn all(&self, path: &str, query: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?{query}&limit={limit}&cursor={cursor}")).await.json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit, "{path}?{query}");
            all.extend_from_slice(items);
            match &page["next_cursor"] {
                Value::String(next) => cursor.clone_from(next),
                _ => return all,
            }
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn put(&self, document: &Value) -> Answer {
        self.put_if(document, &[]).await
    }

    pub(crate) async fn put_if(&self, document: &Value, headers: &[(&str, &str)]) -> Answer {
        let path = format!("/v1/intersections/{}", document["id"].as_str().unwrap().replace('#', "%23"));
        self.send("PUT", &path, headers, document.to_string()).await
    }

    /// Sends a request to a documented operation and checks that its answer is documented.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let answer = self.exchange(method, path, headers, body).await;
        self.assert_documented(method, path, &answer);
        answer
    }

    /// Sends any request.
    pub(crate) async fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    fn assert_documented(&self, method: &str, path: &str, answer: &Answer) {
        let place = format!("{method} {path} -> {}", answer.status);
        let paths = self.description["paths"].as_object().unwrap();
        let given: Vec<_> = path.split('?').next().unwrap().split('/').collect();
        let fits = |template: &str| {
            let parts: Vec<_> = template.split('/').collect();
            parts.len() == given.len() && parts.iter().zip(&given).all(|(part, given)| part.starts_with('{') || part == given)
        };
        let operation = paths.iter().find(|(template, _)| fits(template)).map(|(_, item)| &item[method.to_lowercase()]);
        let response = &operation.unwrap_or_else(|| panic!("{place}: no such path"))["responses"][answer.status.as_str()];
        let response = self.resolve(response);
        assert!(response.is_object(), "{place}: no such answer");

        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            if self.resolve(header)["required"] == true {
                assert!(answer.headers.contains_key(name), "{place}: no header {name}");
            }
        }
        let types: Vec<_> = response["content"].as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(types, if types.is_empty() { vec![] } else { vec![answer.header("content-type")] }, "{place}: content-type");
        if answer.status.as_u16() >= 400 {
            self.assert_problem(answer, &place);
        }
    }

    fn assert_problem(&self, answer: &Answer, place: &str) {
        let schemas = &self.description["components"]["schemas"];
        let problem = answer.json();
        let documented = |code: &Value, list: &Value| list.as_str().unwrap().contains(&format!("`{}`", code.as_str().unwrap()));
        assert!(documented(&problem["code"], &schemas["Problem"]["properties"]["code"]["description"]), "{place}: {problem}");
        assert_eq!(problem["status"], answer.status.as_u16(), "{place}");
        for fault in problem["errors"].as_array().into_iter().flatten() {
            assert!(documented(&fault["code"], &schemas["Fault"]["description"]), "{place}: {fault}");
        }
    }

    fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        match value["$ref"].as_str() {
            Some(reference) => self.description.pointer(reference.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }
}
