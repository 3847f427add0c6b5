//! What the fuzzers found worth keeping, as ordinary tests. `scripts/check fuzz TARGET` looks for more; an input that broke a
//! promise is kept in the corpus, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use udp_plus::sim::fuzz::{TARGETS, run};

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// Names of what is in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn replay(target: &str) {
    let folder = corpora().join(target);
    let inputs = names(&folder);
    assert!(inputs.len() >= 10, "{target}: {} inputs prove little", inputs.len());
    for name in inputs {
        let path = folder.join(name);
        let input = std::fs::read(&path).unwrap();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(target, &input))) {
            eprintln!("the input: {}", path.display());
            std::panic::resume_unwind(panic);
        }
    }
}

macro_rules! targets {
    ($($target:ident)+) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })+

        #[test]
        fn every_target_is_replayed_and_has_a_binary() {
            let here: BTreeSet<String> = [$(stringify!($target)),+].map(String::from).into();
            let known: BTreeSet<String> = TARGETS.iter().map(|target| target.0.to_owned()).collect();
            assert_eq!(here, known);
            // The command line's corpus is replayed in `loadgen`.
            let elsewhere = BTreeSet::from(["cli_config".to_owned()]);
            let folders = names(&corpora());
            assert!(folders.difference(&elsewhere).eq(known.iter()), "{folders:?}");
            let binaries = names(&corpora().with_file_name("fuzz_targets"));
            let binaries: BTreeSet<_> = binaries.iter().map(|name| name.trim_end_matches(".rs").to_owned()).collect();
            assert!(binaries.difference(&elsewhere).eq(known.iter()), "{binaries:?}");
        }
    };
}

targets! { v1_decode v2_decode v2_round_trip cmsg endpoint two_endpoints key_file }
