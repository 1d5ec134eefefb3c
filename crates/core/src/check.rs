//! Reading untrusted JSON so that every fault is found at once, each with its JSON pointer (SPEC 4.1).
//!
//! serde stops at the first fault; this reader notes it and goes on. Rejected: a JSON Schema validator,
//! whose messages do not name our rules and which would still leave the conversion to be written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One fault of an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flaw {
    /// Where, as a JSON pointer: `/requests/1/size/cpu`.
    pub pointer: String,
    /// Which rule: `required`, `unknown_key`, `type`, `format`, `min`, `max`, `enum`, `unique`, `exists`.
    pub rule: String,
    /// The value that breaks it; `null` where it is missing.
    pub value: Value,
    /// A sentence for people.
    pub message: String,
}

/// The faults found so far.
#[derive(Debug, Default)]
pub struct Flaws(pub Vec<Flaw>);

impl Flaws {
    /// Notes a fault.
    pub fn add(&mut self, pointer: &str, rule: &str, value: &Value, message: impl Into<String>) {
        // Why: a pasted megabyte must not come back in the answer.
        let shown = match value {
            Value::String(s) if s.len() > 200 => Value::String(format!("{}…", s.chars().take(200).collect::<String>())),
            Value::Array(_) | Value::Object(_) if value.to_string().len() > 200 => Value::Null,
            other => other.clone(),
        };
        self.0.push(Flaw { pointer: pointer.to_owned(), rule: rule.to_owned(), value: shown, message: message.into() });
    }

    /// `value` when nothing was found, else all faults.
    pub fn finish<T>(self, value: T) -> Result<T, Vec<Flaw>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// Reads the keys of one JSON object; unknown keys are faults.
pub struct Object<'a> {
    pointer: String,
    map: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// Begins to read `value`, which stands at `pointer`.
    pub fn new(pointer: &str, value: &'a Value, flaws: &mut Flaws) -> Self {
        let map = value.as_object();
        if map.is_none() {
            flaws.add(pointer, "type", value, "must be an object");
        }
        Self { pointer: pointer.to_owned(), map, known: Vec::new() }
    }

    /// The pointer of a key.
    pub fn at(&self, key: &str) -> String {
        format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1"))
    }

    /// The raw value of a key; `null` counts as not given.
    pub fn raw(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map?.get(key).filter(|v| !v.is_null())
    }

    /// As `raw`, and a fault when it is missing.
    pub fn required(&mut self, key: &'static str, flaws: &mut Flaws) -> Option<&'a Value> {
        let found = self.raw(key);
        if found.is_none() && self.map.is_some() {
            flaws.add(&self.at(key), "required", &Value::Null, format!("{key} is required"));
        }
        found
    }

    /// A text of at most `max` characters.
    pub fn text(&mut self, key: &'static str, max: usize, flaws: &mut Flaws) -> Option<String> {
        let value = self.raw(key)?;
        text_of(&self.at(key), value, max, flaws)
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str, max: usize, flaws: &mut Flaws) -> Option<String> {
        let value = self.required(key, flaws)?;
        text_of(&self.at(key), value, max, flaws)
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, key: &'static str, min: u64, max: u64, flaws: &mut Flaws) -> Option<u64> {
        let value = self.raw(key)?;
        integer_of(&self.at(key), value, min, max, flaws)
    }

    /// Seconds (or another number) within bounds, fractions allowed.
    pub fn number(&mut self, key: &'static str, min: f64, max: f64, flaws: &mut Flaws) -> Option<f64> {
        let value = self.raw(key)?;
        number_of(&self.at(key), value, min, max, flaws)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, flaws: &mut Flaws) -> Option<bool> {
        let value = self.raw(key)?;
        if value.as_bool().is_none() {
            flaws.add(&self.at(key), "type", value, "must be true or false");
        }
        value.as_bool()
    }

    /// One of a list of words, by a parser that knows them.
    pub fn word<T>(&mut self, key: &'static str, words: &[(&str, T)], flaws: &mut Flaws) -> Option<T>
    where
        T: Copy,
    {
        let value = self.raw(key)?;
        word_of(&self.at(key), value, words, flaws)
    }

    /// A list, element by element with its pointer.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        max: usize,
        flaws: &mut Flaws,
        mut read: impl FnMut(&str, &'a Value, &mut Flaws) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = self.raw(key) else { return Vec::new() };
        let pointer = self.at(key);
        let Some(items) = value.as_array() else {
            flaws.add(&pointer, "type", value, "must be a list");
            return Vec::new();
        };
        if items.len() > max {
            flaws.add(&pointer, "max", &Value::from(items.len()), format!("at most {max} entries"));
            return Vec::new();
        }
        items.iter().enumerate().filter_map(|(i, v)| read(&format!("{pointer}/{i}"), v, flaws)).collect()
    }

    /// A map of texts to texts.
    pub fn texts(&mut self, key: &'static str, max: usize, flaws: &mut Flaws) -> BTreeMap<String, String> {
        let Some(value) = self.raw(key) else { return BTreeMap::new() };
        let pointer = self.at(key);
        let Some(map) = value.as_object() else {
            flaws.add(&pointer, "type", value, "must be an object of texts");
            return BTreeMap::new();
        };
        if map.len() > max {
            flaws.add(&pointer, "max", &Value::from(map.len()), format!("at most {max} entries"));
        }
        let pairs = map.iter().filter_map(|(k, v)| Some((k.clone(), text_of(&format!("{pointer}/{k}"), v, 255, flaws)?)));
        pairs.collect()
    }

    /// Notes every key that nobody asked for, with the nearest known one.
    pub fn finish(self, flaws: &mut Flaws) {
        let Some(map) = self.map else { return };
        for (key, value) in map.iter().filter(|(k, _)| !self.known.contains(&k.as_str())) {
            let hint = nearest(key, &self.known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            flaws.add(&self.at(key), "unknown_key", value, format!("`{key}` is not a known key{hint}"));
        }
    }
}

/// Reads a text of at most `max` characters.
pub fn text_of(pointer: &str, value: &Value, max: usize, flaws: &mut Flaws) -> Option<String> {
    let Some(text) = value.as_str() else {
        flaws.add(pointer, "type", value, "must be a text");
        return None;
    };
    if text.is_empty() {
        flaws.add(pointer, "min", value, "must not be empty");
        return None;
    }
    if text.chars().count() > max {
        flaws.add(pointer, "max", value, format!("at most {max} characters"));
        return None;
    }
    if text.contains('\0') {
        flaws.add(pointer, "format", value, "must not contain a zero byte");
        return None;
    }
    Some(text.to_owned())
}

/// Reads a whole number within bounds.
pub fn integer_of(pointer: &str, value: &Value, min: u64, max: u64, flaws: &mut Flaws) -> Option<u64> {
    if !value.is_number() || value.as_f64().is_some_and(|f| f.fract() != 0.0) {
        flaws.add(pointer, "type", value, "must be a whole number");
        return None;
    }
    match value.as_u64() {
        Some(n) if n > max => flaws.add(pointer, "max", value, format!("must be at most {max}")),
        Some(n) if n >= min => return Some(n),
        _ => flaws.add(pointer, "min", value, format!("must be at least {min}")),
    }
    None
}

/// Reads a number within bounds.
pub fn number_of(pointer: &str, value: &Value, min: f64, max: f64, flaws: &mut Flaws) -> Option<f64> {
    match value.as_f64() {
        None => flaws.add(pointer, "type", value, "must be a number"),
        Some(n) if n < min => flaws.add(pointer, "min", value, format!("must be at least {min}")),
        Some(n) if n > max => flaws.add(pointer, "max", value, format!("must be at most {max}")),
        Some(n) => return Some(n),
    }
    None
}

/// Reads one of a list of words.
pub fn word_of<T: Copy>(pointer: &str, value: &Value, words: &[(&str, T)], flaws: &mut Flaws) -> Option<T> {
    let Some(text) = value.as_str() else {
        flaws.add(pointer, "type", value, "must be a text");
        return None;
    };
    let found = words.iter().find(|(w, _)| *w == text).map(|(_, t)| *t);
    if found.is_none() {
        let all: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
        flaws.add(pointer, "enum", value, format!("must be one of {}", all.join(", ")));
    }
    found
}

/// The known word nearest to `word` by edits, where one is near enough to be meant.
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let (distance, best) = known.iter().map(|k| (edits(word, k), *k)).min()?;
    (distance <= 1 + best.len() / 3).then_some(best)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let cost = if ca == *cb { diagonal } else { 1 + diagonal.min(left).min(*cell) };
            diagonal = *cell;
            *cell = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_fault_is_found_at_once() {
        let value = json!({"name": 5, "cpuu": 1, "size": 0});
        let mut flaws = Flaws::default();
        let mut object = Object::new("/requests/0", &value, &mut flaws);
        object.required_text("name", 10, &mut flaws);
        object.integer("size", 1, 9, &mut flaws);
        object.integer("cpu", 1, 9, &mut flaws);
        object.required("kind", &mut flaws);
        object.finish(&mut flaws);
        let found: Vec<_> = flaws.0.iter().map(|f| (f.pointer.as_str(), f.rule.as_str())).collect();
        let expected = [
            ("/requests/0/name", "type"),
            ("/requests/0/size", "min"),
            ("/requests/0/kind", "required"),
            ("/requests/0/cpuu", "unknown_key"),
        ];
        assert_eq!(found, expected);
        assert!(flaws.0.iter().any(|f| f.message.contains("did you mean `cpu`")));
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("same", "same"), 0);
    }
}
