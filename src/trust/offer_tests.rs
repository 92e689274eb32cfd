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
    let entries = [needing(2, serde_json::json!({})), needing(6, serde_json::json!({"live": {"min": 3, "max": 5}}))];
    let has = |live, target: Option<u32>| Has {
        live: Some(live),
        targets: [target.map(|version| Digest::of(&version.to_le_bytes())), None],
    };
    for (live, target, version) in [(3, None, 6), (5, Some(5), 6), (6, Some(6), 6), (2, None, 2)] {
        assert_eq!(version_for(&entries, &Board::default(), has(live, target)), Some(version), "{live}");
    }
    // It left the range on another way: what is below is not for it either.
    assert_eq!(version_for(&entries, &Board::default(), has(7, Some(7))), None);
}

#[test]
fn a_device_that_waits_for_its_wave_is_not_sent_back_to_what_is_for_all_meanwhile() {
    let mut later = needing(7, serde_json::json!({}));
    later.custom.waves = serde_json::from_value(serde_json::json!([{"percent": 100, "from": 100}])).unwrap();
    let entries = [needing(5, serde_json::json!({})), later];
    let has = |live| Has { live: Some(live), targets: [None; 2] };
    let board = Board::default();
    assert_eq!(version_for(&entries, &board, has(6)), None, "neither refused nor taken");
    assert_eq!(version_for(&entries, &board, has(4)), Some(5));
    assert_eq!(version_for(&entries, &board, Has::default()), Some(5));
    assert_eq!(
        version_for(&entries[..1], &board, has(6)),
        Some(5),
        "nothing is above: it is refused, and that is told"
    );
    let mut back = entries[0].clone();
    back.custom.allow_downgrade = true;
    assert_eq!(version_for(&[back, entries[1].clone()], &board, has(6)), Some(5), "it is meant");
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

#[test]
fn a_device_is_in_from_its_wave_on_and_knows_when_that_is() {
    let mut first = entry(0, 2, 2, false);
    let waves =
        serde_json::json!([{"percent": 5, "from": 100}, {"percent": 50, "from": 200}, {"percent": 90, "from": 300}]);
    first.custom.waves = serde_json::from_value(waves).unwrap();
    first.custom.audience.percent = 80;
    let verified = Verified { version: 1, entries: vec![entry(1, 1, 1, false), first] };
    let (shop, board) = (groups(&["shop"]), Board::default());
    for n in 0..500 {
        let place = place(&model(), &id(n));
        let begins = [(5, 100), (50, 200), (80, 300)].iter().find(|(percent, _)| place < *percent).map(|(_, at)| *at);
        for time in [0, 99, 100, 199, 200, 299, 300, u64::MAX] {
            let to = Recipient { time, board: &board, ..Recipient::bare(&[0; 16], &shop) };
            let id = id(n);
            let to = Recipient { id: &id, ..to };
            let is_in = begins.is_some_and(|begins| begins <= time);
            assert_eq!(verified.offers_for(&to)[0].version, if is_in { 2 } else { 1 }, "place {place} at {time}");
            assert_eq!(verified.next_wave(&to), begins.filter(|&begins| begins > time), "place {place} at {time}");
        }
    }
}

#[test]
fn what_is_stopped_stays_with_who_has_it_and_goes_to_nobody_else() {
    let held = |hold| {
        let mut entry = needing(6, serde_json::json!({}));
        entry.custom.hold = hold;
        [needing(2, serde_json::json!({})), entry]
    };
    let live = Has { live: Some(6), targets: [Some(Digest::of(&6_u32.to_le_bytes())), None] };
    let trial = Has { live: Some(2), targets: [None, Some(Digest::of(&6_u32.to_le_bytes()))] };
    for hold in [Hold::Paused, Hold::Withdrawn, Hold::Recalled] {
        let entries = held(Some(hold));
        let of = |has| version_for(&entries, &Board::default(), has);
        assert_eq!([of(Has::default()), of(live), of(trial)], [Some(2), Some(6), Some(6)], "{hold:?}");
    }
    let paused = Verified { version: 1, entries: held(Some(Hold::Paused)).to_vec() };
    let shop = groups(&["shop"]);
    let told = [Has::default(), live, trial].map(|has| {
        let to = Recipient { has: &|_| has, ..Recipient::bare(&[1; 16], &shop) };
        paused.paused_for(&to).iter().map(|offer| offer.version).collect::<Vec<_>>()
    });
    assert_eq!(told, [vec![6], vec![], vec![]], "it is told of where it waits");
}

#[test]
fn what_the_operator_has_stopped_comes_by_no_team_that_offers_the_same_bytes() {
    let mut own = needing(6, serde_json::json!({}));
    let mut of_team = own.clone();
    (of_team.ordinal, of_team.custom.published) = (1 << 16, 9);
    let shop = groups(&["shop"]);
    let six = Has { live: Some(6), targets: [Some(own.digest), None] };
    for hold in [None, Some(Hold::Paused), Some(Hold::Withdrawn), Some(Hold::Recalled)] {
        own.custom.hold = hold;
        let entries = [needing(2, serde_json::json!({})), own.clone(), of_team.clone()];
        let offered = version_for(&entries, &Board::default(), Has::default());
        assert_eq!(offered, Some(if hold.is_none() { 6 } else { 2 }), "{hold:?}: else it would come and go for ever");
        let to = Recipient { has: &|_| six, ..Recipient::bare(&[1; 16], &shop) };
        let standing = Verified { version: 1, entries: entries.to_vec() }.standing_of(&to);
        assert_eq!(standing.iter().map(|offer| offer.hold).collect::<Vec<_>>(), [hold]);
    }
}

#[test]
fn while_a_way_back_is_paused_nobody_goes_back_nor_takes_what_it_sets_aside() {
    let back = |hold| {
        let mut back = entry(1, 1, 4, true);
        (back.custom.hold, back.digest) = (hold, Digest::of(b"back"));
        [needing(3, serde_json::json!({})), back]
    };
    let six = Has { live: Some(6), targets: [None; 2] };
    for has in [Has::default(), six] {
        assert_eq!(version_for(&back(None), &Board::default(), has), Some(1));
        assert_eq!(version_for(&back(Some(Hold::Paused)), &Board::default(), has), None);
    }
    let below = [needing(3, serde_json::json!({})), needing(7, serde_json::json!({}))];
    let mut paused = below.clone();
    paused[1].custom.hold = Some(Hold::Paused);
    assert_eq!(version_for(&paused, &Board::default(), six), None, "what is below a paused one is no way back");
}

#[test]
fn what_a_device_has_keeps_its_hold_beside_what_is_newer_and_the_newest_publication_of_it_counts() {
    let six = Digest::of(&6_u32.to_le_bytes());
    let mut recalled = needing(6, serde_json::json!({"memory-mib": 900}));
    recalled.custom.hold = Some(Hold::Recalled);
    let mut again = needing(6, serde_json::json!({}));
    (again.custom.published, again.ordinal) = (8, 8);
    let standing = |entries: &[Entry], groups: &[String], targets| {
        let has = Has { live: Some(6), targets };
        let to = Recipient { has: &|_| has, ..Recipient::bare(&[1; 16], groups) };
        let all = Verified { version: 1, entries: entries.to_vec() }.standing_of(&to);
        all.iter().map(|offer| (offer.version, offer.hold)).collect::<Vec<_>>()
    };
    let shop = groups(&["shop"]);
    let entries = [recalled.clone(), needing(7, serde_json::json!({}))];
    for targets in [[Some(six), None], [None, Some(six)]] {
        assert_eq!(standing(&entries, &shop, targets), [(6, Some(Hold::Recalled))]);
    }
    assert_eq!(standing(&entries, &shop, [None; 2]), []);
    assert_eq!(standing(&entries, &groups(&["lab"]), [Some(six), None]), [], "it is not for it");
    assert_eq!(standing(&[again.clone(), recalled.clone()], &shop, [Some(six), None]), [(6, None)]);
    again.custom.published = 5;
    assert_eq!(standing(&[again, recalled], &shop, [Some(six), None]), [(6, Some(Hold::Recalled))]);
}

#[test]
fn no_team_undoes_what_the_operator_stopped_nor_stops_what_it_offers() {
    let six = Digest::of(&6_u32.to_le_bytes());
    let of = |is_team: bool, hold| {
        let mut entry = needing(6, serde_json::json!({}));
        entry.custom.hold = hold;
        (entry.ordinal, entry.custom.published) = if is_team { (1 << 16, 99) } else { (0, 6) };
        entry
    };
    let shop = groups(&["shop"]);
    for (own, team) in [
        (Some(Hold::Recalled), None),
        (Some(Hold::Withdrawn), None),
        (Some(Hold::Paused), None),
        (None, Some(Hold::Recalled)),
        (None, Some(Hold::Paused)),
    ] {
        let entries = [of(false, own), of(true, team)];
        let verified = Verified { version: 1, entries: entries.to_vec() };
        let has = Has { live: Some(6), targets: [Some(six), None] };
        let standing = verified.standing_of(&Recipient { has: &|_| has, ..Recipient::bare(&id(1), &shop) });
        assert_eq!(standing.iter().map(|offer| offer.hold).collect::<Vec<_>>(), [own], "{own:?} {team:?}");
        let taken = version_for(&entries, &Board::default(), Has::default());
        assert_eq!(taken, if own.is_none() { Some(6) } else { None }, "{own:?} {team:?}");
    }
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
        ("waves", serde_json::json!([{"percent": 0, "from": 1}])),
        ("hold", serde_json::json!("stopped")),
        ("paused", serde_json::json!("now")),
        ("urgent", serde_json::json!(1)),
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
