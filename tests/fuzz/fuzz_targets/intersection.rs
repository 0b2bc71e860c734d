//! Any text as a configuration: one that is accepted reads back as it was, and gives a plan from every state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::intersection::Intersection;
use shared::reading::{DetectorReading, SensorReading, SignalMode, SignalStateReading};
use shared::units::{Deciseconds, Timestamp};
use signal_adjustment::junction::Junction;

fuzz_target!(|text: &str| {
    let Ok(intersection) = Intersection::from_json(text) else { return };
    let again = Intersection::from_json(&intersection.document().to_string()).expect("what is stored is read");
    assert_eq!((again.etag(), again.document()), (intersection.etag(), intersection.document()));
    let mut junction = Junction::unknown(&intersection);
    for second in 0..3 {
        let time = Timestamp::from_millis(1_795_334_400_000 + 7_000 * second);
        let _ = intersection.time_of_day_at(time);
        let shown = intersection.stages().first().expect("there is a stage").id.clone();
        junction.fold(
            &intersection,
            &SensorReading::SignalState(SignalStateReading {
                intersection_id: intersection.id().clone(),
                time,
                stage: shown,
                stage_elapsed: Deciseconds::new(70),
                clearing: None,
                mode: SignalMode::Adaptive,
            }),
        );
        for detector in intersection.detectors() {
            junction.fold(
                &intersection,
                &SensorReading::Detector(DetectorReading {
                    intersection_id: intersection.id().clone(),
                    detector_id: detector.clone(),
                    time,
                    period: Deciseconds::new(50),
                    volume: Some(3.0),
                    occupancy: Some(0.5),
                    speed_mean_kmh: None,
                    vehicles: Some(4.0),
                    queue: Some(2.0),
                    profile: None,
                    fault: None,
                }),
            );
        }
        let (_, decision, _) = junction.decide(&intersection);
        decision.plan.expect("a plan is found from every state");
        junction = Junction::from_bytes(&junction.to_bytes().unwrap()).expect("a state is read as it was written").under(&intersection);
    }
});
