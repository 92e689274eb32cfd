//! Takes values out of TOML key by key, and keeps count of what is wrong and what was never asked for.
//!
//! Rejected: serde derives. They stop at the first error, name no line for a value that is out of
//! bounds, and list every known key for one that is mistyped.

use super::error::Problem;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use toml::de::{DeTable, DeValue};

/// A value with the line on which it stands.
#[derive(Debug)]
struct Found {
    line: usize,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Text(String),
    Whole(i64),
    Flag(bool),
    List(Vec<Found>),
    /// Of a kind that no key takes.
    Other(&'static str),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Whole(_) => "a whole number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    /// By section and key; what is taken is removed.
    values: BTreeMap<(String, String), Found>,
    /// Lines of the sections' headers.
    headers: BTreeMap<String, usize>,
    known: Vec<(&'static str, &'static str)>,
    /// Where the keys stood that were taken.
    taken: BTreeMap<(&'static str, &'static str), usize>,
    problems: Vec<Problem>,
    /// What is no TOML cannot be judged key by key.
    broken: bool,
}

impl Reader {
    pub(super) fn new(text: &str) -> Self {
        let mut reader = Self::default();
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(0, |span| line_at(text, span.start));
            reader.problem(line, String::new(), format!("this is not TOML: {}", error.message()));
        }
        reader.broken = !errors.is_empty();
        for (name, value) in table.get_ref() {
            let line = line_at(text, name.span().start);
            let DeValue::Table(keys) = value.get_ref() else {
                reader.values.insert((String::new(), name.get_ref().to_string()), found(text, line, value.get_ref()));
                continue;
            };
            reader.headers.insert(name.get_ref().to_string(), line);
            for (key, value) in keys {
                let line = line_at(text, key.span().start);
                let place = (name.get_ref().to_string(), key.get_ref().to_string());
                reader.values.insert(place, found(text, line, value.get_ref()));
            }
        }
        reader
    }

    /// `section.key` of all that was asked for.
    pub(super) fn known(&self) -> Vec<String> {
        self.known.iter().map(|(section, key)| format!("{section}.{key}")).collect()
    }

    pub(super) fn whole(
        &mut self,
        section: &'static str,
        key: &'static str,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.value(section, key, &expected, |value| match value {
            Value::Whole(n) => {
                let good = u64::try_from(n).ok().filter(|n| bounds.contains(n));
                good.ok_or_else(|| format!("{n} is out of bounds: {expected} is expected"))
            }
            other @ (Value::Text(_) | Value::Flag(_) | Value::List(_) | Value::Other(_)) => {
                Err(wrong_kind(&other, &expected))
            }
        })
        .unwrap_or(default)
    }

    pub(super) fn flag(&mut self, section: &'static str, key: &'static str, default: bool) -> bool {
        self.value(section, key, "true or false", |value| match value {
            Value::Flag(flag) => Ok(flag),
            other @ (Value::Text(_) | Value::Whole(_) | Value::List(_) | Value::Other(_)) => {
                Err(wrong_kind(&other, "true or false"))
            }
        })
        .unwrap_or(default)
    }

    /// A string that `check` turns into what it means.
    pub(super) fn text<T, E: Display>(
        &mut self,
        section: &'static str,
        key: &'static str,
        check: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.value(section, key, "a string", |value| text(&value, &check))
    }

    /// A list of at most `most` such strings.
    pub(super) fn list<T, E: Display>(
        &mut self,
        section: &'static str,
        key: &'static str,
        most: usize,
        check: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let expected = "a list of strings";
        let items = self.value(section, key, expected, |value| match value {
            Value::List(items) if items.len() <= most => Ok(items),
            Value::List(items) => Err(format!("{} entries: at most {most} are expected", items.len())),
            other @ (Value::Text(_) | Value::Whole(_) | Value::Flag(_) | Value::Other(_)) => {
                Err(wrong_kind(&other, expected))
            }
        });
        let mut good = Vec::new();
        for item in items.unwrap_or_default() {
            match text(&item.value, &check) {
                Ok(value) => good.push(value),
                Err(why) => self.problem(item.line, format!("{section}.{key}"), why),
            }
        }
        good
    }

    /// A problem that shows only when several values are looked at together.
    pub(super) fn conflict(&mut self, section: &'static str, key: &'static str, text: &str) {
        let line = self.taken.get(&(section, key)).copied().unwrap_or(0);
        self.problem(line, format!("{section}.{key}"), text.to_owned());
    }

    /// All problems by line, those of keys that nothing asked for among them.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        if !self.broken {
            self.unknown_sections();
            self.unknown_keys();
        } else {
            self.problems.retain(|problem| problem.key.is_empty());
        }
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }

    fn unknown_sections(&mut self) {
        for (name, line) in std::mem::take(&mut self.headers) {
            if self.known.iter().any(|(section, _)| *section == name) {
                continue;
            }
            self.values.retain(|(section, _), _| *section != name);
            let sections = self.known.iter().map(|(section, _)| *section);
            let near = nearest(&name, sections).map_or_else(String::new, |near| format!("; did you mean [{near}]?"));
            self.problem(line, format!("[{}]", shown(&name)), format!("unknown section{near}"));
        }
    }

    fn unknown_keys(&mut self) {
        for ((section, key), found) in std::mem::take(&mut self.values) {
            let elsewhere = self.known.iter().find(|(other, known)| *other != section && *known == key);
            let own = self.known.iter().filter(|(other, _)| *other == section).map(|(_, key)| *key);
            let hint = match (elsewhere, nearest(&key, own)) {
                (Some((other, _)), _) => format!("; it belongs under [{other}]"),
                (None, Some(near)) => format!("; did you mean `{near}`?"),
                (None, None) => String::new(),
            };
            let place = if section.is_empty() { shown(&key) } else { format!("{}.{}", shown(&section), shown(&key)) };
            let what = if section.is_empty() { "no key stands outside of a section" } else { "unknown key" };
            self.problem(found.line, place, format!("{what}{hint}"));
        }
    }

    /// Takes the value of a key, and notes why it is none.
    fn value<T>(
        &mut self,
        section: &'static str,
        key: &'static str,
        expected: &str,
        convert: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push((section, key));
        let found = self.values.remove(&(section.to_owned(), key.to_owned()))?;
        self.taken.insert((section, key), found.line);
        let result = match found.value {
            other @ Value::Other(_) => Err(wrong_kind(&other, expected)),
            value @ (Value::Text(_) | Value::Whole(_) | Value::Flag(_) | Value::List(_)) => convert(value),
        };
        result.map_err(|why| self.problem(found.line, format!("{section}.{key}"), why)).ok()
    }

    fn problem(&mut self, line: usize, key: String, text: String) {
        self.problems.push(Problem { line, key, text });
    }
}

fn text<T, E: Display>(value: &Value, check: impl Fn(&str) -> Result<T, E>) -> Result<T, String> {
    match value {
        Value::Text(text) => check(text).map_err(|why| why.to_string()),
        Value::Whole(_) | Value::Flag(_) | Value::List(_) | Value::Other(_) => Err(wrong_kind(value, "a string")),
    }
}

fn wrong_kind(value: &Value, expected: &str) -> String {
    format!("{expected} is expected, this is {}", value.kind())
}

fn found(text: &str, line: usize, value: &DeValue<'_>) -> Found {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Value::Whole(n),
            Err(_) => Value::Other("a number of more than 64 bits"),
        },
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Array(items) => {
            let item =
                |item: &toml::Spanned<DeValue<'_>>| found(text, line_at(text, item.span().start), item.get_ref());
            Value::List(items.iter().map(item).collect())
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    };
    Found { line, value }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// The name that a mistyped one was probably meant to be.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let score = |known: &'a str| (strsim::jaro_winkler(&name.replace('_', "-"), known), known);
    let best = known.map(score).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.8).then_some(best.1)
}

/// A name from the file, safe to print.
fn shown(name: &str) -> String {
    name.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
