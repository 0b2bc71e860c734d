//! Writing and reading intersections.

use serde_json::{Value, json};
use shared::memory::Memory;

use crate::client::over;

const PATH: &str = "/v1/intersections/J1";
const STALE: &str = "\"00000000000000000000000000000000\"";

#[tokio::test]
async fn a_new_intersection_is_created_and_read_back_as_it_was_put() {
    let api = over(&Memory::new()).await;
    let created = api.put(&api.junction()).await;
    assert_eq!((created.status.as_u16(), created.header("location")), (201, PATH));
    let read = api.get(PATH).await;
    assert_eq!((read.status.as_u16(), read.json()), (200, api.junction()));
    assert_eq!(read.header("etag"), created.header("etag"));
    assert_eq!((created.json(), read.json()), (api.junction(), api.junction()));
}

#[tokio::test]
async fn equal_content_put_again_changes_nothing_and_needs_no_precondition() {
    let api = over(&Memory::new()).await;
    let created = api.put(&api.junction()).await;
    let again = api.put(&api.junction()).await;
    assert_eq!((again.status.as_u16(), again.header("etag")), (200, created.header("etag")));
}

#[tokio::test]
async fn equal_content_with_a_stale_precondition_is_still_refused() {
    let api = over(&Memory::new()).await;
    api.put(&api.junction()).await;
    let answer = api.put_if(&api.junction(), &[("if-match", STALE)]).await;
    assert_eq!(answer.problem(), (412, "precondition_failed".into()));
}

#[tokio::test]
async fn other_content_replaces_only_what_the_client_has_seen() {
    let api = over(&Memory::new()).await;
    let created = api.put(&api.junction()).await;
    let mut other = api.junction();
    other["name"] = json!("Other");

    let blind = api.put(&other).await;
    assert_eq!(blind.problem(), (428, "precondition_required".into()));
    assert_eq!(blind.header("etag"), created.header("etag"), "the answer names what is stored");
    let stale = api.put_if(&other, &[("if-match", STALE)]).await;
    assert_eq!(stale.problem(), (412, "precondition_failed".into()));
    let weak = api.put_if(&other, &[("if-match", &format!("W/{}", created.header("etag")))]).await;
    assert_eq!(weak.problem(), (412, "precondition_failed".into()));
    assert_eq!(api.get(PATH).await.json(), api.junction(), "nothing changed so far");

    let seen = api.put_if(&other, &[("if-match", &format!("{STALE}, {}", created.header("etag")))]).await;
    assert_eq!((seen.status.as_u16(), seen.json()), (200, other.clone()));
    assert_ne!(seen.header("etag"), created.header("etag"));
    let any = api.put_if(&api.junction(), &[("if-match", "*")]).await;
    assert_eq!((any.status.as_u16(), any.header("etag")), (200, created.header("etag")));
}

#[tokio::test]
async fn an_expected_intersection_that_is_missing_is_not_created() {
    let api = over(&Memory::new()).await;
    for expected in [STALE, "*"] {
        let answer = api.put_if(&api.junction(), &[("if-match", expected)]).await;
        assert_eq!(answer.problem(), (412, "precondition_failed".into()), "{expected}");
    }
    assert_eq!(api.get(PATH).await.problem(), (404, "not_found".into()));
}

#[tokio::test]
async fn create_only_creates_once() {
    let api = over(&Memory::new()).await;
    let only = [("if-none-match", "*")];
    assert_eq!(api.put_if(&api.junction(), &only).await.status, 201);
    assert_eq!(api.put_if(&api.junction(), &only).await.problem(), (412, "precondition_failed".into()));
}

#[tokio::test]
async fn a_read_of_known_content_has_no_body() {
    let api = over(&Memory::new()).await;
    let created = api.put(&api.junction()).await;
    let etag = created.header("etag");
    for known in [etag, "*", &format!("W/{etag}"), &format!("{STALE}, {etag}")] {
        let answer = api.send("GET", PATH, &[("if-none-match", known)], "").await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str(), answer.header("etag")), (304, "", etag), "{known}");
    }
    let answer = api.send("GET", PATH, &[("if-none-match", STALE)], "").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_deleted_intersection_is_gone() {
    let api = over(&Memory::new()).await;
    let created = api.put(&api.junction()).await;
    let stale = api.send("DELETE", PATH, &[("if-match", STALE)], "").await;
    assert_eq!(stale.problem(), (412, "precondition_failed".into()));
    let deleted = api.send("DELETE", PATH, &[("if-match", created.header("etag"))], "").await;
    assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (204, ""));
    assert_eq!(api.get(PATH).await.problem(), (404, "not_found".into()));
    assert_eq!(api.send("DELETE", PATH, &[], "").await.problem(), (404, "not_found".into()));
    assert_eq!(api.send("DELETE", PATH, &[("if-match", "*")], "").await.problem(), (412, "precondition_failed".into()));

    api.put(&api.junction()).await;
    assert_eq!(api.send("DELETE", PATH, &[], "").await.status, 204, "no precondition is needed");
}

#[tokio::test]
async fn a_malformed_precondition_is_refused_by_its_name() {
    let api = over(&Memory::new()).await;
    for (method, name) in [("GET", "if-none-match"), ("PUT", "if-match"), ("PUT", "if-none-match"), ("DELETE", "if-match")] {
        let answer = api.send(method, PATH, &[(name, "no-quotes")], api.junction().to_string()).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".into()), "{method} {name}");
        assert!(answer.text.contains(name), "{}", answer.text);
    }
}

#[tokio::test]
async fn an_id_of_any_allowed_character_has_a_path() {
    let api = over(&Memory::new()).await;
    let mut junction = api.junction();
    junction["id"] = json!("cluster_1:2#3.-");
    let created = api.put(&junction).await;
    assert_eq!((created.status.as_u16(), created.header("location")), (201, "/v1/intersections/cluster_1:2%233.-"));
    assert_eq!(api.get(created.header("location")).await.json(), junction);
}

#[tokio::test]
async fn a_body_that_is_no_json_text_is_refused() {
    let api = over(&Memory::new()).await;
    let json = [("content-type", "application/json; charset=UTF-8")];
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for (body, code) in [
        (&b""[..], "invalid_json"),
        (b"{\"id\":", "invalid_json"),
        (b"{\"id\": NaN}", "invalid_json"),
        (b"{\"id\": 1e400}", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (deep.as_bytes(), "invalid_json"),
        (b"{\"id\": \"\xff\"}", "invalid_utf8"),
    ] {
        let answer = api.send("PUT", PATH, &json, body.to_vec()).await;
        assert_eq!(answer.problem(), (400, code.into()), "{:?}", String::from_utf8_lossy(&body[..body.len().min(20)]));
    }
}

#[tokio::test]
async fn a_body_of_another_type_or_coding_is_refused_with_the_header_to_set() {
    let api = over(&Memory::new()).await;
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-type", "application/json; charset=latin1"),
        ("content-type", "application/x-yaml"),
        ("content-encoding", "gzip"),
    ] {
        let answer = api.put_if(&api.junction(), &[(name, value)]).await;
        assert_eq!(answer.problem(), (415, "unsupported_media_type".into()), "{value}");
        assert!(answer.text.contains(name), "{}", answer.text);
    }
    let answer = api.put_if(&api.junction(), &[("content-type", "Application/JSON"), ("content-encoding", "identity")]).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn a_body_of_256_kib_is_read_and_one_more_byte_is_not() {
    let api = over(&Memory::new()).await;
    let fill = |bytes: usize| {
        let text = api.junction().to_string();
        let spaces = " ".repeat(bytes - text.len());
        text + &spaces
    };
    assert_eq!(api.send("PUT", PATH, &[], fill(256 * 1024)).await.status, 201);
    let answer = api.send("PUT", PATH, &[], fill(256 * 1024 + 1)).await;
    assert_eq!(answer.problem(), (413, "configuration_too_large".into()));
}

#[tokio::test]
async fn the_list_can_be_paged_to_its_end() {
    let api = over(&Memory::new()).await;
    let mut ids = ["A", "B#1", "B#2", "C", "D:1", "a", "b"];
    for id in ids.iter().rev() {
        let mut junction = api.junction();
        junction["id"] = json!(id);
        assert_eq!(api.put(&junction).await.status, 201);
    }
    ids.sort_unstable();
    for limit in [1, 2, 3, 7, 500] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            // As a careless client does it: the cursor goes into the address as it is.
            let page = api.get(&format!("/v1/intersections?limit={limit}&cursor={cursor}")).await.json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            match &page["next_cursor"] {
                Value::String(next) => cursor.clone_from(next),
                end => break assert!(end.is_null()),
            }
        }
        assert_eq!(seen, ids, "limit {limit}");
    }
}

#[tokio::test]
async fn a_page_of_large_configurations_ends_before_it_is_too_large_for_lambda() {
    let api = over(&Memory::new()).await;
    let mut junction = api.junction();
    // A pair may be named again and again: some 180 KB of it.
    junction["conflicts"] = Value::Array(vec![junction["conflicts"][0].clone(); 16_000]);
    for number in 10..40 {
        junction["id"] = json!(format!("J{number}"));
        assert_eq!(api.put(&junction).await.status, 201);
    }
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let page = api.get(&format!("/v1/intersections?limit=500&cursor={cursor}")).await.json();
        assert!(page.to_string().len() < 5_000_000);
        seen += page["items"].as_array().unwrap().len();
        let Value::String(next) = &page["next_cursor"] else { break };
        cursor.clone_from(next);
    }
    assert_eq!(seen, 30);
}

#[tokio::test]
async fn a_malformed_list_parameter_is_refused_by_its_name_and_an_unknown_one_ignored() {
    let api = over(&Memory::new()).await;
    for path in ["/v1/intersections", "/v1/plans", "/v1/intersections/J1/decisions", "/v1/assets", "/v1/alerts"] {
        for query in
            ["limit=0", "limit=501", "limit=", "limit=-1", "limit=1.5", "limit=1&limit=2", "cursor=%00", "cursor=..%2F", "cursor=%FF"]
        {
            let answer = api.get(&format!("{path}?{query}")).await;
            assert_eq!(answer.problem(), (400, "invalid_parameter".into()), "{path}?{query}");
            assert!(answer.text.contains(&query[..5]), "{}", answer.text);
        }
        let answer = api.get(&format!("{path}?cursor=&verbose=1&limit=500&x")).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"items": [], "next_cursor": null})), "{path}");
    }
}
