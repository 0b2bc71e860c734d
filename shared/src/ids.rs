//! Ids: what names a junction, a detector, a lane, a stage or an asset.

use std::fmt;

use compact_str::CompactString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Longest id in bytes.
pub const ID_MAX_LEN: usize = 128;

/// A text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 128 characters, letters, digits, '.', '_', ':', '#' or '-', and begin with a letter or digit")]
pub struct InvalidId;

fn is_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= ID_MAX_LEN
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'#' | b'-'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(CompactString);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(text: &str) -> Result<Self, InvalidId> {
                let accepts: fn(&str) -> bool = $accepts;
                if accepts(text) { Ok(Self(CompactString::new(text))) } else { Err(InvalidId) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::try_from(text.as_ref()).map_err(D::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// Names one signalised intersection.
    IntersectionId,
    is_id
);
id!(
    /// Names one detector within its intersection.
    DetectorId,
    is_id
);
id!(
    /// Names one approach lane within its intersection.
    LaneId,
    is_id
);
id!(
    /// Names one exit lane within its intersection.
    ExitId,
    is_id
);
id!(
    /// Names one movement within its intersection.
    MovementId,
    is_id
);
id!(
    /// Names one stage (a set of movements that are green together) within its intersection.
    StageId,
    is_id
);
id!(
    /// Names one kind of asset, such as `vehicle_engine`.
    AssetKind,
    is_id
);
id!(
    /// Names one asset: an id, or `{intersection_id}/{detector_id}` for a detector. At most 256 bytes: it is a partition key.
    AssetId,
    |text| is_id(text) || text.len() <= 256 && text.split_once('/').is_some_and(|(intersection, detector)| is_id(intersection) && is_id(detector))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_key() {
        for text in ["J1", "s12-3.0", "a:b#c_d", &"x".repeat(128)] {
            assert!(IntersectionId::try_from(text).is_ok(), "{text}");
        }
        for text in ["", ".", "../J1", "J1/n_0", "J 1", "#1", "Ä1", "J1\0", &"x".repeat(129)] {
            assert_eq!(IntersectionId::try_from(text), Err(InvalidId), "{text}");
        }
    }

    #[test]
    fn an_asset_is_an_id_or_a_detector_of_an_intersection() {
        assert!(AssetId::try_from("truck-17").is_ok());
        assert!(AssetId::try_from("J1/n_0").is_ok());
        for text in ["J1/", "/n_0", "J1/n_0/x", "J1/../x"] {
            assert_eq!(AssetId::try_from(text), Err(InvalidId), "{text}");
        }
    }
}
