//! TLS 1.3 to the broker: what the files say, how the broker's certificate is judged, the stream.
//!
//! Invariants: chain, signature and name are checked at every handshake; dates by what is known of the time
//! (`dates`). Files are read anew for each attempt, bounded, so that a new certificate needs no restart.
//! Not here: who the device is to the broker (`enrol` makes that); revocation of the broker's certificate: give the
//! devices a `ca-file` of its own authority, and replace that.
//!
//! TLS 1.2 is left out: it would send the client's certificate, and with it the device's id, in the clear.

use super::dates::{Dates, Known};
use crate::config;
use crate::sys::{Disk, DiskError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version,
};

/// Of a file of authorities: the system's whole store fits.
const MAX_AUTHORITIES: u64 = 1 << 20;
const MAX_CHAIN: u64 = 64 << 10;
const MAX_KEY: u64 = 16 << 10;

/// Why there can be no TLS with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the {what}: {source}")]
    Read { what: &'static str, source: DiskError },
    #[error("the {what} {path} is not there: put it there, as PEM")]
    Absent { what: &'static str, path: PathBuf },
    #[error("the {what} {path} holds none as PEM: \"-----BEGIN ...\" is expected")]
    NotPem { what: &'static str, path: PathBuf },
    #[error("the {what} {path} is of no use: {reason}")]
    Unusable { what: &'static str, path: PathBuf, reason: String },
    #[error("the key {key} is not that of the certificate {certificate}: copy both again, from the same place")]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("this system trusts no authority: name one with `ca-file`")]
    NoAuthorities,
    #[error("{0:?} is neither a host name nor an address, so no certificate can be for it")]
    Name(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(Error),
}

const AUTHORITIES: &str = "file of authorities";
const CERTIFICATE: &str = "certificate";
const KEY: &str = "certificate's key";

/// What the files hold.
pub(super) struct Material {
    pub authorities: Vec<CertificateDer<'static>>,
    pub own: Option<CertifiedKey>,
}

impl Material {
    pub fn load(disk: &dyn Disk, tls: &config::Tls) -> Result<Self, TlsError> {
        let authorities = match &tls.ca_file {
            Some(path) => certificates(disk, AUTHORITIES, path, MAX_AUTHORITIES)?,
            // What cannot be read of the system's store is left out; the rest may do.
            None => rustls_native_certs::load_native_certs().certs,
        };
        if authorities.is_empty() {
            return Err(TlsError::NoAuthorities);
        }
        let own = tls.identity.as_ref().map(|identity| identity_of(disk, identity)).transpose()?;
        Ok(Self { authorities, own })
    }

    pub fn roots(&self, tls: &config::Tls) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &tls.ca_file else {
            // Systems carry old ones that no library reads any more.
            let (good, _) = roots.add_parsable_certificates(self.authorities.iter().cloned());
            return if good > 0 { Ok(roots) } else { Err(TlsError::NoAuthorities) };
        };
        for certificate in &self.authorities {
            roots.add(certificate.clone()).map_err(|e| unusable(AUTHORITIES, path, &e))?;
        }
        Ok(roots)
    }
}

fn identity_of(disk: &dyn Disk, identity: &config::Identity) -> Result<CertifiedKey, TlsError> {
    let (path, key_path) = (&identity.certificate_file, &identity.key_file);
    let chain = certificates(disk, CERTIFICATE, path, MAX_CHAIN)?;
    let key = read(disk, KEY, key_path, MAX_KEY)?;
    let not_pem = |_| TlsError::NotPem { what: KEY, path: key_path.clone() };
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(not_pem)?;
    let key = provider().key_provider.load_private_key(key).map_err(|e| unusable(KEY, key_path, &e))?;
    let own = CertifiedKey::new(chain, key);
    match own.keys_match() {
        Ok(()) => Ok(own),
        Err(Error::InconsistentKeys(_)) => Err(TlsError::Mismatch { key: key_path.clone(), certificate: path.clone() }),
        Err(e) => Err(unusable(CERTIFICATE, path, &e)),
    }
}

fn certificates(
    disk: &dyn Disk,
    what: &'static str,
    path: &Path,
    limit: u64,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(disk, what, path, limit)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| TlsError::NotPem { what, path: path.to_owned() })
}

fn read(disk: &dyn Disk, what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, TlsError> {
    let read = disk.read(path, limit).map_err(|source| TlsError::Read { what, source })?;
    read.ok_or_else(|| TlsError::Absent { what, path: path.to_owned() })
}

fn unusable(what: &'static str, path: &Path, error: &Error) -> TlsError {
    TlsError::Unusable { what, path: path.to_owned(), reason: error.to_string() }
}

/// The cryptography that `tough` verifies with too.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What one attempt connects with.
pub(super) fn connector(
    disk: &dyn Disk,
    tls: &config::Tls,
    host: &str,
    dates: Dates,
) -> Result<(TlsConnector, ServerName<'static>), TlsError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
    let material = Material::load(disk, tls)?;
    let roots = Arc::new(material.roots(tls)?);
    let provider = provider();
    let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
    let webpki = webpki.map_err(|e| TlsError::Setup(Error::General(e.to_string())))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { webpki, dates }));
    let config = match material.own {
        Some(own) => {
            config.with_client_cert_resolver(Arc::new(tokio_rustls::rustls::sign::SingleCertAndKey::from(own)))
        }
        None => config.with_no_client_auth(),
    };
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// WebPKI's judgement, by the time that is known.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    dates: Dates,
}

/// Certificates of a chain whose beginnings may lie after each other.
const MAX_STEPS: usize = 8;

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judge = |at: u64| {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
            self.webpki.verify_server_cert(certificate, between, name, ocsp, at)
        };
        let mut at = match self.dates.known() {
            Known::Now(now) => return judge(now),
            Known::Since(since) => since,
        };
        // Some time from then on must suit the whole chain: the first one at which all of it has begun.
        for _ in 0..MAX_STEPS {
            match judge(at) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before.as_secs() > at =>
                {
                    at = not_before.as_secs();
                }
                judged => return judged,
            }
        }
        judge(at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// The line, in the clear or not.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Does the handshake where there is one to do.
pub(super) async fn wrap(
    stream: TcpStream,
    tls: Option<(TlsConnector, ServerName<'static>)>,
) -> std::io::Result<Box<dyn Line>> {
    match tls {
        None => Ok(Box::new(stream)),
        Some((connector, name)) => Ok(Box::new(connector.connect(name, stream).await?)),
    }
}
