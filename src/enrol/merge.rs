//! A card's configuration put into the one that a board has: what the card says of the device and its broker, and
//! everything else, comments included, as it was.

use toml_edit::{DocumentMut, Item, Table, TomlError};

/// What a card decides; a key that it has not goes.
const KEYS: [(&str, &str); 8] = [
    ("device", "id"),
    ("device", "groups"),
    ("link", "broker"),
    ("link", "username"),
    ("link", "password-file"),
    ("link", "ca-file"),
    ("link", "certificate-file"),
    ("link", "key-file"),
];

pub(super) fn merge(existing: &str, card: &str) -> Result<String, TomlError> {
    let mut document: DocumentMut = existing.parse()?;
    let card: DocumentMut = card.parse()?;
    for (section, key) in KEYS {
        let new = card.get(section).and_then(|table| table.get(key)).and_then(Item::as_value);
        let table = document.entry(section).or_insert_with(|| Item::Table(Table::new()));
        let Some(table) = table.as_table_like_mut() else { continue };
        match (new, table.get_mut(key)) {
            (Some(new), Some(old)) => *old = Item::Value(new.clone()),
            (Some(new), None) => drop(table.insert(key, Item::Value(new.clone()))),
            (None, _) => drop(table.remove(key)),
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const REFERENCE: &str = include_str!("../../config/selvedge.toml");
    const CARD: &str = "[device]\nid = \"00112233445566778899aabbccddeeff\"\ngroups = [\"shop\"]\n\n[link]\n\
        broker = \"mqtts://broker.lan:8883\"\nca-file = \"/etc/selvedge/ca.pem\"\n\
        certificate-file = \"/etc/selvedge/device.pem\"\nkey-file = \"/etc/selvedge/device.key\"\n";

    #[test]
    fn the_reference_keeps_its_comments_and_gets_the_cards_values() {
        let merged = merge(REFERENCE, CARD).unwrap();
        let (config, card) = (Config::parse(&merged, "merged").unwrap(), Config::parse(CARD, "card").unwrap());
        assert_eq!(config, card);
        for comment in REFERENCE.lines().filter(|line| line.starts_with('#')) {
            assert!(merged.contains(comment), "{comment} is lost");
        }
        assert_eq!(merge(&merged, CARD).unwrap(), merged, "once more changes nothing");
    }

    #[test]
    fn what_the_card_does_not_decide_stays_and_what_it_leaves_out_goes() {
        let old = "# mine\n[engine]\nworkers = 3\n[link]\nbroker = \"mqtt://old\"\nusername = \"u\"\n\
            password-file = \"/p\"\nkeep-alive-seconds = 20\n";
        let merged = merge(old, CARD).unwrap();
        let config = Config::parse(&merged, "merged").unwrap();
        assert!(merged.starts_with("# mine"));
        assert_eq!((config.engine.workers, config.link.broker.keep_alive.as_secs()), (3, 20));
        assert_eq!((config.link.broker.username, config.link.broker.password_file), (None, None));
        assert_eq!(merge("", CARD).map(|text| Config::parse(&text, "new").unwrap()).unwrap().device.groups, ["shop"]);
        assert!(merge("[link\n", CARD).is_err());
    }
}
