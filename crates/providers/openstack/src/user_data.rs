//! What cloud-init is given: the request's own user data and its SSH keys.
//!
//! Keys do not become Nova key pairs: those belong to a user, not to a project, so a service account's key pairs
//! would pile up beside everybody's servers with nobody to own them. cloud-init takes both parts of a multipart
//! text; the keys come second and say how they are merged, so that they add to the user's own and replace nothing.

use std::fmt::Write as _;

/// Texts that user data can hold only by chance would end a part early; this one nobody writes.
const BOUNDARY: &str = "==provisor-user-data-7d1f0c52==";

/// The text for cloud-init; `None` when there is nothing to say.
pub(crate) fn compose(ssh_keys: &[String], own: Option<&str>) -> Option<String> {
    let own = own.filter(|text| !text.trim().is_empty());
    if ssh_keys.is_empty() {
        return own.map(str::to_owned);
    }
    let keys = keys(ssh_keys);
    let Some(own) = own else { return Some(keys) };
    let mut text = format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\n\n");
    for (kind, part) in [(content_type(own), own), ("text/cloud-config", keys.as_str())] {
        let part = part.trim_end();
        // Writing to a String cannot fail.
        let _ = write!(text, "--{BOUNDARY}\nContent-Type: {kind}; charset=\"utf-8\"\n\n{part}\n");
    }
    let _ = writeln!(text, "--{BOUNDARY}--");
    Some(text)
}

fn keys(ssh_keys: &[String]) -> String {
    let mut text =
        "#cloud-config\nmerge_how: 'list(append)+dict(no_replace,recurse_list)+str()'\nssh_authorized_keys:\n".to_owned();
    for key in ssh_keys {
        // As a quoted YAML text, so that a comment in the key stays part of it.
        let _ = writeln!(text, "  - '{}'", key.replace('\'', "''"));
    }
    text
}

/// cloud-init's kinds of user data, by their first line.
fn content_type(text: &str) -> &'static str {
    let starts = [
        ("#cloud-config", "text/cloud-config"),
        ("#!", "text/x-shellscript"),
        ("#include", "text/x-include-url"),
        ("#cloud-boothook", "text/cloud-boothook"),
        ("## template: jinja", "text/jinja2"),
    ];
    starts.iter().find(|(start, _)| text.starts_with(start)).map_or("text/plain", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_own_data_are_both_given() {
        let key = vec!["ssh-ed25519 AAAA it's ops".to_owned()];
        assert_eq!(compose(&[], None), None);
        assert_eq!(compose(&[], Some("#!/bin/sh\n")), Some("#!/bin/sh\n".to_owned()));
        let alone = compose(&key, None).unwrap();
        assert!(alone.starts_with("#cloud-config\n") && alone.contains("  - 'ssh-ed25519 AAAA it''s ops'"), "{alone}");
        let both = compose(&key, Some("#!/bin/sh\necho hi\n")).unwrap();
        assert_eq!(both.matches(BOUNDARY).count(), 4, "{both}");
        assert!(both.contains("text/x-shellscript") && both.contains("text/cloud-config"), "{both}");
    }
}
