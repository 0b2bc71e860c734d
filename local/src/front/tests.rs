use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use ::tests::{Client, DEADLINE};
use axum::body::Body;
use axum::routing::{get, post};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::*;

const HEAD: &str = "POST /length HTTP/1.1\r\nhost: here\r\nconnection: close\r\n";
/// Nobody is waited for until the end of a test.
const PATIENT: Limits = Limits { head: DEADLINE, request: DEADLINE, head_bytes: 16 * 1024 };
const SHORT: Duration = Duration::from_millis(500);

/// A front before a route that tells how long a body is.
struct Front {
    address: SocketAddr,
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Front {
    fn start(limits: Limits) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let length = async |body: Body| shared::http::read_body(body, 100, "").await.map(|body| body.len().to_string());
        let router = Router::new().route("/", get(async || "here")).route("/length", post(length));
        let (stop, stopped) = oneshot::channel();
        let router = shared::http::complete(limits.on(router));
        let served = runtime.spawn(serve(listener, router, limits, async { drop(stopped.await) }));
        Self { address, runtime, stop, served }
    }

    fn connect(&self, sent: impl AsRef<[u8]>) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        connection.write_all(sent.as_ref()).unwrap();
        connection
    }

    /// All that is answered until the connection is closed.
    fn answer(&self, sent: impl AsRef<[u8]>) -> String {
        rest(self.connect(sent))
    }
}

fn rest(mut connection: TcpStream) -> String {
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[test]
fn a_head_that_does_not_end_is_cut_off_and_so_is_silence() {
    let front = Front::start(Limits { head: SHORT, ..PATIENT });
    for sent in ["", "GET", "GET / HTTP/1.1\r\nhost: here\r\n", "GET / HTTP/1.1\r\nhost: here\r\n\r\n"] {
        let answers = front.answer(sent).matches("HTTP/1.1 200").count();
        assert_eq!(answers, usize::from(sent.ends_with("\r\n\r\n")), "{sent:?}");
    }
}

#[test]
fn a_body_that_does_not_end_is_a_problem() {
    let front = Front::start(Limits { request: SHORT, ..PATIENT });
    for body in ["content-length: 9\r\n\r\n1234", "transfer-encoding: chunked\r\n\r\n4\r\n1234\r\n", "content-length: 9\r\n\r\n"] {
        let answer = front.answer(format!("{HEAD}{body}"));
        assert_eq!(status(&answer), "408", "{body:?}");
        assert!(answer.contains("application/problem+json") && answer.contains("x-request-id") && answer.contains("request_timeout"));
    }
}

#[test]
fn a_head_over_its_limits_is_refused() {
    let front = Front::start(PATIENT);
    let with = |headers: String| front.answer(format!("{HEAD}{headers}\r\n"));
    let many = |count: usize| "x-y: 1\r\n".repeat(count.saturating_sub(2));
    assert_eq!(status(&with(many(100))), "200");
    assert_eq!(status(&with(many(101))), "431");
    let filled = |bytes: usize| format!("x: {}\r\n", "x".repeat(bytes - HEAD.len() - "x: \r\n\r\n".len()));
    assert_eq!(status(&with(filled(PATIENT.head_bytes))), "200");
    assert_eq!(status(&with(filled(PATIENT.head_bytes + 1))), "431");
    let uri = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(PATIENT.head_bytes));
    assert_eq!(status(&front.answer(uri)), "431");
}

#[test]
fn what_is_not_http_is_refused() {
    let front = Front::start(PATIENT);
    for sent in [
        "\0\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("{HEAD}no colon\r\n\r\n"),
        format!("{HEAD}content-length: 1\r\ncontent-length: 2\r\n\r\n12"),
        format!("{HEAD}content-length: -1\r\n\r\n"),
        format!("{HEAD}transfer-encoding: gzip\r\n\r\n"),
    ] {
        assert_eq!(status(&front.answer(&sent)), "400", "{sent:?}");
    }
    let both = front.answer(format!("{HEAD}content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"));
    assert_eq!(both.matches("HTTP/1.1").count(), 1, "one of two meanings: {both}");
}

#[test]
fn the_page_of_a_stranger_is_refused() {
    for (headers, expected) in [
        (&[][..], true),
        (&[("host", "127.0.0.1:8080")], true),
        (&[("host", "localhost:8080")], true),
        (&[("host", "[::1]:8080")], true),
        (&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")], true),
        (&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:9090")], false),
        (&[("host", "127.0.0.1:8080"), ("origin", "https://evil.example")], false),
        (&[("host", "127.0.0.1:8080"), ("origin", "null")], false),
        (&[("host", "evil.example:8080")], false),
        (&[("host", "127.0.0.1.evil.example")], false),
        (&[("host", "evil@127.0.0.1@evil.example")], false),
        (&[("host", "evil.example"), ("origin", "http://evil.example")], false),
        (&[("host", "")], false),
    ] {
        let headers: HeaderMap = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let router = refuse_strangers(Router::new().route("/", get(async || "here")));
        let mut request = Request::get("/").body(Body::empty()).unwrap();
        request.headers_mut().clone_from(&headers);
        let answer = Runtime::new().unwrap().block_on(router.oneshot(request)).unwrap();
        assert_eq!(answer.status(), if expected { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{headers:?}");
    }
}

#[test]
fn others_are_answered_while_some_say_nothing() {
    let front = Front::start(PATIENT);
    let _silent = [(); 200].map(|()| front.connect("GET / HTTP/1.1\r\n"));
    assert_eq!(Client::new(front.address).get("/").text, "here");
}

#[test]
fn an_end_waits_for_what_is_under_way_and_for_nobody_else() {
    let front = Front::start(PATIENT);
    let silent = front.connect("");
    let mut sending = front.connect(format!("{HEAD}expect: 100-continue\r\ncontent-length: 4\r\n\r\n"));
    let mut begun = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    sending.read_exact(&mut begun).unwrap();
    front.stop.send(()).unwrap();
    assert_eq!(rest(silent), "");
    sending.write_all(b"1234").unwrap();
    let answer = rest(sending);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n4"), "{answer}");
    front.runtime.block_on(front.served).unwrap();
    assert!(TcpStream::connect(front.address).is_err(), "nobody is taken any more");
}

#[test]
fn an_end_does_not_wait_for_ever() {
    let front = Front::start(Limits { head: 100 * DEADLINE, request: SHORT, ..PATIENT });
    let _half = front.connect("GET / HTTP/1.1\r\n");
    assert_eq!(Client::new(front.address).get("/").text, "here", "connections are taken in their order");
    front.stop.send(()).unwrap();
    front.runtime.block_on(front.served).unwrap();
}
