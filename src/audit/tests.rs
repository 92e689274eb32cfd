//! What was done to a log is found, and a power cut does nothing to it that would look so.

use super::{ChainError, Decision, FILE_BYTES, FILES, Fault, Line, Log, Part, read};
use crate::bundle::{Digest, ModelName};
use crate::sys::{Disk, FaultyDisk, Torn};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIR: &str = "/state/audit";

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn decision(version: u32) -> Decision {
    let (model, target) = (ModelName::new("digits").unwrap(), Digest::of(&version.to_le_bytes()));
    Decision::Offer { model, version, target, retry: 0 }
}

fn log(disk: &FaultyDisk) -> Log {
    Log::new(Arc::new(disk.clone()), DIR.into(), 0xb007)
}

/// A log of `steps` steps, of one line each and every third one of two.
fn written(steps: u32) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let mut log = log(&disk);
    for step in 0..steps {
        let two = [decision(step), Decision::Root { from: step, to: step + 1 }];
        log.record(step.into(), &two[..if step % 3 == 0 { 2 } else { 1 }]).unwrap();
    }
    disk
}

fn file(number: u64) -> PathBuf {
    dir().join(format!("{number:08}.log"))
}

fn contents(disk: &FaultyDisk, number: u64) -> Vec<u8> {
    disk.read(&file(number), 1 << 20).unwrap().unwrap()
}

fn broken(disk: &FaultyDisk) -> Option<(PathBuf, usize, Fault)> {
    match read(disk, dir()) {
        Ok(_) => None,
        Err(ChainError::Broken(broken)) => Some((broken.path, broken.line, broken.fault)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn lines_read_as_they_were_written_and_a_new_writer_goes_on() {
    let disk = written(4);
    let before = read(&disk, dir()).unwrap();
    let mut log = log(&disk);
    log.record(9, &[decision(9)]).unwrap();
    let chain = read(&disk, dir()).unwrap();
    assert_eq!(chain.lines[..before.lines.len()], before.lines);
    let (last, sha256) = chain.lines.last().unwrap();
    assert_eq!((last.number, last.time, last.boot), (before.lines.len() as u64 + 1, 9, 0xb007));
    assert_eq!(last.decision, decision(9));
    assert_eq!(log.head(), chain.head());
    assert_eq!(log.root(9).unwrap(), 4);
    assert_eq!(log.serves(9, &ModelName::new("digits").unwrap()).unwrap(), None);
    // What stands in the line, by a reader that knows nothing of ours.
    let text = String::from_utf8(contents(&disk, 1)).unwrap();
    let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(json["sha256"], sha256.to_string());
    assert_eq!(json["decision"]["event"], "offer");
    let (body, _) = text.lines().last().unwrap().split_once(",\"sha256\"").unwrap();
    assert_eq!(Digest::of(body.as_bytes()), *sha256);
}

#[test]
fn every_single_bit_that_flips_is_found_in_its_line() {
    let disk = written(5);
    let sound = contents(&disk, 1);
    for at in 0..sound.len() {
        let line = sound[..at].iter().filter(|&&b| b == b'\n').count() + 1;
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            disk.write(&file(1), &bytes).unwrap();
            let (path, found, fault) = broken(&disk).unwrap_or_else(|| panic!("byte {at}, bit {bit} is not found"));
            assert_eq!((path, found), (file(1), line), "byte {at}, bit {bit}: {fault}");
        }
    }
}

#[test]
fn lines_that_are_cut_removed_doubled_or_swapped_are_found() {
    let disk = written(6);
    let sound = String::from_utf8(contents(&disk, 1)).unwrap();
    let lines: Vec<&str> = sound.split_inclusive('\n').collect();
    let put = |lines: &[&str]| disk.write(&file(1), lines.concat().as_bytes()).unwrap();
    for i in 0..lines.len() {
        let is_last = i + 1 == lines.len();
        let mut less = lines.clone();
        less.remove(i);
        put(&less);
        assert_eq!(broken(&disk).map(|(_, line, _)| line), (!is_last).then_some(i + 1), "without line {}", i + 1);
        let mut doubled = lines.clone();
        doubled.insert(i, lines[i]);
        put(&doubled);
        assert_eq!(broken(&disk).unwrap().1, i + 2);
        for len in 1..lines[i].len() {
            let mut cut = lines.clone();
            cut[i] = &lines[i][..len];
            put(&cut);
            assert_eq!(broken(&disk).unwrap().1, i + 1, "line {} cut to {len}", i + 1);
        }
        for j in i + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(i, j);
            put(&swapped);
            assert_eq!(broken(&disk).unwrap().1, i + 1);
        }
    }
}

/// Steps that fill more files than are kept.
const MANY: u32 = 2400;

#[test]
fn rotation_bounds_the_log_and_keeps_the_chain() {
    let disk = written(MANY);
    let names = disk.list(dir()).unwrap();
    assert_eq!(names.len() as u64, FILES, "{names:?}");
    assert!(!names.contains(&"00000001.log".to_owned()), "nothing made room: {names:?}");
    let sizes: Vec<u64> = names.iter().map(|name| disk.size(&dir().join(name)).unwrap().unwrap()).collect();
    assert!(sizes.iter().all(|&bytes| bytes < FILE_BYTES + 2048), "{sizes:?}");
    let chain = read(&disk, dir()).unwrap();
    let numbers: Vec<u64> = chain.lines.iter().map(|(line, _)| line.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers[0] > 1);
    assert_eq!(log(&disk).root(0).unwrap(), (MANY - 1) / 3 * 3 + 1);
}

#[test]
fn a_file_that_is_removed_is_found_and_the_newest_by_the_head_that_was_told() {
    let disk = written(MANY);
    let head = read(&disk, dir()).unwrap().head().unwrap();
    let names = disk.list(dir()).unwrap();
    for (i, name) in names.iter().enumerate() {
        let bytes = disk.read(&dir().join(name), 1 << 20).unwrap().unwrap();
        disk.remove(&dir().join(name)).unwrap();
        match read(&disk, dir()) {
            Ok(chain) => {
                assert_eq!(i + 1, names.len(), "{name} is not missed");
                assert!(matches!(chain.find(head.sha256), Err(ChainError::Head { .. })));
            }
            Err(error) => assert!(matches!(error, ChainError::Broken(_)), "{name}: {error}"),
        }
        disk.write(&dir().join(name), &bytes).unwrap();
    }
    let chain = read(&disk, dir()).unwrap();
    assert_eq!(chain.find(head.sha256).unwrap(), head.number);
    assert_eq!(chain.find(chain.lines[3].1).unwrap(), chain.lines[3].0.number);
}

#[test]
fn lines_that_are_cut_off_at_the_end_are_found_by_the_head_that_was_told() {
    let disk = written(5);
    let head = read(&disk, dir()).unwrap().head().unwrap();
    let sound = String::from_utf8(contents(&disk, 1)).unwrap();
    let lines: Vec<&str> = sound.split_inclusive('\n').collect();
    for keep in 1..lines.len() {
        disk.write(&file(1), lines[..keep].concat().as_bytes()).unwrap();
        let chain = read(&disk, dir()).unwrap();
        assert!(matches!(chain.find(head.sha256), Err(ChainError::Head { .. })), "{keep} lines");
    }
}

#[test]
fn hostile_files_end_with_an_error_and_within_bounds() {
    let disk = FaultyDisk::new();
    let huge = vec![b'x'; 1 << 20];
    for bytes in [&huge[..], b"", b"\n", b"\n\n\n", b"{}\n", &huge[..2000]] {
        disk.write(&file(1), bytes).unwrap();
        assert!(read(&disk, dir()).is_err());
        let mut log = log(&disk);
        log.record(1, &[decision(1)]).unwrap();
        assert!(matches!(read(&disk, dir()), Err(ChainError::SetAside(_))));
        disk.remove_dir(dir()).unwrap();
    }
    for name in ["1.log", "x.log", "00000001.log.new", "99999999999999999999999.log"] {
        disk.write(&dir().join(name), b"not ours").unwrap();
    }
    assert!(read(&disk, dir()).unwrap().lines.is_empty(), "names that are none of ours are passed over");
    for number in 0..200 {
        disk.write(&file(number), b"").unwrap();
    }
    assert!(matches!(read(&disk, dir()), Err(ChainError::TooMany { files: 200, .. })));
    log(&disk).record(1, &[decision(1)]).unwrap();
    let kept = disk.list(dir()).unwrap();
    assert!(kept.len() <= 4 + 1 + FILES as usize, "{kept:?}");
}

#[test]
fn a_damaged_log_is_kept_aside_and_the_new_one_begins_with_saying_so() {
    let disk = written(3);
    let mut bytes = contents(&disk, 1);
    bytes[40] ^= 1;
    disk.write(&file(1), &bytes).unwrap();
    log(&disk).record(5, &[decision(5)]).unwrap();
    assert!(matches!(read(&disk, dir()), Err(ChainError::SetAside(path)) if path == dir().join("00000001.damaged")));
    assert_eq!(disk.read(&dir().join("00000001.damaged"), 1 << 20).unwrap().unwrap(), bytes);
    disk.remove(&dir().join("00000001.damaged")).unwrap();
    let chain = read(&disk, dir()).unwrap();
    let decisions: Vec<&Decision> = chain.lines.iter().map(|(line, _)| &line.decision).collect();
    assert!(matches!(decisions[..], [Decision::File { file: 2, .. }, Decision::Damage { part: Part::AuditLog }, _]));
}

/// Whatever was recorded without an error is there, and the chain holds.
fn holds(disk: &FaultyDisk, done: u32, case: &str) {
    // The next start takes a torn line away, and says so.
    log(disk).record(1000, &[decision(1000)]).unwrap_or_else(|error| panic!("{case}: {error}"));
    let chain = read(disk, dir()).unwrap_or_else(|error| panic!("{case}: {error}"));
    let offers: Vec<u32> = chain.lines.iter().filter_map(|(line, _)| offered(line)).collect();
    let whole: Vec<u32> = (0..offers.len() as u32 - 1).chain([1000]).collect();
    assert_eq!(offers, whole, "{case}");
    assert!(offers.len() as u32 > done, "{case}: {done} were recorded, {} are there", offers.len() - 1);
    assert!(offers.len() as u32 <= done + 2, "{case}");
}

fn offered(line: &Line) -> Option<u32> {
    if let Decision::Offer { version, .. } = line.decision { Some(version) } else { None }
}

#[test]
fn power_cut_at_any_operation_leaves_a_chain_that_verifies_at_worst_without_its_last_line() {
    for torn in Torn::ALL {
        for cut in 0.. {
            let disk = FaultyDisk::new();
            disk.cut_after(cut);
            let mut log = log(&disk);
            let done = (0..4).take_while(|&i| log.record(u64::from(i), &[decision(i)]).is_ok()).count() as u32;
            holds(&disk.reboot(torn), done, &format!("{torn:?}, cut after {cut}"));
            if done == 4 {
                break;
            }
        }
    }
}

#[test]
fn power_cut_at_any_operation_of_a_rotation_or_a_repair_leaves_a_chain_that_verifies() {
    let disk = written(MANY);
    let mut steps = MANY;
    // Right before the next file.
    while disk.size(&file(newest(&disk))).unwrap().unwrap() < FILE_BYTES {
        log(&disk).record(0, &[decision(steps)]).unwrap();
        steps += 1;
    }
    disk.append(&file(newest(&disk)), b"{\"half").unwrap();
    disk.sync(&file(newest(&disk))).unwrap();
    for torn in Torn::ALL {
        for cut in 0.. {
            let disk = disk.reboot(Torn::Kept);
            disk.cut_after(cut);
            let mut writer = log(&disk);
            let done = writer.record(0, &[decision(steps)]).is_ok();
            let disk = disk.reboot(torn);
            log(&disk).record(0, &[decision(steps + 1)]).unwrap();
            let chain = read(&disk, dir()).unwrap_or_else(|error| panic!("{torn:?}, cut after {cut}: {error}"));
            assert!(disk.list(dir()).unwrap().iter().filter(|name| name.ends_with(".log")).count() as u64 <= FILES);
            let kept = chain.lines.iter().filter_map(|(line, _)| offered(line)).any(|version| version == steps);
            assert!(kept || !done, "{torn:?}, cut after {cut}");
            if done {
                break;
            }
        }
    }
}

fn newest(disk: &FaultyDisk) -> u64 {
    let names = disk.list(dir()).unwrap();
    names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).max().unwrap()
}

#[test]
fn a_disk_that_fills_up_and_is_mended_loses_no_line_that_was_recorded() {
    for full in 0..40 {
        let disk = FaultyDisk::new();
        let mut log = log(&disk);
        disk.full_after(full);
        let done: Vec<u32> = (0..6).filter(|&i| log.record(0, &[decision(i)]).is_ok()).collect();
        disk.mend();
        log.record(0, &[decision(6)]).unwrap();
        let chain = read(&disk, dir()).unwrap();
        let offers: Vec<u32> = chain.lines.iter().filter_map(|(line, _)| offered(line)).collect();
        assert!(done.iter().all(|i| offers.contains(i)), "full after {full}: {done:?}, {offers:?}");
        assert_eq!(log.head(), chain.head());
    }
}
