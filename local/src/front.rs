//! The HTTP front: who is slow, silent or endless gets what a gateway would give them.

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use shared::http::Problem;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// How long anybody is waited for, and how much they may say before they come to the point.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the beginning of a connection, or the end of an answer, to the end of the next request's head. The connection is
    /// closed without an answer.
    pub head: Duration,
    /// From the end of the head to the answer; 408. Also how long requests that are under way may take when the host ends.
    pub request: Duration,
    /// Bytes of a head; 431. More than 100 headers are too many as well.
    pub head_bytes: usize,
}

impl Limits {
    /// Those of the local host: API Gateway's where they may be as narrow.
    pub const LOCAL: Self = Self {
        // A controller that asks once a minute keeps its connection.
        head: Duration::from_secs(90),
        // As long as API Gateway waits for a function.
        request: Duration::from_secs(30),
        // API Gateway takes 10 240, and counts fewer of them.
        head_bytes: 16 * 1024,
    };

    /// Answers 408 where a route takes longer than a request may.
    pub fn on(self, router: Router) -> Router {
        router.layer(middleware::from_fn(move |request: Request, next: Next| async move {
            timeout(self.request, next.run(request)).await.unwrap_or_else(|_| too_slow())
        }))
    }
}

fn too_slow() -> Response {
    let detail = "The request was not complete, or not answered, in time. It may have taken effect.";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail).into_response()
}

/// Answers 403 to the pages of others: a browser on this machine reaches the host as well, and nobody signs in here.
pub fn refuse_strangers(router: Router) -> Router {
    router.layer(middleware::from_fn(
        async |request: Request, next: Next| {
            if is_of_this_host(request.headers()) { next.run(request).await } else { stranger() }
        },
    ))
}

/// Whether the request names this machine by its address, which no other name can stand for, and comes from its own page if
/// from any.
fn is_of_this_host(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST);
    let is_address = |host: &str| {
        let name = host.parse::<Authority>().map(|authority| authority.host().trim_matches(['[', ']']).to_owned());
        name.is_ok_and(|name| name == "localhost" || name.parse::<IpAddr>().is_ok())
    };
    let is_own = |origin: &str| origin.strip_prefix("http://").is_some_and(|page| Some(page) == host);
    host.is_none_or(is_address) && text(ORIGIN).is_none_or(is_own)
}

fn stranger() -> Response {
    let detail = "The local host answers programs, and its own page, under 127.0.0.1 or localhost.";
    Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail).into_response()
}

/// Answers requests until `stop`, then finishes what is under way.
pub async fn serve(mut listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_header_size(limits.head_bytes);
    let service = TowerToHyperService::new(router);
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        // This accept waits out a lack of sockets and never fails.
        let (connection, _) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = &mut stop => break,
        };
        // A plan must not wait for a full packet.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        let served = connections.watch(http.serve_connection(TokioIo::new(connection), service.clone()));
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection broke off");
            }
        });
    }
    drop(listener);
    if timeout(limits.request, connections.shutdown()).await.is_err() {
        tracing::warn!("connections were cut off that did not come to an end");
    }
}

#[cfg(test)]
mod tests;
