//! How the fleet fares with what is offered: who runs what, who is at it, who refused, who lags. Pure.

use super::fleet::{Fleet, Row};
use crate::bundle::ModelName;
use crate::privacy::{Code, ModelState, ModelStatus, Outcome, Status, Verdict};
use crate::trust::{Board, Custom, Has, Recipient, counts};
use std::collections::BTreeMap;

/// One device, as far as an operator acts on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Look<'a> {
    pub id: [u8; 16],
    pub row: &'a Row,
    /// Models with a version that is on its way or waits.
    pub busy: Vec<&'a ModelStatus>,
    /// The last outcome of each model, where it was none that the operator wanted.
    pub failures: Vec<&'a Outcome>,
    /// Versions that it should run by now and does not.
    pub lags: Vec<Lag>,
}

/// What a device lags behind, and since when it could have had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    pub model: ModelName,
    pub version: u32,
    pub since: u64,
}

/// Seconds that an online device has for an update after its wave began.
pub const LAGS_AFTER: u64 = 3600;

/// Which devices are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    Failing,
    Stragglers,
    Offline,
    Waiting,
    Updating,
}

impl Look<'_> {
    pub fn is(&self, only: Only) -> bool {
        let waits = |model: &&&ModelStatus| model.waits_for.is_some();
        match only {
            Only::Failing => !self.failures.is_empty(),
            Only::Stragglers => !self.lags.is_empty(),
            Only::Offline => self.row.online != Some(true),
            Only::Waiting => self.busy.iter().any(|model| waits(&model)),
            Only::Updating => self.busy.iter().any(|model| !waits(&model)),
        }
    }

    /// The more there is to do, the higher.
    pub fn weight(&self) -> u8 {
        let order = [Only::Failing, Only::Stragglers, Only::Waiting, Only::Updating, Only::Offline];
        order.iter().rev().zip(1..).filter(|(only, _)| self.is(**only)).map(|(_, weight)| weight).max().unwrap_or(0)
    }
}

/// All devices, or what concerns one model of them; by their ids. `offered` is what the operator's directory offers.
pub fn look<'a>(fleet: &'a Fleet, offered: &[Custom], model: Option<&ModelName>, now: u64) -> Vec<Look<'a>> {
    fleet.rows().iter().map(|(id, row)| look_at(*id, row, offered, model, now)).collect()
}

fn look_at<'a>(id: [u8; 16], row: &'a Row, offered: &[Custom], model: Option<&ModelName>, now: u64) -> Look<'a> {
    let is_meant = |name: &ModelName| model.is_none_or(|model| model == name);
    let Some(status) = &row.status else {
        return Look { id, row, busy: Vec::new(), failures: Vec::new(), lags: Vec::new() };
    };
    let busy = status.models.iter().filter(|state| is_meant(&state.model) && state.state != ModelState::Idle);
    let lags = status.models.iter().filter(|state| is_meant(&state.model) && row.online == Some(true));
    Look {
        id,
        row,
        busy: busy.collect(),
        failures: failures(status).into_iter().filter(|o| o.model.as_ref().is_none_or(is_meant)).collect(),
        lags: lags.filter_map(|state| lag(&id, status, state, offered, now)).collect(),
    }
}

/// The last word on each model, and on metadata.
fn failures(status: &Status) -> Vec<&Outcome> {
    let mut last: BTreeMap<Option<&ModelName>, &Outcome> = BTreeMap::new();
    for outcome in &status.outcomes {
        last.insert(outcome.model.as_ref(), outcome);
    }
    let is_failure = |outcome: &&Outcome| outcome.verdict != Verdict::Live && outcome.code != Code::Withdrawn;
    last.into_values().filter(is_failure).collect()
}

/// Devices do not tell their groups: one that runs a model counts as a member of those that the model is offered to.
fn lag(id: &[u8; 16], status: &Status, state: &ModelStatus, offered: &[Custom], now: u64) -> Option<Lag> {
    let board = Board::from(&status.inventory);
    let has = |_: &ModelName| Has { live: state.live, targets: [None; 2] };
    let begun = |custom: &Custom| {
        let to = Recipient { id, groups: &custom.audience.groups, board: &board, time: now, has: &has };
        // A range of versions that it has left by this very update.
        let is_here = state.live == Some(custom.version);
        if is_here { Some(0) } else { custom.begins(&to).filter(|&begins| begins <= now && custom.hold.is_none()) }
    };
    let of_model = offered.iter().filter(|custom| custom.model == state.model);
    let begun: Vec<&Custom> = of_model.filter(|custom| begun(custom).is_some()).collect();
    let chosen = counts(&begun).filter(|custom| state.live != Some(custom.version))?;
    let to = Recipient { id, groups: &chosen.audience.groups, board: &board, time: now, has: &has };
    let since = chosen.begins(&to)?.max(chosen.since);
    let is_late = now.saturating_sub(since) > LAGS_AFTER;
    is_late.then(|| Lag { model: state.model.clone(), version: chosen.version, since })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::topics;
    use crate::privacy::{Measure, Stage, WaitsFor};
    use crate::trust::{Selector, Wave, Waves};

    const NOW: u64 = 1_000_000;

    fn digits() -> ModelName {
        ModelName::new("digits").unwrap()
    }

    fn custom(version: u32, waves: &[(u8, u64)]) -> Custom {
        let audience = Selector { groups: vec!["shop".into()], devices: None, percent: 100 };
        let mut custom = Custom::new(digits(), version, audience);
        custom.waves =
            Waves::try_from(waves.iter().map(|&(percent, from)| Wave { percent, from }).collect::<Vec<_>>()).unwrap();
        custom
    }

    fn outcome(verdict: Verdict, code: Code) -> Outcome {
        let (expected, actual) = (Measure::None, Measure::None);
        let (model, version) = (Some(digits()), Some(6));
        Outcome { model, version, verdict, stage: Stage::Golden, code, expected, actual, time: 9 }
    }

    fn fleet(live: u32, online: bool, change: impl Fn(&mut Status)) -> Fleet {
        let mut fleet = Fleet::default();
        let model = ModelStatus::idle(digits(), Some(live));
        let mut status = Status { models: vec![model], ..Status::default() };
        change(&mut status);
        let id = hex::encode([7; 16]);
        fleet.take(&topics::device_online(&id), format!("{{\"online\":{online}}}").as_bytes());
        fleet.take(&topics::device_status(&id), &serde_json::to_vec(&status).unwrap());
        fleet
    }

    fn lags(fleet: &Fleet, offered: &[Custom]) -> Vec<(u32, u64)> {
        look(fleet, offered, None, NOW)[0].lags.iter().map(|lag| (lag.version, lag.since)).collect()
    }

    #[test]
    fn an_online_device_lags_an_hour_after_its_wave_and_one_that_is_off_or_not_meant_does_not() {
        let at = NOW - LAGS_AFTER;
        for (waves, expected) in
            [(vec![(100, at - 1)], vec![(6, at - 1)]), (vec![(100, at)], vec![]), (vec![(100, NOW + 1)], vec![])]
        {
            assert_eq!(lags(&fleet(5, true, |_| ()), &[custom(6, &waves)]), expected, "{waves:?}");
            assert_eq!(lags(&fleet(5, false, |_| ()), &[custom(6, &waves)]), [], "offline");
            assert_eq!(lags(&fleet(6, true, |_| ()), &[custom(6, &waves)]), [], "it has it");
        }
        let mut fresh = custom(6, &[]);
        fresh.since = NOW - 60;
        assert_eq!(lags(&fleet(5, true, |_| ()), &[fresh]), [], "published a minute ago");
        let mut large = custom(6, &[(100, 0)]);
        large.needs.memory_mib = Some(4000);
        let lower = custom(5, &[]);
        assert_eq!(lags(&fleet(5, true, |_| ()), &[lower, large]), [], "it is for other boards");
        let mut paused = custom(6, &[(100, 0)]);
        paused.hold = Some(crate::trust::Hold::Paused);
        assert_eq!(lags(&fleet(5, true, |_| ()), &[paused]), [], "nobody is to have it now");
    }

    #[test]
    fn the_last_word_on_a_model_counts_and_what_was_wanted_is_no_failure() {
        let failures = |outcomes: Vec<Outcome>| {
            let fleet = fleet(5, true, |status| status.outcomes = outcomes.clone());
            look(&fleet, &[], None, NOW)[0].failures.len()
        };
        let (bad, good) = (outcome(Verdict::Refused, Code::GoldenMismatch), outcome(Verdict::Live, Code::Ok));
        assert_eq!(failures(vec![bad.clone(), good.clone()]), 0);
        assert_eq!(failures(vec![good, bad.clone()]), 1);
        assert_eq!(failures(vec![bad.clone(), outcome(Verdict::RolledBack, Code::Withdrawn)]), 0);
        assert_eq!(failures(vec![bad, Outcome { model: None, ..outcome(Verdict::Refused, Code::Expired) }]), 2);
    }

    #[test]
    fn devices_are_sorted_into_what_is_looked_for() {
        let waiting = fleet(5, true, |status| {
            status.models[0].state = ModelState::Waiting;
            status.models[0].waits_for = Some(WaitsFor::Window);
        });
        let offline = fleet(5, false, |_| ());
        let is = |fleet: &Fleet| {
            let looks = look(fleet, &[], None, NOW);
            [Only::Failing, Only::Stragglers, Only::Offline, Only::Waiting, Only::Updating]
                .map(|only| looks[0].is(only))
        };
        assert_eq!(is(&waiting), [false, false, false, true, false]);
        assert_eq!(is(&offline), [false, false, true, false, false]);
        assert!(look(&waiting, &[], None, NOW)[0].weight() > look(&offline, &[], None, NOW)[0].weight());
        let other = ModelName::new("letters").unwrap();
        assert!(look(&waiting, &[], Some(&other), NOW)[0].busy.is_empty());
    }
}
