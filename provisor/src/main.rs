//! The one binary of Provisor: roles, configuration, wiring, command line.
//!
//! `serve` and `quickstart` are the control plane; everything else is a client of its API, through the same
//! typed client that the tests use.

use std::process::ExitCode;

use clap::Parser as _;

mod cli;
mod config;
mod fail;
mod keeping;
mod output;
mod quickstart;
mod serve;
mod session;
mod simcloud;
mod telemetry;
mod wiring;

use cli::action::Verb;
use cli::{AdminCommand, Cli, Command, Global};
use fail::{Exit, Fail};
use output::{Format, Out};
use session::Session;
use wiring::Role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Why ignored: it fails only where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let out = Out::new(cli.global.output, cli.global.quiet);
    match run(&cli) {
        Ok(()) => Exit::Done.into(),
        Err(fail) => {
            report(out, &fail);
            fail.exit().into()
        }
    }
}

/// Says on standard error why it did not work, also with `-q`.
fn report(out: Out, fail: &Fail) {
    let loud = Out { quiet: false, ..out };
    match (fail, out.format) {
        (Fail::Closed, _) => {}
        (_, Format::Json) => loud.remark(&fail.json().to_string()),
        _ => loud.remark(&format!("error: {}", fail.text())),
    }
}

fn run(cli: &Cli) -> Result<(), Fail> {
    let (global, out) = (&cli.global, Out::new(cli.global.output, cli.global.quiet));
    match &cli.command {
        Command::Config(command) => cli::settings::run(global, *command),
        Command::Completions { shell } => cli::settings::completions(out, *shell),
        Command::Docs { page } => cli::settings::docs(out, page),
        Command::Api(listen) => runtime(true)?.block_on(serve::run(global, listen.listen.as_deref(), Role::Api)),
        Command::Worker => runtime(true)?.block_on(serve::run(global, None, Role::Worker)),
        Command::Serve(listen) => runtime(true)?.block_on(serve::run(global, listen.listen.as_deref(), Role::Serve)),
        Command::Quickstart(asked) => runtime(true)?.block_on(quickstart::run(global, asked)),
        Command::Migrate => keeping::migrate(global),
        Command::Backup { file } => keeping::backup(global, file),
        Command::Restore(asked) => runtime(true)?.block_on(keeping::restore(global, asked)),
        Command::Admin(AdminCommand::AfterRestore) => runtime(true)?.block_on(keeping::after_restore(global)),
        Command::Simcloud(asked) => runtime(true)?.block_on(simcloud::run(global, &asked.listen)),
        Command::Doctor => runtime(false)?.block_on(cli::doctor::run(global)),
        command => runtime(false)?.block_on(client(global, command)),
    }
}

fn runtime(server: bool) -> Result<tokio::runtime::Runtime, Fail> {
    let mut builder =
        if server { tokio::runtime::Builder::new_multi_thread() } else { tokio::runtime::Builder::new_current_thread() };
    builder.enable_all().build().map_err(|e| Fail::Usage(format!("no runtime: {e}")))
}

/// Commands that only ask a server.
async fn client(global: &Global, command: &Command) -> Result<(), Fail> {
    let session = &Session::open(global)?;
    match command {
        Command::Apply(asked) => cli::apply::run(session, asked).await,
        Command::Get(one) => cli::requests::get(session, one).await,
        Command::List(asked) => cli::requests::list(session, asked).await,
        Command::Watch(asked) => cli::watch::watch(session, asked).await,
        Command::Timeline(asked) => cli::requests::timeline(session, asked).await,
        Command::Attempts(one) => cli::requests::attempts(session, one).await,
        Command::Resources(one) => cli::requests::resources(session, one).await,
        Command::Events(asked) => cli::requests::events(session, asked).await,
        Command::CheckStatus(one) => cli::requests::check_status(session, one).await,
        Command::Metrics(one) => cli::requests::metrics(session, one).await,
        Command::Cancel(act) => cli::action::act(session, Verb::Cancel, act).await,
        Command::Suspend(act) => cli::action::act(session, Verb::Suspend, act).await,
        Command::Reactivate(act) => cli::action::act(session, Verb::Reactivate, act).await,
        Command::Deprovision(act) => cli::action::act(session, Verb::Deprovision, act).await,
        Command::Retry(act) => cli::action::retry(session, act).await,
        Command::ManualInput(input) => cli::action::manual_input(session, input).await,
        Command::Cluster(command) => cli::cluster::run(session, command).await,
        Command::Tenant(command) => cli::tenant::run(session, command).await,
        Command::Sweep(asked) => cli::cluster::sweep(session, asked).await,
        // The others are answered before a server is looked for.
        _ => Err(Fail::Usage("not a command of a client".to_owned())),
    }
}
