//! The quarantine and models over S3.

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use futures_util::{StreamExt, TryStreamExt};

use super::{chain, port_error};
use crate::ids::AssetKind;
use crate::ports::{ModelSource, Page, PoisonRecord, PortError, Quarantine, QuarantineReview};
use crate::quarantine::{Entry, HeldRecord, Kind, Replayed, failed_batch};
use crate::units::Timestamp;

const PORT: &str = "the quarantine";
const MODELS: &str = "the bucket of models";

/// Bytes of one model: three times what training writes.
const MODEL_BYTES_MAX: i64 = 5 * 1024 * 1024;

/// Bytes of the key and of the reason in the metadata; S3 allows 2 KB for all names and values together. Every key of printable
/// ASCII fits; one that does not (Kinesis takes 256 characters of any script) is cut, and [`KEY_CUT`] says so.
const KEY_MAX: usize = 1024;
const REASON_MAX: usize = 896;
const KEY_CUT: &str = "key-cut";

/// Where Lambda writes batches that an event source mapping gave up: `aws/lambda/{mapping}/{shard}/{date}/{time}-{random}`.
const BATCHES: &str = "aws/lambda/";
/// Where what is told of replayed entries lies, each under the name of its entry, and the first name behind all of these.
const REPLAYED: &str = "replayed/";
const BEHIND_REPLAYED: &str = "replayed0";

/// Largest object that is read. A payload of Lambda has 6 MB; as text in JSON it is a few per cent longer.
const OBJECT_BYTES_MAX: i64 = 32 * 1024 * 1024;
/// Objects read at a time.
const READS: usize = 16;

/// Keeps poison records as objects `{function}/{shard}/{sequence number}`: the bytes as delivered, and `key`, `function` and
/// `reason` as metadata. Lambda keeps failed batches in the same bucket.
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
        let key = printable(&record.key, KEY_MAX);
        let cut = (unescaped(&key) != record.key).then_some((KEY_CUT, "true"));
        let call = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(object_key(record.function, &record.id))
            .set_metadata(cut.map(|(name, value)| [(name.to_owned(), value.to_owned())].into()))
            .metadata("key", key)
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

impl S3Quarantine {
    /// Names of objects after a name, as one page.
    async fn names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, PortError> {
        let most = i32::try_from(limit).unwrap_or(i32::MAX);
        let call = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).max_keys(most);
        let answer = call.set_start_after(after.map(str::to_owned)).send().await.map_err(|error| port_error(PORT, &error))?;
        let more = answer.is_truncated() == Some(true);
        let items: Vec<String> = answer.contents.unwrap_or_default().into_iter().filter_map(|object| object.key).collect();
        Ok(Page { next: items.last().filter(|_| more).cloned(), items })
    }

    async fn get(&self, name: &str) -> Result<Option<GetObjectOutput>, PortError> {
        match self.client.get_object().bucket(&self.bucket).key(name).send().await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(None),
            Err(error) => Err(port_error(PORT, &error)),
        }
    }
}

impl QuarantineReview for S3Quarantine {
    async fn entries(&self, after: Option<&str>, limit: usize) -> Result<Page<Entry>, PortError> {
        let mut names = self.names("", after, limit).await?;
        if let Some(first) = names.items.iter().position(|name| name.starts_with(REPLAYED)) {
            names.items.truncate(first);
            names.next = Some(BEHIND_REPLAYED.to_owned());
        }
        let reads = futures_util::stream::iter(names.items).map(|name| async move { self.entry(&name).await });
        let items: Vec<Option<Entry>> = reads.buffered(READS).try_collect().await?;
        // An object that is gone by now was taken away by somebody else.
        Ok(Page { items: items.into_iter().flatten().collect(), next: names.next })
    }

    async fn entry(&self, id: &str) -> Result<Option<Entry>, PortError> {
        if id.starts_with(REPLAYED) {
            return Ok(None);
        }
        let Some(mut object) = self.get(id).await? else { return Ok(None) };
        let at = object.last_modified().and_then(|at| at.to_millis().ok()).map(Timestamp::from_millis);
        if let Some(bytes) = object.content_length().filter(|bytes| *bytes > OBJECT_BYTES_MAX) {
            return Ok(Some(Entry::unreadable(id, at, format!("it has {bytes} bytes, more than {OBJECT_BYTES_MAX}"))));
        }
        let body = std::mem::take(&mut object.body).collect().await;
        let data = body.map_err(|error| PortError::Unavailable(PORT, chain(&error)))?.to_vec();
        if id.starts_with(BATCHES) {
            return Ok(Some(failed_batch(id, at, &data)));
        }
        let metadata = |name: &str| object.metadata().and_then(|all| all.get(name)).map(|text| unescaped(text));
        Ok(Some(poison(id, at, data, metadata)))
    }

    async fn replayed(&self, replayed: &Replayed) -> Result<(), PortError> {
        let json = serde_json::to_vec(replayed).map_err(|error| PortError::Unusable(PORT, error.to_string()))?;
        let name = format!("{REPLAYED}{}", replayed.id);
        let call = self.client.put_object().bucket(&self.bucket).key(name).content_type("application/json").body(ByteStream::from(json));
        call.send().await.map_err(|error| port_error(PORT, &error))?;
        self.discard(&replayed.id).await
    }

    async fn replays(&self, after: Option<&str>, limit: usize) -> Result<Page<Replayed>, PortError> {
        let names = self.names(REPLAYED, after, limit).await?;
        let reads = futures_util::stream::iter(names.items).map(|name| async move {
            let Some(object) = self.get(&name).await? else { return Ok(None) };
            let json = object.body.collect().await.map_err(|error| PortError::Unavailable(PORT, chain(&error)))?.to_vec();
            let replayed = serde_json::from_slice(&json);
            if let Err(error) = &replayed {
                tracing::warn!(name, %error, "what is told of a replayed entry cannot be read");
            }
            Ok::<Option<Replayed>, PortError>(replayed.ok())
        });
        let items: Vec<Option<Replayed>> = reads.buffered(READS).try_collect().await?;
        Ok(Page { items: items.into_iter().flatten().collect(), next: names.next })
    }

    async fn discard(&self, id: &str) -> Result<(), PortError> {
        self.client.delete_object().bucket(&self.bucket).key(id).send().await.map_err(|error| port_error(PORT, &error))?;
        Ok(())
    }
}

/// The poison record of an object, from its name, bytes and metadata.
fn poison(id: &str, at: Option<Timestamp>, data: Vec<u8>, metadata: impl Fn(&str) -> Option<String>) -> Entry {
    let (Some(key), Some(function), Some(reason)) = (metadata("key"), metadata("function"), metadata("reason")) else {
        return Entry::unreadable(id, at, "no poison record: its metadata lacks key, function or reason");
    };
    if metadata(KEY_CUT).is_some() {
        return Entry::unreadable(id, at, format!("its key is too long to be kept, so it cannot be sent again: {reason}"));
    }
    let place = id.split_once('/').map_or(id, |(_, place)| place);
    let (shard, sequence) = place.rsplit_once('/').unwrap_or(("", place));
    let record = HeldRecord { shard: unescaped(shard), sequence: unescaped(sequence), key, data, arrived_at: None };
    Entry { id: id.to_owned(), kind: Kind::Poison, function, at, reason, records: vec![record] }
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

/// What [`printable`] made of a text; a sequence that it would not have made stays as it is.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(decoded) = code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(decoded);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_printable_is_read_as_it_was() {
        for text in ["reading 3: /occupancy must be ≤ 100 %", " a  b\r\n", "100%25", "key#1/../ü"] {
            assert_eq!(unescaped(&printable(text, 1024)), text);
        }
        assert_eq!(unescaped("50 % off, %zz"), "50 % off, %zz");
    }

    #[test]
    fn a_poison_record_is_read_from_its_object() {
        let id = object_key("signal-adjustment", "shardId-000000000006:4959");
        let metadata = |name: &str| (name != KEY_CUT).then(|| name.to_uppercase());
        let entry = poison(&id, None, vec![0xff], metadata);
        assert_eq!((entry.kind, entry.function.as_str(), entry.reason.as_str()), (Kind::Poison, "FUNCTION", "REASON"));
        let record = &entry.records[0];
        assert_eq!((record.shard.as_str(), record.sequence.as_str(), record.key.as_str()), ("shardId-000000000006", "4959", "KEY"));
        assert_eq!(poison("notes.txt", None, Vec::new(), |_| None).kind, Kind::Unreadable);
        let cut = poison(&id, None, vec![0xff], |name| Some(name.to_owned()));
        assert!(cut.kind == Kind::Unreadable && cut.reason.ends_with("cannot be sent again: reason"));
    }

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
