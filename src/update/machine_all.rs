//! The machine over all sequences of events: every state that can be reached within [`DEPTH`] steps, and long random ones.
//!
//! What must hold, whatever comes: see `check`.

use super::*;
use std::collections::{BTreeSet, VecDeque};

/// Steps from the start within which nothing is left out.
const DEPTH: usize = 9;
const BOOTS: [u128; 2] = [1, 2];

fn version(number: u32) -> VersionRef {
    VersionRef { version: number, bundle: Digest::of(&[1, number as u8]), target: Some(target(number)) }
}

fn target(number: u32) -> Digest {
    Digest::of(&[2, number as u8])
}

fn offer(number: u32, retry: u32) -> Offered {
    Offered { version: number, target: target(number), allow_downgrade: false, retry }
}

/// All kinds of events, on two versions beyond the factory's; each as often as there are ways to say it.
fn events() -> Vec<Event> {
    let why = |stage, code| Reason::plain(stage, code);
    let tallied = [Tallied::GoesOn, Tallied::Good, Tallied::Bad(why(Stage::Probation, Code::TooManyErrors))];
    let gates = [(false, false), (true, false), (false, true), (true, true)];
    let mut all = vec![
        Event::Cleared,
        Event::Failed(why(Stage::Golden, Code::GoldenMismatch)),
        Event::Inconclusive(why(Stage::SelfTest, Code::Throttled)),
        Event::Again,
        Event::Seen(Seen { answers: 20, agreeing: 20, failed: 0, seconds: 9 }),
        Event::Blamed { deaths: 3, limit: 2, retry: 0 },
        Event::Stopping,
    ];
    all.extend(gates.map(|(shadow, canary)| Event::Passed(Gates { shadow, canary })));
    all.extend(tallied.map(|verdict| Event::Tally { answered: 20, verdict }));
    all.extend(BOOTS.map(|boot| Event::Started { boot }));
    for number in [2, 3] {
        all.extend([Event::Offered(offer(number, 0)), Event::Offered(offer(number, 1))]);
        all.push(Event::Stored { candidate: version(number), retry: 0, boot: BOOTS[0] });
        let why = why(Stage::Bundle, Code::BadBundle);
        all.push(Event::Unusable { offered: offer(number, 0), blame: true, why });
        all.extend([false, true].map(|recalled| Event::Withdrawn { target: target(number), recalled }));
    }
    all
}

fn is_barred(entry: &Entry, version: VersionRef, retry: u32) -> bool {
    entry.quarantine.iter().any(|q| Some(q.target) == version.target && retry <= q.retry)
}

/// The driver fetches, and so stores, only what the machine asked it to, and says each thing only when it can be so.
fn can_happen(entry: &Entry, event: Event) -> bool {
    let Event::Stored { candidate, retry, .. } = event else { return true };
    candidate.target.is_some_and(|target| {
        let offered = Offered { version: candidate.version, target, allow_downgrade: false, retry };
        step(entry, Event::Offered(offered)).1 == [Effect::Fetch(offered)]
    })
}

fn is_promotion(before: &Entry, after: &Entry, event: Event) -> bool {
    let Some(trial) = before.trial else { return false };
    let may = match (trial.phase, event) {
        (Phase::Checking, Event::Passed(gates)) => before.live.is_none() || gates == Gates::default(),
        (Phase::Shadow, Event::Cleared) => !trial.gates.canary,
        (Phase::Canary, Event::Cleared) => true,
        // What was live failed, nothing stands behind it, and the candidate has passed its checks.
        (Phase::Shadow | Phase::Canary, Event::Tally { verdict: Tallied::Bad(_), .. }) => before.previous.is_none(),
        (_, _) => false,
    };
    may && after.live == Some(trial.candidate)
}

fn reports(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Report { .. })).count()
}

fn check(before: &Entry, event: Event, after: &Entry, effects: &[Effect]) {
    let told = || format!("{event:?}\n{before:#?}\n-> {effects:?}\n{after:#?}");
    // The factory's version serves from the start: something always does.
    assert!(after.live.is_some(), "nothing is live: {}", told());
    // What answers changes through the gates, or back to what was pinned, and then it is put into its slot.
    if after.live != before.live {
        let back = after.live == before.previous;
        assert!(is_promotion(before, after, event) || back, "an unproven change: {}", told());
        assert!(effects.contains(&Effect::Serve), "nobody was told: {}", told());
    }
    // While something is on probation there is something to go back to, and it is another one.
    if after.trial.is_some_and(|trial| trial.phase == Phase::Probation) {
        assert!(after.previous.is_some() && after.previous != after.live, "nothing is pinned: {}", told());
        assert_eq!(after.trial.map(|trial| trial.candidate), after.live, "{}", told());
    } else {
        assert!(after.trial.is_none_or(|trial| Some(trial.candidate) != after.live), "beside itself: {}", told());
    }
    // What is barred is not fetched, and what failed does not stay.
    for effect in effects {
        if let Effect::Fetch(offered) = effect {
            assert!(!is_barred(before, version(offered.version), offered.retry), "a barred one: {}", told());
        }
    }
    // What went back did not do so silently.
    let goes_on = |trial: &Trial| {
        let is_same = after.trial.is_some_and(|now| now.candidate == trial.candidate);
        is_same || (after.live == Some(trial.candidate) && after.trial.is_some())
    };
    let ended = before.trial.filter(|trial| !goes_on(trial));
    let replaced = matches!(event, Event::Stored { .. });
    if ended.is_some() && !replaced {
        assert_eq!(reports(effects), 1, "an end that nobody hears of: {}", told());
    }
    if let (Some(trial), Some(now)) = (before.trial, after.trial) {
        // A retry that was given is kept: it is what lifts the quarantine.
        assert!(now.candidate != trial.candidate || now.retry == trial.retry, "{}", told());
    }
    assert!(after.quarantine.len() <= Entry::MAX_QUARANTINE);
    assert!(
        before
            .quarantine
            .iter()
            .all(|q| after.quarantine.iter().any(|now| now.target == q.target && now.retry >= q.retry))
    );
}

fn factory() -> Entry {
    Entry { live: Some(VersionRef { target: None, ..version(1) }), ..Entry::default() }
}

#[test]
fn the_invariants_hold_over_all_sequences_of_events() {
    let events = events();
    let key = |entry: &Entry| serde_json::to_string(entry).unwrap();
    let mut known = BTreeSet::from([key(&factory())]);
    let mut open = VecDeque::from([(factory(), 0)]);
    let (mut steps, mut phases) = (0_u64, BTreeSet::new());
    while let Some((entry, depth)) = open.pop_front() {
        phases.insert(format!("{:?}", entry.trial.map(|trial| trial.phase)));
        for &event in events.iter().filter(|&&event| can_happen(&entry, event)) {
            let (next, effects) = step(&entry, event);
            check(&entry, event, &next, &effects);
            steps += 1;
            if depth + 1 < DEPTH && known.insert(key(&next)) {
                open.push_back((next, depth + 1));
            }
        }
    }
    assert_eq!(phases.len(), 5, "{phases:?}");
    assert!(known.len() > 500 && steps > 10_000, "{} states, {steps} steps", known.len());
}

#[test]
fn the_invariants_hold_over_long_random_sequences() {
    let events = events();
    let mut state = 0x5e1d_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut went_live = 0;
    for _ in 0..3000 {
        let mut entry = factory();
        for _ in 0..300 {
            let event = events[random(events.len())];
            if can_happen(&entry, event) {
                let (next, effects) = step(&entry, event);
                check(&entry, event, &next, &effects);
                went_live += effects.iter().filter(|e| matches!(e, Effect::Report { ended: Ended::Live, .. })).count();
                entry = next;
            }
        }
    }
    assert!(went_live > 100, "only {went_live} updates came to their end");
}
