//! Clocks that are wrong, in every order over start, commit and restart. The promise: never locked
//! out, and nothing that one clock refuses for its signature or version is accepted under another.

use super::super::fixture::{DAY, NOW, Operator};
use super::super::{Progress, RefusalCode, Role};
use super::{offers, open, refusal};
use crate::sys::{FaultyDisk, ManualClock, Torn};
use std::time::Duration;

const YEAR_2099: u64 = 4_070_908_800;

/// What the system's clock says in a run, and whether the kernel vouches for it.
const CLOCKS: [(u64, bool); 10] = [
    (0, false),
    (0, true),
    (3600, false),
    (NOW - 4000 * DAY, true),
    (NOW - 1, false),
    (NOW + 2 * DAY, true),
    (YEAR_2099, false),
    (YEAR_2099, true),
    (u64::MAX, false),
    (u64::MAX, true),
];

/// Far enough ahead that everything is past its date, and vouched for.
fn is_too_late((system, synchronized): (u64, bool)) -> bool {
    synchronized && system > NOW + 90 * DAY
}

#[tokio::test]
async fn no_order_of_wrong_clocks_locks_a_device_out_or_lets_it_accept_what_was_refused() {
    let mut operator = Operator::new();
    let good: Vec<_> = (1..=5).map(|version| operator.make(version, NOW + u64::from(version))).collect();
    let forged = Operator::new().make(9, NOW + 9);
    operator.expires.insert(Role::Timestamp, NOW - 1);
    let expired = operator.make(9, NOW - 2);
    for first in CLOCKS {
        for second in CLOCKS {
            for third in [(0, false), (YEAR_2099, true)] {
                let mut disk = FaultyDisk::new();
                let mut taken = 0;
                for (made, run) in good.iter().zip([(NOW, true), first, second, third, (NOW, true)]) {
                    let case = format!("{first:?} {second:?} {third:?}, in {run:?}");
                    disk = disk.reboot(Torn::Lost);
                    let mut trust = open(&disk, &operator).unwrap();
                    let clock = ManualClock::new(run.0, run.1);
                    assert_eq!(offers(&trust).first().copied().unwrap_or(0), taken, "{case}: what was trusted stands");
                    let result = trust.update(&made.offered(), &clock).await;
                    if is_too_late(run) {
                        assert_eq!(refusal(result).code, RefusalCode::Expired, "{case}");
                    } else {
                        assert_eq!(result.unwrap(), Progress::Committed, "{case}");
                        taken = made.version;
                    }
                    assert_eq!(refusal(trust.update(&forged.offered(), &clock).await).code, RefusalCode::BadSignature);
                    if taken > 1 {
                        let stale = refusal(trust.update(&good[0].offered(), &clock).await);
                        assert_eq!(stale.code, RefusalCode::StaleMetadata, "{case}");
                    }
                    assert_eq!(refusal(trust.update(&expired.offered(), &clock).await).code, RefusalCode::Expired);
                    assert_eq!(offers(&trust), [taken], "{case}");
                }
                assert_eq!(taken, 5, "{first:?} {second:?} {third:?}: a right clock takes the next set at once");
            }
        }
    }
}

#[tokio::test]
async fn a_clock_that_jumps_within_a_run_leaves_no_mark() {
    let operator = Operator::new();
    for (system, synchronized) in CLOCKS {
        let disk = FaultyDisk::new();
        let mut trust = open(&disk, &operator).unwrap();
        let clock = ManualClock::new(NOW, true);
        trust.update(&operator.make(1, NOW).offered(), &clock).await.unwrap();
        clock.set_system(system, synchronized);
        clock.advance(Duration::from_secs(60));
        trust.device_time(&clock);
        let _ = trust.update(&operator.make(2, NOW + 1).offered(), &clock).await;
        clock.set_system(NOW + 60, true);
        let time = trust.device_time(&clock);
        assert!((NOW + 60..NOW + 70).contains(&time), "{system} {synchronized}: {time}");
        assert_eq!(trust.update(&operator.make(3, NOW + 2).offered(), &clock).await.unwrap(), Progress::Committed);
        assert_eq!(offers(&open(&disk.reboot(Torn::Lost), &operator).unwrap()), [3]);
    }
}

#[tokio::test]
async fn a_power_cut_under_any_clock_leaves_what_was_or_what_came() {
    let operator = Operator::new();
    let (old, new) = (operator.make(1, NOW), operator.make(2, NOW + 1));
    for (system, synchronized) in CLOCKS.into_iter().filter(|&clock| !is_too_late(clock)) {
        for cut in 0.. {
            let disk = FaultyDisk::new();
            let clock = ManualClock::new(system, synchronized);
            let mut trust = open(&disk, &operator).unwrap();
            trust.update(&old.offered(), &clock).await.unwrap();
            disk.cut_after(cut);
            let done = trust.update(&new.offered(), &clock).await.is_ok();
            let after = disk.reboot(Torn::Lost);
            let mut trust = open(&after, &operator).unwrap();
            assert!(offers(&trust) == [2] || !done && offers(&trust) == [1], "{system} cut {cut}");
            let again = ManualClock::new(0, false);
            assert!(trust.update(&new.offered(), &again).await.is_ok(), "{system} cut {cut}");
            assert_eq!(offers(&trust), [2]);
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_signed_issue_far_ahead_is_undone_only_by_new_timestamp_keys() {
    let mut operator = Operator::new();
    // An operator whose own clock stood at 2099 has signed with it.
    operator.expires = Role::ALL.map(|role| (role, YEAR_2099 + 90 * DAY)).into();
    let disk = FaultyDisk::new();
    let long = super::signed::root(
        &operator,
        1,
        Role::Root,
        super::super::author::Holders { keys: vec![&operator.keys[&Role::Root]], threshold: 1 },
        &[&operator.keys[&Role::Root]],
    );
    operator.roots = vec![long];
    let mut trust = open(&disk, &operator).unwrap();
    let clock = ManualClock::new(0, false);
    let ahead = operator.make(1, YEAR_2099);
    // The root of these tests lasts 1,000 days: a set that was issued after its end is never taken.
    let refused = refusal(trust.update(&ahead.offered(), &clock).await);
    assert_eq!((refused.code, refused.role), (RefusalCode::Expired, Role::Root));
    assert_eq!(trust.device_time(&clock), 0, "a refused date raises no floor");
    operator.expires = Role::ALL.map(|role| (role, NOW + 90 * DAY)).into();
    assert_eq!(trust.update(&operator.make(1, NOW).offered(), &clock).await.unwrap(), Progress::Committed);
}
