//! Keys under a passphrase, and commands that sign.

use super::*;
use crate::publish::keys::create;
use crate::trust::author::SigningKey;
use std::process::Command as Process;
use std::time::Duration;

fn passphrase(dir: &Path, text: &str) -> Passphrase {
    let path = dir.join(format!("phrase-{}", text.len()));
    std::fs::write(&path, format!("{text}\n")).unwrap();
    Passphrase::new(Some(path))
}

/// A program of the test's own.
fn script(dir: &Path, text: &str) -> Vec<String> {
    let path = dir.join("signer.sh");
    std::fs::write(&path, text).unwrap();
    vec!["/bin/sh".into(), path.to_str().unwrap().into()]
}

#[tokio::test]
async fn keys_under_a_passphrase_publish_with_it_and_not_without() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    let right = passphrase(dir.path(), "correct horse");
    let options = InitOptions { sealing: Sealing::All, ..InitOptions::default() };
    drop(Repository::init_with(&path, &options, &right).unwrap());
    for name in RealDisk.list(&path.join("keys")).unwrap() {
        let file = path.join("keys").join(&name);
        assert!(!name.ends_with(".pk8"), "{name}: none in the open");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let board = Shown::default();
    let mut repository = Repository::open_with(&path, &right).unwrap();
    board.take(&repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    assert_eq!(device.versions(&board, "shop"), [1]);
    drop(repository);
    for wrong in [passphrase(dir.path(), "wrong"), Passphrase::default(), Passphrase::new(Some("/nowhere".into()))] {
        let mut repository = Repository::open_with(&path, &wrong).unwrap();
        let error = repository.publish(&bundle(2, ""), &shop(), &PLAIN).unwrap_err();
        assert!(matches!(error, RepositoryError::Author(_)), "{error}");
        assert_eq!(repository.current().targets.version, 2, "nothing was written");
    }
}

#[test]
fn a_key_under_a_passphrase_goes_to_openssl_and_comes_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let phrase = passphrase(dir.path(), "correct horse");
    let key = create(dir.path(), "ours", Some(&phrase)).unwrap();
    let openssl = |args: &[&str]| Process::new("openssl").args(args).current_dir(dir.path()).output();
    let Ok(opened) =
        openssl(&["pkey", "-in", "ours.pem", "-passin", "pass:correct horse", "-pubout", "-outform", "DER"])
    else {
        eprintln!("left out: there is no openssl");
        return;
    };
    assert!(opened.stdout.ends_with(key.public_bytes()), "{}", String::from_utf8_lossy(&opened.stderr));
    for kdf in [&["-scrypt"][..], &["-v2", "aes-256-cbc"], &["-v2", "aes-128-cbc", "-iter", "4096"]] {
        assert!(openssl(&["genpkey", "-algorithm", "ed25519", "-out", "plain.txt"]).unwrap().status.success());
        let seal = ["pkcs8", "-topk8", "-in", "plain.txt", "-out", "theirs.pem", "-passout", "pass:correct horse"];
        assert!(openssl(&[&seal[..], kdf].concat()).unwrap().status.success(), "{kdf:?}");
        let public = openssl(&["pkey", "-in", "plain.txt", "-pubout", "-outform", "DER"]).unwrap().stdout;
        let public = hex::encode(&public[public.len() - 32..]);
        std::fs::write(dir.path().join("theirs.pub"), &public).unwrap();
        let ring = KeyRing::load(dir.path(), &phrase).unwrap();
        let (_, theirs) = ring.all().find(|(_, key)| hex::encode(key.public_bytes()) == public).unwrap();
        assert!(theirs.sign(b"message").is_ok(), "{kdf:?}");
    }
}

#[test]
fn damaged_and_costly_key_files_are_refused_when_they_sign() {
    let dir = tempfile::tempdir().unwrap();
    let phrase = passphrase(dir.path(), "correct horse");
    create(dir.path(), "key", Some(&phrase)).unwrap();
    let path = dir.path().join("key.pem");
    let whole = std::fs::read_to_string(&path).unwrap();
    let says = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let ring = KeyRing::load(dir.path(), &phrase).unwrap();
        let (_, key) = ring.all().next().unwrap();
        let error = key.sign(b"message").unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };
    for cut in (0..whole.len()).step_by(13) {
        assert!(says(&whole[..cut]).contains("is no key under a passphrase"), "cut to {cut}");
    }
    assert!(says(&"-".repeat(100_000)).contains("is no key"));
    let (label, document) = pkcs8::SecretDocument::from_pem(&whole).unwrap();
    let der = document.as_bytes();
    // scrypt's cost parameter, raised to 2^30: a terabyte.
    let at = der.windows(4).position(|w| {
        w[0] == 0x02 && w[1] == 0x03 && w[2] == 0x02 || w[..2] == [0x02, 0x02] && w[2] & 0x80 == 0 && w[3] == 0
    });
    if let Some(at) = at {
        let mut costly = der.to_vec();
        costly[at + 2] = 0x7f;
        let text = pkcs8::der::pem::encode_string(label, pkcs8::LineEnding::LF, &costly).unwrap();
        let said = says(&text);
        assert!(said.contains("256 MiB") || said.contains("does not open") || said.contains("is no key"), "{said}");
    }
    std::fs::write(&path, &whole).unwrap();
    std::fs::write(dir.path().join("key.pub"), "nonsense").unwrap();
    let error = KeyRing::load(dir.path(), &phrase).unwrap_err();
    assert!(matches!(error, RepositoryError::NoPublicHalf(_)), "{error}");
}

#[tokio::test]
async fn a_command_signs_for_a_role_and_devices_take_it() {
    let (dir, mut repository) = repository();
    let path = dir.path().join("repo");
    let openssl = |args: &[&str]| Process::new("openssl").args(args).current_dir(dir.path()).output();
    let Ok(made) = openssl(&["genpkey", "-algorithm", "ed25519", "-out", "token.pem"]) else {
        eprintln!("left out: there is no openssl");
        return;
    };
    assert!(made.status.success());
    let public = openssl(&["pkey", "-in", "token.pem", "-pubout", "-outform", "DER"]).unwrap().stdout;
    let public: [u8; 32] = public[public.len() - 32..].try_into().unwrap();
    let token = dir.path().join("token.pem").display().to_string();
    let text =
        format!("f=$(mktemp); cat > $f; openssl pkeyutl -sign -rawin -inkey {token} -in $f; s=$?; rm $f; exit $s\n");
    let command = Command::new(public, script(dir.path(), &text), Duration::from_secs(30)).unwrap();
    add_command(&path, "token", &command).unwrap();
    drop(repository);
    repository = Repository::open(&path).unwrap();
    let board = Shown::default();
    let mut device = Device::new(&repository);
    let change = KeyChange { add: vec![public], ..KeyChange::replace() };
    board.take(&repository.rotate_with(&[(Role::Targets, change)].into(), None).unwrap()).await.unwrap();
    board.take(&repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    device.update(&board).await.unwrap();
    assert_eq!((device.trust.root_version(), device.versions(&board, "shop")), (2, vec![1]));
    let state = repository.key_states().into_iter().find(|key| key.public == hex::encode(public)).unwrap();
    assert_eq!((state.name.as_deref(), state.roles.as_slice()), (Some("token"), &["targets".to_owned()][..]));
}

#[test]
fn a_command_that_fails_hangs_floods_or_lies_is_an_error_in_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let other = SigningKey::generate().unwrap();
    let wrong = hex::encode(other.sign(b"another message").unwrap());
    for (text, says) in [
        ("exit 3", "ended with exit status: 3"),
        ("kill -9 $$", "ended with signal"),
        ("cat > /dev/null", "wrote 0 bytes"),
        ("echo not a signature", "wrote 16 bytes"),
        ("sleep 60", "did not answer within 1 s"),
        ("exec 1>&-; sleep 60", "did not answer within 1 s"),
        ("yes", "ended with"),
        (&format!("echo {wrong}"), ""),
    ] {
        let command = Command::new([7; 32], script(dir.path(), text), Duration::from_secs(1)).unwrap();
        let clock = crate::sys::RealClock::new();
        let error = command.into_key().sign(&vec![0; 1 << 20]).unwrap_err();
        assert!(crate::sys::Clock::monotonic(&clock) < Duration::from_secs(20), "{text}");
        match std::error::Error::source(&error) {
            Some(source) => assert!(source.to_string().contains(says), "{text}: {source}"),
            None => assert!(says.is_empty() && error.to_string().contains("no Ed25519 signature"), "{text}: {error}"),
        }
    }
    let missing = Command::new([7; 32], vec!["/nowhere/signer".into()], Duration::from_secs(1)).unwrap();
    let error = missing.into_key().sign(b"").unwrap_err();
    let told = std::error::Error::source(&error).unwrap().to_string();
    // An emulated process starts all the same, and ends with this.
    let emulated = cfg!(target_arch = "aarch64") && told.contains("exit status: 127");
    assert!(told.contains("is it installed") || emulated, "{told}");
}

#[test]
fn a_command_file_that_is_wrong_says_what() {
    let dir = tempfile::tempdir().unwrap();
    let good = format!("public = \"{}\"\ncommand = [\"x\"]\n", "07".repeat(32));
    for text in [
        String::new(),
        good.replace("07", "0z"),
        good.replace("[\"x\"]", "[]"),
        good.replace("[\"x\"]", "\"x\""),
        format!("{good}timeout-seconds = 0\n"),
        format!("{good}timeout-seconds = 86400\n"),
        format!("{good}shell = true\n"),
    ] {
        std::fs::write(dir.path().join("bad.toml"), &text).unwrap();
        let error = KeyRing::load(dir.path(), &Passphrase::default()).unwrap_err();
        assert!(matches!(error, RepositoryError::BadCommand { .. }), "{text}: {error}");
    }
    std::fs::write(dir.path().join("bad.toml"), &good).unwrap();
    assert_eq!(KeyRing::load(dir.path(), &Passphrase::default()).unwrap().all().count(), 1);
}
