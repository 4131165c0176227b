//! Directories that say of themselves that they are not to be copied: a mark is a fact of one disk, and deletes nothing.

use hearth_tests::sim::disk::Act;
use hearth_tests::sim::{Crash, World};
use syncd_core::engine::Event;

#[test]
fn what_is_marked_from_the_beginning_stays_with_its_marker() {
    let mut world = World::new(301);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "cache/.nobackup", "");
    world.write(laptop, "cache/a/b", "rubbish");
    world.write(laptop, "notes.txt", "one");
    world.run_until_quiet();
    assert_eq!(world.paths(desktop), ["notes.txt"]);
    world.write(desktop, "cache/own", "of the desktop");
    world.run_until_quiet();
    assert_eq!(world.paths(laptop), ["cache", "cache/.nobackup", "cache/a", "cache/a/b", "notes.txt"]);
    assert_eq!(world.paths(desktop), ["cache", "cache/own", "notes.txt"]);
}

#[test]
fn what_is_marked_later_stays_where_it_is_everywhere_and_comes_back_in_step() {
    let mut world = World::new(302);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/a.mov", "a");
    world.write(laptop, "videos/sub/b.mov", "b");
    world.settle();
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    world.save(desktop, "videos/a.mov", "a, cut");
    world.write(desktop, "videos/c.mov", "c");
    world.remove(desktop, "videos/sub/b.mov");
    world.run_until_quiet();
    assert_eq!(world.paths(desktop), ["videos", "videos/a.mov", "videos/c.mov", "videos/sub"]);
    let kept = ["videos", "videos/.nobackup", "videos/a.mov", "videos/sub", "videos/sub/b.mov"];
    assert_eq!(world.paths(laptop), kept);
    assert_eq!(world.read(laptop, "videos/a.mov").as_deref(), Some("a"));
    world.remove(laptop, "videos/.nobackup");
    world.settle();
    world.assert_same_everywhere("videos/a.mov", "a, cut");
    world.assert_same_everywhere("videos/c.mov", "c");
    // Deleted over there while it was not to be synced here: the mark's end deletes nothing.
    world.assert_same_everywhere("videos/sub/b.mov", "b");
}

#[test]
fn who_removes_a_marked_directory_removes_it_here_alone() {
    let mut world = World::new(303);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for i in 0..5 {
        world.write(laptop, &format!("videos/{i}.mov"), "long");
    }
    world.settle();
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    // The marker goes first, and what else is in the directory only later.
    world.remove(laptop, "videos/.nobackup");
    for i in 0..5 {
        world.run_for(1000);
        world.remove(laptop, &format!("videos/{i}.mov"));
    }
    world.remove(laptop, "videos");
    world.run_until_quiet();
    for i in 0..5 {
        assert_eq!(world.read(desktop, &format!("videos/{i}.mov")).as_deref(), Some("long"));
    }
}

#[test]
fn a_directory_that_is_marked_and_emptied_at_once_is_emptied_here_alone() {
    let mut world = World::new(304);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/a.mov", "a");
    world.settle();
    world.write(laptop, "videos/.nobackup", "");
    world.remove(laptop, "videos/a.mov");
    world.run_until_quiet();
    assert_eq!(world.read(desktop, "videos/a.mov").as_deref(), Some("a"));
}

#[test]
fn a_mark_that_came_and_went_while_nobody_looked_is_seen() {
    let mut world = World::new(305);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/a.mov", "a");
    world.settle();
    world.crash(laptop, Crash::Kill);
    world.write(laptop, "videos/.nobackup", "");
    world.remove(laptop, "videos/a.mov");
    world.start(laptop);
    world.run_until_quiet();
    assert_eq!(world.read(desktop, "videos/a.mov").as_deref(), Some("a"));
    world.save(desktop, "videos/a.mov", "a, cut");
    world.run_until_quiet();
    world.crash(laptop, Crash::Kill);
    world.remove(laptop, "videos/.nobackup");
    world.start(laptop);
    world.settle();
    world.assert_same_everywhere("videos/a.mov", "a, cut");
}

#[test]
fn a_marked_directory_keeps_its_mark_when_it_or_one_above_it_is_moved() {
    let mut world = World::new(306);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/videos/a.mov", "a");
    world.settle();
    world.write(laptop, "work/videos/.nobackup", "");
    world.run_until_quiet();
    world.rename(laptop, "work", "archive");
    world.run_until_quiet();
    assert_eq!(world.paths(desktop), ["archive", "archive/videos", "archive/videos/a.mov"]);
    world.rename(desktop, "archive", "attic");
    world.run_until_quiet();
    world.write(laptop, "attic/videos/own", "of the laptop");
    world.write(desktop, "attic/videos/b.mov", "b");
    world.run_until_quiet();
    assert_eq!(world.paths(desktop), ["attic", "attic/videos", "attic/videos/a.mov", "attic/videos/b.mov"]);
    let here = ["attic", "attic/videos", "attic/videos/.nobackup", "attic/videos/a.mov", "attic/videos/own"];
    assert_eq!(world.paths(laptop), here);
    world.remove(laptop, "attic/videos/.nobackup");
    world.settle();
    world.assert_same_everywhere("attic/videos/own", "of the laptop");
    world.assert_same_everywhere("attic/videos/b.mov", "b");
}

#[test]
fn a_build_file_that_arrives_keeps_the_build_here_without_deleting_it() {
    let mut world = World::new(307);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "target/customers.ods", "people");
    world.write(laptop, "code/target/out", "early");
    world.settle();
    world.write(laptop, "code/Cargo.toml", "[package]");
    world.run_until_quiet();
    world.write(laptop, "code/target/out", "built on the laptop");
    world.write(desktop, "code/target/out", "built on the desktop");
    world.run_until_quiet();
    world.assert_same_everywhere("target/customers.ods", "people");
    assert_eq!(world.read(laptop, "code/target/out").as_deref(), Some("built on the laptop"));
    assert_eq!(world.read(desktop, "code/target/out").as_deref(), Some("built on the desktop"));
    assert_eq!(world.paths(laptop).len(), 6);
}

#[test]
fn a_rule_that_is_lifted_deletes_nothing_that_was_deleted_elsewhere() {
    let mut world = World::new(308);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/sub/a.mov", "a");
    world.write(laptop, "videos/b.mov", "b");
    world.settle();
    let now_ms = world.now_ms;
    world.machines[laptop.0].exclude("videos", now_ms);
    world.run_until_quiet();
    world.remove(desktop, "videos");
    world.run_until_quiet();
    assert_eq!(world.paths(desktop), [""; 0]);
    let now_ms = world.now_ms;
    world.machines[laptop.0].include("videos", now_ms);
    world.settle();
    world.assert_same_everywhere("videos/sub/a.mov", "a");
    world.assert_same_everywhere("videos/b.mov", "b");
}

#[test]
fn a_directory_that_stands_here_for_what_is_marked_in_it_is_left_alone_and_goes_with_the_last_of_that() {
    let mut world = World::new(309);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/a/notes.txt", "one");
    world.write(laptop, "work/a/videos/a.mov", "a");
    world.settle();
    world.write(laptop, "work/a/videos/.nobackup", "");
    world.run_until_quiet();
    world.remove(desktop, "work");
    world.run_until_quiet();
    let left = ["work", "work/a", "work/a/videos", "work/a/videos/.nobackup", "work/a/videos/a.mov"];
    assert_eq!(world.paths(laptop), left);
    let (calls, sent) = (world.machines[laptop.0].disk.changes, world.sent);
    let now_ms = world.now_ms;
    world.machines[laptop.0].handle(Event::Overflowed, now_ms);
    world.run_until_quiet();
    assert_eq!((world.machines[laptop.0].disk.changes, world.sent), (calls, sent));
    world.remove(laptop, "work/a/videos");
    world.settle();
    assert_eq!(world.paths(laptop), [""; 0]);
}

#[test]
fn what_comes_to_where_a_marked_directory_was_is_not_taken_for_marked() {
    let mut world = World::new(310);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a/Cargo.toml", "[package]");
    world.settle();
    world.go_offline(desktop);
    world.rename(desktop, "a", "b");
    world.write(desktop, "a/target/out", "no build");
    world.run_until_quiet();
    world.go_online(desktop);
    world.settle();
    world.assert_same_everywhere("a/target/out", "no build");
}

#[test]
fn a_mark_that_ends_while_the_daemon_is_down_ends_for_what_never_came_here_too() {
    let mut world = World::new(311);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/.nobackup", "");
    world.write(laptop, "work/Cargo.toml", "[package]");
    world.run_until_quiet();
    world.write(desktop, "videos/a.mov", "a");
    world.remove(desktop, "work/Cargo.toml");
    world.run_until_quiet();
    assert_eq!(world.paths(laptop), ["videos", "videos/.nobackup", "work"]);
    world.crash(laptop, Crash::PowerCut);
    world.remove(laptop, "videos");
    world.start(laptop);
    world.settle();
    world.assert_same_everywhere("videos/a.mov", "a");
}

#[test]
fn a_directory_that_is_moved_out_of_a_marked_one_gets_what_others_did_in_it() {
    let mut world = World::new(312);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/sub/a", "a");
    world.settle();
    world.write(laptop, "work/.nobackup", "");
    world.run_until_quiet();
    world.write(desktop, "work/sub/b", "b");
    world.run_until_quiet();
    assert_eq!(world.read(laptop, "work/sub/b"), None);
    world.rename(laptop, "work/sub", "sub");
    world.settle();
    world.assert_same_everywhere("sub/a", "a");
    world.assert_same_everywhere("sub/b", "b");
}

#[test]
fn a_directory_that_is_deleted_elsewhere_stays_for_what_others_moved_to_where_it_is_marked_here() {
    let mut world = World::new(313);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/a", "a");
    world.mkdir(laptop, "videos");
    world.settle();
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    world.rename(desktop, "work/a", "videos/a");
    world.remove(desktop, "work");
    world.settle();
    assert_eq!(world.paths(laptop), ["videos", "videos/.nobackup", "work", "work/a"]);
    world.remove(laptop, "videos/.nobackup");
    world.settle();
    world.assert_paths_everywhere(&["videos", "videos/a"]);
}

#[test]
fn what_others_put_into_a_directory_while_they_had_it_where_it_is_marked_here_comes_along_when_it_leaves() {
    let mut world = World::new(314);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/a", "a");
    world.mkdir(laptop, "videos");
    world.settle();
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    world.rename(desktop, "work", "videos/work");
    world.write(desktop, "videos/work/b", "b");
    world.settle();
    assert_eq!(world.paths(laptop), ["videos", "videos/.nobackup", "work", "work/a"]);
    world.rename(desktop, "videos/work", "done");
    world.settle();
    world.assert_same_everywhere("done/a", "a");
    world.assert_same_everywhere("done/b", "b");
}

#[test]
fn what_was_removed_a_moment_before_the_directory_was_marked_is_removed_here_alone() {
    let mut world = World::new(315);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/a.mov", "a");
    world.settle();
    world.remove(laptop, "videos/a.mov");
    // The removal has settled, and the marker has not, when it is concluded what is missing.
    world.run_for(60);
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    assert_eq!(world.read(desktop, "videos/a.mov").as_deref(), Some("a"));
}

#[test]
fn a_mark_below_another_ends_with_the_directory_that_held_both() {
    let mut world = World::new(316);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/videos/a.mov", "a");
    world.settle();
    world.write(laptop, "work/videos/.nobackup", "");
    world.run_until_quiet();
    world.write(laptop, "work/.nobackup", "");
    world.run_until_quiet();
    world.write(desktop, "work/videos/b.mov", "b");
    world.run_until_quiet();
    world.crash(laptop, Crash::Kill);
    world.remove(laptop, "work");
    world.start(laptop);
    world.settle();
    world.assert_same_everywhere("work/videos/a.mov", "a");
    world.assert_same_everywhere("work/videos/b.mov", "b");
}

#[test]
fn what_others_move_into_a_directory_that_would_be_marked_here_stays_and_follows_in_the_end() {
    let (mut world, laptop, desktop) = crate::apart_with("a", "kept");
    world.mkdir(laptop, "target");
    world.rename(laptop, "a", "target/a");
    world.write(desktop, "Cargo.toml", "");
    world.connect_all();
    world.settle();
    assert_eq!(world.paths(desktop), ["Cargo.toml", "a"]);
    assert_eq!(world.paths(laptop), ["Cargo.toml", "target", "target/a"]);
    world.remove(desktop, "Cargo.toml");
    world.settle();
    world.assert_paths_everywhere(&["target", "target/a"]);
}

#[test]
fn directories_that_were_moved_into_each_other_are_followed_when_a_mark_above_them_ends() {
    let mut world = World::new(317);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/inner/a", "a");
    world.write(laptop, "outer/b", "b");
    world.settle();
    world.part(laptop, desktop);
    world.rename(desktop, "outer", "work/inner/outer");
    world.run_for(1000);
    world.rename(laptop, "work/inner", "outer/inner");
    world.run_for(1000);
    world.write(laptop, "work/.nobackup", "");
    world.run_for(1000);
    // The later of the two moves is taken back, to where the laptop has a mark.
    world.connect(laptop, desktop);
    world.settle();
    assert_eq!(world.read(desktop, "work/inner/outer/b").as_deref(), Some("b"));
    assert_eq!(world.read(laptop, "outer/inner/a").as_deref(), Some("a"));
    world.remove(laptop, "work/.nobackup");
    world.settle();
    world.assert_same_everywhere("work/inner/a", "a");
    world.assert_same_everywhere("work/inner/outer/b", "b");
}

#[test]
fn two_machines_that_keep_what_is_marked_in_a_replaced_directory_each_find_a_name_for_it() {
    let mut world = World::new(318);
    let [laptop, desktop, tablet] = world.paired(["laptop", "desktop", "tablet"]);
    world.mkdir(laptop, "work");
    world.write(laptop, "notes", "a file by now");
    world.settle();
    for here in [laptop, desktop] {
        world.write(here, "work/videos/.nobackup", "");
        world.write(here, "work/videos/a.mov", "on this machine alone");
    }
    world.run_until_quiet();
    world.go_offline(desktop);
    world.remove(tablet, "work");
    world.rename(tablet, "notes", "work");
    world.run_until_quiet();
    world.go_online(desktop);
    world.settle();
    for here in [laptop, desktop] {
        assert_eq!(world.read(here, "work").as_deref(), Some("a file by now"));
        let paths = world.paths(here);
        assert!(paths.iter().any(|path| path.ends_with("/videos/a.mov")), "{paths:?}");
        assert!(!paths.iter().any(|path| path.contains(".hearth-parked-")), "{paths:?}");
    }
}

#[test]
fn a_directory_that_changes_places_with_one_whose_marker_has_just_gone_is_not_taken_for_marked() {
    let mut world = World::new(319);
    let [laptop, _] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "notes/a", "a");
    world.write(laptop, "videos/b", "b");
    world.settle();
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    world.remove(laptop, "videos/.nobackup");
    world.must(laptop, Act::Swap("videos".into(), "notes".into()));
    world.settle();
    world.assert_paths_everywhere(&["notes", "notes/b", "videos", "videos/a"]);
}

#[test]
fn of_two_directories_that_are_one_here_the_one_that_stays_does_not_wait_for_the_one_that_is_moved_to_a_marked_place() {
    let mut world = World::new(320);
    let [laptop, desktop, tablet] = world.paired(["laptop", "desktop", "tablet"]);
    world.go_offline(desktop);
    world.write(laptop, "work/a", "a");
    world.run_until_quiet();
    world.go_offline(tablet);
    world.write(desktop, "work/b", "b");
    world.connect(laptop, desktop);
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    world.rename(tablet, "work", "videos");
    world.go_online(tablet);
    world.settle();
    assert_eq!(world.paths(desktop), ["videos", "videos/a", "work", "work/b"]);
    // What others moved to where it is marked here stays where it is.
    assert_eq!(world.paths(laptop), ["videos", "videos/.nobackup", "work", "work/a", "work/b"]);
    world.remove(laptop, "videos/.nobackup");
    world.settle();
    world.assert_paths_everywhere(&["videos", "videos/a", "work", "work/b"]);
}

#[test]
fn a_directory_that_became_another_and_stays_for_what_is_marked_in_it_gives_up_its_name() {
    let mut world = World::new(321);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/videos/a.mov", "a");
    world.write(laptop, "notes", "a file");
    world.settle();
    world.write(laptop, "work/videos/.nobackup", "");
    world.run_until_quiet();
    world.part(laptop, desktop);
    world.rename(desktop, "work", "done");
    world.rename(desktop, "notes", "work");
    world.mkdir(laptop, "done");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    assert_eq!(world.read(laptop, "work").as_deref(), Some("a file"));
    let kept =
        world.paths(laptop).into_iter().find(|path| path.ends_with("/videos/.nobackup")).expect("what is marked");
    assert!(!kept.contains(".hearth-parked-"), "{kept}");
}

#[test]
fn a_directory_that_became_another_goes_with_the_last_of_what_is_marked_in_it() {
    let mut world = World::new(322);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/videos/a.mov", "a");
    world.settle();
    world.write(laptop, "work/videos/.nobackup", "");
    world.run_until_quiet();
    world.part(laptop, desktop);
    world.rename(desktop, "work", "done");
    world.mkdir(laptop, "done");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    world.remove(laptop, "work/videos");
    world.settle();
    world.assert_paths_everywhere(&["done", "done/videos", "done/videos/a.mov"]);
}

#[test]
fn a_sibling_in_a_directory_that_others_moved_to_where_it_is_marked_here_stays_as_the_file_does() {
    let mut world = World::new(323);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "work/a", "a");
    world.settle();
    world.part(laptop, desktop);
    world.save(laptop, "work/a", "of the laptop");
    world.save(desktop, "work/a", "of the desktop");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    let before = world.paths(laptop);
    assert_eq!(before.len(), 3);
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    world.rename(desktop, "work", "videos");
    world.must(desktop, Act::Touch("videos/a".into(), 1_000_000_000));
    world.settle();
    let stays: Vec<String> = world.paths(laptop).into_iter().filter(|path| path.starts_with("work")).collect();
    assert_eq!(stays, before);
}

#[test]
fn a_mark_whose_end_could_not_be_written_to_the_index_ends_again() {
    let mut world = World::new(324);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/.nobackup", "");
    world.run_until_quiet();
    world.write(desktop, "videos/a.mov", "a");
    world.run_until_quiet();
    world.remove(laptop, "videos");
    // It has been seen, and is not believed yet.
    world.run_for(3000);
    assert_eq!(world.paths(laptop), [""; 0]);
    world.machines[laptop.0].fail_index(1);
    world.settle();
    world.assert_same_everywhere("videos/a.mov", "a");
}

#[test]
fn what_is_for_a_marked_directory_that_is_yet_to_move_waits_for_that() {
    let mut world = World::new(325);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a", "a");
    world.write(laptop, "work/videos/a.mov", "a film");
    world.settle();
    world.write(laptop, "work/videos/.nobackup", "");
    world.run_until_quiet();
    world.part(laptop, desktop);
    world.mkdir(desktop, "work/videos/cut");
    world.rename(desktop, "a", "work/videos/cut/a");
    world.run_for(1000);
    world.rename(desktop, "work", "a");
    // What has the name that the directory is to have is to be in it, and its content is not there when that is planned.
    world.write(desktop, "a/videos/cut/a", "another");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    assert_eq!(world.read(desktop, "a/videos/cut/a").as_deref(), Some("another"));
}

#[test]
fn what_was_moved_out_of_the_way_and_cannot_go_where_it_is_marked_gets_a_name_of_its_own() {
    let mut world = World::new(326);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a", "a");
    world.write(laptop, "work/videos/cut/a.mov", "a film");
    world.settle();
    world.write(laptop, "work/videos/.nobackup", "");
    world.run_until_quiet();
    world.part(laptop, desktop);
    world.rename(desktop, "a", "work/videos/cut/b");
    world.run_for(1000);
    world.rename(desktop, "work", "a");
    world.write(desktop, "a/videos/cut/b", "another");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    assert_eq!(world.read(desktop, "a/videos/cut/b").as_deref(), Some("another"));
    world.assert_same_everywhere("b", "a");
}
