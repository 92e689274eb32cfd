//! Which board this is.

use crate::sys::{Disk, DiskError};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A random 128-bit number that stands for one board; written as 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 16]);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IdError {
    #[error("{0:?} is no device id: 32 of 0-9 and a-f are expected")]
    NotHex(String),
    #[error("read the machine's id; or set `id` under [device]")]
    Read(#[source] DiskError),
    #[error("{0} holds no id: run `systemd-machine-id-setup`, or set `id` under [device]")]
    NoMachineId(&'static str),
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut id = [0; 16];
        let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut id) {
            Ok(()) if lower => Ok(Self(id)),
            Ok(()) | Err(_) => Err(IdError::NotHex(text.chars().take(40).collect())),
        }
    }
}

impl DeviceId {
    const MACHINE_ID: &str = "/etc/machine-id";

    /// The id of this board where none is configured. `/etc/machine-id` itself is confidential
    /// (machine-id(5)), so a digest of it stands for it.
    pub fn from_machine_id(disk: &dyn Disk) -> Result<Self, IdError> {
        let read = disk.read(Path::new(Self::MACHINE_ID), 128).map_err(IdError::Read)?;
        let text = read.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
        let machine = text.map(str::trim).unwrap_or_default();
        // Before the first boot is over the file is empty or says "uninitialized": no board's own id.
        let good =
            machine.len() == 32 && machine.bytes().all(|b| b.is_ascii_hexdigit()) && machine.bytes().any(|b| b != b'0');
        if !good {
            return Err(IdError::NoMachineId(Self::MACHINE_ID));
        }
        let digest = Sha256::new().chain_update("selvedge device id 1").chain_update(machine).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FaultyDisk;

    fn with_machine_id(text: &str) -> Result<DeviceId, IdError> {
        let disk = FaultyDisk::new();
        disk.write(Path::new(DeviceId::MACHINE_ID), text.as_bytes()).unwrap();
        DeviceId::from_machine_id(&disk)
    }

    #[test]
    fn an_id_reads_back_as_written_and_nothing_else_is_one() {
        let text = "00112233445566778899aabbccddeeff";
        assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
        for bad in [
            "",
            "0011",
            "00112233445566778899aabbccddeeff00",
            "00112233445566778899AABBCCDDEEFF",
            "zz112233445566778899aabbccddeeff",
        ] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_machines_id_gives_a_stable_id_that_does_not_show_it() {
        let machine = "0123456789abcdef0123456789abcdef";
        let id = with_machine_id(&format!("{machine}\n")).unwrap();
        assert_eq!(id, with_machine_id(machine).unwrap());
        assert_ne!(id.to_string(), machine);
        // Fixed for ever: a change would make every board a stranger to its operator.
        assert_eq!(id.to_string(), "e3fc6947ce6b60b62133f0d66344eed8");
    }

    #[test]
    fn a_board_without_an_id_is_told_what_to_do() {
        for none in
            ["", "uninitialized\n", "0123", "00000000000000000000000000000000", "g123456789abcdef0123456789abcdef"]
        {
            assert!(with_machine_id(none).unwrap_err().to_string().contains("systemd-machine-id-setup"), "{none}");
        }
        assert!(DeviceId::from_machine_id(&FaultyDisk::new()).is_err());
    }
}
