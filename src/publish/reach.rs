//! Whom a publication would reach, of the devices that told the broker of themselves. Pure.

use super::cutting::Audience;
use super::fleet::Fleet;
use crate::bundle::ModelName;
use crate::privacy::Status;
use crate::trust::{Board, in_share};

/// Devices, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    pub known: usize,
    /// Of these, such as told no state: what their boards are is not known, and they count as not meant.
    pub silent: usize,
    /// With a board as asked for and, where single devices are listed and no group, among those.
    pub fit: usize,
    /// Of these, in the share that is in at once.
    pub now: usize,
}

impl Reach {
    /// Devices do not tell their groups: all known ones count as members.
    pub fn of(fleet: &Fleet, model: &ModelName, audience: &Audience, now: u64) -> Self {
        let mut reach = Self { known: fleet.rows().len(), ..Self::default() };
        for (id, row) in fleet.rows() {
            let Some(status) = &row.status else {
                reach.silent += 1;
                continue;
            };
            let is_named = !audience.groups.is_empty() || audience.devices.contains(id);
            if is_named && audience.needs.are_met(&Board::from(&status.inventory), live(status, model)) {
                reach.fit += 1;
                reach.now += usize::from(in_share(model, id, audience.percent.min(audience.waves.percent_at(now))));
            }
        }
        reach
    }
}

/// The version of a model that a device says is live.
fn live(status: &Status, model: &ModelName) -> Option<u32> {
    status.models.iter().find(|state| state.model == *model).and_then(|state| state.live)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::topics;
    use crate::privacy::{BoardName, Inventory, ModelStatus};

    fn digits() -> ModelName {
        ModelName::new("digits").unwrap()
    }

    fn status(memory_total_mib: u32, live: u32) -> Status {
        let model = ModelStatus::idle(digits(), Some(live));
        let board = BoardName::of("Raspberry Pi 4 Model B Rev 1.4");
        Status {
            models: vec![model],
            inventory: Inventory { memory_total_mib, board, ..Inventory::default() },
            ..Status::default()
        }
    }

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        for n in 0..100_u128 {
            let id = hex::encode(n.to_be_bytes());
            let status = status(if n < 40 { 926 } else { 3793 }, if n % 2 == 0 { 3 } else { 6 });
            fleet.take(&topics::device_status(&id), &serde_json::to_vec(&status).unwrap());
        }
        fleet.take(&topics::device_online(hex::encode([255; 16])), br#"{"online":true}"#);
        fleet
    }

    fn reach(needs: &str, change: impl Fn(&mut Audience)) -> Reach {
        let needs = serde_json::from_str(needs).unwrap();
        let mut audience = Audience { needs, ..Audience::group("shop") };
        change(&mut audience);
        Reach::of(&fleet(), &digits(), &audience, 0)
    }

    #[test]
    fn those_with_such_a_board_are_counted_by_the_rule_that_boards_go_by() {
        let all = Reach { known: 101, silent: 1, fit: 100, now: 100 };
        assert_eq!(reach("{}", |_| ()), all);
        assert_eq!(reach(r#"{"board": "*Pi 4*", "memory-mib": 1000}"#, |_| ()), Reach { fit: 60, now: 60, ..all });
        assert_eq!(reach(r#"{"live": {"min": 3, "max": 5}}"#, |_| ()), Reach { fit: 50, now: 50, ..all });
        assert_eq!(reach(r#"{"board": "*Pi 5*"}"#, |_| ()), Reach { fit: 0, now: 0, ..all });
        let tenth = reach("{}", |audience| audience.percent = 10);
        assert!(tenth.fit == 100 && (3..=20).contains(&tenth.now), "{tenth:?}");
        let two = reach("{}", |audience| {
            audience.groups.clear();
            audience.devices = vec![5_u128.to_be_bytes(), 77_u128.to_be_bytes(), [9; 16]];
        });
        assert_eq!(two, Reach { fit: 2, now: 2, ..all });
    }
}
