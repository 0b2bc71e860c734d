//! Metrics in CloudWatch's embedded metric format: one line of JSON on the standard output for each event of [`METRICS`].
//!
//! Every metric has the dimension `FunctionName`; those with a `code` come a second time under `FunctionName` and `code`.
//!
//! Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format".

use std::fmt::Debug;
use std::io::Write;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;

use crate::metrics::METRICS;
use crate::ports::Clock;

const NAMESPACE: &str = "Greenwave";

/// A layer that writes the events of [`METRICS`] and nothing else.
pub(super) struct EmbeddedMetrics<C, W> {
    function: String,
    clock: C,
    writer: W,
}

impl<C, W> EmbeddedMetrics<C, W> {
    /// For the function of this name.
    pub(super) const fn new(function: String, clock: C, writer: W) -> Self {
        Self { function, clock, writer }
    }
}

impl<S, C, W> Layer<S> for EmbeddedMetrics<C, W>
where
    S: Subscriber,
    C: Clock + 'static,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != METRICS {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let dimensions =
            if line.members.contains_key("code") { json!([["FunctionName"], ["FunctionName", "code"]]) } else { json!([["FunctionName"]]) };
        let directive = json!({"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": line.metrics});
        line.members.insert("FunctionName".to_owned(), json!(self.function));
        line.members.insert("_aws".to_owned(), json!({"Timestamp": self.clock.now().as_millis(), "CloudWatchMetrics": [directive]}));
        // There is nowhere to tell that the standard output is gone.
        let _lost = writeln!(self.writer.make_writer(), "{}", Value::Object(line.members));
    }
}

/// The fields of an event: numbers are metrics, texts are not.
#[derive(Default)]
struct Line {
    metrics: Vec<Value>,
    members: Map<String, Value>,
}

impl Line {
    fn number(&mut self, name: &str, value: Value) {
        let unit = if name.trim_end_matches("_max").ends_with("_ms") { "Milliseconds" } else { "Count" };
        self.metrics.push(json!({"Name": name, "Unit": unit}));
        self.members.insert(name.to_owned(), value);
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field.name(), json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.members.insert(field.name().to_owned(), json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.members.insert(field.name().to_owned(), json!(format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::memory::ManualClock;
    use crate::units::Timestamp;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that are written while `work` runs.
    fn lines(work: impl FnOnce()) -> Vec<Value> {
        let output = Output::default();
        let writer = output.clone();
        let layer = EmbeddedMetrics::new("city-a".to_owned(), ManualClock::at(Timestamp::from_millis(7)), move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn an_event_is_one_line_with_its_numbers_as_metrics() {
        let lines = lines(|| {
            tracing::info!(target: METRICS, decisions_made = 3_u32, iterator_age_ms_max = 250_i64, request_id = Some("r-1"), "done");
            tracing::info!("not a metric");
            tracing::info!(target: METRICS, decisions_made = 0_usize, request_id = None::<&str>, "done");
        });
        let metrics = json!([
            {"Name": "decisions_made", "Unit": "Count"},
            {"Name": "iterator_age_ms_max", "Unit": "Milliseconds"},
        ]);
        let directive = json!([{"Namespace": "Greenwave", "Dimensions": [["FunctionName"]], "Metrics": metrics}]);
        let first = json!({
            "_aws": {"Timestamp": 7, "CloudWatchMetrics": directive}, "FunctionName": "city-a", "message": "done", "request_id": "r-1",
            "decisions_made": 3, "iterator_age_ms_max": 250,
        });
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], first);
        assert_eq!((&lines[1]["decisions_made"], lines[1].get("request_id")), (&json!(0), None));
    }

    #[test]
    fn a_reason_is_a_second_dimension() {
        let lines = lines(|| tracing::info!(target: METRICS, readings_rejected = 2_u64, code = "too_old", "readings were rejected"));
        let dimensions = &lines[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"];
        assert_eq!(dimensions, &json!([["FunctionName"], ["FunctionName", "code"]]));
        assert_eq!((&lines[0]["code"], &lines[0]["readings_rejected"]), (&json!("too_old"), &json!(2)));
    }
}
