//! Turns `openapi.yaml` into the bytes that `GET /openapi.json` answers with.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo runs it in the folder of its package.
    let source = "../../openapi.yaml";
    println!("cargo::rerun-if-changed={source}");
    let description: serde_json::Value = serde_yaml_ng::from_reader(fs::File::open(source).map_err(|error| format!("{source}: {error}"))?)?;
    let target = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for a build script")?;
    fs::write(Path::new(&target).join("openapi.json"), description.to_string())?;
    Ok(())
}
