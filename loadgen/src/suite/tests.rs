use super::plan::{Plan, parse_set};
use super::process::Ended;
use super::step::{Step, steps};
use proptest::prelude::*;

/// A plan in which everything there is is used.
const WHOLE: &str = r#"
question = "what is left at 1 % loss?"

[defaults]
wire = "binary"
duration = 0.5
valid = true

[[step]]
name = "far end"
verb = "serve"
rcvbuf = "1MiB"

[[step]]
name = "bad network"
verb = "impair"
to = "{far end}"
loss = 1
seed = 7

[[step]]
name = "through it"
verb = "load"
target = "{bad network}"
rate = 1e3
slo = "p99<1s,loss<1e-3"

[[step]]
name = "alone"
verb = "bench"
size = "1KiB"
no-gso = true
no-gro = false
duration = 2
wire = "auto"
peer-wire = ["10.0.0.0/8=csv", "10.0.0.1=binary"]
repeat = 3

[[step]]
name = "knee"
verb = "search"
slo = "p99<5ms"
width = 10
"#;

fn parse(text: &str, set: &[&str]) -> Result<Vec<Step>, String> {
    let set: Vec<_> = set.iter().map(|set| parse_set(set).expect("KEY=VALUE")).collect();
    steps(&Plan::parse(text, &set)?)
}

fn lines(text: &str, set: &[&str]) -> Vec<String> {
    parse(text, set).expect("a plan").iter().map(Step::line).collect()
}

#[test]
fn steps_are_what_someone_would_type() {
    assert_eq!(
        lines(WHOLE, &[]),
        [
            "udp-plus serve --rcvbuf=1MiB --wire=binary --bind=127.0.0.1:0",
            "udp-plus impair --loss=1 --seed=7 '--to={far end}' --listen=127.0.0.1:0",
            "udp-plus load --duration=0.5 --rate=1000 '--slo=p99<1s,loss<1e-3' '--target={bad network}' --wire=binary",
            "udp-plus bench --duration=2 --no-gso --peer-wire=10.0.0.0/8=csv --peer-wire=10.0.0.1=binary --repeat=3 \
             --size=1KiB --wire=auto",
            "udp-plus search --duration=0.5 '--slo=p99<5ms' --width=10 --wire=binary",
        ]
    );
    let typed = parse(WHOLE, &[]).expect("a plan");
    let of = |number: usize| typed[number].line_with(|name| Some(format!("at {name}"))).join(" ");
    assert!(of(1).ends_with("--to=at far end --listen=127.0.0.1:0 --json -"), "{}", of(1));
    assert!(!of(0).contains("--json"), "serve has no report");
}

#[test]
fn what_is_set_is_over_all_steps_that_have_it() {
    let lines = lines(WHOLE, &["duration=9", "--no-gso=false", "valid=false"]);
    assert!(
        lines[2].contains("--duration=9")
            && lines[3].contains("--duration=9")
            && !lines[3].contains("no-gso")
    );
    assert!(!lines[1].contains("duration"), "what others talk to is there until the end");
    assert!(parse_set("duration").is_err());
}

/// Every error names the step and the key, and says what there is.
#[test]
fn plans_that_cannot_be_meant() {
    let step = |rest: &str| format!("[[step]]\nname = \"a\"\nverb = \"bench\"\n{rest}");
    for (text, wanted) in [
        (String::new(), &["no [[step]]"][..]),
        ("[[step".to_owned(), &["line 1"]),
        ("stepp = 1".to_owned(), &["stepp", "question", "defaults", "step"]),
        ("step = 1".to_owned(), &["line 1", "step"]),
        ("[[step]]\nverb = \"bench\"".to_owned(), &["step 1", "name is missing"]),
        ("[[step]]\nname = \"a\"".to_owned(), &["\"a\"", "verb is missing", "bench, load, search"]),
        ("[[step]]\nname = 7\nverb = \"bench\"".to_owned(), &["step 1", "name is 7"]),
        ("[[step]]\nname = \" \"\nverb = \"bench\"".to_owned(), &["step 1", "name is"]),
        ("[[step]]\nname = \"{x}\"\nverb = \"bench\"".to_owned(), &["step 1", "name has '{'"]),
        ("[[step]]\nname = \"a\"\nverb = \"recv\"".to_owned(), &["\"a\"", "\"recv\"", "serve, impair"]),
        (step("sise = 64"), &["\"a\"", "bench has no \"sise\"", "size,", "against,"]),
        (step("size = \"many\""), &["\"a\"", "--size", "many"]),
        (step("size = 8"), &["\"a\"", "--size 8 is too small"]),
        (step("size = [64, 128]"), &["\"a\"", "size is a list"]),
        (step("size = true"), &["\"a\"", "size is true"]),
        (step("size = 1979-05-27"), &["\"a\"", "size is 1979-05-27"]),
        (step("size = { is = 64 }"), &["\"a\"", "size is {"]),
        (step("size = \"64\\n65\""), &["\"a\"", "in one line"]),
        (step("rate = inf"), &["\"a\"", "--rate"]),
        (step("rate = -1"), &["\"a\"", "--rate"]),
        (step("duration = nan"), &["\"a\"", "--duration"]),
        (step("pin = 1"), &["\"a\"", "pin is 1", "true or false"]),
        (step("peer-wire = [1]"), &["\"a\"", "--peer-wire"]),
        (step("lane = 3"), &["\"a\"", "--lane", "binary wire"]),
        (step("slo = \"p99\""), &["\"a\"", "--slo"]),
        (step("json = \"x\""), &["\"a\"", "json is not the step's to say"]),
        ("[[step]]\nname = \"a\"\nverb = \"load\"\ntarget = \"nowhere\"".to_owned(), &["\"a\"", "\"nowhere\" is not HOST:PORT"]),
        (step("target = \"h:1\""), &["\"a\"", "bench has no \"target\""]),
        (step("valid = 1"), &["\"a\"", "valid is 1"]),
        (step("tolerance = \"much\""), &["\"a\"", "tolerance", "much"]),
        (step("tolerance = true"), &["\"a\"", "tolerance is true"]),
        (step("against = 7"), &["\"a\"", "against is 7"]),
        (step("against = \"/no/such/file\""), &["\"a\"", "/no/such/file", "udp-plus run PLAN --json"]),
        (step("") + &step(""), &["two steps have the name \"a\""]),
        (step("") + "[defaults]\nsise = 64", &["defaults", "\"sise\"", "there are:", "size,"]),
        (step("") + "[defaults]\nverb = \"load\"", &["defaults", "\"verb\""]),
        (step("") + "[defaults]\nwidth = 5", &["defaults", "\"width\""]),
        ("[[step]]\nname = \"a\"\nverb = \"load\"".to_owned(), &["\"a\"", "--target"]),
        ("[[step]]\nname = \"a\"\nverb = \"load\"\ntarget = \"{b}\"".to_owned(), &["\"a\"", "\"b\"", "there are: none"]),
        (
            "[[step]]\nname = \"s\"\nverb = \"serve\"\n[[step]]\nname = \"a\"\nverb = \"load\"\ntarget = \"{b}\"".to_owned(),
            &["\"a\"", "\"b\"", "there are: s"],
        ),
        ("[[step]]\nname = \"a\"\nverb = \"impair\"\nduration = 1\nto = \"h:1\"".to_owned(), &["duration is not"]),
        ("[[step]]\nname = \"a\"\nverb = \"search\"".to_owned(), &["\"a\"", "needs --slo"]),
        ("[[step]]\nname = \"a\"\nverb = \"search\"\nslo = \"p9<1s\"\nrepeat = 2".to_owned(), &["\"a\"", "--repeat"]),
    ] {
        let why = parse(&text, &[]).expect_err(&text);
        assert!(wanted.iter().all(|part| why.contains(part)), "{text}\n{why}\n{wanted:?}");
    }
    let why = parse(WHOLE, &["threshold=1"]).expect_err("nobody takes it");
    assert!(why.contains("--set: no step takes \"threshold\"") && why.contains("duration"), "{why}");
}

#[test]
fn a_saved_report_has_to_be_one_of_the_step_with_runs_enough() {
    let path = std::env::temp_dir().join(format!("udp-plus-saved-{}.json", std::process::id()));
    let step = |more: &str| format!("[[step]]\nname = \"a\"\nverb = \"bench\"\nagainst = {path:?}\n{more}");
    let run = r#"{"schema": 1, "latency_ns": {"p50": 1, "p99": 2}, "msgs_per_s": 3}"#;
    let runs = format!(r#"{{"schema": 1, "latency_ns": {{}}, "runs": [{}]}}"#, [run; 6].join(","));
    for (text, more, wanted) in [
        ("no JSON", "", "is no JSON"),
        ("{}", "", "has no report of this step"),
        (run, "", "1 runs there and 1 here can show no difference: set repeat = 6 or more"),
        (&runs, "repeat = 5", "6 runs there and 5 here"),
        (r#"{"schema": 1, "steps": [{"name": "b"}]}"#, "", "has no step \"a\""),
        (r#"{"schema": 1, "steps": [{"name": "a", "report": null}]}"#, "", "has no report of this step"),
        (r#"{"schema": 1, "goal": {}, "rate": 5}"#, "", "is a report of another command than bench"),
    ] {
        std::fs::write(&path, text).expect("writable");
        let why = parse(&step(more), &[]).expect_err(text);
        assert!(why.contains(wanted) && why.contains("step \"a\": against"), "{text}: {why}");
    }
    for text in [runs.clone(), format!(r#"{{"steps": [{{"name": "a", "report": {runs}}}]}}"#)] {
        std::fs::write(&path, text).expect("writable");
        assert!(parse(&step("repeat = 6\ntolerance = 0.5"), &[]).is_ok());
    }
    let _ = std::fs::remove_file(&path);
}

#[test]
fn the_plan_in_the_guide_is_one() {
    let guide = include_str!("../../../docs/LOADGEN.md");
    let plan = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a plan");
    let steps = parse(&plan.replace("against", "# against"), &[]).expect("a plan");
    assert_eq!(steps.len(), 4);
    assert!(parse(plan, &[]).is_err_and(|why| why.contains("base.json")), "that is yet to be made");
}

#[test]
fn the_plans_in_scripts_are_plans_and_say_what_they_are_for() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).expect("readable");
            assert!(
                ["# Question: ", "# Takes ", "Read: "].iter().all(|part| text.contains(part)),
                "{path:?}"
            );
            if let Err(why) = parse(&text, &["duration=0.5"]) {
                panic!("{path:?}: {why}");
            }
            count += 1;
        }
    }
    assert!(count >= 2, "{count}");
}

/// Six runs with this median latency, and the rate the other way round.
fn runs(ns: u64) -> serde_json::Value {
    let run = |number: u64| {
        let latency = ns * (100 + number) / 100;
        let percentiles = serde_json::json!({"p50": latency, "p99": 3 * latency});
        serde_json::json!({"schema": 1, "valid": number > 0, "latency_ns": percentiles, "msgs_per_s": 1e9 / latency as f64})
    };
    let all: Vec<_> = (0..6).map(run).collect();
    serde_json::json!({"schema": 1, "valid": false, "invalid_reason": "run 1: noise", "latency_ns": {}, "runs": all})
}

#[test]
fn a_step_is_held_against_what_was_saved() {
    let path = std::env::temp_dir().join(format!("udp-plus-against-{}.json", std::process::id()));
    let ended = |report| Ended { status: Some(0), report: Some(report), said: String::new(), seconds: 1.0 };
    let held = |text: &str, before: &serde_json::Value, now: serde_json::Value| {
        std::fs::write(&path, before.to_string()).expect("writable");
        let text = format!("[[step]]\nname = \"a\"\nagainst = {path:?}\n{text}");
        super::held::hold(&parse(&text, &[]).expect("a plan")[0], &ended(now))
    };
    let bench = |more: &str| format!("verb = \"bench\"\nrepeat = 6\n{more}");
    // A tenth slower is shown, and tolerated; three tenths are not.
    for (now, more, causes) in [
        (1_000, "", 0),
        (700, "", 0),
        (1_080, "", 0),
        (1_300, "", 3),
        (1_300, "tolerance = \"40%\"", 0),
        (1_080, "tolerance = 1", 3),
        (1_000, "valid = true", 1),
    ] {
        let held = held(&bench(more), &runs(1_000), runs(now));
        assert_eq!(held.causes.len(), causes, "{now} {more}: {:?}", held.causes);
        assert_eq!(held.comparison.map(|all| all.figures.len()), Some(3));
    }
    let worse = held(&bench(""), &runs(1_000), runs(1_300));
    assert!(worse.causes[0].starts_with("latency p50 is worse than in"), "{:?}", worse.causes);
    assert_eq!(held(&bench("valid = true"), &runs(1_000), runs(1_000)).causes, ["not valid: run 1: noise"]);

    let search = |rate: u64| serde_json::json!({"schema": 1, "goal": {}, "rate": rate, "valid": true});
    for (now, causes) in [(1_000, 0), (950, 0), (850, 1)] {
        let held = held("verb = \"search\"\nslo = \"p99<1s\"", &search(1_000), search(now));
        assert_eq!(held.causes.len(), causes, "{now}: {:?}", held.causes);
    }
    // Nothing in common is no proof that nothing got worse.
    let empty = serde_json::json!({"schema": 1, "valid": true, "latency_ns": {}});
    assert!(
        held(&bench(""), &runs(1_000), empty).causes[0]
            .starts_with("there is nothing that could be held against")
    );
    let _ = std::fs::remove_file(&path);
    let noisy = serde_json::json!({"valid": false, "notes": ["2 of 9 trials", "too short"]});
    assert_eq!(super::held::why_invalid(&noisy), "2 of 9 trials; too short");
}

/// Whatever its status: a run of which nothing is known was not well.
#[test]
fn a_step_that_wrote_no_report_has_failed() {
    for (step, report, ok) in
        [(2, None, false), (2, Some(serde_json::json!({"schema": 1})), true), (0, None, true)]
    {
        let step = &parse(WHOLE, &[]).expect("a plan")[step];
        let ended = Ended { status: Some(0), report, said: "bye".to_owned(), seconds: 1.0 };
        let held = super::held::hold(step, &ended);
        let ran = super::report::Ran::new(step, &[], ended, held);
        assert_eq!(ran.row().contains("FAILED: it wrote no report"), !ok, "{}", ran.row());
    }
}

/// What went through a relay that lost by itself went through another network than the plan says.
#[test]
fn a_relay_that_lost_by_itself_is_not_valid() {
    for (valid, says) in [(true, false), (false, true)] {
        let step = &parse(WHOLE, &[]).expect("a plan")[1];
        let report = serde_json::json!({"schema": 1, "valid": valid, "invalid_reason": "its sockets lost 3"});
        let ended = Ended { status: Some(0), report: Some(report), said: String::new(), seconds: 1.0 };
        let held = super::held::hold(step, &ended);
        let ran = super::report::Ran::new(step, &[], ended, held);
        assert_eq!(ran.row().contains("not valid: its sockets lost 3"), says, "{}", ran.row());
        let environment = crate::environment::Environment::capture();
        let mut report = super::report::SuiteReport::new("plan".as_ref(), None, environment);
        report.add(ran);
        report.conclude(1);
        assert_eq!(report.foot().contains("not all valid"), says, "{}", report.foot());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever becomes of a plan in an editor: steps, or an error that says something.
    #[test]
    fn mangled_plans(cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, "[ -~\n]{0,6}"), 1..4)) {
        let mut text = WHOLE.to_owned();
        for (at, length, instead) in cuts {
            let at = at.index(text.len());
            let until = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(until) {
                text.replace_range(at..until, &instead);
            }
        }
        if let Err(why) = parse(&text, &[]) {
            prop_assert!(why.trim().len() > 10, "{}", why);
        }
    }
}
