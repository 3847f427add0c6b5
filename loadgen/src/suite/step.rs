//! From the table of a step to a command line that the tool takes, as far as that shows before anything is sent.

use super::held::{self, Terms};
use super::plan::{Plan, StepTable, Verb};
use crate::cli::{self, Cli};
use crate::configure;
use clap::{ArgAction, FromArgMatches};
use toml::Value;

/// Where a step talks to before anyone listens: only to be looked at.
const NOBODY: &str = "127.0.0.1:9";
/// Where background steps listen, unless they say.
const ANY_PORT: &str = "127.0.0.1:0";

/// A step that makes sense.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is called.
    pub name: String,
    /// What it does.
    pub verb: Verb,
    /// What it is held to.
    pub terms: Terms,
    /// Its flags; `{name}` in them stands for where that step listens.
    words: Vec<String>,
}

impl Step {
    /// As someone would type it.
    pub fn line(&self) -> String {
        let words = self.words.iter().map(|word| match word.contains([' ', '<', '>', '*', ';', '&', '|']) {
            true => format!("'{word}'"),
            false => word.clone(),
        });
        format!("udp-plus {} {}", self.verb, words.collect::<Vec<_>>().join(" ")).trim_end().to_owned()
    }

    /// Verb and flags, with addresses in place of names.
    pub fn line_with(&self, address: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let mut line = vec![self.verb.name().to_owned()];
        line.extend(self.words.iter().map(|word| replace(word, &address)));
        if self.verb != Verb::Serve {
            line.extend(["--json".to_owned(), "-".to_owned()]);
        }
        line
    }
}

/// The steps of a plan, each checked as the tool would.
///
/// # Errors
/// Which step is wrong, and why.
pub fn steps(plan: &Plan) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    for table in &plan.steps {
        let listeners: Vec<&str> =
            steps.iter().filter(|step| step.verb.is_background()).map(|step| &*step.name).collect();
        let step = one(table, &listeners).map_err(|why| format!("step {:?}: {why}", table.name))?;
        steps.push(step);
    }
    Ok(steps)
}

fn one(table: &StepTable, listeners: &[&str]) -> Result<Step, String> {
    let (terms, flags) = held::terms(table)?;
    let command = cli::command();
    let command = command.find_subcommand(table.verb.name()).ok_or("there is no such command")?;
    let mut words = Vec::new();
    for (key, value) in flags {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&**key));
        let action = arg.map(clap::Arg::get_action).ok_or_else(|| format!("there is no {key:?}"))?;
        words.extend(typed(key, value, action).map_err(|why| format!("{key} {why}"))?);
    }
    let at = if table.verb == Verb::Serve { "bind" } else { "listen" };
    if table.verb.is_background() && !table.keys.contains_key(at) {
        words.push(format!("--{at}={ANY_PORT}"));
    }
    for word in &words {
        if let Some(name) = names(word).find(|name| !listeners.contains(name)) {
            let known = if listeners.is_empty() { "none".to_owned() } else { listeners.join(", ") };
            return Err(format!(
                "{word}: no step before this one that listens is called {name:?}; there are: {known}"
            ));
        }
    }
    let step = Step { name: table.name.clone(), verb: table.verb, terms, words };
    check(&step)?;
    Ok(step)
}

/// Whether the tool takes it.
fn check(step: &Step) -> Result<(), String> {
    let line = step.line_with(|_| Some(NOBODY.to_owned()));
    let line = std::iter::once("udp-plus".to_owned()).chain(line);
    let matches = cli::command().try_get_matches_from(line);
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| {
        let said = error.to_string();
        let said = said.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    })?;
    configure::check(&cli).map_err(|error| format!("{error:#}"))
}

/// A key and its value as flags.
fn typed(key: &str, value: &Value, action: &ArgAction) -> Result<Vec<String>, String> {
    if !action.takes_values() {
        return match value {
            Value::Boolean(true) => Ok(vec![format!("--{key}")]),
            Value::Boolean(false) => Ok(Vec::new()),
            other => Err(format!("is {other}, and should be true or false")),
        };
    }
    match value {
        Value::Array(values) if matches!(action, ArgAction::Append) => {
            values.iter().map(|value| Ok(format!("--{key}={}", text(value)?))).collect()
        }
        Value::Array(_) => Err("is a list, and should be one value".to_owned()),
        value => Ok(vec![format!("--{key}={}", text(value)?)]),
    }
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.chars().any(char::is_control) => {
            Err(format!("is {value}, and should be a text in one line"))
        }
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        other => Err(format!("is {other}, and should be a number or a text")),
    }
}

/// The names in `{}`.
fn names(word: &str) -> impl Iterator<Item = &str> {
    word.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
}

fn replace(word: &str, address: impl Fn(&str) -> Option<String>) -> String {
    let mut replaced = word.to_owned();
    for name in names(word) {
        if let Some(address) = address(name) {
            replaced = replaced.replace(&format!("{{{name}}}"), &address);
        }
    }
    replaced
}
