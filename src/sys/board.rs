//! What this machine is called by its maker, and whether it runs on a battery.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The most bytes of one of the kernel's files that are looked at.
const MAX_FILE: u64 = 4096;

/// By the device tree, as boards have it, or by the firmware of a PC. None where neither tells.
pub fn board_name() -> Option<String> {
    name_below(Path::new("/"))
}

fn name_below(root: &Path) -> Option<String> {
    let tree = text(&root.join("proc/device-tree/model"));
    tree.or_else(|| text(&root.join("sys/class/dmi/id/product_name")))
}

fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    // The device tree ends its texts with a zero.
    let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A battery is being emptied and no mains supply is there; no where the kernel tells of neither.
pub fn is_on_battery() -> bool {
    on_battery_below(Path::new("/"))
}

fn on_battery_below(root: &Path) -> bool {
    let entries = std::fs::read_dir(root.join("sys/class/power_supply")).into_iter().flatten().flatten();
    let supplies: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let says = |supply: &Path, name: &str, wanted: &str| text(&supply.join(name)).is_some_and(|text| text == wanted);
    // A mouse has a battery, too.
    let of_system = |supply: &&PathBuf| !says(supply, "scope", "Device");
    let is_battery = |supply: &Path| says(supply, "type", "Battery");
    // 2 is a USB supply with which a voltage was agreed.
    let is_online = |supply: &Path| says(supply, "online", "1") || says(supply, "online", "2");
    let is_fed = supplies.iter().any(|supply| !is_battery(supply) && is_online(supply));
    let drains = |supply: &PathBuf| is_battery(supply) && says(supply, "status", "Discharging");
    !is_fed && supplies.iter().filter(of_system).any(drains)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_board_is_named_by_its_device_tree_before_its_firmware_and_never_at_length() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(name_below(root), None);
        write(root, "sys/class/dmi/id/product_name", "PowerEdge R640\n");
        assert_eq!(name_below(root).as_deref(), Some("PowerEdge R640"));
        write(root, "proc/device-tree/model", "\0");
        assert_eq!(name_below(root).as_deref(), Some("PowerEdge R640"), "an empty one says nothing");
        write(root, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0");
        assert_eq!(name_below(root).as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
        write(root, "proc/device-tree/model", &"x".repeat(1 << 20));
        assert_eq!(name_below(root).map(|name| name.len() as u64), Some(MAX_FILE));
    }

    #[test]
    fn a_battery_counts_while_it_is_emptied_and_nothing_else_feeds_the_board() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(!on_battery_below(root), "nothing is told");
        write(root, "sys/class/power_supply/mouse/type", "Battery\n");
        write(root, "sys/class/power_supply/mouse/status", "Discharging\n");
        write(root, "sys/class/power_supply/mouse/scope", "Device\n");
        assert!(!on_battery_below(root), "a mouse's");
        write(root, "sys/class/power_supply/BAT0/type", "Battery\n");
        write(root, "sys/class/power_supply/BAT0/status", "Charging\n");
        assert!(!on_battery_below(root));
        write(root, "sys/class/power_supply/BAT0/status", "Discharging\n");
        assert!(on_battery_below(root));
        write(root, "sys/class/power_supply/AC/type", "Mains\n");
        write(root, "sys/class/power_supply/AC/online", "1\n");
        assert!(!on_battery_below(root));
        write(root, "sys/class/power_supply/AC/online", "0\n");
        assert!(on_battery_below(root));
    }
}
