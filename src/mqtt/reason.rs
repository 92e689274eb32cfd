//! Why a session ended or a packet was refused, in words that say what to do.

use super::wire::WireError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason, SubscribeReasonCode};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

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
    Io(#[from] io::Error),
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
    let Some(text) = text else { return String::new() };
    let shown: String = text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!(" ({shown})")
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
