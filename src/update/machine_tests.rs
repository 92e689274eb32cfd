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

/// Of fifty that are wanted, none may fail.
fn tally(answered: u64, failed: u64) -> Event {
    let too_many = Tallied::Bad(Reason::plain(Stage::Probation, Code::TooManyErrors));
    let end = if answered < 50 { Tallied::GoesOn } else { Tallied::Good };
    Event::Tally { answered, verdict: if failed > 0 { too_many } else { end } }
}

fn refusal(effects: &[Effect]) -> Option<Code> {
    effects.iter().find_map(|effect| match effect {
        Effect::Report { ended: Ended::Refused(why) | Ended::RolledBack(why), .. } => Some(why.code),
        Effect::Report { ended: Ended::Live | Ended::Inconclusive(_), .. }
        | Effect::Fetch(_)
        | Effect::Check
        | Effect::Serve => None,
    })
}

const PASSED: Event = Event::Passed(Gates { shadow: false, canary: false });
const BOTH: Event = Event::Passed(Gates { shadow: true, canary: true });

#[test]
fn a_newer_version_goes_all_the_way_and_keeps_the_old_one_pinned() {
    let (entry, effects) = run(live(1), &[Event::Offered(offer(2)), stored(2), PASSED, tally(49, 0), tally(50, 0)]);
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
    let failed = Event::Failed(Reason::plain(Stage::Golden, Code::GoldenMismatch));
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
    let (entry, effects) = run(live(1), &[stored(2), PASSED, tally(10, 1)]);
    assert_eq!(refusal(&effects), Some(Code::TooManyErrors));
    assert_eq!(effects.iter().filter(|e| **e == Effect::Serve).count(), 2);
    assert_eq!((entry.live, entry.previous, entry.trial), (Some(version(1)), None, None));
}

#[test]
fn a_death_on_trial_is_blamed_on_the_candidate_at_the_next_start() {
    for events in [&[stored(2)][..], &[stored(2), PASSED]] {
        let (entry, _) = run(live(1), events);
        let (entry, effects) = step(&entry, Event::Started { boot: BOOT });
        assert_eq!(refusal(&effects), Some(Code::Crashed));
        assert_eq!(entry.live, Some(version(1)));
    }
}

#[test]
fn a_board_that_is_unplugged_each_night_keeps_a_version_that_answers() {
    let (mut entry, _) = run(live(1), &[stored(2), PASSED]);
    for boot in 0..100 {
        entry = run(entry, &[Event::Started { boot: 100 + boot }, tally(20, 0)]).0;
    }
    assert_eq!((entry.live, entry.previous), (Some(version(2)), Some(version(1))));
}

#[test]
fn a_first_model_is_not_given_up_for_one_death_and_is_for_many() {
    let (mut entry, _) = run(Entry::default(), &[stored(1), PASSED]);
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
    let (entry, _) = run(Entry::default(), &[stored(1), PASSED, stored(2), PASSED]);
    assert_eq!((entry.live, entry.previous), (Some(version(2)), Some(version(1))));
    let (entry, _) = step(&entry, Event::Started { boot: BOOT });
    assert_eq!(entry.live, Some(version(1)));
}

#[test]
fn an_orderly_stop_and_a_few_power_cuts_are_not() {
    let (entry, _) = run(live(1), &[stored(2), PASSED, Event::Stopping]);
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
        run(live(1), &[stored(2), PASSED, Event::Offered(offer(3)), stored(3), PASSED, tally(50, 0)]);
    assert!(effects.contains(&Effect::Fetch(offer(3))));
    assert_eq!((entry.live, entry.previous), (Some(version(3)), Some(version(1))));
    assert_eq!((entry.trial, entry.unproven), (None, None));
}

#[test]
fn a_probation_goes_on_when_the_one_that_overtook_it_fails_its_checks() {
    let failed = Event::Failed(Reason::plain(Stage::Golden, Code::GoldenMismatch));
    let (before, _) = run(live(1), &[stored(2), PASSED]);
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
    let failed = Event::Failed(Reason::plain(Stage::Bundle, Code::BadBundle));
    let events: Vec<Event> = (2..200).flat_map(|n| [stored(n), failed]).collect();
    let (entry, _) = run(live(1), &events);
    assert_eq!(entry.quarantine.len(), Entry::MAX_QUARANTINE);
    assert_eq!(entry.quarantine.last().map(|q| q.target), version(199).target);
}

/// A candidate that has come to its shadow, beside a proven version 1.
fn shadowed() -> (Entry, Vec<Effect>) {
    run(live(1), &[stored(2), BOTH])
}

fn failed(stage: Stage) -> Event {
    Event::Failed(Reason::plain(stage, Code::Disagrees))
}

fn phase(entry: &Entry) -> Option<Phase> {
    entry.trial.map(|trial| trial.phase)
}

#[test]
fn shadow_and_canary_come_before_the_swap_where_they_are_asked_for() {
    let (entry, effects) = shadowed();
    assert_eq!(effects, [Effect::Check, Effect::Serve]);
    assert_eq!((entry.live, phase(&entry)), (Some(version(1)), Some(Phase::Shadow)));
    let (entry, _) = run(entry, &[Event::Cleared]);
    assert_eq!((entry.live, phase(&entry)), (Some(version(1)), Some(Phase::Canary)));
    let (entry, effects) = run(entry, &[Event::Cleared]);
    assert_eq!(
        (entry.live, entry.previous, phase(&entry)),
        (Some(version(2)), Some(version(1)), Some(Phase::Probation))
    );
    assert_eq!(effects, [Effect::Serve]);
    let one = Event::Passed(Gates { shadow: false, canary: true });
    assert_eq!(phase(&run(live(1), &[stored(2), one]).0), Some(Phase::Canary));
    let first = run(Entry::default(), &[stored(1), BOTH]).0;
    assert_eq!(
        (first.live, phase(&first)),
        (Some(version(1)), Some(Phase::Probation)),
        "beside nothing it cannot stand"
    );
}

#[test]
fn a_candidate_that_fails_beside_the_live_version_never_becomes_it() {
    let (entry, effects) = run(shadowed().0, &[failed(Stage::Shadow)]);
    assert_eq!(refusal(&effects), Some(Code::Disagrees));
    assert!(matches!(effects[..], [Effect::Serve, Effect::Report { ended: Ended::Refused(_), .. }]), "{effects:?}");
    assert_eq!((entry.live, entry.trial, entry.quarantine.len()), (Some(version(1)), None, 1));
    let (entry, effects) = run(shadowed().0, &[Event::Cleared, failed(Stage::Canary)]);
    assert!(
        matches!(effects[..], [.., Effect::Report { ended: Ended::RolledBack(_), .. }]),
        "it has answered: {effects:?}"
    );
    assert_eq!((entry.live, entry.trial), (Some(version(1)), None));
}

#[test]
fn a_shadow_goes_on_where_it_stood_after_a_start_and_a_death_ends_it() {
    let seen = Seen { answers: 40, agreeing: 39, failed: 1, seconds: 500 };
    let (entry, _) = run(shadowed().0, &[Event::Seen(seen), Event::Stopping, Event::Started { boot: BOOT }, BOTH]);
    assert_eq!(entry.trial.map(|trial| (trial.phase, trial.seen)), Some((Phase::Shadow, seen)));
    let (entry, effects) = run(entry, &[Event::Started { boot: BOOT }]);
    assert_eq!((refusal(&effects), entry.trial), (Some(Code::Crashed), None));
}

#[test]
fn a_newer_offer_takes_the_place_of_one_that_stands_beside() {
    let (entry, effects) = run(shadowed().0, &[Event::Offered(offer(2)), Event::Offered(offer(3)), stored(3), PASSED]);
    assert_eq!(effects, [Effect::Fetch(offer(3)), Effect::Serve, Effect::Check, Effect::Serve]);
    assert_eq!((entry.live, entry.previous), (Some(version(3)), Some(version(1))));
}

#[test]
fn a_probation_is_judged_while_another_version_stands_beside() {
    let (entry, _) = run(live(1), &[stored(2), PASSED, stored(3), BOTH]);
    assert_eq!((entry.live, phase(&entry), entry.unproven), (Some(version(2)), Some(Phase::Shadow), Some(0)));
    let (good, effects) = run(entry.clone(), &[tally(50, 0)]);
    assert_eq!(effects, [Effect::Report { version: 2, ended: Ended::Live }]);
    assert_eq!((good.unproven, phase(&good)), (None, Some(Phase::Shadow)));
    assert_eq!(run(good, &[Event::Cleared, Event::Cleared]).0.previous, Some(version(2)), "proven by now");
    let (bad, effects) = run(entry, &[tally(3, 1)]);
    assert_eq!(refusal(&effects), Some(Code::TooManyErrors));
    assert_eq!((bad.live, phase(&bad)), (Some(version(1)), Some(Phase::Shadow)), "the other one stands on");
    let alone = run(Entry::default(), &[stored(2), PASSED, stored(3), BOTH, tally(3, 1)]).0;
    assert_eq!((alone.live, phase(&alone)), (Some(version(3)), Some(Phase::Probation)), "nothing else can serve");
}

#[test]
fn a_board_that_cannot_tell_tries_again_and_blames_nobody() {
    let slow = Event::Inconclusive(Reason::plain(Stage::SelfTest, Code::Throttled));
    let (entry, effects) = run(live(1), &[stored(2), slow]);
    assert!(
        matches!(effects[..], [Effect::Check, Effect::Report { ended: Ended::Inconclusive(_), .. }]),
        "{effects:?}"
    );
    assert!(entry.quarantine.is_empty());
    let (again, effects) = run(entry.clone(), &[Event::Again]);
    assert_eq!(effects, [Effect::Check]);
    assert_eq!(run(again, &[PASSED]).0.live, Some(version(2)));
    let (entry, effects) = run(entry, &[Event::Started { boot: BOOT }]);
    assert_eq!((refusal(&effects), phase(&entry)), (None, Some(Phase::Checking)), "the engine ended while it waited");
}

#[test]
fn what_makes_the_engine_die_again_and_again_goes_back_though_it_was_proven() {
    let (entry, _) = run(live(1), &[stored(2), PASSED, tally(50, 0)]);
    let blamed = Event::Blamed { deaths: 3, limit: 2, retry: 4 };
    let (entry, effects) = run(entry, &[blamed]);
    assert_eq!((refusal(&effects), entry.live, entry.previous), (Some(Code::Crashed), Some(version(1)), None));
    let same = Offered { retry: 4, ..offer(2) };
    assert_eq!(refusal(&run(entry.clone(), &[Event::Offered(same)]).1), Some(Code::Quarantined));
    assert_eq!(run(entry, &[blamed]).1, [], "nothing stands behind it");
}

fn withdrawn(number: u32, recalled: bool) -> Event {
    Event::Withdrawn { target: Digest::of(&number.to_le_bytes()), recalled }
}

#[test]
fn a_version_that_is_withdrawn_goes_from_every_gate_and_may_come_again_and_what_runs_stays() {
    let gates = [&[stored(2)][..], &[stored(2), BOTH], &[stored(2), BOTH, Event::Cleared]];
    for events in gates {
        let (entry, _) = run(live(1), events);
        let (entry, effects) = run(entry, &[withdrawn(2, false)]);
        assert_eq!(refusal(&effects), Some(Code::Withdrawn), "{events:?}");
        assert_eq!(entry, live(1), "{events:?}: neither quarantined nor left beside");
        assert_eq!(run(entry, &[Event::Offered(offer(2))]).1, [Effect::Fetch(offer(2))]);
    }
    let (entry, _) = run(live(1), &[stored(2), PASSED]);
    assert_eq!(run(entry.clone(), &[withdrawn(2, false)]), (entry.clone(), vec![]), "on probation it runs");
    let (entry, _) = run(entry, &[tally(50, 0)]);
    assert_eq!(run(entry.clone(), &[withdrawn(2, false)]), (entry, vec![]), "so does what is proven");
    assert_eq!(run(live(1), &[withdrawn(3, true)]), (live(1), vec![]), "another's");
}

#[test]
fn a_version_that_is_called_back_makes_place_for_the_one_before_where_there_is_one() {
    for events in [&[stored(2), PASSED][..], &[stored(2), PASSED, tally(50, 0)]] {
        let (entry, _) = run(live(1), events);
        let (entry, effects) = run(entry, &[withdrawn(2, true)]);
        assert_eq!(entry, live(1), "{events:?}");
        assert_eq!((effects[0], refusal(&effects)), (Effect::Serve, Some(Code::Withdrawn)));
        assert_eq!(run(entry.clone(), &[withdrawn(2, true)]), (entry, vec![]), "once");
    }
    assert_eq!(run(live(2), &[withdrawn(2, true)]), (live(2), vec![]), "something always serves");
    // A newer one is on trial beside it.
    let (entry, _) = run(live(1), &[stored(2), PASSED, tally(50, 0), stored(3), BOTH]);
    let (entry, effects) = run(entry, &[withdrawn(2, true)]);
    assert_eq!((entry.live, refusal(&effects)), (Some(version(1)), Some(Code::Withdrawn)));
    assert_eq!(entry.trial.map(|trial| trial.candidate), Some(version(3)));
}
