//! Every input that was kept goes through its target again, so that the corpus cannot rot.

use std::fs;
use std::path::Path;

use hearth_fuzz_targets::ALL;

/// Most files that are kept of a target.
const FILES: usize = 40;
/// Most bytes of one of them.
const BYTES: u64 = 8 << 10;

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn replayed(name: &str) {
    let (_, run) = ALL.into_iter().find(|target| target.0 == name).expect("a target of this name");
    let files: Vec<_> =
        fs::read_dir(corpus().join(name)).expect("a corpus").map(|file| file.expect("a file")).collect();
    assert!(!files.is_empty() && files.len() <= FILES, "{name}: {} files", files.len());
    for file in files {
        let bytes = fs::read(file.path()).expect("readable");
        assert!(bytes.len() as u64 <= BYTES, "{}", file.path().display());
        run(&bytes);
        // A decoder meets what is cut off as well.
        run(&bytes[..bytes.len() / 2]);
    }
}

macro_rules! replayed {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replayed(stringify!($name)); })*

        #[test]
        fn every_target_is_replayed_and_has_its_program() {
            let names = [$(stringify!($name)),*];
            assert_eq!(ALL.map(|target| target.0), names);
            for name in names {
                assert!(corpus().join(format!("../bin/{name}.rs")).is_file(), "{name}");
            }
            assert_eq!(fs::read_dir(corpus()).expect("a corpus").count(), names.len(), "a corpus of no target");
        }
    };
}

replayed! { delta igd log merge pairing paths plan relay rows rules sealed settings text tunnel view wire }
