//! What the files of TLS hold, for who looks before it connects: `selvedge check`, an enrolment.

use super::dates::{Dates, Known};
use super::tls::{Material, TlsError};
use crate::config;
use crate::sys::Disk;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::der::Decode as _;

/// Longest name that is shown or compared.
const MAX_NAME: usize = 256;

/// The files, read as an attempt to connect reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// How many may vouch for the broker.
    pub authorities: usize,
    /// When the last of them ends; nothing where no file was named.
    pub authorities_end: Option<u64>,
    /// Our own certificate.
    pub own: Option<Certificate>,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its common name.
    pub name: Option<String>,
    /// Seconds since 1970.
    pub begins: u64,
    pub ends: u64,
}

impl Certificate {
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        let facts = certificate.tbs_certificate();
        let name = facts.subject().common_name().ok().flatten().map(|name| name.value().into_owned());
        let validity = facts.validity();
        Some(Self {
            name: name.filter(|name| name.len() <= MAX_NAME && !name.chars().any(char::is_control)),
            begins: validity.not_before.to_unix_duration().as_secs(),
            ends: validity.not_after.to_unix_duration().as_secs(),
        })
    }

    /// By a time that is known it is over.
    pub fn has_ended(&self, dates: &Dates) -> bool {
        let (Known::Now(time) | Known::Since(time)) = dates.known();
        self.ends < time
    }

    /// It ends within so many seconds, as far as the time is known.
    pub fn ends_within(&self, seconds: u64, dates: &Dates) -> bool {
        matches!(dates.known(), Known::Now(now) if self.ends < now.saturating_add(seconds))
    }
}

/// Reads them all; an error says which is wrong and what to do.
pub fn tls_files(disk: &dyn Disk, tls: &config::Tls) -> Result<TlsFiles, TlsError> {
    let material = Material::load(disk, tls)?;
    material.roots(tls)?;
    let ends = material.authorities.iter().filter_map(Certificate::read).map(|certificate| certificate.ends).max();
    Ok(TlsFiles {
        authorities: material.authorities.len(),
        authorities_end: tls.ca_file.as_ref().and(ends),
        own: material.own.and_then(|own| Certificate::read(own.cert.first()?)),
    })
}
