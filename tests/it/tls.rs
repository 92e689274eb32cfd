//! TLS to a real Mosquitto: the right certificate, all the wrong ones, clocks that are wrong, brokers that hurt.

use crate::authority::{Authority, DAY, Pair, self_signed};
use crate::mosquitto::{Mosquitto, Proxy, free_port};
use crate::mqtt::{QUICK, connected, lost, message, most_attempts};
use selvedge::config::{Broker, Identity, Tls};
use selvedge::mqtt::{self, Dates, Event, Options, Sent};
use selvedge::privacy::Kind;
use selvedge::sys::{ManualClock, built, unix_now};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

/// The lines of a TLS listener.
fn lines(ca: &Path, server: &Pair, more: &str) -> String {
    let [ca, certificate, key] = [ca, &server.certificate, &server.key].map(|path| path.display().to_string());
    format!("cafile {ca}\ncertfile {certificate}\nkeyfile {key}\n{more}")
}

fn options(port: u16, ca: Option<PathBuf>, own: Option<&Pair>) -> Options {
    let identity = own.map(|own| Identity { certificate_file: own.certificate.clone(), key_file: own.key.clone() });
    Options {
        broker: Broker {
            host: "localhost".into(),
            port,
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(60),
            tls: Some(Tls { ca_file: ca, identity }),
        },
        client_id: "tls".into(),
        will: None,
        backoff: QUICK,
        dates: Dates::of_operator(),
    }
}

fn at(system: u64, synchronized: bool) -> Dates {
    Dates::of_device(Arc::new(ManualClock::new(system, synchronized)))
}

/// How the first attempt ends.
async fn first(options: Options) -> Result<(), String> {
    let (handle, mut events) = mqtt::start(options, Box::new(|_| {})).unwrap();
    let event = timeout(Duration::from_secs(20), events.recv()).await.expect("an attempt ends").unwrap();
    handle.close().await;
    match event {
        Event::Connected => Ok(()),
        Event::Disconnected { reason, .. } => Err(reason),
        Event::Message(message) => panic!("{message:?}"),
    }
}

async fn refused(options: Options, says: &str) {
    let reason = first(options).await.expect_err(says);
    assert!(reason.contains(says), "{says:?} is not in {reason:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_tls_all_arrives_whole_is_counted_and_is_not_to_be_read_on_the_line() {
    let authority = Authority::new("ca");
    let server = authority.server(&["localhost", "127.0.0.1"], -1, 10);
    let broker = Mosquitto::start_with(&lines(&authority.ca(), &server, "allow_anonymous true"));
    let proxy = Proxy::recording(broker.port()).await;
    let reported = Arc::new(Mutex::new(Vec::<Sent>::new()));
    let sink = reported.clone();
    let mut by_address = options(proxy.port, Some(authority.ca()), None);
    by_address.broker.host = "127.0.0.1".into();
    let (handle, mut events) = mqtt::start(by_address, Box::new(move |sent| sink.lock().unwrap().push(sent))).unwrap();
    handle.subscribe("t/#").await;
    connected(&mut events).await;
    for size in [0, 1, 16_383, 16_384, 16_385, 300_000, 1 << 20] {
        let bytes = [b"a secret of the board".repeat(size / 21 + 1)].concat()[..size].to_vec();
        handle.publish("t/a", bytes.clone(), false, Kind::Status).await.unwrap();
        assert_eq!(message(&mut events).await.bytes, bytes);
    }
    handle.close().await;
    sleep(Duration::from_millis(200)).await;
    let packets: u64 = reported.lock().unwrap().iter().map(|sent| sent.bytes).sum();
    // The ledger counts packets; TLS adds records and its handshake.
    let line = proxy.to_broker();
    assert!(packets < line && line < packets + packets / 100 + 8192, "{packets} in packets, {line} on the line");
    let streams = proxy.recorded();
    assert!(streams.iter().any(|stream| stream.len() > 1 << 20));
    for stream in &streams {
        assert!(!stream.windows(8).any(|bytes| bytes == b"a secret"), "the line can be read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_the_right_one_is_told_apart_and_why() {
    let (authority, other, namesake) = (Authority::new("ca"), Authority::new("other"), Authority::new("ca"));
    let good = authority.server(&["localhost"], -1, 10);
    let trusted = |port| options(port, Some(authority.ca()), None);
    let start = |server: &Pair| Mosquitto::start_with(&lines(&authority.ca(), server, "allow_anonymous true"));

    let broker = start(&good);
    first(trusted(broker.port())).await.expect("the right one");
    refused(options(broker.port(), Some(other.ca()), None), "ca-file").await;
    refused(options(broker.port(), Some(namesake.ca()), None), "ca-file").await;
    refused(options(broker.port(), None, None), "ca-file").await;
    let mut elsewhere = trusted(broker.port());
    elsewhere.broker.host = "127.0.0.1".into();
    refused(elsewhere, "it is not for 127.0.0.1, but for localhost:").await;

    let broker = start(&authority.server(&["localhost"], -20, -10));
    refused(trusted(broker.port()), "it ended on ").await;
    let broker = start(&authority.server(&["localhost"], 10, 20));
    refused(trusted(broker.port()), "it begins on ").await;
    let broker = start(&self_signed(authority.dir.path(), "localhost"));
    refused(trusted(broker.port()), "no authority that is trusted here has signed it").await;
    // A device's certificate makes no broker.
    let broker = start(&authority.client("localhost", 7));
    refused(trusted(broker.port()), "certificate is refused").await;

    let plain = Mosquitto::start();
    refused(trusted(plain.port()), "is this the port of").await;
    let broker = start(&good);
    let mut clear = trusted(broker.port());
    clear.broker.tls = None;
    let reason = first(clear).await.unwrap_err();
    assert!(reason.contains("closed the connection") || reason.contains("the connection broke"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_neither_locks_out_nor_lets_in_what_is_known_to_have_ended() {
    let authority = Authority::new("ca");
    let (now, century) = (unix_now(), 100 * 365 * DAY as u64);
    let since = i64::try_from((now - built()) / DAY as u64).unwrap();
    let dates = |from, to| lines(&authority.ca(), &authority.server(&["localhost"], from, to), "allow_anonymous true");
    let device = |port, system, synchronized| Options {
        dates: at(system, synchronized),
        ..options(port, Some(authority.ca()), None)
    };

    let broker = Mosquitto::start_with(&dates(-1, 10));
    for (system, synchronized) in [(0, false), (0, true), (now, true), (now, false), (now + century, false)] {
        let judged = first(device(broker.port(), system, synchronized)).await;
        judged.unwrap_or_else(|reason| panic!("{system} {synchronized}: {reason}"));
    }
    // By a clock that a time source vouches for it has ended.
    refused(device(broker.port(), now + century, true), "it ended on ").await;

    let ended = Mosquitto::start_with(&dates(-2000, -since - 1));
    for (system, synchronized) in [(0, false), (0, true), (now, true), (now + century, false)] {
        refused(device(ended.port(), system, synchronized), "it ended on ").await;
    }
    // Not yet: only who knows the time can say so.
    let begins = Mosquitto::start_with(&dates(10, 20));
    refused(device(begins.port(), now, true), "it begins on ").await;
    first(device(begins.port(), 0, false)).await.expect("on a board whose clock says 1970");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_for_certificates_takes_its_own_alone_and_says_why() {
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let server = authority.server(&["localhost"], -1, 10);
    let crl = authority.revoked(&[8]);
    let more = format!(
        "require_certificate true\nuse_identity_as_username true\ncrlfile {}\nallow_anonymous false",
        crl.display()
    );
    let broker = Mosquitto::start_with(&lines(&authority.ca(), &server, &more));
    let with = |own: Option<&Pair>| options(broker.port(), Some(authority.ca()), own);
    first(with(Some(&authority.client("a", 7)))).await.expect("a good one");
    refused(with(None), "the broker wants a certificate of ours").await;
    refused(with(Some(&other.client("a", 9))), "does not accept our certificate").await;
    refused(with(Some(&authority.client("a", 8))), "our certificate is revoked").await;
    refused(with(Some(&server)), "does not accept our certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_named_and_looked_at_again() {
    let authority = Authority::new("ca");
    let server = authority.server(&["localhost"], -1, 10);
    let broker = Mosquitto::start_with(&lines(&authority.ca(), &server, "allow_anonymous true"));
    let (a, b) = (authority.client("a", 1), authority.client("b", 2));
    let file = |name: &str, bytes: &[u8]| {
        let path = authority.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    for (ca, says) in [
        (PathBuf::from("/nowhere/ca.pem"), "the file of authorities /nowhere/ca.pem is not there"),
        (file("empty", b""), "holds none as PEM"),
        (file("der", &[0x30, 0x82, 1, 2, 3]), "holds none as PEM"),
        (file("huge", &vec![b'-'; 2 << 20]), "more than 1048576 bytes"),
        (file("broken", broken), "is of no use"),
    ] {
        refused(options(broker.port(), Some(ca), None), says).await;
    }
    let key_of = |certificate: &PathBuf, key: &PathBuf| Pair { certificate: certificate.clone(), key: key.clone() };
    for (own, says) in [
        (key_of(&a.certificate, &b.key), "is not that of the certificate"),
        (key_of(&a.key, &a.key), "the certificate "),
        (key_of(&a.certificate, &a.certificate), "the certificate's key "),
        (key_of(&a.certificate, &file("nokey", b"x")), "holds none as PEM"),
    ] {
        refused(options(broker.port(), Some(authority.ca()), Some(&own)), says).await;
    }

    // Put there while the link goes on, it is found without a restart.
    let late = authority.dir.path().join("late.pem");
    let (handle, mut events) = mqtt::start(options(broker.port(), Some(late.clone()), None), Box::new(|_| {})).unwrap();
    assert!(lost(&mut events).await.contains("late.pem is not there"));
    std::fs::copy(authority.ca(), &late).unwrap();
    connected(&mut events).await;
    handle.close().await;
}

/// What `selvedge check` finds: level, what, the rest of the line.
fn check(dir: &Path, ca: &Path, own: &Pair) -> Vec<(String, String, String)> {
    let config = format!(
        "[device]\nid = \"{DEVICE}\"\n[link]\nbroker = \"mqtts://localhost\"\nca-file = {ca:?}\ncertificate-file = {:?}\n\
         key-file = {:?}\n",
        own.certificate, own.key
    );
    std::fs::write(dir.join("selvedge.toml"), config).unwrap();
    let output = crate::program::run_in(dir, &["check", "--config", "selvedge.toml", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let findings = found["findings"].as_array().unwrap().iter();
    findings.map(|f| (text(&f["level"]), text(&f["what"]), text(&f["found"]) + &text(&f["remedy"]))).collect()
}

const DEVICE: &str = "00112233445566778899aabbccddeeff";

#[test]
fn a_check_tells_what_is_wrong_with_the_files_before_anything_connects() {
    let (authority, dir) = (Authority::new("ca"), tempfile::tempdir().unwrap());
    let close = |pair: &Pair| std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let own = authority.client(DEVICE, 1);
    close(&own);
    let good = check(dir.path(), &authority.ca(), &own);
    let level = |found: &[(String, String, String)], what: &str| {
        let line = found.iter().find(|(_, name, _)| name == what);
        line.unwrap_or_else(|| panic!("nothing on {what}: {found:?}")).clone()
    };
    for what in ["broker", "TLS authorities", "certificate", "certificate's key"] {
        assert_eq!(level(&good, what).0, "ok", "{what}: {good:?}");
    }
    let since = i64::try_from((unix_now() - built()) / DAY as u64).unwrap();
    let (ended, other) = (authority.until(DEVICE, 2, -since - 1), authority.client("other", 3));
    let open = authority.client(DEVICE, 4);
    [&ended, &other].into_iter().for_each(close);
    let pair =
        |certificate: &Pair, key: &Pair| Pair { certificate: certificate.certificate.clone(), key: key.key.clone() };
    let absent = Pair { certificate: "/nowhere/device.pem".into(), key: own.key.clone() };
    for (own, what, expected, says) in [
        (&ended, "certificate", "error", "it has ended"),
        (&other, "certificate", "warning", "not this device's id"),
        (&open, "certificate's key", "error", "open to all"),
        (&pair(&own, &other), "TLS", "error", "is not that of the certificate"),
        (&absent, "TLS", "error", "/nowhere/device.pem is not there"),
        (&pair(&Pair { certificate: own.key.clone(), key: own.key.clone() }, &own), "TLS", "error", "none as PEM"),
    ] {
        let (level, _, text) = level(&check(dir.path(), &authority.ca(), own), what);
        assert!(level == expected && text.contains(says), "{says:?}: {level} {text}");
    }
}

/// Attempts in five seconds against such a broker, and the last reason.
async fn tries(options: Options) -> (u64, Duration, String) {
    let (handle, mut events) = mqtt::start(options, Box::new(|_| {})).unwrap();
    let (begun, mut last) = (Instant::now(), String::new());
    while begun.elapsed() < Duration::from_secs(5) {
        if let Ok(Some(Event::Disconnected { reason, .. })) = timeout(Duration::from_millis(100), events.recv()).await {
            last = reason;
        }
    }
    (handle.attempts(), begun.elapsed(), last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_certificate_and_a_kick_after_connect_are_tried_no_more_often_than_a_broker_that_is_down() {
    let (authority, other) = (Authority::new("ca"), Authority::new("ca"));
    let server = authority.server(&["localhost"], -1, 10);
    let strict =
        Mosquitto::start_with(&lines(&authority.ca(), &server, "require_certificate true\nallow_anonymous true"));
    let kicks = kicking(&server).await;
    let (wrong, unwanted, kicked, absent) = tokio::join!(
        tries(options(strict.port(), Some(other.ca()), None)),
        tries(options(strict.port(), Some(authority.ca()), None)),
        tries(options(kicks, Some(authority.ca()), None)),
        tries(options(free_port(), Some(PathBuf::from("/nowhere/ca.pem")), None)),
    );
    for (what, (attempts, time, reason)) in
        [("wrong", wrong), ("unwanted", unwanted), ("kicked", kicked), ("absent", absent)]
    {
        // They go on, and they are spaced.
        assert!((3..=most_attempts(time)).contains(&attempts), "{what}: {attempts} attempts; {reason}");
        assert!(!reason.is_empty(), "{what}");
    }
}

/// Takes each handshake and CONNECT, says yes, and hangs up.
async fn kicking(server: &Pair) -> u16 {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto::aws_lc_rs};
    let chain = CertificateDer::pem_file_iter(&server.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&server.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut some = [0; 1024];
            if stream.read(&mut some).await.is_ok() {
                // CONNACK: success, no properties.
                let _ = stream.write_all(&[0x20, 3, 0, 0, 0]).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stalls_or_drips_ends_in_time() {
    let authority = Authority::new("ca");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            // The first says nothing; later ones a byte a second of a record that never ends.
            if held.is_empty() {
                held.push(stream);
                continue;
            }
            tokio::spawn(async move {
                for byte in [0x16, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat(0)) {
                    if stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            });
        }
    });
    let begun = Instant::now();
    let (silent, drips) = tokio::join!(first(options(port, Some(authority.ca()), None)), async {
        sleep(Duration::from_millis(300)).await;
        first(options(port, Some(authority.ca()), None)).await
    });
    for reason in [silent.unwrap_err(), drips.unwrap_err()] {
        assert!(reason.contains("did not answer within 10 s"), "{reason}");
    }
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
}
