//! TLS to the server, asked for in the words of libpq: `sslmode` and `sslrootcert` of the URL.
//!
//! `prefer` (the default) and `require` encrypt without asking who answers, unless `sslrootcert` names a file of
//! authorities; `verify-ca` asks for a certificate of theirs, `verify-full` for one with the host's name. Without a file
//! those two trust the system's authorities. Rejected: a stricter `require` of our own, which would refuse what every
//! other client of the same server accepts.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What a certificate must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// Nothing.
    Any,
    /// That an authority has signed it.
    Authority,
    /// That, and the host's name.
    Name,
}

/// Takes `sslrootcert` and the modes that the driver does not know out of a URL.
pub(super) fn split(url: &str) -> Result<(String, MakeRustlsConnect), String> {
    let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
    let mut kept = Vec::new();
    let (mut demand, mut encrypted, mut file) = (Demand::Any, true, None);
    for parameter in parameters.split('&').filter(|p| !p.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", mode @ ("verify-ca" | "verify-full"))) => {
                demand = if mode == "verify-full" { Demand::Name } else { Demand::Authority };
                kept.push("sslmode=require");
            }
            Some(("sslrootcert", path)) => file = Some(decoded(path)?),
            other => {
                encrypted &= other != Some(("sslmode", "disable"));
                kept.push(parameter);
            }
        }
    }
    if !encrypted {
        file = None;
    }
    if file.is_some() {
        demand = if demand == Demand::Any { Demand::Authority } else { demand };
    }
    let connector = connector(demand, file.filter(|path| path != "system").as_deref())?;
    let rest = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Ok((format!("{address}{rest}"), connector))
}

/// `%2F` in a path.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "sslrootcert is not a path".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().ok_or_else(wrong)?, rest.next().ok_or_else(wrong)?];
            let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn connector(demand: Demand, file: Option<&str>) -> Result<MakeRustlsConnect, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = if demand == Demand::Any {
        None
    } else {
        let roots = Arc::new(file.map_or_else(|| Ok(of_the_system()), authorities)?);
        let made = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(made.map_err(|e| format!("there are no authorities to trust, sslrootcert names none: {e}"))?)
    };
    let verifier = Arc::new(Verifier { inner, name: demand == Demand::Name, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

fn authorities(file: &str) -> Result<RootCertStore, String> {
    let unreadable = |e: rustls::pki_types::pem::Error| format!("sslrootcert {file} cannot be read: {e}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|e| format!("sslrootcert {file} cannot be used: {e}"))?;
    }
    if roots.is_empty() { Err(format!("sslrootcert {file} holds no certificate")) } else { Ok(roots) }
}

fn of_the_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// As strict as was asked for; that the other side has the certificate's key is always checked.
#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when everything else is well.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_words_of_libpq_are_taken_out_of_the_url() {
        let kept = |url: &str| split(url).map(|(url, _)| url);
        assert_eq!(kept("postgres://h/d"), Ok("postgres://h/d".to_owned()));
        assert_eq!(kept("postgres://h/d?sslmode=prefer&a=b"), Ok("postgres://h/d?sslmode=prefer&a=b".to_owned()));
        assert!(kept("postgres://h/d?sslmode=require&sslrootcert=%2Fno%2Fsuch").unwrap_err().contains("/no/such cannot be read"));
        assert_eq!(kept("postgres://h/d?sslmode=disable&sslrootcert=/no"), Ok("postgres://h/d?sslmode=disable".to_owned()));
        assert!(kept("postgres://h/d?sslrootcert=%2").is_err());
    }
}
