//! The first administrator (API.md, Configuration): at the first start on an empty store a token is taken
//! from the configuration or made, and left in the data folder for the command line of the same machine.
//!
//! The file comes before the row: a start that is cut off in between leaves an empty store, and the next one
//! writes both anew. The token itself is in no log.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use provisor_api::auth::{PLATFORM_ADMIN, PREFIX, digest};
use provisor_core::TokenId;
use provisor_core::chance::SplitMix;
use provisor_store::ops::tokens::{CreateToken, FindToken, ListTokens};
use provisor_store::{OpError, Store};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::Settings;
use crate::fail::Fail;
use crate::session::TOKEN_FILE;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// Makes sure that there is a first administrator.
pub(super) async fn first(settings: &Settings, store: &Store) -> Result<(), Fail> {
    let unusable = |e: OpError| Fail::of_store("the store cannot be used", &settings.database, &e);
    let path = settings.data_dir.join(TOKEN_FILE);
    let any = store.run(ListTokens { limit: 1, ..ListTokens::default() }).await.map_err(unusable)?;
    if !any.is_empty() {
        if let Some(given) = &settings.bootstrap_token {
            let known = store.run(FindToken { hash: digest(given) }).await.map_err(unusable)?;
            if known.is_none() {
                tracing::warn!("auth.bootstrap_token is not a token of this store and is not used: the store is not empty");
            }
        }
        return Ok(());
    }
    let token = match &settings.bootstrap_token {
        Some(given) => given.clone(),
        None => fresh()?,
    };
    write_private(&path, &token).map_err(|e| Fail::of_io(&format!("{} cannot be written", path.display()), &e))?;
    let create = CreateToken {
        id: TokenId::new(store.now(), &mut SplitMix::new(super::random())),
        hash: digest(&token),
        name: "first administrator".to_owned(),
        role: PLATFORM_ADMIN.to_owned(),
        tenant: None,
        expires_at: None,
    };
    store.run(create).await.map_err(unusable)?;
    tracing::info!(file = %path.display(), "first start: the administrator's token is in the file");
    Ok(())
}

fn fresh() -> Result<String, Fail> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Fail::Usage("the system gives no random numbers".to_owned()))?;
    let digits: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{PREFIX}{}", digits.concat()))
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    match std::fs::remove_file(&part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}
