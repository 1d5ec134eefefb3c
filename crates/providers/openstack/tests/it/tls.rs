//! TLS with an authority of the operator's own. The certificates were made for these tests, for 127.0.0.1 alone.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use provisor_core::Class;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::driver::connect;
use crate::fake::{Fake, Reply, login};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/");

#[allow(clippy::disallowed_methods, reason = "a server that blocks has a thread of its own")]
/// Takes TLS off before a server that speaks plain HTTP.
fn front(behind: SocketAddr) -> SocketAddr {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = CertificateDer::from_pem_file(format!("{FOLDER}server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(format!("{FOLDER}server.key")).expect("a key");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).expect("TLS");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || relay(stream, config, behind));
        }
    });
    address
}

/// One request and its answer; a handshake that fails ends it.
fn relay(stream: TcpStream, config: Arc<ServerConfig>, behind: SocketAddr) -> Option<()> {
    let mut secure = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let mut plain = TcpStream::connect(behind).ok()?;
    let (mut asked, mut buffer) = (Vec::new(), vec![0_u8; 65_536]);
    while !is_whole(&asked) {
        let n = secure.read(&mut buffer).ok().filter(|n| *n > 0)?;
        asked.extend_from_slice(&buffer[..n]);
    }
    plain.write_all(&asked).ok()?;
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok()?;
    secure.write_all(&answer).ok()?;
    secure.conn.send_close_notify();
    secure.flush().ok()
}

/// Whether a request has come with its whole body.
fn is_whole(asked: &[u8]) -> bool {
    let text = String::from_utf8_lossy(asked).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    body.len() >= length
}

#[tokio::test]
async fn a_certificate_is_believed_of_the_operator_s_own_authority_only() {
    let fake = Fake::serve(|asked| match asked.line.as_str() {
        line if line.starts_with("POST /v3/auth/tokens") => login("127.0.0.1:1".parse().expect("an address"), "t", 3600),
        _ => Reply::Json(404, json!({})),
    })
    .await;
    let auth_url = format!("https://{}", front(fake.address));
    let credentials = json!({"username": "u", "password": "p", "project_name": "p"});
    let own = json!({"auth_url": auth_url, "ca_file": format!("{FOLDER}ca.pem")});
    assert_eq!(connect(&own, &credentials, &json!({})).identity().await.expect("believed"), "p1");
    let failure = connect(&json!({"auth_url": auth_url}), &credentials, &json!({})).identity().await.expect_err("not believed");
    assert_eq!((failure.class, failure.code.as_str()), (Class::Transient, "unreachable"));
    assert!(failure.message.contains("certificate"), "{}", failure.message);
}
