//! Encryption at rest (SPEC 11): provider and service credentials, and user data that may hold secrets.
//!
//! The keys are in a file outside of the database, so that a copy of the database alone opens nothing. Each
//! text is encrypted with ChaCha20-Poly1305 under a random nonce and bound to its purpose, so that one kind
//! of secret cannot be passed off as another. The store keeps a canary: a start with the wrong key is
//! refused instead of failing later, at the first secret (H44). Rejected: a key in the database or derived
//! from the machine; AES-GCM, which is no better here and slow where the processor does not help.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use provisor_core::spec::{Seal, Sealed};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ops::meta::{GetMeta, MakeMeta};
use crate::{OpError, Store};

/// The name of the key file in the data folder, where no other is set.
pub const KEY_FILE: &str = "secrets.key";
const KEY_BYTES: usize = 32;
const KEYS_LIMIT: usize = 100;
const CANARY: &str = "vault_canary";
const CANARY_TEXT: &str = "the key opens this store";
/// The purpose of texts inside a specification.
const PURPOSE_SPEC: &str = "spec";

/// Why a secret or the vault could not be opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VaultError {
    /// The key file cannot be used.
    #[error("the key file {} cannot be used: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store has secrets, but its key file is not there.
    #[error("the key file {} is missing, but the store holds secrets under key {key}; put it back", path.display())]
    KeyMissing {
        /// The file.
        path: PathBuf,
        /// The id of the key that is needed.
        key: String,
    },
    /// None of the keys opens the store.
    #[error("the key file {} does not open this store: it needs key {needed}, the file has {found}", path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// The id of the key that is needed.
        needed: String,
        /// The ids of the keys in the file.
        found: String,
    },
    /// The secret was encrypted with a key that we do not have.
    #[error("the secret needs key {0}, which is not in the key file")]
    UnknownKey(String),
    /// The secret is damaged or was made for another purpose.
    #[error("the secret cannot be opened: it is damaged or was made for another purpose")]
    Damaged,
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] OpError),
}

struct Key {
    seal: LessSafeKey,
    nonce: hmac::Key,
}

/// The keys of an installation.
pub struct Vault {
    keys: BTreeMap<String, Key>,
    /// The id of the key that writes: the last in the file.
    writes: String,
    /// From the first key in the file, so that adding a key changes no fingerprint.
    fingerprint: hmac::Key,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("writes", &self.writes).finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens the key file in a data folder; makes it at the first start.
    pub async fn in_folder(folder: &Path, store: &Store) -> Result<Self, VaultError> {
        Self::in_file(&folder.join(KEY_FILE), store).await
    }

    /// Opens a key file and checks that it opens the store. Where there is neither a file nor a canary in
    /// the store, this is the first start, and a key is made.
    pub async fn in_file(path: &Path, store: &Store) -> Result<Self, VaultError> {
        let canary = store.run(GetMeta { name: CANARY.to_owned() }).await?;
        let canary: Option<Sealed> =
            canary.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| VaultError::Damaged)?;
        let text = match (read_file(path)?, &canary) {
            (Some(text), _) => text,
            (None, Some(canary)) => return Err(VaultError::KeyMissing { path: path.to_owned(), key: canary.key.clone() }),
            (None, None) => make_file(path)?,
        };
        let vault = Self::read(path, &text)?;
        let canary = if let Some(canary) = canary {
            canary
        } else {
            let made = vault.seal_text(CANARY, CANARY_TEXT);
            let text = serde_json::to_string(&made).map_err(|_| VaultError::Damaged)?;
            // Another process may have been first; its canary counts.
            let kept = store.run(MakeMeta { name: CANARY.to_owned(), value: text }).await?;
            serde_json::from_str(&kept).map_err(|_| VaultError::Damaged)?
        };
        match vault.open_text(CANARY, &canary) {
            Ok(text) if text == CANARY_TEXT => Ok(vault),
            _ => {
                let found = vault.keys.keys().cloned().collect::<Vec<_>>().join(", ");
                Err(VaultError::WrongKey { path: path.to_owned(), needed: canary.key, found })
            }
        }
    }

    /// A vault with a random key that lives as long as it does, for tests and dry runs.
    pub fn ephemeral() -> Result<Self, VaultError> {
        Self::read(Path::new("memory"), &BASE64.encode(random::<KEY_BYTES>()?))
    }

    /// One key a line in base 64; empty lines and lines after `#` are skipped.
    fn read(path: &Path, text: &str) -> Result<Self, VaultError> {
        let wrong = |reason: &str| VaultError::KeyFile { path: path.to_owned(), reason: reason.to_owned() };
        let mut keys = BTreeMap::new();
        let (mut first, mut last) = (None, None);
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let bytes = BASE64.decode(line).map_err(|_| wrong("a line is not base 64"))?;
            if bytes.len() != KEY_BYTES || keys.len() >= KEYS_LIMIT {
                return Err(wrong("a key is not of 32 bytes, or there are too many"));
            }
            let id = hex(digest::digest(&digest::SHA256, &bytes).as_ref(), 6);
            let key = Key { seal: aead_key(&bytes)?, nonce: subkey(&bytes, "nonce") };
            keys.insert(id.clone(), key);
            first.get_or_insert_with(|| subkey(&bytes, "fingerprint"));
            last = Some(id);
        }
        let (Some(fingerprint), Some(writes)) = (first, last) else { return Err(wrong("it holds no key")) };
        Ok(Self { keys, writes, fingerprint })
    }

    /// Encrypts a text for a purpose.
    pub fn seal_text(&self, purpose: &str, clear: &str) -> Sealed {
        let fingerprint = hex(hmac::sign(&self.fingerprint, clear.as_bytes()).as_ref(), 32);
        let mut bytes = clear.as_bytes().to_vec();
        let mut sealed = Vec::new();
        if let Some(key) = self.keys.get(&self.writes) {
            let nonce = key.nonce_for(purpose, clear);
            sealed.extend_from_slice(&nonce);
            // Fails only for texts of more than 256 GiB; what is sealed then opens as damaged.
            if key.seal.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose), &mut bytes).is_ok() {
                sealed.extend_from_slice(&bytes);
            }
        }
        Sealed { key: self.writes.clone(), sealed: BASE64.encode(sealed), fingerprint }
    }

    /// Opens a text that was sealed for a purpose.
    pub fn open_text(&self, purpose: &str, sealed: &Sealed) -> Result<String, VaultError> {
        let key = self.keys.get(&sealed.key).ok_or_else(|| VaultError::UnknownKey(sealed.key.clone()))?;
        let mut bytes = BASE64.decode(&sealed.sealed).map_err(|_| VaultError::Damaged)?;
        if bytes.len() < NONCE_LEN {
            return Err(VaultError::Damaged);
        }
        let mut body = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| VaultError::Damaged)?;
        let clear = key.seal.open_in_place(nonce, Aad::from(purpose), &mut body).map_err(|_| VaultError::Damaged)?;
        String::from_utf8(clear.to_vec()).map_err(|_| VaultError::Damaged)
    }

    /// Opens a text of a specification, sealed through [`Seal`].
    pub fn open(&self, sealed: &Sealed) -> Result<String, VaultError> {
        self.open_text(PURPOSE_SPEC, sealed)
    }

    /// Encrypts a document for a purpose; the result is the text of a [`Sealed`].
    pub fn seal_json<T: Serialize>(&self, purpose: &str, value: &T) -> Result<String, VaultError> {
        let clear = serde_json::to_string(value).map_err(|_| VaultError::Damaged)?;
        serde_json::to_string(&self.seal_text(purpose, &clear)).map_err(|_| VaultError::Damaged)
    }

    /// Opens a document that [`Vault::seal_json`] made.
    pub fn open_json<T: DeserializeOwned>(&self, purpose: &str, sealed: &str) -> Result<T, VaultError> {
        let sealed: Sealed = serde_json::from_str(sealed).map_err(|_| VaultError::Damaged)?;
        serde_json::from_str(&self.open_text(purpose, &sealed)?).map_err(|_| VaultError::Damaged)
    }
}

impl Seal for Vault {
    fn seal(&self, clear: &str) -> Sealed {
        self.seal_text(PURPOSE_SPEC, clear)
    }
}

impl Key {
    /// A random nonce; where the system has no random numbers, one from the text itself, which repeats only
    /// for the same text and purpose.
    fn nonce_for(&self, purpose: &str, clear: &str) -> [u8; NONCE_LEN] {
        if let Ok(nonce) = random() {
            return nonce;
        }
        let mut context = hmac::Context::with_key(&self.nonce);
        for part in [purpose, "\0", clear] {
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        let mut nonce = [0; NONCE_LEN];
        for (to, from) in nonce.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        nonce
    }
}

/// A key of its own for each use, so that no two uses can meet.
fn subkey(key: &[u8], label: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, derived(key, label).as_ref())
}

fn derived(key: &[u8], label: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), format!("provisor {label} 1").as_bytes())
}

fn aead_key(key: &[u8]) -> Result<LessSafeKey, VaultError> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, derived(key, "seal").as_ref());
    key.map(LessSafeKey::new).map_err(|_| VaultError::Damaged)
}

fn random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| VaultError::NoRandom)?;
    Ok(bytes)
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

fn read_file(path: &Path) -> Result<Option<String>, VaultError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            warn_if_shared(path);
            Ok(Some(text))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(VaultError::KeyFile { path: path.to_owned(), reason: e.to_string() }),
    }
}

/// Only a warning: a mounted secret may be readable by the group of its container.
fn warn_if_shared(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
            tracing::warn!(path = %path.display(), "others than the owner can read the key file; give it the mode 0600");
        }
    }
}

/// Makes a key file with mode 0600, on disk before anything is encrypted with it. Whoever comes second
/// reads the first one's key.
fn make_file(path: &Path) -> Result<String, VaultError> {
    let failed = |e: std::io::Error| VaultError::KeyFile { path: path.to_owned(), reason: e.to_string() };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let text = format!("{}\n", BASE64.encode(random::<KEY_BYTES>()?));
    let made = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&made).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    // A link, not a rename: it never replaces a file that is there.
    let linked = written.and_then(|()| std::fs::hard_link(&made, path));
    drop(std::fs::remove_file(&made));
    match linked {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed(e)),
    }
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(failed)?;
    std::fs::read_to_string(path).map_err(failed)
}
