//! Options of the commands that may ask a server.
//!
//! Must not depend on: anything that does work.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Ask the server at this address instead of computing here, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Name of the model or adapter on the server [default: the only one]
    #[arg(long, value_name = "NAME", requires = "server")]
    pub(crate) model: Option<String>,
    /// Name of the base on the server, which is asked as well
    #[arg(long, value_name = "NAME", requires = "server")]
    pub(crate) base_model: Option<String>,
}
