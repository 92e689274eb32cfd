//! Promises of trust, against an operator who signs in memory and an attacker who does too.

mod clocks;
mod conformance;
mod delegation;
mod hostile;
mod signed;

use super::author::{self, SigningKey, Stamp};
use super::fixture::{DAY, Made, NOW, Operator, holders};
use super::*;
use crate::sys::{Disk, DiskError, FaultyDisk, ManualClock, Torn};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DEVICE: [u8; 16] = [1; 16];

fn open(disk: &FaultyDisk, operator: &Operator) -> Result<Trust, OpenError> {
    Trust::open(Arc::new(disk.clone()), Path::new("/trust"), &operator.roots[0])
}

fn clock() -> ManualClock {
    ManualClock::new(0, false)
}

fn offers(trust: &Trust) -> Vec<u32> {
    let verified =
        trust.verified().map(|v| v.offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]))).unwrap_or_default();
    verified.iter().map(|offer| offer.version).collect()
}

fn refusal(result: Result<Progress, UpdateError>) -> Refusal {
    match result {
        Err(UpdateError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// A device that trusts `made` and nothing newer.
async fn device_with(operator: &Operator, made: &Made) -> (FaultyDisk, Trust) {
    let disk = FaultyDisk::new();
    let mut trust = open(&disk, operator).unwrap();
    assert_eq!(trust.update(&made.offered(), &clock()).await.unwrap(), Progress::Committed);
    (disk, trust)
}

#[tokio::test]
async fn a_good_update_is_committed_and_found_after_a_restart() {
    let operator = Operator::new();
    let disk = FaultyDisk::new();
    let fresh = open(&disk, &operator).unwrap();
    assert_eq!((fresh.root_version(), offers(&fresh)), (1, vec![]));
    let (disk, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    assert_eq!(offers(&trust), [2]);
    let again = open(&disk.reboot(Torn::Lost), &operator).unwrap();
    assert_eq!(offers(&again), [2]);
    assert_eq!(again.verified().unwrap().targets_version(), 2);
    assert_eq!(again.device_time(&clock()), NOW);
    let before = disk.operations();
    assert_eq!(trust.update(&operator.make(2, NOW).offered(), &clock()).await.unwrap(), Progress::Unchanged);
    assert_eq!(trust.update(&Offered::default(), &clock()).await.unwrap(), Progress::Waiting);
    assert_eq!(disk.operations(), before, "nothing new is not written");
}

#[tokio::test]
async fn another_operators_newer_set_is_a_bad_signature() {
    let (operator, attacker) = (Operator::new(), Operator::new());
    let (_, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    for version in [2, 3] {
        let result = trust.update(&attacker.make(version, NOW + 1).offered(), &clock()).await;
        assert_eq!(refusal(result).code, RefusalCode::BadSignature);
    }
    let mut with_root = attacker.make(3, NOW).offered();
    with_root.insert(Role::Root, 2, attacker.roots[0].clone()).unwrap();
    let refused = refusal(trust.update(&with_root, &clock()).await);
    assert_eq!((refused.code, refused.role), (RefusalCode::BadSignature, Role::Root));
    assert_eq!((offers(&trust), trust.root_version()), (vec![2], 1));
}

#[tokio::test]
async fn a_stolen_online_key_cannot_sign_targets() {
    let (operator, mut attacker) = (Operator::new(), Operator::new());
    let (_, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    for role in [Role::Timestamp, Role::Snapshot] {
        attacker.keys.insert(role, SigningKey::from_pkcs8(operator.keys[&role].pkcs8().unwrap()).unwrap());
    }
    let refused = refusal(trust.update(&attacker.make(3, NOW).offered(), &clock()).await);
    assert_eq!((refused.code, refused.role), (RefusalCode::BadSignature, Role::Targets));
    assert_eq!(offers(&trust), [2]);
}

#[tokio::test]
async fn a_replayed_older_set_is_stale_whatever_the_clock_says() {
    let operator = Operator::new();
    let (_, mut trust) = device_with(&operator, &operator.make(5, NOW)).await;
    for clock in [ManualClock::new(0, false), ManualClock::new(NOW * 2, true)] {
        let refused = refusal(trust.update(&operator.make(4, NOW).offered(), &clock).await);
        assert_eq!(refused.code, RefusalCode::StaleMetadata);
        assert_eq!((refused.expected, refused.actual), (Some(5), Some(4)));
    }
    assert_eq!(offers(&trust), [5]);
}

#[tokio::test]
async fn half_a_set_waits_and_is_never_committed() {
    let operator = Operator::new();
    let made = operator.make(2, NOW);
    for lacking in [Role::Timestamp, Role::Snapshot, Role::Targets] {
        let disk = FaultyDisk::new();
        let mut trust = open(&disk, &operator).unwrap();
        let mut offered = Offered::default();
        for (role, bytes) in
            [(Role::Timestamp, &made.timestamp), (Role::Snapshot, &made.snapshot), (Role::Targets, &made.targets)]
        {
            if role != lacking {
                offered.insert(role, 2, bytes.clone()).unwrap();
            }
        }
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Waiting, "{lacking}");
        assert_eq!(disk.operations(), 0, "{lacking}");
        made.put(&mut offered);
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed, "{lacking}");
    }
}

#[tokio::test]
async fn tampered_parts_wait_until_the_right_ones_come() {
    let operator = Operator::new();
    let made = operator.make(3, NOW);
    let (_, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    let older = operator.make(2, NOW);
    for (role, right, wrong) in
        [(Role::Targets, &made.targets, &older.targets), (Role::Snapshot, &made.snapshot, &older.snapshot)]
    {
        let mut longer = right.clone();
        longer.push(b'\n');
        let mut flipped = right.clone();
        flipped[10] ^= 1;
        for bytes in [longer, flipped, wrong.clone(), b"{}".to_vec(), Vec::new()] {
            let mut offered = made.offered();
            offered.insert(role, 3, bytes).unwrap();
            assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Waiting, "{role}");
            assert_eq!(offers(&trust), [2]);
        }
    }
    assert_eq!(trust.update(&made.offered(), &clock()).await.unwrap(), Progress::Committed);
}

#[tokio::test]
async fn a_refreshed_timestamp_may_name_parts_that_are_trusted_already() {
    let operator = Operator::new();
    let made = operator.make(2, NOW);
    let (_, mut trust) = device_with(&operator, &made).await;
    let (stamp, key) = (Stamp { version: 3, expires: NOW + 200 * DAY }, &operator.keys[&Role::Timestamp]);
    let timestamp = author::timestamp(stamp, NOW + 80 * DAY, 1, (2, &made.snapshot), &[key]).unwrap();
    let mut offered = Offered::default();
    offered.insert(Role::Timestamp, 3, timestamp).unwrap();
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
    assert_eq!((offers(&trust), trust.device_time(&clock())), (vec![2], NOW + 80 * DAY));
}

#[tokio::test]
async fn expiry_goes_by_device_time_though_the_system_clock_says_1970() {
    let mut operator = Operator::new();
    let (disk, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    for role in [Role::Timestamp, Role::Snapshot, Role::Targets] {
        operator.expires.insert(role, NOW - 1);
        let made = operator.make(3, NOW - 2);
        let refused = refusal(trust.update(&made.offered(), &clock()).await);
        assert_eq!((refused.code, refused.role), (RefusalCode::Expired, role));
        assert_eq!((refused.expected, refused.actual), (Some(NOW - 1), Some(NOW)));
        operator.expires.insert(role, NOW + 90 * DAY);
    }
    assert_eq!(offers(&trust), [2], "what was committed stays");
    let passing = clock();
    trust.device_time(&passing);
    passing.advance(Duration::from_secs(91 * DAY));
    let refused = refusal(trust.update(&operator.make(3, NOW).offered(), &passing).await);
    assert_eq!((refused.code, refused.actual), (RefusalCode::Expired, Some(NOW + 91 * DAY)));
    assert_eq!(offers(&open(&disk, &operator).unwrap()), [2]);
}

#[tokio::test]
async fn a_set_that_was_signed_after_its_own_targets_expired_is_expired_on_a_new_board() {
    let mut operator = Operator::new();
    operator.expires.insert(Role::Targets, NOW - DAY);
    let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
    let refused = refusal(trust.update(&operator.make(1, NOW).offered(), &clock()).await);
    assert_eq!((refused.code, refused.role), (RefusalCode::Expired, Role::Targets));
}

#[tokio::test]
async fn the_system_clock_counts_only_when_synchronized_and_not_before_the_floor() {
    let operator = Operator::new();
    let (_, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    let at = |system, synchronized| trust.device_time(&ManualClock::new(system, synchronized));
    assert_eq!(at(NOW + 500 * DAY, false), NOW, "far ahead, not synchronized");
    assert_eq!(at(NOW - DAY, true), NOW, "synchronized, before the floor");
    assert_eq!(at(NOW + DAY, true), NOW + DAY);
    let ahead = ManualClock::new(NOW + 500 * DAY, false);
    assert_eq!(trust.update(&operator.make(3, NOW).offered(), &ahead).await.unwrap(), Progress::Committed);
    let ahead = ManualClock::new(NOW + 500 * DAY, true);
    let refused = refusal(trust.update(&operator.make(4, NOW).offered(), &ahead).await);
    assert_eq!(refused.code, RefusalCode::Expired, "and never a bad signature");
}

#[tokio::test]
async fn a_clock_that_steps_back_changes_nothing() {
    let operator = Operator::new();
    let (disk, _) = device_with(&operator, &operator.make(2, NOW)).await;
    let mut trust = open(&disk, &operator).unwrap();
    let clock = ManualClock::new(NOW + DAY, false);
    for (n, system) in (3..).zip([NOW + DAY, NOW - 9 * DAY, 0, u64::MAX, 5]) {
        clock.set_system(system, false);
        clock.advance(Duration::from_secs(60));
        assert_eq!(trust.update(&operator.make(n, NOW).offered(), &clock).await.unwrap(), Progress::Committed);
    }
    assert_eq!(trust.device_time(&clock), NOW + 4 * 60, "the first call set the mark");
    let older_issue = operator.make(9, NOW - 30 * DAY);
    assert_eq!(trust.update(&older_issue.offered(), &clock).await.unwrap(), Progress::Committed);
    assert_eq!(open(&disk, &operator).unwrap().device_time(&clock), NOW, "the floor does not fall");
}

#[tokio::test]
async fn roots_are_walked_one_by_one_and_a_lost_one_makes_us_wait() {
    let mut operator = Operator::new();
    let (disk, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    operator.rotate(Role::Timestamp);
    operator.rotate(Role::Root);
    let made = operator.make(3, NOW);
    let mut offered = made.offered();
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Waiting, "no root");
    operator.offer_root(&mut offered, 3);
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Waiting, "root 2 lost");
    assert_eq!((trust.root_version(), offers(&trust)), (1, vec![2]));
    operator.offer_root(&mut offered, 2);
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
    assert_eq!((trust.root_version(), offers(&trust)), (3, vec![3]));
    let again = open(&disk.reboot(Torn::Lost), &operator).unwrap();
    assert_eq!((again.root_version(), offers(&again)), (3, vec![3]));
}

#[tokio::test]
async fn a_root_is_kept_though_its_set_has_not_come() {
    let mut operator = Operator::new();
    let old = operator.make(2, NOW);
    let (disk, mut trust) = device_with(&operator, &old).await;
    operator.rotate(Role::Timestamp);
    let mut offered = old.offered();
    operator.offer_root(&mut offered, 2);
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed, "the board still shows the old");
    let mut trust = open(&disk.reboot(Torn::Lost), &operator).unwrap();
    assert_eq!((trust.root_version(), offers(&trust)), (2, vec![2]));
    assert_eq!(trust.update(&operator.make(3, NOW).offered(), &clock()).await.unwrap(), Progress::Committed);
    assert_eq!(offers(&trust), [3]);
}

#[tokio::test]
async fn a_good_root_under_a_bad_one_is_kept_and_the_bad_one_refused() {
    let (mut operator, attacker) = (Operator::new(), Operator::new());
    let (_, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    operator.rotate(Role::Snapshot);
    let mut offered = Offered::default();
    operator.offer_root(&mut offered, 2);
    offered.insert(Role::Root, 3, attacker.roots[0].clone()).unwrap();
    let refused = refusal(trust.update(&offered, &clock()).await);
    assert_eq!((refused.code, refused.role, trust.root_version()), (RefusalCode::BadSignature, Role::Root, 2));
    offered.insert(Role::Root, 3, operator.roots[1].clone()).unwrap();
    let refused = refusal(trust.update(&offered, &clock()).await);
    assert_eq!((refused.code, refused.expected), (RefusalCode::BadMetadata, Some(3)));
}

#[tokio::test]
async fn a_stolen_timestamp_key_that_ran_ahead_is_undone_by_a_new_root() {
    for split in [false, true] {
        let mut operator = Operator::new();
        // Root and the rest are in date at the stolen key's date, so the device takes it.
        let mut thief = Operator { keys: BTreeMap::new(), roots: operator.roots.clone(), expires: BTreeMap::new() };
        for role in Role::ALL {
            thief.keys.insert(role, SigningKey::from_pkcs8(operator.keys[&role].pkcs8().unwrap()).unwrap());
            thief.expires.insert(role, NOW * 2);
        }
        let disk = FaultyDisk::new();
        let long = author::root(thief.stamp(Role::Root, 1), &holders(&thief.keys), &[&thief.keys[&Role::Root]]);
        operator.roots = vec![long.unwrap()];
        thief.roots = operator.roots.clone();
        let mut trust = open(&disk, &operator).unwrap();
        let ahead = thief.make(4_000_000, NOW + 1000 * DAY);
        assert_eq!(trust.update(&ahead.offered(), &clock()).await.unwrap(), Progress::Committed);
        assert_eq!(trust.device_time(&clock()), NOW + 1000 * DAY);

        operator.rotate(Role::Timestamp);
        let mut offered = if split { Offered::default() } else { operator.make(3, NOW).offered() };
        operator.offer_root(&mut offered, 2);
        let progress = trust.update(&offered, &clock()).await.unwrap();
        if split {
            assert_eq!(progress, Progress::Waiting);
            trust = open(&disk.reboot(Torn::Lost), &operator).unwrap();
            trust.update(&operator.make(3, NOW).offered(), &clock()).await.unwrap();
        }
        assert_eq!((offers(&trust), trust.device_time(&clock())), (vec![3], NOW), "split {split}");
        let old = refusal(trust.update(&ahead.offered(), &clock()).await);
        assert_eq!(old.code, RefusalCode::BadSignature, "the old key is worth nothing");
    }
}

#[tokio::test]
async fn new_snapshot_keys_free_the_versions_but_not_the_floor() {
    let mut operator = Operator::new();
    let (disk, mut trust) = device_with(&operator, &operator.make(4_000_000, NOW)).await;
    operator.rotate(Role::Snapshot);
    let mut offered = Offered::default();
    operator.offer_root(&mut offered, 2);
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Waiting);
    let mut trust = open(&disk, &operator).unwrap();
    assert_eq!(trust.update(&operator.make(3, NOW - DAY).offered(), &clock()).await.unwrap(), Progress::Committed);
    assert_eq!((offers(&trust), trust.device_time(&clock())), (vec![3], NOW));
}

#[tokio::test]
async fn trust_cut_short_anywhere_is_an_error_and_never_a_fresh_start() {
    let operator = Operator::new();
    let (disk, _) = device_with(&operator, &operator.make(2, NOW)).await;
    let path = Path::new("/trust/trust.json");
    let whole = disk.read(path, 1 << 20).unwrap().unwrap();
    for len in 0..whole.len() {
        disk.commit(path, &whole[..len]).unwrap();
        assert!(matches!(open(&disk, &operator), Err(OpenError::Corrupt { .. })), "cut to {len}");
    }
}

#[tokio::test]
async fn targets_whose_keys_were_taken_away_offer_nothing_more() {
    let mut operator = Operator::new();
    let (disk, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    assert_eq!(offers(&trust), [2]);
    operator.rotate(Role::Targets);
    let mut offered = operator.make(3, NOW + DAY).offered();
    let mut only_root = Offered::default();
    operator.offer_root(&mut only_root, 2);
    operator.offer_root(&mut offered, 2);
    assert_eq!(trust.update(&only_root, &clock()).await.unwrap(), Progress::Waiting);
    assert_eq!((trust.root_version(), trust.verified().is_none()), (2, true));
    assert!(open(&disk, &operator).unwrap().verified().is_none(), "nor after a restart");
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
    assert_eq!(offers(&trust), [3]);
}

#[tokio::test]
async fn a_power_cut_at_any_operation_leaves_trust_that_opens_and_is_not_less() {
    let mut operator = Operator::new();
    let first = operator.make(2, NOW);
    operator.rotate(Role::Targets);
    let mut offered = operator.make(3, NOW + DAY).offered();
    operator.offer_root(&mut offered, 2);
    for torn in Torn::ALL {
        for cut in 0.. {
            let (disk, mut trust) = {
                let old = Operator { roots: operator.roots.clone(), ..Operator::new() };
                device_with(&old, &first).await
            };
            disk.cut_after(cut);
            let done = trust.update(&offered, &clock()).await.is_ok();
            let after = open(&disk.reboot(torn), &operator).unwrap();
            let found = (after.root_version(), offers(&after), after.device_time(&clock()));
            let (old, new) = ((1, vec![2], NOW), (2, vec![3], NOW + DAY));
            assert!(found == new || !done && found == old, "{torn:?} cut {cut}: {found:?}");
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_trust_stands() {
    let operator = Operator::new();
    let (disk, mut trust) = device_with(&operator, &operator.make(2, NOW)).await;
    disk.full_after(0);
    let made = operator.make(3, NOW);
    let error = trust.update(&made.offered(), &clock()).await.unwrap_err();
    assert!(matches!(&error, UpdateError::Disk(error) if error.is_full()), "{error}");
    assert_eq!(offers(&trust), [2]);
    disk.mend();
    assert_eq!(trust.update(&made.offered(), &clock()).await.unwrap(), Progress::Committed);
}

#[tokio::test]
async fn hostile_json_is_bad_metadata() {
    let operator = Operator::new();
    let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
    let nested = "[".repeat(60_000).into_bytes();
    let huge = format!("{{\"signed\":{{\"version\":{}}}}}", "9".repeat(60_000)).into_bytes();
    for bytes in [nested, huge, vec![0xff; 100], Vec::new(), b"null".to_vec(), b"{\"signatures\":[]}".to_vec()] {
        for role in [Role::Timestamp, Role::Root] {
            let mut offered = Offered::default();
            offered.insert(role, 2, bytes.clone()).unwrap();
            let refused = refusal(trust.update(&offered, &clock()).await);
            assert_eq!((refused.code, refused.role), (RefusalCode::BadMetadata, role));
        }
    }
}

#[tokio::test]
async fn a_timestamp_without_a_date_of_issue_is_bad_metadata() {
    let operator = Operator::new();
    let made = operator.make(2, NOW);
    let mut signed: tough::schema::Signed<tough::schema::Timestamp> = serde_json::from_slice(&made.timestamp).unwrap();
    signed.signed._extra.remove("issued");
    let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
    let mut offered = made.offered();
    let changed = serde_json::to_vec(&signed).unwrap();
    let signed_anew = author::sign(signed.signed, &[&operator.keys[&Role::Timestamp]]).unwrap();
    for (bytes, code) in [(changed, RefusalCode::BadSignature), (signed_anew, RefusalCode::BadMetadata)] {
        offered.insert(Role::Timestamp, 2, bytes).unwrap();
        assert_eq!(refusal(trust.update(&offered, &clock()).await).code, code);
    }
}

#[tokio::test]
async fn the_operators_root_is_checked() {
    let (operator, other) = (Operator::new(), Operator::new());
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
    let open = |bytes: &[u8]| Trust::open(disk.clone(), Path::new("/trust"), bytes);
    assert!(matches!(open(b""), Err(OpenError::Bootstrap(_))));
    assert!(matches!(open(&vec![b' '; 1 << 20]), Err(OpenError::Bootstrap(_))));
    let forged = String::from_utf8(operator.roots[0].clone()).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(matches!(open(forged.as_bytes()), Err(OpenError::Bootstrap(_))));
    let mut trust = open(&operator.roots[0]).unwrap();
    trust.update(&operator.make(2, NOW).offered(), &clock()).await.unwrap();
    assert!(matches!(open(&other.roots[0]), Err(OpenError::OtherRoot { .. })));
    assert_eq!(offers(&open(&operator.roots[0]).unwrap()), [2]);
}

#[test]
fn a_disk_error_is_not_a_fresh_start() {
    let disk = FaultyDisk::new();
    disk.cut_after(0);
    assert!(matches!(open(&disk, &Operator::new()), Err(OpenError::Disk(DiskError::Io { .. }))));
}
