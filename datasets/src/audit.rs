//! The audit: problems of readable data, by rule.
//!
//! Responsible for: findings, counted, with the first of each rule, and what the recipe's severities make of them. The
//! rules themselves are in `audit/`.
//! Must not depend on: files, how samples are made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tonfall_recipes::plan::{AuditPlan, AuditRule, Severity};

pub(crate) mod duplicates;
pub(crate) mod labels;
pub(crate) mod templates;
pub(crate) mod terms;
pub(crate) mod texts;

/// Hits that are stored of each rule.
const SHOWN: usize = 5;

/// The findings of the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings(BTreeMap<AuditRule, Finding>);

/// The findings of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub count: u64,
    /// The first ones.
    pub hits: Vec<Hit>,
}

/// A place and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    pub path: PathBuf,
    pub row: u64,
    pub detail: String,
}

impl Findings {
    pub(crate) fn add(&mut self, rule: AuditRule, path: &Path, row: u64, detail: impl Into<String>) {
        let finding = self.0.entry(rule).or_default();
        finding.count += 1;
        if finding.hits.len() < SHOWN {
            finding.hits.push(Hit { path: path.to_owned(), row, detail: detail.into() });
        }
    }

    /// The findings of a rule.
    pub fn get(&self, rule: AuditRule) -> Option<&Finding> {
        self.0.get(&rule)
    }

    /// The findings by rule.
    pub fn iter(&self) -> impl Iterator<Item = (AuditRule, &Finding)> {
        self.0.iter().map(|(rule, finding)| (*rule, finding))
    }

    /// Findings of one severity as text, a rule a paragraph; empty without any.
    pub fn of(&self, severity: Severity, audit: &AuditPlan) -> Vec<String> {
        let wanted = self.0.iter().filter(|(rule, _)| audit.severity(**rule) == severity);
        let text = |(rule, finding): (&AuditRule, &Finding)| {
            let mut lines = vec![format!("{}: {} ({})", name(*rule), finding.count, meaning(*rule))];
            lines
                .extend(finding.hits.iter().map(|hit| format!("  {}:{}: {}", hit.path.display(), hit.row, hit.detail)));
            let more = finding.count - finding.hits.len() as u64;
            lines.extend((more > 0).then(|| format!("  and {more} more")));
            lines.join("\n")
        };
        wanted.map(text).collect()
    }
}

/// The rule as a recipe writes it.
pub fn name(rule: AuditRule) -> String {
    serde_json::to_value(rule).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

/// What a finding of the rule means, from the schema.
pub(crate) fn meaning(rule: AuditRule) -> &'static str {
    tonfall_recipes::schema::find(&format!("audit.{}", name(rule))).map_or("", |key| key.doc)
}
