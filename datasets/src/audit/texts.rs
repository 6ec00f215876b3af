//! Problems of single texts: encoding damage, empty texts, wrong languages, secrets.
//!
//! Responsible for: findings in one sample. Must not depend on: other samples.

use std::sync::LazyLock;

use regex::{Match, Regex};
use tonfall_recipes::plan::AuditRule;
use tonfall_terms::language::primary;

use crate::formats::conversation::{Message, Sample};

/// Texts with more bytes than this are reported as too long for a conversation.
const LONG: usize = 1_000_000;
/// Minimum number of characters for language detection.
const ENOUGH: usize = 80;

struct Pattern {
    rule: AuditRule,
    what: &'static str,
    regex: LazyLock<Regex>,
}

macro_rules! pattern {
    ($rule:ident, $what:literal, $regex:literal) => {
        Pattern {
            rule: AuditRule::$rule,
            what: $what,
            regex: LazyLock::new(|| Regex::new($regex).expect("a test compiles every pattern")),
        }
    };
}

static PATTERNS: [Pattern; 9] = [
    // UTF-8 decoded as Latin-1 or Windows-1252: the lead byte and the continuation byte become two characters.
    pattern!(
        Mojibake,
        "UTF-8 read as Latin-1",
        r"Ã[\u{80}-\u{BF}ŸœžŠšŒŽ„“”‘’–—…†‡€‚ƒˆ‰‹›•˜™]|â€[\u{80}-\u{BF}œžŸ™˜“”¦¢]|Â[\u{A0}-\u{BF}]"
    ),
    pattern!(Mojibake, "a replacement character", "\u{FFFD}"),
    pattern!(PersonalData, "an e-mail address", r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
    pattern!(PersonalData, "an IBAN", r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"),
    pattern!(Secrets, "a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    pattern!(Secrets, "an access key of AWS", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    pattern!(Secrets, "a token of GitHub", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})\b"),
    pattern!(Secrets, "an API key", r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9_-]{24,}\b"),
    pattern!(Secrets, "a password", r#"(?i)\b(?:password|passwort|kennwort)\s*[:=]\s*[^\s"'{}<>]{6,}"#),
];

/// The findings in a sample, at most one for each rule.
pub(crate) fn inspect(sample: &Sample, language: Option<&str>) -> Vec<(AuditRule, String)> {
    let mut findings = Vec::new();
    for (speaker, text) in texts(sample) {
        if text.trim().is_empty() {
            findings.push((AuditRule::EmptyText, format!("the {speaker}'s text is empty")));
        }
        if text.len() > LONG {
            findings.push((AuditRule::LongText, format!("the {speaker}'s text has {} bytes", text.len())));
        }
        for pattern in &PATTERNS {
            let hit = pattern.regex.find_iter(text).find(|hit| is_real(pattern, text, hit));
            if let Some(hit) = hit {
                findings.push((pattern.rule, shown(pattern, hit.as_str())));
            }
        }
        let wanted = language.filter(|_| speaker == "assistant" && text.chars().count() >= ENOUGH);
        if let Some(found) = wanted.and_then(|wanted| other_language(text, wanted)) {
            findings.push((AuditRule::Language, format!("an answer seems to be {found}")));
        }
    }
    findings.sort();
    findings.dedup_by_key(|(rule, _)| *rule);
    findings
}

/// Further conditions for a hit, which a regular expression can't express.
fn is_real(pattern: &Pattern, text: &str, hit: &Match<'_>) -> bool {
    match pattern.what {
        "an IBAN" => is_iban(hit.as_str()),
        "UTF-8 read as Latin-1" => !ends_a_word_in_capitals(text, hit),
        _ => true,
    }
}

/// Whether the hit is the last letter of an upper-case word before punctuation, as in Portuguese “AMANHÃ”.
fn ends_a_word_in_capitals(text: &str, hit: &Match<'_>) -> bool {
    let before = text[..hit.start()].chars().next_back();
    let after = text[hit.end()..].chars().next();
    before.is_some_and(char::is_uppercase)
        && hit.as_str().chars().next_back().is_some_and(|last| !last.is_alphanumeric())
        && !after.is_some_and(char::is_alphabetic)
}

/// The text of a finding. Secrets and personal data are not repeated.
fn shown(pattern: &Pattern, hit: &str) -> String {
    match pattern.rule {
        AuditRule::Mojibake => format!("{}: {hit}", pattern.what),
        _ => format!("{} of {} characters", pattern.what, hit.chars().count()),
    }
}

/// Roles and texts of a sample. Empty turns with tool calls and empty tool results are omitted.
pub(crate) fn texts(sample: &Sample) -> Vec<(&str, &str)> {
    match sample {
        Sample::Text(text) => vec![("document", text)],
        Sample::PromptCompletion { prompt, completion } => vec![("user", prompt), ("assistant", completion)],
        Sample::Conversation(conversation) => {
            let says = |message: &&Message| {
                !message.content.is_empty() || message.tool_calls().is_empty() && message.role != "tool"
            };
            let spoken = conversation.messages.iter().filter(says);
            spoken.map(|message| (message.role.as_str(), message.content.as_str())).collect()
        }
    }
}

/// The name of the text's language, if detection is reliable and the language is not `wanted`.
fn other_language(text: &str, wanted: &str) -> Option<&'static str> {
    let found = whatlang::detect(text).filter(whatlang::Info::is_reliable)?.lang();
    let is_wanted = ISO_639.iter().find(|(short, _)| *short == primary(wanted))?.1 == found.code();
    (!is_wanted).then(|| found.eng_name())
}

/// ISO 639-1 and 639-3 codes of the languages that are detected.
const ISO_639: [(&str, &str); 14] = [
    ("de", "deu"),
    ("en", "eng"),
    ("fr", "fra"),
    ("it", "ita"),
    ("es", "spa"),
    ("pt", "por"),
    ("nl", "nld"),
    ("pl", "pol"),
    ("cs", "ces"),
    ("da", "dan"),
    ("sv", "swe"),
    ("fi", "fin"),
    ("ru", "rus"),
    ("tr", "tur"),
];

/// ISO 13616: the first four characters are moved to the end, and letters are replaced by 10 to 35. The resulting
/// number must be 1 modulo 97.
fn is_iban(text: &str) -> bool {
    let plain: Vec<char> = text.chars().filter(|c| *c != ' ').collect();
    let rotated = plain.iter().skip(4).chain(plain.iter().take(4));
    let remainder = rotated.fold(0_u32, |remainder, c| match c.to_digit(36) {
        Some(value @ 0..=9) => (remainder * 10 + value) % 97,
        Some(value) => (remainder * 100 + value) % 97,
        None => 96,
    });
    (15..=34).contains(&plain.len()) && remainder == 1
}

#[cfg(test)]
mod tests {
    use tonfall_recipes::plan::AuditRule::{self, EmptyText, Language, Mojibake, PersonalData, Secrets};

    use super::{inspect, is_iban};
    use crate::formats::conversation::Sample;

    fn rules(answer: &str, language: Option<&str>) -> Vec<AuditRule> {
        let sample = Sample::PromptCompletion { prompt: "Frage?".to_owned(), completion: answer.to_owned() };
        inspect(&sample, language).into_iter().map(|(rule, _)| rule).collect()
    }

    #[test]
    fn each_rule_finds_its_own_problem_and_nothing_else() {
        let key = "AKIA".to_owned() + "IOSFODNN7EXAMPLE";
        let pem = "-----BEGIN RSA PRIVATE".to_owned() + " KEY-----";
        let cases: [(&str, &[AuditRule]); 17] = [
            ("Grüße aus Zürich – naïve façade, 20 °C, Ærø, Ångström, ÃO", &[]),
            ("ATÉ AMANHÃ! “IRMÃ” – «IRMÃ», AMANHÃ… AMANHÃ\u{A0}– ROMÃ’", &[]),
            ("GrÃ¼ÃŸe", &[Mojibake]),
            ("GRÃ–SSE", &[Mojibake]),
            ("GRÃœSSE", &[Mojibake]),
            ("it wasnâ€™t", &[Mojibake]),
            ("20 Â°C", &[Mojibake]),
            ("Gr\u{FFFD}\u{FFFD}e", &[Mojibake]),
            (" \n", &[EmptyText]),
            ("write to anna.muster@example.co.uk", &[PersonalData]),
            ("IBAN DE89 3704 0044 0532 0130 00.", &[PersonalData]),
            ("IBAN DE88 3704 0044 0532 0130 00.", &[]),
            (&key, &[Secrets]),
            (&pem, &[Secrets]),
            ("Passwort: geheim123", &[Secrets]),
            ("Das Passwort ist geheim", &[]),
            ("a@b", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(rules(text, None), expected, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_repeated() {
        let sample = Sample::Text("Passwort: geheim123".to_owned());
        assert!(inspect(&sample, None).iter().all(|(_, detail)| !detail.contains("geheim")));
    }

    #[test]
    fn an_answer_in_another_language_is_a_finding() {
        let english =
            "Thank you very much for your letter, which reached us yesterday. We will answer it within a week.";
        let german =
            "Vielen Dank für Ihren Brief, der uns gestern erreicht hat. Wir antworten innerhalb einer Woche darauf.";
        assert_eq!(rules(english, Some("de-CH")), [Language]);
        assert!(rules(german, Some("de-CH")).is_empty() && rules("Hello!", Some("de")).is_empty());
    }

    #[test]
    fn ibans_are_checked_by_their_check_digits() {
        assert!(is_iban("GB82 WEST 1234 5698 7654 32") && is_iban("CH9300762011623852957"));
        assert!(!is_iban("GB82 WEST 1234 5698 7654 33") && !is_iban("DE00"));
    }
}
