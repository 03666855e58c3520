//! TLS of checks: who is believed, and by which name a server is asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use evenkeel_plan::TlsSpec;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Settings of TLS clients, each distinct one once: they are large, and a thousand checks have the same.
#[derive(Debug, Default)]
pub(crate) struct TlsClients(RefCell<HashMap<Key, Result<Arc<ClientConfig>, String>>>);

/// The trusted certificates in PEM, and whether HTTP is spoken.
type Key = (Option<String>, bool);

/// How a server is asked over TLS.
#[derive(Clone)]
pub(crate) struct TlsClient {
    pub(crate) config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl TlsClients {
    /// The client for `spec`, or in words why there is none. `host` is the backend's.
    pub(crate) fn client(
        &self,
        spec: &TlsSpec,
        host: &str,
        is_http: bool,
    ) -> Result<TlsClient, String> {
        let key = (spec.roots.clone(), is_http);
        let mut known = self.0.borrow_mut();
        let config = known
            .entry(key)
            .or_insert_with(|| config(spec.roots.as_deref(), is_http));
        let config = Arc::clone(config.as_ref().map_err(Clone::clone)?);
        let name = spec.server_name.as_deref().unwrap_or(host);
        let name = match ServerName::try_from(name.to_owned()) {
            Ok(name) => Some(name),
            Err(_) if spec.roots.is_none() && spec.server_name.is_none() => None,
            Err(_) => return Err(format!("{name:?} is not a name that TLS can ask for")),
        };
        Ok(TlsClient { config, name })
    }

    /// Forgets what only checks of the plan before may use; running ones keep their own.
    pub(crate) fn forget(&self) {
        self.0.borrow_mut().retain(|_, config| {
            config
                .as_ref()
                .is_ok_and(|config| Arc::strong_count(config) > 1)
        });
    }
}

impl TlsClient {
    /// The name that is asked for at `address`: without a usable one, the address, for which no SNI is sent.
    pub(crate) fn name(&self, address: IpAddr) -> ServerName<'static> {
        self.name
            .clone()
            .unwrap_or_else(|| ServerName::from(address))
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsClient").field(&self.name).finish()
    }
}

fn config(roots: Option<&str>, is_http: bool) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match roots {
        Some(pem) => builder
            .with_root_certificates(root_store(pem)?)
            .with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
            .with_no_client_auth(),
    };
    // Each check shows that a whole handshake works.
    config.resumption = Resumption::disabled();
    if is_http {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(Arc::new(config))
}

fn root_store(pem: &str) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("trusted certificates: {error}"))?;
        store
            .add(certificate)
            .map_err(|error| format!("trusted certificates: {error}"))?;
    }
    if store.is_empty() {
        return Err("trusted certificates: none in the text".to_owned());
    }
    Ok(store)
}

/// Believes any certificate, but not that it is somebody else's: the server must have its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
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
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
