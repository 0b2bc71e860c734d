//! The process as its user has it: killed under load it loses nothing that it answered, told to end it ends, and where it
//! cannot start it says why.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use greenwave::clock::SystemClock;
use greenwave::mapping::Room;
use greenwave::store::Store;
use greenwave::stream::{Sequence, shard_of};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use shared::ids::IntersectionId;
use shared::intersection::Intersection;
use shared::memory::{ManualClock, Memory};
use shared::plan::DecisionRecord;
use shared::ports::{DecisionLog, IntersectionStore, JunctionStore};
use shared::reading::SensorReading;
use shared::units::{Deciseconds, Timestamp};
use shared::wire::{ReadingRecord, parse_reading};
use signal_adjustment::workflow::Workflow;
use tempfile::TempDir;
use tests::junction::{STEP_S, at, configuration, random_step};
use tests::{Client, eventually};

const SEED: u64 = 1;

/// What a host says that ends as it is told.
const ENDED: &str = "Finishing what is under way. Ctrl-C again ends at once.\nEverything is on disk.\n";
const KILLS: usize = 6;
const THREADS: usize = 4;
const JUNCTIONS_PER_THREAD: usize = 2;

fn command(directory: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_greenwave"));
    command.arg("serve").args(["--port", &port.to_string()]).arg("--data-dir").arg(directory);
    command
}

/// A running host; killed when dropped.
struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut child = command(directory, 0).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.split_once("http://").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        Self { child, stdout, address: address.unwrap_or_else(|| panic!("the host says {line:?}")) }
    }

    fn client(&self) -> Client {
        Client::new(self.address)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.child.id())]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a signal, waits for the end, and gives the exit code and what was still said.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal);
        let mut said = String::new();
        self.stdout.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a sensor gateway sends of one junction, and what it hears.
struct Gateway {
    id: String,
    rng: ChaCha8Rng,
    step: i64,
    /// Readings of each request in their order, and whether they were accepted; if not, nobody knows.
    posts: Vec<(Vec<Value>, bool)>,
    /// Plans that were shown, by the time they rest on.
    shown: BTreeMap<String, Value>,
}

impl Gateway {
    fn new(number: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(number.try_into().unwrap());
        Self { id: format!("J{number}"), rng, step: 0, posts: Vec::new(), shown: BTreeMap::new() }
    }

    fn new_step(&mut self) -> Vec<Value> {
        self.step += 1;
        random_step(&self.id, at(self.step * STEP_S), &mut self.rng)
    }

    /// Mostly a new step; now and then the last request again, or an old one.
    fn next(&mut self) -> Vec<Value> {
        let sent = self.posts.len();
        match self.rng.random_range(0..20) {
            0 | 1 if sent > 0 => self.posts[sent - 1].0.clone(),
            2 if sent > 0 => self.posts[self.rng.random_range(0..sent)].0.clone(),
            _ => self.new_step(),
        }
    }

    /// Sends readings; false if no answer came.
    fn post(&mut self, client: &Client, readings: Vec<Value>) -> bool {
        let body = json!(readings).to_string();
        let answer = client.try_send("POST", "/v1/readings", &[("content-type", "application/json")], body.as_bytes());
        if let Ok(answer) = &answer {
            assert_eq!(answer.status, 202, "{answer:?}");
        }
        self.posts.push((readings, answer.is_ok()));
        answer.is_ok()
    }

    /// Looks at the plan: what was shown once for a time is shown for it ever after, a crash in between or not.
    fn look(&mut self, client: &Client) -> Option<String> {
        let answer = client.try_send("GET", &format!("/v1/intersections/{}/plan", self.id), &[], &[]).ok()?;
        if answer.status == 404 {
            return None;
        }
        let as_of = answer.json()["as_of"].as_str().unwrap().to_owned();
        let before = self.shown.insert(as_of.clone(), answer.json());
        assert!(before.as_ref().is_none_or(|before| *before == answer.json()), "{before:?} and later {answer:?}");
        Some(as_of)
    }

    /// Sends one request and tells of its answer; false if there is none.
    fn go_on(&mut self, client: &Client, answered: &Sender<()>) -> bool {
        let readings = self.next();
        if !self.post(client, readings) {
            return false;
        }
        if self.rng.random_bool(0.3) {
            self.look(client);
        }
        // Nobody counts any more once the host is to be killed.
        let _ = answered.send(());
        true
    }
}

#[test]
fn what_was_answered_takes_effect_once_although_the_process_is_killed_again_and_again() {
    let directory = TempDir::new().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut gateways: Vec<_> = (0..THREADS * JUNCTIONS_PER_THREAD).map(Gateway::new).collect();

    for kill in 0..KILLS {
        let mut process = Process::start(directory.path());
        if kill == 0 {
            configure(&process.client(), &gateways);
        }
        load_until_killed(&mut process, &mut gateways, rng.random_range(20..400));
    }

    let process = Process::start(directory.path());
    let client = process.client();
    for gateway in &mut gateways {
        let readings = gateway.new_step();
        assert!(gateway.post(&client, readings));
    }
    for gateway in &mut gateways {
        let newest = at(gateway.step * STEP_S).to_string();
        let what = format!("the plan of {} as of {newest}", gateway.id);
        eventually(&what, || gateway.look(&client).filter(|as_of| *as_of == newest));
    }
    assert_eq!(process.end("TERM"), (Some(0), ENDED.into()));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Store::open(directory.path(), 4, SystemClock).unwrap();
    assert_eq!(store.lag(signal_adjustment::FUNCTION), Ok(0));
    assert_eq!(store.failed_batches(None, 500).unwrap().items, []);
    assert_eq!(store.quarantined(None, 500).unwrap().items, []);
    let records = read_stream(&store);
    for gateway in &gateways {
        let records: Vec<_> = records.iter().filter(|record| record.key == gateway.id).cloned().collect();
        assert_holds_what_was_sent(gateway, &records);
        runtime.block_on(assert_effect_is_that_of_one_run(gateway, &records, &store));
    }
}

fn configure(client: &Client, gateways: &[Gateway]) {
    for gateway in gateways {
        let answer = client.send_json("PUT", &format!("/v1/intersections/{}", gateway.id), &[], &configuration(&gateway.id));
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

/// Kills the process after so many answers, while requests are under way.
fn load_until_killed(process: &mut Process, gateways: &mut [Gateway], answers: usize) {
    let (sender, answered) = channel();
    let client = &process.client();
    thread::scope(|scope| {
        for mine in gateways.chunks_mut(JUNCTIONS_PER_THREAD) {
            let sender = sender.clone();
            scope.spawn(move || while mine.iter_mut().all(|gateway| gateway.go_on(client, &sender)) {});
        }
        drop(sender);
        let counted = answered.iter().take(answers).count();
        process.kill();
        assert_eq!(counted, answers, "the host was gone before it was killed");
    });
}

/// All records of the stream, those of a key in their order; no number is missing.
fn read_stream(store: &Store) -> Vec<ReadingRecord> {
    let mut all = Vec::new();
    for shard in store.shards() {
        let mut last = Sequence::START;
        loop {
            let records = store.records_after(shard, last, Room { records: 1000, bytes: usize::MAX }).unwrap();
            let Some(newest) = records.last() else { break };
            let in_row = records.iter().zip(last.get() + 1..).all(|(record, number)| record.sequence.get() == number);
            assert!(in_row, "a gap in shard {shard} after {last}");
            last = newest.sequence;
            all.extend(records.iter().map(|record| {
                assert_eq!(shard_of(&record.key, 4), shard);
                ReadingRecord::from_bytes(&record.data).unwrap()
            }));
        }
        assert_eq!(store.end_of(shard).unwrap().borrow().last, last);
    }
    all
}

/// The stream has every accepted request once and in order, of those without an answer some, and nothing else.
fn assert_holds_what_was_sent(gateway: &Gateway, records: &[ReadingRecord]) {
    let parse = |readings: &[Value]| -> Vec<SensorReading> {
        readings.iter().map(|reading| parse_reading(&serde_json::value::to_raw_value(reading).unwrap()).unwrap()).collect()
    };
    // How many records may stand for the requests so far: one without an answer leaves it open.
    let mut reached = BTreeSet::from([0]);
    for (number, (readings, accepted)) in gateway.posts.iter().enumerate() {
        let readings = parse(readings);
        let is_next = |n: &&usize| records.get(**n).is_some_and(|record| record.readings == readings);
        let taken: BTreeSet<_> = reached.iter().filter(is_next).map(|n| n + 1).collect();
        reached = if *accepted { taken } else { taken.union(&reached).copied().collect() };
        assert!(!reached.is_empty(), "seed {SEED}: request {number} of {} is lost or out of place", gateway.id);
    }
    assert!(reached.contains(&records.len()), "seed {SEED}: the stream of {} has what nobody sent", gateway.id);
}

/// The stored row and decisions, and every plan that was ever shown, are those of one run over the stream without a crash.
async fn assert_effect_is_that_of_one_run(gateway: &Gateway, records: &[ReadingRecord], store: &Store) {
    let id = IntersectionId::try_from(gateway.id.as_str()).unwrap();
    let memory = Memory::new();
    memory.put(None, &Intersection::try_from(configuration(&gateway.id)).unwrap()).await.unwrap();
    let workflow = Workflow::new(memory.clone(), ManualClock::at(at(0)), Deciseconds::from_secs(60));
    let mut plans = BTreeMap::new();
    for record in records {
        workflow.handle(&gateway.id, std::slice::from_ref(record)).await.unwrap();
        let plan = memory.load(&id).await.unwrap().unwrap().plan;
        plans.insert(plan.as_of.to_string(), json!(plan));
    }
    for (as_of, shown) in &gateway.shown {
        assert_eq!(Some(shown), plans.get(as_of), "seed {SEED}: a plan of {} was shown that does not follow from the stream", gateway.id);
    }
    let (expected, stored) = (memory.load(&id).await.unwrap().unwrap(), store.load(&id).await.unwrap().unwrap());
    assert_eq!((stored.plan, stored.state), (expected.plan, expected.state), "seed {SEED}: {}", gateway.id);
    assert!(decisions(store, &id).await == decisions(&memory, &id).await, "seed {SEED}: decisions of {}", gateway.id);
}

async fn decisions(log: &impl DecisionLog, id: &IntersectionId) -> Vec<DecisionRecord> {
    let (from, to) = (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX));
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = log.decisions(id, from, to, after, 500).await.unwrap();
        after = page.items.last().map(|record: &DecisionRecord| record.as_of);
        all.extend(page.items);
        if page.next.is_none() {
            return all;
        }
    }
}

#[test]
fn a_host_that_is_told_to_end_puts_everything_on_disk_and_ends_well() {
    for signal in ["TERM", "INT"] {
        let directory = TempDir::new().unwrap();
        let process = Process::start(directory.path());
        // A connection that is kept open does not hold it back.
        let client = process.client();
        assert_eq!(client.get("/v1/health").status, 200);
        assert_eq!(process.end(signal), (Some(0), ENDED.into()), "{signal}");
    }
}

#[test]
fn a_host_that_waits_for_a_request_ends_at_once_when_it_is_told_again() {
    let directory = TempDir::new().unwrap();
    let mut process = Process::start(directory.path());
    let mut connection = TcpStream::connect(process.address).unwrap();
    let head = "POST /v1/readings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    write!(connection, "{head}content-length: 9\r\nexpect: 100-continue\r\n\r\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&connection).read_line(&mut answer).unwrap();
    assert!(answer.contains("100"), "it waits for the body: {answer}");

    process.signal("INT");
    let mut said = String::new();
    process.stdout.read_line(&mut said).unwrap();
    assert_eq!(Some(said.trim_end()), ENDED.lines().next());
    assert_eq!(process.end("INT"), (Some(130), String::new()));
}

#[test]
fn a_second_host_on_the_same_directory_or_port_is_refused_and_told_what_to_do() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let process = Process::start(directory.path());
    let refused = |Output { status, stdout, stderr }: Output| {
        assert_eq!((status.code(), stdout), (Some(1), vec![]));
        String::from_utf8(stderr).unwrap()
    };

    let file = directory.path().join("greenwave.redb");
    let said = refused(command(directory.path(), 0).output().unwrap());
    let expected = format!("greenwave: {} is in use by another process: stop that one or choose another data directory\n", file.display());
    assert_eq!(said, expected);

    let port = process.address.port();
    let said = refused(command(other.path(), port).output().unwrap());
    assert!(said.starts_with(&format!("greenwave: port {port} of 127.0.0.1 cannot be used: ")), "{said}");
    assert!(said.ends_with("Choose another with --port\n"), "{said}");

    assert_eq!(process.client().get("/v1/health").status, 200);
}
