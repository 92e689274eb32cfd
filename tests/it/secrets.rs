//! Values and a text that no chance brings about, and a scanner that finds them in any encoding.

use std::collections::HashMap;

/// What must not be found.
pub struct Secrets {
    /// An input, 8x8.
    pub values: Vec<f32>,
    pub text: String,
    /// An input that its model breaks on.
    pub number: i64,
    /// What models answered.
    pub results: Vec<Vec<f32>>,
}

impl Secrets {
    pub fn new() -> Self {
        // Each has four digits of its own and then 123: rounded anywhere behind them, the four stay.
        let value = |i: u32| format!("0.{}123", 2017 + i * 97).parse().unwrap();
        Self {
            values: (0..64).map(value).collect(),
            text: "Zebrafink-9137-Kobalt".into(),
            number: 7_316_248_195_530_921,
            results: Vec::new(),
        }
    }

    /// As the API takes binary data.
    pub fn bytes(&self) -> Vec<u8> {
        little_endian(&self.values)
    }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// All needles by their first bytes, so that one pass finds any of them.
pub struct Scanner {
    needles: HashMap<[u8; HEAD], Vec<(String, Vec<u8>)>>,
}

const HEAD: usize = 4;

impl Scanner {
    pub fn new(secrets: &Secrets) -> Self {
        let mut this = Self { needles: HashMap::new() };
        this.text("the text", secrets.text.as_bytes());
        for form in [secrets.text.to_lowercase(), secrets.text.to_uppercase()] {
            this.add("the text in another case", form.as_bytes());
        }
        this.values("an input", &secrets.values);
        this.text("a number", &secrets.number.to_le_bytes());
        this.text("a number in decimals", secrets.number.to_string().as_bytes());
        for results in &secrets.results {
            this.values("a result", results);
        }
        this
    }

    fn add(&mut self, what: &str, needle: &[u8]) {
        let head = *needle.first_chunk().expect("needles are longer than their heads");
        let places = self.needles.entry(head).or_default();
        if !places.iter().any(|(_, known)| known == needle) {
            places.push((what.to_owned(), needle.to_vec()));
        }
    }

    /// Bytes as they are and as texts that carry bytes.
    fn text(&mut self, what: &str, bytes: &[u8]) {
        self.add(what, bytes);
        let hex = hex::encode(bytes);
        self.add(&format!("{what} in hexadecimal"), hex.as_bytes());
        self.add(&format!("{what} in hexadecimal"), hex.to_uppercase().as_bytes());
        let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
        for between in [", ", ","] {
            self.add(&format!("{what} as a list of bytes"), numbers.join(between).as_bytes());
        }
        for shift in 0..3 {
            // Wherever the bytes stand in what was encoded: the ends depend on their neighbours.
            let skip = (3 - shift) % 3;
            let whole = &bytes[skip..skip + (bytes.len() - skip) / 3 * 3];
            self.add(&format!("{what} in base64"), base64(whole).as_bytes());
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
            self.add(&format!("{what} in UTF-16"), &wide(u16::to_le_bytes));
            self.add(&format!("{what} in UTF-16"), &wide(u16::to_be_bytes));
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            self.add(&format!("{what} in escapes"), escaped.as_bytes());
            self.add(&format!("{what} percent-encoded"), text.replace('-', "%2D").as_bytes());
        }
    }

    fn values(&mut self, what: &str, values: &[f32]) {
        for three in values.windows(3) {
            self.text(&format!("{what}, FP32"), &little_endian(three));
            let big: Vec<u8> = three.iter().flat_map(|value| value.to_be_bytes()).collect();
            self.add(&format!("{what}, FP32 in big endian"), &big);
            let double: Vec<u8> = three.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
            self.add(&format!("{what}, FP64"), &double);
        }
        for value in values {
            // Nought and small whole numbers stand everywhere and tell nothing.
            if let Some(digits) = distinct(*value) {
                self.decimal(what, &digits);
            }
        }
    }

    fn decimal(&mut self, what: &str, digits: &str) {
        let what = format!("{what} in decimals");
        self.add(&what, digits.as_bytes());
        let wide = |order: fn(u16) -> [u8; 2]| digits.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        self.add(&what, &wide(u16::to_le_bytes));
        self.add(&what, &wide(u16::to_be_bytes));
        self.add(&what, hex::encode(digits).as_bytes());
        let plain = digits.trim_start_matches("0.");
        if plain.len() < digits.len() {
            self.add(&what, format!("{}.{}", &plain[..1], &plain[1..]).as_bytes());
        }
    }

    /// Which secret stands there, if any.
    pub fn find(&self, bytes: &[u8]) -> Option<(&str, usize)> {
        for (at, head) in bytes.windows(HEAD).enumerate() {
            let Some(needles) = self.needles.get(head) else { continue };
            if let Some((what, _)) = needles.iter().find(|(_, needle)| bytes[at..].starts_with(needle)) {
                return Some((what, at));
            }
        }
        None
    }

    #[track_caller]
    pub fn assert_clean(&self, place: &str, bytes: &[u8]) {
        if let Some((what, at)) = self.find(bytes) {
            let around = &bytes[at.saturating_sub(200)..(at + 200).min(bytes.len())];
            panic!("{what} in {place} at byte {at}: {}", String::from_utf8_lossy(around));
        }
    }
}

/// The first digits, cut so that no rounding behind them changes them; `None` where they are not rare.
fn distinct(value: f32) -> Option<String> {
    let text = format!("{}", value.abs());
    let digits = if text.starts_with("0.") { 7 } else { text.find('.')? + 6 };
    let is_rare = text.len() > digits && !text[digits - 4..digits].contains("000");
    is_rare.then(|| text[..digits.min(text.len())].to_owned())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |three: &[u8; 3], i: usize| {
        let number = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        char::from(LETTERS[(number >> (18 - 6 * i)) as usize & 63])
    };
    bytes.as_chunks::<3>().0.iter().flat_map(|three| (0..4).map(move |i| letter(three, i))).collect()
}

#[test]
fn the_scanner_finds_what_is_planted_in_every_encoding_and_nothing_else() {
    let mut secrets = Secrets::new();
    secrets.results.push(vec![12.345_678, -7.654_321, 31.415_926]);
    let scanner = Scanner::new(&secrets);
    let noise: Vec<u8> = (0..100_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    assert_eq!(scanner.find(&noise), None);
    let quiet = "0.5 0.25 1.0 [0.0, 1e-05] 1790000000 \"time\":1790000123,\"latency\":[0,0,12,3] Zebrafink-9137";
    assert_eq!(scanner.find(quiet.as_bytes()), None);

    let (text, bytes) = (&secrets.text, secrets.bytes());
    let mut planted: Vec<(&str, Vec<u8>)> = vec![
        ("the text", text.clone().into_bytes()),
        ("hexadecimal", hex::encode(text).into_bytes()),
        ("HEXADECIMAL", hex::encode_upper(&bytes).into_bytes()),
        ("bytes in hexadecimal", hex::encode(&bytes[4..40]).into_bytes()),
        ("a list of bytes", format!("{:?}", &bytes[8..64]).into_bytes()),
        ("UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("UTF-16 in big endian", text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("a number", secrets.number.to_le_bytes().to_vec()),
        ("a number in decimals", format!("index {} out of bounds", secrets.number).into_bytes()),
        ("values", bytes.clone()),
        ("three values", bytes[40..52].to_vec()),
        ("results", little_endian(&secrets.results[0])),
        ("a result in decimals", b"-12.345677".to_vec()),
    ];
    for value in [secrets.values[0], secrets.values[41], secrets.values[63]] {
        planted.push(("JSON", serde_json::to_vec(&value).unwrap()));
        planted.push(("JSON of the double", serde_json::to_vec(&f64::from(value)).unwrap()));
        planted.push(("exponent", format!("{value:e}").into_bytes()));
        planted.push(("EXPONENT", format!("{value:.6E}").into_bytes()));
        planted.push(("padded", format!("{value:020.12}").into_bytes()));
        planted.push(("debug", format!("{value:?}").into_bytes()));
        planted.push(("five decimals", format!("{value:.5}").into_bytes()));
    }
    for offset in 0..3 {
        let shifted = [&b"xyz"[..offset], text.as_bytes(), b"end"].concat();
        planted.push(("base64", base64(&shifted).into_bytes()));
        let shifted = [&b"xyz"[..offset], &bytes, b"end"].concat();
        planted.push(("base64 of values", base64(&shifted).into_bytes()));
    }
    for (form, needle) in planted {
        for at in [0, 1, noise.len()] {
            let buffer = [&noise[..at], &needle, &noise[at..]].concat();
            assert!(scanner.find(&buffer).is_some(), "{form} at {at}: {}", String::from_utf8_lossy(&needle));
        }
    }
}
