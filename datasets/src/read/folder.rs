//! Finds the files of a source.
//!
//! Responsible for: expanding files, folders and patterns into files in a fixed order; which files of a folder are
//! data, and which of them are held out. Must not depend on: the content of files.

use std::path::{Path, PathBuf};

use tonfall_recipes::plan::Split;

use crate::error::DataError;
use crate::read::files::{DataFile, Kind, kind_of};

/// The files of a source.
#[derive(Debug, Default)]
pub(crate) struct Expanded {
    pub(crate) files: Vec<DataFile>,
    /// Files and hidden entries of folders that are not data.
    pub(crate) skipped: Vec<PathBuf>,
    /// Files whose name assigns them to the other side of the split.
    pub(crate) other_side: Vec<PathBuf>,
}

/// Names of documents that accompany data. In folders, these are never data.
const DOCUMENTS: [&str; 12] = [
    "readme",
    "license",
    "licence",
    "copying",
    "notice",
    "changelog",
    "contributing",
    "code_of_conduct",
    "citation",
    "authors",
    "security",
    "datasheet",
];

/// Description files that the `datasets` library writes next to data.
const DESCRIPTIONS: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

const TRAIN_NAMES: [&str; 2] = ["train", "training"];
const EVAL_NAMES: [&str; 7] = ["test", "testing", "eval", "evaluation", "validation", "valid", "val"];
/// Names that mean held-out data only as a whole name, because `dev` often has another meaning.
const EVAL_WHOLE_NAMES: [&str; 2] = ["dev", "heldout"];

/// Expands `patterns` to the files of one side of the split. Files of a folder or a pattern are sorted by name.
///
/// # Errors
/// If a file doesn't exist or is of an unsupported kind, or if a folder or a pattern has no data.
pub(crate) fn expand(patterns: &[PathBuf], split: Split) -> Result<Expanded, DataError> {
    let mut all = Expanded::default();
    for pattern in patterns {
        if pattern.is_dir() {
            folder(pattern, split, &mut all)?;
        } else if pattern.exists() || !pattern.to_string_lossy().contains(['*', '?', '[']) {
            all.files.push(DataFile::new(pattern.clone())?);
        } else {
            by_pattern(pattern, &mut all.files)?;
        }
    }
    Ok(all)
}

fn by_pattern(pattern: &Path, files: &mut Vec<DataFile>) -> Result<(), DataError> {
    let unreadable = |why: String| DataError::Unreadable { path: pattern.to_owned(), why };
    // As in a shell, `*` does not match hidden files.
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let matches =
        glob::glob_with(&pattern.to_string_lossy(), options).map_err(|error| unreadable(error.to_string()))?;
    let before = files.len();
    for path in matches {
        let path = path.map_err(|error| unreadable(error.to_string()))?;
        if path.is_file() {
            files.push(DataFile::found(path)?);
        }
    }
    if files.len() == before { Err(DataError::NoFiles { pattern: pattern.to_owned() }) } else { Ok(()) }
}

fn folder(folder: &Path, split: Split, all: &mut Expanded) -> Result<(), DataError> {
    let mut found = Vec::new();
    walk(folder, &mut found, &mut all.skipped)?;
    refuse_saved_dataset(folder, &found)?;
    let kinds: Vec<Option<Kind>> = found.iter().map(|path| kind_of(path)).collect();
    let has_tables = found
        .iter()
        .zip(&kinds)
        .any(|(path, kind)| kind.is_some_and(|kind| kind != Kind::Text) && !is_description(path));
    let is_data = |path: &Path, kind: Option<Kind>| match kind {
        None => false,
        // Text files next to tables describe the tables.
        Some(Kind::Text) => !has_tables && !is_document(path),
        Some(_) => !is_description(path),
    };
    let (mut data, mut other) = (Vec::new(), Vec::new());
    for (path, kind) in found.into_iter().zip(kinds) {
        if is_data(&path, kind) { data.push(path) } else { other.push(path) }
    }
    if data.is_empty() {
        return Err(DataError::NoFiles { pattern: folder.to_owned() });
    }
    all.skipped.append(&mut other);
    let sides = sides(folder, &data);
    for (path, side) in data.into_iter().zip(sides) {
        if side.is_none_or(|side| side == split) {
            all.files.push(DataFile::found(path)?);
        } else {
            all.other_side.push(path);
        }
    }
    Ok(())
}

/// The side of the split that each file name states. Names count only if they assign files to both sides. Otherwise the
/// whole folder is data.
fn sides(folder: &Path, files: &[PathBuf]) -> Vec<Option<Split>> {
    let clear: Vec<Option<Split>> =
        files.iter().map(|path| side(path.strip_prefix(folder).unwrap_or(path), false)).collect();
    let likely: Vec<Option<Split>> =
        files.iter().map(|path| side(path.strip_prefix(folder).unwrap_or(path), true)).collect();
    let both = |sides: &[Option<Split>]| sides.contains(&Some(Split::Train)) && sides.contains(&Some(Split::Eval));
    // `letters_train.jsonl` states a side only if all other files state one too.
    if likely.iter().all(Option::is_some) && both(&likely) {
        likely
    } else if both(&clear) {
        clear
    } else {
        vec![None; files.len()]
    }
}

/// The side that a path states. It counts as the name of a folder, or as the whole name of a file without part numbers
/// (`train-00000-of-00002.parquet`). With `likely`, it also counts as the first or last word of the file name.
fn side(path: &Path, likely: bool) -> Option<Split> {
    let mut names: Vec<String> = path.iter().map(|name| name.to_string_lossy().to_lowercase()).collect();
    let file = names.pop()?;
    let stem = file.split('.').next().unwrap_or_default();
    let is_part = |word: &str| word == "of" || word == "part" || word.chars().any(|c| c.is_ascii_digit());
    let words: Vec<&str> = stem.split(['-', '_', ' ']).filter(|word| !word.is_empty() && !is_part(word)).collect();
    let side_of = |word: &str, whole: bool| {
        if TRAIN_NAMES.contains(&word) {
            Some(Split::Train)
        } else if EVAL_NAMES.contains(&word) || (whole && EVAL_WHOLE_NAMES.contains(&word)) {
            Some(Split::Eval)
        } else {
            None
        }
    };
    match words[..] {
        [only] => side_of(only, true),
        [first, .., last] if likely => side_of(first, false).or_else(|| side_of(last, false)),
        _ => None,
    }
    .or_else(|| names.iter().rev().find_map(|name| side_of(name, true)))
}

/// Refuses the output of `Dataset.save_to_disk`: Arrow files with a description.
fn refuse_saved_dataset(folder: &Path, found: &[PathBuf]) -> Result<(), DataError> {
    let has = |name: &str| found.iter().any(|path| path.file_name().is_some_and(|own| own == name));
    let has_arrow = found.iter().any(|path| path.extension().is_some_and(|extension| extension == "arrow"));
    if !has_arrow || !(has("state.json") || has("dataset_dict.json")) {
        return Ok(());
    }
    let split = if has("dataset_dict.json") { "['train']" } else { "" };
    let why = format!(
        "a dataset that was saved with save_to_disk (Arrow files), which is not read; convert it: \
         python -c \"import datasets; datasets.load_from_disk('{}'){split}.to_parquet('train.parquet')\"",
        folder.display()
    );
    Err(DataError::Unreadable { path: folder.to_owned(), why })
}

fn is_document(path: &Path) -> bool {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    // README.de.md, LICENSE-MIT.txt
    let word = stem.split(['.', '-']).next().unwrap_or_default();
    DOCUMENTS.contains(&word)
}

fn is_description(path: &Path) -> bool {
    path.file_name().is_some_and(|name| DESCRIPTIONS.iter().any(|known| name == *known))
}

/// Finds the files in `folder`, sorted by name. Hidden entries and entries that are not files go to `skipped`. Links to
/// folders are not followed, to avoid cycles.
fn walk(folder: &Path, found: &mut Vec<PathBuf>, skipped: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.to_owned(), source };
    let mut entries = std::fs::read_dir(folder).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            skipped.push(path);
        } else if entry.file_type().map_err(io)?.is_dir() {
            walk(&path, found, skipped)?;
        } else if path.is_file() {
            found.push(path);
        } else {
            skipped.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use tonfall_recipes::plan::Split;

    use super::expand;

    /// The files for training, the files for evaluation, and the skipped files.
    fn names(files: &[&str]) -> Result<[String; 3], String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            #[expect(clippy::disallowed_methods, reason = "a fixture")]
            fs::write(path, "x").expect("written");
        }
        let shown = |paths: Vec<PathBuf>| {
            let names = paths.iter().map(|path| path.strip_prefix(folder.path()).unwrap_or(path).display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        let expand = |split| expand(&[folder.path().to_owned()], split).map_err(|error| error.to_string());
        let paths =
            |files: Vec<crate::read::files::DataFile>| files.into_iter().map(|file| file.path).collect::<Vec<_>>();
        let (train, eval) = (expand(Split::Train)?, expand(Split::Eval)?);
        Ok([shown(paths(train.files)), shown(paths(eval.files)), shown(train.skipped)])
    }

    #[test]
    fn a_folder_from_a_hub_is_split_by_names() {
        let files = [
            "README.md",
            "LICENSE.txt",
            ".git/notes.txt",
            ".hidden.jsonl",
            "dataset_infos.json",
            "train.jsonl",
            "test.jsonl",
        ];
        let [train, eval, skipped] = names(&files).expect("data");
        assert_eq!((train.as_str(), eval.as_str()), ("train.jsonl", "test.jsonl"));
        assert_eq!(skipped, ".git .hidden.jsonl LICENSE.txt README.md dataset_infos.json");
    }

    #[test]
    fn names_decide_the_side_of_files() {
        let sides = |files: &[&str]| {
            let [train, eval, _] = names(files).expect("data");
            (train, eval)
        };
        let pair = |train: &str, eval: &str| (train.to_owned(), eval.to_owned());
        let parts = [
            "data/train-00000-of-00002-a1b2.parquet",
            "data/train-00001-of-00002-a1b2.parquet",
            "data/validation-00000-of-00001.parquet",
        ];
        assert_eq!(sides(&parts), pair(&parts[..2].join(" "), parts[2]));
        assert_eq!(sides(&["train/a.jsonl", "dev/a.jsonl"]), pair("train/a.jsonl", "dev/a.jsonl"));
        assert_eq!(sides(&["train_sft.jsonl", "test_sft.jsonl"]), pair("train_sft.jsonl", "test_sft.jsonl"));
        // Names count only if they assign files to both sides.
        assert_eq!(sides(&["test-drive.jsonl", "voyage.jsonl"]).0, "test-drive.jsonl voyage.jsonl");
        assert_eq!(sides(&["test.jsonl"]), pair("test.jsonl", "test.jsonl"));
        assert_eq!(
            sides(&["train-trip.jsonl", "test-drive.jsonl", "car.jsonl"]).0,
            "car.jsonl test-drive.jsonl train-trip.jsonl"
        );
    }

    #[test]
    fn texts_are_data_if_there_are_no_tables() {
        let [train, _, skipped] = names(&["README.md", "a.txt", "b.md", "notes.docx"]).expect("data");
        assert_eq!((train.as_str(), skipped.as_str()), ("a.txt b.md", "README.md notes.docx"));
        let [train, _, skipped] = names(&["a.csv", "b.txt"]).expect("data");
        assert_eq!((train.as_str(), skipped.as_str()), ("a.csv", "b.txt"));
        assert!(names(&["README.md"]).expect_err("no data").contains("no data file is there"));
    }

    #[test]
    fn a_dataset_saved_to_disk_is_an_error_that_names_the_solution() {
        let error = names(&[
            "dataset_dict.json",
            "train/data-00000-of-00001.arrow",
            "train/state.json",
            "train/dataset_info.json",
        ]);
        let error = error.expect_err("Arrow files");
        assert!(error.contains("save_to_disk") && error.contains("['train'].to_parquet('train.parquet')"), "{error}");
    }

    #[test]
    fn hidden_files_match_no_pattern() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["a.jsonl", ".b.jsonl"] {
            #[expect(clippy::disallowed_methods, reason = "a fixture")]
            fs::write(folder.path().join(name), "x").expect("written");
        }
        let all = expand(&[folder.path().join("*.jsonl")], Split::Train).expect("one file");
        let names: Vec<_> = all.files.iter().map(|file| file.path.file_name().expect("a name").to_owned()).collect();
        assert_eq!(names, ["a.jsonl"]);
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused() {
        let error = expand(&[Path::new("/dev/null").to_owned()], Split::Train).expect_err("a device").to_string();
        assert!(error.contains("a pipe or a device is no data file"), "{error}");
    }
}
