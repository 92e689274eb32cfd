//! Why a session ended or a packet was refused, in words that say what to do.

use super::tls::TlsError;
use super::wire::WireError;
use crate::sys::date;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason, SubscribeReasonCode};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as RustlsError, InvalidMessage};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("cannot read the password: {0}")]
    Password(#[from] crate::sys::DiskError),
    #[error("the password file {0} is not there: put the password into it")]
    NoPassword(PathBuf),
    #[error("the password file {0} holds what is no text of at most 4096 bytes")]
    BadPassword(PathBuf),
    #[error("cannot reach {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("the broker did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the broker refused the session: {}", connect_reason(*.0))]
    Refused(ConnectReturnCode),
    #[error("the broker ended the session: {}{}", disconnect_reason(*.code), remark(.said.as_deref()))]
    Ended { code: DisconnectReasonCode, said: Option<String> },
    #[error(
        "the broker closed the connection without a reason: if this repeats, see its log; often another client uses \
         the same client id"
    )]
    Closed,
    #[error("the connection broke: {0}")]
    Io(io::Error),
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error("no TLS session with the broker: {}", tls_reason(.0))]
    Tls(RustlsError),
    #[error(
        "the broker hung up within TLS' handshake ({0}): is this the port of mqtts:// (usually 8883), and does it speak \
         TLS 1.3?"
    )]
    Handshake(io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the broker sent a packet that has no place here: {0}")]
    Unexpected(&'static str),
    #[error("no sign of life from the broker for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the broker did not acknowledge {topic} within {} s", .after.as_secs())]
    Unacknowledged { topic: String, after: Duration },
    #[error("the broker has no {0}; Selvedge needs them: use another broker or allow them")]
    Lacks(&'static str),
}

impl Lost {
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What ended a handshake.
    pub fn in_handshake(error: io::Error) -> Self {
        match error.get_ref().is_some_and(|inner| inner.is::<RustlsError>()) {
            true => error.into(),
            false => Self::Handshake(error),
        }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>());
        match tls {
            Some(tls) => Self::Tls(tls.clone()),
            // Hung up without TLS' own word for it, as most do.
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }
}

/// What failed within TLS: our judgement of the broker, or its of us.
fn tls_reason(error: &RustlsError) -> String {
    if let RustlsError::InvalidCertificate(why) = error {
        return format!("its certificate is refused: {}", certificate_reason(why));
    }
    if let RustlsError::AlertReceived(alert) = error {
        return alert_reason(*alert);
    }
    if matches!(error, RustlsError::InvalidMessage(InvalidMessage::InvalidContentType)) {
        return "what answers does not speak TLS: is this the port of mqtt:// (usually 1883) and not that of mqtts:// \
                (8883)?"
            .into();
    }
    printable(&error.to_string())
}

fn certificate_reason(why: &CertificateError) -> String {
    if let CertificateError::ExpiredContext { not_after, .. } = why {
        let ended = date(not_after.as_secs());
        return format!("it ended on {ended}: give the broker a new one (`selvedge provision broker`)");
    }
    if let CertificateError::NotValidYetContext { not_before, .. } = why {
        let begins = date(not_before.as_secs());
        return format!(
            "it begins on {begins}, later than the clock says: is the clock right, here and where it was made?"
        );
    }
    if let CertificateError::NotValidForNameContext { expected, presented } = why {
        let expected = printable(&expected.to_str());
        // They come as `DnsName("broker.lan")`.
        let names: Vec<&str> = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name)).collect();
        let presented = if names.is_empty() { "nobody".into() } else { printable(&names.join(", ")) };
        return format!(
            "it is not for {expected}, but for {presented}: use one of those names, or make it anew (`selvedge provision \
             broker --name {expected}`)"
        );
    }
    // The signature is bad where another authority has the same name.
    if matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        return "no authority that is trusted here has signed it: is `ca-file` (`--ca`) the one of this broker?".into();
    }
    printable(&why.to_string())
}

/// Alerts by which a broker says what it wants of us.
const ALERTS: [(&[AlertDescription], &str); 5] = [
    (
        &[AlertDescription::CertificateRequired, AlertDescription::NoCertificate],
        "the broker wants a certificate of ours: set `certificate-file` and `key-file` (`--certificate`, `--key`)",
    ),
    (
        &[AlertDescription::CertificateRevoked],
        "the broker says that our certificate is revoked: only who runs it can let us in again",
    ),
    (
        &[AlertDescription::CertificateExpired],
        "the broker says that our certificate has ended: `selvedge provision` makes a new one",
    ),
    (
        &[
            AlertDescription::UnknownCA,
            AlertDescription::BadCertificate,
            AlertDescription::CertificateUnknown,
            AlertDescription::UnsupportedCertificate,
            AlertDescription::DecryptError,
            AlertDescription::AccessDenied,
        ],
        "the broker does not accept our certificate: is it by the authority of its `cafile`?",
    ),
    (
        &[AlertDescription::ProtocolVersion, AlertDescription::HandshakeFailure],
        "the broker found no common ground: it must speak TLS 1.3",
    ),
];

fn alert_reason(alert: AlertDescription) -> String {
    let name = words(&format!("{alert:?}"));
    match ALERTS.iter().find(|(alerts, _)| alerts.contains(&alert)) {
        Some((_, text)) => format!("{text} ({name})"),
        None => format!("the broker ended it: {name}"),
    }
}

const CREDENTIALS: &str = ": check `username` and `password-file` under [link], and that the broker knows this user";

pub(super) fn connect_reason(code: ConnectReturnCode) -> String {
    let what_to_do = if [ConnectReturnCode::BadUserNamePassword, ConnectReturnCode::NotAuthorized].contains(&code) {
        CREDENTIALS
    } else if code == ConnectReturnCode::ClientIdentifierNotValid || code == ConnectReturnCode::BadClientId {
        ": the broker does not allow this client id"
    } else if code == ConnectReturnCode::Banned {
        ": ask who runs the broker"
    } else if [ConnectReturnCode::UnsupportedProtocolVersion, ConnectReturnCode::RefusedProtocolVersion].contains(&code)
    {
        ": use a broker that speaks MQTT 5"
    } else {
        ""
    };
    words(&format!("{code:?}")) + what_to_do
}

pub(super) fn disconnect_reason(code: DisconnectReasonCode) -> String {
    let what_to_do = if code == DisconnectReasonCode::SessionTakenOver {
        ": another client uses the same client id; give each device its own `id` under [device]"
    } else if code == DisconnectReasonCode::NotAuthorized {
        CREDENTIALS
    } else if code == DisconnectReasonCode::PacketTooLarge {
        ": raise the broker's packet limit to at least 1 MiB and 64 KiB"
    } else {
        ""
    };
    words(&format!("{code:?}")) + what_to_do
}

pub(super) fn publish_reason(code: PubAckReason) -> String {
    let acl = ": the broker's access list must let this user write the topic";
    words(&format!("{code:?}")) + if code == PubAckReason::NotAuthorized { acl } else { "" }
}

pub(super) fn subscribe_reason(code: SubscribeReasonCode) -> String {
    let acl = ": the broker's access list must let this user read the topic";
    words(&format!("{code:?}")) + if code == SubscribeReasonCode::NotAuthorized { acl } else { "" }
}

/// What a broker said, fit for a log: short, without control characters.
fn remark(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!(" ({})", printable(text)))
}

fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `SessionTakenOver` as "session taken over".
fn words(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(c.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_say_what_to_do() {
        let refused = Lost::Refused(ConnectReturnCode::NotAuthorized).to_string();
        assert!(refused.contains("not authorized: check `username`"), "{refused}");
        let taken = Lost::Ended {
            code: DisconnectReasonCode::SessionTakenOver,
            said: Some(format!("line\nbreak{}", "x".repeat(9999))),
        };
        let taken = taken.to_string();
        assert!(taken.contains("session taken over: another client uses the same client id"), "{taken}");
        assert!(!taken.contains('\n') && taken.len() < 500);
    }
}
