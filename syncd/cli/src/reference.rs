//! Writes `docs/user/cli.md` from the arguments themselves, and checks that it is up to date.

use std::fmt::Write;
use std::path::Path;

use clap::CommandFactory;

use crate::args::Arguments;

const HEAD: &str =
    "# The command line\n\nMade from the program's own help; `HEARTH_BLESS=1 cargo test -p hearth` writes it anew.\n";

fn reference() -> String {
    let mut text = HEAD.to_owned();
    let mut command = Arguments::command().term_width(100);
    command.build();
    describe(&mut command, "", &mut text);
    text
}

fn describe(command: &mut clap::Command, parent: &str, text: &mut String) {
    let name = format!("{parent}{}", command.get_name());
    let help = command.render_long_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end()).expect("writing to a string does not fail");
    for below in command.get_subcommands_mut() {
        describe(below, &format!("{name} "), text);
    }
}

#[test]
fn the_reference_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/user/cli.md");
    let wanted = reference();
    if std::env::var_os("HEARTH_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("made");
        std::fs::write(&file, &wanted).expect("written");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == wanted, "docs/user/cli.md is not up to date: HEARTH_BLESS=1 cargo test -p hearth");
}
