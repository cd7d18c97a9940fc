//! A line of the hypervisor's: words of `key=value`, perhaps after a word or two without one.

use serde_json::{Map, Value};

/// One line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Words without a value, such as `host` or `ok`.
    pub words: Vec<&'a str>,
    /// Keys and values in their order.
    pub fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Record<'a> {
    /// Takes `line` apart.
    pub fn parse(line: &'a str) -> Self {
        let (mut words, mut fields) = (Vec::new(), Vec::new());
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(field) => fields.push(field),
                None => words.push(word),
            }
        }
        Self { words, fields }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let field = self.fields.iter().find(|(name, _)| *name == key)?;
        Some(field.1)
    }

    /// The value of `key` as a number; 0 if it is none.
    pub fn number(&self, key: &str) -> u64 {
        self.get(key)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }

    /// As JSON: `kind` has the words.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        if !self.words.is_empty() {
            object.insert("kind".into(), self.words.join(" ").into());
        }
        for (key, value) in &self.fields {
            let value = match value.parse::<u64>() {
                Ok(number) => number.into(),
                Err(_) => match value.parse::<f64>() {
                    Ok(number) if number.is_finite() => number.into(),
                    _ => Value::from(*value),
                },
            };
            object.insert((*key).into(), value);
        }
        object.into()
    }
}

/// A whole answer is an error or not.
pub fn is_error(answer: &str) -> bool {
    answer.starts_with("error: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let record = Record::parse("host free-mib=3 cores=2/4 uptime-s=7 time-s=1.250000");
        assert_eq!(record.words, ["host"]);
        assert_eq!(
            (record.number("free-mib"), record.get("cores")),
            (3, Some("2/4"))
        );
        assert_eq!(
            record.json().to_string(),
            r#"{"kind":"host","free-mib":3,"cores":"2/4","uptime-s":7,"time-s":1.25}"#
        );
    }

    #[test]
    fn names_that_look_like_nothing_stay_text() {
        let record = Record::parse("guest=1 name=inf driver=ready");
        assert_eq!(
            record.json().to_string(),
            r#"{"guest":1,"name":"inf","driver":"ready"}"#
        );
    }
}
