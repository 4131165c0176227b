//! Full disks, blind watchers, people who are quicker.

use hearth_schemas::item::Value;
use hearth_tests::sim::World;
use hearth_tests::sim::disk::{Act, Crash, hash_of};
use syncd_core::store::Store;

#[test]
fn a_full_disk_is_told_and_forgotten_when_there_is_room() {
    let mut world = World::new(61);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "old.txt", "old");
    world.settle();
    world.machines[desktop.0].disk.full = true;
    world.write(laptop, "old.txt", "changed");
    world.write(laptop, "later.txt", "added");
    world.run_for(5000);
    let problems: Vec<String> = world.machines[desktop.0].engine().problems().map(|p| p.what.clone()).collect();
    assert!(problems.iter().any(|what| what.contains("too little room")), "{problems:?}");
    assert_eq!(world.read(desktop, "old.txt").as_deref(), Some("old"));
    world.machines[desktop.0].disk.full = false;
    world.settle();
    world.assert_same_everywhere("later.txt", "added");
    assert_eq!(world.machines[desktop.0].engine().problems().count(), 0);
}

#[test]
fn what_was_brought_and_found_no_room_does_not_stay_in_staging() {
    for ms in (0..200).step_by(10) {
        let mut world = World::new(67 + ms);
        let [laptop, desktop] = world.paired(["laptop", "desktop"]);
        for i in 0..4 {
            world.write(laptop, &format!("{i}.txt"), &format!("text {i}"));
        }
        world.run_for(100 + ms);
        world.machines[desktop.0].disk.full = true;
        world.run_for(5000);
        world.machines[desktop.0].disk.full = false;
        world.settle();
        world.assert_same_everywhere("0.txt", "text 0");
    }
}

#[test]
fn what_a_person_writes_while_a_change_is_applied_becomes_a_version() {
    for calls in 0..20 {
        let mut world = World::new(62 + u64::from(calls));
        let [laptop, desktop] = world.paired(["laptop", "desktop"]);
        world.write(laptop, "notes.txt", "first");
        world.settle();
        world.machines[desktop.0].disk.ambush(calls, Act::Write("notes.txt".into(), "typed just then".into()));
        world.write(laptop, "notes.txt", "from the laptop");
        world.run_until_quiet();
        world.machines[desktop.0].disk.call_off();
        world.settle();
        let listing = world.listing(desktop);
        let typed = world.oracle.owes("typed just then");
        assert_eq!(listing.values().any(|text| text == "typed just then"), typed, "{calls}: {listing:?}");
    }
}

/// Their bytes came out of the exchange, and have no name to go back to.
#[test]
fn what_a_person_writes_and_makes_way_for_while_a_change_is_applied_is_not_gone() {
    let afterwards = [
        Act::Remove("notes.txt".into()),
        Act::Move("notes.txt".into(), "moved.txt".into()),
        Act::Save("notes.txt".into(), "typed after that".into()),
        Act::Mkdir("notes.txt".into()),
    ];
    let cases =
        afterwards.iter().flat_map(|act| (0..16).flat_map(move |calls| (0..2).map(move |gap| (act, calls, gap))));
    for (act, calls, gap) in cases {
        for deletes in [false, true] {
            let mut world = World::new(900 + u64::from(calls));
            let [laptop, desktop] = world.paired(["laptop", "desktop"]);
            world.write(laptop, "notes.txt", "first");
            world.settle();
            let disk = &mut world.machines[desktop.0].disk;
            disk.ambush(calls, Act::Write("notes.txt".into(), "typed just then".into()));
            disk.ambush(calls + 1 + gap, act.clone());
            if deletes {
                world.remove(laptop, "notes.txt");
            } else {
                world.write(laptop, "notes.txt", "from the laptop");
            }
            world.run_until_quiet();
            world.machines[desktop.0].disk.call_off();
            world.settle();
        }
    }
}

#[test]
fn a_file_that_was_to_be_copied_and_is_not_what_it_was_is_nobody_elses_problem() {
    let acts = [
        Act::Link("a.txt".into(), "elsewhere".into()),
        Act::Remove("a.txt".into()),
        Act::Save("a.txt".into(), "other".into()),
        Act::Chmod("a.txt".into(), 0o000),
    ];
    for (act, calls) in acts.iter().flat_map(|act| (0..16).map(move |calls| (act, calls))) {
        let mut world = World::new(70 + u64::from(calls));
        let [laptop, desktop] = world.paired(["laptop", "desktop"]);
        world.write(laptop, "a.txt", "same");
        world.settle();
        world.write(laptop, "b.txt", "same");
        world.run_for(100);
        world.machines[desktop.0].disk.ambush(calls, act.clone());
        for _ in 0..200 {
            world.run_for(10);
            let mut problems = world.machines[desktop.0].engine().problems();
            assert_eq!(problems.find(|problem| problem.path == b"b.txt"), None, "{act:?} {calls}");
        }
        world.machines[desktop.0].disk.call_off();
        assert_eq!(world.read(desktop, "b.txt").as_deref(), Some("same"), "{act:?} {calls}");
    }
}

#[test]
fn a_file_that_is_gone_from_the_history_is_brought_from_elsewhere() {
    let mut world = World::new(78);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.settle();
    world.write(laptop, "a.txt", "two");
    world.settle();
    world.machines[desktop.0].disk.tree.history.clear();
    world.write(laptop, "b.txt", "one");
    world.settle();
    world.assert_same_everywhere("b.txt", "one");
}

#[test]
fn a_watcher_that_saw_nothing_makes_the_daemon_look() {
    let mut world = World::new(63);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.machines[laptop.0].sightless = 100;
    world.write(laptop, "a/b/c.txt", "unseen");
    world.settle();
    world.assert_same_everywhere("a/b/c.txt", "unseen");
}

#[test]
fn a_read_only_directory_gets_its_changes_and_stays_read_only() {
    let mut world = World::new(64);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "locked/a.txt", "one");
    world.settle();
    world.must(desktop, Act::Chmod("locked".into(), 0o555));
    world.settle();
    world.write(laptop, "locked/a.txt", "two");
    world.write(laptop, "locked/b.txt", "three");
    world.settle();
    world.assert_same_everywhere("locked/b.txt", "three");
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_not_deleted_anywhere() {
    let mut world = World::new(65);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "dir/secret.txt", "one");
    world.settle();
    world.must(desktop, Act::Chmod("dir".into(), 0o000));
    world.run_for(5000);
    assert_eq!(world.read(laptop, "dir/secret.txt").as_deref(), Some("one"));
    world.must(desktop, Act::Chmod("dir".into(), 0o755));
    world.settle();
    world.assert_same_everywhere("dir/secret.txt", "one");
}

#[test]
fn what_stirred_in_a_closed_directory_is_found_when_it_is_opened() {
    let mut world = World::new(67);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "dir/a.txt", "one");
    world.settle();
    world.write(desktop, "dir/b.txt", "two");
    world.must(desktop, Act::Chmod("dir".into(), 0o600));
    world.run_for(5000);
    assert!(!world.machines[desktop.0].engine().summary().expect("an index in memory").settled);
    world.must(desktop, Act::Chmod("dir".into(), 0o755));
    world.settle();
    world.assert_same_everywhere("dir/b.txt", "two");
}

#[test]
fn a_directory_that_was_closed_when_the_daemon_started_is_looked_into_when_it_is_opened() {
    let mut world = World::new(68);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "dir/sub/a.txt", "one");
    world.settle();
    world.crash(desktop, Crash::Kill);
    world.write(desktop, "dir/sub/b.txt", "two");
    world.must(desktop, Act::Chmod("dir".into(), 0o600));
    world.start(desktop);
    world.connect_all();
    world.run_for(5000);
    assert_eq!(world.read(laptop, "dir/sub/a.txt").as_deref(), Some("one"));
    world.must(desktop, Act::Chmod("dir".into(), 0o755));
    world.settle();
    world.assert_same_everywhere("dir/sub/b.txt", "two");
}

#[test]
fn a_disk_that_could_not_be_read_for_a_while_is_looked_at_again_though_nothing_stirs() {
    let mut world = World::new(73);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "dir/a.txt", "one");
    world.write(laptop, "dir/b.txt", "two");
    world.settle();
    world.machines[laptop.0].disk.unreadable = true;
    world.write(laptop, "dir/a.txt", "one, edited");
    world.remove(laptop, "dir/b.txt");
    world.run_for(100_000);
    let summary = world.machines[laptop.0].engine().summary().expect("an index in memory");
    assert!(!summary.settled, "nobody may say that it is in sync");
    assert!(world.machines[laptop.0].engine().problems().any(|problem| problem.path.starts_with(b"dir")));
    assert_eq!(world.read(desktop, "dir/b.txt").as_deref(), Some("two"), "what cannot be looked at is not deleted");
    world.machines[laptop.0].disk.unreadable = false;
    world.settle();
    world.assert_same_everywhere("dir/a.txt", "one, edited");
    world.assert_paths_everywhere(&["dir", "dir/a.txt"]);
    assert_eq!(world.machines[laptop.0].engine().problems().count(), 0);
}

#[test]
fn an_unreadable_file_that_is_removed_is_no_problem_any_more() {
    let mut world = World::new(69);
    let [_laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(desktop, "secret.txt", "one");
    world.must(desktop, Act::Chmod("secret.txt".into(), 0o000));
    world.run_for(5000);
    assert_eq!(world.machines[desktop.0].engine().problems().count(), 1);
    world.remove(desktop, "secret.txt");
    world.settle();
}

#[test]
fn a_file_that_is_written_without_pause_keeps_nothing_else_waiting() {
    let mut world = World::new(66);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "doomed.txt", "x");
    world.settle();
    world.remove(laptop, "doomed.txt");
    for i in 0..200 {
        world.write(laptop, "log.txt", &format!("line {i}"));
        world.run_for(50);
    }
    assert_eq!(world.read(desktop, "doomed.txt"), None, "a deletion waits for no log");
    world.settle();
}

#[test]
fn what_a_program_has_open_is_replaced_once_it_is_closed_and_told_until_then() {
    let mut world = World::new(77);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "log", "begun");
    world.settle();
    world.must(desktop, Act::Open("log".into()));
    world.save(laptop, "log", "replaced");
    world.run_for(5000);
    assert_eq!(world.read(desktop, "log").as_deref(), Some("begun"));
    world.run_for(20_000);
    let told: Vec<_> = world.machines[desktop.0].engine().problems().map(|problem| problem.what.clone()).collect();
    assert!(matches!(&told[..], [one] if one.starts_with("in use by a program")), "{told:?}");
    assert!(!world.machines[desktop.0].engine().summary().expect("an index in memory").standing.clean);
    world.must(desktop, Act::Close(0));
    world.settle();
    world.assert_same_everywhere("log", "replaced");
}

#[test]
fn what_is_to_replace_an_open_file_is_not_brought_again_and_again() {
    let mut world = World::new(79);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "log", "begun");
    world.settle();
    world.must(desktop, Act::Open("log".into()));
    world.save(laptop, "log", "replaced");
    world.run_for(20_000);
    world.assert_told_and_not_brought_again(desktop);
    world.must(desktop, Act::Close(0));
    world.settle();
    world.assert_same_everywhere("log", "replaced");
}

#[test]
fn what_is_written_to_an_open_file_outlives_its_deletion_elsewhere() {
    let mut world = World::new(78);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "log", "begun");
    world.settle();
    world.must(desktop, Act::Open("log".into()));
    world.remove(laptop, "log");
    world.run_for(5000);
    world.must(desktop, Act::WriteOpen(0, "begun and ended".into()));
    world.must(desktop, Act::Close(0));
    world.settle();
    world.assert_same_everywhere("log", "begun and ended");
}

#[test]
fn where_nobody_tells_what_is_open_the_history_has_what_was_written_later() {
    let mut world = World::new(79);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.machines[desktop.0].disk.leases = false;
    world.write(laptop, "log", "begun");
    world.settle();
    world.must(desktop, Act::Open("log".into()));
    world.save(laptop, "log", "replaced");
    world.run_for(3000);
    assert_eq!(world.read(desktop, "log").as_deref(), Some("replaced"));
    world.must(desktop, Act::WriteOpen(0, "begun and ended".into()));
    world.must(desktop, Act::Close(0));
    world.settle();
    let store = &world.machines[desktop.0].engine().state.store;
    let kept = store.kept_at(Some(b"log"), 10).expect("an index in memory");
    let held = hash_of(b"begun and ended");
    assert!(kept.iter().any(|kept| matches!(kept.value, Value::File { hash, .. } if hash == held)), "{kept:?}");
}

#[test]
fn who_opens_a_file_at_the_moment_of_its_replacement_gets_the_one_that_stays() {
    for call in 0..40 {
        let mut world = World::new(80);
        let [laptop, desktop] = world.paired(["laptop", "desktop"]);
        world.write(laptop, "log", "begun");
        world.settle();
        world.machines[desktop.0].disk.ambush(call, Act::Open("log".into()));
        world.save(laptop, "log", "replaced");
        world.run_for(3000);
        world.machines[desktop.0].disk.call_off();
        if world.act(desktop, &Act::WriteOpen(0, "mine".into())).is_ok() {
            let listing = world.listing(desktop);
            assert!(listing.values().any(|text| text == "mine"), "call {call}: {listing:?}");
            world.must(desktop, Act::Close(0));
        }
        world.settle();
    }
}

#[test]
fn a_name_that_one_file_system_does_not_take_is_told_there_and_the_rest_goes_on() {
    let mut world = World::new(90);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    let long = "n".repeat(200);
    world.write(laptop, "kept.txt", "here before");
    world.write(laptop, "dir/inside.txt", "here before, too");
    world.settle();
    world.machines[desktop.0].disk.longest_name = 143;
    world.write(laptop, &format!("{long}.txt"), "under a long name");
    world.write(laptop, &format!("{long}/below/deep.txt"), "below a long name");
    world.rename(laptop, "kept.txt", &format!("{long}.kept"));
    world.rename(laptop, "dir", &format!("{long}.dir"));
    world.write(laptop, "other.txt", "goes on");
    world.run_for(60_000);
    assert_eq!(world.read(desktop, "other.txt").as_deref(), Some("goes on"));
    assert_eq!(world.read(desktop, "kept.txt").as_deref(), Some("here before"), "it has no other place here");
    assert_eq!(world.read(desktop, "dir/inside.txt").as_deref(), Some("here before, too"));
    let engine = world.machines[desktop.0].engine();
    let told: Vec<_> = engine.problems().filter(|problem| problem.what.contains("too long")).collect();
    for name in [format!("{long}.txt"), long.clone(), format!("{long}.kept"), format!("{long}.dir")] {
        assert!(told.iter().any(|problem| problem.path == name.as_bytes()), "{name}: {told:#?}");
    }
    assert!(!engine.summary().expect("an index").settled);

    // What is done with it there arrives, under the name that it has by now.
    world.write(desktop, "kept.txt", "edited under the old name");
    world.write(desktop, "dir/more.txt", "added");
    world.run_for(60_000);
    assert_eq!(world.read(laptop, &format!("{long}.kept")).as_deref(), Some("edited under the old name"));
    assert_eq!(world.read(laptop, &format!("{long}.dir/more.txt")).as_deref(), Some("added"));
    // A second look finds nothing gone.
    let now_ms = world.now_ms;
    world.machines[desktop.0].handle(syncd_core::engine::Event::Overflowed, now_ms);
    world.run_for(60_000);
    assert_eq!(world.read(laptop, &format!("{long}.txt")).as_deref(), Some("under a long name"));
    assert_eq!(world.read(laptop, &format!("{long}/below/deep.txt")).as_deref(), Some("below a long name"));

    for (from, to) in [(".txt", "short.txt"), (".kept", "kept.txt"), (".dir", "dir"), ("", "short")] {
        world.rename(laptop, &format!("{long}{from}"), to);
    }
    world.settle();
    world.assert_same_everywhere("short/below/deep.txt", "below a long name");
    world.assert_same_everywhere("kept.txt", "edited under the old name");
    world.assert_same_everywhere("dir/more.txt", "added");
    assert_eq!(world.machines[desktop.0].engine().problems().count(), 0);
}

#[test]
fn a_file_that_cannot_be_read_in_the_place_of_a_directory_is_told_and_looked_at_when_it_changes() {
    let mut world = World::new(49);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "notes/a.txt", "a");
    world.settle();
    world.remove(desktop, "notes");
    world.write(desktop, "notes", "a file now");
    world.must(desktop, Act::Chmod("notes".into(), 0o000));
    world.run_until_quiet();
    let problems: Vec<_> = world.machines[desktop.0].engine().problems().map(|problem| problem.path.clone()).collect();
    assert_eq!(problems, [b"notes".to_vec()]);
    world.must(desktop, Act::Touch("notes".into(), 1_000_000_000));
    world.run_until_quiet();
    assert_eq!(world.read(laptop, "notes/a.txt").as_deref(), Some("a"));

    world.must(desktop, Act::Chmod("notes".into(), 0o644));
    world.settle();
    assert_eq!(world.read(laptop, "notes").as_deref(), Some("a file now"));
}
