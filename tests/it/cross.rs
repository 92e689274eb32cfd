//! `Cross.toml`, as cross itself reads it: the image, what is mounted, what reaches the container, and not a word of warning.
//!
//! cross runs for real in a project of two files; rustup and docker are scripts that write down how they were called, and
//! rustc one that claims to be of rustup. Nothing is fetched. Left out: the build in the container, for want of Docker.
//! Skipped, with the reason, where `cross` 0.2.5 is not there; `tests/run` installs it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const VERSION: &str = "cross 0.2.5";
const TOOLCHAIN: &str = "stable-x86_64-unknown-linux-gnu";

/// Both calls of docker as lines: a word each, and an empty line after each call.
const DOCKER: &str = r#"#!/bin/sh
case "$1" in
    --help) echo "docker" ;;
    build | run) printf '%s\n' "$@" "" >>"$HOME/docker.log" ;;
    *) echo "docker $*: unexpected" >&2; exit 1 ;;
esac
"#;

/// A rustup that has everything, so that cross asks it to install nothing.
const RUSTUP: &str = r#"#!/bin/sh
case "$1 $2" in
    "toolchain list") echo "stable-x86_64-unknown-linux-gnu (default)" ;;
    "target list") printf '%s (installed)\n' x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu ;;
    "component list") echo "rust-src (installed)" ;;
    *) echo "rustup $*: unexpected" >&2; exit 1 ;;
esac
"#;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn on_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|file| file.is_file())
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A machine with rustup and Docker, as far as cross can tell, and a small project on it.
struct Machine {
    root: tempfile::TempDir,
    cross: PathBuf,
}

impl Machine {
    /// None, with the reason, where cross is missing or another version.
    fn new() -> Option<Self> {
        let Some(cross) = on_path("cross") else {
            assert!(std::env::var_os("CI").is_none(), "tests/run installs cross");
            eprintln!("skipped: cross is not installed");
            return None;
        };
        let machine = Self { root: tempfile::tempdir().unwrap(), cross };
        machine.tools();
        let source = machine.project().join("src");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("main.rs"), "fn main() {}\n").unwrap();
        let manifest = "[package]\nname = \"weave\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
        fs::write(machine.project().join("Cargo.toml"), manifest).unwrap();
        let version = machine.call(&["--version"]);
        let found = String::from_utf8_lossy(&version.stdout);
        if found.lines().next() != Some(VERSION) {
            assert!(std::env::var_os("CI").is_none(), "tests/run installs {VERSION}, found {found:?}");
            eprintln!("skipped: {VERSION} is needed, found {found:?}");
            return None;
        }
        Some(machine)
    }

    fn project(&self) -> PathBuf {
        self.root.path().join("project")
    }

    fn tools(&self) {
        let bin = self.root.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(self.root.path().join(TOOLCHAIN)).unwrap();
        script(&bin.join("docker"), DOCKER);
        script(&bin.join("rustup"), RUSTUP);
        // By their own paths and not by rustup's proxies, which might fetch a toolchain.
        let cargo = Path::new(env!("CARGO"));
        symlink(cargo, bin.join("cargo")).unwrap();
        let rustc = cargo.with_file_name("rustc");
        let sysroot = self.root.path().join(TOOLCHAIN);
        let text = format!(
            "#!/bin/sh\n[ \"$*\" != \"--print sysroot\" ] || exec echo \"{}\"\nexec \"{}\" \"$@\"\n",
            sysroot.display(),
            rustc.display()
        );
        script(&bin.join("rustc"), &text);
    }

    fn call(&self, args: &[&str]) -> Output {
        let root = self.root.path();
        let mut command = Command::new(&self.cross);
        command.args(args).current_dir(self.project()).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", root.join("bin").display()));
        for (name, dir) in [("HOME", ""), ("CARGO_HOME", "cargo"), ("RUSTUP_HOME", "rustup"), ("XARGO_HOME", "xargo")] {
            command.env(name, root.join(dir));
        }
        command.env("CARGO_NET_OFFLINE", "true").output().unwrap()
    }

    /// `cross build` with this configuration: what docker was asked to build and to run.
    fn build(&self, file: &str, config: &str) -> Result<Asked, String> {
        for old in [self.project().join("Cross.toml"), self.root.path().join("docker.log")] {
            let _ = fs::remove_file(old);
        }
        fs::write(self.project().join(file), config).unwrap();
        let output = self.call(&["build", "--release", "--target", TARGET]);
        // Unknown keys are a warning with exit status 0.
        if !output.status.success() || !output.stderr.is_empty() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let log = fs::read_to_string(self.root.path().join("docker.log")).unwrap();
        let calls: Vec<Vec<String>> =
            log.split_terminator("\n\n").map(|call| call.lines().map(str::to_owned).collect()).collect();
        let [build, run] = <[Vec<String>; 2]>::try_from(calls).map_err(|calls| format!("docker: {calls:?}"))?;
        let custom = self.project().join("target").join(TARGET).join(format!("Dockerfile.{TARGET}-custom"));
        Ok(Asked { build, run, dockerfile: fs::read_to_string(custom).unwrap() })
    }
}

/// The words of both calls of docker, and the file of the first.
#[derive(Debug)]
struct Asked {
    build: Vec<String>,
    run: Vec<String>,
    dockerfile: String,
}

/// What follows each `flag`.
fn after<'a>(words: &'a [String], flag: &str) -> Vec<&'a str> {
    words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1].as_str()).collect()
}

fn config() -> String {
    fs::read_to_string(repository().join("Cross.toml")).unwrap()
}

#[test]
fn cross_builds_in_the_pinned_image_with_the_pinned_compiler() {
    let Some(machine) = Machine::new() else { return };
    let asked = machine.build("Cross.toml", &config()).unwrap();
    let from = asked.dockerfile.lines().find_map(|line| line.trim().strip_prefix("FROM ")).unwrap();
    let digest = from.strip_prefix(&format!("ghcr.io/cross-rs/{TARGET}:main@sha256:")).unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{from}");
    let prepared = after(&asked.build, "--build-arg").iter().any(|arg| arg.contains(" gcc-10-aarch64-linux-gnu"));
    assert!(prepared, "{:?}", asked.build);
    let image = after(&asked.build, "--tag")[0];
    let command = format!("PATH=$PATH:/rust/bin cargo build --release --target {TARGET}");
    assert_eq!(asked.run[asked.run.len() - 4..], [image, "sh", "-c", &command]);
}

#[test]
fn the_container_sees_the_project_and_what_the_tests_need() {
    let Some(machine) = Machine::new() else { return };
    let asked = machine.build("Cross.toml", &config()).unwrap();
    let volumes = after(&asked.run, "-v");
    let project = machine.project();
    for volume in [
        format!("{}:/project:z", project.display()),
        format!("{}:/target:z", project.join("target").display()),
        format!("{}:/rust:z,ro", machine.root.path().join(TOOLCHAIN).display()),
    ] {
        assert!(volumes.contains(&volume.as_str()), "{volume} is not in {volumes:?}");
    }
    assert_eq!(after(&asked.run, "-w"), ["/project"]);
    let environment = after(&asked.run, "-e");
    for variable in [
        "CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc-10",
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc-10",
        "CROSS_RUNNER=qemu-user",
        "QEMU_CPU",
        "SELVEDGE_RUNNER=qemu-aarch64",
    ] {
        assert!(environment.contains(&variable), "{variable} is not in {environment:?}");
    }
}

#[test]
fn the_reading_can_fail() {
    let Some(machine) = Machine::new() else { return };
    let good = config();
    for (from, to, complaint) in [
        ("\nimage = ", "\nimagee = ", "unused key(s) in Cross configuration"),
        ("\npassthrough = [", "\npassthru = [", "unused key(s)"),
        ("\nrunner = \"qemu-user\"", "\nrunner = [\"qemu-user\"]", "failed to parse file"),
        ("\n[target.aarch64-unknown-linux-gnu]", "\n[target.aarch64-unknown-linux-gnu", "failed to parse file"),
    ] {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        let said = machine.build("Cross.toml", &good.replace(from, to)).unwrap_err();
        assert!(said.contains(complaint), "{to}: {said}");
    }
    let said = machine.build("cross.toml", &good).unwrap_err();
    assert!(said.contains("a file named cross.toml"), "{said}");
}
