//! `quickstart`: from nothing to running services in one command, without anything else installed.
//!
//! It serves like `serve`, applies the embedded example against simulated clusters through the same API
//! and the same code as `apply`, shows it live, and goes on serving. A second run finds everything there.

use std::path::Path;

use provisor_wire::{Client, Request};

use crate::cli::apply::{self, manifest::Manifest, send};
use crate::cli::watch::{Feed, Goal, Show, follow};
use crate::cli::{Global, Quickstart, timeline};
use crate::config::load::Source;
use crate::config::{Config, Database, Settings};
use crate::fail::Fail;
use crate::output::{Colour, Format, Out, put};
use crate::serve::{self, Signals};
use crate::session::{Session, TOKEN_FILE, reachable};
use crate::wiring::Role;

/// The example.
pub(crate) const EXAMPLE: &str = include_str!("../../examples/quickstart.yaml");
/// What it is called in messages.
pub(crate) const EXAMPLE_NAME: &str = "examples/quickstart.yaml";

/// Logs beside a live picture are a nuisance, unless somebody asked for them.
fn quiet_logs(config: &Config, settings: &mut Settings) {
    if config.source("log.level") == Some(&Source::Default) {
        "warn".clone_into(&mut settings.log_level);
    }
}

/// `quickstart`.
pub(crate) async fn run(global: &Global, asked: &Quickstart) -> Result<(), Fail> {
    let config = serve::configuration(global, asked.listen.listen.as_deref())?;
    let mut settings = config.settings();
    quiet_logs(&config, &mut settings);
    crate::telemetry::start(settings.log_format, &settings.log_level);
    let mut signals = Signals::catch()?;
    let out = Out::new(Format::Table, global.quiet);
    let mut server = serve::start(&settings, Role::Serve).await?;
    let address = server.address.map_or_else(String::new, |a| a.to_string());
    let place = match &settings.database {
        Database::Sqlite(_) => format!("everything in {}", settings.data_dir.display()),
        Database::Postgres(_) => format!("the data in {} and the rest in {}", settings.database, settings.data_dir.display()),
    };
    out.line(&format!("Serving on http://{address} with {place}.\n"))?;
    let session = Session { client: client(&address, &settings)?, out };
    let shown = tokio::select! {
        biased;
        _ = signals.next() => None,
        shown = example(&session, &settings) => Some(shown),
    };
    let ended = match shown {
        // Why not at once: what was applied is worth looking at, also where it did not end well.
        Some(result) if !asked.exit_when_done => {
            if let Err(fail) = &result {
                out.remark(&fail.text());
            }
            out.line("\nServing on; Ctrl-C ends it.")?;
            tokio::select! {
                biased;
                _ = signals.next() => Ok(()),
                why = server.failed() => Err(Fail::Ended(why)),
            }
        }
        Some(result) => result,
        None => Ok(()),
    };
    serve::stop(server, &settings, &mut signals).await;
    ended
}

fn client(address: &str, settings: &Settings) -> Result<Client, Fail> {
    let path = settings.data_dir.join(TOKEN_FILE);
    let token = match &settings.bootstrap_token {
        Some(token) => token.clone(),
        None => std::fs::read_to_string(&path).map_err(|e| Fail::Usage(format!("{} cannot be read: {e}", path.display())))?,
    };
    Ok(Client::new(&format!("http://{}", reachable(address)), Some(token.trim()))?)
}

/// Applies the example and shows it.
async fn example(session: &Session, settings: &Settings) -> Result<(), Fail> {
    let out = session.out;
    let manifest = Manifest::read(EXAMPLE_NAME, EXAMPLE, Path::new(""))?;
    let feed = Feed::from_now(session).await;
    let applied = send::apply(session, &manifest, false).await?;
    apply::show(out, &applied, false)?;
    if applied.items.iter().all(|i| i.result == "unchanged") {
        out.line("\nEverything of the example is there already; nothing was changed.")?;
    }
    out.line("")?;
    let done = follow(session, feed, applied.requests, Goal::Wanted, None, Show::progress(out)).await?;
    if let Some(request) = done.iter().find(|r| !r.depends_on.is_empty()).or(done.first()) {
        let shown = session.client.timeline(&request.id, false).await?;
        out.line(&format!("\n{}", out.paint(Colour::Bold, &format!("What happened to {}:", request.name))))?;
        out.raw(&timeline::table(out, &shown))?;
        out.raw(&next_steps(out, session.client.base(), settings, request, &done))?;
    }
    Ok(())
}

/// Commands to try, with what is really there.
fn next_steps(out: Out, base: &str, settings: &Settings, request: &Request, all: &[Request]) -> String {
    let data = settings.data_dir.display().to_string();
    let flag = if data == "provisor-data" { String::new() } else { format!(" --data {data}") };
    let mut text = format!("\n{}\n", out.paint(Colour::Bold, "Where it answers:"));
    for r in all {
        for e in &r.endpoints {
            put(&mut text, format_args!("  {:<12} {}\n", r.name, e.url));
        }
    }
    put(&mut text, format_args!("\n{}\n", out.paint(Colour::Bold, "To try next, in another terminal:")));
    let commands = [
        format!("provisor{flag} list"),
        format!("provisor{flag} timeline {} --operations", request.id),
        format!("provisor{flag} suspend {} --wait", request.name),
        format!("provisor{flag} deprovision {} --wait", request.name),
        format!("provisor{flag} cluster list"),
        format!("provisor{flag} events --follow"),
        format!("curl -H \"Authorization: Bearer $(cat {data}/{TOKEN_FILE})\" {base}/api/requests/{}", request.id),
    ];
    for command in commands {
        put(&mut text, format_args!("  {command}\n"));
    }
    text + &format!("\nThe administrator's token is in {data}/{TOKEN_FILE}; the API is described at {base}/api/openapi.json.\n")
}
