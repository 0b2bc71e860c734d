//! What must hold after every storm, held against a run of the pure cores over what was on the stream, without any fault.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use aws_lambda_events::event::streams::KinesisEventResponse;
use greenwave::mapping::Room;
use greenwave::stream::{Record, Sequence, shard_name};
use maintenance_prediction::state::{Folded, State};
use shared::alert::{Alert, CloudEvent};
use shared::ids::IntersectionId;
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::plan::{DecisionRecord, PublishedPlan};
use shared::ports::{AlertReader, Condition, ConditionRow, ConditionStore, DecisionLog, IntersectionStore, JunctionStore, Page};
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::ReadingRecord;
use tests::junction::{at, configuration};

use crate::schedule::KEYS;
use crate::town::{Town, is_configured};
use crate::witness::{Call, Place, Task};

macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => { if !$holds { return Err(format!($($said)+)); } };
}

/// A record on the stream.
struct Entry {
    place: Place,
    record: Record,
    /// None if it is poison.
    decoded: Option<ReadingRecord>,
}

/// Checks everything.
///
/// # Errors
/// What does not hold.
pub(crate) async fn check(town: &Town) -> Result<(), String> {
    let stream = read_stream(town);
    accepted_is_on_the_stream(town, &stream)?;
    let mut expected = Told::default();
    for function in [signal_adjustment::FUNCTION, maintenance_prediction::FUNCTION] {
        let given_up = given_up(town, function, &stream)?;
        let passed = passed(town, function, &stream);
        nothing_is_lost(town, function, &stream, &given_up, &passed).map_err(|said| format!("{function}: {said}"))?;
        for key in KEYS {
            let history = History::of(key, &stream, &given_up);
            keeps_its_order(town, function, &history).map_err(|said| format!("{function}, {key}: {said}"))?;
            if function == signal_adjustment::FUNCTION {
                plans_follow(town, &history).await.map_err(|said| format!("{key}: {said}"))?;
            } else {
                conditions_follow(town, &history, &mut expected).await.map_err(|said| format!("{key}: {said}"))?;
            }
        }
    }
    alerts_are_told(town, &expected).await
}

fn read_stream(town: &Town) -> Vec<Entry> {
    let mut all = Vec::new();
    for shard in town.store.shards() {
        let records = town.store.records_after(shard, Sequence::START, Room { records: 10_000, bytes: usize::MAX }).unwrap();
        assert!(records.last().is_none_or(|last| last.sequence == town.store.end_of(shard).unwrap().borrow().last));
        all.extend(records.into_iter().map(|record| Entry {
            place: (shard, record.sequence),
            decoded: ReadingRecord::from_bytes(&record.data).ok(),
            record,
        }));
    }
    // Numbers go on where a shard takes the place of another, so this is the order of each key.
    all.sort_by_key(|entry| (entry.place.1, entry.place.0));
    all
}

/// What clients were told of as accepted lies on the stream, in their order.
fn accepted_is_on_the_stream(town: &Town, stream: &[Entry]) -> Result<(), String> {
    for key in KEYS {
        let mut records = stream.iter().filter_map(|entry| entry.decoded.as_ref()).filter(|record| record.key == key);
        for (_, readings) in town.accepted.iter().filter(|(of, _)| of == key) {
            ensure!(records.any(|record| record.readings == *readings), "{key}: accepted readings are not on the stream in their order");
        }
    }
    Ok(())
}

fn whole<T>(page: Page<T>) -> Vec<T> {
    assert!(page.next.is_none());
    page.items
}

/// Places of the records among the failed batches of a function.
fn given_up(town: &Town, function: &str, stream: &[Entry]) -> Result<HashSet<Place>, String> {
    let batches = whole(town.store.failed_batches(None, 10_000).unwrap());
    let mut places = HashSet::new();
    for batch in batches.iter().filter(|batch| batch.mapping == function) {
        for record in &batch.records {
            let entry = stream.iter().find(|entry| shard_name(entry.place.0) == batch.shard && entry.place.1 == record.sequence);
            let Some(entry) = entry else { return Err(format!("{function}: a failed batch has what was not on the stream")) };
            ensure!(entry.record == *record, "{function}: a record of a failed batch is not as it was on the stream");
            places.insert(entry.place);
        }
    }
    Ok(places)
}

/// The records of a call with the keys that its groups have.
fn records_of(call: &Call) -> impl Iterator<Item = (Place, &str, &str)> {
    let Task::Batch { event, places, .. } = &call.task else { return None.into_iter().flatten() };
    let records = places.iter().zip(&event.records);
    let records = records.map(|(place, record)| (*place, record.kinesis.partition_key.as_str(), record.kinesis.sequence_number.as_str()));
    Some(records).into_iter().flatten()
}

/// Places of the records that a call says it has dealt with.
fn passed_by(call: &Call, response: &KinesisEventResponse, poison: &HashSet<Place>) -> Vec<Place> {
    let failed: HashSet<&str> = response.batch_item_failures.iter().filter_map(|failure| failure.item_identifier.as_deref()).collect();
    let mut failed_keys = HashSet::new();
    let mut passed = Vec::new();
    for (place, key, number) in records_of(call) {
        if poison.contains(&place) {
            passed.extend((!failed.contains(number)).then_some(place));
            continue;
        }
        if failed.contains(number) {
            failed_keys.insert(key);
        }
        passed.extend((!failed_keys.contains(key)).then_some(place));
    }
    passed
}

fn passed(town: &Town, function: &str, stream: &[Entry]) -> HashSet<Place> {
    let poison = stream.iter().filter(|entry| entry.decoded.is_none()).map(|entry| entry.place).collect();
    let calls = town.log.calls.lock().unwrap();
    let answered = calls.iter().filter(|call| call.function == function).filter_map(|call| {
        let response = call.response.lock().unwrap().clone()?;
        Some(passed_by(call, &response, &poison))
    });
    answered.flatten().collect()
}

/// Every record was dealt with, or given up; poison lies in the quarantine with its bytes and a reason.
fn nothing_is_lost(
    town: &Town,
    function: &str,
    stream: &[Entry],
    given_up: &HashSet<Place>,
    passed: &HashSet<Place>,
) -> Result<(), String> {
    let quarantined = whole(town.store.quarantined(None, 10_000).unwrap());
    let mut aside: HashMap<_, _> =
        quarantined.iter().filter(|poison| poison.function == function).map(|poison| (poison.id.as_str(), poison)).collect();
    for Entry { place, record, decoded } in stream {
        let id = format!("{}:{}", shard_name(place.0), place.1);
        ensure!(passed.contains(place) || given_up.contains(place), "{} {id} took no effect and was not given up", record.key);
        let aside = aside.remove(id.as_str());
        if decoded.is_none() && passed.contains(place) {
            let Some(aside) = aside else { return Err(format!("poison {id} is not in the quarantine")) };
            let same = aside.data == record.data && aside.key == record.key && !aside.reason.is_empty();
            ensure!(same, "poison {id} is not in the quarantine as it was on the stream");
        } else if decoded.is_some() {
            ensure!(aside.is_none(), "{id} is in the quarantine although it is no poison");
        }
    }
    ensure!(aside.is_empty(), "the quarantine has what was not on the stream");
    Ok(())
}

/// The records of one key in the order of the stream.
struct History<'s> {
    key: &'static str,
    records: Vec<&'s ReadingRecord>,
    numbers: HashMap<Place, usize>,
    given_up: HashSet<usize>,
}

impl<'s> History<'s> {
    fn of(key: &'static str, stream: &'s [Entry], given_up: &HashSet<Place>) -> Self {
        let entries =
            || stream.iter().filter_map(|entry| Some((entry.place, entry.decoded.as_ref()?))).filter(|(_, record)| record.key == key);
        let numbers: HashMap<_, _> = entries().zip(0..).map(|((place, _), number)| (place, number)).collect();
        let given_up = given_up.iter().filter_map(|place| numbers.get(place).copied()).collect();
        Self { key, records: entries().map(|(_, record)| record).collect(), numbers, given_up }
    }

    /// Numbers of the records that a call had of this key.
    fn numbers_in(&self, call: &Call) -> Vec<usize> {
        records_of(call).filter_map(|(place, ..)| self.numbers.get(&place).copied()).collect()
    }

    /// What a call with these records adds to the first `done`: also what was passed without effect before.
    fn next(&self, done: &mut usize, numbers: &[usize]) -> Vec<ReadingRecord> {
        let (first, end) = (numbers.first().copied().unwrap_or(*done), numbers.last().map_or(0, |last| last + 1));
        let skipped = (*done..first).filter(|number| !self.given_up.contains(number));
        let records = skipped.chain(numbers.iter().copied()).map(|number| self.records[number].clone()).collect();
        *done = end.max(*done);
        records
    }

    fn rest(&self, done: usize) -> Vec<ReadingRecord> {
        (done..self.records.len()).filter(|number| !self.given_up.contains(number)).map(|number| self.records[number].clone()).collect()
    }
}

/// The mapping hands over the records of a key in a row, and none before those ahead of it are dealt with or given up.
fn keeps_its_order(town: &Town, function: &str, history: &History<'_>) -> Result<(), String> {
    let calls = town.log.calls.lock().unwrap();
    let mut passed: BTreeSet<usize> = history.given_up.iter().copied().collect();
    for call in calls.iter().filter(|call| call.function == function) {
        let numbers = history.numbers_in(call);
        let Some(&first) = numbers.first() else { continue };
        ensure!(numbers.iter().zip(first..).all(|(number, expected)| *number == expected), "a batch has gaps: {numbers:?}");
        let ahead = (0..first).find(|number| !passed.contains(number));
        if matches!(call.task, Task::Batch { again: false, .. }) {
            ensure!(ahead.is_none(), "record {first} is delivered although {ahead:?} has had no effect");
        }
        if let Some(response) = call.response.lock().unwrap().as_ref() {
            let places = passed_by(call, response, &HashSet::new());
            passed.extend(places.iter().filter_map(|place| history.numbers.get(place)));
        }
    }
    Ok(())
}

fn intersection(key: &str) -> Intersection {
    Intersection::try_from(configuration(key)).unwrap()
}

/// Each stored row is that of one step of a calm run; so are the decisions, and nothing is missing at the end.
async fn plans_follow(town: &Town, history: &History<'_>) -> Result<(), String> {
    let id = IntersectionId::try_from(history.key).unwrap();
    let stored = town.store.load(&id).await.unwrap();
    let (intersection, memory) = (intersection(history.key), Memory::new());
    if is_configured(history.key) {
        memory.put(None, &intersection).await.unwrap();
    }
    let calm = signal_adjustment::workflow::Workflow::new(memory.clone(), ManualClock::at(at(0)), Deciseconds::ZERO);
    let (mut done, mut last) = (0, None);
    let saved: Vec<_> = {
        let all = town.log.junctions.lock().unwrap();
        let mine = all.iter().filter(|saved| saved.row.plan.intersection_id == id);
        mine.map(|saved| (saved.row.clone(), history.numbers_in(&saved.call), saved.known.clone())).collect()
    };
    for (version, (row, numbers, known)) in (1..).zip(saved) {
        inside_the_envelope(&intersection, &row.plan)?;
        let nobody = || Condition { key: history.key.into(), as_of: at(0), received_at: at(0), health: vec![] };
        let condition = known.unwrap_or_else(nobody);
        memory.save_condition(&ConditionRow { version, condition, state: vec![] }).await.unwrap();
        let records = history.next(&mut done, &numbers);
        calm.handle(history.key, &records).await.unwrap();
        ensure!(memory.load(&id).await.unwrap().as_ref() == Some(&row), "row {version} does not follow from the {done} records so far");
        last = Some(row);
    }
    calm.handle(history.key, &history.rest(done)).await.unwrap();
    ensure!(memory.load(&id).await.unwrap() == last, "records from {done} on took no effect");
    ensure!(stored == last, "what is stored is not what was written last");
    let (expected, stored) = (decisions(&memory, &id).await, decisions(&town.store, &id).await);
    for (as_of, decision) in &expected {
        let Some(stored) = stored.get(as_of) else { return Err(format!("the decision of {as_of} is not recorded")) };
        // An attempt that came to nothing may have recorded another one for the same time.
        let attempts = town.log.decisions.lock().unwrap();
        let other = attempts.iter().any(|other| other.as_of == *as_of && other.intersection_id == id && other != decision);
        ensure!(stored == decision || other, "the decision of {as_of} is recorded otherwise than it was made");
    }
    Ok(())
}

async fn decisions(log: &impl DecisionLog, id: &IntersectionId) -> BTreeMap<Timestamp, DecisionRecord> {
    let (from, to) = (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX));
    let records = whole(log.decisions(id, from, to, None, 10_000).await.unwrap());
    records.into_iter().map(|record| (record.as_of, record)).collect()
}

/// Reckons the limits of the configuration anew, from the plan as everybody reads it.
fn inside_the_envelope(intersection: &Intersection, plan: &PublishedPlan) -> Result<(), String> {
    let number = |stage: &shared::plan::PlanStage| intersection.stages().iter().position(|known| known.id == stage.stage);
    let entries: Vec<_> =
        plan.stages.iter().map(|stage| (number(stage), stage.start, stage.start + stage.green_s, stage.green_s)).collect();
    ensure!(!entries.is_empty() && entries.iter().all(|entry| entry.0.is_some()), "a plan has stages that do not exist: {plan:?}");
    let mut red: BTreeMap<usize, Timestamp> = (0..intersection.movements().len()).map(|movement| (movement, plan.as_of)).collect();
    for (n, (stage, start, end, green)) in entries.iter().enumerate() {
        let stage = stage.unwrap();
        let limits = &intersection.stages()[stage];
        ensure!(*green >= limits.green_min, "entry {n} is green too briefly: {plan:?}");
        ensure!(*green <= limits.green_max || *end <= plan.as_of.max(*start + limits.green_min), "entry {n} is green too long: {plan:?}");
        if let Some((before, _, ended, _)) = n.checked_sub(1).and_then(|before| entries.get(before)) {
            // No stage of this junction contains another one, so every change is cleared.
            let clearance = intersection.stages()[before.unwrap()].clearance();
            ensure!(*start == *ended + clearance, "entry {n} begins at the wrong time: {plan:?}");
        }
        for movement in limits.movements().iter() {
            let waited = start.since(red.insert(movement, *end).unwrap());
            ensure!(waited <= intersection.red_max(), "movement {movement} is red for too long before entry {n}: {plan:?}");
        }
    }
    let last = entries.last().unwrap().2;
    for (movement, since) in red {
        ensure!(last.since(since) <= intersection.red_max(), "movement {movement} is red for too long at the end: {plan:?}");
    }
    ensure!(last >= plan.valid_until, "the plan ends before it expires: {plan:?}");
    Ok(())
}

/// What a calm run tells of alerts.
#[derive(Default)]
struct Told {
    /// By asset, in order.
    events: BTreeMap<String, Vec<CloudEvent>>,
    alerts: BTreeMap<String, Alert>,
}

impl Told {
    fn take(&mut self, state: &mut State) {
        let (alerts, events) = state.advisory().untold();
        state.advisory().told();
        self.alerts.extend(alerts.into_iter().map(|alert| (alert.id.to_string(), alert)));
        for event in events {
            self.events.entry(event.subject.clone()).or_default().push(event);
        }
    }
}

/// Each stored condition is that of one step of a calm run, and nothing is missing at the end.
async fn conditions_follow(town: &Town, history: &History<'_>, told: &mut Told) -> Result<(), String> {
    let key = history.key;
    let intersection = is_configured(key).then(|| intersection(key));
    let (mut state, mut received_at, mut done) = (State::default(), Timestamp::from_millis(i64::MIN), 0);
    let mut folded = None;
    let expect = |state: &mut State, received_at| match &intersection {
        Some(intersection) => state.expect(intersection, received_at),
        None => state.expect_nothing(received_at),
    };
    let fold = |state: &mut State, records: &[ReadingRecord], received_at| {
        let readings = || records.iter().flat_map(|record| &record.readings);
        if readings().any(|reading| matches!(reading, SensorReading::Detector(_))) {
            expect(state, received_at);
        }
        readings().filter(|reading| state.fold(reading, None) == Folded::New).count()
    };
    let saved: Vec<_> = {
        let all = town.log.conditions.lock().unwrap();
        let mine = all.iter().filter(|saved| saved.row.condition.key == key);
        mine.map(|saved| (saved.row.clone(), saved.call.clone())).collect()
    };
    for (version, (row, call)) in (1..).zip(&saved) {
        ensure!(row.version == version, "row {version} was written as {}", row.version);
        match &call.task {
            Task::Sweep(now) => {
                let first = version == 1;
                received_at = if first { *now } else { received_at };
                expect(&mut state, received_at);
                let as_of = state.as_of().unwrap_or(received_at);
                state.sweep(if first { *now } else { as_of + now.since(received_at) });
            }
            // A second row of the same call notes what was told.
            Task::Batch { .. } if folded.is_some_and(|folded| Arc::ptr_eq(folded, call)) => {}
            Task::Batch { .. } => {
                let records = history.next(&mut done, &history.numbers_in(call));
                fold(&mut state, &records, received_at);
                folded = Some(call);
            }
        }
        // A record without effect may or may not have told when it came.
        received_at = row.condition.received_at;
        told.take(&mut state);
        let as_of = state.as_of().unwrap_or(received_at);
        let same = row.condition.as_of == as_of && row.condition.health == state.health(as_of);
        ensure!(same, "condition {version} does not follow from the {done} records so far");
    }
    let stored = town.store.load_condition(key).await.unwrap();
    ensure!(stored.as_ref() == saved.last().map(|(row, _)| row), "what is stored is not what was written last");
    if let Some(stored) = stored {
        ensure!(stored.state == state.to_bytes().unwrap(), "the state does not follow from the {done} records so far");
    }
    ensure!(fold(&mut state, &history.rest(done), received_at) == 0, "records from {done} on took no effect");
    Ok(())
}

/// Alerts are stored and their events sent as in a calm run; what was sent again has the same id and content.
async fn alerts_are_told(town: &Town, expected: &Told) -> Result<(), String> {
    let alerts = whole(town.store.alerts(None, 10_000).await.unwrap());
    let mut open = HashSet::new();
    for alert in alerts.iter().filter(|alert| alert.cleared_at.is_none()) {
        ensure!(open.insert((&alert.asset_id, alert.fault)), "two alerts of {} for {:?} are open", alert.asset_id, alert.fault);
    }
    let alerts: BTreeMap<_, _> = alerts.into_iter().map(|alert| (alert.id.to_string(), alert)).collect();
    for (id, alert) in &expected.alerts {
        ensure!(alerts.get(id) == Some(alert), "alert {id} is {:?} and not {alert:?}", alerts.get(id));
    }
    ensure!(alerts.len() == expected.alerts.len(), "there are alerts that nothing raised");
    let mut sent: HashMap<String, CloudEvent> = HashMap::new();
    let mut events: BTreeMap<String, Vec<CloudEvent>> = BTreeMap::new();
    for event in town.bus.events() {
        if let Some(first) = sent.get(&event.id) {
            ensure!(*first == event, "event {} was sent again with another content", event.id);
        } else {
            sent.insert(event.id.clone(), event.clone());
            events.entry(event.subject.clone()).or_default().push(event);
        }
    }
    let ids =
        |events: &BTreeMap<String, Vec<CloudEvent>>| -> Vec<String> { events.values().flatten().map(|event| event.id.clone()).collect() };
    ensure!(events == expected.events, "events are {:?} and not {:?}", ids(&events), ids(&expected.events));
    Ok(())
}
