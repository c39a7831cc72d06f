//! TLS towards a server, by policy.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::ServerError;
use crate::server::{TlsMode, TlsPolicy};

/// Bytes taken from a socket at a time: rustls asks for 4 KiB, a quarter of a record.
const RECEIVE_LEN: usize = 128 << 10;

/// Wraps `stream` in TLS and proves the server as `policy` asks. `host` is the name or address as configured.
pub(super) async fn connect(
    stream: TcpStream,
    host: &str,
    address: &str,
    policy: &TlsPolicy,
) -> Result<TlsStream<BufReader<TcpStream>>, ServerError> {
    let config = client_config(policy)?;
    let not_verified = |reason: String, name_only: bool| ServerError::TlsNotVerified {
        address: address.to_owned(),
        reason,
        name_only,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|e| not_verified(e.to_string(), false))?;
    let stream = BufReader::with_capacity(RECEIVE_LEN, stream);
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls) => not_verified(tls.to_string(), is_name_error(tls)),
            None => ServerError::Lost { address: address.to_owned(), source: error },
        }
    })
}

/// Whether the certificate is good and only names another host.
fn is_name_error(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

fn client_config(policy: &TlsPolicy) -> Result<Arc<ClientConfig>, ServerError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let place = policy.ca.as_ref().map_or_else(|| "the system".to_owned(), |path| path.display().to_string());
    let unusable = |reason: String| ServerError::TlsAuthorities { place: place.clone(), reason };
    let verifier: Arc<dyn ServerCertVerifier> = match policy.mode {
        TlsMode::DangerNoVerify | TlsMode::DangerDisabled => Arc::new(AnyCertificate(provider.clone())),
        TlsMode::VerifyIdentity | TlsMode::VerifyCa => {
            let roots = Arc::new(authorities(policy).map_err(&unusable)?);
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|e| unusable(e.to_string()))?;
            if policy.mode == TlsMode::VerifyCa { Arc::new(AnyName(inner)) } else { inner }
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn authorities(policy: &TlsPolicy) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match &policy.ca {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())?;
            for certificate in certificates {
                roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err("no certificate found".to_owned()) } else { Ok(roots) }
}

/// Proves the chain and leaves the name out. rustls checks the name after the chain, so a name error means that the
/// chain is good.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_name_error(&error) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Takes any certificate whose key the server holds.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
