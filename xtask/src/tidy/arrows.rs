//! Which crate may depend on which: arrows point one way, and core knows nobody.
//!
//! Only what is linked counts; tests may reach for more (the engine's tests use the simulation).

use std::process::Command;

use serde_json::Value;

use super::Fault;
use crate::shell::{Done, Failed, cargo, root};

/// Folder of a crate → the crates of ours that it may use. The first match holds.
const ALLOWED: &[(&str, &[&str])] = &[
    ("crates/core", &[]),
    ("crates/wire", &[]),
    ("crates/providers/", &["provisor-core", "provisor-provider"]),
    ("crates/provider", &["provisor-core"]),
    ("crates/store", &["provisor-core"]),
    ("crates/engine", &["provisor-core", "provisor-store", "provisor-provider"]),
    ("crates/worlds", &["provisor-core"]),
    ("crates/sim", &["provisor-core", "provisor-engine", "provisor-provider", "provisor-simulation", "provisor-store"]),
    ("crates/api", &["provisor-core", "provisor-engine", "provisor-provider", "provisor-store", "provisor-wire"]),
    ("xtask", &["provisor-core"]),
    ("bench", &[]),
];

/// All that core may be built of: nothing that can do I/O.
const CORE_BUILT_OF: &[&str] = &["serde", "serde_json", "thiserror", "time"];

/// Compares what the manifests say with the table.
pub(super) fn check() -> Done<Vec<Fault>> {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["metadata", "--format-version", "1", "--no-deps"]);
    let output = command.output().map_err(|e| Failed::new(format!("cargo metadata: {e}")))?;
    if !output.status.success() {
        return Err(Failed::new(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| Failed::new(format!("cargo metadata: {e}")))?;
    Ok(judge(&metadata, &root().to_string_lossy()))
}

fn judge(metadata: &Value, root: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for package in list(metadata, "packages") {
        let manifest = text(package, "manifest_path").trim_start_matches(root).trim_start_matches('/').to_owned();
        let linked = list(package, "dependencies").filter(|d| d.get("kind").is_none_or(|kind| kind != "dev"));
        for dependency in linked {
            if let Some(what) = refuse(&manifest, text(dependency, "name"), dependency.get("path").is_some()) {
                faults.push(Fault { file: manifest.clone(), line: 1, what });
            }
        }
    }
    faults
}

/// Why a crate may not use another, if it may not.
fn refuse(manifest: &str, name: &str, is_ours: bool) -> Option<String> {
    if manifest.starts_with("crates/core/") && !CORE_BUILT_OF.contains(&name) {
        return Some(format!("core must not depend on {name}: it decides, it does nothing"));
    }
    let (_, allowed) = ALLOWED.iter().find(|(folder, _)| manifest.starts_with(folder))?;
    let wrong = is_ours && !allowed.contains(&name);
    wrong.then(|| format!("must not depend on {name}; it may use {allowed:?} (ARCHITECTURE.md, \"Arrows\")"))
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_one_way() {
        assert!(refuse("crates/core/Cargo.toml", "tokio", false).is_some());
        assert!(refuse("crates/core/Cargo.toml", "serde", false).is_none());
        assert!(refuse("crates/providers/openstack/Cargo.toml", "provisor-engine", true).is_some());
        assert!(refuse("crates/providers/openstack/Cargo.toml", "provisor-provider", true).is_none());
        assert!(refuse("crates/provider/Cargo.toml", "provisor-store", true).is_some());
        assert!(refuse("provisor/Cargo.toml", "provisor-engine", true).is_none());
    }

    #[test]
    fn dependencies_of_tests_are_free() {
        let of = |kind: &str| {
            serde_json::json!({"packages": [{"manifest_path": "/a/crates/store/Cargo.toml",
                "dependencies": [{"name": "provisor-engine", "path": "/a/crates/engine", "kind": kind}]}]})
        };
        assert_eq!(judge(&of("dev"), "/a").len(), 0);
        assert_eq!(judge(&of("build"), "/a").len(), 1);
    }
}
