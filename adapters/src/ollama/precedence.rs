//! Whether Ollama renders with `TEMPLATE` or with the Jinja template of the GGUF file.
//!
//! Responsible for: this rule, for warnings at export. Must not depend on: rendering.
//!
//! Source: `shouldPreferChatTemplate`, `chatTemplateCapabilities` and `goTemplateCapabilities` in `server/images.go`
//! of Ollama, August 2026. Older versions always use `TEMPLATE`.

use super::go_template::GoTemplate;

/// Whether current versions of Ollama ignore `TEMPLATE` and render with the Jinja template of the GGUF file (of the
/// base, if the Modelfile has an `ADAPTER`): it has more of the abilities tools and reasoning than the Go template,
/// which must not use `.Tools` here. The server's environment variable `OLLAMA_GO_TEMPLATE=1` switches this off.
///
/// The Jinja template is rendered with Ollama's own variables then: `enable_thinking` is true unless a request says
/// otherwise.
#[must_use]
pub fn prefers_jinja(jinja: &str, template: &GoTemplate) -> bool {
    let has = |text: &str| jinja.contains(text);
    let tools = has("tools") || has("tool_call");
    let splits = has("content.split('</think>')") || has("content.split(\"</think>\")");
    let thinking = (has("<think>") && has("</think>")) || (splits && !has("reasoning_content") && !has("<SPECIAL_12>"));
    usize::from(tools) + usize::from(thinking) > usize::from(template.mentions("Thinking"))
}
