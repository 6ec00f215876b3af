//! The status of a term: preferred, admitted or forbidden.
//!
//! Responsible for: the words that term bases use for a status. Must not depend on: files.

/// The status of a term in its term base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Preferred,
    Admitted,
    Forbidden,
}

use Status::{Admitted, Forbidden, Preferred};

/// Prefixes of status texts, in lower case and reduced to letters. Sources: the picklists of the data category
/// administrativeStatus (DatCatInfo 1962) and of TBX-Min, terms of terminology tools, and workflow states.
const WORDS: &[(&str, Status)] = &[
    ("preferred", Preferred),
    ("standardized", Preferred),
    ("standardised", Preferred),
    ("recommended", Preferred),
    ("mandatory", Preferred),
    ("bevorzugt", Preferred),
    ("vorzugsbenennung", Preferred),
    ("empfohlen", Preferred),
    ("deprecated", Forbidden),
    ("superseded", Forbidden),
    ("notrecommended", Forbidden),
    ("nonrecommended", Forbidden),
    ("notadmitted", Forbidden),
    ("notallowed", Forbidden),
    ("notpermitted", Forbidden),
    ("notpreferred", Forbidden),
    ("donotuse", Forbidden),
    ("dontuse", Forbidden),
    ("obsolete", Forbidden),
    ("outdated", Forbidden),
    ("forbidden", Forbidden),
    ("prohibited", Forbidden),
    ("rejected", Forbidden),
    ("disallowed", Forbidden),
    ("unwanted", Forbidden),
    ("banned", Forbidden),
    ("verboten", Forbidden),
    ("abgelehnt", Forbidden),
    ("veraltet", Forbidden),
    ("unzulässig", Forbidden),
    ("unerwünscht", Forbidden),
    ("nichtempfohlen", Forbidden),
    ("nichtzulässig", Forbidden),
    ("nichterlaubt", Forbidden),
    ("nichtverwenden", Forbidden),
    ("admitted", Admitted),
    ("allowed", Admitted),
    ("accepted", Admitted),
    ("approved", Admitted),
    ("permitted", Admitted),
    ("legal", Admitted),
    ("regulated", Admitted),
    ("proposed", Admitted),
    ("provisional", Admitted),
    ("synonym", Admitted),
    ("erlaubt", Admitted),
    ("zulässig", Admitted),
    ("zugelassen", Admitted),
    ("freigegeben", Admitted),
    ("vorgeschlagen", Admitted),
    ("inarbeit", Admitted),
    ("active", Admitted),
    ("current", Admitted),
    ("draft", Admitted),
    ("entwurf", Admitted),
    ("final", Admitted),
    ("new", Admitted),
    ("neu", Admitted),
    ("valid", Admitted),
];

impl Status {
    /// Parses a status in any case and spelling: `deprecatedTerm-admn-sts`, `Not Recommended`. `None` if it is unknown.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = tonfall_terms::normalized(text, tonfall_terms::Case::Any);
        let letters: String = text.chars().filter(|c| c.is_alphabetic()).collect();
        WORDS.iter().find(|(word, _)| letters.starts_with(word)).map(|(_, status)| *status)
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{self, Admitted, Forbidden, Preferred};

    #[test]
    fn a_status_has_many_spellings() {
        let cases = [
            ("preferredTerm-admn-sts", Some(Preferred)),
            ("PREFERRED", Some(Preferred)),
            ("standardizedTerm", Some(Preferred)),
            ("admittedTerm-admn-sts", Some(Admitted)),
            ("deprecatedTerm-admn-sts", Some(Forbidden)),
            ("DeprecatedTerm-Admn-Sts", Some(Forbidden)),
            ("deprecated", Some(Forbidden)),
            ("supersededTerm", Some(Forbidden)),
            ("notRecommended", Some(Forbidden)),
            ("not recommended", Some(Forbidden)),
            ("Not_Recommended", Some(Forbidden)),
            ("rejected", Some(Forbidden)),
            ("OBSOLETE", Some(Forbidden)),
            ("Unzula\u{308}ssig", Some(Forbidden)),
            ("nicht verwenden!", Some(Forbidden)),
            ("purple", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Status::parse(text), expected, "{text}");
        }
    }
}
