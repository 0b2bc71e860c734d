//! The bytes of a request: coding and size.

use std::io::Read;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use flate2::bufread::MultiGzDecoder;
use shared::http::{Problem, content_coding, read_body, require_json};

/// Longest body, both as sent and unpacked.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

const TOO_LARGE: &str = "body_too_large";

/// Reads the body and unpacks it.
///
/// # Errors
/// 415 `unsupported_media_type`, 413 `body_too_large`, 400 `invalid_gzip` or `incomplete_body`.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    require_json(headers)?;
    let coding = content_coding(headers, &["gzip"])?;
    let bytes = read_body(body, BODY_BYTES_MAX, TOO_LARGE).await?;
    if coding == "gzip" { gunzip(&bytes).map(Bytes::from) } else { Ok(bytes) }
}

fn gunzip(packed: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::with_capacity(packed.len().saturating_mul(4).min(BODY_BYTES_MAX));
    // One byte more than is allowed tells a body that is too long from one that just fits.
    let unpacked = MultiGzDecoder::new(packed).take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    match unpacked {
        Ok(_) if bytes.len() > BODY_BYTES_MAX => {
            let detail = format!("The body is longer than {BODY_BYTES_MAX} bytes when unpacked. Send it in smaller parts.");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE, detail))
        }
        Ok(_) => Ok(bytes),
        Err(error) => {
            let detail = format!("The body does not unpack as gzip: {error}. Send it as it is or pack it again.");
            Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_gzip", detail))
        }
    }
}
