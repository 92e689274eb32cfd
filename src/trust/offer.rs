//! Targets: what the operator offers, and to whom.
//!
//! One offer a model. Among the targets that select this device (by its group or id, its place, its board) the highest
//! version is taken, the newer publication where versions are equal; the others are as if they were not there. A target marked `allow-downgrade` sets aside all
//! that were published before it, whatever their version; what was published after it counts again. One that is paused
//! counts for who has it; the others meanwhile take what is below.
//! `published` counts up for each model, over all who sign for it.

use super::Role;
use super::delegation::Delegated;
use super::needs::{Needs, Recipient};
use super::verify::{Refusal, RefusalCode};
use super::waves::{Hold, Waves};
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
    /// The share of the audience by time, within its percentage.
    #[serde(default, skip_serializing_if = "Waves::is_empty")]
    pub waves: Waves,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Since when it is paused, seconds since 1970 UTC: the waves that had not begun by then are put off when it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<u64>,
    /// It does not wait for a quiet hour.
    #[serde(default, skip_serializing_if = "is_no")]
    pub urgent: bool,
    #[serde(default)]
    pub allow_downgrade: bool,
    /// A higher number lifts the quarantine of a version that failed.
    #[serde(default)]
    pub retry: u32,
    /// Which of two targets of a model is the newer: more than that of any before it.
    #[serde(default)]
    pub published: u32,
    /// When that was, seconds since 1970 UTC; for who looks for those that lag behind.
    #[serde(default)]
    pub since: u64,
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
            waves: Waves::default(),
            hold: None,
            paused: None,
            urgent: false,
            allow_downgrade: false,
            retry: 0,
            published: 0,
            since: 0,
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
        let has_none = self.needs.is_empty() && self.waves.is_empty() && self.hold.is_none();
        if has_none { PLAIN } else { CONDITIONAL }
    }

    /// As it stands in a target.
    #[cfg(feature = "operator")]
    pub(super) fn fields(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(Self { selvedge: self.form(), ..self.clone() })
    }

    /// Whether a device that has it not is to take it, now or when it may.
    pub fn selects(&self, to: &Recipient<'_>) -> bool {
        self.begins(to).is_some_and(|begins| begins <= to.time)
    }

    /// From when on it is for that device, by device time; none where never.
    pub fn begins(&self, to: &Recipient<'_>) -> Option<u64> {
        let is_open = !matches!(self.hold, Some(Hold::Withdrawn | Hold::Recalled));
        let is_meant = is_open
            && self.audience.selects(&self.model, to.id, to.groups)
            && self.needs.are_met(to.board, (to.has)(&self.model).live);
        self.waves.begin_at(place(&self.model, to.id)).filter(|_| is_meant)
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
        self.names(device, groups) && place(model, device) < self.percent
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
    place(model, device) < percent
}

/// A device's fixed place in a model's rollouts, 0 to 99.
fn place(model: &ModelName, device: &[u8; 16]) -> u8 {
    // The separator is in no name: no two pairs run together.
    let hash = Sha256::new().chain_update(model.as_str()).chain_update([0]).chain_update(device).finalize();
    let number = hash.iter().take(8).fold(0u128, |n, &byte| (n << 8) | u128::from(byte));
    u8::try_from((number * 100) >> 64).unwrap_or(99)
}

fn is_no(flag: &bool) -> bool {
    !flag
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
    /// What the operator has stopped of it. One that is paused is an offer for whoever has it already, and for the status.
    pub hold: Option<Hold>,
    pub urgent: bool,
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
        let words = self.words(to);
        let is_let = |entry: &Entry| words.get(&entry.key()).is_none_or(|word| word.custom.hold.is_none());
        self.chosen_for(to, |entry| entry.is_open(to) && (entry.is_here(to) || is_let(entry)))
    }

    /// What would be an offer if it were not paused; sorted by model.
    pub fn paused_for(&self, to: &Recipient<'_>) -> Vec<Offer> {
        let all = self.chosen_for(to, |entry| entry.is_for(to));
        let is_paused = |offer: &Offer| offer.hold == Some(Hold::Paused);
        let is_here = |offer: &Offer| (to.has)(&offer.model).targets.contains(&Some(offer.digest));
        all.into_iter().filter(|offer| is_paused(offer) && !is_here(offer)).collect()
    }

    fn chosen_for(&self, to: &Recipient<'_>, counts: impl Fn(&Entry) -> bool) -> Vec<Offer> {
        let mut models = BTreeMap::<&ModelName, Vec<&Entry>>::new();
        for entry in self.named(to) {
            models.entry(&entry.custom.model).or_default().push(entry);
        }
        models.into_values().filter_map(|named| offer_among(&named, to, &counts)).collect()
    }

    /// Each target that this device has, live or on trial. What is stopped of it counts, whatever else is offered of the
    /// model.
    pub fn standing_of(&self, to: &Recipient<'_>) -> Vec<Offer> {
        self.words(to).into_values().filter(|entry| entry.is_here(to)).map(Entry::offer).collect()
    }

    /// Whose word counts where several targets offer a device the same bytes: the operator's own before a team's, then the
    /// newest publication's.
    fn words(&self, to: &Recipient<'_>) -> BTreeMap<(&ModelName, Digest), &Entry> {
        let mut words = BTreeMap::<_, &Entry>::new();
        for entry in self.named(to) {
            let word = words.entry(entry.key()).or_insert(entry);
            if word.rank() < entry.rank() {
                *word = entry;
            }
        }
        words
    }

    /// The targets whose audience the device is of; without those of teams that the holder of the targets' keys stopped for
    /// it: else a version that was called back would come again.
    fn named(&self, to: &Recipient<'_>) -> impl Iterator<Item = &Entry> {
        let is_named = |entry: &&Entry| entry.custom.audience.names(to.id, to.groups);
        let own = |digest| self.entries.iter().filter(move |entry| entry.is_own() && entry.digest == digest);
        let is_stopped =
            move |digest| own(digest).filter(is_named).max_by_key(|own| own.rank()).is_some_and(Entry::is_held);
        self.entries.iter().filter(is_named).filter(move |entry| entry.is_own() || !is_stopped(entry.digest))
    }

    /// When the next wave reaches this device, by device time: offers are to be looked at again then. What it has needs
    /// no wave any more.
    pub fn next_wave(&self, to: &Recipient<'_>) -> Option<u64> {
        let news = self.entries.iter().filter(|entry| !entry.is_here(to));
        let begins = news.filter_map(|entry| entry.custom.begins(to));
        begins.filter(|&begins| begins > to.time).min()
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

/// Of the targets of a model whose audience the device is of. What is left for it where a higher one is not for it, or not
/// yet, is no way back. A way back that is paused leads nowhere, and sets aside what was before it all the same.
fn offer_among(named: &[&Entry], to: &Recipient<'_>, counts: impl Fn(&Entry) -> bool) -> Option<Offer> {
    let selected = named.iter().filter(|entry| entry.is_for(to));
    let from = counting_from(selected.clone().map(|entry| &entry.custom));
    let counted = selected.filter(|entry| entry.custom.published >= from && counts(entry));
    let entry = counted.max_by_key(|e| (e.custom.version, e.custom.published, e.ordinal))?;
    let chosen = &entry.custom;
    let is_rest = named.iter().any(|entry| entry.custom.version > chosen.version && !counts(entry));
    let is_back = (to.has)(&chosen.model).live.is_some_and(|live| live > chosen.version);
    let is_offered = chosen.allow_downgrade || !(is_rest && is_back);
    is_offered.then(|| entry.offer())
}

fn counting_from<'a>(customs: impl Iterator<Item = &'a Custom>) -> u32 {
    customs.filter(|custom| custom.allow_downgrade).map(|custom| custom.published).max().unwrap_or(0)
}

/// The one that counts for a device, of targets of one model that all select it.
#[cfg(feature = "operator")]
pub fn counts<'a>(customs: &[&'a Custom]) -> Option<&'a Custom> {
    let from = counting_from(customs.iter().copied());
    customs.iter().filter(|c| c.published >= from).max_by_key(|c| (c.version, c.published)).copied()
}

impl Entry {
    fn key(&self) -> (&ModelName, Digest) {
        (&self.custom.model, self.digest)
    }

    /// Of those of its audience: who has it, live or on trial, stays with it; its conditions are for those who do not.
    fn is_for(&self, to: &Recipient<'_>) -> bool {
        self.is_here(to) || self.custom.selects(to)
    }

    /// The same, and it may begin: what is paused goes on nowhere but where it is.
    fn is_open(&self, to: &Recipient<'_>) -> bool {
        self.is_for(to) && (self.is_here(to) || self.custom.hold != Some(Hold::Paused))
    }

    /// Of two that name the same, the higher one speaks for it: no team stops what the holder of the targets' keys offers.
    fn rank(&self) -> (bool, u32, u32) {
        (self.is_own(), self.custom.published, self.ordinal)
    }

    /// Of the targets themselves, not of who they delegate to.
    fn is_own(&self) -> bool {
        self.ordinal >> 16 == 0
    }

    fn is_held(&self) -> bool {
        self.custom.hold.is_some()
    }

    /// Whether the device has it, live or on trial.
    fn is_here(&self, to: &Recipient<'_>) -> bool {
        (to.has)(&self.custom.model).targets.contains(&Some(self.digest))
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
            hold: self.custom.hold,
            urgent: self.custom.urgent,
            memory_mib: self.custom.memory_mib,
            bundle: self.custom.bundle,
            deltas: self.custom.deltas.iter().take(Custom::MAX_DELTAS).copied().collect(),
        }
    }
}

#[cfg(test)]
#[path = "offer_tests.rs"]
mod tests;
