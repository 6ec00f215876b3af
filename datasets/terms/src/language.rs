//! Codes and names of languages.
//!
//! Responsible for: the language of a tag or a column heading, and the names of languages.
//! Must not depend on: terms.

/// A language: ISO 639-1, ISO 639-2 (terminological, bibliographic), name in English, name in German.
struct Language {
    code: &'static str,
    three: [&'static str; 2],
    english: &'static str,
    german: &'static str,
}

macro_rules! languages {
    ($($code:literal $terminological:literal $bibliographic:literal $english:literal $german:literal;)*) => {
        &[$(Language {
            code: $code,
            three: [$terminological, $bibliographic],
            english: $english,
            german: $german,
        }),*]
    };
}

/// The official languages of the European Union and the largest others.
const LANGUAGES: &[Language] = languages! {
    "ar" "ara" "ara" "Arabic" "Arabisch";
    "bg" "bul" "bul" "Bulgarian" "Bulgarisch";
    "ca" "cat" "cat" "Catalan" "Katalanisch";
    "cs" "ces" "cze" "Czech" "Tschechisch";
    "da" "dan" "dan" "Danish" "Dänisch";
    "de" "deu" "ger" "German" "Deutsch";
    "el" "ell" "gre" "Greek" "Griechisch";
    "en" "eng" "eng" "English" "Englisch";
    "es" "spa" "spa" "Spanish" "Spanisch";
    "et" "est" "est" "Estonian" "Estnisch";
    "fi" "fin" "fin" "Finnish" "Finnisch";
    "fr" "fra" "fre" "French" "Französisch";
    "ga" "gle" "gle" "Irish" "Irisch";
    "hi" "hin" "hin" "Hindi" "Hindi";
    "hr" "hrv" "hrv" "Croatian" "Kroatisch";
    "hu" "hun" "hun" "Hungarian" "Ungarisch";
    "id" "ind" "ind" "Indonesian" "Indonesisch";
    "is" "isl" "ice" "Icelandic" "Isländisch";
    "it" "ita" "ita" "Italian" "Italienisch";
    "ja" "jpn" "jpn" "Japanese" "Japanisch";
    "ko" "kor" "kor" "Korean" "Koreanisch";
    "lt" "lit" "lit" "Lithuanian" "Litauisch";
    "lv" "lav" "lav" "Latvian" "Lettisch";
    "mt" "mlt" "mlt" "Maltese" "Maltesisch";
    "nb" "nob" "nob" "Norwegian Bokmål" "Bokmål";
    "nl" "nld" "dut" "Dutch" "Niederländisch";
    "no" "nor" "nor" "Norwegian" "Norwegisch";
    "pl" "pol" "pol" "Polish" "Polnisch";
    "pt" "por" "por" "Portuguese" "Portugiesisch";
    "ro" "ron" "rum" "Romanian" "Rumänisch";
    "ru" "rus" "rus" "Russian" "Russisch";
    "sk" "slk" "slo" "Slovak" "Slowakisch";
    "sl" "slv" "slv" "Slovenian" "Slowenisch";
    "sr" "srp" "srp" "Serbian" "Serbisch";
    "sv" "swe" "swe" "Swedish" "Schwedisch";
    "tr" "tur" "tur" "Turkish" "Türkisch";
    "uk" "ukr" "ukr" "Ukrainian" "Ukrainisch";
    "vi" "vie" "vie" "Vietnamese" "Vietnamesisch";
    "zh" "zho" "chi" "Chinese" "Chinesisch";
};

/// The primary language of a tag (BCP 47, also with `_`) or of a name in English or German: `de` for `de-CH`, `DE`,
/// `deu` and `German`. For an unknown tag, its first part in lower case.
pub fn primary(tag: &str) -> String {
    match find(tag) {
        Some(language) => language.code.to_owned(),
        None => first_part(tag).to_lowercase(),
    }
}

/// Whether two tags have the same language. Regions are ignored.
pub fn same(left: &str, right: &str) -> bool {
    primary(left) == primary(right)
}

/// Whether `text` is a tag or a name of a language in the table: `en`, `en-US`, `ENG`, `English`, `Englisch`.
pub fn is_known(text: &str) -> bool {
    find(text).is_some()
}

/// The name of a language: in German if `reader` is German, otherwise in English. For an unknown language, its tag.
pub fn name(tag: &str, reader: &str) -> String {
    match find(tag) {
        Some(language) if primary(reader) == "de" => language.german.to_owned(),
        Some(language) => language.english.to_owned(),
        None => tag.to_owned(),
    }
}

fn find(text: &str) -> Option<&'static Language> {
    let text = text.trim().to_lowercase();
    let named =
        |language: &&Language| [language.english, language.german].iter().any(|name| name.to_lowercase() == text);
    let (code, rest) = text.split_at(first_part(&text).len());
    // `en-us`, `zh-hant-tw`: scripts and regions have 2 to 4 characters.
    let is_tag = rest
        .split(['-', '_'])
        .skip(1)
        .all(|part| (2..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let coded = |language: &&Language| is_tag && (language.code == code || language.three.contains(&code));
    LANGUAGES.iter().find(|language| named(language) || coded(language))
}

fn first_part(tag: &str) -> &str {
    tag.split(['-', '_']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{is_known, name, primary, same};

    #[test]
    fn a_language_has_many_spellings() {
        for tag in ["de", "DE", "de-CH", "de_AT", "deu", "ger", "German", "Deutsch", "deutsch", " de "] {
            assert_eq!(primary(tag), "de", "{tag}");
        }
        assert_eq!((primary("gsw-CH"), primary("x-Klingon"), primary("")), ("gsw".into(), "x".into(), String::new()));
        assert!(same("en-US", "EN") && !same("en", "de"));
        assert!(is_known("zh-Hant-TW") && is_known("Französisch"));
        assert!(!is_known("term") && !is_known("definition") && !is_known("de-mail-address") && !is_known(""));
    }

    #[test]
    fn a_language_is_named_in_the_language_of_the_reader() {
        assert_eq!((name("de-CH", "en"), name("en", "de-AT")), ("German".to_owned(), "Englisch".to_owned()));
        assert_eq!(name("gsw", "de"), "gsw");
    }

    #[test]
    fn codes_are_sorted_and_unique() {
        for (index, language) in super::LANGUAGES.iter().enumerate() {
            assert!(super::LANGUAGES[..index].iter().all(|other| other.code < language.code), "{}", language.code);
        }
    }
}
