//! `udp-plus ab -- A -- B`: two command lines, in turns, each run a process of its own; then what differs.

use crate::cli::AbArgs;
use crate::compare;
use crate::error::usage;
use crate::report::JsonTarget;
use crate::stop::Stop;
use crate::words::Words;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::process::{Command, ExitCode, Stdio};

/// Runs the command.
pub fn run(args: &AbArgs) -> Result<ExitCode> {
    let [a, b] = arms(&args.arms)?;
    let json = JsonTarget::open(args.json.as_deref())?;
    let words = Words::new(json.takes_stdout());
    let stop = Stop::on_signals()?;
    let mut of_arms: [Vec<Value>; 2] = Default::default();
    let mut failure = None;
    'pairs: for pair in 0..args.repeat {
        // a b, b a, a b: what grows all the time falls on both.
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut of_pair = [Value::Null, Value::Null];
        for arm in order {
            words.say(&format!("pair {} of {}, {}", pair + 1, args.repeat, ["a", "b"][arm]));
            if stop.is_requested() {
                break;
            }
            match once([&a, &b][arm]) {
                Ok(run) => of_pair[arm] = run,
                Err(error) if of_arms[0].is_empty() => return Err(error),
                Err(error) => {
                    failure = Some(format!("pair {}, {}: {error:#}", pair + 1, ["a", "b"][arm]));
                    break 'pairs;
                }
            }
        }
        if stop.is_requested() || of_pair.iter().any(Value::is_null) {
            break;
        }
        for (arm, run) in of_arms.iter_mut().zip(of_pair) {
            arm.push(run);
        }
    }
    let [of_a, of_b] = &of_arms;
    if of_a.is_empty() {
        bail!("interrupted before a pair was complete");
    }
    // A run that is told to stop fails as well, which is not its own doing.
    if stop.is_requested() && of_a.len() < args.repeat as usize {
        failure = Some(format!("interrupted after {} of {} pairs", of_a.len(), args.repeat));
    }
    let [refs_a, refs_b] = [of_a, of_b].map(|runs| runs.iter().collect::<Vec<_>>());
    let comparison = compare::compare(&refs_a, &refs_b, true, args.threshold.0);
    words.say(&compare::show(&comparison));
    if let Some(failure) = &failure {
        words.say(&format!("  FAILED: {failure}; these are the pairs before it"));
    }
    let words_of =
        |arm: &[OsString]| arm.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut value = serde_json::to_value(&comparison)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("causes".into(), json!(failure.iter().collect::<Vec<_>>()));
        fields.insert("arms".into(), json!([words_of(&a), words_of(&b)]));
        fields.insert("a".into(), json!(of_a));
        fields.insert("b".into(), json!(of_b));
    }
    json.write(&value)?;
    Ok(if failure.is_some() { ExitCode::FAILURE } else { comparison.status() })
}

/// The two command lines: what stands before the next `--`, and what behind it.
fn arms(words: &[OsString]) -> Result<[Vec<OsString>; 2]> {
    let arms: Vec<Vec<OsString>> = words.split(|word| word == "--").map(<[_]>::to_vec).collect();
    let arms: [Vec<OsString>; 2] = arms
        .try_into()
        .map_err(|_| usage("ab wants two command lines: ab -- bench --cc model -- bench --cc cubic"))?;
    for arm in &arms {
        if arm.is_empty() {
            return Err(usage("one of the two command lines of ab is empty"));
        }
        if let Some(word) = arm.iter().find(|word| *word == "--json" || *word == "--repeat") {
            return Err(usage(format!(
                "{} is ab's own flag: put it before the first --",
                word.to_string_lossy()
            )));
        }
        let verb = arm.iter().find(|word| !is_path(word)).map(|word| word.to_string_lossy());
        if let Some(verb) = verb.filter(|verb| NOT_COMPARED.contains(&verb.as_ref())) {
            return Err(usage(format!("ab compares runs of bench and load, and none of {verb}")));
        }
    }
    Ok(arms)
}

/// Commands whose reports have no figures that `ab` compares.
const NOT_COMPARED: [&str; 10] =
    ["serve", "search", "run", "compare", "ab", "send", "recv", "baseline", "impair", "doctor"];

fn is_path(word: &OsStr) -> bool {
    word.to_string_lossy().contains('/')
}

/// One run: of this program, or of the one that an arm begins with, if that is a path.
fn once(arm: &[OsString]) -> Result<Value> {
    let (program, rest) = match arm.split_first() {
        Some((first, rest)) if is_path(first) => (first.into(), rest),
        _ => (std::env::current_exe().context("cannot find this program")?, arm),
    };
    let mut command = Command::new(&program);
    command.args(rest).args(["--json", "-"]).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if !output.status.success() {
        let causes = report["causes"]
            .as_array()
            .map(|causes| causes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "));
        let said = String::from_utf8_lossy(&output.stderr);
        // Of bad usage the last line only says where the flags are listed.
        let usage = said.lines().find(|line| line.starts_with("error: "));
        let why = causes.unwrap_or_else(|| usage.or(said.lines().last()).unwrap_or_default().to_owned());
        bail!("a run failed ({}): {why}", output.status);
    }
    if report["schema"] != 1 || report["latency_ns"].is_null() {
        bail!("a run gave no report with latencies: is it bench or load?");
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_command_lines() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            arms(&words("bench --size 64 -- bench")).expect("two"),
            [words("bench --size 64"), words("bench")]
        );
        for (text, why) in [
            ("bench", "two command lines"),
            ("bench -- bench -- bench", "two command lines"),
            ("bench --", "empty"),
            ("bench --json x -- bench", "--json is ab's own"),
            ("bench -- search --slo p99<1ms", "none of search"),
            ("./older/udp-plus serve -- bench", "none of serve"),
        ] {
            let words: Vec<OsString> = words(text);
            assert!(arms(&words).expect_err(text).to_string().contains(why), "{text}");
        }
    }
}
