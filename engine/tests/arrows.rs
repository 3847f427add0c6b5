//! The arrows between the modules, and what the repository promises about itself, read from its text.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::large_stack_arrays, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file below `folder`, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Lines of code: without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(number, line)| {
        let line = line.split("//").next().unwrap_or_default().trim();
        (!line.is_empty()).then_some((number + 1, line))
    })
}

/// Where one of `words` stands in the code of `folder`.
fn found(folder: &str, words: &[&str]) -> Vec<String> {
    let sources = sources(&root().join(folder));
    assert!(!sources.is_empty(), "{folder} is empty");
    let mut found = Vec::new();
    for (path, text) in &sources {
        for (number, line) in code(text) {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    found
}

#[test]
fn the_wire_and_the_protocol_know_no_system_and_no_clock() {
    let io = [
        "crate::sys",
        "crate::runtime",
        "super::super::sys",
        "super::super::runtime",
        "Instant::now",
        "SystemTime",
        "UdpSocket",
        "TcpStream",
        "socket2",
        "libc::",
        "io_uring",
        "std::thread",
        "std::fs",
        "std::time::Instant",
    ];
    for folder in ["engine/src/wire", "engine/src/proto"] {
        assert_eq!(found(folder, &io), Vec::<String>::new());
    }
    assert_eq!(found("engine/src/wire", &["crate::proto"]), Vec::<String>::new());
    assert_eq!(found("engine/src/sys", &["crate::proto", "crate::runtime"]), Vec::<String>::new());
}

#[test]
fn unsafe_is_in_sys_alone() {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code"];
    for place in
        found("engine/src", &words).iter().chain(&found("loadgen", &words)).chain(&found("bench", &words))
    {
        assert!(place.contains("/engine/src/sys/"), "{place}");
    }
    assert!(!found("engine/src/sys", &words).is_empty(), "the words are the right ones");
    for place in found("engine/tests", &["unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code"]) {
        assert!(place.contains("no_alloc.rs") || place.contains("arrows.rs"), "{place}");
    }
}

#[test]
fn the_top_level_is_the_agreed_one() {
    let agreed =
        ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "engine", "bench", "loadgen", "docs", "scripts"];
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().ok();
    let names: BTreeSet<String> = match listed.filter(|output| output.status.success()) {
        Some(output) => String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|path| path.split('/').next().map(str::to_owned))
            .collect(),
        // Without git (an unpacked archive): what lies there, but for the build.
        None => std::fs::read_dir(root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "target")
            .collect(),
    };
    let foreign: Vec<&String> =
        names.iter().filter(|name| !name.starts_with('.') && !agreed.contains(&name.as_str())).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert!(names.contains("engine") && names.contains("Cargo.toml"));
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo!", "unimplemented!", "#[ignore", "dbg!("];
    for folder in ["engine", "loadgen", "bench"] {
        let places = found(folder, &words);
        let others: Vec<&String> = places.iter().filter(|place| !place.contains("tests/arrows.rs")).collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}

/// Rule ids like R-RETRY-3 in a text.
fn rules(text: &str) -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for (start, _) in text.match_indices("R-") {
        let rest = &text[start + 2..];
        let name: String = rest.chars().take_while(char::is_ascii_uppercase).collect();
        let Some(number) = rest[name.len()..].strip_prefix('-') else { continue };
        let number: String = number.chars().take_while(char::is_ascii_digit).collect();
        let begins = !text[..start].ends_with(|before: char| before.is_ascii_alphanumeric());
        if begins && name.len() > 1 && !number.is_empty() {
            rules.insert(format!("R-{name}-{number}"));
        }
    }
    rules
}

#[test]
fn cited_rules_exist() {
    assert_eq!(
        rules("see (R-RETRY-3, XR-A-1) R-X and R-PACE-12."),
        ["R-PACE-12", "R-RETRY-3"].map(str::to_owned).into()
    );
    let sources = sources(&root().join("engine/src"));
    let cited: BTreeSet<String> = sources.iter().flat_map(|source| rules(&source.1)).collect();
    assert!(cited.len() > 5, "the code cites rules: {cited:?}");
    let Ok(protocol) = std::fs::read_to_string(root().join("docs/PROTOCOL.md")) else {
        return eprintln!("docs/PROTOCOL.md is not written yet; cited: {cited:?}");
    };
    let written = rules(&protocol);
    let missing: Vec<&String> = cited.difference(&written).collect();
    assert!(missing.is_empty(), "docs/PROTOCOL.md lacks {missing:?}");
}
