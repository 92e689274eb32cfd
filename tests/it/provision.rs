//! From `selvedge provision` to a fleet under TLS, and one of it shut out: by the commands, the shipped Mosquitto
//! configurations and real devices. Needs mosquitto and openssl.

use crate::device::{Device, Signal};
use crate::mosquitto::Mosquitto;
use crate::program;
use crate::serve::harness::models;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The operator's directory.
struct Office {
    dir: tempfile::TempDir,
}

impl Office {
    fn new() -> Self {
        let office = Self { dir: tempfile::tempdir().unwrap() };
        office.run(&["trust", "init"]);
        office
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> String {
        program::text_in(self.dir.path(), args)
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = program::run_in(self.dir.path(), args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Cards for so many devices, by their ids.
    fn cards(&self, count: u32, port: u16, more: &[&str]) -> Vec<(String, PathBuf)> {
        let (broker, count) = (format!("mqtts://localhost:{port}"), count.to_string());
        let out = format!("cards-{}", more.len());
        let args = ["provision", "--broker", &broker, "--groups", "shop", "--out", &out, "--count", &count, "--json"];
        let made: serde_json::Value = serde_json::from_str(&self.run(&[&args, more].concat())).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let cards = made["cards"].as_array().unwrap().iter();
        cards.map(|card| (text(&card["id"]), self.path(&text(&card["card"])))).collect()
    }

    /// Mosquitto by a shipped configuration, with what `provision broker` wrote.
    fn broker(&self, conf: &str) -> String {
        let conf = fs::read_to_string(self.path("broker").join(conf)).unwrap();
        let lines = conf.lines().filter(|line| !line.starts_with("listener "));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        text.replace("/etc/mosquitto/selvedge/", &format!("{}/", self.path("broker").display()))
            .replace("/etc/mosquitto/selvedge.acl", self.path("broker/selvedge.acl").to_str().unwrap())
            .replace("/etc/mosquitto/selvedge.passwd", self.path("repo/devices/passwd").to_str().unwrap())
    }
}

/// A device whose board took over a card. Its configuration had an engine's section of its own before.
fn board(card: &Path, id: &str, port: u16) -> Device {
    let device = Device::new(port, b"{}", "info");
    let etc = device.path("board/etc/selvedge");
    fs::create_dir_all(&etc).unwrap();
    let group = fs::metadata(&etc).unwrap().gid();
    fs::write(device.path("board/etc/group"), format!("root:x:0:\nselvedge-link:x:{group}:\n")).unwrap();
    let before = fs::read_to_string(device.path("selvedge.toml")).unwrap();
    let nobody: String = before.lines().filter(|line| !line.starts_with("id = ")).map(|l| format!("{l}\n")).collect();
    fs::write(etc.join("selvedge.toml"), nobody).unwrap();
    let args = ["provision", "--install", card.to_str().unwrap(), "--root", "board", "--clear"];
    let said = program::text_in(device.dir.path(), &args);
    assert!(said.contains(id) && !card.exists(), "{said}");
    let config = fs::read_to_string(etc.join("selvedge.toml")).unwrap();
    fs::write(device.path("selvedge.toml"), config.replace("/etc/selvedge/", &format!("{}/", etc.display()))).unwrap();
    fs::copy(etc.join("root.json"), device.path("root.json")).unwrap();
    device
}

async fn logged(device: &Device, text: &str) {
    let start = Instant::now();
    while !device.log("link").contains(text) {
        assert!(start.elapsed() < Duration::from_secs(60), "{text:?} is not in {}", device.log("link"));
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_provisioned_updated_and_one_of_it_shut_out() {
    let office = Office::new();
    office.run(&["provision", "broker", "--name", "localhost", "--out", "broker"]);
    office.run(&["provision", "operator", "--out", "operator"]);
    let mut broker = Mosquitto::start_with(&office.broker("selvedge-tls.conf"));
    let url = format!("mqtts://localhost:{}", broker.port());
    let tls = ["--ca", "operator/ca.pem", "--certificate", "operator/operator.pem", "--key", "operator/operator.key"];
    let cards = office.cards(2, broker.port(), &[]);
    let [mut one, mut two] = [0, 1].map(|i| board(&cards[i].1, &cards[i].0, broker.port()));
    let check = program::text_in(one.dir.path(), &["check", "--config", "selvedge.toml", "--json"]);
    for what in ["\"TLS authorities\"", "\"certificate\"", "\"certificate's key\""] {
        assert!(check.contains(what), "{check}");
    }
    assert!(check.contains(&format!("for {}, until", cards[0].0)), "{check}");

    tokio::join!(one.start(), two.start());
    let model = models().join("digits-adapted");
    let model = model.to_str().unwrap();
    office.run(&[&["publish", model, "--to", "shop", "--broker", &url][..], &tls].concat());
    for device in [&one, &two] {
        device
            .wait("version 2", |status| {
                status.models.iter().any(|model| model.live == Some(2) || model.candidate == Some(2))
            })
            .await;
    }
    let fleet = office.run(&[&["status", "--broker", &url, "--json"][..], &tls].concat());
    assert!(cards.iter().all(|(id, _)| fleet.contains(id)), "{fleet}");

    // Shut out: the broker gets the new list and is started again.
    let said = office.run(&["provision", "revoke", &cards[0].0]);
    assert!(said.contains("revoked.crl"), "{said}");
    fs::copy(office.path("repo/devices/revoked.crl"), office.path("broker/revoked.crl")).unwrap();
    broker.save();
    broker.kill();
    let (before, stood) =
        (two.log("link").matches("the session with the broker stands").count(), "our certificate is revoked");
    broker.run();
    logged(&one, stood).await;
    let start = Instant::now();
    while two.log("link").matches("the session with the broker stands").count() == before {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", two.log("link"));
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!two.log("link").contains(stood));
    let ready = one.get("/v2/health/ready").await.expect("who is shut out serves on");
    assert_eq!(ready.status, 200);
    let check = program::run_in(one.dir.path(), &["check", "--config", "selvedge.toml"]).stdout;
    let check = String::from_utf8(check).unwrap();
    assert!(check.contains("none since") && check.contains(stood), "{check}");
    // It goes on trying, no more often than any broker that is down.
    let tries = one.log("link").matches(stood).count();
    assert!(tries < 10, "{tries}");

    // A new card for the same board lets it in again.
    let again = ["provision", "--broker", &url, "--groups", "shop", "--out", "again", "--id", &cards[0].0];
    office.run(&again);
    let etc = one.path("board/etc/selvedge");
    for name in ["device.pem", "device.key"] {
        fs::copy(office.path("again").join(name), etc.join(name)).unwrap();
    }
    let stands = one.log("link").matches("the session with the broker stands").count();
    let start = Instant::now();
    while one.log("link").matches("the session with the broker stands").count() == stands {
        assert!(start.elapsed() < Duration::from_secs(90), "{}", one.log("link"));
        sleep(Duration::from_millis(50)).await;
    }
    one.end_link(Signal::TERM);
    two.end_link(Signal::TERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_ours_are_taken_by_mosquitto_and_a_revoked_one_is_not() {
    let office = Office::new();
    office.run(&["provision", "broker", "--name", "localhost", "--out", "broker", "--password"]);
    let said = office.run(&["provision", "operator", "--out", "operator", "--password"]);
    assert!(said.contains("selvedge.passwd"), "{said}");
    let probe = Mosquitto::stopped("");
    let cards = office.cards(2, probe.port(), &["--password"]);
    drop(probe);
    let broker = Mosquitto::start_with(&office.broker("selvedge-tls-password.conf"));
    let password = |path: PathBuf| fs::read_to_string(path).unwrap();
    let client = |user: &str, password: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "localhost", "-V", "5", "-q", "1", "-p", &broker.port().to_string(), "--cafile"]);
        command.arg(office.path("operator/ca.pem")).args(["-u", user, "-P", password, "-t", "x", "-m", "x"]);
        !String::from_utf8_lossy(&command.output().unwrap().stderr).contains("Connection error")
    };
    let of = |card: &(String, PathBuf)| password(card.1.join("broker-password"));
    assert!(client("operator", &password(office.path("operator/broker-password"))));
    assert!(client(&cards[0].0, &of(&cards[0])) && client(&cards[1].0, &of(&cards[1])));
    assert!(!client(&cards[0].0, &of(&cards[1])) && !client("operator", "") && !client("nobody", "x"));
    office.run(&["provision", "revoke", &cards[0].0]);
    broker.reload();
    assert!(!client(&cards[0].0, &of(&cards[0])), "a revoked password lets in");
    assert!(client(&cards[1].0, &of(&cards[1])));
}

#[test]
fn what_was_made_holds_before_openssl_and_modes_are_right() {
    let office = Office::new();
    office.run(&["provision", "broker", "--name", "broker.lan", "--name", "10.0.0.7", "--out", "broker"]);
    let cards = office.cards(2, 8883, &[]);
    office.run(&["provision", "revoke", &cards[1].0]);
    let verify = |purpose: &str, extra: &[&str], path: PathBuf| {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-purpose", purpose, "-crl_check", "-CAfile"]);
        command.arg(office.path("repo/devices/ca.pem")).arg("-CRLfile").arg(office.path("repo/devices/revoked.crl"));
        let output = command.args(extra).arg(path).output().expect("openssl is installed");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let broker = office.path("broker/broker.pem");
    assert!(verify("sslserver", &["-verify_hostname", "broker.lan"], broker.clone()).contains(": OK"));
    assert!(verify("sslserver", &["-verify_ip", "10.0.0.7"], broker.clone()).contains(": OK"));
    assert!(!verify("sslserver", &["-verify_hostname", "other.lan"], broker.clone()).contains(": OK"));
    assert!(!verify("sslclient", &[], broker).contains(": OK"), "a broker's certificate is no device's");
    let [good, bad] = [0, 1].map(|i| cards[i].1.join("device.pem"));
    assert!(verify("sslclient", &[], good.clone()).contains(": OK"));
    assert!(!verify("sslserver", &[], good).contains(": OK"), "a device's certificate is no broker's");
    assert!(verify("sslclient", &[], bad).contains("certificate revoked"));

    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for secret in ["repo/devices/ca.key", "repo/devices/registry.json", "broker/broker.key"] {
        assert_eq!(mode(office.path(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(cards[0].1.join("device.key")), 0o600);
}

#[test]
fn a_mistake_is_told_and_changes_nothing() {
    let office = Office::new();
    let id = "00112233445566778899aabbccddeeff";
    assert!(office.fails(&["provision", "revoke", id]).contains("no credentials were made"));
    assert_eq!(office.run(&["provision", "list"]), "no credentials were made yet\n");
    assert!(!office.path("repo/devices").exists());
    let cards = office.cards(2, 8883, &[]);
    for (args, says) in [
        (&["provision", "--broker", "mqtt://b", "--out", "x"][..], "mqtts://HOST"),
        (&["provision", "--broker", "mqtts://me@b", "--out", "x"], "without one"),
        (&["provision", "--broker", "mqtts://b", "--out", "x", "--groups", "Shop"], "no group"),
        (&["provision", "--broker", "mqtts://b", "--out", "x", "--id", "12"], "32 of 0-9"),
        (&["provision", "--broker", "mqtts://b", "--out", "repo"], "not empty"),
        (&["provision", "--broker", "mqtts://b"], "--out"),
        (&["provision"], "--broker"),
        (&["provision", "broker", "--name", "a b", "--out", "x"], "host name"),
        (&["provision", "revoke", id], "is not among those"),
        (&["provision", "--install", "/nowhere"], "no card is there"),
    ] {
        let told = office.fails(args);
        assert!(told.contains(says), "{says:?} is not in {told:?}");
        assert!(!office.path("x").exists(), "{args:?}");
    }
    let listed = office.run(&["provision", "list"]);
    assert!(cards.iter().all(|(id, _)| listed.contains(id)) && listed.lines().count() <= 5, "{listed}");

    // On the board: without Selvedge's users, then as another device.
    fs::create_dir_all(office.path("board/etc/selvedge")).unwrap();
    let install = |card: usize, more: &[&str]| {
        let card = cards[card].1.to_str().unwrap();
        program::run_in(office.dir.path(), &[&["provision", "--install", card, "--root", "board"][..], more].concat())
    };
    let told = String::from_utf8(install(0, &[]).stderr).unwrap();
    assert!(told.contains("install Selvedge first"), "{told}");
    let group = fs::metadata(office.path("board/etc")).unwrap().gid();
    fs::write(office.path("board/etc/group"), format!("selvedge-link:x:{group}:\n")).unwrap();
    assert!(install(0, &[]).status.success());
    let key = office.path("board/etc/selvedge/device.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o640);
    let before = fs::read(&key).unwrap();
    let told = String::from_utf8(install(1, &[]).stderr).unwrap();
    assert!(told.contains("is it the right card?") && told.contains(&cards[1].0), "{told}");
    assert_eq!(fs::read(&key).unwrap(), before);
    assert!(install(1, &["--force"]).status.success());
    assert_ne!(fs::read(&key).unwrap(), before);

    // By a bare name, and from within.
    for (card, dir, root) in [("bare", "", "board"), (".", "within", "../board")] {
        let out = if dir.is_empty() { card } else { dir };
        office.run(&["provision", "--broker", "mqtts://b", "--out", out]);
        let args = ["provision", "--install", card, "--root", root, "--force", "--clear"];
        let said = program::text_in(&office.path(dir), &args);
        assert!(said.contains("removed") && !office.path(out).exists(), "{said}");
    }
}
