//! A town in a storm: the whole suite over one store, its clients, and everything that the schedule does to them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::kinesis::KinesisEvent;
use aws_lambda_events::event::streams::KinesisEventResponse;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use greenwave::faults::{Dice, FaultyFunction, FaultyStore, FaultyStream, FunctionFaults, StoreFaults, StreamFaults, VirtualClock};
use greenwave::mapping::Settings;
use greenwave::poller::{Consumer, Poller, StreamFunction};
use greenwave::serve::{maintenance_prediction_settings, signal_adjustment_settings};
use greenwave::store::{ReshardError, Store};
use sensor_ingestion::Config;
use serde_json::{Value, json};
use shared::intersection::Intersection;
use shared::memory::Memory;
use shared::ports::{Clock, IntersectionStore, ReadingStream, StreamRecord};
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::parse_reading;
use tests::junction::{LANES, at, configuration, detector, signal_state};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use crate::schedule::{Act, KEYS, Mapping, Post, Reshard, Schedule, Setting, Spot, Strike};
use crate::witness::{CALL, Call, Log, Task, Witness};

/// The functions' `Timeout` in the template.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(30);
/// In so many looks, five seconds apart, everything must be done once the storm is over: shards wait for those before them,
/// and each of a line of twenty may wait for its batching window of five minutes.
const LOOKS: usize = 1_500;

type Signals = signal_adjustment::workflow::Workflow<FaultyStore<Witness>, VirtualClock>;
type Maintenance = maintenance_prediction::workflow::Workflow<FaultyStore<Witness>, FaultyStore<Memory>, Memory, VirtualClock>;

/// Whether an intersection is configured.
pub(crate) fn is_configured(key: &str) -> bool {
    key == "J1" || key == "J2"
}

/// The town after the storm.
pub(crate) struct Town {
    pub(crate) store: Store,
    /// Has the events of alerts.
    pub(crate) bus: Memory,
    pub(crate) log: Arc<Log>,
    /// Readings that a client was told of as accepted, by key, in the order of the answers.
    pub(crate) accepted: Vec<(String, Vec<SensorReading>)>,
}

struct Storm {
    setting: Setting,
    dice: BTreeMap<u8, Dice>,
    clock: VirtualClock,
    began: Instant,
    town: Town,
    router: Router,
    pollers: Vec<Poller>,
    maintenance: Arc<Maintenance>,
    /// Other instances, which get what was delivered before.
    others: (Arc<Signals>, Arc<Maintenance>, Arc<Mutex<()>>),
    background: JoinSet<()>,
}

/// Runs a schedule to its end.
///
/// # Errors
/// If it does not come to one.
pub(crate) async fn weather(schedule: &Schedule) -> Result<Town, String> {
    let mut storm = Storm::begin(schedule).await;
    for act in &schedule.acts {
        storm.act(act).await;
    }
    storm.end().await
}

impl Storm {
    async fn begin(schedule: &Schedule) -> Self {
        let (setting, clock) = (schedule.setting.clone(), VirtualClock::at(at(0)));
        let store = Store::in_memory(setting.shards, clock.clone()).unwrap();
        store.bound_logs(setting.room.0, setting.room.1);
        for key in KEYS.into_iter().filter(|key| is_configured(key)) {
            store.put(None, &Intersection::try_from(configuration(key)).unwrap()).await.unwrap();
        }
        let town = Town { store, bus: Memory::new(), log: Arc::default(), accepted: Vec::new() };
        let dice = BTreeMap::from(
            [Spot::Stream, Spot::Signals, Spot::Maintenance, Spot::SignalsStore, Spot::MaintenanceStore, Spot::Bus, Spot::Quarantine]
                .map(|spot| (spot as u8, script(&schedule.strikes, spot))),
        );
        let parts = Parts { setting: &setting, dice: &dice, clock: &clock, town: &town };
        let router = parts.router();
        let maintenance = parts.maintenance();
        let others = (parts.signals(), parts.maintenance(), Arc::default());
        let mut storm = Self {
            began: Instant::now(),
            background: JoinSet::new(),
            pollers: Vec::new(),
            setting,
            dice,
            clock,
            town,
            router,
            maintenance,
            others,
        };
        storm.start().await;
        storm
    }

    fn parts(&self) -> Parts<'_> {
        Parts { setting: &self.setting, dice: &self.dice, clock: &self.clock, town: &self.town }
    }

    /// Starts the functions cold.
    async fn start(&mut self) {
        let (signals, maintenance) = (self.parts().signals(), self.parts().maintenance());
        self.maintenance = Arc::clone(&maintenance);
        let (log, quarantine) = (Arc::clone(&self.town.log), self.parts().quarantine());
        let function = move |event: KinesisEvent| {
            let (log, workflow, quarantine) = (Arc::clone(&log), Arc::clone(&signals), quarantine.clone());
            async move { Ok::<_, Infallible>(handle_signals(&log, event, &workflow, &quarantine, false).await) }
        };
        let settings = varied(&self.setting.signals, &signal_adjustment_settings());
        let signals = self.poller(signal_adjustment::FUNCTION, settings, Spot::Signals, function).await;
        let (log, quarantine) = (Arc::clone(&self.town.log), self.parts().quarantine());
        let function = move |event: KinesisEvent| {
            let (log, workflow, quarantine) = (Arc::clone(&log), Arc::clone(&maintenance), quarantine.clone());
            async move {
                // New records wake both functions in an order of chance: this one is always a little later.
                sleep(Duration::from_millis(1)).await;
                Ok::<_, Infallible>(handle_maintenance(&log, event, &workflow, &quarantine, false).await)
            }
        };
        let settings = varied(&self.setting.maintenance, &maintenance_prediction_settings());
        let maintenance = self.poller(maintenance_prediction::FUNCTION, settings, Spot::Maintenance, function).await;
        self.pollers = vec![signals, maintenance];
    }

    async fn poller(&self, name: &'static str, settings: Settings, spot: Spot, inner: impl StreamFunction) -> Poller {
        let faults = FunctionFaults { crash_before: 0.2, crash_after: 0.2, panic: 0.1, partial: 0.2, unknown: 0.1, timeout: 0.2 };
        let function = FaultyFunction { inner, faults, dice: self.dice[&(spot as u8)].clone() };
        let timeout_ms = u32::try_from(FUNCTION_TIMEOUT.as_millis()).unwrap();
        Poller::start(&self.town.store, Consumer { name, settings, timeout_ms }, function, self.clock.clone()).await.unwrap()
    }

    fn now(&self) -> Timestamp {
        at(0).plus_millis(i64::try_from(self.began.elapsed().as_millis()).unwrap())
    }

    async fn act(&mut self, act: &Act) {
        match act {
            Act::Post(post) => self.post(post).await,
            Act::Poison { key, data } => {
                let record = StreamRecord { key: KEYS[*key].into(), data: data.clone() };
                assert_eq!(self.town.store.append(&[record]).await.unwrap(), [Ok(())]);
            }
            Act::Restart { gently, reshards } => {
                for poller in std::mem::take(&mut self.pollers) {
                    if *gently {
                        poller.stop().await;
                    }
                }
                reshard(&self.town.store, reshards).await;
                self.start().await;
            }
            Act::Reshard { after_ms, reshards } => {
                let (store, after, reshards) = (self.town.store.clone(), Duration::from_millis(*after_ms), reshards.clone());
                self.background.spawn(async move {
                    sleep(after).await;
                    reshard(&store, &reshards).await;
                });
            }
            Act::Again(which) => self.deliver_again(which),
            Act::Sweep => {
                let (clock, workflow) = (self.clock.clone(), Arc::clone(&self.maintenance));
                self.background.spawn(async move {
                    let call = Call { function: maintenance_prediction::FUNCTION, task: Task::Sweep(clock.now()), response: None.into() };
                    let _ = timeout(FUNCTION_TIMEOUT, CALL.scope(Arc::new(call), workflow.sweep())).await;
                });
            }
            Act::Jump { ahead_s } => self.clock.set(self.now().plus_millis(1000 * ahead_s)),
            Act::Wait { seconds } => sleep(Duration::from_secs(u64::from(*seconds))).await,
        }
    }

    /// Delivers batches of the past once more, one after the other but beside everything else.
    fn deliver_again(&mut self, which: &[u16]) {
        let past: Vec<_> = {
            let calls = self.town.log.calls.lock().unwrap();
            let batches: Vec<_> = calls.iter().filter(|call| matches!(call.task, Task::Batch { again: false, .. })).cloned().collect();
            which.iter().filter_map(|n| batches.get(usize::from(*n) % batches.len().max(1)).cloned()).collect()
        };
        let (signals, maintenance, turn) = self.others.clone();
        let (log, quarantine) = (Arc::clone(&self.town.log), self.parts().quarantine());
        self.background.spawn(async move {
            let _turn = turn.lock().await;
            for call in past {
                let Task::Batch { event, .. } = &call.task else { continue };
                let event = event.clone();
                if call.function == signal_adjustment::FUNCTION {
                    let _ = timeout(FUNCTION_TIMEOUT, handle_signals(&log, event, &signals, &quarantine, true)).await;
                } else {
                    let _ = timeout(FUNCTION_TIMEOUT, handle_maintenance(&log, event, &maintenance, &quarantine, true)).await;
                }
            }
        });
    }

    async fn post(&mut self, post: &Post) {
        sleep(Duration::from_millis(u64::from(post.after) * u64::from(self.setting.period_s) * 100)).await;
        let readings = self.readings(post);
        if readings.is_empty() {
            return;
        }
        let router = self.router.clone();
        for _ in 0..=post.again {
            if self.send(&router, &readings, Duration::from_millis(post.patience_ms)).await {
                return;
            }
        }
    }

    /// What the sensors see; queues differ from step to step, but not from run to run.
    fn readings(&self, post: &Post) -> Vec<Value> {
        let (now, bit) = (self.now(), |bits: u8, n: usize| bits >> (n % 8) & 1 == 1);
        let time = |n| if bit(post.skewed, n) { now.plus_millis(1000 * post.skew_s) } else { now };
        let mut readings = Vec::new();
        for &key in &post.keys {
            let id = KEYS[key];
            let salt = usize::try_from(now.as_millis() / 1000).unwrap() * 7 + key;
            if key >= 3 {
                readings.push(json!({"type": "telemetry", "asset_id": id, "asset_kind": "pump", "time": time(key), "cycle": salt % 50,
                    "metrics": {"flow": f64::from(u32::try_from(salt % 90).unwrap())}}));
                continue;
            }
            for (n, lane) in LANES.iter().enumerate().filter(|(n, _)| !bit(post.silent, *n)) {
                let queue = u32::try_from((salt * (n + 3) + n * n) % 11).unwrap();
                let mut reading = detector(id, lane, time(n), f64::from(queue));
                reading["period_s"] = json!(self.setting.period_s);
                if bit(post.faulty, n) {
                    reading["fault"] = json!("communication");
                }
                readings.push(reading);
            }
            if post.reported {
                readings.push(signal_state(id, now, ["0", "1", "2", "3"][salt % 4], f64::from(u32::try_from(salt % 40).unwrap())));
            }
        }
        readings
    }

    /// Sends a request; true if there is no need to send it again.
    async fn send(&mut self, router: &Router, readings: &[Value], patience: Duration) -> bool {
        let body = Body::from(json!({"readings": readings}).to_string());
        // Without a name of its own each request gets one by chance.
        let request = Request::post("/v1/readings").header("content-type", "application/json").header("x-request-id", "storm");
        let request = request.body(body).unwrap();
        let Ok(answer) = timeout(patience, router.clone().oneshot(request)).await else { return false };
        let answer = answer.unwrap();
        let status = answer.status();
        assert!(status == StatusCode::ACCEPTED || status == StatusCode::SERVICE_UNAVAILABLE, "{status}");
        let body: Value = serde_json::from_slice(&to_bytes(answer.into_body(), usize::MAX).await.unwrap()).unwrap();
        let rejected: Vec<_> = body["rejected"].as_array().unwrap().iter().map(|rejection| rejection["index"].as_u64().unwrap()).collect();
        let mut accepted: BTreeMap<String, Vec<SensorReading>> = BTreeMap::new();
        for (index, reading) in (0..).zip(readings) {
            let reading = parse_reading(&serde_json::value::to_raw_value(reading).unwrap()).unwrap();
            if !rejected.contains(&index) {
                accepted.entry(reading.key().to_owned()).or_default().push(reading);
            }
        }
        for readings in accepted.values_mut() {
            readings.sort_by_key(SensorReading::time);
        }
        self.town.accepted.extend(accepted);
        status == StatusCode::ACCEPTED
    }

    /// The storm is over: all that it left is worked off, and everything is heard once more.
    async fn end(mut self) -> Result<Town, String> {
        self.dice.values().for_each(Dice::quiet);
        self.town.store.bound_logs(10_000, 1_000);
        while self.background.join_next().await.is_some() {}
        self.drain().await?;
        sleep(Duration::from_secs(u64::from(self.setting.period_s))).await;
        let keys = (0..KEYS.len()).collect();
        let last = Post { keys, after: 0, silent: 0, faulty: 0, skewed: 0, skew_s: 0, reported: true, patience_ms: 30_000, again: 0 };
        let readings = self.readings(&last);
        let router = self.router.clone();
        if !self.send(&router, &readings, FUNCTION_TIMEOUT).await {
            return Err("the last readings are not accepted although nothing fails any more".into());
        }
        self.drain().await?;
        for poller in self.pollers {
            poller.stop().await;
        }
        Ok(self.town)
    }

    async fn drain(&self) -> Result<(), String> {
        let lags = || [signal_adjustment::FUNCTION, maintenance_prediction::FUNCTION].map(|name| self.town.store.lag(name).unwrap());
        for _ in 0..LOOKS {
            if lags() == [0, 0] {
                return Ok(());
            }
            sleep(Duration::from_secs(5)).await;
        }
        Err("the checkpoints do not reach the end of the stream although nothing fails any more".into())
    }
}

/// Splits and merges shards, as far as they can be.
async fn reshard(store: &Store, reshards: &[Reshard]) {
    for Reshard { which, split } in reshards {
        let open = store.open_shards().unwrap();
        let place = usize::from(*which) % open.len();
        let ((first, shard), next) = (open[place], open.get(place + 1).copied());
        let outcome = match (split, next) {
            (Some(share), _) => {
                let width = next.map_or(u32::MAX, |(next, _)| next - 1) - first;
                store.split(shard, first.saturating_add(1 + u32::try_from((u64::from(width) * u64::from(*share)) >> 8).unwrap())).await
            }
            (None, Some((_, next))) => store.merge(shard, next).await,
            (None, None) => continue,
        };
        match outcome {
            Ok(children) => assert!(children.iter().all(|&child| !store.end_of(child).unwrap().borrow().closed)),
            Err(error) => assert!(matches!(error, ReshardError::Full | ReshardError::NotDivided { .. }), "{error}"),
        }
        assert!(store.end_of(shard).unwrap().borrow().closed || store.open_shards().unwrap() == open);
        assert_eq!(store.open_shards().unwrap()[0].0, 0);
    }
}

/// What new instances are made of.
struct Parts<'s> {
    setting: &'s Setting,
    dice: &'s BTreeMap<u8, Dice>,
    clock: &'s VirtualClock,
    town: &'s Town,
}

impl Parts<'_> {
    fn faulty<S>(&self, inner: S, spot: Spot) -> FaultyStore<S> {
        let faults =
            StoreFaults { throttle: 0.2, timeout_after: 0.2, conflict_before: 0.1, conflict_after: 0.1, hang: 0.1, slow: 0.2, panic: 0.1 };
        FaultyStore { inner, faults, dice: self.dice[&(spot as u8)].clone() }
    }

    fn quarantine(&self) -> FaultyStore<Store> {
        self.faulty(self.town.store.clone(), Spot::Quarantine)
    }

    fn signals(&self) -> Arc<Signals> {
        let store = self.faulty(Witness::new(self.town.store.clone(), Arc::clone(&self.town.log)), Spot::SignalsStore);
        Arc::new(Signals::new(store, self.clock.clone(), Deciseconds::from_secs(self.setting.configuration_ttl_s)))
    }

    fn maintenance(&self) -> Arc<Maintenance> {
        let store = self.faulty(Witness::new(self.town.store.clone(), Arc::clone(&self.town.log)), Spot::MaintenanceStore);
        let (bus, ttl) = (self.faulty(self.town.bus.clone(), Spot::Bus), Deciseconds::from_secs(self.setting.configuration_ttl_s));
        Arc::new(Maintenance::new(store, bus, Memory::new(), self.clock.clone(), ttl))
    }

    fn router(&self) -> Router {
        let faults = StreamFaults { refuse: 0.4, fail_before: 0.3, fail_after: 0.3 };
        let stream = FaultyStream { inner: self.town.store.clone(), faults, dice: self.dice[&(Spot::Stream as u8)].clone() };
        // Without the random part of the wait, which would differ from run to run.
        let wait = |time: Duration| sleep(Duration::from_millis(100 << (time.as_millis() / 100).max(1).ilog2()));
        shared::http::complete(sensor_ingestion::router(stream, self.clock.clone(), wait, Config::OPEN))
    }
}

fn script(strikes: &[Strike], spot: Spot) -> Dice {
    let mine = strikes.iter().filter(|strike| strike.spot == spot);
    Dice::scripted(mine.flat_map(|strike| (strike.call..strike.call + strike.calls).map(|call| (u64::from(call), strike.fault))).collect())
}

fn varied(mapping: &Mapping, template: &Settings) -> Settings {
    Settings {
        batch_size: mapping.batch,
        maximum_batching_window_in_seconds: mapping.window_s,
        parallelization_factor: mapping.lanes,
        bisect_batch_on_function_error: mapping.bisect,
        maximum_retry_attempts: mapping.retries,
        maximum_record_age_in_seconds: mapping.age_s,
        ..template.clone()
    }
}

async fn handle_signals(
    log: &Log,
    event: KinesisEvent,
    workflow: &Signals,
    quarantine: &FaultyStore<Store>,
    again: bool,
) -> KinesisEventResponse {
    let call = Arc::new(Call::batch(signal_adjustment::FUNCTION, event.clone(), again));
    log.calls.lock().unwrap().push(Arc::clone(&call));
    let response = CALL.scope(Arc::clone(&call), signal_adjustment::handle(event, workflow, quarantine)).await;
    *call.response.lock().unwrap() = Some(response.clone());
    response
}

async fn handle_maintenance(
    log: &Log,
    event: KinesisEvent,
    workflow: &Maintenance,
    quarantine: &FaultyStore<Store>,
    again: bool,
) -> KinesisEventResponse {
    let call = Arc::new(Call::batch(maintenance_prediction::FUNCTION, event.clone(), again));
    log.calls.lock().unwrap().push(Arc::clone(&call));
    let response = CALL.scope(Arc::clone(&call), maintenance_prediction::handle(event, workflow, quarantine)).await;
    *call.response.lock().unwrap() = Some(response.clone());
    response
}
