//! The broker, as the commands of the operator take it: one set of options for all of them.

use super::advise;
use crate::config::{self, Address, Identity, Tls};
use crate::publish::{Board as _, Publication, Repository, connect, upload};
use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Where the board is, and who we are to it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct BrokerArgs {
    /// The broker: mqtt://[USER@]HOST[:PORT], or mqtts:// under TLS.
    #[arg(long, value_name = "URL", value_parser = parse)]
    broker: Option<config::Broker>,
    /// A file with the password of the broker's user.
    #[arg(long, value_name = "FILE", requires = "broker")]
    password_file: Option<PathBuf>,
    /// With mqtts://: a PEM file of who may vouch for the broker. Without it: the system's authorities.
    #[arg(long, value_name = "FILE", requires = "broker")]
    ca: Option<PathBuf>,
    /// With mqtts://: our certificate, PEM, for a broker that asks for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl BrokerArgs {
    #[cfg(feature = "compress")]
    pub fn is_none(&self) -> bool {
        self.broker.is_none()
    }

    /// The broker with the files that were named; `None` where no broker was.
    pub fn address(&self) -> anyhow::Result<Option<config::Broker>> {
        let Some(broker) = self.broker.clone() else { return Ok(None) };
        let identity = self.certificate.clone().zip(self.key.clone());
        let identity = identity.map(|(certificate_file, key_file)| Identity { certificate_file, key_file });
        let tls = match broker.tls {
            Some(_) => Some(Tls { ca_file: self.ca.clone(), identity }),
            // They would not be used, and who named them believes that they are.
            None if self.ca.is_some() || identity.is_some() => {
                bail!("--ca, --certificate and --key are for TLS: write the broker's address as mqtts://HOST")
            }
            None => None,
        };
        Ok(Some(config::Broker { password_file: self.password_file.clone(), tls, ..broker }))
    }

    /// Sends and notes that it was sent; false where no broker was named.
    pub async fn send(&self, repository: &mut Repository, publication: &Publication) -> anyhow::Result<bool> {
        let Some(address) = self.address()? else {
            return Ok(false);
        };
        let board = connect(&address).await.map_err(|error| {
            let hint = "what was signed stands in the directory: run `selvedge refresh` with a broker that answers, it sends it";
            advise(error, "send what the board lacks", hint)
        })?;
        let bar = ProgressBar::new(publication.posts.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} messages, {elapsed}") {
            bar.set_style(style);
        }
        upload(&board, publication, &mut |done, _| bar.set_position(done as u64)).await?;
        bar.finish_and_clear();
        board.close().await;
        repository.confirm(publication)?;
        Ok(true)
    }

    /// Clears topics; false where no broker was named.
    pub async fn clear(&self, topics: impl IntoIterator<Item = &str>) -> anyhow::Result<bool> {
        let Some(address) = self.address()? else {
            return Ok(false);
        };
        let board = connect(&address).await?;
        for topic in topics {
            board.post(topic, &[]).await?;
        }
        board.close().await;
        Ok(true)
    }
}

fn parse(text: &str) -> Result<config::Broker, String> {
    let Address { host, port, tls, username } = Address::parse(text)?;
    let plain = config::Config::default().link.broker;
    Ok(config::Broker { host, port, username, tls: tls.then(Tls::default), ..plain })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        broker: BrokerArgs,
    }

    fn address(words: &str) -> Result<config::Broker, String> {
        let line = Line::try_parse_from(std::iter::once("x").chain(words.split(' '))).map_err(|e| e.to_string())?;
        line.broker.address().map_err(|e| e.to_string()).map(Option::unwrap)
    }

    #[test]
    fn broker_addresses_are_read() {
        let broker = parse("mqtt://alice@broker.local:1884").unwrap();
        assert_eq!(
            (broker.host.as_str(), broker.port, broker.username.as_deref()),
            ("broker.local", 1884, Some("alice"))
        );
        assert_eq!(parse("mqtt://10.0.0.1").unwrap().port, 1883);
        assert_eq!(parse("mqtt://[::1]:1").unwrap().host, "::1");
        assert_eq!(parse("mqtts://broker.local").unwrap().port, 8883);
    }

    #[test]
    fn addresses_that_would_surprise_are_refused() {
        for (text, says) in [
            ("broker.local", "mqtt://host"),
            ("tls://broker.local", "mqtts://"),
            ("http://broker.local", "mqtt://host"),
            ("mqtt://a:secret@broker.local", "put it into a file"),
            ("mqtt://broker.local/topic", "is expected"),
            ("mqtt://", "is no broker"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("secret"));
        }
    }

    #[test]
    fn the_files_of_tls_arrive_and_are_never_passed_over() {
        let broker = address("--broker mqtts://b --ca ca.pem --certificate o.pem --key o.key").unwrap();
        let tls = broker.tls.unwrap();
        assert_eq!((tls.ca_file, tls.identity.unwrap().key_file), (Some("ca.pem".into()), "o.key".into()));
        assert_eq!(address("--broker mqtts://b").unwrap().tls, Some(Tls::default()));
        assert!(address("--broker mqtt://b --ca ca.pem").unwrap_err().contains("mqtts://HOST"));
        assert!(address("--broker mqtts://b --key o.key").unwrap_err().contains("--certificate"));
        assert!(address("--ca ca.pem").unwrap_err().contains("--broker"));
    }
}
