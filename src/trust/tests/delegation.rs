//! Delegated roles: a team signs its own models, and stands or falls alone.

use super::super::author::{self, Holders, SigningKey, Stamp, TargetEntry};
use super::super::fixture::{DAY, NOW, Operator};
use super::super::{Custom, Offered, Progress, Recipient, RefusalCode, Role, Selector, Trust};
use super::signed::{self, sign};
use super::{DEVICE, clock, open, refusal};
use crate::bundle::{Digest, ModelName};
use crate::sys::{FaultyDisk, ManualClock, Torn};
use serde_json::json;
use std::collections::BTreeMap;
use tough::schema::Delegations;

/// A target's name, its model and the model's version.
type Target<'a> = (&'a str, &'a str, u32);

fn entries(targets: &[Target<'_>]) -> BTreeMap<String, TargetEntry> {
    let entry = |&(name, model, version): &Target<'_>| {
        let audience = Selector { groups: vec!["shop".to_owned()], devices: None, percent: 100 };
        let custom = Custom::new(ModelName::new(model).unwrap(), version, audience);
        (name.to_owned(), TargetEntry { digest: Digest::of(name.as_bytes()), size: 4, custom })
    };
    targets.iter().map(entry).collect()
}

fn file(version: u32, targets: &[Target<'_>], keys: &[&SigningKey]) -> Vec<u8> {
    author::targets(Stamp { version, expires: NOW + 50 * DAY }, &entries(targets), keys).unwrap()
}

/// Files of delegated roles as a snapshot names them: name, version, bytes.
type Files = Vec<(&'static str, u32, Vec<u8>)>;

/// The operator's part: targets that delegate, and a snapshot that names these files.
fn above(operator: &Operator, version: u32, own: &[Target<'_>], to: &Delegations, files: &Files) -> Offered {
    let stamp = |role| operator.stamp(role, version);
    let key = |role| vec![&operator.keys[&role]];
    let targets = author::targets_with(stamp(Role::Targets), &entries(own), Some(to), &key(Role::Targets)).unwrap();
    let mut meta = BTreeMap::from([("targets.json".to_owned(), author::metafile(version, &targets).unwrap())]);
    for (name, version, bytes) in files {
        meta.insert(format!("{name}.json"), author::metafile(*version, bytes).unwrap());
    }
    let snapshot = author::snapshot_of(stamp(Role::Snapshot), meta, &key(Role::Snapshot)).unwrap();
    let root = operator.roots.len() as u32;
    let timestamp = author::timestamp(stamp(Role::Timestamp), NOW, root, (version, &snapshot), &key(Role::Timestamp));
    let mut offered = Offered::default();
    offered.insert(Role::Targets, version, targets).unwrap();
    offered.insert(Role::Snapshot, version, snapshot).unwrap();
    offered.insert(Role::Timestamp, version, timestamp.unwrap()).unwrap();
    offered
}

fn show(offered: &mut Offered, files: &Files) {
    for (name, version, bytes) in files {
        offered.insert_delegated(name, *version, bytes.clone()).unwrap();
    }
}

/// The models that are offered, with their versions.
fn models(trust: &Trust) -> Vec<(String, u32)> {
    let offers =
        trust.verified().map(|v| v.offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]))).unwrap_or_default();
    offers.into_iter().map(|offer| (offer.model.to_string(), offer.version)).collect()
}

fn named(models: &[(&str, u32)]) -> Vec<(String, u32)> {
    models.iter().map(|&(name, version)| (name.to_owned(), version)).collect()
}

fn one(key: &SigningKey) -> Holders<'_> {
    Holders { keys: vec![key], threshold: 1 }
}

struct Teams {
    operator: Operator,
    vision: SigningKey,
    sound: SigningKey,
    to: Delegations,
}

impl Teams {
    fn new() -> Self {
        let (vision, sound) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let mut to = Delegations::new();
        author::delegate(&mut to, "vision", &one(&vision), &["digits/*".to_owned()], true).unwrap();
        author::delegate(&mut to, "sound", &one(&sound), &["words/*".to_owned()], true).unwrap();
        Self { operator: Operator::new(), vision, sound, to }
    }

    fn files(&self, version: u32) -> Files {
        vec![
            ("vision", version, file(version, &[("digits/v", "digits", version)], &[&self.vision])),
            ("sound", version, file(version, &[("words/s", "words", version)], &[&self.sound])),
        ]
    }

    fn above(&self, version: u32, files: &Files) -> Offered {
        above(&self.operator, version, &[("house/o", "house", version)], &self.to, files)
    }

    async fn device(&self) -> (FaultyDisk, Trust) {
        self.device_with(&self.files(1)).await
    }

    async fn device_with(&self, files: &Files) -> (FaultyDisk, Trust) {
        let disk = FaultyDisk::new();
        let mut trust = open(&disk, &self.operator).unwrap();
        let mut offered = self.above(1, files);
        show(&mut offered, files);
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
        assert_eq!(models(&trust), named(&[("digits", 1), ("house", 1), ("words", 1)]));
        (disk, trust)
    }
}

#[tokio::test]
async fn a_team_signs_its_model_with_its_own_key_and_a_restart_keeps_it() {
    let teams = Teams::new();
    let (disk, trust) = teams.device().await;
    let offers = trust.verified().unwrap().offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]));
    let ordinals: Vec<u32> = offers.iter().map(|offer| offer.ordinal).collect();
    assert_eq!(ordinals, [1 << 16, 0, 2 << 16], "the file's place stands in the upper half");
    let again = open(&disk.reboot(Torn::Lost), &teams.operator).unwrap();
    assert_eq!(models(&again), models(&trust));
}

#[tokio::test]
async fn a_missing_or_bad_role_blocks_no_other_and_counts_again_once_it_is_good() {
    let teams = Teams::new();
    let digits: &[Target<'_>] = &[("digits/v", "digits", 2)];
    let good = file(2, digits, &[&teams.vision]);
    let late = Stamp { version: 2, expires: NOW - 1 };
    let mut wrong_type = signed::signed(&good);
    wrong_type["targets"] = json!([1, 2]);
    let bad: [(&str, Vec<u8>, Option<RefusalCode>); 8] = [
        ("another's key", file(2, digits, &[&teams.sound]), Some(RefusalCode::BadSignature)),
        ("no signature", file(2, digits, &[]), Some(RefusalCode::BadSignature)),
        (
            "the operator's key",
            file(2, digits, &[&teams.operator.keys[&Role::Targets]]),
            Some(RefusalCode::BadSignature),
        ),
        ("another version", file(3, digits, &[&teams.vision]), Some(RefusalCode::BadMetadata)),
        ("expired", author::targets(late, &entries(digits), &[&teams.vision]).unwrap(), Some(RefusalCode::Expired)),
        ("deep", b"[".repeat(100_000), Some(RefusalCode::BadMetadata)),
        ("wrong types", sign(&wrong_type, &[&teams.vision]), Some(RefusalCode::BadMetadata)),
        ("a root", teams.operator.roots[0].clone(), Some(RefusalCode::BadMetadata)),
    ];
    for (case, bytes, code) in bad {
        let (disk, mut trust) = teams.device().await;
        let mut files = teams.files(2);
        files[0].2 = bytes;
        let mut offered = teams.above(2, &files);
        show(&mut offered, &files);
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed, "{case}");
        assert_eq!(models(&trust), named(&[("house", 2), ("words", 2)]), "{case}");
        let complaints = trust.take_complaints();
        assert_eq!(
            complaints.first().map(|c| (c.name.as_str(), c.refusal.code)),
            code.map(|code| ("vision", code)),
            "{case}"
        );
        assert_eq!(models(&open(&disk, &teams.operator).unwrap()), models(&trust), "{case}");
        let files = teams.files(3);
        let mut offered = teams.above(3, &files);
        show(&mut offered, &files);
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed, "{case}");
        assert_eq!(models(&trust), named(&[("digits", 3), ("house", 3), ("words", 3)]), "{case}");
        assert!(trust.take_complaints().is_empty(), "{case}");
    }
}

#[tokio::test]
async fn a_role_that_comes_late_or_damaged_is_waited_for_under_the_same_timestamp() {
    let teams = Teams::new();
    let files = teams.files(2);
    for first in [None, Some(b"{}".to_vec()), Some([files[0].2.as_slice(), b"\n"].concat())] {
        let (disk, mut trust) = teams.device().await;
        let mut offered = teams.above(2, &files);
        show(&mut offered, &files[1..].to_vec());
        if let Some(bytes) = first {
            show(&mut offered, &vec![("vision", 2, bytes)]);
        }
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
        assert_eq!(models(&trust), named(&[("house", 2), ("words", 2)]));
        assert!(trust.take_complaints().is_empty(), "not matching yet is no fault");
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Unchanged);
        show(&mut offered, &files);
        let before = disk.operations();
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
        assert!(disk.operations() > before);
        assert_eq!(models(&trust), named(&[("digits", 2), ("house", 2), ("words", 2)]));
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Unchanged);
        assert_eq!(models(&open(&disk.reboot(Torn::Lost), &teams.operator).unwrap()), models(&trust));
    }
}

#[tokio::test]
async fn a_power_cut_while_a_late_role_is_taken_leaves_the_set_whole() {
    let teams = Teams::new();
    let files = teams.files(2);
    for torn in Torn::ALL {
        for cut in 0.. {
            let (disk, mut trust) = teams.device().await;
            let mut offered = teams.above(2, &files);
            trust.update(&offered, &clock()).await.unwrap();
            show(&mut offered, &files);
            disk.cut_after(cut);
            let done = trust.update(&offered, &clock()).await.is_ok();
            let after = open(&disk.reboot(torn), &teams.operator).unwrap();
            let (without, with) = (named(&[("house", 2)]), named(&[("digits", 2), ("house", 2), ("words", 2)]));
            assert!(
                models(&after) == with || !done && models(&after) == without,
                "{torn:?} {cut}: {:?}",
                models(&after)
            );
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_team_offers_nothing_but_what_was_delegated_to_it() {
    let teams = Teams::new();
    let mut files = teams.files(1);
    let targets: &[Target<'_>] = &[
        ("digits/v", "digits", 5),
        ("digits/x", "house", 9),
        ("words/s", "words", 9),
        ("house/o", "house", 9),
        ("digits", "digits", 9),
        ("digits/a/b", "digits", 9),
        ("digitsx/a", "digits", 9),
        ("digits/o", "digits", 9),
    ];
    files[0].2 = file(1, targets, &[&teams.vision]);
    let own = [("house/o", "house", 1), ("digits/o", "digits", 4)];
    let mut offered = above(&teams.operator, 1, &own, &teams.to, &files);
    show(&mut offered, &files);
    let mut trust = open(&FaultyDisk::new(), &teams.operator).unwrap();
    trust.update(&offered, &clock()).await.unwrap();
    assert_eq!(models(&trust), named(&[("digits", 5), ("house", 1), ("words", 1)]), "digits/o is the operator's");
}

#[tokio::test]
async fn a_snapshot_may_leave_out_digest_and_length_and_what_it_says_is_held_to() {
    let teams = Teams::new();
    let files = teams.files(1);
    let size = files[0].2.len();
    let digest = Digest::of(&files[0].2).to_string();
    for (meta, is_taken) in [
        (json!({"version": 1}), true),
        (json!({"version": 1, "length": size}), true),
        (json!({"version": 1, "hashes": {"sha256": digest}}), true),
        (json!({"version": 1, "length": size + 1}), false),
        (json!({"version": 1, "length": 0}), false),
        (json!({"version": 1, "hashes": {"sha256": "00".repeat(32)}}), false),
        (json!({"version": 1, "hashes": {"sha256": ""}}), false),
        (json!({"version": 2}), false),
    ] {
        let mut offered = teams.above(1, &files);
        let mut text = signed::signed(offered.get(Role::Snapshot, 1).unwrap());
        text["meta"]["vision.json"] = meta.clone();
        let snapshot = sign(&text, &[&teams.operator.keys[&Role::Snapshot]]);
        offered.insert(Role::Timestamp, 1, signed::timestamp_over(&teams.operator, 1, &snapshot)).unwrap();
        offered.insert(Role::Snapshot, 1, snapshot).unwrap();
        show(&mut offered, &files);
        let mut trust = open(&FaultyDisk::new(), &teams.operator).unwrap();
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed, "{meta}");
        assert_eq!(models(&trust).len(), if is_taken { 3 } else { 2 }, "{meta}");
    }
}

#[tokio::test]
async fn what_a_team_delegates_further_is_not_followed() {
    let teams = Teams::new();
    let third = SigningKey::generate().unwrap();
    let mut to = Delegations::new();
    author::delegate(&mut to, "third", &one(&third), &["digits/*".to_owned()], true).unwrap();
    let stamp = Stamp { version: 1, expires: NOW + 50 * DAY };
    let own = entries(&[("digits/v", "digits", 1)]);
    let mut files = teams.files(1);
    files[0].2 = author::targets_with(stamp, &own, Some(&to), &[&teams.vision]).unwrap();
    files.push(("third", 1, file(1, &[("digits/t", "digits", 9)], &[&third])));
    let mut offered = teams.above(1, &files);
    show(&mut offered, &files);
    let mut trust = open(&FaultyDisk::new(), &teams.operator).unwrap();
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
    assert_eq!(models(&trust), named(&[("digits", 1), ("house", 1), ("words", 1)]));
}

/// Roles in order: name, pattern, terminating, whether it has the target, whether its file came.
type Graph = &'static [(&'static str, &'static str, bool, bool, bool)];

/// `test_graph_traversal` and `test_targetfile_search` for one level; whose target is found.
const GRAPHS: [(&str, Graph, Option<u32>); 9] = [
    ("basic-delegation", &[("a", "*/*", false, true, true)], Some(1)),
    (
        "single-level-delegations: the first that has it",
        &[("a", "*/*", false, true, true), ("b", "*/*", false, true, true)],
        Some(1),
    ),
    (
        "the second where the first has it not",
        &[("a", "*/*", false, false, true), ("b", "*/*", false, true, true)],
        Some(2),
    ),
    ("terminating-ignores-all-after", &[("a", "*/*", true, false, true), ("b", "*/*", false, true, true)], None),
    (
        "terminating ends only what it matches",
        &[("a", "x/*", true, false, true), ("b", "*/*", false, true, true)],
        Some(2),
    ),
    (
        "ignores-branches-not-matching-paths",
        &[("a", "*.py", false, true, true), ("b", "*/*", false, true, true)],
        Some(2),
    ),
    (
        "5.6.7: one that cannot be read ends the search",
        &[("a", "*/*", false, true, false), ("b", "*/*", false, true, true)],
        None,
    ),
    ("and only for what it matches", &[("a", "x/*", false, true, false), ("b", "*/*", false, true, true)], Some(2)),
    ("not delegated by any", &[("a", "x/*", false, true, true)], None),
];

#[tokio::test]
async fn the_search_goes_role_by_role_as_the_specification_says() {
    let operator = Operator::new();
    let key = SigningKey::generate().unwrap();
    for (case, graph, found) in GRAPHS {
        let mut to = Delegations::new();
        let (mut files, mut came) = (Files::new(), Files::new());
        for (version, &(name, pattern, terminating, has, comes)) in (1..).zip(graph) {
            author::delegate(&mut to, name, &one(&key), &[pattern.to_owned()], terminating).unwrap();
            let targets: &[Target<'_>] = if has { &[("digits/a", "digits", version)] } else { &[] };
            files.push((name, 1, file(1, targets, &[&key])));
            came.extend(comes.then(|| files.last().unwrap().clone()));
        }
        let mut offered = above(&operator, 1, &[], &to, &files);
        show(&mut offered, &came);
        let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
        assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed, "{case}");
        let versions: Vec<u32> = models(&trust).into_iter().map(|(_, version)| version).collect();
        assert_eq!(versions.first().copied(), found, "{case}");
    }
}

#[tokio::test]
async fn a_threshold_holds_for_a_team_too() {
    let keys: Vec<SigningKey> = (0..3).map(|_| SigningKey::generate().unwrap()).collect();
    let operator = Operator::new();
    let mut to = Delegations::new();
    let holders = Holders { keys: keys.iter().collect(), threshold: 2 };
    author::delegate(&mut to, "vision", &holders, &["digits/*".to_owned()], true).unwrap();
    for (by, is_good) in [(vec![0], false), (vec![0, 0], false), (vec![0, 2], true), (vec![0, 1, 2], true)] {
        let by: Vec<&SigningKey> = by.into_iter().map(|n| &keys[n]).collect();
        let files = vec![("vision", 1, file(1, &[("digits/v", "digits", 1)], &by))];
        let mut offered = above(&operator, 1, &[], &to, &files);
        show(&mut offered, &files);
        let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
        trust.update(&offered, &clock()).await.unwrap();
        assert_eq!(!models(&trust).is_empty(), is_good);
    }
}

#[tokio::test]
async fn what_a_revoked_key_signed_is_offered_no_more_and_the_new_one_counts() {
    let mut teams = Teams::new();
    let (disk, mut trust) = teams.device().await;
    let files = teams.files(1);
    let new = SigningKey::generate().unwrap();
    author::delegate(&mut teams.to, "vision", &one(&new), &["digits/*".to_owned()], true).unwrap();
    let mut offered = teams.above(2, &files);
    show(&mut offered, &files);
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
    assert_eq!(models(&trust), named(&[("house", 2), ("words", 1)]));
    assert_eq!(trust.take_complaints().len(), 1);
    assert_eq!(models(&open(&disk, &teams.operator).unwrap()), models(&trust));
    teams.vision = new;
    let files = teams.files(2);
    let mut offered = teams.above(3, &files);
    show(&mut offered, &files);
    trust.update(&offered, &clock()).await.unwrap();
    assert_eq!(models(&trust), named(&[("digits", 2), ("house", 3), ("words", 2)]));
    author::undelegate(&mut teams.to, "sound");
    let mut offered = teams.above(4, &files);
    show(&mut offered, &files);
    trust.update(&offered, &clock()).await.unwrap();
    assert_eq!(models(&trust), named(&[("digits", 2), ("house", 4)]), "a delegation that was taken back");
}

#[tokio::test]
async fn a_delegated_role_does_not_go_back_nor_out_of_a_snapshot() {
    let teams = Teams::new();
    let disk = FaultyDisk::new();
    let mut trust = open(&disk, &teams.operator).unwrap();
    let newer = teams.files(5);
    let mut offered = teams.above(5, &newer);
    show(&mut offered, &newer);
    trust.update(&offered, &clock()).await.unwrap();
    let older = teams.files(4);
    let mut offered = teams.above(6, &older);
    show(&mut offered, &older);
    assert_eq!(refusal(trust.update(&offered, &clock()).await).code, RefusalCode::StaleMetadata);
    let fewer = newer[1..].to_vec();
    let mut offered = teams.above(6, &fewer);
    show(&mut offered, &fewer);
    assert_eq!(refusal(trust.update(&offered, &clock()).await).code, RefusalCode::BadMetadata);
    assert_eq!(models(&trust), named(&[("digits", 5), ("house", 5), ("words", 5)]));
}

#[tokio::test]
async fn a_team_whose_file_expired_after_it_was_taken_is_still_offered() {
    let teams = Teams::new();
    let files = teams.files(1);
    let (_, mut trust) = teams.device_with(&files).await;
    let late = ManualClock::new(NOW + 60 * DAY, true);
    let mut offered = teams.above(2, &files);
    show(&mut offered, &files);
    assert_eq!(trust.update(&offered, &late).await.unwrap(), Progress::Committed);
    assert_eq!(models(&trust), named(&[("digits", 1), ("house", 2), ("words", 1)]));
    let fresh = FaultyDisk::new();
    let mut first = open(&fresh, &teams.operator).unwrap();
    assert_eq!(first.update(&offered, &late).await.unwrap(), Progress::Committed);
    assert_eq!(models(&first), named(&[("house", 2)]), "but never taken anew");
    assert_eq!(first.take_complaints()[0].refusal.code, RefusalCode::Expired);
}

#[tokio::test]
async fn more_roles_than_are_read_and_names_that_are_none_do_no_harm() {
    let operator = Operator::new();
    let key = SigningKey::generate().unwrap();
    let mut to = Delegations::new();
    for n in 0..500 {
        author::delegate(&mut to, &format!("t{n}"), &one(&key), &["digits/*".to_owned()], false).unwrap();
    }
    for name in ["root", "a/b", "", "#", "t0"] {
        let mut again = to.roles[0].clone();
        again.name = name.to_owned();
        to.roles.insert(3, again);
    }
    let bytes = file(1, &[("digits/a", "digits", 7)], &[&key]);
    let files: Files = vec![("t0", 1, bytes.clone()), ("t499", 1, bytes)];
    let mut offered = above(&operator, 1, &[("house/o", "house", 1)], &to, &files);
    show(&mut offered, &files);
    let mut trust = open(&FaultyDisk::new(), &operator).unwrap();
    assert_eq!(trust.update(&offered, &clock()).await.unwrap(), Progress::Committed);
    assert_eq!(models(&trust), named(&[("digits", 7), ("house", 1)]));
}
