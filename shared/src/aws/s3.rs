//! The quarantine and models over S3.

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;

use super::{chain, port_error};
use crate::ids::AssetKind;
use crate::ports::{ModelSource, PoisonRecord, PortError, Quarantine};

const PORT: &str = "the quarantine";
const MODELS: &str = "the bucket of models";

/// Bytes of one model: three times what training writes.
const MODEL_BYTES_MAX: i64 = 5 * 1024 * 1024;

/// Bytes of the key and of the reason in the metadata; S3 allows 2 KB for all names and values together.
const KEY_MAX: usize = 512;
const REASON_MAX: usize = 1024;

/// Keeps poison records as objects `{function}/{shard}/{sequence number}`: the bytes as delivered, and `key`, `function` and
/// `reason` as metadata.
#[derive(Clone, Debug)]
pub struct S3Quarantine {
    client: Client,
    bucket: String,
}

impl S3Quarantine {
    /// The bucket of this name.
    pub fn new(config: &SdkConfig, bucket: impl Into<String>) -> Self {
        Self { client: Client::new(config), bucket: bucket.into() }
    }
}

impl Quarantine for S3Quarantine {
    async fn quarantine(&self, record: &PoisonRecord) -> Result<(), PortError> {
        let call = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(object_key(record.function, &record.id))
            .metadata("key", printable(&record.key, KEY_MAX))
            .metadata("function", record.function)
            .metadata("reason", printable(&record.reason, REASON_MAX))
            // The first copy stays: a replay neither changes it nor makes another version.
            .if_none_match("*")
            .body(ByteStream::from(record.data.clone()));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("PreconditionFailed") => Ok(()),
            Err(error) => Err(port_error(PORT, &error)),
        }
    }
}

/// Reads models from objects `models/{kind}/{kind}.model`.
#[derive(Clone, Debug)]
pub struct S3Models {
    /// The client and the name of the bucket.
    bucket: Option<(Client, String)>,
}

impl S3Models {
    /// The bucket of this name; without one there are no models.
    pub fn new(config: &SdkConfig, bucket: Option<String>) -> Self {
        Self { bucket: bucket.map(|bucket| (Client::new(config), bucket)) }
    }
}

impl ModelSource for S3Models {
    async fn model(&self, kind: &AssetKind) -> Result<Option<Vec<u8>>, PortError> {
        let Some((client, bucket)) = &self.bucket else { return Ok(None) };
        let object = match client.get_object().bucket(bucket).key(model_key(kind)).send().await {
            Ok(object) => object,
            Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(port_error(MODELS, &error)),
        };
        if let Some(bytes) = object.content_length().filter(|bytes| *bytes > MODEL_BYTES_MAX) {
            return Err(PortError::Unusable(MODELS, format!("the model of {kind} has {bytes} bytes, more than {MODEL_BYTES_MAX}")));
        }
        let file = object.body.collect().await.map_err(|error| PortError::Unavailable(MODELS, chain(&error)))?;
        Ok(Some(file.to_vec()))
    }
}

/// Where the model of a kind lies. Every character of a kind may stand in a key as it is.
fn model_key(kind: &AssetKind) -> String {
    format!("models/{kind}/{kind}.model")
}

/// Where a record lies. The record's id is `{shard}:{sequence number}`, so the objects of a shard lie together in the order of
/// the stream. Different ids give different keys.
fn object_key(function: &str, id: &str) -> String {
    let encode = |byte: u8| match byte {
        b':' => "/".to_owned(),
        b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    format!("{function}/{}", id.bytes().map(encode).collect::<String>())
}

/// A text as a header can carry it: what is not printable ASCII percent-encoded, at most `max` bytes.
fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    let mut after_space = true;
    for byte in text.bytes() {
        // Headers lose spaces at their ends and repeated ones.
        let plain = byte != b'%' && byte.is_ascii_graphic() || byte == b' ' && !after_space;
        after_space = byte == b' ';
        let piece = if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        if out.len() + piece.len() > max {
            break;
        }
        out.push_str(&piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_always_lies_at_the_same_place_inside_its_function() {
        assert_eq!(object_key("signal-adjustment", "shardId-000000000006:4959"), "signal-adjustment/shardId-000000000006/4959");
        assert_eq!(object_key("f", "../x y"), "f/..%2Fx%20y");
    }

    #[test]
    fn a_model_lies_under_the_name_of_its_kind() {
        assert_eq!(model_key(&AssetKind::try_from("vehicle_engine").unwrap()), "models/vehicle_engine/vehicle_engine.model");
    }

    #[test]
    fn metadata_is_printable_and_bounded() {
        assert_eq!(printable("reading 3: /occupancy must be ≤ 100 %", 1024), "reading 3: /occupancy must be %E2%89%A4 100 %25");
        assert_eq!(printable(" a  b\r\n", 1024), "%20a %20b%0D%0A");
        let long = printable(&"ä".repeat(2000), REASON_MAX);
        assert!(long.len() <= REASON_MAX && long.len().is_multiple_of(3), "{}", long.len());
    }
}
