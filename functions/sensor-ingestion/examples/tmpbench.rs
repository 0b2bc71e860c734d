//! tmp
#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]
use shared::ports::*; use shared::memory::ManualClock; use shared::units::Timestamp; use sensor_ingestion::*;
use axum::{http::Request, body::Body}; use tower::ServiceExt; use std::time::{Instant, Duration};
#[derive(Clone)] struct Null;
impl ReadingStream for Null { async fn append(&self, r: &[StreamRecord]) -> Result<Vec<Result<(), PortError>>, PortError> { Ok(r.iter().map(|_| Ok(())).collect()) } }
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let full = |i: usize| format!(r#"{{"type": "detector", "intersection_id": "J{}", "detector_id": "n_{}", "time": "2026-11-22T08:00:05Z", "period_s": 5, "volume": 2, "occupancy": 0.31, "speed_mean_kmh": 21.5, "vehicles": 6.0, "queue": 4.0, "profile": {{"bin_m": 25, "vehicles": [3, 2, 0, 1], "moving": [0, 1, 0, 1], "speed_mean_kmh": [null, 18.0, null, 47.5]}}, "fault": null}}"#, i % 20, i);
    let small = |i: usize| format!(r#"{{"type":"detector","intersection_id":"J{}","detector_id":"n_{}","time":"2026-11-22T08:00:05Z","period_s":5,"volume":2,"occupancy":0.31}}"#, i % 20, i);
    let clock = ManualClock::at(Timestamp::parse("2026-11-22T08:00:30Z").unwrap());
    let router = shared::http::complete(router(Null, clock, |_: Duration| std::future::ready(()), Config::default()));
    for (name, n, body) in [("full x100", 100, (0..100).map(full).collect::<Vec<_>>()), ("full x1", 1, vec![full(0)]), ("small x100", 100, (0..100).map(small).collect()), ("small x500", 500, (0..500).map(small).collect())] {
        let body = format!("[{}]", body.join(","));
        let start = Instant::now(); let mut k = 0;
        while start.elapsed() < Duration::from_secs(2) {
            let r = router.clone().oneshot(Request::post("/v1/readings").body(Body::from(body.clone())).unwrap()).await.unwrap();
            assert_eq!(r.status(), 202); k += n;
        }
        println!("{name}: {:.0} readings/s, {:.2} us each", k as f64 / start.elapsed().as_secs_f64(), start.elapsed().as_secs_f64() * 1e6 / k as f64);
    }
}
