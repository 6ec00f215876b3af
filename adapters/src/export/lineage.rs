//! Where an export comes from.
//!
//! Responsible for: `lineage.json` of adapters and models in safetensors. Their weight files have no lineage, so that the same
//! training writes the same bytes in another directory. GGUF files have it in their metadata.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tonfall_durable::{self as durable, DurableError};

use super::ExportError;
use crate::hf_config::pretty;
use crate::regular_file::{CONFIG_LIMIT, read_up_to};

pub const LINEAGE_FILE: &str = "lineage.json";
/// Prefix of the keys in the metadata of GGUF files.
pub(crate) const PREFIX: &str = "tonfall.";

pub(super) fn write(dir: &Path, lineage: &[(String, String)]) -> Result<(), DurableError> {
    let map: Map<String, Value> =
        lineage.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
    durable::write_file(&dir.join(LINEAGE_FILE), &pretty(&map))
}

/// The lineage next to an adapter or a model; empty if there is none.
///
/// # Errors
/// If the file can't be read, or is no object of texts.
pub fn read_lineage(dir: &Path) -> Result<Vec<(String, String)>, ExportError> {
    let path = dir.join(LINEAGE_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = read_up_to(&path, CONFIG_LIMIT)?;
    let map: BTreeMap<String, String> =
        serde_json::from_slice(&bytes).map_err(|error| ExportError::Lineage { path, reason: error.to_string() })?;
    Ok(map.into_iter().collect())
}
