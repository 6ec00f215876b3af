//! The entries of all term bases, read before everything else: they are small, and the audit looks for them in the rest.
//!
//! Responsible for: that first pass. Must not depend on: what tasks are made of entries.

use tonfall_recipes::plan::DataFormat;

use crate::audit::terms::Terms;
use crate::error::DataError;
use crate::formats::tasks::Entry;
use crate::prepare::Input;
use crate::read::rows;

/// Every entry in the languages that the recipe wants. Faulty ones are left to the second pass, which reports them.
pub(crate) fn read(inputs: &[Input]) -> Result<Terms, DataError> {
    let mut entries = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        if input.layout.format.format != DataFormat::Terminology {
            continue;
        }
        let wanted = input.source.language.as_deref();
        rows::read(&input.file, &mut |chunk| {
            for row in chunk {
                let number = row.number;
                let Ok(row) = row.parse() else { continue };
                if let Ok(entry) = Entry::read(input.layout.fields(&row), wanted)
                    && !entry.is_foreign(wanted)
                {
                    entries.push((entry, (index, number)));
                }
            }
            Ok(())
        })?;
    }
    Ok(Terms::new(&entries))
}
