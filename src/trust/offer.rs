//! Targets: what the operator offers, and to whom.
//!
//! One offer a model. Among the targets that select this device (by its group or id, its place, its board) the highest
//! version is taken, the newer publication where versions are equal; the others are as if they were not there. A target marked `allow-downgrade` sets aside all
//! that were published before it, whatever their version; what was published after it counts again.
//! `published` counts up for each model, over all who sign for it.

use super::Role;
use super::delegation::Delegated;
use super::needs::{Needs, Recipient};
use super::verify::{Refusal, RefusalCode};
use crate::bundle::{Digest, ModelName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use tough::schema::{Signed, Target, Targets};

/// The numbers of the forms of a target's custom part; others are not for us and passed over. The second has conditions
/// that a device which did not know them would not keep to.
const PLAIN: u64 = 1;
const CONDITIONAL: u64 = 2;

/// What a target says beside its digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Custom {
    selvedge: u64,
    pub model: ModelName,
    pub version: u32,
    #[serde(rename = "for")]
    pub audience: Selector,
    /// What a board must be, of those of the audience.
    #[serde(default, skip_serializing_if = "Needs::is_empty")]
    pub needs: Needs,
    #[serde(default)]
    pub allow_downgrade: bool,
    /// A higher number lifts the quarantine of a version that failed.
    #[serde(default)]
    pub retry: u32,
    /// Which of two targets of a model is the newer: more than that of any before it.
    #[serde(default)]
    pub published: u32,
    /// Its budget of memory: where there is less, nothing of it need be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// What deltas make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Contents>,
    /// Shorter ways from versions that devices may have; a device counts the first `MAX_DELTAS`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<DeltaRef>,
}

/// A packed bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    pub sha256: Digest,
    pub size: u64,
}

/// A delta on the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRef {
    /// The packed bundle that it is for.
    pub from: Digest,
    /// Its node; see `bundle::DeltaIndex`.
    pub node: Digest,
    /// Of the node.
    pub size: u64,
    /// Bytes to fetch in all, with the node.
    pub wire: u64,
}

impl Custom {
    pub const MAX_DELTAS: usize = 8;

    pub fn new(model: ModelName, version: u32, audience: Selector) -> Self {
        Self {
            selvedge: PLAIN,
            model,
            version,
            audience,
            needs: Needs::default(),
            allow_downgrade: false,
            retry: 0,
            published: 0,
            memory_mib: None,
            bundle: None,
            deltas: Vec::new(),
        }
    }

    /// Reads the custom part of a target; `None` for one that is not of this form.
    pub fn of(target: &Target) -> Option<Self> {
        let form = target.custom.get("selvedge").and_then(serde_json::Value::as_u64);
        form.filter(|form| [PLAIN, CONDITIONAL].contains(form))?;
        let fields = target.custom.clone().into_iter().collect();
        let custom: Self = serde_json::from_value(serde_json::Value::Object(fields)).ok()?;
        // What has conditions says so: else devices that pass them over would take it.
        (custom.form() <= custom.selvedge).then_some(custom)
    }

    fn form(&self) -> u64 {
        if self.needs.is_empty() { PLAIN } else { CONDITIONAL }
    }

    /// As it stands in a target.
    #[cfg(feature = "operator")]
    pub(super) fn fields(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(Self { selvedge: self.form(), ..self.clone() })
    }

    /// Whether it is for that device now.
    pub fn selects(&self, to: &Recipient<'_>) -> bool {
        let has = (to.has)(&self.model);
        self.audience.selects(&self.model, to.id, to.groups) && self.needs.are_met(to.board, has.live)
    }
}

/// Which devices: those of the groups and those listed, and of these a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Selector {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<SaltedIds>,
    /// 0 to 100. A device that is in at some percentage is in at every higher one.
    #[serde(default = "all_of_them")]
    pub percent: u8,
}

fn all_of_them() -> u8 {
    100
}

/// Devices by `sha256(salt || id)`: the metadata is public, the fleet's ids are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaltedIds {
    pub salt: Digest,
    pub ids: Vec<Digest>,
}

impl SaltedIds {
    /// `salt` is random, anew for each list.
    pub fn new(salt: Digest, ids: &[[u8; 16]]) -> Self {
        let mut ids: Vec<Digest> = ids.iter().map(|id| salted(&salt, id)).collect();
        ids.sort();
        ids.dedup();
        Self { salt, ids }
    }

    fn holds(&self, device: &[u8; 16]) -> bool {
        self.ids.contains(&salted(&self.salt, device))
    }
}

fn salted(salt: &Digest, id: &[u8; 16]) -> Digest {
    Digest::from_bytes(Sha256::new().chain_update(salt.as_bytes()).chain_update(id).finalize().into())
}

impl Selector {
    pub fn selects(&self, model: &ModelName, device: &[u8; 16], groups: &[String]) -> bool {
        self.names(device, groups) && place(model, device) < u128::from(self.percent)
    }

    /// Whether the device is one of those that a share is taken of.
    fn names(&self, device: &[u8; 16], groups: &[String]) -> bool {
        self.groups.iter().any(|group| groups.contains(group))
            || self.devices.as_ref().is_some_and(|devices| devices.holds(device))
    }
}

/// Whether a device's place is in a share of those whom a model is for.
#[cfg(feature = "operator")]
pub fn in_share(model: &ModelName, device: &[u8; 16], percent: u8) -> bool {
    place(model, device) < u128::from(percent)
}

/// A device's fixed place in a model's rollouts, 0 to 99.
fn place(model: &ModelName, device: &[u8; 16]) -> u128 {
    // The separator is in no name: no two pairs run together.
    let hash = Sha256::new().chain_update(model.as_str()).chain_update([0]).chain_update(device).finalize();
    let number = hash.iter().take(8).fold(0u128, |n, &byte| (n << 8) | u128::from(byte));
    (number * 100) >> 64
}

/// Targets that passed every check. Made only by this module.
#[derive(Debug, Clone)]
pub struct Verified {
    version: u32,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    ordinal: u32,
    custom: Custom,
    digest: Digest,
    size: u64,
}

/// One version of one model that this device should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The target's place among all names in its metadata, sorted by their bytes; in the upper half
    /// which metadata that is: 0 the targets themselves, n the n-th role that they delegate to.
    pub ordinal: u32,
    pub model: ModelName,
    pub version: u32,
    /// Of the node document; see `bundle::Node`.
    pub digest: Digest,
    pub size: u64,
    pub allow_downgrade: bool,
    pub retry: u32,
    /// What it may take at most.
    pub memory_mib: Option<u32>,
    /// What `deltas` make.
    pub bundle: Option<Contents>,
    /// By their place in the metadata.
    pub deltas: Vec<DeltaRef>,
}

impl Verified {
    /// From targets whose signatures were checked, and those of the roles they delegate to.
    pub(super) fn new(targets: &Signed<Targets>, delegated: &Delegated) -> Result<Self, Refusal> {
        let bad = || Refusal::new(RefusalCode::BadMetadata, Role::Targets);
        let version = u32::try_from(targets.signed.version.get()).map_err(|_| bad())?;
        let mut entries = entries_of(&targets.signed, 0, |_, _| true);
        for (place, role) in delegated.roles() {
            entries.extend(entries_of(&role.signed, place, |name, custom| {
                let is_its_own = name.split('/').next() == Some(custom.model.as_str());
                is_its_own && delegated.may_sign(place, name)
            }));
        }
        Ok(Self { version, entries })
    }

    /// At most one a model, by the rule in this file's head; sorted by model.
    pub fn offers_for(&self, to: &Recipient<'_>) -> Vec<Offer> {
        let mut models = BTreeMap::<&ModelName, Vec<&Entry>>::new();
        for entry in &self.entries {
            if entry.is_for(to) {
                models.entry(&entry.custom.model).or_default().push(entry);
            }
        }
        models.into_values().filter_map(|entries| choose(&entries)).map(Entry::offer).collect()
    }

    pub fn targets_version(&self) -> u32 {
        self.version
    }
}

/// The targets of one file that are of our form and that it may offer.
fn entries_of(targets: &Targets, place: u32, may: impl Fn(&str, &Custom) -> bool) -> Vec<Entry> {
    let sorted: BTreeMap<&str, &Target> = targets.targets.iter().map(|(n, t)| (n.raw(), t)).collect();
    let entry = |(index, (name, target)): (u16, (&str, &Target))| {
        let digest = <[u8; 32]>::try_from(target.hashes.sha256.as_ref()).map(Digest::from_bytes).ok()?;
        let custom = Custom::of(target).filter(|custom| may(name, custom))?;
        Some(Entry { ordinal: place << 16 | u32::from(index), custom, digest, size: target.length })
    };
    (0..=u16::MAX).zip(sorted).filter_map(entry).collect()
}

fn choose<'a>(entries: &[&'a Entry]) -> Option<&'a Entry> {
    let downgrades = entries.iter().filter(|e| e.custom.allow_downgrade);
    let from = downgrades.map(|e| e.custom.published).max().unwrap_or(0);
    let counted = entries.iter().filter(|e| e.custom.published >= from);
    counted.max_by_key(|e| (e.custom.version, e.custom.published, e.ordinal)).copied()
}

impl Entry {
    /// Who has it, live or on trial, stays with it: its conditions are for those who do not.
    fn is_for(&self, to: &Recipient<'_>) -> bool {
        let Custom { audience, model, .. } = &self.custom;
        let is_here = (to.has)(model).targets.contains(&Some(self.digest));
        if is_here { audience.names(to.id, to.groups) } else { self.custom.selects(to) }
    }

    fn offer(&self) -> Offer {
        Offer {
            ordinal: self.ordinal,
            model: self.custom.model.clone(),
            version: self.custom.version,
            digest: self.digest,
            size: self.size,
            allow_downgrade: self.custom.allow_downgrade,
            retry: self.custom.retry,
            memory_mib: self.custom.memory_mib,
            bundle: self.custom.bundle,
            deltas: self.custom.deltas.iter().take(Custom::MAX_DELTAS).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::needs::{Board, Has};
    use super::*;
    use crate::privacy::BoardName;

    fn model() -> ModelName {
        ModelName::new("digits").unwrap()
    }

    fn id(n: u128) -> [u8; 16] {
        n.to_be_bytes()
    }

    fn groups(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    fn selector(to: &[&str], percent: u8) -> Selector {
        Selector { groups: groups(to), devices: None, percent }
    }

    fn entry(ordinal: u32, version: u32, published: u32, allow_downgrade: bool) -> Entry {
        let custom = Custom { allow_downgrade, published, ..Custom::new(model(), version, selector(&["shop"], 100)) };
        Entry { ordinal, custom, digest: Digest::of(b""), size: 0 }
    }

    fn chosen(entries: Vec<Entry>) -> (u32, bool) {
        let offers = Verified { version: 1, entries }.offers_for(&Recipient::bare(&id(1), &groups(&["shop"])));
        assert_eq!(offers.len(), 1, "one a model");
        (offers[0].version, offers[0].allow_downgrade)
    }

    #[test]
    fn groups_or_listed_devices_select_and_nothing_else_does() {
        let mut to = selector(&["shop", "lab"], 100);
        assert!(to.selects(&model(), &id(1), &groups(&["other", "lab"])));
        assert!(!to.selects(&model(), &id(1), &groups(&["Shop", "sho"])));
        assert!(!to.selects(&model(), &id(1), &[]));
        to.devices = Some(SaltedIds::new(Digest::of(b"7"), &[id(1), id(2)]));
        assert!(to.selects(&model(), &id(1), &[]));
        assert!(!to.selects(&model(), &id(3), &[]));
        assert!(!selector(&[], 100).selects(&model(), &id(1), &groups(&["shop"])));
    }

    #[test]
    fn ids_do_not_stand_in_the_metadata() {
        let ids = SaltedIds::new(Digest::of(b"7"), &[id(0xabcd_ef01_2345_6789)]);
        let text = serde_json::to_string(&ids).unwrap();
        assert!(!text.contains("abcdef0123456789"));
        assert_ne!(ids.ids, SaltedIds::new(Digest::of(b"8"), &[id(0xabcd_ef01_2345_6789)]).ids);
    }

    #[test]
    fn a_percentage_takes_its_share_and_grows_without_dropping_anyone() {
        let mut last: Vec<bool> = Vec::new();
        for percent in [0, 1, 10, 50, 99, 100] {
            let to = selector(&["shop"], percent);
            let inside: Vec<bool> = (0..10_000).map(|n| to.selects(&model(), &id(n), &groups(&["shop"]))).collect();
            let share = inside.iter().filter(|&&is_in| is_in).count() as i64;
            assert!((share - i64::from(percent) * 100).abs() <= 200, "{share} of 10,000 at {percent} %");
            assert!(last.iter().zip(&inside).all(|(&before, &now)| now || !before), "dropped at {percent} %");
            last = inside;
        }
        assert!(last.iter().all(|&is_in| is_in));
    }

    #[test]
    fn the_first_devices_of_two_models_differ() {
        let to = selector(&["shop"], 10);
        let other = ModelName::new("letters").unwrap();
        let both = (0..10_000)
            .filter(|&n| to.selects(&model(), &id(n), &groups(&["shop"])))
            .filter(|&n| to.selects(&other, &id(n), &groups(&["shop"])))
            .count();
        assert!(both < 200, "{both} of about 1,000 are first in both");
    }

    #[test]
    fn the_highest_version_is_offered_unless_a_newer_publication_takes_it_back() {
        assert_eq!(chosen(vec![entry(0, 1, 1, false), entry(1, 3, 2, false), entry(2, 2, 3, false)]), (3, false));
        assert_eq!(chosen(vec![entry(0, 3, 2, false), entry(1, 1, 4, true)]), (1, true));
        assert_eq!(chosen(vec![entry(0, 3, 2, false), entry(1, 1, 4, true), entry(2, 4, 5, false)]), (4, false));
        assert_eq!(chosen(vec![entry(0, 3, 2, true), entry(1, 1, 4, true)]), (1, true));
    }

    /// The digits with these needs, by their version; each has a digest of its own.
    fn needing(version: u32, needs: serde_json::Value) -> Entry {
        let mut entry = entry(version, version, version, false);
        entry.custom.needs = serde_json::from_value(needs).unwrap();
        entry.digest = Digest::of(&version.to_le_bytes());
        entry
    }

    fn version_for(entries: &[Entry], board: &Board, has: Has) -> Option<u32> {
        let shop = groups(&["shop"]);
        let to = Recipient { board, has: &|_| has, ..Recipient::bare(&[1; 16], &shop) };
        let offers = Verified { version: 1, entries: entries.to_vec() }.offers_for(&to);
        offers.first().map(|offer| offer.version)
    }

    #[test]
    fn a_board_that_a_target_does_not_select_is_offered_the_next_lower_one_that_does() {
        let entries = [
            needing(1, serde_json::json!({})),
            needing(2, serde_json::json!({"memory-mib": 900})),
            needing(3, serde_json::json!({"memory-mib": 1900, "board": "Raspberry Pi 5*"})),
        ];
        let board = |mib| Board { memory_mib: mib, name: BoardName::of("Raspberry Pi 5 Model B"), ..Board::default() };
        for (mib, version) in [(Some(4096), 3), (Some(1899), 2), (Some(900), 2), (Some(899), 1), (None, 1)] {
            assert_eq!(version_for(&entries, &board(mib), Has::default()), Some(version), "{mib:?}");
        }
        assert_eq!(version_for(&entries[1..], &board(None), Has::default()), None);
    }

    #[test]
    fn a_device_that_came_from_a_version_in_the_range_stays_selected_once_it_has_left_it() {
        let entries =
            [needing(2, serde_json::json!({})), needing(6, serde_json::json!({"live": {"min": 3, "max": 5}}))];
        let has = |live, target: Option<u32>| Has {
            live: Some(live),
            targets: [target.map(|version| Digest::of(&version.to_le_bytes())), None],
        };
        for (live, target, version) in [(3, None, 6), (5, Some(5), 6), (6, Some(6), 6), (2, None, 2), (7, Some(7), 2)] {
            assert_eq!(version_for(&entries, &Board::default(), has(live, target)), Some(version), "{live}");
        }
    }

    #[test]
    fn conditions_are_of_a_form_that_devices_which_do_not_know_them_pass_over() {
        let mut custom = Custom::new(model(), 1, selector(&["shop"], 100));
        assert_eq!(custom.fields().unwrap()["selvedge"], 1);
        custom.needs.memory_mib = Some(900);
        let fields = custom.fields().unwrap();
        assert_eq!(fields["selvedge"], 2);
        assert_eq!(Custom::of(&target(fields.clone())).unwrap().needs, custom.needs);
        let mut smuggled = fields.clone();
        smuggled["selvedge"] = 1.into();
        assert_eq!(Custom::of(&target(smuggled)), None, "conditions in a form that has none");
        let mut later = fields;
        later["needs"]["colour"] = "red".into();
        assert_eq!(Custom::of(&target(later)), None, "a need of a newer Selvedge");
    }

    fn target(custom: serde_json::Value) -> Target {
        let text = serde_json::json!({
            "length": 3, "hashes": {"sha256": Digest::of(b"abc").to_string()}, "custom": custom,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn targets_of_other_forms_are_passed_over() {
        let good = serde_json::json!({"selvedge": 1, "model": "digits", "version": 2, "for": {"groups": ["shop"]},
            "later": {"deltas": true}});
        assert_eq!(Custom::of(&target(good.clone())).unwrap().audience.percent, 100);
        for (field, value) in [
            ("selvedge", serde_json::json!(3)),
            ("needs", serde_json::json!({"board": 7})),
            ("model", serde_json::json!("../etc")),
            ("version", serde_json::json!(-1)),
            ("version", serde_json::json!(1e30)),
            ("for", serde_json::json!(["shop"])),
            ("for", serde_json::json!({"groups": "shop"})),
            ("deltas", serde_json::json!([{"from": "1"}])),
            ("bundle", serde_json::json!(7)),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(Custom::of(&target(bad)), None, "{field}");
        }
        assert_eq!(Custom::of(&target(serde_json::json!({}))), None);
    }
}
