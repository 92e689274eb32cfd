//! The operator's own authority: who it vouches for, and for whom no longer.
//!
//! One authority for both sides: a certificate says for which side it is (`serverAuth`, `clientAuth`), and both libraries
//! hold it to that, so that no device can play the broker.

use super::registry::Issue;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

const DAY: u64 = 86_400;
/// Longer than boards last. Its end would end the fleet's sessions, all at once.
const YEARS: u64 = 30 * 365 * DAY;

/// What a certificate is for.
#[derive(Debug, Clone)]
pub(super) enum Usage {
    Client,
    /// With the names and addresses that it answers to.
    Server(Vec<String>),
}

/// A certificate and its key, in PEM.
pub(super) struct Signed {
    pub certificate: String,
    pub key: String,
}

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new one: its certificate and its key, in PEM.
    pub fn make(name: &str, now: u64) -> Result<Signed, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(name);
        (params.not_before, params.not_after) = (date(now - DAY)?, date(now + YEARS)?);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Signed { certificate, key: key.serialize_pem() })
    }

    pub fn open(name: &str, key: &str) -> Result<Self, rcgen::Error> {
        Ok(Self { issuer: Issuer::new(authority_params(name), KeyPair::from_pem(key)?) })
    }

    /// From a day before, for clocks that lag.
    pub fn sign(
        &self,
        name: &str,
        usage: &Usage,
        serial: &[u8],
        (now, ends): (u64, u64),
    ) -> Result<Signed, rcgen::Error> {
        let key = KeyPair::generate()?;
        let (names, purpose) = match usage {
            Usage::Client => (Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
            Usage::Server(names) => (names.clone(), ExtendedKeyUsagePurpose::ServerAuth),
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = common_name(name);
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (date(now - DAY)?, date(ends)?);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Signed { certificate, key: key.serialize_pem() })
    }

    /// The list of those that no longer count, in PEM. It does not end before the authority: a broker refuses everybody
    /// once its list is out of date.
    pub fn list<'a>(
        &self,
        number: u64,
        issued: impl Iterator<Item = &'a Issue>,
        now: u64,
    ) -> Result<String, rcgen::Error> {
        let revoked = issued.filter_map(|issue| {
            let serial = hex::decode(issue.serial.as_ref()?).ok()?;
            Some((serial, issue.revoked?))
        });
        let one = |(serial, revoked): (Vec<u8>, u64)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date(revoked)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: date(now - DAY)?,
            next_update: date(now + YEARS)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.map(one).collect::<Result<_, rcgen::Error>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer)?.pem()
    }
}

/// The same for making and for opening: what it signs names it by these.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn date(seconds: u64) -> Result<OffsetDateTime, rcgen::Error> {
    let seconds = i64::try_from(seconds).map_err(|_| rcgen::Error::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
}
