//! Words that must not stand in the project, and links of its documents that lead nowhere.

use std::path::Path;

use super::Fault;

/// Put together here so that this file does not trip over itself. Each with what to do instead.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it, or say in a decision why not"),
    (concat!("FIX", "ME"), "fix it"),
    (concat!("XX", "X"), "say what is meant"),
    (concat!("to", "do!("), "finish it"),
    (concat!("unimpl", "emented!("), "finish it, or refuse by name"),
    (concat!("/wo", "rk/"), "no paths of one machine"),
    (concat!("/fa", "rm/"), "no paths of one machine"),
    (concat!("/ro", "ot/"), "no paths of one machine"),
];

/// Every banned word of a file.
pub(super) fn banned(name: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (word, instead) in BANNED {
            if line.match_indices(word).any(|(at, _)| stands_alone(line, at, word)) {
                let what = format!("banned: {word}: {instead}");
                faults.push(Fault { file: name.to_owned(), line: number + 1, what });
            }
        }
    }
    faults
}

/// Not a part of a longer word, like a name between other letters.
fn stands_alone(line: &str, at: usize, word: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let before = line.get(..at).and_then(|s| s.chars().next_back());
    let after = line.get(at + word.len()..).and_then(|s| s.chars().next());
    let (first, last) = (word.chars().next(), word.chars().next_back());
    !(is_letter(before) && (is_letter(first) || word.starts_with('/'))) && !(is_letter(after) && is_letter(last))
}

/// Relative links of a Markdown file whose file is not there.
pub(super) fn dead_links(name: &str, text: &str, path: &Path) -> Vec<Fault> {
    let folder = path.parent().unwrap_or(path);
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
        for target in targets {
            let file = target.split('#').next().unwrap_or("");
            let is_relative = !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") && !file.contains(' ');
            if is_relative && !folder.join(file).exists() {
                faults.push(Fault { file: name.to_owned(), line: number + 1, what: format!("link leads nowhere: {target}") });
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_words_are_found_but_not_inside_others() {
        let word = concat!("TO", "DO");
        assert_eq!(banned("a.rs", &format!("fine\n// {word}: later")).len(), 1);
        assert_eq!(banned("a.rs", &format!("{word}S and MAS{word}N")).len(), 0);
        assert_eq!(banned("a.md", concat!("see /wo", "rk/main")).len(), 1);
        assert_eq!(banned("a.md", concat!("https://example.org/net", "work/list")).len(), 0);
    }

    #[test]
    fn links_to_files_that_are_not_there_are_found() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let text = "[a](Cargo.toml) [b](gone.md#x) [c](https://example.org/gone.md) [d](#here)";
        let told = dead_links("a.md", text, &here);
        assert_eq!(told.len(), 1);
        assert!(told[0].what.contains("gone.md"));
    }
}
