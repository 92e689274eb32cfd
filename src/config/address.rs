//! A broker's address: `mqtt://` in the clear, `mqtts://` under TLS.

use std::fmt::Write as _;
use url::Url;

/// What an address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// As `mqtt://USER@HOST`.
    pub username: Option<String>,
}

const EXPECTED: &str = "\"mqtt://host\" or \"mqtts://host\", with \":port\" where it is not 1883 or 8883, is expected";

impl Address {
    /// A password in it is refused: who lists processes or reads logs would see it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("{} is no broker: {EXPECTED}", quoted(text));
        let url = Url::parse(text).map_err(|_| bad())?;
        let (tls, port) = match url.scheme() {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            "ssl" | "tls" => return Err("TLS to the broker is written mqtts://host".into()),
            "ws" | "wss" => return Err(format!("MQTT over WebSocket is not there: {EXPECTED}")),
            _ => return Err(bad()),
        };
        if url.password().is_some() {
            return Err("a password does not stand in the address, where others see it: put it into a file".into());
        }
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let username = Some(url.username()).filter(|name| !name.is_empty()).map(str::to_owned);
        match url.port().unwrap_or(port) {
            port @ 1.. if bare && (1..=255).contains(&host.len()) => {
                Ok(Self { host: host.to_owned(), port, tls, username })
            }
            _ => Err(bad()),
        }
    }

    /// As a configuration has it: the user stands in a key of its own.
    pub(super) fn without_user(text: &str) -> Result<Self, String> {
        let address = Self::parse(text)?;
        match address.username {
            None => Ok(address),
            Some(_) => Err("credentials do not stand in the address: use `username` and `password-file`".into()),
        }
    }
}

impl Default for Address {
    fn default() -> Self {
        Self { host: "localhost".into(), port: 1883, tls: false, username: None }
    }
}

/// As it is written, the user left out.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.tls { "mqtts://" } else { "mqtt://" })?;
        // Only the address of a host has colons.
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        f.write_char(':')?;
        write!(f, "{}", self.port)
    }
}

/// What stood in the file, shortened and safe to print.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    format!("{short:?}")
}
