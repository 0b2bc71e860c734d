//! What both HTTP functions need: problem responses (RFC 9457), request ids, bodies with a limit.

use std::any::Any;
use std::io::Read;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use flate2::bufread::MultiGzDecoder;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use crate::fields::Fault;
use crate::ids::IntersectionId;
use crate::intersection::InvalidDocument;
use crate::ports::PortError;

/// The header that names a request in answers and logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The code of a body that is over its limit.
pub const BODY_TOO_LARGE: &str = "body_too_large";

/// An error answer: `application/problem+json` with a stable code.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem with its code and one sentence that says what to do.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), members: Map::new(), headers: Vec::new() }
    }

    /// Nothing is there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// A document of the request has these faults.
    pub fn of_faults(code: &'static str, faults: &[Fault]) -> Self {
        let detail = match faults.len() {
            1 => "One field is wrong; see errors.".to_owned(),
            n => format!("{n} fields are wrong; see errors."),
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail).with_errors(faults)
    }

    /// Adds a member beside the standard ones.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.members.insert(name.to_owned(), value);
        }
        self
    }

    /// The document has these faults.
    #[must_use]
    pub fn with_errors(self, errors: impl Serialize) -> Self {
        self.with("errors", errors)
    }

    /// The request may be repeated after so many seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with_header(RETRY_AFTER, seconds)
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        self.headers.extend(value.try_into().ok().map(|value| (name, value)));
        self
    }

    /// The problem as JSON.
    pub fn into_body(self) -> Value {
        let standard = [
            ("type", json!(format!("urn:greenwave:problem:{}", self.code))),
            ("title", json!(self.status.canonical_reason().unwrap_or("Error"))),
            ("status", json!(self.status.as_u16())),
            ("code", json!(self.code)),
            ("detail", json!(self.detail)),
        ];
        let mut body = self.members;
        body.extend(standard.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(body)
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        tracing::error!(error = %error, retry = error.retry(), "a store failed");
        if let PortError::Outdated(id, invalid) = error {
            return outdated(&id, &invalid);
        }
        if error.retry() {
            let detail = "A store is busy or out of reach. Nothing is lost: send the request again.";
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail).retry_after(1)
        } else {
            internal_error()
        }
    }
}

fn outdated(id: &IntersectionId, invalid: &InvalidDocument) -> Problem {
    let detail = format!(
        "An earlier version accepted the stored configuration of {id}; this one refuses it: {invalid}. \
         Put a corrected one over it with if-match: *."
    );
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "outdated_configuration", detail);
    match invalid {
        InvalidDocument::Faults(faults) => problem.with_errors(faults),
        InvalidDocument::NotJson(_) => problem,
    }
}

fn internal_error() -> Problem {
    let detail = "Something failed that should not have. The log has the details under this x-request-id.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail)
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let (status, own) = (self.status, std::mem::take(&mut self.headers));
        let mut response = (status, self.into_body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(own);
        response
    }
}

/// Checks that the body is said to be JSON in UTF-8, or nothing is said.
///
/// # Errors
/// 415 `unsupported_media_type` if it is said to be something else.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let (Some(given), more) = (all.next(), all.next()) else { return Ok(()) };
    let said = given.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = said.split(';').map(str::trim);
    let is_json = parts.next() == Some("application/json");
    let mut charsets = parts.filter_map(|parameter| parameter.strip_prefix("charset="));
    if is_json && more.is_none() && charsets.all(|charset| charset.trim_matches('"') == "utf-8") {
        return Ok(());
    }
    Err(unsupported(format!("Send the body as JSON in UTF-8 with the header content-type: application/json, not {given:?}.")))
}

/// The coding of the body, `identity` if the headers name none.
///
/// # Errors
/// 415 `unsupported_media_type` if it is neither `identity` nor one of those offered (in lower case).
pub fn content_coding(headers: &HeaderMap, offered: &[&'static str]) -> Result<&'static str, Problem> {
    let mut given = headers.get_all(CONTENT_ENCODING).iter();
    let (first, more) = (given.next(), given.next());
    let Some(first) = first else { return Ok("identity") };
    let said = first.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    let known = ["identity"].iter().chain(offered).find(|coding| **coding == said);
    match (known, more) {
        (Some(coding), None) => Ok(coding),
        _ if offered.is_empty() => Err(unsupported("Send the body as it is, without the header content-encoding.")),
        _ => Err(unsupported(format!("Send the body as it is, or with the header content-encoding: {}.", offered.join(" or ")))),
    }
}

fn unsupported(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 `too_large` if it is longer, 400 `incomplete_body` if it breaks off.
pub async fn read_body(body: Body, limit: usize, too_large: &'static str) -> Result<Bytes, Problem> {
    to_bytes(body, limit).await.map_err(|error| {
        let over = std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        if over {
            let detail = format!("The body is longer than {limit} bytes. Send it in smaller parts.");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, too_large, detail)
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", "The body broke off before its end. Send it again.")
        }
    })
}

/// Reads a JSON body of at most `limit` bytes, both as sent and unpacked: as it is, or packed with gzip.
///
/// # Errors
/// 415 `unsupported_media_type`, 413 `body_too_large`, 400 `invalid_gzip` or `incomplete_body`.
pub async fn read_packed_json(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    require_json(headers)?;
    let coding = content_coding(headers, &["gzip"])?;
    let bytes = read_body(body, limit, BODY_TOO_LARGE).await?;
    if coding == "gzip" { gunzip(&bytes, limit).map(Bytes::from) } else { Ok(bytes) }
}

fn gunzip(packed: &[u8], limit: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::with_capacity(packed.len().saturating_mul(4).min(limit));
    // One byte more than is allowed tells a body that is too long from one that just fits.
    let unpacked = MultiGzDecoder::new(packed).take(limit as u64 + 1).read_to_end(&mut bytes);
    match unpacked {
        Ok(_) if bytes.len() > limit => {
            let detail = format!("The body is longer than {limit} bytes when unpacked. Send it in smaller parts.");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, BODY_TOO_LARGE, detail))
        }
        Ok(_) => Ok(bytes),
        Err(error) => {
            let detail = format!("The body does not unpack as gzip: {error}. Send it as it is or pack it again.");
            Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_gzip", detail))
        }
    }
}

/// Adds to a router what every answer has: a request id, a problem for unknown routes and methods, and a 500 for a panic.
pub fn complete(router: Router) -> Router {
    router
        .fallback(|uri: Uri| async move { Problem::not_found(format!("There is nothing at {}.", uri.path())) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let detail = format!("{method} is not possible at {}; see the allow header.", uri.path());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .layer(CatchPanicLayer::custom(|_: Box<dyn Any + Send>| internal_error().into_response()))
        .layer(middleware::from_fn(name_request))
}

/// Takes the caller's request id if it is a sensible one, else makes one; logs the answer under it.
async fn name_request(mut request: Request, next: Next) -> Response {
    let sensible = |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let id = request.headers().get(REQUEST_ID).filter(sensible).cloned();
    let id = id.unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().to_string();
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("unnamed"))
    });
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    if status >= 500 {
        tracing::error!(request_id = ?id, %method, path, status, "a request failed");
    } else {
        tracing::debug!(request_id = ?id, %method, path, status, "request");
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
