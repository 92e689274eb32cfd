//! What a process may find out about itself and forbid itself.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

/// Lines of the terminal that standard output is; none where it is no terminal.
pub fn terminal_rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_row)).filter(|&rows| rows > 0)
}

/// This boot of the kernel, or zero where the kernel does not say. Tells a crash from a power cut.
pub fn boot_id() -> u128 {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok())
        .unwrap_or(0)
}

/// Why the process could not give up the network.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    #[error("build the system call filter")]
    Build(#[source] seccompiler::BackendError),
    #[error("install the system call filter")]
    Install(#[source] seccompiler::Error),
    #[error("no system call filter for this processor: {0}")]
    Arch(&'static str),
}

/// `socket(2)` by number, as the kernel's tables have it for this architecture.
#[cfg(target_arch = "x86_64")]
const SOCKET: i64 = 41;
#[cfg(target_arch = "aarch64")]
const SOCKET: i64 = 198;

/// Gives up, for this process and all that it starts, the right to make any socket but `AF_UNIX`
/// ones; the call fails with `EAFNOSUPPORT`. Cannot be undone. Call before threads are started:
/// the filter holds for the calling thread and what it spawns.
///
/// An inherited socket is not covered (look for those with `network_sockets`), nor is io_uring (the
/// unit denies that one): see `systemd/selvedge-engine.service` for the outer wall.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn deny_network() -> Result<(), DenyError> {
    let program = network_filter()?;
    seccompiler::apply_filter_all_threads(&program).map_err(DenyError::Install)
}

/// The filter that `deny_network` installs.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn network_filter() -> Result<BpfProgram, DenyError> {
    let unix = rustix::net::AddressFamily::UNIX.as_raw();
    let other_family = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(unix))
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(DenyError::Build)?;
    let arch = std::env::consts::ARCH.try_into().map_err(DenyError::Build)?;
    let refused = SeccompAction::Errno(rustix::io::Errno::AFNOSUPPORT.raw_os_error().unsigned_abs());
    let rules = BTreeMap::from([(SOCKET, vec![other_family])]);
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).and_then(TryInto::try_into).map_err(DenyError::Build)
}

/// Whether `deny_network` would work: not where the kernel was built without filters, nor under QEMU's
/// user mode, which does not pass them on. Tried for real, in a thread that ends with the filter.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn can_deny_network() -> bool {
    let try_it = || network_filter().is_ok_and(|filter| seccompiler::apply_filter(&filter).is_ok());
    std::thread::spawn(try_it).join().unwrap_or(false)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn deny_network() -> Result<(), DenyError> {
    Err(DenyError::Arch(std::env::consts::ARCH))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn can_deny_network() -> bool {
    false
}

/// Names the emulator that starts executables of this build, with its arguments, separated by spaces.
pub const RUNNER: &str = "SELVEDGE_RUNNER";

/// A command that starts `program`, through what `SELVEDGE_RUNNER` names where that is set: an executable
/// of another processor cannot start itself.
pub fn command(program: &Path) -> Command {
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

/// Tries, from inside, to make an internet socket: true when the system refuses.
pub fn network_is_denied() -> bool {
    use rustix::net::{AddressFamily, SocketType, socket};
    [AddressFamily::INET, AddressFamily::INET6, AddressFamily::NETLINK, AddressFamily::PACKET]
        .into_iter()
        .all(|family| socket(family, SocketType::DGRAM, None).is_err())
}

/// Sockets that this process holds and that are not Unix ones: file descriptor and protocol. Even a
/// listener is a way out: `connect(AF_UNSPEC)` turns it back into a socket that can connect anywhere.
pub fn network_sockets() -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // The one that reads this directory is gone again by now.
        let Ok(target) = std::fs::read_link(&path) else { continue };
        if !target.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let mut name = [0; 64];
        let length = rustix::fs::getxattr(&path, "system.sockprotoname", &mut name)?;
        let protocol = String::from_utf8_lossy(&name[..length]).trim_end_matches('\0').to_owned();
        let fd = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if !protocol.starts_with("UNIX") {
            found.push((fd.unwrap_or(u32::MAX), protocol));
        }
    }
    Ok(found)
}

/// From now on no core file is made of this process, and no debugger of the same user reads its memory.
pub fn seal_memory() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Bytes of memory that programs may still take, within this one's control group where it is in one; all that there could
/// be where the system does not say.
pub fn available_memory() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return u64::MAX };
    system.refresh_memory();
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(group)
}

/// Gives memory that was freed back to the system, which the allocator would keep: for after work that took much.
#[allow(unsafe_code, reason = "glibc's own call; no crate wraps it")]
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets all other threads go before this one: the lowest priority, and the shortest turns, so that one that wakes up
/// waits for no long one of ours (from Linux 6.12 on). Where it is not allowed, this one simply competes.
/// Rejected: SCHED_IDLE (on a board that is always busy it would hardly ever run).
#[allow(unsafe_code, reason = "no crate wraps the call")]
pub fn give_way() {
    const LOWEST: i32 = 19;
    const TURN_NS: u64 = 100_000;
    // SAFETY: all zeros are a value of this plain structure.
    let mut wish: libc::sched_attr = unsafe { std::mem::zeroed() };
    wish.size = u32::try_from(size_of_val(&wish)).unwrap_or(0);
    (wish.sched_nice, wish.sched_runtime) = (LOWEST, TURN_NS);
    // SAFETY: the structure lives until the call returns and states its own size; 0 is this thread.
    let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) } != 0;
    if refused {
        let _ = rustix::process::setpriority_process(None, LOWEST);
    }
}

/// The most memory that this process has had resident, bytes; zero where the kernel does not say.
pub fn peak_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Resident memory of this process, bytes; zero where the kernel does not say.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}
