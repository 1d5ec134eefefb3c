//! Encrypted connections to a server of its own, whose certificate a CA of its own has signed.

use std::process::{ChildStdin, Command};

use provisor_store::driver::postgres::PostgresError;
use provisor_store::{OpenError, Store};

use super::server::{database, launch, sql};
use crate::build::Folder;

/// `postgres://…/postgres` and the file of its CA.
fn server() -> Option<(String, String, ChildStdin)> {
    let (lines, pipe) = launch(&[("PGTB_TLS", "1")], 2)?;
    Some((lines[0].clone(), lines[1].clone(), pipe))
}

fn opens(url: &str) -> Store {
    Store::open_postgres(url).unwrap_or_else(|e| panic!("{url}: {e}"))
}

#[track_caller]
fn refused(url: &str, word: &str) {
    match Store::open_postgres(url).err() {
        Some(OpenError::Postgres(error @ PostgresError::Tls { .. })) => {
            let text = error.to_string();
            assert!(text.contains(word) && !text.contains('\n') && !text.contains("provisor:provisor"), "{text}");
        }
        other => panic!("{url}: {other:?}"),
    }
}

/// Whether each connection of ours is encrypted.
fn encrypted(url: &str) -> Vec<String> {
    let ours = "select distinct s.ssl::text from pg_stat_ssl s join pg_stat_activity a on a.pid = s.pid \
        where a.application_name = 'provisor'";
    sql(url, ours)
}

#[tokio::test]
async fn connections_are_as_encrypted_as_the_url_asks() {
    let Some((url, ca, _pipe)) = server() else { return };
    for (mode, expected) in [
        ("", "true"),
        ("?sslmode=prefer", "true"),
        ("?sslmode=require", "true"),
        (&format!("?sslmode=require&sslrootcert={ca}"), "true"),
        (&format!("?sslmode=verify-full&sslrootcert={}", ca.replace('/', "%2F")), "true"),
        ("?sslmode=disable", "false"),
    ] {
        let store = opens(&format!("{url}{mode}"));
        store.run(provisor_store::ops::meta::GetMeta { name: "any".to_owned() }).await.unwrap();
        assert_eq!(encrypted(&url), [expected], "{mode}");
    }
}

#[test]
fn the_wrong_authority_and_the_wrong_name_are_refused() {
    let Some((url, ca, _pipe)) = server() else { return };
    let folder = Folder::new();
    let other = folder.database().with_file_name("other.pem");
    std::fs::create_dir_all(other.parent().unwrap()).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=another", "-keyout", "/dev/null"]);
    assert!(openssl.arg("-out").arg(&other).output().unwrap().status.success());
    let other = other.to_str().unwrap();
    for mode in ["require", "verify-ca", "verify-full"] {
        refused(&format!("{url}?sslmode={mode}&sslrootcert={other}"), "UnknownIssuer");
    }
    // The system's authorities have not signed it either.
    refused(&format!("{url}?sslmode=verify-full"), "UnknownIssuer");
    // It is signed for 127.0.0.1.
    let named = url.replace("127.0.0.1", "localhost");
    refused(&format!("{named}?sslmode=verify-full&sslrootcert={ca}"), "not valid for name");
    drop(opens(&format!("{named}?sslmode=verify-ca&sslrootcert={ca}")));
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_asked_for() {
    let Some(url) = database() else { return };
    refused(&format!("{url}?sslmode=require"), "server does not support TLS");
    drop(opens(&format!("{url}?sslmode=prefer")));
}
