//! Roles that targets delegate to: others who may sign targets of some names, each with its own keys.
//!
//! Invariant: a role that is missing, not signed by its own keys, expired or of another version than
//! the snapshot names is left out; it changes nothing for the others. What a role signs counts where
//! the search of the specification (5.6.7) would find it: a name that the targets or an earlier role
//! have is theirs, a terminating role ends the search for the names that match it, and so does an
//! earlier one that could not be read. A name's first part is its model's, so a role for `digits/*`
//! offers no other model.
//!
//! One level deep: what a delegated role delegates further is not followed.

use super::Role;
use super::offered::Offered;
use super::verify::{self, Refusal, RefusalCode};
use crate::bundle::topics::{MAX_DELEGATED, is_delegated_name};
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use tough::schema::{DelegatedRole, Delegations, Metafile, PathSet, Signed, Snapshot, Targets};

/// The most bytes of one such role's file.
pub const MAX_BYTES: usize = 128 << 10;

/// The most patterns of one role that are read.
const MAX_PATTERNS: usize = 64;

/// The most patterns of one file, and bytes of one of them. Each becomes an automaton of its own where
/// metadata is read, before a signature is looked at.
const MAX_ALL_PATTERNS: usize = 2048;
const MAX_PATTERN: usize = 128;

/// As much of a targets file as must be known before it is read for good.
#[derive(Deserialize)]
struct Envelope {
    signed: Delegating,
}

#[derive(Deserialize)]
struct Delegating {
    #[serde(default)]
    delegations: Option<Delegates>,
}

#[derive(Deserialize)]
struct Delegates {
    roles: Vec<Delegate>,
}

#[derive(Deserialize)]
struct Delegate {
    #[serde(default)]
    paths: Vec<String>,
}

/// False for a file whose patterns would take much memory to be read. One that is no metadata at all
/// takes none, and is refused when it is read.
pub(super) fn is_bounded(bytes: &[u8]) -> bool {
    let Ok(Envelope { signed }) = serde_json::from_slice(bytes) else {
        // Found as text, it may be there in a form that this does not see through.
        return !bytes.windows(7).any(|text| text == b"\"paths\"") && !bytes.contains(&b'\\');
    };
    let patterns = || signed.delegations.iter().flat_map(|all| &all.roles).flat_map(|role| &role.paths);
    patterns().count() <= MAX_ALL_PATTERNS && patterns().all(|pattern| pattern.len() <= MAX_PATTERN)
}

/// Delegated roles that hold, by their place (from 1) among those that the targets name.
#[derive(Debug, Default)]
pub(super) struct Delegated {
    held: BTreeMap<u32, Signed<Targets>>,
    search: Search,
}

/// What decides whose a name is.
#[derive(Debug, Default)]
struct Search {
    /// Names that the targets have themselves.
    own: HashSet<String>,
    rules: Vec<Rule>,
}

/// One delegated role in the search, in order.
#[derive(Debug)]
struct Rule {
    covers: Covers,
    terminating: bool,
    /// Names that it has; none where it could not be read.
    names: Option<HashSet<String>>,
}

#[derive(Debug)]
enum Covers {
    Globs(Vec<GlobMatcher>),
    Prefixes(Vec<String>),
}

/// Where a role stands, and how the snapshot names its file.
struct Named<'a> {
    place: u32,
    role: &'a DelegatedRole,
    meta: &'a Metafile,
}

fn all_roles(targets: &Targets) -> &[DelegatedRole] {
    let roles = targets.delegations.as_ref().map_or(&[][..], |all| all.roles.as_slice());
    roles.get(..MAX_DELEGATED).unwrap_or(roles)
}

/// The roles with a good name that the snapshot lists; of a name that stands twice, the first.
fn named<'a>(targets: &'a Targets, snapshot: &'a Snapshot) -> Vec<Named<'a>> {
    let roles = all_roles(targets);
    let is_first = |place: usize, role: &DelegatedRole| roles.iter().position(|r| r.name == role.name) == Some(place);
    let listed = |(place, role): (usize, &'a DelegatedRole)| {
        let meta = snapshot.meta.get(&format!("{}.json", role.name))?;
        let is_good = is_delegated_name(&role.name) && is_first(place, role);
        is_good.then_some(Named { place: u32::try_from(place).ok()? + 1, role, meta })
    };
    roles.iter().enumerate().filter_map(listed).collect()
}

/// Whose file it is and why it does not count.
pub(super) type Bad = (String, Refusal);

/// The files of delegated roles that hold, of those that came and those that were held before. What
/// does not hold is told; what has not come is not.
pub(super) fn take(
    targets: &Targets,
    snapshot: &Snapshot,
    before: &BTreeMap<String, String>,
    offered: &Offered,
    time: u64,
) -> (BTreeMap<String, String>, Vec<Bad>) {
    let (mut taken, mut bad) = (BTreeMap::new(), Vec::new());
    let Some(delegations) = &targets.delegations else { return (taken, bad) };
    for Named { role, meta, .. } in named(targets, snapshot) {
        let name = &role.name;
        // Expiry blocks what is new, and never takes back what was taken.
        let known = before.get(name).filter(|text| check(delegations, name, meta, text.as_bytes()).is_ok());
        let came = u32::try_from(meta.version.get()).ok().and_then(|version| offered.delegated(name, version));
        let came = came.filter(|bytes| bytes.len() <= MAX_BYTES && verify::matches(meta, bytes));
        match (known, came) {
            (Some(text), _) => drop(taken.insert(name.clone(), text.clone())),
            (None, None) => {}
            (None, Some(bytes)) => match check(delegations, name, meta, bytes).and_then(|role| in_date(&role, time)) {
                Ok(()) => drop(taken.insert(name.clone(), String::from_utf8_lossy(bytes).into_owned())),
                Err(refusal) => bad.push((name.clone(), refusal)),
            },
        }
    }
    (taken, bad)
}

/// Signatures and version of a file whose digest is the one that the snapshot names.
fn check(delegations: &Delegations, name: &str, meta: &Metafile, bytes: &[u8]) -> Result<Signed<Targets>, Refusal> {
    use tough::schema::Error::SignatureThreshold;
    let bad = |code| Refusal::new(code, Role::Targets);
    if !verify::matches(meta, bytes) {
        return Err(bad(RefusalCode::BadMetadata));
    }
    let signed: Signed<Targets> = serde_json::from_slice(bytes)
        .map_err(|error| Refusal { source: Some(error.into()), ..bad(RefusalCode::BadMetadata) })?;
    if let Err(error) = delegations.verify_role(&signed, name) {
        let measured = if let SignatureThreshold { threshold, valid, .. } = &error {
            (Some(*threshold), Some(*valid))
        } else {
            (None, None)
        };
        let refusal = bad(RefusalCode::BadSignature);
        return Err(Refusal { expected: measured.0, actual: measured.1, source: Some(error.into()), ..refusal });
    }
    let (expected, actual) = (meta.version.get(), signed.signed.version.get());
    if expected != actual {
        return Err(Refusal::measured(RefusalCode::BadMetadata, Role::Targets, expected, actual));
    }
    Ok(signed)
}

fn in_date(role: &Signed<Targets>, time: u64) -> Result<(), Refusal> {
    let expires = u64::try_from(role.signed.expires.as_second()).unwrap_or(0);
    let is_past = time > expires;
    if is_past { Err(Refusal::measured(RefusalCode::Expired, Role::Targets, expires, time)) } else { Ok(()) }
}

/// Whether a delegated role may sign a target of that name.
#[cfg(feature = "operator")]
pub fn covers(role: &DelegatedRole, name: &str) -> bool {
    Covers::of(&role.paths).name(name)
}

/// What a delegated role may sign, for people.
#[cfg(feature = "operator")]
pub fn patterns(role: &DelegatedRole) -> Vec<String> {
    match &role.paths {
        PathSet::Paths(patterns) => patterns.iter().map(|pattern| pattern.value().to_owned()).collect(),
        PathSet::PathHashPrefixes(prefixes) => prefixes.iter().map(|prefix| format!("{}…", prefix.value())).collect(),
    }
}

impl Delegated {
    /// Files that were taken, checked once more against what delegates to them now.
    pub fn read(targets: &Targets, snapshot: &Snapshot, files: &BTreeMap<String, String>) -> Self {
        let Some(delegations) = &targets.delegations else { return Self::default() };
        let held = named(targets, snapshot).into_iter().filter_map(|Named { place, role, meta }| {
            let bytes = files.get(&role.name)?.as_bytes();
            Some((place, check(delegations, &role.name, meta, bytes).ok()?))
        });
        let held: BTreeMap<u32, Signed<Targets>> = held.collect();
        let rule = |(place, role): (u32, &DelegatedRole)| Rule {
            covers: Covers::of(&role.paths),
            terminating: role.terminating,
            names: held.get(&place).map(|role| names(&role.signed)),
        };
        let rules = (1..).zip(all_roles(targets)).map(rule).collect();
        Self { search: Search { own: names(targets), rules }, held }
    }

    pub fn roles(&self) -> impl Iterator<Item = (u32, &Signed<Targets>)> {
        self.held.iter().map(|(&place, role)| (place, role))
    }

    /// Whether the search for a name comes to the role at that place.
    pub fn may_sign(&self, place: u32, name: &str) -> bool {
        if self.search.own.contains(name) {
            return false;
        }
        let matching = (1..).zip(&self.search.rules).filter(|(_, rule)| rule.covers.name(name));
        for (at, rule) in matching {
            if at == place {
                return true;
            }
            if rule.terminating || rule.names.as_ref().is_none_or(|names| names.contains(name)) {
                return false;
            }
        }
        false
    }
}

fn names(targets: &Targets) -> HashSet<String> {
    targets.targets.keys().map(|name| name.raw().to_owned()).collect()
}

impl Covers {
    fn of(paths: &PathSet) -> Self {
        match paths {
            PathSet::Paths(patterns) => {
                let glob = |text: &str| GlobBuilder::new(text).literal_separator(true).build().ok();
                let globs = patterns.iter().take(MAX_PATTERNS).filter_map(|pattern| glob(pattern.value()));
                Self::Globs(globs.map(|glob| glob.compile_matcher()).collect())
            }
            PathSet::PathHashPrefixes(prefixes) => {
                let prefixes = prefixes.iter().take(MAX_PATTERNS).map(|prefix| prefix.value().to_owned());
                Self::Prefixes(prefixes.filter(|prefix| !prefix.is_empty()).collect())
            }
        }
    }

    /// Shell patterns, where no wildcard stands for a `/`; or the first digits of the name's SHA-256.
    fn name(&self, name: &str) -> bool {
        match self {
            Self::Globs(globs) => globs.iter().any(|glob| glob.is_match(name)),
            Self::Prefixes(prefixes) => {
                let digest = hex::encode(Sha256::digest(name));
                prefixes.iter().any(|prefix| digest.starts_with(prefix.as_str()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tough::schema::{PathHashPrefix, PathPattern};

    #[test]
    fn patterns_match_as_the_specification_says() {
        // The examples of the specification, 4.5, and those of the conformance suite.
        for (pattern, name, is_match) in [
            ("targets/*.tgz", "targets/foo.tgz", true),
            ("targets/*.tgz", "targets/bar.tgz", true),
            ("targets/*.tgz", "targets/foo.txt", false),
            ("foo-version-?.tgz", "foo-version-2.tgz", true),
            ("foo-version-?.tgz", "foo-version-a.tgz", true),
            ("foo-version-?.tgz", "foo-version-alpha.tgz", false),
            ("*.tgz", "foo.tgz", true),
            ("*.tgz", "targets/foo.tgz", false),
            ("foo.tgz", "foo.tgz", true),
            ("foo.tgz", "foo-tgz", false),
            ("releases/*/*", "releases/x/x_v1", true),
            ("releases/y/*.zip", "releases/z/z_v1.zip", false),
            ("*", "digits/shop", false),
            ("", "", true),
            ("digits/*", "digits", false),
            ("digits/*", "digits2/a", false),
        ] {
            let paths = PathSet::Paths(vec![PathPattern::new(pattern).unwrap()]);
            assert_eq!(Covers::of(&paths).name(name), is_match, "{pattern} {name}");
        }
        let digest = hex::encode(Sha256::digest("digits/shop"));
        for (prefix, is_match) in [(&digest[..2], true), (&digest[..64], true), ("", false), ("zz", false)] {
            let paths = PathSet::PathHashPrefixes(vec![PathHashPrefix::new(prefix).unwrap()]);
            assert_eq!(Covers::of(&paths).name("digits/shop"), is_match, "{prefix}");
        }
    }
}
