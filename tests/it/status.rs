//! `selvedge status` against a real engine process, and a fleet on a real Mosquitto.

use crate::mosquitto::{Mosquitto, RawClient};
use crate::program;
use selvedge::bundle::topics;
use selvedge::kernels::Isa;
use selvedge::privacy::Status;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

fn selvedge(args: &[&str]) -> Output {
    program::selvedge().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// An engine with the digits model from the factory, and no operator.
struct Engine {
    dir: tempfile::TempDir,
    process: Child,
}

impl Engine {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
        for name in ["state", "run"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "[device]\nid = \"00112233445566778899aabbccddeeff\"\n[engine]\nstate = {:?}\nsocket = {:?}\nlink-socket = {:?}\nroot = {:?}\nfactory = [{:?}]\n{}[link]\nstate = {:?}\n",
            at("state"),
            at("run/api.sock"),
            at("run/link.sock"),
            at("root.json"),
            model.display().to_string(),
            program::wall(),
            at("link"),
        );
        std::fs::write(dir.path().join("selvedge.toml"), config).unwrap();
        let mut command = program::selvedge();
        command.args(["engine", "--config"]).arg(dir.path().join("selvedge.toml"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let engine = Self { dir, process };
        for _ in 0..1000 {
            if std::os::unix::net::UnixStream::connect(engine.socket()).is_ok() {
                return engine;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the engine does not listen");
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/api.sock")
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("selvedge.toml")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_device_is_shown_as_tables_and_as_json_and_a_dead_engine_is_named() {
    let mut engine = Engine::start();
    let (config, socket) = (engine.config(), engine.socket());
    let (config, socket) = (config.to_str().unwrap(), socket.to_str().unwrap());
    let shown = selvedge(&["status", "--config", config]);
    let tables = text(&shown.stdout);
    assert!(shown.status.success(), "{shown:?}");
    assert!(tables.contains("digits     1         -  idle           -"), "{tables}");
    for part in ["waits for: nothing", "denied to the engine", "MiB resident", env!("CARGO_PKG_VERSION")] {
        assert!(tables.contains(part), "{part}: {tables}");
    }
    let json = selvedge(&["status", "--socket", socket, "--json"]);
    let status: Status = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(status.models[0].live, Some(1));
    assert!(status.inventory.engine_rss_mib > 0);
    let isa = serde_json::to_value(status.inventory.isa).unwrap();
    let wished = std::env::var("SELVEDGE_ISA").unwrap_or_else(|_| Isa::best().name().to_owned());
    assert_eq!(isa, wished);

    engine.process.kill().unwrap();
    engine.process.wait().unwrap();
    let dead = selvedge(&["status", "--config", config]);
    let told = text(&dead.stderr);
    assert_eq!((dead.status.code(), text(&dead.stdout)), (Some(1), ""));
    assert!(told.contains(socket) && told.contains("hint: is the engine running?"), "{told}");
}

#[test]
fn where_nothing_answers_it_is_said_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let absent = selvedge(&["status", "--socket", &at("none.sock")]);
    let told = text(&absent.stderr);
    assert_eq!(absent.status.code(), Some(1));
    assert!(told.contains("none.sock") && told.contains("--socket names another"), "{told}");
    let unconfigured = selvedge(&["status", "--config", &at("none.toml")]);
    let told = text(&unconfigured.stderr);
    assert_eq!(unconfigured.status.code(), Some(1));
    assert!(told.contains("none.toml") && told.contains("--socket"), "{told}");
}

#[test]
fn what_is_no_engine_is_bounded_and_named() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("strange.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answers: [Vec<u8>; 4] = [
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n\"\x1b[2J\"".to_vec(),
        [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 1 << 20]].concat(),
    ];
    std::thread::scope(|scope| {
        let answers = &answers;
        scope.spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                // Who has seen enough hangs up.
                let _ = stream.write_all(answer);
            }
        });
        for _ in answers {
            let output = selvedge(&["status", "--socket", socket.to_str().unwrap()]);
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1));
            assert!(told.contains("hint: is ") && !told.contains('\x1b'), "{told}");
        }
    });
}

#[cfg(feature = "operator")]
#[test]
fn a_fleet_is_read_from_the_board() {
    let broker = Mosquitto::start();
    let mut device = RawClient::connect(broker.port(), "devices", false);
    for n in 0..300u128 {
        let id = hex::encode(n.to_be_bytes());
        let status = serde_json::to_vec(&Status { sequence: 1, ..Status::default() }).unwrap();
        device.publish(&topics::device_online(&id), br#"{"online":true,"boot":"ab"}"#.to_vec(), true);
        device.publish(&topics::device_status(&id), status, true);
    }
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let fleet = selvedge(&["status", "--broker", &url, "--seconds", "2"]);
    let table = text(&fleet.stdout);
    assert!(table.ends_with("\n300 devices, 300 online\n"), "{table} {fleet:?}");
    assert_eq!(table.lines().count(), 303);
    let id = hex::encode(7u128.to_be_bytes());
    let one = selvedge(&["status", "--broker", &url, "--device", &id, "--seconds", "60", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!((&json["device"], &json["online"]), (&id.into(), &true.into()));
    let missing = selvedge(&["status", "--broker", &url, "--device", &"f".repeat(32), "--seconds", "1"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("nothing stands on the board"), "{missing:?}");
}
