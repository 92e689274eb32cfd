//! The shipped broker configuration: Mosquitto starts with it, and its walls stand.
//!
//! Skipped, with the reason, where Mosquitto or its clients are not installed; `tests/run` installs them.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const CONF: &str = include_str!("../../config/mosquitto/selvedge.conf");
const ACL: &str = include_str!("../../config/mosquitto/selvedge.acl");
const DEVICE: &str = "00112233445566778899aabbccddeeff";
const OTHER: &str = "ffeeddccbbaa99887766554433221100";

struct Broker {
    child: Child,
    port: u16,
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

impl Broker {
    fn start() -> Option<Self> {
        for name in ["mosquitto", "mosquitto_passwd", "mosquitto_pub", "mosquitto_sub"] {
            if tool(name).arg("--help").output().is_err() {
                eprintln!("skipped: {name} is not installed");
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        // As root, Mosquitto changes to a user of its own and reads these as that one.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (passwords, acl, conf) = (dir.path().join("passwd"), dir.path().join("acl"), dir.path().join("conf"));
        fs::write(&passwords, format!("operator:pw\n{DEVICE}:pw\n{OTHER}:pw\n")).unwrap();
        assert!(tool("mosquitto_passwd").arg("-U").arg(&passwords).status().unwrap().success());
        fs::set_permissions(&passwords, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&acl, ACL).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let text = CONF
            .replace("listener 1883", &format!("listener {port} 127.0.0.1"))
            .replace("/etc/mosquitto/selvedge.passwd", passwords.to_str().unwrap())
            .replace("/etc/mosquitto/selvedge.acl", acl.to_str().unwrap());
        assert!(!text.lines().any(|line| !line.starts_with('#') && line.contains("/etc/")), "{text}");
        fs::write(&conf, text).unwrap();
        let child = tool("mosquitto").arg("-c").arg(&conf).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let broker = Self { child, port, _dir: dir };
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
        command.args(["-h", "127.0.0.1", "-V", "5", "-q", "1", "-p", &self.port.to_string()]);
        if let Some(user) = user {
            command.args(["-u", user, "-P", "pw"]);
        }
        command
    }

    fn publish(&self, user: Option<&str>, topic: &str, text: &str) -> String {
        let output = self.client("mosquitto_pub", user).args(["-r", "-t", topic, "-m", text]).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What is retained under a topic for that user; nothing within a second is nothing.
    fn retained(&self, user: &str, topic: &str) -> String {
        let output =
            self.client("mosquitto_sub", Some(user)).args(["-W", "1", "-C", "1", "-t", topic]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

#[test]
fn the_shipped_access_list_lets_each_write_its_own_branch_alone() {
    let Some(broker) = Broker::start() else { return };
    let (tuf, chunk) = ("selvedge/v1/tuf/timestamp.json", "selvedge/v1/chunk/00");
    let own = format!("selvedge/v1/dev/{DEVICE}/status");

    broker.publish(Some("operator"), tuf, "signed");
    broker.publish(Some("operator"), chunk, "bytes");
    broker.publish(Some(DEVICE), &own, "mine");
    assert_eq!(broker.retained(DEVICE, tuf), "signed");
    assert_eq!(broker.retained(DEVICE, chunk), "bytes");
    assert_eq!(broker.retained("operator", &own), "mine");

    // None of these may change anything.
    broker.publish(Some(DEVICE), tuf, "forged");
    broker.publish(Some(DEVICE), chunk, "forged");
    broker.publish(Some(OTHER), &own, "forged");
    broker.publish(Some(DEVICE), "selvedge/v1/other", "forged");
    assert!(broker.publish(None, tuf, "forged").contains("ot authori"), "anonymous clients are let in");
    assert_eq!(broker.retained("operator", tuf), "signed");
    assert_eq!(broker.retained("operator", chunk), "bytes");
    assert_eq!(broker.retained("operator", &own), "mine");
    assert_eq!(broker.retained("operator", "selvedge/v1/other"), "");

    // Nor does one device see another's state.
    assert_eq!(broker.retained(OTHER, &own), "");
    assert_eq!(broker.retained(OTHER, "selvedge/v1/dev/#"), "");
}
