//! Reads and writes the files of golden bytes.

use std::path::PathBuf;

use data_encoding::HEXLOWER;

/// Compares what the code writes with what is kept in a file, or keeps it if that is asked for.
pub(crate) fn same_as_file(name: &str, made: &str) {
    let path = file(name);
    if std::env::var_os("HEARTH_BLESS").is_some() {
        std::fs::write(&path, made).expect("the vectors can be written");
    }
    let kept = std::fs::read_to_string(&path).expect("the vectors can be read");
    assert!(kept == made, "{name} is not what the code writes; see the head of `main.rs`");
}

/// The words of each line that is no comment.
pub(crate) fn lines(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file(name)).expect("the vectors can be read");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// The bytes of a word.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).expect("lower-case hex")
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}
