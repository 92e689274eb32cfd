//! Passwords, and the form in which Mosquitto keeps them.

use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA512, derive};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::num::NonZeroU32;

/// Mosquitto's own count. More would slow its log-ins down and win nothing: the password is random.
const ROUNDS: NonZeroU32 = NonZeroU32::new(101).expect("not zero");

/// 256 random bits as text.
pub(super) fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// As `mosquitto_passwd` writes it: `$7$`, PBKDF2 with SHA-512.
pub(super) fn hashed(password: &str) -> Result<String, getrandom::Error> {
    let mut salt = [0; 12];
    getrandom::fill(&mut salt)?;
    Ok(hashed_with(password, &salt))
}

fn hashed_with(password: &str, salt: &[u8]) -> String {
    let mut hash = [0; 64];
    derive(PBKDF2_HMAC_SHA512, ROUNDS, salt, password.as_bytes(), &mut hash);
    format!("$7${ROUNDS}${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By Python's `hashlib.pbkdf2_hmac("sha512", b"secret", b"saltsaltsalt", 101)`.
    #[test]
    fn the_hash_is_what_another_library_makes() {
        let expected = "$7$101$c2FsdHNhbHRzYWx0$Hd71hnNoKcARd6Fkl1rUE+opfs3V78ZJB2AgXXC1kaKQiWfi5S5qX7D1mY5b+bIzvyidWMnS8VA+YAsAygq9EA==";
        assert_eq!(hashed_with("secret", b"saltsaltsalt"), expected);
    }

    #[test]
    fn no_two_are_the_same() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(
            one != other && one.len() == 43 && one.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert_ne!(hashed("x").unwrap(), hashed("x").unwrap());
    }
}
