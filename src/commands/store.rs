//! `tonfall store [NAME]`: lists the published adapters and their versions.

use serde_json::json;
use tonfall_runs::store::{Listed, Store};

use crate::args::StoreArgs;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;
use crate::summary;

pub(crate) fn run(args: &StoreArgs) -> Result<()> {
    let stores = match &args.name {
        Some(name) => vec![Store::at(&args.store, name)?],
        None => Store::all(&args.store)?,
    };
    for store in &stores {
        let listed = store.list()?;
        if listed.is_empty() && args.name.is_some() {
            let place = summary::shown(&args.store);
            let message = format!("nothing is published as {} in {place}", store.name());
            return Err(Failure::new(ExitCode::Invalid, message));
        }
        if let Some(pending) = store.pending()? {
            let (name, to) = (store.name(), pending.to);
            output::note(&format!("warning: a publication of {name} version {to} has not ended"));
        }
        for version in &listed {
            match args.json {
                true => output::json(&row(store, version))?,
                false => output::data(&line(store, version))?,
            }
        }
    }
    Ok(())
}

fn line(store: &Store, listed: &Listed) -> String {
    let mark = if listed.is_current { "current" } else { "" };
    let about = match &listed.version {
        Ok(version) => format!("{}  {}", version.created, version.run),
        Err(error) => format!("damaged: {error}"),
    };
    format!("{:<20} {:>6}  {mark:<7}  {about}", store.name(), listed.number)
}

fn row(store: &Store, listed: &Listed) -> serde_json::Value {
    let version = listed.version.as_ref().ok();
    json!({
        "name": store.name(),
        "version": listed.number,
        "current": listed.is_current,
        "path": store.path(listed.number),
        "created": version.map(|version| &version.created),
        "run": version.map(|version| &version.run),
        "previous": version.and_then(|version| version.previous),
        "lineage": version.map(|version| &version.lineage),
        "damage": listed.version.as_ref().err().map(ToString::to_string),
    })
}
