//! A running server.
//!
//! Responsible for: finding out which program answers, and one method for each thing that can be asked.
//! Must not depend on: how requests are sent, how answers are laid out.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::ServingError;
use crate::answers::{self, AdapterSlot, Completion};
use crate::base_url::BaseUrl;
use crate::client::{ApiKey, Client, Limits};
use crate::kinds::{Adapters, Kind, ROWS, Row, Tokenizing};
use crate::requests::{self, Message, Prompt, ToTokenize};

/// The environment variable of the API key, unless another one is named.
const KEY_VARIABLE: &str = "TONFALL_API_KEY";

/// What a server answers, or that it has no request for this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer<T> {
    Given(T),
    NotOffered(NotOffered),
}

impl<T> Offer<T> {
    /// The answer, if there is one.
    #[must_use]
    pub fn given(self) -> Option<T> {
        match self {
            Self::Given(value) => Some(value),
            Self::NotOffered(_) => None,
        }
    }
}

/// Something that a server can't do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotOffered {
    pub server: Kind,
    /// What was asked for, such as "completing token ids".
    pub what: &'static str,
    /// How to get it nevertheless.
    pub hint: Option<&'static str>,
}

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not offer {}", self.server, self.what)?;
        self.hint.map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

/// A server that answered.
#[derive(Debug)]
pub struct Server {
    client: Client,
    kind: Kind,
    models: Vec<String>,
}

impl Server {
    /// Connects with default limits and the API key in `TONFALL_API_KEY`, if that is set.
    ///
    /// # Errors
    /// As [`Server::with`].
    pub fn at(url: &str) -> Result<Self, ServingError> {
        Self::with(url, ApiKey::from_env(KEY_VARIABLE)?, Limits::default())
    }

    /// Finds out which program answers and which models it serves.
    ///
    /// # Errors
    /// If the address is unusable, nothing answers there, or the answer is no list of models.
    pub fn with(url: &str, key: ApiKey, limits: Limits) -> Result<Self, ServingError> {
        let client = Client::new(BaseUrl::parse(url)?, key, limits);
        let kind = identify(&client)?;
        let mut server = Self { client, kind, models: Vec::new() };
        server.models = server.models()?;
        Ok(server)
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address, without a slash or `/v1` at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        self.client.base.as_str()
    }

    /// The names of all models, asked again at each call.
    ///
    /// # Errors
    /// If the server can't be asked or answers nonsense.
    pub fn models(&self) -> Result<Vec<String>, ServingError> {
        let path = self.row().models;
        self.read(path, answers::models(&self.client.get(path)?))
    }

    /// Continues a prompt greedily, without a chat template.
    ///
    /// # Errors
    /// [`ServingError::UnknownModel`], or if the server can't be asked or answers nonsense.
    pub fn complete(
        &self,
        model: &str,
        prompt: Prompt<'_>,
        max_tokens: u32,
    ) -> Result<Offer<Completion>, ServingError> {
        let Some((path, body)) = requests::completion(self.row(), model, prompt, max_tokens) else {
            return Ok(self.not_offered(match prompt {
                Prompt::Tokens(_) => "completing token ids",
                Prompt::Text(_) => "completing a text without a chat template",
            }));
        };
        self.check_model(model)?;
        let answer = self.client.post(path, self.client.limits.generate, &body)?;
        self.read(path, answers::completion(self.row().completions, &answer)).map(Offer::Given)
    }

    /// The assistant's next message, greedily, with the server's own chat template.
    ///
    /// # Errors
    /// As [`Server::complete`].
    pub fn chat(&self, model: &str, messages: &[Message], max_tokens: u32) -> Result<Completion, ServingError> {
        self.check_model(model)?;
        let path = self.row().chat;
        let body = requests::chat(self.row(), model, messages, max_tokens);
        let answer = self.client.post(path, self.client.limits.generate, &body)?;
        self.read(path, answers::chat(self.row().chats, &answer))
    }

    /// The token ids of a text or a conversation. Special tokens in a text are recognised.
    ///
    /// # Errors
    /// As [`Server::complete`].
    pub fn tokenize(&self, model: &str, input: ToTokenize<'_>) -> Result<Offer<Vec<u32>>, ServingError> {
        const PATH: &str = "/tokenize";
        let tokenizing = self.row().tokenizing;
        let body = match (tokenizing, input) {
            (Tokenizing::NotOffered, _) => return Ok(self.not_offered("tokenizing")),
            (Tokenizing::Sglang, ToTokenize::Messages(_)) => return Ok(self.not_offered("tokenizing conversations")),
            (Tokenizing::LlamaServer, ToTokenize::Text { text, add_special }) => llama_text(text, add_special),
            // The server removes a BOS token from the rendered text if its tokenizer adds one, as for a chat.
            (Tokenizing::LlamaServer, ToTokenize::Messages(messages)) => llama_text(&self.render(messages)?, true),
            (_, ToTokenize::Text { text, add_special }) => {
                json!({"model": model, "prompt": text, "add_special_tokens": add_special})
            }
            (Tokenizing::Vllm, ToTokenize::Messages(messages)) => {
                json!({"model": model, "messages": messages, "add_generation_prompt": true})
            }
        };
        self.check_model(model)?;
        let answer = self.client.post(PATH, self.client.limits.ask, &body)?;
        self.read(PATH, answers::tokens(&answer)).map(Offer::Given)
    }

    /// A conversation as llama-server's chat template renders it.
    fn render(&self, messages: &[Message]) -> Result<String, ServingError> {
        const PATH: &str = "/apply-template";
        let answer = self.client.post(PATH, self.client.limits.ask, &json!({"messages": messages}))?;
        self.read(PATH, answers::rendered(&answer))
    }

    /// The adapters that llama-server was started with.
    ///
    /// # Errors
    /// If the server can't be asked or answers nonsense.
    pub fn adapters(&self) -> Result<Offer<Vec<AdapterSlot>>, ServingError> {
        match self.row().adapters {
            Adapters::Slots => self.slots().map(Offer::Given),
            Adapters::Named { .. } => {
                Ok(self
                    .not_offered_but("scales of adapters", "an adapter is a model of its list: ask for it by its name"))
            }
            Adapters::NotOffered => Ok(self.not_offered("scales of adapters")),
        }
    }

    /// Sets the scales of llama-server's adapters, as `(id, scale)`. Adapters that are not named are switched off. An
    /// empty list gives the base model.
    ///
    /// # Errors
    /// [`ServingError::UnknownAdapter`]: the server itself ignores unknown numbers. [`ServingError::NoEffect`] if the
    /// server afterwards reports other scales.
    pub fn set_adapters(&self, scales: &[(u32, f64)]) -> Result<Offer<()>, ServingError> {
        let slots = match self.adapters()? {
            Offer::Given(slots) => slots,
            Offer::NotOffered(reason) => return Ok(Offer::NotOffered(reason)),
        };
        if let Some((id, _)) = scales.iter().find(|(id, _)| !slots.iter().any(|slot| slot.id == *id)) {
            return Err(ServingError::UnknownAdapter { url: self.url().to_owned(), id: *id, count: slots.len() });
        }
        let wanted = |slot: &AdapterSlot| scales.iter().find(|(id, _)| *id == slot.id).map_or(0.0, |(_, scale)| *scale);
        let body: Vec<Value> = slots.iter().map(|slot| json!({"id": slot.id, "scale": wanted(slot)})).collect();
        self.client.post(SLOTS, self.client.limits.ask, &Value::Array(body))?;
        for slot in self.slots()? {
            // The server stores f32.
            if (slot.scale - wanted(&slot)).abs() > 1e-6 * wanted(&slot).abs() {
                let reason = format!("adapter {} has the scale {} instead of {}", slot.id, slot.scale, wanted(&slot));
                return Err(ServingError::NoEffect { url: self.url().to_owned(), reason });
            }
        }
        Ok(Offer::Given(()))
    }

    fn slots(&self) -> Result<Vec<AdapterSlot>, ServingError> {
        self.read(SLOTS, answers::adapters(&self.client.get(SLOTS)?))
    }

    /// Loads a PEFT adapter under a name. `path` is a directory on the server's machine.
    ///
    /// # Errors
    /// If the server refuses the adapter, or does not list it afterwards.
    pub fn load_adapter(&self, name: &str, path: &str) -> Result<Offer<()>, ServingError> {
        let Adapters::Named { load, .. } = self.row().adapters else {
            return Ok(self.not_offered("loading adapters"));
        };
        self.change(load, &json!({"lora_name": name, "lora_path": path}), name, true)
    }

    /// Unloads an adapter.
    ///
    /// # Errors
    /// If the server refuses, or lists the adapter afterwards.
    pub fn unload_adapter(&self, name: &str) -> Result<Offer<()>, ServingError> {
        let Adapters::Named { unload, .. } = self.row().adapters else {
            return Ok(self.not_offered("unloading adapters"));
        };
        self.change(unload, &json!({"lora_name": name}), name, false)
    }

    /// Loads or unloads an adapter, and checks that it is listed afterwards, or is not.
    pub(crate) fn change(&self, path: &str, body: &Value, name: &str, listed: bool) -> Result<Offer<()>, ServingError> {
        match self.client.post_for_text(path, self.client.limits.generate, body) {
            // The answer of its web framework for an unknown path: the request exists only with a switch.
            Err(ServingError::Status { status: 404 | 405, message, .. }) if message == "Not Found" => {
                let hint = "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, SGLang with \
                            --enable-lora";
                return Ok(self.not_offered_but("loading and unloading adapters while it runs", hint));
            }
            answer => answer?,
        };
        if self.models()?.iter().any(|model| model == name) != listed {
            let reason = format!("`{name}` is {} its list of models", if listed { "not in" } else { "still in" });
            return Err(ServingError::NoEffect { url: self.url().to_owned(), reason });
        }
        Ok(Offer::Given(()))
    }

    pub(crate) fn row(&self) -> &'static Row {
        self.kind.row()
    }

    /// llama-server answers for any name with the model it has, so names are checked here.
    fn check_model(&self, model: &str) -> Result<(), ServingError> {
        let knows = |known: &[String]| {
            // Ollama lists `name:latest` for `name`.
            known.iter().any(|known| known == model || known.strip_suffix(":latest") == Some(model))
        };
        if knows(&self.models) {
            return Ok(());
        }
        let known = self.models()?;
        match knows(&known) {
            true => Ok(()),
            false => Err(ServingError::UnknownModel { url: self.url().to_owned(), model: model.to_owned(), known }),
        }
    }

    fn read<T>(&self, path: &str, read: Result<T, String>) -> Result<T, ServingError> {
        read.map_err(|reason| ServingError::Nonsense { url: self.client.base.join(path), reason })
    }

    pub(crate) fn not_offered<T>(&self, what: &'static str) -> Offer<T> {
        Offer::NotOffered(NotOffered { server: self.kind, what, hint: None })
    }

    fn not_offered_but<T>(&self, what: &'static str, hint: &'static str) -> Offer<T> {
        Offer::NotOffered(NotOffered { server: self.kind, what, hint: Some(hint) })
    }
}

const SLOTS: &str = "/lora-adapters";

fn llama_text(text: &str, add_special: bool) -> Value {
    json!({"content": text, "add_special": add_special, "parse_special": true})
}

/// The kind of the server. A probe that is answered with a fault or with something else means: another kind.
fn identify(client: &Client) -> Result<Kind, ServingError> {
    for row in &ROWS {
        let Some((path, place)) = row.probe else { return Ok(row.kind) };
        match client.get(path) {
            Ok(answer) if answer.pointer(place).is_some() => return Ok(row.kind),
            Ok(_) | Err(ServingError::Status { .. } | ServingError::Nonsense { .. }) => {}
            // A server can protect a path that it does not have, or that is another server's.
            Err(ServingError::Unauthorized { .. } | ServingError::Redirect { .. } | ServingError::TooLarge { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Kind::Other)
}
