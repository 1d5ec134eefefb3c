//! The vault: what is sealed opens again, and nothing opens with the wrong key.

use provisor_core::spec::Seal;
use provisor_store::Store;
use provisor_store::clock::ManualClock;
use provisor_store::vault::{KEY_FILE, Vault, VaultError};
use serde_json::{Value, json};

use crate::build::{Folder, START};

fn store() -> Store {
    Store::in_memory(ManualClock::new(START).clock()).unwrap()
}

#[tokio::test]
async fn what_is_sealed_opens_again() {
    let (folder, store) = (Folder::new(), store());
    let vault = Vault::in_folder(folder.path(), &store).await.unwrap();
    let (one, two) = (vault.seal("#cloud-config"), vault.seal("#cloud-config"));
    assert_eq!(vault.open(&one).unwrap(), "#cloud-config");
    assert_ne!(one.sealed, two.sealed, "a nonce of its own each time");
    assert_eq!(one.fingerprint, two.fingerprint, "equality is seen without opening");
    assert_ne!(one.fingerprint, vault.seal("other").fingerprint);
    assert!(!one.sealed.contains("cloud"));
    let again = Vault::in_folder(folder.path(), &store).await.unwrap();
    assert_eq!(again.open(&one).unwrap(), "#cloud-config");
    let text = vault.seal_json("cluster", &json!({"password": "secret"})).unwrap();
    assert!(!text.contains("secret"));
    assert_eq!(again.open_json::<Value>("cluster", &text).unwrap(), json!({"password": "secret"}));
    assert_eq!(again.open_json::<Value>("service", &text), Err(VaultError::Damaged), "bound to its purpose");
    let mut damaged = one.clone();
    damaged.sealed = two.sealed[..20].to_owned() + &one.sealed[20..];
    assert_eq!(vault.open(&damaged), Err(VaultError::Damaged));
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_key() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    Vault::in_folder(folder.path(), &store()).await.unwrap();
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [KEY_FILE]);
    assert_eq!(std::fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn h44_a_wrong_or_missing_key_is_refused() {
    let (folder, store) = (Folder::new(), store());
    let path = folder.path().join(KEY_FILE);
    let sealed = Vault::in_folder(folder.path(), &store).await.unwrap().seal("text");
    let right = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = Vault::in_folder(folder.path(), &store).await.unwrap_err();
    assert_eq!(error, VaultError::KeyMissing { path: path.clone(), key: sealed.key.clone() });
    assert!(!path.exists(), "no new key is made for a store that has secrets");
    let other = Folder::new();
    Vault::in_folder(other.path(), &self::store()).await.unwrap();
    let wrong = std::fs::read_to_string(other.path().join(KEY_FILE)).unwrap();
    std::fs::write(&path, &wrong).unwrap();
    let error = Vault::in_folder(folder.path(), &store).await.unwrap_err();
    assert!(matches!(&error, VaultError::WrongKey { needed, .. } if *needed == sealed.key), "{error}");
    assert!(error.to_string().contains("does not open this store"), "{error}");
    for text in ["", "no key\n", "c2hvcnQ=\n"] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(Vault::in_folder(folder.path(), &store).await, Err(VaultError::KeyFile { .. })), "{text}");
    }
    // Several keys: the last one writes, all of them open, and fingerprints stay.
    std::fs::write(&path, format!("# old\n{right}\n# new\n{wrong}")).unwrap();
    let vault = Vault::in_folder(folder.path(), &store).await.unwrap();
    assert_eq!(vault.open(&sealed).unwrap(), "text");
    let renewed = vault.seal("text");
    assert_ne!(renewed.key, sealed.key);
    assert_eq!(renewed.fingerprint, sealed.fingerprint);
}

#[test]
fn a_vault_does_not_show_its_keys() {
    let vault = Vault::ephemeral().unwrap();
    let shown = format!("{vault:?}");
    assert!(shown.len() < 60, "{shown}");
}
