//! Messages at the end of a night.
//!
//! Responsible for: sending the summary to the webhook and the command of a recipe. Nothing is sent unless the recipe asks for it.
//! Must not depend on: how a night runs.

use std::time::Duration;

use serde_json::Value;
use tonfall_recipes::plan::NotifyPlan;
use tonfall_serving::webhook;

use crate::shell::Shell;

const LIMIT: Duration = Duration::from_secs(30);

/// Sends the summary. Returns a warning for each message that could not be sent. No warning holds a secret.
pub(crate) fn send(plan: &NotifyPlan, summary: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(place) = &plan.webhook {
        warnings.extend(post(place, plan.token.as_deref(), summary).err().map(|why| format!("notify.webhook: {why}")));
    }
    if let Some(command) = &plan.command {
        let result = summary["result"].as_str().unwrap_or_default().to_owned();
        let environment = vec![("TONFALL_RESULT", result)];
        let shell = Shell { command, environment, stdin: format!("{summary}\n"), limit: LIMIT };
        if let Err((why, printed)) = shell.run() {
            warnings.push(format!("notify.command: {why}"));
            warnings.extend(printed.0.into_iter().map(|line| format!("notify.command: {line}")));
        }
    }
    warnings
}

fn post(place: &str, token: Option<&str>, summary: &Value) -> Result<(), String> {
    let url = secret(place)?;
    let token = token.map(secret).transpose()?;
    webhook::post(&url, token.as_deref(), summary, LIMIT).map_err(|error| error.to_string())
}

/// The value that a recipe names: `env:NAME`, `file:PATH`, or the text itself.
fn secret(place: &str) -> Result<String, String> {
    let found = match (place.strip_prefix("env:"), place.strip_prefix("file:")) {
        (Some(name), _) => std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?,
        (_, Some(path)) => std::fs::read_to_string(path).map_err(|error| format!("{path}: can't read: {error}"))?,
        _ => place.to_owned(),
    };
    match found.trim() {
        "" => Err(format!("{place} is empty")),
        text => Ok(text.to_owned()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_command_gets_the_summary() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("out");
        let command = format!("cat > {0}; echo $TONFALL_RESULT >> {0}", out.display());
        let plan = NotifyPlan { command: Some(command), ..NotifyPlan::default() };
        assert_eq!(send(&plan, &json!({"result": "published"})), Vec::<String>::new());
        let text = std::fs::read_to_string(out).expect("written");
        assert_eq!(text, "{\"result\":\"published\"}\npublished\n");
        let plan = NotifyPlan { command: Some("echo why; exit 2".to_owned()), ..NotifyPlan::default() };
        assert_eq!(send(&plan, &json!({})).last().map(String::as_str), Some("notify.command: why"));
        assert_eq!(send(&NotifyPlan::default(), &json!({})), Vec::<String>::new());
    }

    #[test]
    fn secrets_come_from_their_place_and_are_not_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("url");
        tonfall_durable::write_file(&path, b"http://127.0.0.1:1/secret\n").expect("written");
        let place = format!("file:{}", path.display());
        assert_eq!(secret(&place).as_deref(), Ok("http://127.0.0.1:1/secret"));
        let plan = NotifyPlan { webhook: Some(place), ..NotifyPlan::default() };
        let warnings = send(&plan, &json!({}));
        assert!(warnings.len() == 1 && !warnings[0].contains("secret"), "{warnings:?}");
        assert!(secret("env:TONFALL_NO_SUCH_VARIABLE").is_err());
    }
}
