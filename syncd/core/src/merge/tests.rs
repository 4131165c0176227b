//! Files as they lie in homes, changed on two machines.

mod laws;

use super::*;

/// Merges both ways round, and checks that it makes no difference.
fn merged(path: &str, base: &str, ours: &str, theirs: &str) -> Option<String> {
    let [path, base, ours, theirs] = [path, base, ours, theirs].map(str::as_bytes);
    let merged = merge(path, base, ours, theirs);
    assert_eq!(merged, merge(path, base, theirs, ours), "swapping the sides makes a difference");
    merged.map(|bytes| String::from_utf8(bytes).expect("text"))
}

/// The base with each pair's first text replaced by its second.
fn with(base: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(base.to_owned(), |text, (old, new)| {
        assert_eq!(text.matches(old).count(), 1, "{old:?}");
        text.replacen(old, new, 1)
    })
}

/// Expects that two sets of changes give what both together give.
fn both(path: &str, base: &str, ours: &[(&str, &str)], theirs: &[(&str, &str)]) {
    let want = with(&with(base, ours), theirs);
    assert_eq!(merged(path, base, &with(base, ours), &with(base, theirs)).as_deref(), Some(&*want), "{path}");
}

/// Expects that two sets of changes are left alone.
fn neither(path: &str, base: &str, ours: &[(&str, &str)], theirs: &[(&str, &str)]) {
    assert_eq!(merged(path, base, &with(base, ours), &with(base, theirs)), None, "{path}");
}

const BASHRC: &str = "\
# ~/.bashrc: executed by bash(1) for non-login shells.

# If not running interactively, don't do anything
case $- in
    *i*) ;;
      *) return;;
esac

HISTCONTROL=ignoreboth
HISTSIZE=1000

# enable color support of ls
if [ -x /usr/bin/dircolors ]; then
    alias ls='ls --color=auto'
    alias grep='grep --color=auto'
fi

# some more ls aliases
alias ll='ls -alF'
alias la='ls -A'

export EDITOR=nano
";

#[test]
fn a_bashrc_takes_hunks_that_lie_apart() {
    let history = ("HISTSIZE=1000", "HISTSIZE=100000");
    both(".bashrc", BASHRC, &[history], &[("EDITOR=nano\n", "EDITOR=vim\nexport PATH=\"$HOME/bin:$PATH\"\n")]);
    both(".bashrc", BASHRC, &[("alias la='ls -A'\n", ""), history], &[("    alias grep='grep --color=auto'\n", "")]);
    neither(".bashrc", BASHRC, &[history], &[("HISTSIZE=1000", "HISTSIZE=5000")]);
    neither(".bashrc", BASHRC, &[history], &[("HISTCONTROL=ignoreboth", "HISTCONTROL=ignoredups")]);
    neither(".bashrc", BASHRC, &[("nano\n", "nano\n. ~/.nvm/nvm.sh\n")], &[("nano\n", "nano\n. ~/.cargo/env\n")]);
}

#[test]
fn line_ends_and_the_last_of_them_stay() {
    let dos = BASHRC.replace('\n', "\r\n");
    both(".bashrc", &dos, &[("HISTSIZE=1000", "HISTSIZE=9")], &[("nano", "vim")]);
    both(".bashrc", BASHRC.trim_end(), &[("HISTSIZE=1000", "HISTSIZE=9")], &[("nano", "vim")]);
    both(".bashrc", BASHRC, &[("HISTSIZE=1000", "HISTSIZE=9")], &[("=nano\n", "=nano")]);
    assert_eq!(merged(".bashrc", BASHRC, &with(BASHRC, &[("nano", "vim")]), &dos), None);
}

const GITCONFIG: &str = "\
[user]
\tname = Ada
\temail = ada@example.org
[core]
\teditor = vim
# what is pulled
[pull]
\trebase = true
[alias]
\tst = status
\tco = checkout
";

#[test]
fn a_gitconfig_merges_by_key() {
    let email = ("email = ada@example.org", "email = ada@example.com");
    both(".gitconfig", GITCONFIG, &[email], &[("name = Ada", "name = Ada L.")]);
    both(
        ".gitconfig",
        GITCONFIG,
        &[("\tco = checkout\n", "\tco = checkout\n[gpg]\n\tformat = ssh\n")],
        &[("\tst = status\n", "")],
    );
    both(".gitconfig", GITCONFIG, &[("# what is pulled\n[pull]\n\trebase = true\n", "")], &[email]);
    let added = merged(
        ".config/git/config",
        GITCONFIG,
        &with(GITCONFIG, &[("checkout\n", "checkout\n\tlg = log --graph\n")]),
        &with(GITCONFIG, &[("checkout\n", "checkout\n\tdf = diff\n")]),
    );
    let added = added.expect("different keys at one place are no clash");
    assert!(added.starts_with(GITCONFIG) && added.contains("lg = log") && added.contains("df = diff"), "{added}");
    neither(".gitconfig", GITCONFIG, &[email], &[("email = ada@example.org", "email = a@b")]);
    neither(".gitconfig", GITCONFIG, &[("\tst = status\n", "")], &[("st = status", "st = status -s")]);
    neither(".gitconfig", GITCONFIG, &[("[pull]\n\trebase = true\n", "")], &[("true\n", "true\n\tff = only\n")]);
    neither(".gitconfig", GITCONFIG, &[("checkout\n", "checkout\n\tlg = log\n")], &[("st =", "lg = log -p\n\tst =")]);
}

#[test]
fn a_gitconfig_with_a_key_twice_merges_by_line() {
    let twice =
        with(GITCONFIG, &[("\teditor = vim\n", "\teditor = vim\n[credential]\n\thelper =\n\thelper = store\n")]);
    both(".gitconfig", &twice, &[("name = Ada", "name = Bob")], &[("co = checkout", "co = checkout -q")]);
    neither(".gitconfig", &twice, &[("name = Ada", "name = Bob")], &[("email = ada@example.org", "email = a@b")]);
}

#[test]
fn default_programs_chosen_on_two_machines_are_all_chosen() {
    let base = "[Default Applications]\ntext/html=firefox.desktop\nimage/png=eog.desktop\n\n[Added Associations]\ntext/html=firefox.desktop;\n";
    let path = ".config/mimeapps.list";
    both(
        path,
        base,
        &[("image/png=eog", "image/png=gimp")],
        &[("=firefox.desktop\nimage", "=chromium.desktop\nimage")],
    );
    both(
        path,
        base,
        &[("\n\n[Added", "\nvideo/mp4=totem.desktop\n\n[Added")],
        &[("firefox.desktop;", "firefox.desktop;gedit.desktop;")],
    );
    neither(path, base, &[("=eog.desktop", "=gimp.desktop")], &[("=eog.desktop", "=loupe.desktop")]);
    let directories =
        "# written by xdg-user-dirs-update\nXDG_DESKTOP_DIR=\"$HOME/Desktop\"\nXDG_MUSIC_DIR=\"$HOME/Music\"\n";
    both(".config/user-dirs.dirs", directories, &[("/Desktop", "/Schreibtisch")], &[("/Music", "/Musik")]);
    neither(
        ".local/share/applications/a.desktop",
        "[Desktop Entry]\nName=a\nfoo\n",
        &[("=a", "=b")],
        &[("foo", "bar")],
    );
}

const SETTINGS: &str = "\
// Place your settings in this file
{
    \"editor.fontSize\": 14,
    \"editor.rulers\": [80, 120],
    \"files.exclude\": {
        \"**/.git\": true // hidden
    },
    \"workbench.colorTheme\": \"Default Dark\",
    \"cSpell.words\": [\"hearth\", \"daemon\"],
    \"window.zoomLevel\": 1.0
}
";

#[test]
fn settings_of_an_editor_merge_by_key_and_keep_comments_and_spelling() {
    let path = ".config/Code/User/settings.json";
    let size = ("\"editor.fontSize\": 14", "\"editor.fontSize\": 16");
    both(path, SETTINGS, &[size], &[("[80, 120]", "[100]")]);
    both(
        path,
        SETTINGS,
        &[size],
        &[("    \"window.zoomLevel\": 1.0\n", "    \"window.zoomLevel\": 2,\n    // mine\n    \"telemetry\": false\n")],
    );
    both(
        path,
        SETTINGS,
        &[("true // hidden\n", "true, // hidden\n        \"**/target\": true\n")],
        &[("    \"window.zoomLevel\": 1.0", "    \"window.zoomLevel\": 1e0")],
    );
    both(path, SETTINGS, &[("// Place your", "// Your")], &[("    \"editor.rulers\": [80, 120],\n", "")]);
    both(path, SETTINGS, &[("\"daemon\"]", "\"daemon\", \"dotfile\"]")], &[("[\"hearth\", ", "[")]);
    let two = merged(
        path,
        SETTINGS,
        &with(SETTINGS, &[("true // hidden", "true, // hidden\n        \"**/a\": true")]),
        &with(SETTINGS, &[("true // hidden", "true, // hidden\n        \"**/b\": true")]),
    );
    let want = "        \"**/.git\": true, // hidden\n        \"**/b\": true,\n        \"**/a\": true\n    },\n";
    assert!(two.as_ref().is_some_and(|two| two.contains(want)), "{two:?}");
    neither(path, SETTINGS, &[size], &[("\"editor.fontSize\": 14", "\"editor.fontSize\": 12")]);
    neither(path, SETTINGS, &[("[80, 120]", "[80, 100]")], &[("[80, 120]", "[100, 120]")]);
    neither(path, SETTINGS, &[("\"hearth\"", "\"a\"")], &[("\"daemon\"", "\"b\"")]);
    neither(
        path,
        SETTINGS,
        &[("{\n        \"**/.git\": true // hidden\n    }", "{}")],
        &[("true // hidden", "false // hidden")],
    );
    neither(path, SETTINGS, &[size], &[("1.0\n}", "1.0\n")]);
    neither(path, SETTINGS, &[size], &[("window.zoomLevel", "workbench.colorTheme")]);
    neither("Projects/a/package.json", SETTINGS, &[size], &[("1.0", "2.0")]);
}

#[test]
fn json_that_one_side_sets_out_anew_takes_the_others_values() {
    let base = "{\n  \"a\": 1,\n  \"b\": { \"c\": [1, 2] }\n}\n";
    let wide = "{\n    \"a\": 1,\n    \"b\": {\n        \"c\": [1, 2]\n    }\n}\n";
    let changed = with(base, &[("\"a\": 1", "\"a\": 7")]);
    assert_eq!(merged(".config/x.json", base, wide, &changed), Some(with(wide, &[("\"a\": 1", "\"a\": 7")])));
    assert_eq!(
        merged(".config/x.json", "{}", "{\n  \"a\": 1\n}", "{\n  \"b\": 2\n}").as_deref(),
        Some("{\n  \"b\": 2,\n  \"a\": 1\n}")
    );
    assert_eq!(
        merged(".config/x.json", "{\"z\":0}", "{\"z\":0,\"a\":1}", "{\"b\":2}").as_deref(),
        Some("{\"a\":1,\"b\":2}")
    );
}

const CARGO: &str = "\
# how things are built here
[build]
jobs = 4            # cores
rustflags = [
    \"-C\", \"target-cpu=native\",
]

[net]
git-fetch-with-cli = true

[alias]
t = \"test\"
";

#[test]
fn toml_merges_by_key_and_keeps_comments() {
    let path = ".cargo/config.toml";
    let jobs = ("jobs = 4            # cores", "jobs = 8  # threads");
    both(path, CARGO, &[jobs], &[("target-cpu=native\",\n", "target-cpu=native\",\n    \"-g\",\n")]);
    both(
        path,
        CARGO,
        &[("t = \"test\"\n", "t = \"test\"\n\n[term]\ncolor = \"always\"\n")],
        &[("[net]\ngit-fetch-with-cli = true\n\n", "")],
    );
    both(path, CARGO, &[("# how things are built here\n", "# builds\n")], &[jobs]);
    neither(path, CARGO, &[jobs], &[("jobs = 4 ", "jobs = 2 ")]);
    neither(path, CARGO, &[("= true", "= false")], &[("[net]\ngit-fetch-with-cli = true\n", "")]);
    neither(
        path,
        CARGO,
        &[("[alias]\n", "[alias]\na.b = 1\n")],
        &[("t = \"test\"\n", "t = \"test\"\n[alias.a]\nb = 2\n")],
    );
    neither(path, CARGO, &[jobs], &[("t = \"test\"", "t = test")]);
    let bins = "[[bin]]\nname = \"a\"\n\n[[bin]]\nname = \"b\"\npath = \"b.rs\"\n";
    both(path, bins, &[("\"a\"", "\"x\"")], &[("\"b.rs\"", "\"y.rs\"")]);
    neither(path, bins, &[("\"a\"", "\"x\"")], &[("\"a\"", "\"y\"")]);
}

#[test]
fn sets_of_lines_are_united_less_what_either_side_removed() {
    let hosts = "github.com ssh-ed25519 AAAA1\n[nas]:2222 ssh-rsa AAAA2\n192.168.1.9 ssh-ed25519 AAAA3\n";
    let (ours, theirs) = (format!("{hosts}a ssh-ed25519 AAAA4\n"), format!("{hosts}b ssh-ed25519 AAAA5\n"));
    let theirs = with(&theirs, &[("[nas]:2222 ssh-rsa AAAA2\n", "")]);
    let want =
        "github.com ssh-ed25519 AAAA1\n192.168.1.9 ssh-ed25519 AAAA3\na ssh-ed25519 AAAA4\nb ssh-ed25519 AAAA5\n";
    let got = merged(".ssh/known_hosts", hosts, &ours, &theirs).expect("a set");
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((sorted(&got), got.lines().count()), (sorted(want), 4));

    let bookmarks = "file:///home/ada/Documents Papers\nfile:///home/ada/Music\n";
    both(
        ".config/gtk-3.0/bookmarks",
        bookmarks,
        &[("Music\n", "Music\nsftp://nas/ NAS\n")],
        &[("file:///home/ada/Documents Papers\n", "")],
    );
    both(".config/enchant/en.dic", "hearth\nsync\n", &[("hearth\n", "hearth\ninode\n")], &[("sync\n", "sync\nzbus\n")]);
    let ignored = "# built\ntarget/\n*.o\n\n# edited\n*.swp\n";
    both("Projects/a/.gitignore", ignored, &[("*.o\n", "*.o\n!keep.o\n")], &[("*.swp\n", "*.swp\n\n# mine\nnotes\n")]);
    neither(
        "Projects/a/.gitignore",
        ignored,
        &[("target/\n*.o\n", "*.o\ntarget/\n"), ("*.swp\n", "*.swp\na\n")],
        &[("# built\ntarget/\n*.o\n", "# built\n*.swp\n*.o\ntarget/\n"), ("# edited\n*.swp\n", "# edited\n")],
    );
}

#[test]
fn commands_typed_on_two_machines_keep_their_times() {
    let base = "#100\nls\n#110\ncd\n";
    let (ours, theirs) = (format!("{base}#200\nls\n"), format!("{base}#300\nls\n#310\ngit log\n"));
    let want = format!("{base}#300\nls\n#310\ngit log\n#200\nls\n");
    assert_eq!(merged(".bash_history", base, &ours, &theirs), Some(want));
    let fish = "- cmd: ls\n  when: 100\n";
    let got = merged(
        ".local/share/fish/fish_history",
        fish,
        &format!("{fish}- cmd: a\n  when: 1\n"),
        &format!("{fish}- cmd: b\n  when: 1\n"),
    );
    assert_eq!(got, Some(format!("{fish}- cmd: b\n  when: 1\n- cmd: a\n  when: 1\n")));
}

#[test]
fn what_is_not_configuration_or_not_text_is_kept_twice() {
    let lines: String = (0..20).map(|line| format!("line {line}\n")).collect();
    let (ours, theirs) = (with(&lines, &[("line 3\n", "x\n")]), with(&lines, &[("line 15\n", "y\n")]));
    assert!(merged(".profile", &lines, &ours, &theirs).is_some());
    for path in
        ["letter.txt", "Documents/a.md", "src/main.rs", "a/.bashrc", ".config/a.yaml", ".config/a.xml", ".face.png"]
    {
        assert_eq!(merged(path, &lines, &ours, &theirs), None, "{path}");
    }
    let large = "# ".repeat(MAX_BYTES / 2);
    for odd in ["\0", "\r\n", &large] {
        assert_eq!(merged(".profile", &lines, &ours, &format!("{theirs}{odd}")), None);
    }
    let long = format!("{lines}{}", "# a comment that says nothing\n".repeat(20));
    assert_eq!(merged(".profile", &long, &with(&long, &[("line 3\n", "x\n")]), &long[..40]), None, "nor one cut off");
    let latin = [theirs.as_bytes(), b"gr\xfc\xdf\n"].concat();
    assert_eq!(merge(b".profile", lines.as_bytes(), ours.as_bytes(), &latin), None);
    for path in [".profile", ".ssh/known_hosts", ".config/a.ini"] {
        assert_eq!(merged(path, &lines, &ours, ""), None, "an emptied file is not merged");
    }
    for head in ["<?xml version=\"1.0\"?>\n", "---\n", "channels:\n", "{\n", "-----BEGIN OPENSSH PRIVATE KEY-----\n"] {
        let [lines, ours, theirs] = [&lines, &ours, &theirs].map(|text| format!("{head}{text}"));
        assert_eq!(merged(".config/tool/state", &lines, &ours, &theirs), None, "{head}");
    }
}

#[test]
fn only_what_may_be_merged_needs_its_base_kept() {
    assert!(may_merge(b".bashrc", 4096));
    assert!(!may_merge(b".bashrc", MAX_BYTES as u64 + 1));
    assert!(!may_merge(b"Pictures/a.jpg", 4096));
}
