//! What the functions count, from a request with good and bad readings to the plan that names the request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::event::kinesis::KinesisEvent;
use axum::body::Body;
use axum::http::Request;
use greenwave::stream::{Record, Sequence, event};
use maintenance_prediction::workflow::Workflow as Maintenance;
use serde_json::{Map, Value, json};
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::metrics::METRICS;
use shared::ports::IntersectionStore;
use shared::units::Deciseconds;
use signal_adjustment::workflow::Workflow as Signals;
use tests::junction::{at, configuration, step};
use tower::ServiceExt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The target of an event and its fields.
type Line = (String, Map<String, Value>);

/// Keeps what events say.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<Line>>>);

impl<S: Subscriber> Layer<S> for Said {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push((event.metadata().target().to_owned(), fields.0));
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), json!(format!("{value:?}")));
    }
}

impl Said {
    /// What was said since the last call: metrics, and the lines of the log in which these fields are.
    fn metrics(&self) -> Vec<Value> {
        let said = std::mem::take(&mut *self.0.lock().unwrap());
        said.into_iter().filter(|(target, _)| target == METRICS).map(|(_, fields)| Value::Object(fields)).collect()
    }

    fn request_of_the_changed_plan(&self) -> Option<Value> {
        let said = self.0.lock().unwrap();
        let changed = said.iter().find(|(_, fields)| fields["message"] == "the plan changed");
        changed.map(|(_, fields)| fields["request_id"].clone())
    }
}

/// What lies on the stream as a batch, with a record of garbage at its end.
fn batch(memory: &Memory) -> KinesisEvent {
    let garbage = ("J9".to_owned(), b"garbage".to_vec());
    let all = memory.stream().into_iter().map(|record| (record.key, record.data)).chain([garbage]);
    let record = |(number, (key, data)): (usize, (String, Vec<u8>))| Record {
        sequence: Sequence::new(number as u64 + 1),
        key,
        data,
        arrived_at: at(5),
    };
    let records: Vec<_> = all.enumerate().map(record).collect();
    event(0, &records)
}

#[tokio::test]
async fn each_function_counts_what_it_did_and_the_plan_names_the_request_behind_it() {
    let said = Said::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(said.clone()));
    let (memory, clock, ttl) = (Memory::new(), ManualClock::at(at(6)), Deciseconds::from_secs(60));
    memory.put(None, &Intersection::try_from(configuration("J1")).unwrap()).await.unwrap();

    let mut readings = step("J1", at(5), [1.0; 8]);
    readings.extend(step("J7", at(5), [0.0; 8]).into_iter().take(2));
    readings.extend([json!({"type": "detector"}), json!({"type": "weather"}), json!(7)]);
    readings[0]["fault"] = json!("communication");
    let ingestion = sensor_ingestion::router(memory.clone(), clock.clone(), |_: Duration| async {}, sensor_ingestion::Config::default());
    let request = Request::post("/v1/readings").header("x-request-id", "r-1").body(Body::from(json!(readings).to_string())).unwrap();
    shared::http::complete(ingestion).oneshot(request).await.unwrap();
    let rejected = |code, n| json!({"readings_rejected": n, "code": code, "request_id": "r-1", "message": "readings were rejected"});
    assert_eq!(
        said.metrics(),
        [
            json!({"readings_accepted": 10, "request_id": "r-1", "message": "readings were taken in"}),
            rejected("missing_field", 1),
            rejected("unknown_type", 1),
            rejected("wrong_type", 1),
        ]
    );

    let signals = Signals::new(memory.clone(), clock.clone(), ttl);
    signal_adjustment::handle(batch(&memory), &signals, &memory).await;
    assert_eq!(said.request_of_the_changed_plan(), Some(json!("r-1")));
    let common = json!({
        "records_taken": 3, "records_quarantined": 1, "keys_failed": 0, "iterator_age_ms_max": 1000, "message": "a batch was processed",
    });
    let with = |own: Value| {
        let mut all = common.as_object().unwrap().clone();
        all.extend(own.as_object().unwrap().clone());
        [Value::Object(all)]
    };
    // The one at fault, and the four exits of which nothing was ever heard.
    let own = json!({
        "readings_folded": 8, "readings_late": 0, "readings_unconfigured": 2, "decisions_made": 1, "plans_held": 0,
        "plans_not_followed": 0, "plan_latency_ms_max": 0, "detectors_distrusted": 5,
    });
    assert_eq!(said.metrics(), with(own));

    let maintenance = Maintenance::new(memory.clone(), memory.clone(), memory.clone(), clock.clone(), ttl);
    maintenance_prediction::handle(batch(&memory), &maintenance, &memory).await;
    assert_eq!(said.metrics(), with(json!({"readings_folded": 10, "alerts_raised": 0, "alerts_cleared": 0})));
    clock.set(at(3600));
    maintenance.sweep().await.unwrap();
    let swept = json!({"junctions_quiet": 1, "junctions_unheard": 0, "alerts_raised": 14, "alerts_cleared": 0, "message": "swept"});
    assert_eq!(said.metrics(), [swept]);
}
