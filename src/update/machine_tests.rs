use super::*;

fn version(version: u32) -> VersionRef {
    let target = Digest::of(&version.to_le_bytes());
    VersionRef { version, bundle: Digest::of(&[1]), target: Some(target) }
}

fn live(version_number: u32) -> Entry {
    Entry { live: Some(version(version_number)), ..Entry::default() }
}

fn offer(number: u32) -> Offered {
    Offered { version: number, target: Digest::of(&number.to_le_bytes()), allow_downgrade: false, retry: 0 }
}

fn run(entry: Entry, events: &[Event]) -> (Entry, Vec<Effect>) {
    events.iter().fold((entry, vec![]), |(entry, mut effects), &event| {
        let (next, more) = step(&entry, event);
        effects.extend(more);
        (next, effects)
    })
}

const BOOT: u128 = 7;

fn stored(number: u32) -> Event {
    Event::Stored { candidate: version(number), retry: 0, boot: BOOT }
}

fn tally(answered: u64, failed: u64) -> Event {
    Event::Tally { answered, failed, wanted: 50, allowed: 0 }
}

fn refusal(effects: &[Effect]) -> Option<Code> {
    effects.iter().find_map(|effect| match effect {
        Effect::Report { ended: Ended::Refused { code, .. } | Ended::RolledBack { code, .. }, .. } => Some(*code),
        Effect::Report { ended: Ended::Live, .. } | Effect::Fetch(_) | Effect::Check | Effect::Serve => None,
    })
}

#[test]
fn a_newer_version_goes_all_the_way_and_keeps_the_old_one_pinned() {
    let (entry, effects) =
        run(live(1), &[Event::Offered(offer(2)), stored(2), Event::Passed, tally(49, 0), tally(50, 0)]);
    let done = Effect::Report { version: 2, ended: Ended::Live };
    assert_eq!(effects, [Effect::Fetch(offer(2)), Effect::Check, Effect::Serve, done]);
    assert_eq!(entry, Entry { previous: Some(version(1)), ..live(2) });
}

#[test]
fn the_same_offer_again_does_nothing() {
    assert_eq!(run(live(2), &[Event::Offered(offer(2))]).1, []);
    let factory = Entry { live: Some(VersionRef { target: None, ..version(2) }), ..Entry::default() };
    assert_eq!(run(factory, &[Event::Offered(offer(2))]).1, []);
}

#[test]
fn an_older_offer_is_refused_unless_it_is_meant() {
    let (entry, effects) = run(live(2), &[Event::Offered(offer(1))]);
    assert_eq!(refusal(&effects), Some(Code::Downgrade));
    assert_eq!(entry, live(2));
    let meant = Offered { allow_downgrade: true, ..offer(1) };
    assert_eq!(run(live(2), &[Event::Offered(meant)]).1, [Effect::Fetch(meant)]);
}

#[test]
fn a_failed_gate_leaves_the_live_version_and_quarantines_the_offer_until_its_epoch_rises() {
    let failed = Event::Failed {
        stage: Stage::Golden,
        code: Code::GoldenMismatch,
        expected: Measure::Share(1.0),
        actual: Measure::Share(0.5),
    };
    let (entry, effects) = run(live(1), &[stored(2), failed]);
    assert_eq!(refusal(&effects), Some(Code::GoldenMismatch));
    assert_eq!((entry.live, entry.trial), (Some(version(1)), None));
    assert!(!effects.contains(&Effect::Serve), "nothing was swapped, nothing swaps back");
    assert_eq!(refusal(&run(entry.clone(), &[Event::Offered(offer(2))]).1), Some(Code::Quarantined));
    let again = Offered { retry: 1, ..offer(2) };
    assert_eq!(run(entry, &[Event::Offered(again)]).1, [Effect::Fetch(again)]);
}

#[test]
fn errors_on_probation_bring_the_previous_version_back() {
    let (entry, effects) = run(live(1), &[stored(2), Event::Passed, tally(10, 1)]);
    assert_eq!(refusal(&effects), Some(Code::TooManyErrors));
    assert_eq!(effects.iter().filter(|e| **e == Effect::Serve).count(), 2);
    assert_eq!((entry.live, entry.previous, entry.trial), (Some(version(1)), None, None));
}

#[test]
fn a_death_on_trial_is_blamed_on_the_candidate_at_the_next_start() {
    for events in [&[stored(2)][..], &[stored(2), Event::Passed]] {
        let (entry, _) = run(live(1), events);
        let (entry, effects) = step(&entry, Event::Started { boot: BOOT });
        assert_eq!(refusal(&effects), Some(Code::Crashed));
        assert_eq!(entry.live, Some(version(1)));
    }
}

#[test]
fn a_board_that_is_unplugged_each_night_keeps_a_version_that_answers() {
    let (mut entry, _) = run(live(1), &[stored(2), Event::Passed]);
    for boot in 0..100 {
        entry = run(entry, &[Event::Started { boot: 100 + boot }, tally(20, 0)]).0;
    }
    assert_eq!((entry.live, entry.previous), (Some(version(2)), Some(version(1))));
}

#[test]
fn a_first_model_is_not_given_up_for_one_death_and_is_for_many() {
    let (mut entry, _) = run(Entry::default(), &[stored(1), Event::Passed]);
    for _ in 0..MAX_POWER_CUTS {
        let (next, effects) = step(&entry, Event::Started { boot: BOOT });
        assert_eq!((effects, next.live), (vec![], Some(version(1))));
        entry = next;
    }
    let (entry, effects) = step(&entry, Event::Started { boot: BOOT });
    assert_eq!(refusal(&effects), Some(Code::Crashed));
    assert_eq!(entry.live, None);
}

#[test]
fn a_death_after_an_overtaken_first_probation_goes_back_to_the_overtaken() {
    let (entry, _) = run(Entry::default(), &[stored(1), Event::Passed, stored(2), Event::Passed]);
    assert_eq!((entry.live, entry.previous), (Some(version(2)), Some(version(1))));
    let (entry, _) = step(&entry, Event::Started { boot: BOOT });
    assert_eq!(entry.live, Some(version(1)));
}

#[test]
fn an_orderly_stop_and_a_few_power_cuts_are_not() {
    let (entry, _) = run(live(1), &[stored(2), Event::Passed, Event::Stopping]);
    let (mut entry, effects) = step(&entry, Event::Started { boot: BOOT });
    assert_eq!(effects, []);
    for boot in 0..u128::from(MAX_POWER_CUTS) {
        let (next, effects) = step(&entry, Event::Started { boot: 100 + boot });
        assert_eq!(effects, []);
        assert_eq!(next.live, Some(version(2)), "probation goes on");
        entry = next;
    }
    let (entry, effects) = step(&entry, Event::Started { boot: 999 });
    assert_eq!(refusal(&effects), Some(Code::Crashed));
    assert_eq!(entry.live, Some(version(1)));
}

#[test]
fn a_newer_offer_overtakes_a_probation_and_the_proven_version_stays_pinned() {
    let (entry, effects) =
        run(live(1), &[stored(2), Event::Passed, Event::Offered(offer(3)), stored(3), Event::Passed, tally(50, 0)]);
    assert!(effects.contains(&Effect::Fetch(offer(3))));
    assert_eq!((entry.live, entry.previous), (Some(version(3)), Some(version(1))));
    assert_eq!((entry.trial, entry.unproven), (None, None));
}

#[test]
fn a_probation_goes_on_when_the_one_that_overtook_it_fails_its_checks() {
    let failed = Event::Failed {
        stage: Stage::Golden,
        code: Code::GoldenMismatch,
        expected: Measure::None,
        actual: Measure::None,
    };
    let (before, _) = run(live(1), &[stored(2), Event::Passed]);
    let (entry, effects) = run(before.clone(), &[stored(3), failed]);
    assert_eq!(refusal(&effects), Some(Code::GoldenMismatch));
    assert_eq!(Entry { quarantine: vec![], ..entry.clone() }, before);
    let (entry, _) = run(entry, &[tally(10, 1)]);
    assert_eq!(entry.live, Some(version(1)), "and still rolls back");
}

#[test]
fn an_offer_waits_for_the_checks_to_end() {
    let (entry, _) = run(live(1), &[stored(2)]);
    assert_eq!(step(&entry, Event::Offered(offer(3))), (entry, vec![]));
}

#[test]
fn the_quarantine_is_bounded() {
    let failed =
        Event::Failed { stage: Stage::Bundle, code: Code::BadBundle, expected: Measure::None, actual: Measure::None };
    let events: Vec<Event> = (2..200).flat_map(|n| [stored(n), failed]).collect();
    let (entry, _) = run(live(1), &events);
    assert_eq!(entry.quarantine.len(), Entry::MAX_QUARANTINE);
    assert_eq!(entry.quarantine.last().map(|q| q.target), version(199).target);
}
