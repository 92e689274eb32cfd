//! The units, as `systemd/install` puts them: systemd reads them without a word, and the walls stand.
//!
//! Skipped, with the reason, where `systemd-analyze` is not there; `tests/run` installs it.

use crate::boot;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNITS: &str = "usr/lib/systemd/system";

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

fn executable(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "#!/bin/sh\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn install(root: &Path, binary: &Path, operator: bool) -> Output {
    let mut command = Command::new(repository().join("systemd/install"));
    command.env("DESTDIR", root).args(operator.then_some("--operator")).arg(binary);
    command.output().unwrap()
}

/// A root with the package installed, and stand-ins for what the units name of the system.
fn staged() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let binary = root.path().join("selvedge-build");
    executable(&binary);
    let output = install(root.path(), &binary, true);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    executable(&root.path().join("usr/lib/systemd/systemd-socket-proxyd"));
    for target in
        ["basic", "local-fs", "multi-user", "network", "network-online", "shutdown", "sockets", "sysinit", "timers"]
    {
        let path = root.path().join(UNITS).join(format!("{target}.target"));
        fs::write(path, format!("[Unit]\nDescription={target}\n")).unwrap();
    }
    root
}

/// The names of our units in a staged root.
fn units(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root.join(UNITS)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut units: Vec<String> = names.filter(|name| name.starts_with("selvedge")).collect();
    units.sort();
    units
}

fn analyze(root: &Path, args: &[&str]) -> Output {
    Command::new("systemd-analyze").arg(format!("--root={}", root.display())).args(args).output().unwrap()
}

fn verify(root: &Path, unit: &str) -> Result<(), String> {
    let output = analyze(root, &["--man=no", "verify", unit]);
    // Unknown keys are a warning with exit status 0.
    match output.status.success() && output.stdout.is_empty() && output.stderr.is_empty() {
        true => Ok(()),
        false => Err(format!("{unit}: {output:?}")),
    }
}

/// Keys and all their values of a unit's `[Service]`, lists joined.
fn service(name: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(repository().join("systemd").join(name)).unwrap();
    let section = text.split("\n[").find_map(|part| part.strip_prefix("Service]\n")).unwrap();
    let mut keys = BTreeMap::<String, Vec<String>>::new();
    for line in section.lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            keys.entry(key.into()).or_default().extend(value.split(' ').map(str::to_owned));
        }
    }
    keys
}

#[test]
fn systemd_reads_every_unit_without_a_word() {
    if !has("systemd-analyze") {
        return;
    }
    let root = staged();
    let units = units(root.path());
    assert_eq!(units.len(), 10, "{units:?}");
    for unit in &units {
        verify(root.path(), unit).unwrap();
    }
}

#[test]
fn the_verification_can_fail() {
    if !has("systemd-analyze") {
        return;
    }
    let root = staged();
    let path = root.path().join(UNITS).join("selvedge-engine.service");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("PrivateNetwork=yes", "PrivateNetwrok=yes"),
        ("/usr/bin/selvedged", "/usr/bin/absent"),
        ("WatchdogSec=30", "WatchdogSec=soon"),
    ] {
        assert!(good.contains(from));
        fs::write(&path, good.replace(from, to)).unwrap();
        assert!(verify(root.path(), "selvedge-engine.service").is_err(), "{to} was accepted");
    }
}

#[test]
fn exposure_stays_low() {
    if !has("systemd-analyze") {
        return;
    }
    let root = staged();
    // Ten times the score: the engine and the proxy at most 1.0 and so below the promised 1.5, who has the network 1.5.
    for (unit, threshold) in [("engine", 10), ("proxy", 10), ("link", 15), ("refresh", 15), ("firstboot", 15)] {
        let threshold = format!("--threshold={threshold}");
        let output =
            analyze(root.path(), &["security", "--offline=true", &threshold, &format!("selvedge-{unit}.service")]);
        assert!(output.status.success(), "{unit}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_engine_has_no_way_to_the_network() {
    let engine = service("selvedge-engine.service");
    assert_eq!(engine["PrivateNetwork"], ["yes"]);
    assert_eq!(engine["RestrictAddressFamilies"], ["AF_UNIX"]);
    assert_eq!(engine["IPAddressDeny"], ["any"]);
    assert!(!engine.contains_key("IPAddressAllow"));
    assert_eq!(engine["TemporaryFileSystem"], ["/run:ro"]);
    assert!(!engine.contains_key("BindPaths"));
    let bound: Vec<&str> = engine["BindReadOnlyPaths"].iter().map(|path| path.trim_start_matches('-')).collect();
    let allowed = [
        "/run/selvedge",
        "/run/selvedge-ipc",
        "/run/systemd/notify",
        "/run/systemd/journal/socket",
        "/run/systemd/journal/stdout",
        "/run/systemd/journal/dev-log",
        "/run/systemd/timesync",
    ];
    assert_eq!(bound, allowed);
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(engine["SystemCallFilter"].iter().any(|c| c.trim_start_matches('~') == call), "{call} is not denied");
    }
    // An inherited TCP listener can be turned into an outgoing connection: Unix sockets alone are passed in.
    for socket in ["selvedge-engine.socket", "selvedge-ipc.socket"] {
        let text = fs::read_to_string(repository().join("systemd").join(socket)).unwrap();
        let listens: Vec<&str> = text.lines().filter(|line| line.starts_with("Listen")).collect();
        assert_eq!(listens.len(), 1);
        assert!(listens[0].starts_with("ListenStream=/run/selvedge"), "{listens:?}");
    }
}

#[test]
fn the_engine_may_watch_its_inbox_and_reads_it_only() {
    if !has("systemd-analyze") {
        return;
    }
    let engine = service("selvedge-engine.service");
    let filter: Vec<&str> = engine["SystemCallFilter"].iter().flat_map(|calls| calls.split(' ')).collect();
    assert!(filter.contains(&"@system-service") && !filter.iter().any(|call| call.contains("inotify")), "{filter:?}");
    let allowed = |set: &str| {
        let output = Command::new("systemd-analyze").args(["syscall-filter", set]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(allowed("@system-service").contains("@file-system"));
    for call in ["inotify_init1", "inotify_add_watch", "inotify_rm_watch"] {
        assert!(allowed("@file-system").contains(call), "{call}");
    }
    assert_eq!(engine["ReadOnlyPaths"], ["-/var/lib/selvedge-inbox"]);
}

#[test]
fn the_link_can_reach_neither_the_engines_files_nor_its_api() {
    let link = service("selvedge-link.service");
    for path in ["-/var/lib/selvedge", "-/run/selvedge"] {
        assert!(link["InaccessiblePaths"].iter().any(|p| p == path), "{path}");
    }
    assert_eq!(link["SupplementaryGroups"], ["selvedge-ipc"]);
    assert_eq!(link["RestrictAddressFamilies"], ["AF_INET", "AF_INET6", "AF_UNIX"]);
    let engine = service("selvedge-engine.service");
    assert_ne!(link["User"], engine["User"]);
}

#[test]
fn the_proxy_is_off_and_speaks_to_this_machine_only() {
    let target = fs::read_to_string(repository().join("systemd/selvedge.target")).unwrap();
    assert!(!target.contains("selvedge-proxy"));
    assert_eq!(service("selvedge-proxy.service")["IPAddressDeny"], ["any"]);
    assert_eq!(service("selvedge-proxy.service")["IPAddressAllow"], ["localhost"]);
    let socket = fs::read_to_string(repository().join("systemd/selvedge-proxy.socket")).unwrap();
    assert!(socket.contains("\nListenStream=127.0.0.1:"));
}

#[test]
fn installing_again_keeps_an_edited_configuration_and_renews_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let binary = root.path().join("build");
    executable(&binary);
    assert!(install(root.path(), &binary, false).status.success());
    assert!(units(root.path()).iter().all(|unit| !unit.contains("refresh")));
    let config = root.path().join("etc/selvedge/selvedge.toml");
    fs::write(&config, "[log]\nlevel = \"debug\"\n").unwrap();
    fs::write(&binary, "newer").unwrap();
    assert!(install(root.path(), &binary, false).status.success());
    assert_eq!(fs::read_to_string(&config).unwrap(), "[log]\nlevel = \"debug\"\n");
    let daemon = root.path().join("usr/bin/selvedged");
    assert_eq!(fs::read_link(&daemon).unwrap(), PathBuf::from("selvedge"));
    assert_eq!(fs::read_to_string(&daemon).unwrap(), "newer");
    let missing = install(root.path(), Path::new("/nowhere"), false);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn a_first_boot_is_over_before_engine_and_link_start_and_hinders_neither() {
    let text = |name: &str| fs::read_to_string(repository().join("systemd").join(name)).unwrap();
    let (unit, target) = (text("selvedge-firstboot.service"), text("selvedge.target"));
    assert!(unit.contains("\nBefore=selvedge-engine.service selvedge-link.service\n"));
    assert!(unit.contains("systemd-sysusers.service"), "the link's group is there by then");
    assert!(target.contains("\nWants=selvedge-firstboot.service\n"));
    for place in ["/boot/firmware/selvedge", "/boot/selvedge"] {
        assert!(unit.contains(&format!("\nConditionPathIsDirectory=|{place}\n")), "{place}");
        assert!(service("selvedge-firstboot.service")["ExecStart"].iter().any(|word| word == place), "{place}");
    }
    assert_eq!(service("selvedge-firstboot.service")["PrivateNetwork"], ["yes"]);
}

#[test]
fn a_card_on_the_boot_partition_makes_a_booted_system_a_device_without_hands() {
    let Some((id, said)) = boot::first_boot() else { return };
    for part in
        [&format!("id = \"{id}\""), "device.key selvedge-link 640", "device.pem root 644", "card gone", "link active"]
    {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

#[test]
fn the_walls_hold_in_a_booted_system() {
    let Some(said) = boot::probed(&[]) else { return };
    for line in [
        "engine ready",
        "engine api ipc",
        "engine writes state",
        "engine run: selvedge selvedge-ipc systemd\n",
        "engine journal reached",
        "engine meminfo read",
        "engine inet refused",
        "engine inet6 refused",
        "engine netlink refused",
        "engine packet refused",
        "engine dbus refused",
        "engine etc refused",
        "engine password refused",
        "link ready",
        "link meets engine",
        "link writes state",
        "link password read",
        "link inet allowed",
        "link netlink refused",
        "link packet refused",
        "link api refused",
        "link engine-state refused",
        "link etc refused",
    ] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
}

#[test]
fn a_booted_system_shows_a_wall_that_is_missing() {
    let Some(said) =
        boot::probed(&["PrivateNetwork", "RestrictAddressFamilies", "TemporaryFileSystem", "InaccessiblePaths"])
    else {
        return;
    };
    for line in ["engine inet allowed", "engine ready"] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    assert!(!said.contains("engine run: selvedge selvedge-ipc systemd\n"), "{said}");
}

#[test]
fn the_real_daemon_serves_behind_its_walls() {
    let Some(said) = boot::answered() else { return };
    for part in ["\"name\":\"digits\"", "{\"ready\":true}", "\"network-denied\":true", "active\nactive\nactive\n"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
