//! The shipped broker configurations: Mosquitto starts with each, and their walls stand against a device that is hostile
//! and has right credentials.
//!
//! Skipped, with the reason, where Mosquitto or its clients are not installed; `tests/run` installs them.

use crate::authority::{Authority, Pair};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ACL: &str = include_str!("../../config/mosquitto/selvedge.acl");
const DEVICE: &str = "00112233445566778899aabbccddeeff";
const OTHER: &str = "ffeeddccbbaa99887766554433221100";
const USERS: [&str; 3] = ["operator", DEVICE, OTHER];

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Password,
    TlsPassword,
    Certificate,
}

impl Way {
    const ALL: [Self; 3] = [Self::Password, Self::TlsPassword, Self::Certificate];

    fn conf(self) -> &'static str {
        match self {
            Self::Password => include_str!("../../config/mosquitto/selvedge.conf"),
            Self::TlsPassword => include_str!("../../config/mosquitto/selvedge-tls-password.conf"),
            Self::Certificate => include_str!("../../config/mosquitto/selvedge-tls.conf"),
        }
    }
}

struct Broker {
    child: Child,
    port: u16,
    way: Way,
    authority: Authority,
    pairs: Vec<(&'static str, Pair)>,
    _dir: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(name: &str) -> Command {
    let sbin = Path::new("/usr/sbin").join(name);
    Command::new(if sbin.exists() { sbin } else { name.into() })
}

/// As root, Mosquitto changes to a user of its own and reads its files as that one.
fn readable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(if path.is_dir() { 0o755 } else { 0o644 })).unwrap();
}

impl Broker {
    fn start(way: Way) -> Option<Self> {
        for name in ["mosquitto", "mosquitto_passwd", "mosquitto_pub", "mosquitto_sub"] {
            if tool(name).arg("--help").output().is_err() {
                eprintln!("skipped: {name} is not installed");
                return None;
            }
        }
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("ca"));
        let at = |name: &str| dir.path().join(name);
        let passwords: String = USERS.iter().map(|user| format!("{user}:pw\n")).collect();
        fs::write(at("passwd"), passwords).unwrap();
        assert!(tool("mosquitto_passwd").arg("-U").arg(at("passwd")).status().unwrap().success());
        fs::write(at("acl"), ACL).unwrap();
        let server = authority.server(&["localhost"], -1, 10);
        let files = [(authority.ca(), "ca.pem"), (server.certificate, "broker.pem"), (server.key, "broker.key")];
        for (from, to) in files {
            fs::copy(from, at(to)).unwrap();
        }
        fs::copy(authority.revoked(&[999]), at("revoked.crl")).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let text = ["listener 1883", "listener 8883"]
            .iter()
            .fold(way.conf().to_owned(), |text, old| text.replace(old, &format!("listener {port} 127.0.0.1")))
            .replace("/etc/mosquitto/selvedge.passwd", at("passwd").to_str().unwrap())
            .replace("/etc/mosquitto/selvedge.acl", at("acl").to_str().unwrap())
            .replace("/etc/mosquitto/selvedge/", &format!("{}/", dir.path().display()));
        assert!(!text.lines().any(|line| !line.starts_with('#') && line.contains("/etc/")), "{text}");
        fs::write(at("conf"), text).unwrap();
        readable(dir.path());
        fs::read_dir(dir.path()).unwrap().for_each(|entry| readable(&entry.unwrap().path()));
        let child =
            tool("mosquitto").arg("-c").arg(at("conf")).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let pairs = USERS.iter().zip(1..).map(|(&user, serial)| (user, authority.client(user, serial))).collect();
        let broker = Self { child, port, way, authority, pairs, _dir: dir };
        broker.wait();
        Some(broker)
    }

    fn wait(&self) {
        for _ in 0..100 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("Mosquitto does not start with the shipped configuration");
    }

    fn client(&self, program: &str, user: Option<&str>) -> Command {
        let mut command = tool(program);
        command.args(["-h", "localhost", "-V", "5", "-q", "1", "-p", &self.port.to_string()]);
        if self.way != Way::Password {
            command.arg("--cafile").arg(self.authority.ca());
        }
        match user {
            Some(user) if self.way == Way::Certificate => {
                let (_, pair) = self.pairs.iter().find(|(name, _)| *name == user).unwrap();
                command.arg("--cert").arg(&pair.certificate).arg("--key").arg(&pair.key);
            }
            Some(user) => drop(command.args(["-u", user, "-P", "pw"])),
            None => {}
        }
        command
    }

    fn publish(&self, user: Option<&str>, topic: &str, text: &str) -> String {
        let output = self.client("mosquitto_pub", user).args(["-r", "-t", topic, "-m", text]).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What comes under a filter for that user; nothing within a second is nothing.
    fn retained(&self, user: &str, filter: &str) -> String {
        let output =
            self.client("mosquitto_sub", Some(user)).args(["-W", "1", "-C", "1", "-t", filter]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Leaves a will, and dies.
    fn die_with_will(&self, user: &str, topic: &str) {
        let mut command = self.client("mosquitto_sub", Some(user));
        command.args(["-t", "selvedge/v1/tuf/+", "--will-topic", topic, "--will-payload", "forged", "--will-retain"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        child.kill().unwrap();
        child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_shipped_access_list_lets_each_write_its_own_branch_alone() {
    for way in Way::ALL {
        let Some(broker) = Broker::start(way) else { return };
        let (tuf, chunk) = ("selvedge/v1/tuf/timestamp.json", "selvedge/v1/chunk/00");
        let own = format!("selvedge/v1/dev/{DEVICE}/status");

        broker.publish(Some("operator"), tuf, "signed");
        broker.publish(Some("operator"), chunk, "bytes");
        broker.publish(Some(DEVICE), &own, "mine");
        assert_eq!(broker.retained(DEVICE, tuf), "signed", "{way:?}");
        assert_eq!(broker.retained(DEVICE, chunk), "bytes", "{way:?}");
        assert_eq!(broker.retained("operator", &own), "mine", "{way:?}");

        // None of these may change anything.
        broker.publish(Some(DEVICE), tuf, "forged");
        broker.publish(Some(DEVICE), chunk, "forged");
        broker.publish(Some(OTHER), &own, "forged");
        broker.publish(Some(DEVICE), "selvedge/v1/other", "forged");
        assert!(!broker.publish(None, tuf, "forged").is_empty(), "{way:?}: anonymous clients are let in");
        assert_eq!(broker.retained("operator", tuf), "signed", "{way:?}");
        assert_eq!(broker.retained("operator", chunk), "bytes", "{way:?}");
        assert_eq!(broker.retained("operator", &own), "mine", "{way:?}");
        assert_eq!(broker.retained("operator", "selvedge/v1/other"), "", "{way:?}");

        // Nor does one device see another's state.
        assert_eq!(broker.retained(OTHER, &own), "", "{way:?}");
        assert_eq!(broker.retained(OTHER, "selvedge/v1/dev/#"), "", "{way:?}");
    }
}

#[test]
fn a_hostile_device_with_a_right_certificate_stays_within_its_branch() {
    let Some(broker) = Broker::start(Way::Certificate) else { return };
    let (tuf, theirs) = ("selvedge/v1/tuf/timestamp.json", format!("selvedge/v1/dev/{DEVICE}/status"));
    broker.publish(Some("operator"), tuf, "signed");
    broker.publish(Some(DEVICE), &theirs, "mine");

    // Junk anywhere, to clear what stands, under another's name, deeper in its own branch, beside all of it.
    let junk = [
        "selvedge/v1/tuf/2.root.json",
        "selvedge/v1/tuf",
        "selvedge/v1/chunk/ff",
        &format!("selvedge/v1/dev/{DEVICE}/online"),
        &format!("selvedge/v1/dev/{DEVICE}/metrics"),
        &format!("selvedge/v1/dev/{OTHER}/status/more"),
        &format!("selvedge/v1/dev/{OTHER}/junk"),
        &format!("selvedge/v1/dev/{OTHER}"),
        "selvedge/v2/x",
        "junk",
        "$SYS/broker/version",
        "$share/g/selvedge/v1/tuf/timestamp.json",
    ];
    for topic in junk {
        broker.publish(Some(OTHER), topic, "forged");
    }
    broker.publish(Some(OTHER), tuf, "");
    broker.publish(Some(OTHER), &theirs, "");
    broker.die_with_will(OTHER, tuf);
    broker.die_with_will(OTHER, &theirs);
    for topic in junk {
        assert_ne!(broker.retained("operator", topic), "forged", "{topic}");
    }
    assert_eq!(broker.retained("operator", tuf), "signed");
    assert_eq!(broker.retained("operator", &theirs), "mine");

    // A shared subscription and wildcards show no more than the plain one; nothing of the broker's own either.
    let filters =
        [format!("$share/g/{theirs}"), theirs, "selvedge/v1/dev/+/status".into(), "#".into(), "$SYS/#".into()];
    for filter in &filters {
        let seen = broker.retained(OTHER, filter);
        assert!(seen.is_empty() || seen == "signed", "{filter}: {seen}");
    }
    // Its own branch it has, its will included.
    let own = format!("selvedge/v1/dev/{OTHER}/online");
    broker.die_with_will(OTHER, &own);
    assert_eq!(broker.retained("operator", &own), "forged");
}

#[test]
fn a_name_that_is_no_credential_gives_no_rights() {
    let Some(broker) = Broker::start(Way::Certificate) else { return };
    let tuf = "selvedge/v1/tuf/timestamp.json";
    // Another authority's operator; a device that says it is the operator.
    let forger = Authority::new("ca");
    let pair = forger.client("operator", 1);
    let mut command = tool("mosquitto_pub");
    command.args(["-h", "localhost", "-V", "5", "-q", "1", "-p", &broker.port.to_string(), "-r", "-t", tuf, "-m", "x"]);
    command.arg("--cafile").arg(broker.authority.ca()).arg("--cert").arg(&pair.certificate).arg("--key").arg(&pair.key);
    assert!(!command.output().unwrap().status.success());
    let mut command = broker.client("mosquitto_pub", Some(DEVICE));
    command.args(["-u", "operator", "-P", "pw", "-r", "-t", tuf, "-m", "x"]).output().unwrap();
    assert_eq!(broker.retained("operator", tuf), "");
}
