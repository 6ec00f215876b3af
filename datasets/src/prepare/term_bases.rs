//! Reads all term bases before all other rows, because the audit searches other rows for their terms.
//!
//! Responsible for: this first pass. Must not depend on: the tasks of entries.

use tonfall_recipes::plan::DataFormat;

use crate::audit::terms::{Gathered, Terms};
use crate::error::DataError;
use crate::formats::entry::Entry;
use crate::prepare::Input;
use crate::prepare::concepts::Concepts;
use crate::read::rows;

/// Reads the terms in the recipe's languages, and groups rows by concept. Faulty rows are skipped here; the second pass
/// reports them.
pub(crate) fn read(inputs: &[Input]) -> Result<(Terms, Concepts), DataError> {
    let (mut terms, mut concepts) = (Gathered::default(), Concepts::default());
    for (index, input) in inputs.iter().enumerate() {
        if input.layout.format.format != DataFormat::Terminology {
            continue;
        }
        let wanted = input.source.language.as_deref();
        rows::read(&input.file, Some(&input.layout.read), &mut |chunk| {
            for row in chunk {
                let number = row.number;
                let Ok(row) = row.parse() else { continue };
                let Ok(entries) = Entry::read(input.layout.fields(&row), wanted) else { continue };
                concepts.join(&entries.iter().flat_map(Entry::names).collect::<Vec<_>>());
                for entry in entries.iter().filter(|entry| entry.is_wanted(wanted)) {
                    terms.add(entry, (index, number));
                }
            }
            Ok(())
        })?;
    }
    concepts.settle();
    Ok((terms.finish()?, concepts))
}
