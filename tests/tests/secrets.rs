//! What requests carry stays out of the log: credentials, queries and bodies. Alone in its binary, because it watches all threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use greenwave::serve::{Host, Options};
use serde_json::json;
use tests::junction::{at, configuration, detector, step};
use tests::{Client, eventually};
use tokio::runtime::Runtime;
use tracing_subscriber::filter::LevelFilter;

const SECRET: &str = "s3cr3t";

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_credential_query_or_body_is_ever_logged() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false).with_writer(move || writer.clone()).init();
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::TempDir::new().unwrap();
    let host = runtime.block_on(Host::start(directory.path(), 0, Options::default())).unwrap();
    let client = Client::new(host.address());
    let router = host.router();
    let serving = runtime.spawn(host.serve(router, std::future::pending()));

    let bearer = format!("Bearer {SECRET}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("proxy-authorization", SECRET),
        ("x-api-key", SECRET),
        ("x-amz-security-token", SECRET),
        ("cookie", SECRET),
        ("if-match", SECRET),
        ("x-request-id", "named-request"),
    ];
    let send = |method: &str, path: &str, body: &str| {
        let answer = client.send(method, &format!("{path}?access_token={SECRET}&limit={SECRET}"), &headers, body.as_bytes());
        assert!(answer.status < 500, "{method} {path}: {answer:?}");
    };
    let mut junction = configuration("J1");
    junction["name"] = json!(SECRET);
    assert_eq!(client.send_json("PUT", "/v1/intersections/J1", &headers[..5], &junction).status, 201);
    let mut readings = step("J1", at(5), [1.0; 8]);
    readings[0]["token"] = json!(SECRET);
    readings.push(json!({"type": SECRET, "intersection_id": SECRET}));
    readings.push(json!({"type": "signal_state", "intersection_id": "J1", "time": SECRET, "stage": SECRET, "mode": SECRET}));
    let mut unknown = detector("nobody", "n_0", at(5), 1.0);
    unknown["fault"] = json!(SECRET);
    readings.push(unknown);
    assert_eq!(client.send_json("POST", "/v1/readings", &headers, &json!(readings)).status, 207);
    let plan = || (client.get("/v1/intersections/J1/plan").status == 200).then_some(());
    eventually("a plan", plan);

    for path in
        ["/v1/intersections/J1", "/v1/assets/truck-17", "/v1/alerts/none/acknowledgement", "/v1/readings", "/v1/predictions", "/v1/plans"]
    {
        for body in [
            SECRET.to_owned(),
            json!({SECRET: SECRET}).to_string(),
            json!({"by": SECRET, "note": SECRET, "readings": SECRET, "batch": SECRET}).to_string(),
        ] {
            for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
                send(method, path, &body);
            }
        }
    }
    serving.abort();
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    for named in ["named-request", "/v1/alerts/none/acknowledgement", "a batch was processed"] {
        assert!(log.contains(named), "the log has no {named}");
    }
    let lines: Vec<_> = log.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(lines.is_empty(), "{} lines, the first: {}", lines.len(), &lines[0]);
}
