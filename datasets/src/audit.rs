//! The audit: finds problems in data that was read without errors, rule by rule.
//!
//! Responsible for: counting findings, keeping the first ones of each rule, and grouping them by the recipe's
//! severities. The modules in `audit/` implement the rules.
//! Must not depend on: files, how samples are built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tonfall_recipes::plan::{AuditPlan, AuditRule, Severity};

pub(crate) mod duplicates;
pub(crate) mod labels;
pub(crate) mod templates;
pub(crate) mod terms;
pub(crate) mod texts;

/// Maximum number of stored hits for each rule.
const SHOWN: usize = 5;

/// The findings of the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings(BTreeMap<AuditRule, Finding>);

/// The findings of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub count: u64,
    /// The first hits.
    pub hits: Vec<Hit>,
}

/// The place of a finding, and its description.
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

    /// The findings of one severity as text, one paragraph for each rule. Empty if there are none.
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

/// The name of the rule in recipes.
pub fn name(rule: AuditRule) -> String {
    serde_json::to_value(rule).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

/// The meaning of a finding of this rule, from the recipe schema.
pub(crate) fn meaning(rule: AuditRule) -> &'static str {
    tonfall_recipes::schema::find(&format!("audit.{}", name(rule))).map_or("", |key| key.doc)
}
