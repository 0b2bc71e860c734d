//! Repairs the path of an event from API Gateway before it becomes a URI.

use lambda_http::LambdaEvent;
use lambda_http::request::LambdaRequest;

/// Encodes again what the gateway decoded.
///
/// An HTTP API delivers `/v1/intersections/J%231` as `/v1/intersections/J#1`. `lambda_http` pastes that into a URI, where '#'
/// begins a fragment: the request would be about intersection `J`. Other hosts (function URLs, emulators) deliver the path as
/// it was sent; what is encoded there stays as it is.
pub(crate) fn encode(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
    if let LambdaRequest::ApiGatewayV2(request) = &mut event.payload {
        request.raw_path = request.raw_path.take().map(|path| encoded(&path));
    }
    event
}

/// The path with every byte percent-encoded that cannot stand in a URI's path.
fn encoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut encoded = String::with_capacity(path.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = byte == b'%' && is_hex(at + 1) && is_hex(at + 2);
        let stands = escape || byte.is_ascii_alphanumeric() || b"/:@-._~!$&'()*+,;=".contains(&byte);
        if stands { encoded.push(char::from(byte)) } else { encoded.extend(["%", &format!("{byte:02X}")]) }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn a_path_that_the_gateway_decoded_still_names_the_same_intersection() {
        assert_eq!(encoded("/v1/intersections/J#1/plan"), "/v1/intersections/J%231/plan");
        assert_eq!(encoded("/v1/intersections/a b?ä"), "/v1/intersections/a%20b%3F%C3%A4");
        assert_eq!(encoded("/100%"), "/100%25");
    }

    #[test]
    fn a_path_as_it_was_sent_stays() {
        for path in ["/", "/v1/intersections/J%231/plan", "/v1/intersections/a.b_c:d-e/decisions", "/~!$&'()*+,;=@"] {
            assert_eq!(encoded(path), path);
        }
    }
}
