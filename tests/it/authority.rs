//! Certificates for tests, by `rcgen`: an authority, and whom it vouches for.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use std::fs;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

pub const DAY: i64 = 86_400;

/// Certificate and key, in files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// In a directory of its own; its certificate in `ca.pem`.
pub struct Authority {
    pub dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = params(name, -10_000, 10_000);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server's, for those names, from and to so many days from now.
    pub fn server(&self, names: &[&str], from: i64, to: i64) -> Pair {
        let mut params = params("server", from, to);
        let names = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names = names.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.signed("server", params)
    }

    pub fn client(&self, name: &str, serial: u64) -> Pair {
        self.until(name, serial, 100)
    }

    /// One that ends so many days from now.
    pub fn until(&self, name: &str, serial: u64, to: i64) -> Pair {
        let mut params = params(name, to.min(0) - 1, to);
        params.serial_number = Some(serial.into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.signed(&format!("{name}-{serial}"), params)
    }

    fn signed(&self, name: &str, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        write(self.dir.path(), name, &certificate.pem(), &key)
    }

    /// The list of those that no longer count.
    pub fn revoked(&self, serials: &[u64]) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let one = |&serial: &u64| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - Duration::days(1),
            next_update: now + Duration::days(1000),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.dir.path().join("revoked.crl");
        fs::write(&path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }
}

/// One that nobody vouches for but itself.
pub fn self_signed(dir: &Path, name: &str) -> Pair {
    let mut params = params(name, -1, 100);
    params.subject_alt_names = CertificateParams::new(vec![name.to_owned()]).unwrap().subject_alt_names;
    let key = KeyPair::generate().unwrap();
    write(dir, "self", &params.self_signed(&key).unwrap().pem(), &key)
}

fn params(name: &str, from: i64, to: i64) -> CertificateParams {
    let (mut params, now) = (CertificateParams::default(), OffsetDateTime::now_utc());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (now + Duration::days(from), now + Duration::days(to));
    params
}

fn write(dir: &Path, name: &str, certificate: &str, key: &KeyPair) -> Pair {
    let pair = Pair { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
    fs::write(&pair.certificate, certificate).unwrap();
    fs::write(&pair.key, key.serialize_pem()).unwrap();
    pair
}
