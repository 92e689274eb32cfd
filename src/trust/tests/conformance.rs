//! Cases of the client workflow of the TUF specification (5.2 to 5.6), named as the TUF project's
//! conformance suite names them where it has them. docs/trust.md has the table.

use super::super::author::{Holders, SigningKey};
use super::super::fixture::{DAY, NOW, Operator};
use super::super::{Offered, OpenError, Progress, RefusalCode, Role};
use super::signed::{self, Signers, root, set, sign, signers};
use super::{clock, device_with, offers, open, refusal};
use crate::sys::{FaultyDisk, ManualClock};
use serde_json::json;

/// A role's keys by number, how many must sign, and who did.
struct Step(&'static [usize], u32, &'static [usize]);

fn keys() -> Vec<SigningKey> {
    (0..10).map(|_| SigningKey::generate().unwrap()).collect()
}

fn some<'a>(keys: &'a [SigningKey], which: &[usize]) -> Vec<&'a SigningKey> {
    which.iter().map(|&n| &keys[n]).collect()
}

const FIVE: &[usize] = &[0, 1, 2, 3, 4];

/// `test_root_rotation`: chains of roots; all but the last are good, the last as it says.
const ROOT_ROTATIONS: [(&str, &[Step], bool); 16] = [
    ("1-of-1-key-rotation", &[Step(&[1], 1, &[1]), Step(&[2], 1, &[2, 1]), Step(&[2], 1, &[2])], true),
    (
        "1-of-1-key-rotation-unused-signatures",
        &[Step(&[1], 1, &[3, 1, 4]), Step(&[2], 1, &[3, 2, 1, 4]), Step(&[2], 1, &[3, 2, 4])],
        true,
    ),
    (
        "3-of-5-sign-with-different-keycombos",
        &[Step(FIVE, 3, &[0, 2, 4]), Step(FIVE, 3, &[0, 4, 1]), Step(FIVE, 3, &[0, 1, 3])],
        true,
    ),
    ("3-of-5-one-key-rotated", &[Step(FIVE, 3, &[0, 2, 4]), Step(&[0, 1, 3, 4, 5], 3, &[0, 4, 1])], true),
    (
        "3-of-5-one-key-rotated-with-intermediate-step",
        &[Step(FIVE, 3, &[0, 2, 4]), Step(&[0, 1, 3, 4, 5], 3, &[0, 2, 4, 5]), Step(&[0, 1, 3, 4, 5], 3, &[0, 4, 5])],
        true,
    ),
    (
        "3-of-5-all-keys-rotated-with-intermediate-step",
        &[
            Step(FIVE, 3, &[0, 2, 4]),
            Step(&[5, 6, 7, 8, 9], 3, &[0, 2, 4, 5, 6, 7]),
            Step(&[5, 6, 7, 8, 9], 3, &[5, 6, 7]),
        ],
        true,
    ),
    ("1-of-3-threshold-increase-to-2-of-3", &[Step(&[1, 2, 3], 1, &[1]), Step(&[1, 2, 3], 2, &[1, 2])], true),
    (
        "2-of-3-threshold-decrease-to-1-of-3",
        &[Step(&[1, 2, 3], 2, &[1, 2]), Step(&[1, 2, 3], 1, &[1, 2]), Step(&[1, 2, 3], 1, &[1])],
        true,
    ),
    ("1-of-2-threshold-increase-to-2-of-2", &[Step(&[1], 1, &[1]), Step(&[1, 2], 2, &[1, 2])], true),
    ("1-of-1-key-rotation-fail-not-signed-with-old-key", &[Step(&[1], 1, &[1]), Step(&[2], 1, &[2, 3, 4])], false),
    ("1-of-1-key-rotation-fail-not-signed-with-new-key", &[Step(&[1], 1, &[1]), Step(&[2], 1, &[1, 3, 4])], false),
    (
        "3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys",
        &[Step(FIVE, 3, &[0, 2, 4]), Step(&[0, 1, 3, 4, 5], 3, &[0, 2, 4])],
        false,
    ),
    (
        "3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys",
        &[Step(FIVE, 3, &[0, 2, 4]), Step(&[0, 1, 3, 4, 5], 3, &[0, 4, 5])],
        false,
    ),
    (
        "1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached",
        &[Step(&[1, 2, 3], 1, &[1]), Step(&[1, 2, 3], 2, &[2])],
        false,
    ),
    (
        "2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-reached",
        &[Step(&[1, 2, 3], 2, &[1, 2]), Step(&[1, 2, 3], 1, &[1])],
        false,
    ),
    ("one-key-that-signs-twice-is-one", &[Step(&[1, 2], 2, &[1, 2]), Step(&[1, 2], 2, &[1, 1])], false),
];

#[tokio::test]
async fn root_rotations_hold_or_are_refused_as_the_conformance_suite_says() {
    let keys = keys();
    for (name, steps, is_good) in ROOT_ROTATIONS {
        let mut operator = Operator::new();
        let roots: Vec<Vec<u8>> = (1..)
            .zip(steps)
            .map(|(version, Step(of, threshold, by))| {
                let holders = Holders { keys: some(&keys, of), threshold: *threshold };
                root(&operator, version, Role::Root, holders, &some(&keys, by))
            })
            .collect();
        operator.roots = roots;
        let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
        let mut offered = set(&operator, (1, 1, 1), &signers(&operator));
        for version in 2..=operator.roots.len() as u32 {
            operator.offer_root(&mut offered, version);
        }
        let result = trust.update(&offered, &clock()).await;
        let last = operator.roots.len() as u32;
        if is_good {
            assert_eq!(result.unwrap(), Progress::Committed, "{name}");
            assert_eq!(trust.root_version(), last, "{name}");
        } else {
            let refused = refusal(result);
            assert_eq!((refused.code, refused.role), (RefusalCode::BadSignature, Role::Root), "{name}");
            assert_eq!((trust.root_version(), trust.verified().is_none()), (last - 1, true), "{name}");
        }
    }
}

/// `test_non_root_rotations`: the role's new keys, who signed, and whether that is enough.
const OTHER_ROTATIONS: [(&str, Step, bool); 10] = [
    ("1-of-1-key-rotation", Step(&[2], 1, &[2]), true),
    ("1-of-1-key-rotation-unused-signatures", Step(&[1], 1, &[3, 1, 4]), true),
    ("1-of-1-key-rotation-fail-not-signed-with-new-key", Step(&[2], 1, &[1, 3, 4]), false),
    ("3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys", Step(&[0, 1, 3, 4, 5], 3, &[0, 2, 4]), false),
    ("2-of-5-one-key-signature-missing-threshold-not-reached", Step(&[0, 1, 3, 4, 5], 3, &[0, 4]), false),
    ("3-of-5-sign-first-combo", Step(FIVE, 3, &[0, 2, 4]), true),
    ("3-of-5-sign-second-combo", Step(FIVE, 3, &[0, 4, 1]), true),
    ("3-of-5-sign-third-combo", Step(FIVE, 3, &[0, 1, 3]), true),
    ("a-threshold-over-the-number-of-keys (test_snapshot_threshold)", Step(FIVE, 6, FIVE), false),
    ("one-key-that-signs-twice (test_duplicate_keys_root)", Step(&[1, 1, 2], 2, &[1, 1]), false),
];

#[tokio::test]
async fn rotations_of_each_other_role_hold_or_are_refused_as_the_conformance_suite_says() {
    let keys = keys();
    for role in [Role::Timestamp, Role::Snapshot, Role::Targets] {
        for (name, Step(of, threshold, by), is_good) in &OTHER_ROTATIONS {
            let mut operator = Operator::new();
            let (_, mut trust) = device_with(&operator, &operator.make(1, NOW)).await;
            let holders = Holders { keys: some(&keys, of), threshold: *threshold };
            operator.roots.push(root(&operator, 2, role, holders, &[&operator.keys[&Role::Root]]));
            let by = some(&keys, by);
            let mut who: Signers<'_> = signers(&operator);
            who.insert(role, by);
            let mut offered = set(&operator, (2, 2, 2), &who);
            operator.offer_root(&mut offered, 2);
            let result = trust.update(&offered, &clock()).await;
            if *is_good {
                assert_eq!(result.unwrap(), Progress::Committed, "{role}: {name}");
                assert_eq!(trust.verified().unwrap().targets_version(), 2, "{role}: {name}");
            } else {
                let refused = refusal(result);
                assert_eq!((refused.code, refused.role), (RefusalCode::BadSignature, role), "{role}: {name}");
                assert_eq!(trust.root_version(), 2, "the root under it is good: {role}: {name}");
                assert_ne!(trust.verified().map(|v| v.targets_version()), Some(2), "{role}: {name}");
            }
        }
    }
}

/// Sets over a trusted one of versions 5, 5, 5; what is wrong with each.
const ROLLBACKS: [(&str, signed::Versions, Role, u64, u64); 5] = [
    ("test_new_timestamp_version_rollback", (4, 5, 5), Role::Timestamp, 5, 4),
    ("test_snapshot_rollback", (6, 4, 5), Role::Snapshot, 5, 4),
    ("test_snapshot_rollback, all of it", (6, 4, 4), Role::Snapshot, 5, 4),
    ("test_targets_rollback", (6, 6, 4), Role::Targets, 5, 4),
    ("test_targets_rollback, to the first", (6, 6, 1), Role::Targets, 5, 1),
];

#[tokio::test]
async fn a_rollback_of_any_role_is_stale() {
    let operator = Operator::new();
    let who = signers(&operator);
    for (name, versions, role, expected, actual) in ROLLBACKS {
        let disk = FaultyDisk::new();
        let mut trust = open(&disk, &operator).unwrap();
        trust.update(&set(&operator, (5, 5, 5), &who), &clock()).await.unwrap();
        let before = disk.operations();
        let refused = refusal(trust.update(&set(&operator, versions, &who), &clock()).await);
        assert_eq!((refused.code, refused.role), (RefusalCode::StaleMetadata, role), "{name}");
        assert_eq!((refused.expected, refused.actual), (Some(expected), Some(actual)), "{name}");
        assert_eq!(disk.operations(), before, "{name}: nothing is written");
        let next = trust.update(&set(&operator, (6, 6, 6), &who), &clock()).await.unwrap();
        assert_eq!(next, Progress::Committed, "{name}: the good one is taken after it");
    }
}

#[tokio::test]
async fn a_snapshot_that_no_longer_lists_what_it_listed_is_refused() {
    let operator = Operator::new();
    let who = signers(&operator);
    let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
    trust.update(&set(&operator, (5, 5, 5), &who), &clock()).await.unwrap();
    let snapshot = sign(
        &json!({"_type": "snapshot", "expires": "2100-01-01T00:00:00Z", "meta": {"other.json": {"version": 6}},
            "spec_version": "1.0.0", "version": 6}),
        &who[&Role::Snapshot],
    );
    let mut offered = Offered::default();
    offered.insert(Role::Timestamp, 6, signed::timestamp_over(&operator, 6, &snapshot)).unwrap();
    offered.insert(Role::Snapshot, 6, snapshot).unwrap();
    assert_eq!(refusal(trust.update(&offered, &clock()).await).code, RefusalCode::BadMetadata);
    assert_eq!(trust.verified().unwrap().targets_version(), 5);
}

#[tokio::test]
async fn a_part_of_another_version_than_the_one_that_names_it_is_refused() {
    // `test_new_snapshot_version_mismatch`, `test_new_targets_version_mismatch`, under good digests.
    let operator = Operator::new();
    let who = signers(&operator);
    let whole = set(&operator, (2, 2, 2), &who);
    for (role, named) in [(Role::Snapshot, 3), (Role::Targets, 3)] {
        let bytes = |role| whole.get(role, 2).unwrap().to_vec();
        let mut offered = Offered::default();
        let (mut snapshot, mut names_snapshot) = (bytes(Role::Snapshot), 2);
        if role == Role::Targets {
            let mut text = signed::signed(&snapshot);
            text["meta"]["targets.json"] = signed::meta(named, &bytes(Role::Targets));
            snapshot = sign(&text, &who[&Role::Snapshot]);
            offered.insert(Role::Targets, named, bytes(Role::Targets)).unwrap();
        } else {
            names_snapshot = named;
        }
        let mut text = signed::signed(whole.timestamp().unwrap());
        text["meta"]["snapshot.json"] = signed::meta(names_snapshot, &snapshot);
        offered.insert(Role::Timestamp, 2, sign(&text, &who[&Role::Timestamp])).unwrap();
        offered.insert(Role::Snapshot, names_snapshot, snapshot).unwrap();
        let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
        let refused = refusal(trust.update(&offered, &clock()).await);
        assert_eq!((refused.code, refused.role), (RefusalCode::BadMetadata, role));
        assert_eq!((refused.expected, refused.actual), (Some(3), Some(2)), "{role}");
        assert!(trust.verified().is_none());
    }
}

#[tokio::test]
async fn another_timestamp_of_the_same_version_changes_nothing() {
    // `test_timestamp_eq_versions_check`, `test_timestamp_content_changes`.
    let operator = Operator::new();
    let who = signers(&operator);
    let disk = FaultyDisk::new();
    let mut trust = open(&disk, &operator).unwrap();
    trust.update(&set(&operator, (5, 5, 5), &who), &clock()).await.unwrap();
    let before = disk.operations();
    let other = set(&operator, (5, 6, 6), &who);
    assert_eq!(trust.update(&other, &clock()).await.unwrap(), Progress::Unchanged);
    assert_eq!((trust.verified().unwrap().targets_version(), disk.operations()), (5, before));
}

#[tokio::test]
async fn versions_that_ran_ahead_are_taken_back_by_new_keys() {
    // `test_new_timestamp_`, `test_new_snapshot_` and `test_new_targets_fast_forward_recovery`.
    for (ran, rotated) in [
        ((100, 1, 1), vec![Role::Timestamp]),
        ((2, 99_999, 1), vec![Role::Snapshot, Role::Timestamp]),
        ((2, 2, 100), vec![Role::Snapshot]),
    ] {
        let mut operator = Operator::new();
        let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
        trust.update(&set(&operator, ran, &signers(&operator)), &clock()).await.unwrap();
        for role in rotated {
            operator.rotate(role);
        }
        let mut offered = set(&operator, (3, 3, 3), &signers(&operator));
        for version in 2..=operator.roots.len() as u32 {
            operator.offer_root(&mut offered, version);
        }
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed, "{ran:?}");
        assert_eq!(trust.verified().unwrap().targets_version(), 3, "{ran:?}");
    }
}

#[tokio::test]
async fn an_expired_root_is_kept_and_nothing_is_taken_under_it() {
    // `test_root_expired`; 5.3.10: expiry of those on the way to it does not matter.
    let mut operator = Operator::new();
    let (disk, mut trust) = device_with(&operator, &operator.make(1, NOW)).await;
    operator.expires.insert(Role::Root, NOW - DAY);
    operator.rotate(Role::Snapshot);
    let mut offered = operator.make(2, NOW).offered();
    operator.offer_root(&mut offered, 2);
    let refused = refusal(trust.update(&offered, &clock()).await);
    assert_eq!((refused.code, refused.role), (RefusalCode::Expired, Role::Root));
    assert_eq!((trust.root_version(), offers(&trust)), (2, vec![1]));
    operator.expires.insert(Role::Root, NOW + DAY);
    operator.rotate(Role::Timestamp);
    let mut trust = open(&disk, &operator).unwrap();
    let mut offered = operator.make(2, NOW).offered();
    operator.offer_root(&mut offered, 3);
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
    assert_eq!((trust.root_version(), offers(&trust)), (3, vec![2]));
}

#[tokio::test]
async fn expired_metadata_that_is_trusted_is_a_base_for_what_is_newer() {
    // `test_expired_metadata`.
    let mut operator = Operator::new();
    operator.expires = Role::ALL.map(|role| (role, NOW + 1000 * DAY)).into();
    operator.roots = vec![root(
        &operator,
        1,
        Role::Root,
        Holders { keys: vec![&operator.keys[&Role::Root]], threshold: 1 },
        &[&operator.keys[&Role::Root]],
    )];
    operator.expires.insert(Role::Timestamp, NOW + 7 * DAY);
    let (_, mut trust) = device_with(&operator, &operator.make(1, NOW)).await;
    let late = ManualClock::new(NOW + 18 * DAY, true);
    operator.expires.insert(Role::Timestamp, NOW + 21 * DAY);
    assert_eq!(trust.update(&operator.make(2, NOW).offered(), &late).await.unwrap(), Progress::Committed);
    assert_eq!(offers(&trust), [2]);
}

#[test]
fn a_first_root_that_is_not_whole_or_not_signed_opens_nothing() {
    // `test_invalid_initial_root`, `test_unsigned_initial_root`.
    let operator = Operator::new();
    let text = signed::signed(&operator.roots[0]);
    for field in ["version", "expires", "keys", "roles", "_type", "consistent_snapshot", "spec_version"] {
        let mut less = text.clone();
        less.as_object_mut().unwrap().remove(field);
        let bytes = sign(&less, &[&operator.keys[&Role::Root]]);
        let bad = Operator { roots: vec![bytes], ..Operator::new() };
        assert!(matches!(open(&FaultyDisk::new(), &bad), Err(OpenError::Bootstrap(_))), "{field}");
    }
    let other = SigningKey::generate().unwrap();
    for by in [vec![], vec![&other], vec![&operator.keys[&Role::Timestamp]]] {
        let bad = Operator { roots: vec![sign(&text, &by)], ..Operator::new() };
        assert!(matches!(open(&FaultyDisk::new(), &bad), Err(OpenError::Bootstrap(_))));
    }
    assert!(
        open(
            &FaultyDisk::new(),
            &Operator { roots: vec![sign(&text, &[&operator.keys[&Role::Root]])], ..Operator::new() }
        )
        .is_ok()
    );
}

#[tokio::test]
async fn fields_that_the_specification_does_not_know_are_signed_and_borne() {
    // `test_custom_fields`; changed after signing they break the signature.
    let mut operator = Operator::new();
    let (_, mut trust) = device_with(&operator, &operator.make(1, NOW)).await;
    let mut text = signed::signed(&operator.roots[0]);
    text["version"] = json!(2);
    text["custom-field"] = json!({"a": [1, "b"]});
    text["roles"]["root"]["another-field"] = json!("value");
    let good = sign(&text, &[&operator.keys[&Role::Root]]);
    let changed = String::from_utf8(good.clone()).unwrap().replace("\"value\"", "\"other\"").into_bytes();
    let mut offered = Offered::default();
    offered.insert(Role::Root, 2, changed).unwrap();
    assert_eq!(refusal(trust.update(&offered, &clock()).await).code, RefusalCode::BadSignature);
    operator.roots.push(good);
    operator.offer_root(&mut offered, 2);
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Waiting);
    assert_eq!(trust.root_version(), 2);
}

#[tokio::test]
async fn a_key_under_another_id_than_its_own_is_refused() {
    let operator = Operator::new();
    let (_, mut trust) = device_with(&operator, &operator.make(1, NOW)).await;
    let mut text = signed::signed(&operator.roots[0]);
    text["version"] = json!(2);
    let id = operator.keys[&Role::Snapshot].id().unwrap();
    let keys = text["keys"].as_object_mut().unwrap();
    let key = keys.remove(&id).unwrap();
    keys.insert("0".repeat(64), key);
    let mut offered = Offered::default();
    offered.insert(Role::Root, 2, sign(&text, &[&operator.keys[&Role::Root]])).unwrap();
    let refused = refusal(trust.update(&offered, &clock()).await);
    assert_eq!((refused.code, refused.role, trust.root_version()), (RefusalCode::BadMetadata, Role::Root, 1));
}

#[tokio::test]
async fn a_device_that_was_off_for_years_walks_a_long_chain_and_keeps_a_bounded_state() {
    let mut operator = Operator::new();
    let (mut disk, mut trust) = device_with(&operator, &operator.make(1, NOW)).await;
    let roles = [Role::Timestamp, Role::Root, Role::Snapshot, Role::Targets];
    for n in 0..300 {
        operator.rotate(roles[n % 4]);
    }
    let made = operator.make(2, NOW + DAY);
    let size = |disk: &FaultyDisk| {
        crate::sys::Disk::read(disk, std::path::Path::new("/trust/trust.json"), 64 << 20).unwrap().unwrap().len()
    };
    let mut largest = 0;
    // As the link brings them: the successor of the newest that is trusted, and what else is on the board.
    for version in 2..=301 {
        let mut offered = made.offered();
        operator.offer_root(&mut offered, version);
        if version % 50 == 0 {
            disk = disk.reboot(crate::sys::Torn::Lost);
            trust = open(&disk, &operator).unwrap();
            assert_eq!(trust.root_version(), version - 1, "the walk goes on where it was");
        }
        let expected = if version == 301 { Progress::Committed } else { Progress::Waiting };
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), expected, "root {version}");
        assert_eq!(trust.root_version(), version);
        largest = largest.max(size(&disk));
    }
    assert_eq!(offers(&trust), [2]);
    assert!(largest < 300 << 10, "{largest} bytes of state");
}
