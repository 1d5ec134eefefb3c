//! `cargo xtask tidy`: the house rules that no other tool holds. Each fault is `file:line: what`.
//!
//! Rules: a source file of at most 600 lines that opens with its module's doc, functions of at most 70 lines
//! (tests excepted), crates that depend only downwards, no banned words, links in the documents that lead
//! somewhere. Rejected: clippy's `too_many_lines` for functions, because it counts what it likes and knows
//! nothing of files.

mod arrows;
mod source;
mod words;

use std::path::{Path, PathBuf};

use crate::shell::{Done, Failed, complain, read, root};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// Folders that are not ours to judge.
const FOREIGN: &[&str] = &["target", ".git", "provisor-data", "node_modules", "__pycache__"];

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// Path in the checkout.
    pub(crate) file: String,
    /// Line, from 1.
    pub(crate) line: usize,
    /// What is wrong, and what would be right.
    pub(crate) what: String,
}

/// Checks everything; tells every fault.
pub(crate) fn run() -> Done {
    let mut faults = arrows::check()?;
    for path in files(root())? {
        let name = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        let extension = path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        if matches!(extension.as_str(), "rs" | "md" | "toml" | "sh" | "sql" | "yaml" | "yml" | "py" | "html" | "json") {
            let text = read(&path)?;
            faults.extend(words::banned(&name, &text));
            match extension.as_str() {
                "rs" => faults.extend(rust(&name, &text)),
                "md" => faults.extend(words::dead_links(&name, &text, &path)),
                _ => {}
            }
        }
    }
    faults.sort();
    for fault in &faults {
        complain(&format!("{}:{}: {}", fault.file, fault.line, fault.what));
    }
    if faults.is_empty() { Ok(()) } else { Err(Failed::new(format!("tidy: {} faults", faults.len()))) }
}

/// The rules of one Rust file.
fn rust(name: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |line, what: String| faults.push(Fault { file: name.to_owned(), line, what });
    let lines = text.lines().count();
    if lines > FILE_LINES {
        fault(1, format!("{lines} lines; at most {FILE_LINES}: split it by what it does"));
    }
    if !text.lines().next().is_some_and(|first| first.starts_with("//! ")) {
        fault(1, "no module doc: open with `//!` what it is, why so, what was rejected".to_owned());
    }
    if !is_test(name) {
        for function in source::functions(text).iter().filter(|f| f.lines > FUNCTION_LINES && !f.is_test) {
            fault(function.line, format!("fn {} has {} lines; at most {FUNCTION_LINES}", function.name, function.lines));
        }
    }
    faults
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// All files below a folder, in order.
fn files(folder: &Path) -> Done<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| Failed::new(format!("{}: {e}", folder.display())))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !FOREIGN.contains(&name.as_str()) => open.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_doc_and_with_too_much_is_told() {
        let text = format!("fn long() {{\n{}}}\n", "    let a = 1;\n".repeat(80));
        let told: Vec<String> = rust("crates/a/src/b.rs", &text).into_iter().map(|f| format!("{}: {}", f.line, f.what)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].contains("fn long has 82 lines"));
        assert_eq!(rust("crates/a/tests/it/b.rs", &text).len(), 1);
    }
}
