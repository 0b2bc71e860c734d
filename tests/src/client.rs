//! A client of the API over plain HTTP.

use std::net::SocketAddr;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

use crate::DEADLINE;

/// Sends requests to one host.
pub struct Client {
    agent: Agent,
    base: String,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header as text, empty if it is not there.
    ///
    /// # Panics
    /// If it is no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Client {
    /// A client of the host at this address.
    pub fn new(address: SocketAddr) -> Self {
        // The environment may name a proxy, which would not reach this machine's own ports.
        // A host may close a connection behind an answer, above all if it did not read the body: none is used twice.
        let config = Agent::config_builder().proxy(None).http_status_as_error(false).timeout_global(Some(DEADLINE)).max_idle_connections(0);
        Self { agent: config.build().into(), base: format!("http://{address}") }
    }

    /// Sends a request whose answer must come.
    ///
    /// # Panics
    /// If it does not.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a request whose answer may be missing, because the host may end.
    ///
    /// # Errors
    /// [`ureq::Error`] if there is no complete answer; the request may have taken effect.
    ///
    /// # Panics
    /// If the method, the path or a header is malformed.
    pub fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            [] => self.agent.run(request.body(()).unwrap()),
            body => self.agent.run(request.body(body).unwrap()),
        }?;
        let text = response.body_mut().read_to_string()?;
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), text })
    }

    /// Reads.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &[])
    }

    /// Sends JSON.
    pub fn send_json(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.send(method, path, &headers, body.to_string().as_bytes())
    }
}
