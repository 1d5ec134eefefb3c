//! `apply`: makes what a manifest describes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::watch::{Feed, Goal, Show, follow};
use super::{Apply, view};
use crate::fail::Fail;
use crate::output::{Format, Out, Table};
use crate::session::Session;

pub(crate) mod compare;
pub(crate) mod manifest;
pub(crate) mod send;

use manifest::Manifest;
use send::Applied;

/// `apply`.
pub(crate) async fn run(session: &Session, asked: &Apply) -> Result<(), Fail> {
    let text = manifest::read_text(&asked.file)?;
    let manifest = Manifest::read(&asked.file.display().to_string(), &text, &folder(&asked.file))?;
    // Why before: what happens while the file is applied must be seen too.
    let feed = if asked.wait.wait && !asked.dry_run { Some(Feed::from_now(session).await) } else { None };
    let applied = send::apply(session, &manifest, asked.dry_run).await?;
    if session.out.format == Format::Table {
        show(session.out, &applied, asked.dry_run)?;
    }
    let ended = match feed {
        Some(feed) if !applied.requests.is_empty() => {
            follow(session, feed, applied.requests.clone(), Goal::Completed, asked.wait.timeout, Show::progress(session.out))
                .await
        }
        _ => Ok(Vec::new()),
    };
    if session.out.format != Format::Table {
        show(session.out, &applied, asked.dry_run)?;
    }
    ended?;
    send::refused(&applied.plans).map_or(Ok(()), Err)
}

/// The folder of a file, for the paths in it.
fn folder(file: &Path) -> PathBuf {
    file.parent().filter(|_| file != Path::new("-")).map_or_else(PathBuf::new, Path::to_path_buf)
}

/// `cluster add`: one cluster, a list, or the clusters of a manifest.
pub(crate) async fn clusters_only(session: &Session, file: &Path) -> Result<(), Fail> {
    let name = file.display().to_string();
    let value = manifest::read_file(file)?;
    let clusters = match value {
        Value::Object(mut map) if map.contains_key("clusters") => map.remove("clusters").unwrap_or_default(),
        Value::Object(map) => json!([map]),
        other => other,
    };
    let manifest = Manifest::check(&name, &json!({ "clusters": clusters }), &folder(file))?;
    let applied = send::apply(session, &manifest, false).await?;
    show(session.out, &applied, false)
}

/// Shows what became of each entry.
pub(crate) fn show(out: Out, applied: &Applied, dry_run: bool) -> Result<(), Fail> {
    let mut value = json!({ "items": applied.items });
    if let (true, Some(map)) = (dry_run, value.as_object_mut()) {
        map.insert("dry_run".to_owned(), json!(true));
        map.insert("plans".to_owned(), applied.plans.iter().map(|(n, p)| json!({"name": n, "plan": p})).collect());
    }
    out.value(&value, || table(out, applied, dry_run))?;
    if let Some(remark) = &applied.remark {
        out.remark(remark);
    }
    Ok(())
}

fn table(out: Out, applied: &Applied, dry_run: bool) -> String {
    let result = if dry_run { "would be" } else { "result" };
    let mut table = Table::new(&["type", "name", "id", result]);
    for i in &applied.items {
        table.row(vec![i.kind.to_owned(), i.name.clone(), i.id.clone().unwrap_or_else(|| "–".to_owned()), out.state(i.result)]);
    }
    let plans: Vec<String> = applied.plans.iter().map(|(name, plan)| view::plan(out, name, plan)).collect();
    if plans.is_empty() { table.render() } else { format!("{}\n{}", table.render(), plans.join("")) }
}

#[cfg(test)]
mod tests;
