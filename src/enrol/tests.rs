use super::card::{AUTHORITY, CERTIFICATE, CONFIG, CREDENTIALS, Card, KEY, PASSWORD, ROOT, SECRETS};
use super::*;
use crate::config::{Address, Config, DeviceId};
use crate::sys::{Disk as _, FaultyDisk, Torn, built};
use std::path::{Path, PathBuf};

const NOW: u64 = built() + 100 * 86_400;

const ROOT_JSON: &[u8] = br#"{"signed":{"_type":"root"},"signatures":[]}"#;

fn repo() -> &'static Path {
    Path::new("/repo")
}

fn card() -> &'static Path {
    Path::new("/boot/firmware/selvedge")
}

fn place(force: bool) -> Place<'static> {
    Place { etc: Path::new(ETC), link_group: Some(7), force }
}

fn request(id: Option<DeviceId>, credential: Credential) -> Request {
    let broker = Address::parse("mqtts://broker.lan").unwrap();
    Request { id, groups: vec!["shop".into()], broker, credential, days: 10, system_authorities: false }
}

fn provision(disk: &FaultyDisk, request: &Request) -> Result<Made, EnrolError> {
    Devices::open(disk, repo(), NOW)?.provision(request, ROOT_JSON, card())
}

/// A disk that holds a card alone, as a board finds it, and the card's device.
fn with_card(credential: Credential) -> (FaultyDisk, DeviceId) {
    let (maker, disk) = (FaultyDisk::new(), FaultyDisk::new());
    let id = provision(&maker, &request(None, credential)).unwrap().id;
    for name in maker.list(card()).unwrap() {
        let bytes = maker.read(&card().join(&name), 1 << 20).unwrap().unwrap();
        disk.commit(&card().join(&name), &bytes).unwrap();
    }
    (disk, id)
}

fn read(disk: &FaultyDisk, path: &Path) -> Option<Vec<u8>> {
    disk.read(path, 1 << 20).unwrap()
}

fn device_of(disk: &FaultyDisk) -> Option<DeviceId> {
    let text = String::from_utf8(read(disk, &Path::new(ETC).join(CONFIG))?).unwrap();
    Config::parse(&text, "etc").unwrap().device.id
}

fn serials(disk: &FaultyDisk) -> Vec<String> {
    let issued = Devices::list(disk, repo()).unwrap();
    issued.into_iter().filter_map(|issue| issue.serial).collect()
}

/// The serial of a certificate in PEM, by the parser.
fn serial(pem: &[u8]) -> Option<String> {
    use base64::Engine as _;
    use x509_cert::der::Decode as _;
    let text: String = std::str::from_utf8(pem).ok()?.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let certificate = x509_cert::Certificate::from_der(&der).unwrap();
    Some(hex::encode(certificate.tbs_certificate().serial_number().as_bytes()))
}

#[test]
fn whatever_a_cut_leaves_of_a_card_its_certificate_is_known_and_can_be_revoked() {
    for torn in Torn::ALL {
        for cut in 0.. {
            let disk = FaultyDisk::new();
            drop(Devices::open(&disk, repo(), NOW).unwrap());
            disk.cut_after(cut);
            let made = provision(&disk, &request(None, Credential::Certificate));
            let disk = disk.reboot(torn);
            let known = serials(&disk);
            if let Some(serial) = read(&disk, &card().join(CERTIFICATE)).and_then(|pem| serial(&pem)) {
                assert!(known.contains(&serial), "{torn:?}, cut {cut}");
            }
            // A card with its configuration is a whole one.
            if read(&disk, &card().join(CONFIG)).is_some() {
                let card = Card::read(&disk, card()).unwrap();
                assert!(card.gone.is_empty() && card.credentials.len() == 3, "{torn:?}, cut {cut}");
            }
            // The next command goes on from there.
            let mut devices = Devices::open(&disk, repo(), NOW).unwrap();
            for issue in Devices::list(&disk, repo()).unwrap() {
                assert_eq!(devices.revoke(&issue.name).unwrap(), 1);
            }
            if let Ok(made) = made {
                assert_eq!(device_on(&disk, &made.card), Some(made.id));
                assert!(cut > 20, "{cut} operations seem too few");
                break;
            }
        }
    }
}

fn device_on(disk: &FaultyDisk, card: &Path) -> Option<DeviceId> {
    Card::read(disk, card).ok().map(|card| card.id)
}

#[test]
fn an_authority_that_a_cut_left_half_made_is_made_again_and_signs() {
    for torn in Torn::ALL {
        for cut in 0.. {
            let disk = FaultyDisk::new();
            disk.cut_after(cut);
            let opened = Devices::open(&disk, repo(), NOW).is_ok();
            let disk = disk.reboot(torn);
            provision(&disk, &request(None, Credential::Certificate)).unwrap();
            // Reads back, key and authority held against the certificate.
            assert!(device_on(&disk, card()).is_some(), "{torn:?}, cut {cut}");
            if opened {
                break;
            }
        }
    }
}

/// What a first boot does.
fn boot(disk: &FaultyDisk) -> Result<(), InstallError> {
    if !is_cleared(disk, card())? {
        install(disk, card(), &place(false))?;
    }
    clear(disk, card()).map(drop)
}

/// Every file of a card but its configuration, which a board merges with its own.
fn files_of(disk: &FaultyDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list(card()).unwrap().into_iter().filter(|name| name != CONFIG);
    names.map(|name| (name.clone(), read(disk, &card().join(&name)).unwrap())).collect()
}

fn has_all(disk: &FaultyDisk, files: &[(String, Vec<u8>)]) -> bool {
    files.iter().all(|(name, bytes)| read(disk, &Path::new(ETC).join(name)).as_ref() == Some(bytes))
}

#[test]
fn a_card_is_taken_over_whole_or_again_at_the_next_boot_wherever_the_power_goes() {
    let reference = include_bytes!("../../config/selvedge.toml");
    for (credential, torn) in
        [Credential::Certificate, Credential::Password].into_iter().flat_map(|by| Torn::ALL.map(|torn| (by, torn)))
    {
        for cut in 0.. {
            let (disk, id) = with_card(credential);
            let files = files_of(&disk);
            disk.commit(&Path::new(ETC).join(CONFIG), reference).unwrap();
            disk.cut_after(cut);
            let done = boot(&disk).is_ok();
            let disk = disk.reboot(torn);
            let whole = device_of(&disk) != Some(id) || has_all(&disk, &files);
            assert!(whole, "{torn:?}, cut {cut}: it is the device and lacks what that needs");
            boot(&disk).unwrap_or_else(|e| panic!("{torn:?}, cut {cut}: {e}"));
            assert!(device_of(&disk) == Some(id) && has_all(&disk, &files), "{torn:?}, cut {cut}");
            let left = disk.list(card()).unwrap();
            assert!(left.is_empty(), "{torn:?}, cut {cut}: {left:?} lies on the card");
            if done {
                assert!(cut > 20, "{cut} operations seem too few");
                break;
            }
        }
    }
}

#[test]
fn another_devices_board_is_left_as_it_is_unless_it_is_said() {
    let (disk, id) = with_card(Credential::Certificate);
    let other = format!("[device]\nid = \"{}\"\n", DeviceId([7; 16]));
    disk.commit(&Path::new(ETC).join(CONFIG), other.as_bytes()).unwrap();
    let error = install(&disk, card(), &place(false)).unwrap_err();
    assert!(matches!(error, InstallError::OtherDevice { there, card } if there == DeviceId([7; 16]) && card == id));
    assert_eq!(disk.list(Path::new(ETC)).unwrap(), [CONFIG], "nothing was changed");
    assert!(install(&disk, card(), &place(true)).unwrap().changed);
    assert_eq!(device_of(&disk), Some(id));
    assert!(!install(&disk, card(), &place(false)).unwrap().changed, "once more changes nothing");
}

#[test]
fn a_board_without_an_id_of_its_own_that_trusts_another_root_is_left_as_it_is_unless_it_is_said() {
    let (disk, id) = with_card(Credential::Certificate);
    let at = |name: &str| Path::new(ETC).join(name);
    let other = br#"{"signed":{"_type":"root","version":2},"signatures":[]}"#;
    disk.commit(&at(ROOT), other).unwrap();
    disk.commit(&at(CONFIG), b"[link]\nbroker = \"mqtt://other\"\n").unwrap();
    let refused = install(&disk, card(), &place(false)).unwrap_err();
    assert!(matches!(refused, InstallError::OtherOperator(_)), "{refused}");
    assert_eq!(read(&disk, &at(ROOT)).as_deref(), Some(&other[..]));
    assert_eq!(disk.list(Path::new(ETC)).unwrap(), [ROOT, CONFIG], "nothing was changed");
    let installed = install(&disk, card(), &place(true)).unwrap();
    assert_eq!(installed, Installed { device: id, changed: true, new_root: true });
    assert_eq!(read(&disk, &at(ROOT)).as_deref(), Some(ROOT_JSON));
    assert!(!install(&disk, card(), &place(false)).unwrap().new_root, "it is this device now");
}

#[test]
fn a_card_that_could_not_be_written_says_that_the_old_credentials_are_gone() {
    let disk = FaultyDisk::new();
    let made = provision(&disk, &request(None, Credential::Certificate)).unwrap();
    let mut said = 0;
    for full in 0.. {
        let disk = disk.reboot(Torn::Kept);
        let again = Path::new("/again");
        let mut devices = Devices::open(&disk, repo(), NOW).unwrap();
        disk.full_after(full);
        match devices.provision(&request(Some(made.id), Credential::Certificate), ROOT_JSON, again) {
            Ok(_) => break,
            Err(error) => {
                let is_revoked = Devices::list(&disk, repo()).unwrap().iter().any(|issue| issue.revoked.is_some());
                let tells = matches!(error, EnrolError::Half { .. });
                // Before the registry is durable nothing is said to be revoked.
                assert!(is_revoked || !tells, "{full}: {error}");
                said += u32::from(tells);
            }
        }
    }
    assert!(said > 3, "{said}");
}

#[test]
fn a_new_card_for_the_same_board_replaces_its_credentials_and_keeps_its_root() {
    let (disk, id) = with_card(Credential::Password);
    install(&disk, card(), &place(false)).unwrap();
    let trusted = br#"{"signed":{"_type":"root","version":9},"signatures":[]}"#;
    disk.commit(&Path::new(ETC).join(ROOT), trusted).unwrap();
    clear(&disk, card()).unwrap();
    provision(&disk, &request(Some(id), Credential::Certificate)).unwrap();
    install(&disk, card(), &place(false)).unwrap();
    assert_eq!(read(&disk, &Path::new(ETC).join(PASSWORD)), None, "the password is of no use any more");
    assert!(read(&disk, &Path::new(ETC).join(KEY)).is_some());
    assert_eq!(read(&disk, &Path::new(ETC).join(ROOT)).unwrap(), trusted);
}

#[test]
fn a_card_that_cannot_be_right_is_refused_before_anything_is_changed() {
    type Change = fn(&FaultyDisk);
    fn put(disk: &FaultyDisk, name: &str, bytes: &[u8]) {
        disk.commit(&card().join(name), bytes).unwrap();
    }
    fn edit(disk: &FaultyDisk, from: &str, to: &str) {
        let text = String::from_utf8(read(disk, &card().join(CONFIG)).unwrap()).unwrap();
        assert!(text.contains(from));
        put(disk, CONFIG, text.replace(from, to).as_bytes());
    }
    let changes: [(Change, &str); 12] = [
        (|disk| disk.remove(&card().join(CONFIG)).unwrap(), "selvedge.toml is not there"),
        (|disk| disk.remove(&card().join(AUTHORITY)).unwrap(), "ca.pem is not there"),
        (|disk| disk.remove(&card().join(KEY)).unwrap(), "device.key is not there"),
        (|disk| disk.remove(&card().join(ROOT)).unwrap(), "root.json is not there"),
        (|disk| put(disk, ROOT, b"{}"), "is no root of trust"),
        (|disk| put(disk, ROOT, &vec![b' '; 2 << 20]), "more than"),
        (|disk| put(disk, CONFIG, &[0xff; 9]), "is no text"),
        (|disk| edit(disk, "id = ", "# id = "), "names no device"),
        (|disk| edit(disk, "groups", "grps"), "of no use"),
        (|disk| edit(disk, "/etc/selvedge/device.key", "/etc/shadow"), "not of a card"),
        (|disk| put(disk, KEY, b"nothing"), "of no use"),
        (|disk| put(disk, AUTHORITY, b""), "of no use"),
    ];
    for (change, says) in changes {
        let (disk, _) = with_card(Credential::Certificate);
        change(&disk);
        let error = install(&disk, card(), &place(true)).unwrap_err().to_string();
        assert!(error.contains(says), "{says:?} is not in {error:?}");
        assert!(disk.list(Path::new(ETC)).unwrap().is_empty(), "{says}");
    }
    // The key of another card.
    let (disk, _) = with_card(Credential::Certificate);
    let (other, _) = with_card(Credential::Certificate);
    put(&disk, KEY, &read(&other, &card().join(KEY)).unwrap());
    assert!(install(&disk, card(), &place(false)).is_err());
    // A board whose own configuration is broken.
    let (disk, _) = with_card(Credential::Certificate);
    disk.commit(&Path::new(ETC).join(CONFIG), b"[link\n").unwrap();
    assert!(matches!(install(&disk, card(), &place(true)).unwrap_err(), InstallError::Existing { .. }));
}

#[test]
fn what_is_revoked_leaves_the_brokers_files_and_stays_in_the_registry() {
    let disk = FaultyDisk::new();
    let mut devices = Devices::open(&disk, repo(), NOW).unwrap();
    let out = |name: &str| PathBuf::from("/out").join(name);
    let by = |credential| Request { credential, ..request(None, credential) };
    let one = devices.provision(&by(Credential::Password), ROOT_JSON, &out("one")).unwrap().id.to_string();
    let two = devices.provision(&by(Credential::Password), ROOT_JSON, &out("two")).unwrap().id.to_string();
    let three = devices.provision(&by(Credential::Certificate), ROOT_JSON, &out("three")).unwrap();
    let passwords = || String::from_utf8(read(&disk, &repo().join("devices/passwd")).unwrap()).unwrap();
    assert!(passwords().starts_with(&format!("{one}:$7$101$")) && passwords().contains(&two));
    assert_eq!((devices.revoke(&one).unwrap(), devices.revoke(&one).unwrap()), (1, 0));
    assert!(!passwords().contains(&one) && passwords().contains(&two));
    assert!(matches!(devices.revoke(&DeviceId([1; 16]).to_string()), Err(EnrolError::Unknown(_))));
    // The same board once more: the certificate of before no longer counts.
    let again = devices.provision(&request(Some(three.id), Credential::Certificate), ROOT_JSON, &out("again")).unwrap();
    assert_eq!((again.id, again.replaced), (three.id, 1));
    let issued = Devices::list(&disk, repo()).unwrap();
    assert_eq!(issued.iter().map(|issue| issue.revoked.is_some()).collect::<Vec<_>>(), [true, false, true, false]);
    assert!(matches!(
        devices.provision(&request(None, Credential::Certificate), ROOT_JSON, &out("two")),
        Err(EnrolError::NotEmpty(_))
    ));
    let plain = Request { broker: Address::parse("mqtt://b").unwrap(), ..request(None, Credential::Certificate) };
    assert!(matches!(devices.provision(&plain, ROOT_JSON, &out("plain")), Err(EnrolError::NeedsTls)));
}

#[test]
fn no_secret_stays_at_the_operators() {
    let disk = FaultyDisk::new();
    let mut devices = Devices::open(&disk, repo(), NOW).unwrap();
    for (credential, name) in [(Credential::Certificate, "a"), (Credential::Password, "b")] {
        let card = PathBuf::from("/out").join(name);
        devices.provision(&request(None, credential), ROOT_JSON, &card).unwrap();
        let secret = SECRETS.iter().find_map(|name| read(&disk, &card.join(name))).unwrap();
        let secret = String::from_utf8(secret).unwrap();
        let secret = secret.lines().find(|line| !line.starts_with('-')).unwrap();
        for name in disk.list(&repo().join("devices")).unwrap() {
            let kept = String::from_utf8(read(&disk, &repo().join("devices").join(&name)).unwrap()).unwrap();
            assert!(!kept.contains(secret), "{name}");
        }
    }
    let names = disk.list(&repo().join("devices")).unwrap();
    assert_eq!(names, ["ca.key", "ca.pem", "passwd", "registry.json", "revoked.crl"]);
    assert_eq!(CREDENTIALS.len(), 4);
}

#[test]
fn a_clock_that_is_far_behind_makes_no_certificates() {
    assert!(matches!(Devices::open(&FaultyDisk::new(), repo(), 1000), Err(EnrolError::Clock)));
}
