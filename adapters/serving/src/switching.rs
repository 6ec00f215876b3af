//! Changing which adapter a server uses under a name.
//!
//! Responsible for: replacing, removing and switching, with what each kind of server offers.
//! Must not depend on: where adapters come from, the order of a publication.
//!
//! | server | what happens |
//! |---|---|
//! | vLLM, SGLang | The adapter is loaded under the name, in place if the server can (`load_inplace`). Otherwise it is loaded on trial under another name, and then the old one is unloaded and the new one loaded. Requests between these two are refused. |
//! | llama-server | The adapters are those of its command line. The one with the new path gets scale 1, all others 0. Requests that run keep their adapter. |
//! | others | Nothing is offered. |

use serde_json::json;

use crate::ServingError;
use crate::kinds::Adapters;
use crate::server::{Offer, Server};

/// Where the server finds an adapter on its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFiles {
    /// The PEFT directory.
    pub peft: String,
    /// The file `adapter.gguf`, if there is one.
    pub gguf: Option<String>,
}

/// Components at the end of a path that identify an adapter: containers mount a store elsewhere.
/// `style/000004/exports/gguf-adapter/adapter.gguf`.
const IDENTIFYING: usize = 5;

impl Server {
    /// Makes `adapter` the one that the server uses as `name`; `None` removes it. It may be in use already.
    ///
    /// # Errors
    /// If the server refuses the adapter, or does not use it afterwards. The old one is then still in use, unless it had to be
    /// unloaded first.
    pub fn use_adapter(&self, name: &str, adapter: Option<&AdapterFiles>) -> Result<Offer<()>, ServingError> {
        match (self.row().adapters, adapter) {
            (Adapters::NotOffered, _) => Ok(self.not_offered("changing adapters while it runs")),
            (Adapters::Slots, adapter) => self.use_slot(adapter),
            (Adapters::Named { .. }, None) => match self.is_listed(name)? {
                true => self.unload_adapter(name),
                false => Ok(Offer::Given(())),
            },
            (Adapters::Named { load, .. }, Some(adapter)) => self.use_named(load, name, &adapter.peft),
        }
    }

    fn use_named(&self, load: &str, name: &str, path: &str) -> Result<Offer<()>, ServingError> {
        if !self.is_listed(name)? {
            return self.load_adapter(name, path);
        }
        let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true});
        match self.change(load, &body, name, true) {
            // It can't replace an adapter, or it refuses this one. The trial finds out.
            Err(ServingError::Status { .. }) => {}
            other => return other,
        }
        let trial = format!("{name}.trial");
        if self.is_listed(&trial)? {
            self.unload_adapter(&trial)?;
        }
        if let Offer::NotOffered(reason) = self.load_adapter(&trial, path)? {
            return Ok(Offer::NotOffered(reason));
        }
        self.unload_adapter(&trial)?;
        self.unload_adapter(name)?;
        self.load_adapter(name, path)
    }

    fn use_slot(&self, adapter: Option<&AdapterFiles>) -> Result<Offer<()>, ServingError> {
        let Some(adapter) = adapter else { return self.set_adapters(&[]) };
        let slots = match self.adapters()? {
            Offer::Given(slots) => slots,
            Offer::NotOffered(reason) => return Ok(Offer::NotOffered(reason)),
        };
        let wanted = adapter.gguf.as_deref().map(end);
        let slot = slots.iter().find(|slot| wanted.as_ref() == Some(&end(&slot.path)));
        match slot {
            Some(slot) => self.set_adapters(&[(slot.id, 1.0)]),
            None => Err(ServingError::NoSlot {
                url: self.url().to_owned(),
                path: adapter
                    .gguf
                    .clone()
                    .unwrap_or_else(|| "an adapter.gguf (add \"gguf-adapter\" to export.to)".to_owned()),
                count: slots.len(),
            }),
        }
    }

    fn is_listed(&self, name: &str) -> Result<bool, ServingError> {
        Ok(self.models()?.iter().any(|model| model == name))
    }
}

/// The last components of a path, the last one first.
fn end(path: &str) -> Vec<&str> {
    path.rsplit(['/', '\\']).take(IDENTIFYING).collect()
}
