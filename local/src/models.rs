//! Models in a directory: what `greenwave train` writes is what the host and its functions find.

use std::io::ErrorKind;
use std::path::PathBuf;

use shared::ids::AssetKind;
use shared::ports::{ModelSource, PortError};

/// Files named `{kind}/{kind}.model`.
#[derive(Clone, Debug)]
pub struct ModelDirectory(pub PathBuf);

impl ModelSource for ModelDirectory {
    async fn model(&self, kind: &AssetKind) -> Result<Option<Vec<u8>>, PortError> {
        let path = self.0.join(kind.as_str()).join(format!("{kind}.model"));
        match tokio::fs::read(&path).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PortError::Unavailable("the directory of models", format!("{}: {error}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_model_is_found_by_the_kind_of_its_assets() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("pump")).unwrap();
        std::fs::write(directory.path().join("pump/pump.model"), b"x").unwrap();
        let models = ModelDirectory(directory.path().to_owned());
        assert_eq!(models.model(&AssetKind::try_from("pump").unwrap()).await, Ok(Some(b"x".to_vec())));
        assert_eq!(models.model(&AssetKind::try_from("fan").unwrap()).await, Ok(None));
    }
}
