//! A plan as written: a table for each step, with the defaults in it.

use crate::flags;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use toml::Value;

/// What each step of a verb may say beside the flags of the verb.
const KEYS_OF_EVERY_STEP: [&str; 2] = ["name", "verb"];
/// The same of steps that measure.
const KEYS_OF_MEASUREMENTS: [&str; 3] = ["against", "tolerance", "valid"];

/// What a step does: a command of the tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Measure this machine.
    Bench,
    /// Put load on a `serve`.
    Load,
    /// Find the highest rate.
    Search,
    /// Receive, in the background.
    Serve,
    /// Relay, in the background.
    Impair,
}

impl Verb {
    const ALL: [Self; 5] = [Self::Bench, Self::Load, Self::Search, Self::Serve, Self::Impair];

    /// The command's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bench => "bench",
            Self::Load => "load",
            Self::Search => "search",
            Self::Serve => "serve",
            Self::Impair => "impair",
        }
    }

    /// Whether it goes on while other steps run, until the plan ends.
    pub const fn is_background(self) -> bool {
        matches!(self, Self::Serve | Self::Impair)
    }

    /// The flags that a plan decides itself.
    const fn is_ours(self, key: &str) -> bool {
        matches!(key.as_bytes(), b"json") || matches!((self, key.as_bytes()), (Self::Impair, b"duration"))
    }

    /// The keys that a step of this verb may have.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        let own: &[&str] = if self.is_background() { &[] } else { &KEYS_OF_MEASUREMENTS };
        let flags = flags::of(self.name()).map(|flag| flag.name.trim_start_matches('-'));
        let flags = flags.filter(move |key| !self.is_ours(key));
        KEYS_OF_EVERY_STEP.into_iter().chain(own.iter().copied()).chain(flags)
    }

    fn has(self, key: &str) -> bool {
        self.keys().any(|of| of == key)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value that the command line puts over that of every step.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    key: String,
    value: Value,
}

/// As typed: `KEY=VALUE`.
pub fn parse_set(text: &str) -> Result<Set, String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE, as duration=1"))?;
    let value = match value {
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        text => Value::String(text.to_owned()),
    };
    Ok(Set { key: key.trim_start_matches('-').to_owned(), value })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    question: Option<String>,
    #[serde(default)]
    defaults: BTreeMap<String, Value>,
    #[serde(default)]
    step: Vec<BTreeMap<String, Value>>,
}

/// One step as written, defaults included.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTable {
    /// What it is called.
    pub name: String,
    /// What it does.
    pub verb: Verb,
    /// Everything else.
    pub keys: BTreeMap<String, Value>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is to find out.
    pub question: Option<String>,
    /// In order.
    pub steps: Vec<StepTable>,
}

impl Plan {
    /// From TOML, with `set` over it.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, set: &[Set]) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if document.step.is_empty() {
            return Err(
                "there is no [[step]]: a plan is one or more of them, each with a name and a verb".to_owned()
            );
        }
        let mut steps: Vec<StepTable> = Vec::new();
        for (number, keys) in (1..).zip(document.step) {
            let step = StepTable::new(number, keys)?;
            if steps.iter().any(|earlier| earlier.name == step.name) {
                return Err(format!("two steps have the name {:?}", step.name));
            }
            steps.push(step);
        }
        for (place, pairs) in [
            ("defaults", document.defaults),
            ("--set", set.iter().map(|set| (set.key.clone(), set.value.clone())).collect()),
        ] {
            for (key, value) in pairs {
                let mut is_taken = false;
                for step in steps.iter_mut().filter(|step| step.verb.has(&key)) {
                    is_taken = true;
                    if place == "--set" {
                        step.keys.insert(key.clone(), value.clone());
                    } else {
                        step.keys.entry(key.clone()).or_insert_with(|| value.clone());
                    }
                }
                if !is_taken || KEYS_OF_EVERY_STEP.contains(&&*key) {
                    return Err(format!("{place}: no step takes {key:?}; {}", there_are(&steps)));
                }
            }
        }
        Ok(Self { question: document.question, steps })
    }
}

/// The keys of any of these.
fn there_are(steps: &[StepTable]) -> String {
    let mut keys: Vec<&str> = steps.iter().flat_map(|step| step.verb.keys()).collect();
    keys.retain(|key| !KEYS_OF_EVERY_STEP.contains(key));
    keys.sort_unstable();
    keys.dedup();
    format!("there are: {}", keys.join(", "))
}

impl StepTable {
    fn new(number: usize, mut keys: BTreeMap<String, Value>) -> Result<Self, String> {
        let mut take = |key: &str, wanted: &str| match keys.remove(key) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text),
            Some(other) => Err(format!("{key} is {other}, and should be {wanted}")),
            None => Err(format!("{key} is missing: {wanted}")),
        };
        let name = take("name", "a text of its own").map_err(|why| format!("step {number}: {why}"))?;
        if let Some(bad) = name.chars().find(|c| c.is_control() || "{}\"".contains(*c)) {
            return Err(format!(
                "step {number}: name has {bad:?} in it: use letters, digits, blanks and hyphens"
            ));
        }
        let verbs = Verb::ALL.map(Verb::name).join(", ");
        let verb = take("verb", &format!("one of {verbs}")).map_err(|why| format!("step {name:?}: {why}"))?;
        let Some(verb) = Verb::ALL.into_iter().find(|of| of.name() == verb) else {
            return Err(format!("step {name:?}: there is no verb {verb:?}; there are: {verbs}"));
        };
        if let Some(key) = keys.keys().find(|key| !verb.has(key)) {
            let mut known: Vec<&str> = verb.keys().collect();
            known.sort_unstable();
            return Err(if verb.is_ours(key) {
                format!("step {name:?}: {key} is not the step's to say: the plan decides it")
            } else {
                format!("step {name:?}: {verb} has no {key:?}; there are: {}", known.join(", "))
            });
        }
        Ok(Self { name, verb, keys })
    }
}
