//! Each call of the disk on a real file system, and what must never happen: following a symlink, replacing a file,
//! taking what is out of sight for gone.
//!
//! Runs itself again where it may mount, or without the powers of root, for the tests that need it.

use std::ffi::OsStr;
use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use syncd_core::database::image_name;

use super::*;

const KEY: [u8; 32] = [7; 32];
const TIME: FileTime = FileTime { secs: 1_700_000_000, nanos: 123_456_789 };

#[test]
fn a_staged_file_arrives_with_bytes_mode_time_and_hash() {
    let mut home = Home::new();
    let name = stage_name("a");
    let (stat, hash, size) =
        home.disk.stage(&name, &Source::Bytes(b"hello".to_vec()), &attributes(0o640)).expect("staged");
    assert_eq!((hash, size), (hash_of(b"hello"), 5));
    let arrived = home.disk.unstage(&name, b"new").expect("free name");
    assert_eq!(arrived.handle, stat.handle);
    assert_eq!((arrived.kind, arrived.mode, arrived.mtime, arrived.size), (Kind::File, 0o640, TIME, 5));
    assert_eq!(home.read("new"), b"hello");
    assert_eq!(home.disk.stat(b"new").expect("readable"), Some(arrived));
    assert_eq!(home.disk.hash(b"new").expect("readable"), (hash_of(b"hello"), 5));
    home.disk.flush(&[Vec::new()]).expect("durable");
    assert_eq!(home.disk.staged().expect("readable"), []);
}

#[test]
fn a_staged_symlink_keeps_its_target_and_time_and_is_never_followed() {
    let mut home = Home::new();
    let name = stage_name("l");
    let source = Source::Link(b"/etc/passwd".to_vec());
    home.disk.stage(&name, &source, &attributes(0o600)).expect("staged");
    let target = b"/etc/passwd".to_vec();
    assert_eq!(home.disk.read_staged(&name).expect("readable"), Value::Link { target });
    let stat = home.disk.unstage(&name, b"link").expect("free name");
    assert_eq!((stat.kind, stat.mode, stat.mtime), (Kind::Link, 0o777, TIME));
    assert_eq!(home.disk.read_link(b"link").expect("a link"), b"/etc/passwd");
    let before = std::fs::metadata("/etc/passwd").expect("there").permissions().mode();
    let later = Attributes { mtime: FileTime { secs: 5, nanos: 6 }, ..attributes(0o600) };
    assert_eq!(home.set_attributes(b"link", &later).expect("set").mtime, later.mtime);
    assert_eq!(std::fs::metadata("/etc/passwd").expect("there").permissions().mode(), before);
    home.disk.hash(b"link").expect_err("a link has no bytes");
}

#[test]
fn a_large_file_is_read_a_piece_at_a_time_and_not_while_it_changes() {
    let mut home = Home::new();
    let file = File::create(home.path("large.img")).expect("made");
    file.set_len(3 << 30).expect("longer");
    file.write_all_at(b"in the middle", 1 << 30).expect("written");
    file.write_all_at(b"near the end", (3 << 30) - 100).expect("written");
    let mut pieces = 0;
    let content = loop {
        let begun = std::time::Instant::now();
        match home.disk.content(b"large.img") {
            Ok(Reading { content, .. }) => break content,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        pieces += 1;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?} for one piece", begun.elapsed());
    };
    assert!(pieces > 0);
    assert_eq!((content.hash, content.size), home.disk.hash(b"large.img").expect("read in one go"));

    file.set_len(200 << 30).expect("longer");
    assert_eq!(home.disk.content(b"large.img").expect_err("begun anew").kind(), ErrorKind::WouldBlock);
    file.write_all_at(b"changed", 5).expect("written");
    assert_eq!(home.disk.content(b"large.img").expect_err("it has changed").kind(), ErrorKind::ResourceBusy);
    assert_eq!(home.disk.content(b"large.img").expect_err("begun anew").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_copy_of_a_file_that_grows_is_a_part_from_its_beginning_and_keeps_its_holes() {
    let mut home = Home::new();
    let path = home.path("grows.log");
    let mut file = File::create(&path).expect("made");
    file.set_len(64 << 20).expect("longer");
    file.seek(SeekFrom::End(0)).expect("at its end");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in 0.. {
                writeln!(file, "line {line}").expect("written");
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut sizes = Vec::new();
        for _ in 0..5 {
            let content = home.disk.copy(b"grows.log").expect("copied");
            assert!(content.image);
            let image = home.disk.0.staging_path.join(image_name(content.hash).0);
            let stat = std::fs::metadata(&image).expect("in staging");
            assert_eq!(stat.len(), content.size);
            assert!(stat.blocks() * 512 < stat.len() / 2, "{} blocks of {} bytes", stat.blocks(), stat.len());
            let (part, whole) = (std::fs::read(&image).expect("read"), std::fs::read(&path).expect("read"));
            assert_eq!(hash_of(&part), content.hash);
            assert!(whole.starts_with(&part), "{} bytes", part.len());
            sizes.push(content.size);
        }
        done.store(true, Ordering::Relaxed);
        assert!(sizes.is_sorted(), "{sizes:?}");
    });
}

#[test]
fn a_database_whose_journal_never_rests_is_copied_between_two_commits() {
    let mut home = Home::new();
    database(&home, "busy.db", 4000);
    let _writer = Writer::start("restless", &home.path("busy.db"));
    let mut counts = vec![0];
    for _ in 0..200 {
        let Ok(content) = home.disk.copy(b"busy.db") else { continue };
        assert!(content.image);
        counts.push(pairs(&home.disk.0.staging_path.join(image_name(content.hash).0)));
        if counts.len() > 5 {
            break;
        }
    }
    assert!(counts.len() > 5 && counts.is_sorted() && counts.last() > counts.first(), "{counts:?}");
    let left: Vec<String> = home.disk.staged_names().expect("read");
    assert!(left.iter().all(|name| image_of(name).is_some()), "{left:?}");
}

#[test]
fn a_copy_of_a_database_that_a_killed_program_left_has_nothing_of_what_it_did_not_commit() {
    let mut home = Home::new();
    database(&home, "left.db", 500);
    let writer = Writer::start("spilled", &home.path("left.db"));
    let busy = home.disk.copy(b"left.db").expect_err("the writer has it alone");
    assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
    drop(writer);
    let content = home.disk.copy(b"left.db").expect("copied");
    let image = Connection::open(home.disk.0.staging_path.join(image_name(content.hash).0)).expect("opened");
    let sound: String = image.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("told");
    let changed = "SELECT count(*) FROM bulk WHERE bytes = zeroblob(1000)";
    let changed: i64 = image.query_row(changed, [], |row| row.get(0)).expect("counted");
    assert_eq!((sound.as_str(), changed), ("ok", 0));
    assert!(home.path("left.db-journal").exists(), "nothing of the person's is touched");
}

/// What this program does as another process, which has locks of its own.
const WRITES: &str = "HEARTH_TEST_WRITES";

#[test]
fn a_program_that_writes_to_a_database() {
    let Some(what) = std::env::var_os(WRITES) else { return };
    let what = what.into_string().expect("words");
    let (mode, path) = what.split_once(' ').expect("a mode and a path");
    let database = Connection::open(path).expect("opened");
    database.busy_timeout(Duration::from_secs(20)).expect("set");
    database.pragma_update(None, "synchronous", "off").expect("set");
    if mode == "spilled" {
        database.pragma_update(None, "cache_size", 5).expect("set");
        database.execute("BEGIN", []).expect("begun");
        database.execute("UPDATE bulk SET bytes = zeroblob(1000)", []).expect("spilled to the file");
    }
    println_ready();
    for number in 0_i64.. {
        match mode {
            "spilled" => std::thread::park(),
            // Two rows that are never there without each other.
            _ => {
                let pair = "INSERT INTO pairs VALUES (?, 1), (?, -1)";
                database.execute(pair, [number, number]).expect("committed, however busy");
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "whoever has started this program waits for it")]
fn println_ready() {
    println!("ready");
}

/// That program; it is killed when this is dropped.
struct Writer(std::process::Child);

impl Writer {
    fn start(mode: &str, path: &std::path::Path) -> Self {
        let own = std::env::current_exe().expect("a running program has a path");
        let mut command = Command::new(own);
        command.args(["--exact", "disk::tests::a_program_that_writes_to_a_database", "--nocapture"]);
        command.env(WRITES, format!("{mode} {}", path.display())).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("started");
        let told = io::BufReader::new(child.stdout.take().expect("its output"));
        assert!(told.lines().any(|line| line.is_ok_and(|line| line.ends_with("ready"))), "it ended early");
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().expect("it runs until then");
        self.0.wait().expect("killed");
    }
}

/// A database with a rollback journal and so many rows of 1,000 bytes.
fn database(home: &Home, name: &str, rows: i64) {
    let database = Connection::open(home.path(name)).expect("made");
    database.pragma_update(None, "synchronous", "off").expect("set");
    database.execute("CREATE TABLE bulk (bytes BLOB)", []).expect("made");
    database.execute("BEGIN", []).expect("begun");
    for _ in 0..rows {
        database.execute("INSERT INTO bulk VALUES (randomblob(1000))", []).expect("inserted");
    }
    database.execute("COMMIT", []).expect("committed");
    database.execute("CREATE TABLE pairs (a INTEGER, b INTEGER)", []).expect("made");
}

/// The pairs in a sound database.
fn pairs(path: &std::path::Path) -> i64 {
    let database = Connection::open(path).expect("opened");
    let sound: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("told");
    assert_eq!(sound, "ok");
    let (count, sum): (i64, Option<i64>) = database
        .query_row("SELECT count(*), sum(b) FROM pairs", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("told");
    assert_eq!((count % 2, sum.unwrap_or_default()), (0, 0), "half a transaction");
    count / 2
}

#[test]
fn extended_attributes_are_set_changed_and_removed_whatever_the_mode() {
    let mut home = Home::new();
    let with = |mode, pairs: &[(&str, &[u8])]| Attributes {
        xattrs: pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect(),
        ..attributes(mode)
    };
    let name = stage_name("x");
    let first = with(0o444, &[("user.a", b"1"), ("user.b", &[0; 3000])]);
    home.disk.stage(&name, &Source::Bytes(b"hello".to_vec()), &first).expect("staged");
    home.disk.unstage(&name, b"file").expect("free name");
    assert_eq!(home.disk.xattrs(b"file"), Some(first.xattrs));
    std::fs::create_dir(home.path("folder")).expect("made");
    for path in [&b"file"[..], b"folder"] {
        for wanted in [with(0o400, &[("user.b", b"2"), ("user.c", b"")]), with(0o500, &[])] {
            let stat = home.set_attributes(path, &wanted).expect("set");
            assert_eq!((stat.mode, stat.mtime), (wanted.mode, TIME));
            assert_eq!(home.disk.xattrs(path), Some(wanted.xattrs));
        }
    }
    symlink("file", home.path("link")).expect("linked");
    home.set_attributes(b"link", &with(0o600, &[("user.a", b"1")])).expect("a link has none");
    assert_eq!(home.disk.xattrs(b"file"), Some(Xattrs::new()));
}

#[test]
fn a_staged_name_of_a_file_is_that_file() {
    let mut home = Home::new();
    home.write("a", b"hello");
    let stat = home.disk.stage_link(&stage_name("b"), &Source::Copy(b"a".to_vec())).expect("linked");
    assert_eq!((Some(stat.clone()), stat.links), (home.disk.stat(b"a").expect("readable"), 2));
    let third = home.disk.stage_link(&stage_name("c"), &Source::Kept(stage_name("b"))).expect("linked");
    assert_eq!((third.handle, third.links), (stat.handle, 3));
    symlink("a", home.path("link")).expect("linked");
    let link = home.disk.stage_link(&stage_name("l"), &Source::Copy(b"link".to_vec())).expect("linked");
    assert_eq!(link.kind, Kind::Link, "it is not followed");
}

#[test]
fn a_hole_stays_a_hole_in_a_copy_and_in_what_comes() {
    let mut home = Home::new();
    let island = |file: &File| {
        file.set_len(64 << 20).expect("longer");
        std::os::unix::fs::FileExt::write_all_at(file, b"an island", 40 << 20).expect("written");
    };
    island(&File::create(home.path("holes")).expect("made"));
    let (hash, size) = home.disk.hash(b"holes").expect("readable");
    let name = stage_name("h");
    let staged = home.disk.stage(&name, &Source::Copy(b"holes".to_vec()), &attributes(0o600)).expect("staged");
    assert_eq!((staged.1, staged.2), (hash, size));
    home.disk.unstage(&name, b"copy").expect("free name");

    let mut part = home.disk.open_part(hash).expect("opened");
    part.skip(40 << 20, 0).expect("left out");
    part.write(b"an island", 40 << 20).expect("written");
    drop(part);
    let mut part = home.disk.open_part(hash).expect("goes on");
    assert_eq!(part.in_order(), (40 << 20) + 9);
    part.skip((24 << 20) - 9, (40 << 20) + 9).expect("left out");
    let brought = part.finish(size).expect("read").expect("what it is called");
    home.disk.stage(&stage_name("p"), &Source::Kept(brought), &attributes(0o600)).expect("staged");
    home.disk.unstage(&stage_name("p"), b"brought").expect("free name");
    for path in ["copy", "brought"] {
        let blocks = std::fs::metadata(home.path(path)).expect("there").blocks();
        assert!(blocks * 512 < 2 << 20, "{path} takes {blocks} blocks");
        assert_eq!(home.disk.hash(path.as_bytes()).expect("readable"), (hash, size));
    }
}

#[test]
fn a_copy_is_hashed_and_leaves_its_source_alone() {
    let mut home = Home::new();
    let bytes = vec![0x5a; 3 * BLOCK + 17];
    home.write("big", &bytes);
    let (stat, hash, size) =
        home.disk.stage(&stage_name("c"), &Source::Copy(b"big".to_vec()), &attributes(0o444)).expect("staged");
    assert_eq!((hash, size, stat.size), (hash_of(&bytes), bytes.len() as u64, bytes.len() as u64));
    home.disk.unstage(&stage_name("c"), b"copy").expect("free name");
    assert!(home.read("copy") == bytes && home.read("big") == bytes);
}

#[test]
fn what_was_brought_in_parts_is_staged_under_its_hash_and_can_be_resumed() {
    let mut home = Home::new();
    let wanted = hash_of(b"whole");
    let mut part = home.disk.open_part(wanted).expect("begun");
    assert_eq!(part.in_order(), 0);
    part.write(b"who", 0).expect("written");
    part.write(b"?", 4).expect("written");
    drop(part);
    let mut part = home.disk.open_part(wanted).expect("resumed");
    assert_eq!(part.in_order(), 3, "what has a hole before it does not count");
    part.write(b"e", 4).expect("written");
    part.write(b"l", 3).expect("written");
    let name = part.finish(5).expect("durable").expect("what it is called");
    assert_eq!(home.disk.staged().expect("readable"), [], "a part is not a leftover");
    let (_, hash, size) = home.disk.stage(&stage_name("p"), &Source::Brought(name), &attributes(0o600)).expect("there");
    assert_eq!((hash, size), (wanted, 5));
    assert_eq!(home.disk.open_part(wanted).expect("begun anew").in_order(), 0);
}

#[test]
fn a_content_larger_than_any_block_comes_together_from_pieces_of_any_size_after_a_break() {
    let mut home = Home::new();
    let bytes: Vec<u8> = (0..5_000_017_u32).flat_map(|n| n.to_le_bytes()).collect();
    let wanted = hash_of(&bytes);
    let (mut at, mut breaks) = (0, 0);
    let mut part = home.disk.open_part(wanted).expect("begun");
    for size in [1, 4095, 70_000, 1 << 20, 3 << 20].into_iter().cycle() {
        let piece = &bytes[at..bytes.len().min(at + size)];
        part.write(piece, at as u64).expect("written");
        at += piece.len();
        if at > (breaks + 1) * 6_000_000 {
            breaks += 1;
            drop(part);
            part = home.disk.open_part(wanted).expect("resumed");
            assert_eq!(part.in_order(), at as u64);
        }
        if at == bytes.len() {
            break;
        }
    }
    let name = part.finish(bytes.len() as u64).expect("durable").expect("what it is called");
    home.disk.stage(&stage_name("p"), &Source::Brought(name), &attributes(0o600)).expect("there");
    home.disk.unstage(&stage_name("p"), b"film").expect("free name");
    assert!(home.read("film") == bytes);
    assert_eq!(breaks, 3);
}

#[test]
fn what_was_brought_in_parts_and_is_something_else_is_not_kept() {
    let home = Home::new();
    let wanted = hash_of(b"whole");
    let mut part = home.disk.open_part(wanted).expect("begun");
    part.write(b"other", 0).expect("written");
    assert!(part.finish(5).expect("readable").is_none());
    assert_eq!(home.disk.open_part(wanted).expect("begun anew").in_order(), 0);
}

#[test]
fn what_is_kept_can_be_staged_again_and_its_name_cannot_lead_elsewhere() {
    let mut home = Home::new();
    home.write("old", b"old");
    home.disk.take(b"old", &stage_name("k")).expect("taken");
    home.disk.keep(&stage_name("k")).expect("kept");
    let source = Source::Kept(stage_name("k"));
    let (_, hash, _) = home.disk.stage(&stage_name("again"), &source, &attributes(0o600)).expect("staged");
    assert_eq!(hash, hash_of(b"old"));
    for name in ["../../../home/x", "..", "."] {
        home.disk.open_source(&Source::Kept(stage_name(name))).expect_err("no name of ours");
    }
}

#[test]
fn nothing_is_ever_replaced_by_a_move() {
    let mut home = Home::new();
    home.write("a", b"a");
    home.write("b", b"b");
    home.disk.stage(&stage_name("s"), &Source::Bytes(b"s".to_vec()), &attributes(0o600)).expect("staged");
    let refusals = [
        home.disk.rename(b"a", b"b"),
        home.disk.unstage(&stage_name("s"), b"b").map(drop),
        home.disk.take(b"a", &stage_name("s")).map(drop),
        home.disk.mkdir(b"b").map(drop),
    ];
    for refusal in refusals {
        assert_eq!(refusal.expect_err("taken").kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!((home.read("a"), home.read("b")), (b"a".to_vec(), b"b".to_vec()));
}

#[test]
fn an_exchange_gives_what_came_out() {
    let mut home = Home::new();
    home.write("doc", b"old");
    let before = home.disk.stat(b"doc").expect("readable").expect("there");
    home.disk.stage(&stage_name("n"), &Source::Bytes(b"new!".to_vec()), &attributes(0o600)).expect("staged");
    let (stands, came_out) = home.disk.exchange(&stage_name("n"), b"doc").expect("swapped");
    assert_eq!((stands.size, came_out.handle), (4, before.handle));
    let old = Value::File { hash: hash_of(b"old"), size: 3 };
    assert_eq!(home.disk.read_staged(&stage_name("n")).expect("readable"), old);
    let missing = home.disk.exchange(&stage_name("n"), b"nothing").expect_err("nothing to swap with");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn names_are_bytes_of_any_kind_and_up_to_255_of_them() {
    let mut home = Home::new();
    let names = [vec![b'n'; 255], b"\xff\xfe".to_vec(), b" ".to_vec(), b"-rf".to_vec(), b"a\nb".to_vec()];
    for name in &names {
        home.disk.stage(&stage_name("x"), &Source::Bytes(name.clone()), &attributes(0o600)).expect("staged");
        home.disk.unstage(&stage_name("x"), name).expect("free name");
        assert_eq!(home.disk.hash(name).expect("readable").0, hash_of(name));
    }
    let mut listed: Vec<Vec<u8>> =
        home.disk.list(b"").expect("readable").into_iter().map(|(name, _)| name.as_bytes().to_vec()).collect();
    listed.sort();
    let mut wanted = names.to_vec();
    wanted.sort();
    assert_eq!(listed, wanted);
    home.disk.stat(&[b'n'; 256]).expect_err("no file system has that name");
}

#[test]
fn a_large_directory_is_listed_whole() {
    let mut home = Home::new();
    for number in 0..3000 {
        home.write(&format!("a file with a name of some length, number {number}"), b"");
    }
    assert_eq!(home.disk.list(b"").expect("readable").len(), 3000);
}

#[test]
fn what_is_neither_file_nor_directory_nor_link_is_told_as_such_and_never_opened() {
    let mut home = Home::new();
    rustix::fs::mkfifoat(CWD, home.path("pipe"), Mode::from_raw_mode(0o600)).expect("made");
    assert_eq!(home.disk.stat(b"pipe").expect("readable").expect("there").kind, Kind::Other);
    home.disk.hash(b"pipe").expect_err("would wait for a writer");
}

#[test]
fn directories_are_made_private_moved_whole_and_removed_only_if_empty() {
    let mut home = Home::new();
    let made = home.disk.mkdir(b"dir").expect("made");
    assert_eq!((made.kind, made.mode), (Kind::Dir, 0o700));
    home.write("dir/file", b"x");
    let moved = home.disk.rename(b"dir", b"other").and_then(|()| home.disk.stat(b"other")).expect("moved");
    assert_eq!(moved.expect("there").handle, made.handle);
    assert_eq!(home.disk.rmdir(b"other").expect_err("not empty").kind(), ErrorKind::DirectoryNotEmpty);
    home.disk.take(b"other/file", &stage_name("f")).expect("taken");
    home.disk.rmdir(b"other").expect("empty");
    assert_eq!(home.disk.stat(b"other").expect("readable"), None);
    assert_eq!(home.disk.stat(b"other/file").expect_err("no such directory").kind(), ErrorKind::NotFound);
}

#[test]
fn attributes_reach_directories_that_nobody_may_enter_and_bits_that_do_not_travel_are_masked() {
    let mut home = Home::new();
    home.disk.mkdir(b"dir").expect("made");
    let stat = home.set_attributes(b"dir", &attributes(0o4_055)).expect("set");
    assert_eq!((stat.mode, stat.mtime), (0o055, TIME));
    assert_eq!(std::fs::metadata(home.path("dir")).expect("there").mode() & 0o7777, 0o055);
    home.set_attributes(b"dir", &attributes(0o700)).expect("back");
}

#[test]
fn what_took_the_place_of_a_directory_does_not_get_its_attributes() {
    let mut home = Home::new();
    home.disk.mkdir(b"name").expect("made");
    let handle = home.disk.stat(b"name").expect("readable").expect("there").handle;
    home.disk.rmdir(b"name").expect("removed");
    home.write("name", b"a person's");
    let before = home.disk.stat(b"name").expect("readable");
    let error = home.disk.set_attributes(b"name", handle, &attributes(0o700)).expect_err("another inode");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(home.disk.stat(b"name").expect("readable"), before);
}

#[test]
fn no_path_leads_through_a_symlink_or_upwards() {
    let mut home = Home::new();
    let outside = tempfile::tempdir().expect("a directory");
    std::fs::write(outside.path().join("secret"), b"secret").expect("written");
    symlink(outside.path(), home.path("door")).expect("made");
    symlink("secret", home.path("file")).expect("made");
    home.disk.stage(&stage_name("s"), &Source::Bytes(b"s".to_vec()), &attributes(0o600)).expect("staged");
    home.write("own", b"own");
    for path in ["door/secret", "door/new", "../secret", "door/../own", "/etc/passwd"] {
        let path = path.as_bytes();
        home.disk.stat(path).expect_err("refused");
        home.disk.hash(path).expect_err("refused");
        home.disk.mkdir(path).expect_err("refused");
        home.disk.rename(b"own", path).expect_err("refused");
        home.disk.rename(path, b"mine").expect_err("refused");
        home.disk.unstage(&stage_name("s"), path).expect_err("refused");
        home.disk.exchange(&stage_name("s"), path).expect_err("refused");
        home.disk.take(path, &stage_name("t")).expect_err("refused");
        home.disk.rmdir(path).expect_err("refused");
        home.set_attributes(path, &attributes(0o777)).expect_err("refused");
        home.disk.open_source(&Source::Copy(path.to_vec())).expect_err("refused");
    }
    for path in [&b"door"[..], b"door/secret"] {
        let error = home.disk.open_source(&Source::Copy(path.to_vec())).expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::NotADirectory, "it is another thing than it was");
    }
    home.disk.list(b"door").expect_err("refused");
    home.disk.list(b"..").expect_err("refused");
    home.disk.hash(b"file").expect_err("refused");
    assert_eq!(std::fs::read_dir(outside.path()).expect("readable").count(), 1);
    assert_eq!(std::fs::read(outside.path().join("secret")).expect("there"), b"secret");
}

#[test]
fn a_directory_that_is_swapped_for_a_symlink_all_the_time_never_lets_anything_out() {
    let mut home = Home::new();
    let outside = tempfile::tempdir().expect("a directory");
    symlink(outside.path(), home.path("door")).expect("made");
    std::fs::create_dir(home.path("dir")).expect("made");
    home.write("dir/kept", b"kept");
    let stop = AtomicBool::new(false);
    let (dir, door) = (home.path("dir"), home.path("door"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &dir, CWD, &door, RenameFlags::EXCHANGE).expect("swapped");
            }
        });
        for number in 0..2000 {
            let name = stage_name(&number.to_string());
            home.disk.stage(&name, &Source::Bytes(vec![1]), &attributes(0o600)).expect("staged");
            let target = format!("dir/{number}");
            let _ = home.disk.unstage(&name, target.as_bytes());
            let _ = home.set_attributes(target.as_bytes(), &attributes(0o644));
            let _ = home.disk.mkdir(format!("dir/sub{number}").as_bytes());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(outside.path()).expect("readable").count(), 0);
}

#[test]
fn what_is_renamed_the_moment_it_stands_there_has_arrived_all_the_same() {
    let mut home = Home::new();
    let stop = AtomicBool::new(false);
    let (here, gone) = (home.path("here"), home.path("gone"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _not_there_yet = std::fs::rename(&here, &gone);
            }
        });
        let mut failed = 0;
        for number in 0..4000 {
            let name = stage_name(&number.to_string());
            let (staged, ..) = home.disk.stage(&name, &Source::Bytes(vec![1]), &attributes(0o600)).expect("staged");
            failed +=
                usize::from(!home.disk.unstage(&name, b"here").is_ok_and(|arrived| arrived.handle == staged.handle));
            while here.exists() {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "of 4000 that were renamed at once");
    });
}

#[test]
fn another_directory_at_the_homes_path_is_not_the_home() {
    let mut home = Home::new();
    assert!(home.disk.root_holds());
    std::fs::rename(home.path(""), home.dir.path().join("moved")).expect("moved");
    assert!(!home.disk.root_holds());
    std::fs::create_dir(home.path("")).expect("made");
    assert!(!home.disk.root_holds());
    let refused = home.open().err().expect("another home than the index was made for");
    assert!(refused.to_string().contains("root-id"), "{refused}");
}

#[test]
fn data_on_another_file_system_stays_there_and_staging_comes_to_the_home() {
    let near = tempfile::tempdir().expect("a directory");
    let Ok(far) = tempfile::tempdir_in("/dev/shm") else { return };
    let device = |path: &Path| std::fs::metadata(path).expect("there").dev();
    if device(near.path()) == device(far.path()) {
        return;
    }
    let home = near.path().join("home");
    std::fs::create_dir(&home).expect("made");
    let mut disk = RealDisk::open(&home, far.path(), near.path(), KEY).expect("opens");
    disk.stage(&stage_name("s"), &Source::Bytes(b"s".to_vec()), &attributes(0o600)).expect("staged");
    disk.unstage(&stage_name("s"), b"arrived").expect("on one file system");
    disk.take(b"arrived", &stage_name("s")).and_then(|_| disk.keep(&stage_name("s"))).expect("kept");
    let kept = home.join(NEAR).join("history/s");
    assert_eq!(std::fs::read(kept).expect("there"), b"s");
    assert_eq!(std::fs::metadata(home.join(NEAR)).expect("there").mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(far.path()).expect("readable").count(), 0);
}

#[test]
fn a_directory_that_may_not_be_read_can_be_flushed() {
    if run_again("a_directory_that_may_not_be_read_can_be_flushed", POWERLESS) {
        return;
    }
    let mut home = Home::new();
    home.disk.mkdir(b"dropbox").expect("made");
    home.disk.stage(&stage_name("s"), &Source::Bytes(b"s".to_vec()), &attributes(0o600)).expect("staged");
    home.disk.unstage(&stage_name("s"), b"dropbox/file").expect("free name");
    home.set_attributes(b"dropbox", &attributes(0o311)).expect("set");
    home.disk.list(b"dropbox").expect_err("unreadable");
    home.disk.flush(&[b"dropbox".to_vec(), b"gone".to_vec()]).expect("durable all the same");
}

#[test]
fn a_directory_that_may_not_be_written_refuses_and_nothing_is_lost() {
    if run_again("a_directory_that_may_not_be_written_refuses_and_nothing_is_lost", POWERLESS) {
        return;
    }
    let mut home = Home::new();
    home.disk.mkdir(b"fixed").expect("made");
    home.write("fixed/file", b"x");
    home.set_attributes(b"fixed", &attributes(0o500)).expect("set");
    home.disk.stage(&stage_name("s"), &Source::Bytes(b"s".to_vec()), &attributes(0o600)).expect("staged");
    let refusals = [
        home.disk.unstage(&stage_name("s"), b"fixed/new").map(drop),
        home.disk.exchange(&stage_name("s"), b"fixed/file").map(drop),
        home.disk.take(b"fixed/file", &stage_name("t")).map(drop),
        home.disk.mkdir(b"fixed/dir").map(drop),
    ];
    for refusal in refusals {
        assert_eq!(refusal.expect_err("read-only").kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(home.read("fixed/file"), b"x");
    assert_eq!(home.disk.staged().expect("readable").len(), 1);
}

#[test]
fn what_is_mounted_in_the_home_is_foreign_and_hides_nothing_that_could_look_deleted() {
    if run_again("what_is_mounted_in_the_home_is_foreign_and_hides_nothing_that_could_look_deleted", OWN_MOUNTS) {
        return;
    }
    for how in [&["-t", "tmpfs", "none"][..], &["--bind", "."][..]] {
        let mut home = Home::new();
        home.disk.mkdir(b"music").expect("made");
        home.write("music/song", b"la");
        let mounted = Command::new("mount").current_dir(home.path("")).args(how).arg("music").status();
        assert!(mounted.expect("mount runs").success());
        assert_eq!(home.disk.stat(b"music").expect("readable").expect("there").kind, Kind::Other);
        for error in [
            home.disk.stat(b"music/song").expect_err("cannot be told"),
            home.disk.list(b"music").expect_err("cannot be told"),
            home.disk.hash(b"music/song").expect_err("cannot be told"),
            home.disk.mkdir(b"music/dir").expect_err("not ours"),
        ] {
            assert_eq!(error.kind(), ErrorKind::CrossesDevices);
        }
        home.disk.flush(&[b"music".to_vec()]).expect("durable");
        let gone = Command::new("umount").arg(home.path("music")).status();
        assert!(gone.expect("umount runs").success());
        assert_eq!(home.disk.hash(b"music/song").expect("in sight again").0, hash_of(b"la"));
    }
}

/// Runs a program without the powers that make root ignore permissions.
const POWERLESS: &[&str] = &["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search", "--"];
/// Runs a program where it may mount.
const OWN_MOUNTS: &[&str] = &["unshare", "--user", "--map-root-user", "--mount"];

/// Runs one test of this program once more under `wrapper`, and says that it did; inside, says that it did not.
fn run_again(test: &str, wrapper: &[&str]) -> bool {
    const INSIDE: &str = "HEARTH_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let unneeded = wrapper == POWERLESS && !rustix::process::geteuid().is_root();
    if unneeded {
        return false;
    }
    let own = std::env::current_exe().expect("a running program has a path");
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(own).args(["--exact", &format!("disk::tests::{test}"), "--nocapture"]);
    let output = command.env(INSIDE, "1").output().expect("util-linux is installed");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&output.stderr));
    true
}

/// A home and its data directory, gone when dropped.

#[test]
fn what_is_brought_is_verified_moved_into_place_and_gone_with_the_run() {
    let mut home = Home::new();
    let hash = hash_of(b"hello");
    let contents: [&[u8]; 3] = [b"hello", b"other", b"hello"];
    let mut bringing = home.disk.bringing();
    contents.into_iter().for_each(|bytes| bringing.add(hash, bytes));
    assert_eq!(bringing.size(), (3, 15));
    let names: Vec<_> = bringing.finish().into_iter().map(|(_, result)| result.expect("a disk")).collect();
    let [Some(name), None, Some(spare)] = &names[..] else { panic!("one is not what it is called: {names:?}") };
    assert_eq!(home.disk.staged().expect("listed"), [], "it is nothing that was displaced");
    let staged = home.disk.stage(&stage_name("s"), &Source::Brought(name.clone()), &attributes(0o640)).expect("staged");
    assert_eq!((staged.1, staged.2, staged.0.mode), (hash, 5, 0o640));
    home.disk.stage(&stage_name("t"), &Source::Brought(name.clone()), &attributes(0o640)).expect_err("it was moved");
    let again = home.open().expect("opens");
    again.open_source(&Source::Brought(spare.clone())).expect_err("an earlier run brought it");
}

#[test]
fn what_is_brought_but_not_finished_leaves_nothing() {
    let home = Home::new();
    let mut bringing = home.disk.bringing();
    bringing.add(hash_of(b"hello"), b"hello");
    assert_eq!(home.disk.staged_names().expect("listed").len(), 1);
    drop(bringing);
    assert_eq!(home.disk.staged_names().expect("listed"), [""; 0]);
    let mut bringing = home.disk.bringing();
    for number in 0_u8..40 {
        bringing.add(hash_of(&[number]), &[number]);
    }
    assert_eq!(bringing.finish().len(), 40);
    assert_eq!(home.disk.staged_names().expect("listed").len(), 40, "what is finished stays");
}

struct Home {
    dir: tempfile::TempDir,
    disk: RealDisk,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["home", "data", "state"] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
        }
        let at = |name| dir.path().join(name);
        let disk = RealDisk::open(&at("home"), &at("data"), &at("state"), KEY).expect("opens");
        Self { dir, disk }
    }

    fn open(&self) -> io::Result<RealDisk> {
        let at = |name| self.dir.path().join(name);
        RealDisk::open(&at("home"), &at("data"), &at("state"), KEY)
    }

    /// Sets the attributes of what is at a path now.
    fn set_attributes(&mut self, path: &[u8], attributes: &Attributes) -> io::Result<Stat> {
        let stat = self.disk.stat(path)?.ok_or(ErrorKind::NotFound)?;
        self.disk.set_attributes(path, stat.handle, attributes)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("home").join(OsStr::from_bytes(below.as_bytes()))
    }

    fn write(&self, below: &str, bytes: &[u8]) {
        std::fs::write(self.path(below), bytes).expect("written");
    }

    fn read(&self, below: &str) -> Vec<u8> {
        std::fs::read(self.path(below)).expect("there")
    }
}

fn attributes(mode: u16) -> Attributes {
    Attributes { mode, mtime: TIME, ..Attributes::default() }
}

fn stage_name(name: &str) -> StageName {
    StageName(name.to_owned())
}

fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(*blake3::keyed_hash(&KEY, bytes).as_bytes())
}
