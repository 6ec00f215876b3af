//! The model that a server is asked for.

use tonfall_serving::Server;

use crate::diagnostics::{ExitCode, Failure, Result};

/// The named model, or the only one that the server has.
pub(crate) fn choose(named: Option<&str>, server: &Server) -> Result<String> {
    match named {
        Some(name) => Ok(name.to_owned()),
        None => only(&server.models()?, server.url()),
    }
}

fn only(models: &[String], url: &str) -> Result<String> {
    match models {
        [one] => Ok(one.clone()),
        several => Err(Failure::new(
            ExitCode::Usage,
            format!("{url} serves {} models: choose one with --model: {}", several.len(), several.join(", ")),
        )),
    }
}
