//! TLS as libpq's `sslmode` means it. Start at `client_config`, which reads the files anew at each
//! connection, so that a rotated certificate is taken up.

use std::path::Path;
use std::sync::Arc;

use millrace_core::error::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::{SslMode, Tls};

/// What to offer and to demand in a handshake; `None` where TLS is not to be used.
pub fn client_config(tls: &Tls) -> Result<Option<ClientConfig>> {
    let checked = match tls.mode {
        SslMode::Disable => return Ok(None),
        SslMode::Prefer | SslMode::Require => Checked::Nothing,
        SslMode::VerifyCa => Checked::Chain(web_pki(tls)?),
        SslMode::VerifyFull => Checked::ChainAndHost(web_pki(tls)?),
    };
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier { checked, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::fatal("cannot set up TLS").source(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let unusable = |error| unusable("sslkey", key, error);
            let private = PrivateKeyDer::from_pem_file(key).map_err(unusable)?;
            builder.with_client_auth_cert(certificates("sslcert", cert)?, private).map_err(|error| {
                Error::transient("sslcert and sslkey cannot be used together").source(error).hint(READ_AGAIN)
            })?
        }
    };
    Ok(Some(config))
}

fn web_pki(tls: &Tls) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    match &tls.root_cert {
        Some(path) => {
            for certificate in certificates("sslrootcert", path)? {
                roots.add(certificate).map_err(|error| unusable("sslrootcert", path, error))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .build()
        .map_err(|error| Error::config("cannot set up the trusted roots of TLS").source(error))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(key, path, error))?;
    if found.is_empty() {
        let what = format!("{key} {} holds no certificate", path.display());
        return Err(Error::transient(what).hint(READ_AGAIN));
    }
    Ok(found)
}

fn unusable(key: &str, path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::transient(format!("{key} {} cannot be used", path.display())).source(error).hint(READ_AGAIN)
}

/// A pair of files is not changed at one instant, so what is wrong with one of them may be over soon.
const READ_AGAIN: &str = "it must be a PEM file that this process may read; it is read again for every attempt, no restart is needed";

#[derive(Debug)]
enum Checked {
    /// Against listeners only, not against someone in the middle: what libpq does for these modes.
    Nothing,
    Chain(Arc<WebPkiServerVerifier>),
    ChainAndHost(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    checked: Checked,
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |by: &WebPkiServerVerifier| {
            by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match &self.checked {
            Checked::Nothing => Ok(ServerCertVerified::assertion()),
            Checked::ChainAndHost(by) => verify(by),
            // The name is checked last, so this failure means that the chain holds.
            Checked::Chain(by) => match verify(by) {
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => Ok(ServerCertVerified::assertion()),
                verdict => verdict,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
