//! The configuration: the reference is true, and mistakes are named.

use selvedge::config::{Config, ConfigError, Identity, LogFormat, Tls};
use selvedge::kernels::Isa;
use selvedge::sys::{Disk as _, FaultyDisk};
use std::path::Path;
use std::time::Duration;

const REFERENCE: &str = include_str!("../../config/selvedge.toml");

fn refusal(text: &str) -> String {
    match Config::parse(text, "test.toml") {
        Err(e) => e.to_string(),
        Ok(config) => panic!("accepted {text:?} as {config:?}"),
    }
}

/// The reference with the keys that stand behind "# " made real.
fn with_every_key() -> String {
    let key = |line: &str| {
        let bare = line.strip_prefix("# ")?;
        let (name, value) = bare.split_once(" = ")?;
        let is_key = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        (is_key && value.parse::<toml::Value>().is_ok()).then(|| bare.to_owned())
    };
    // Some are for TLS alone.
    let text: String = REFERENCE.lines().map(|line| key(line).unwrap_or_else(|| line.to_owned()) + "\n").collect();
    text.replace("\"mqtt://localhost:1883\"", "\"mqtts://localhost\"")
}

#[test]
fn the_reference_says_the_defaults() {
    assert_eq!(Config::parse(REFERENCE, "reference").unwrap(), Config::default());
    assert_eq!(Config::parse("", "nothing").unwrap(), Config::default());
}

#[test]
fn the_reference_holds_every_key_and_each_is_explained() {
    let text = with_every_key();
    Config::parse(&text, "every key").unwrap();
    let table: toml::Table = text.parse().unwrap();
    let mut written: Vec<String> = Vec::new();
    for (section, keys) in &table {
        written.extend(keys.as_table().unwrap().keys().map(|key| format!("{section}.{key}")));
    }
    let mut known = Config::known_keys();
    written.sort();
    known.sort();
    assert_eq!(written, known);

    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#')) {
        assert!(pair[0].starts_with("# "), "no explanation above {:?}", pair[1]);
    }
}

#[test]
fn values_arrive() {
    let config = Config::parse(
        r#"
        [device]
        id = "00112233445566778899aabbccddeeff"
        groups = ["porch", "line_2"]
        [engine]
        workers = 3
        isa = "dotprod"
        threads = 2
        max-body-mib = 2
        deadline-ms = 250
        factory = ["/usr/share/selvedge/digits"]
        inbox = "/var/lib/selvedge-inbox"
        [link]
        broker = "mqtt://[::1]:1884"
        username = "porch"
        password-file = "/etc/selvedge/password"
        keep-alive-seconds = 5
        [proxy]
        listen = "[::1]:9000"
        [log]
        format = "journald"
        level = "info,selvedge::link=debug"
        "#,
        "values",
    )
    .unwrap();
    assert_eq!(config.device.id.unwrap().to_string(), "00112233445566778899aabbccddeeff");
    assert_eq!(config.device.groups, ["porch", "line_2"]);
    assert_eq!((config.engine.workers, config.engine.max_body), (3, 2 << 20));
    assert_eq!((config.engine.isa, config.engine.threads), (Some(Isa::Dotprod), Some(2)));
    assert_eq!(config.engine.deadline, Duration::from_millis(250));
    assert_eq!(config.engine.factory, [Path::new("/usr/share/selvedge/digits")]);
    assert_eq!(config.engine.inbox.as_deref(), Some(Path::new("/var/lib/selvedge-inbox")));
    assert_eq!((config.link.broker.host.as_str(), config.link.broker.port), ("::1", 1884));
    assert_eq!(config.link.broker.keep_alive, Duration::from_secs(5));
    assert_eq!(config.proxy.listen.to_string(), "[::1]:9000");
    assert_eq!(config.log.format, LogFormat::Journald);
    let port = Config::parse("[link]\nbroker = \"mqtt://broker.lan\"", "port").unwrap().link.broker.port;
    assert_eq!(port, 1883);
}

#[test]
fn tls_arrives_with_its_files_and_half_a_pair_is_refused() {
    let parse = |keys: &str| Config::parse(&format!("[link]\nbroker = \"mqtts://broker.lan\"\n{keys}"), "tls");
    let broker = parse("").unwrap().link.broker;
    assert_eq!((broker.port, broker.tls), (8883, Some(Tls::default())));
    let (certificate, key) = ("certificate-file = \"/c.pem\"\n", "key-file = \"/c.key\"\n");
    let tls = parse(&format!("ca-file = \"/ca.pem\"\n{certificate}{key}")).unwrap().link.broker.tls.unwrap();
    let identity = Identity { certificate_file: "/c.pem".into(), key_file: "/c.key".into() };
    assert_eq!(tls, Tls { ca_file: Some("/ca.pem".into()), identity: Some(identity) });
    assert!(parse(certificate).unwrap_err().to_string().contains("needs a `key-file` beside it"));
    assert!(parse(key).unwrap_err().to_string().contains("needs a `certificate-file` beside it"));
    assert_eq!(Config::default().link.broker.tls, None);
}

#[test]
fn a_mistyped_name_is_shown_with_its_line_and_the_nearest_known_one() {
    let told = refusal("[engine]\nqueue = 3\n\nworker = 2\n");
    assert_eq!(told, "test.toml: line 4: engine.worker: unknown key; did you mean `workers`?");
    let told = refusal("[engin]\nqueue = 3\n");
    assert_eq!(told, "test.toml: line 1: [engin]: unknown section; did you mean [engine]?");
    let told = refusal("[engine]\nmax_body_mib = 2");
    assert!(told.contains("did you mean `max-body-mib`?"), "{told}");
    let told = refusal("[engine]\nbroker = \"mqtt://x\"");
    assert!(told.contains("it belongs under [link]"), "{told}");
    let told = refusal("queue = 3");
    assert!(told.contains("line 1: queue: no key stands outside of a section; it belongs under [engine]"), "{told}");
    assert!(!refusal("[engine]\nzzz = 1").contains("did you mean"));
}

#[test]
fn bad_values_are_refused_with_line_key_and_what_is_expected() {
    for (section, key, value, expected) in [
        ("device", "id", "\"0011\"", "32 of 0-9 and a-f"),
        ("device", "id", "7", "a string is expected, this is a whole number"),
        ("device", "groups", "[\"Porch\"]", "\"Porch\" is no group"),
        ("device", "groups", "[\"\"]", "no group"),
        ("device", "groups", "[\"a/b\"]", "no group"),
        ("device", "groups", "[1]", "a string is expected"),
        ("device", "groups", "\"porch\"", "a list of strings is expected, this is a string"),
        ("engine", "state", "\"var/lib\"", "no absolute path"),
        ("engine", "state", "\"/var/../etc\"", "no absolute path"),
        ("engine", "socket", "\"/run/\\u0000\"", "no absolute path"),
        ("engine", "workers", "0", "0 is out of bounds: a whole number from 1 to 256"),
        ("engine", "isa", "\"mmx\"", "unknown instruction set \"mmx\": known are scalar, neon"),
        ("engine", "isa", "7", "a string is expected"),
        ("engine", "threads", "0", "from 1 to 64"),
        ("engine", "threads", "65", "from 1 to 64"),
        ("engine", "queue", "-1", "out of bounds"),
        ("engine", "queue", "64.0", "this is a fraction"),
        ("engine", "queue", "99999999999999999999999", "64 bits"),
        ("engine", "max-body-mib", "257", "from 1 to 256"),
        ("engine", "deadline-ms", "600001", "from 1 to 600000"),
        ("engine", "deny-network", "\"yes\"", "true or false is expected, this is a string"),
        ("engine", "status-interval-seconds", "0", "from 1 to 86400"),
        ("engine", "factory", "[\"models\"]", "no absolute path"),
        ("engine", "inbox", "\"media/../inbox\"", "no absolute path"),
        ("link", "broker", "\"tls://broker:8883\"", "is written mqtts://host"),
        ("link", "ca-file", "\"/etc/ca.pem\"", "needs a `broker` that starts with mqtts://"),
        ("link", "ca-file", "\"ca.pem\"", "no absolute path"),
        ("link", "broker", "\"broker.lan\"", "\"mqtt://host\""),
        ("link", "broker", "\"http://broker\"", "\"mqtt://host\""),
        ("link", "broker", "\"mqtt://\"", "\"mqtt://host\""),
        ("link", "broker", "\"mqtt://broker:0\"", "\"mqtt://host\""),
        ("link", "broker", "\"mqtt://broker:99999\"", "\"mqtt://host\""),
        ("link", "broker", "\"mqtt://broker/x?y\"", "\"mqtt://host\""),
        ("link", "broker", "\"mqtt://me@broker\"", "credentials do not stand in the address"),
        ("link", "broker", "\"mqtt://me:secret@broker\"", "a password does not stand in the address"),
        ("link", "username", "\"a\\nb\"", "control characters"),
        ("link", "keep-alive-seconds", "4", "from 5 to 65535"),
        ("link", "ledger-limit-mib", "0", "from 1 to 32"),
        ("proxy", "listen", "\"0.0.0.0:8000\"", "only loopback"),
        ("proxy", "listen", "\"[::]:8000\"", "only loopback"),
        ("proxy", "listen", "\"[::ffff:127.0.0.1]:8000\"", "only loopback"),
        ("proxy", "listen", "\"localhost:8000\"", "no address"),
        ("log", "level", "\"wran\"", "no level"),
        ("log", "level", "\"info,,debug\"", "no level"),
        ("log", "format", "\"xml\"", "no format"),
        ("log", "format", "2020-01-01", "this is a date"),
    ] {
        let told = refusal(&format!("# first\n[{section}]\n\n{key} = {value}\n"));
        let place = format!("test.toml: line 4: {section}.{key}: ");
        assert!(told.starts_with(&place) && told.contains(expected), "{key} = {value}: {told}");
        assert!(!told.contains("secret"), "{told}");
    }
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let told = refusal("[engine]\nsocket = \"/run/x\"\nlink-socket = \"/run/x\"");
    assert!(told.contains("line 3: engine.link-socket"), "{told}");
    let told = refusal("[link]\nstate = \"/var/lib/selvedge\"");
    assert!(told.contains("line 2: link.state"), "{told}");
    let told = refusal("[link]\npassword-file = \"/p\"");
    assert!(told.contains("needs a `username`"), "{told}");
    let long = format!("[engine]\nsocket = \"/run/{}\"", "x".repeat(103));
    assert!(refusal(&long).contains("at most 107"));
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_their_lines() {
    let told = refusal("[engine]\nqueue = 0\nworkerz = 1\n[link]\nbroker = 3\n[lgo]\nlevel = \"info\"\n");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    assert_eq!(lines[0], "4 problems in test.toml");
    for (line, start) in lines[1..].iter().zip(["line 2", "line 3", "line 5", "line 6"]) {
        assert!(line.trim_start().starts_with(start), "{told}");
    }
}

#[test]
fn what_is_no_toml_is_told_by_line_and_nothing_is_made_up_from_it() {
    let told = refusal("[engine]\nqueue = \nbroken\n");
    assert!(told.contains("line 2: this is not TOML"), "{told}");
    assert!(!told.contains("unknown"), "{told}");
    assert!(refusal("[engine]\nqueue = 1\nqueue = 2\n").contains("line 3: this is not TOML"));
    let deep = format!("[engine]\nfactory = {}", "[".repeat(30_000));
    assert!(refusal(&deep).contains("not TOML"));
}

#[test]
fn files_are_bounded_and_their_absence_is_no_default() {
    let disk = FaultyDisk::new();
    let path = Path::new("/etc/selvedge/selvedge.toml");
    assert!(matches!(Config::load(&disk, path), Err(ConfigError::Absent { .. })));
    disk.write(path, &vec![b'#'; 64 * 1024]).unwrap();
    assert!(Config::load(&disk, path).is_ok());
    disk.write(path, &vec![b'#'; 64 * 1024 + 1]).unwrap();
    assert!(matches!(Config::load(&disk, path), Err(ConfigError::Read { .. })));
    disk.write(path, &[0xff, 0xfe]).unwrap();
    assert!(matches!(Config::load(&disk, path), Err(ConfigError::NotText { .. })));
}
