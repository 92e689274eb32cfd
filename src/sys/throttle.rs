//! Whether heat or a weak supply holds the processor back now: its times then say nothing of a model.

use std::path::Path;

/// As far as the kernel tells; no where it tells nothing.
pub fn is_throttled() -> bool {
    throttled_below(Path::new("/sys"))
}

fn throttled_below(sys: &Path) -> bool {
    let number = |path: &Path, radix| {
        let text = std::fs::read_to_string(path).ok()?;
        u64::from_str_radix(text.trim().trim_start_matches("0x"), radix).ok()
    };
    // Raspberry Pi: weak supply, capped, throttled, near the limit; the higher bits tell of the past.
    let now =
        number(&sys.join("devices/platform/soc/soc:firmware/get_throttled"), 16).is_some_and(|bits| bits & 0xf != 0);
    now || cooling_devices(sys).any(|device| number(&device.join("cur_state"), 10).is_some_and(|state| state > 0))
}

/// Those that slow a processor down; a fan is none.
fn cooling_devices(sys: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let devices =
        std::fs::read_dir(sys.join("class/thermal")).into_iter().flatten().flatten().map(|entry| entry.path());
    devices.filter(|device| {
        let kind = std::fs::read_to_string(device.join("type")).unwrap_or_default().to_lowercase();
        kind.contains("cpufreq") || kind.contains("processor") || kind.contains("cpu-")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(sys: &Path, name: &str, text: &str) {
        let path = sys.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn heat_and_a_weak_supply_are_seen_and_a_fan_or_the_past_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        assert!(!throttled_below(sys), "nothing is told");
        write(sys, "class/thermal/cooling_device0/type", "pwm-fan\n");
        write(sys, "class/thermal/cooling_device0/cur_state", "3\n");
        write(sys, "class/thermal/cooling_device1/type", "thermal-cpufreq-0\n");
        write(sys, "class/thermal/cooling_device1/cur_state", "0\n");
        let firmware = "devices/platform/soc/soc:firmware/get_throttled";
        write(sys, firmware, "50000\n");
        assert!(!throttled_below(sys), "it was throttled once");
        write(sys, firmware, "50005\n");
        assert!(throttled_below(sys));
        write(sys, firmware, "0\n");
        write(sys, "class/thermal/cooling_device1/cur_state", "2\n");
        assert!(throttled_below(sys));
        write(sys, "class/thermal/cooling_device1/cur_state", "much\n");
        assert!(!throttled_below(sys));
    }
}
