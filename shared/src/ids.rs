//! Ids: what names a junction, a detector, a lane, a stage or an asset.

use std::fmt;

use compact_str::CompactString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::Timestamp;

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
    /// Names one asset: an id, or `{intersection_id}/{detector_id}` for a detector.
    AssetId,
    |text| is_id(text) || text.split_once('/').is_some_and(|(intersection, detector)| is_id(intersection) && is_id(detector))
);
id!(
    /// Names one alert.
    AlertId,
    is_id
);

impl AssetId {
    /// The asset that is this detector.
    pub fn of_detector(intersection: &IntersectionId, detector: &DetectorId) -> Self {
        Self(compact_str::format_compact!("{intersection}/{detector}"))
    }

    /// The intersection and the detector, if it is one.
    pub fn as_detector(&self) -> Option<(IntersectionId, DetectorId)> {
        let (intersection, detector) = self.0.split_once('/')?;
        Some((IntersectionId(intersection.into()), DetectorId(detector.into())))
    }

    /// What lists of assets are sorted by, see [`sort_key`].
    pub fn sort_key(&self) -> String {
        sort_key(&self.0)
    }
}

/// A text that sorts assets by intersection or machine, then by detector: '!' comes before everything that ids allow.
pub fn sort_key(asset: &str) -> String {
    asset.replace('/', "!")
}

impl AssetKind {
    /// The kind of every traffic detector.
    pub const fn detector() -> Self {
        Self(CompactString::const_new(crate::asset::DETECTOR))
    }
}

impl AlertId {
    /// The alert that was raised at this time and has these hexadecimal digits as its hash.
    pub(crate) fn new(raised_at: Timestamp, digits: u64) -> Self {
        Self(compact_str::format_compact!("{raised_at}-{digits:016x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_key() {
        for text in ["J1", "s12-3.0", "a:b#c_d", &"x".repeat(128)] {
            assert!(IntersectionId::try_from(text).is_ok(), "{text}");
        }
        for text in
            ["", ".", "../J1", "J1/n_0", "J1!n_0", "J1%2Fn_0", "J 1", "#1", "Ä1", "J１", "J1\0", "J1\n", "__proto__", &"x".repeat(129)]
        {
            assert_eq!(IntersectionId::try_from(text), Err(InvalidId), "{text}");
        }
    }

    #[test]
    fn an_asset_is_an_id_or_a_detector_of_an_intersection() {
        assert!(AssetId::try_from("truck-17").is_ok());
        assert!(AssetId::try_from("J1/n_0").is_ok());
        for text in ["J1/", "/n_0", "J1/n_0/x", "J1/../x", "J1!n_0", "J1/n!0"] {
            assert_eq!(AssetId::try_from(text), Err(InvalidId), "{text}");
        }
    }

    #[test]
    fn a_detector_names_its_intersection() {
        let (intersection, detector) = (IntersectionId::try_from("J1").unwrap(), DetectorId::try_from("n_0").unwrap());
        let asset = AssetId::of_detector(&intersection, &detector);
        assert_eq!(AssetId::try_from("J1/n_0"), Ok(asset.clone()));
        assert_eq!(asset.as_detector(), Some((intersection, detector)));
        assert_eq!(AssetId::try_from("J1").unwrap().as_detector(), None);
    }

    #[test]
    fn the_detectors_of_an_intersection_stand_together() {
        let mut assets = ["J1-b/a", "J1", "J2", "J1/z", "J1#", "J1/a"].map(|id| AssetId::try_from(id).unwrap());
        assets.sort_by_key(AssetId::sort_key);
        assert_eq!(assets.map(|id| id.to_string()), ["J1", "J1/a", "J1/z", "J1#", "J1-b/a", "J2"]);
    }
}
