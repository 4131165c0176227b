//! How other tools lost data, one story for each cause: see the table in `docs/testing.md`.

use hearth_tests::sim::disk::Act;
use hearth_tests::sim::{Crash, Here, World};

/// Two machines that agree about some files.
fn pair(seed: u64, files: &[(&str, &str)]) -> (World, Here, Here) {
    let mut world = World::new(seed);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for (path, text) in files {
        world.write(laptop, path, text);
    }
    world.settle();
    (world, laptop, desktop)
}

fn shown(world: &World, here: Here, text: &str) -> bool {
    world.listing(here).values().any(|found| found == text)
}

fn in_history(world: &World, here: Here, text: &str) -> bool {
    let tree = &world.machines[here.0].disk.tree;
    tree.history.values().filter_map(|ino| tree.bytes(*ino).ok()).any(|bytes| bytes.as_slice() == text.as_bytes())
}

#[test]
fn a_home_that_is_not_mounted_deletes_nothing_elsewhere() {
    let (mut world, laptop, desktop) = pair(401, &[("photos/1.jpg", "first"), ("photos/2.jpg", "second")]);
    // What is seen in place of the home: an empty directory, under another identity.
    world.machines[desktop.0].disk.root_lost = true;
    world.remove(desktop, "photos");
    world.run_for(60_000);
    assert_eq!(world.read(laptop, "photos/1.jpg").as_deref(), Some("first"));
    assert_eq!(world.read(laptop, "photos/2.jpg").as_deref(), Some("second"));
}

#[test]
fn a_home_that_was_not_mounted_when_the_daemon_started_deletes_nothing_elsewhere() {
    let (mut world, laptop, desktop) = pair(402, &[("photos/1.jpg", "first")]);
    world.crash(desktop, Crash::Kill);
    world.machines[desktop.0].disk.root_lost = true;
    world.remove(desktop, "photos");
    world.start(desktop);
    world.run_for(60_000);
    assert_eq!(world.read(laptop, "photos/1.jpg").as_deref(), Some("first"));
}

#[test]
fn a_directory_that_cannot_be_listed_is_not_an_empty_one() {
    let (mut world, laptop, desktop) = pair(403, &[("work/a.txt", "one"), ("work/b.txt", "two")]);
    world.must(desktop, Act::Chmod("work".into(), 0o000));
    world.run_for(60_000);
    world.crash(desktop, Crash::Kill);
    world.start(desktop);
    world.run_for(60_000);
    assert_eq!(world.read(laptop, "work/a.txt").as_deref(), Some("one"));
    world.must(desktop, Act::Chmod("work".into(), 0o755));
    world.settle();
    world.assert_paths_everywhere(&["work", "work/a.txt", "work/b.txt"]);
}

#[test]
fn an_error_of_stat_is_not_an_absence() {
    let (mut world, laptop, desktop) = pair(404, &[("work/a.txt", "one")]);
    world.machines[desktop.0].disk.unreadable = true;
    world.must(desktop, Act::Touch("work/a.txt".into(), 1_700_000_000));
    world.run_for(60_000);
    assert_eq!(world.read(laptop, "work/a.txt").as_deref(), Some("one"));
    world.machines[desktop.0].disk.unreadable = false;
    world.settle();
    world.assert_same_everywhere("work/a.txt", "one");
}

#[test]
fn a_rule_that_leaves_a_file_out_deletes_it_nowhere() {
    let (mut world, laptop, desktop) = pair(405, &[("build/out.bin", "made at some cost"), ("a.txt", "one")]);
    let now_ms = world.now_ms;
    world.machines[desktop.0].exclude("build", now_ms);
    world.run_for(60_000);
    world.remove(desktop, "build");
    world.run_for(60_000);
    assert_eq!(world.read(laptop, "build/out.bin").as_deref(), Some("made at some cost"));
}

#[test]
fn a_new_replica_with_an_empty_home_deletes_nothing() {
    let (mut world, laptop, _desktop) = pair(406, &[("a.txt", "one"), ("dir/b.txt", "two")]);
    let tablet = world.add("tablet");
    world.connect_all();
    world.settle();
    assert_eq!(world.read(tablet, "dir/b.txt").as_deref(), Some("two"));
    assert_eq!(world.read(laptop, "dir/b.txt").as_deref(), Some("two"));
}

#[test]
fn an_index_that_is_lost_deletes_nothing_and_brings_nothing_over_an_edit() {
    let (mut world, laptop, desktop) = pair(407, &[("a.txt", "one"), ("b.txt", "two")]);
    world.go_offline(desktop);
    world.write(desktop, "a.txt", "edited without the index");
    world.crash(desktop, Crash::Kill);
    world.machines[desktop.0].lose_index();
    world.write(laptop, "a.txt", "edited on the laptop");
    world.run_until_quiet();
    world.start(desktop);
    world.go_online(desktop);
    world.settle();
    for text in ["edited without the index", "edited on the laptop", "two"] {
        assert!(shown(&world, laptop, text), "{text}: {:?}", world.listing(laptop));
    }
}

#[test]
fn an_index_ahead_of_its_disk_does_not_take_the_older_files_for_edits() {
    let (mut world, laptop, desktop) = pair(408, &[("a.txt", "one"), ("b.txt", "two")]);
    world.crash(desktop, Crash::Kill);
    let older = world.machines[desktop.0].disk.tree.clone();
    world.start(desktop);
    world.write(laptop, "a.txt", "one, edited");
    world.write(laptop, "c.txt", "three");
    world.settle();
    // The files are restored from a snapshot; the index stays.
    world.crash(desktop, Crash::Kill);
    world.machines[desktop.0].disk.tree = older;
    world.start(desktop);
    world.run_until_quiet();
    let kept = |text: &str| shown(&world, laptop, text) || in_history(&world, laptop, text);
    assert!(kept("one, edited") && kept("three"), "{}", world.describe());
}

#[test]
fn an_index_behind_its_disk_deletes_nothing() {
    let (mut world, laptop, desktop) = pair(409, &[("a.txt", "one")]);
    world.crash(desktop, Crash::Kill);
    let backup = world.machines[desktop.0].index();
    world.start(desktop);
    world.write(laptop, "a.txt", "one, edited");
    world.write(laptop, "later/b.txt", "after the backup");
    world.settle();
    world.crash(desktop, Crash::Kill);
    world.machines[desktop.0].restore_index(backup);
    world.start(desktop);
    world.settle();
    world.assert_same_everywhere("later/b.txt", "after the backup");
    world.assert_same_everywhere("a.txt", "one, edited");
}

#[test]
fn a_replica_that_is_taken_for_another_overwrites_nothing() {
    let (mut world, laptop, desktop) = pair(410, &[("a.txt", "one")]);
    world.crash(desktop, Crash::Kill);
    let (index, tree) = (world.machines[desktop.0].index(), world.machines[desktop.0].disk.tree.clone());
    let copy = world.add_down("copy");
    world.machines[copy.0].restore_index(index);
    world.machines[copy.0].disk.tree = tree;
    world.start(desktop);
    world.start(copy);
    world.write(desktop, "a.txt", "by the first");
    world.write(copy, "a.txt", "by its copy");
    world.connect_all();
    world.settle();
    assert!(shown(&world, laptop, "by the first") && shown(&world, laptop, "by its copy"));
}

#[test]
fn a_deletion_that_all_have_long_forgotten_brings_nothing_back() {
    let mut world = World::new(411);
    let [laptop, desktop, tablet] = world.paired(["laptop", "desktop", "tablet"]);
    world.write(laptop, "old.txt", "to be deleted");
    world.settle();
    world.go_offline(tablet);
    world.remove(laptop, "old.txt");
    world.run_until_quiet();
    world.run_for(400 * 24 * 3_600_000);
    world.go_online(tablet);
    world.settle();
    for here in [laptop, desktop, tablet] {
        assert_eq!(world.read(here, "old.txt"), None, "a tombstone has no date of expiry");
    }
}

#[test]
fn a_conflict_copy_is_not_taken_away_by_a_further_conflict() {
    let (mut world, laptop, desktop) = pair(412, &[("report.txt", "draft\0")]);
    for round in 0..3 {
        world.part(laptop, desktop);
        world.write(laptop, "report.txt", &format!("laptop {round}\0"));
        world.write(desktop, "report.txt", &format!("desktop {round}\0"));
        world.run_until_quiet();
        world.connect(laptop, desktop);
        world.settle();
    }
    // Whatever was superseded, of each round the side that had not seen the other is still shown.
    let listing = world.listing(laptop);
    let siblings = listing.keys().filter(|path| path.contains("(conflict")).count();
    assert_eq!(siblings, 3, "{listing:?}");
    assert!(listing.keys().all(|path| path.matches("(conflict").count() <= 1), "names do not nest: {listing:?}");
}

#[test]
fn clocks_that_disagree_decide_about_no_content() {
    let mut world = World::new(413);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.machines[laptop.0].skew_ms = 10 * 365 * 86_400_000;
    world.write(laptop, "a.txt", "from the future");
    world.settle();
    world.write(desktop, "a.txt", "written later, by a clock that is years behind");
    world.settle();
    world.assert_same_everywhere("a.txt", "written later, by a clock that is years behind");
    world.assert_paths_everywhere(&["a.txt"]);
}

#[test]
fn three_versions_in_any_order_end_in_the_same_on_all_machines() {
    for seed in 0..20 {
        let mut world = World::new(4140 + seed);
        let all = world.paired(["laptop", "desktop", "tablet"]);
        world.write(all[0], "a.txt", "first\0");
        world.settle();
        all.iter().for_each(|here| world.go_offline(*here));
        for here in all {
            world.write(here, "a.txt", &format!("by {}\0", here.0));
        }
        world.run_until_quiet();
        // They meet two by two, each seed in its own order.
        let start = usize::try_from(seed).expect("small") % 3;
        for step in 0..3 {
            let (one, other) = (all[(start + step) % 3], all[(start + step + 1) % 3]);
            world.connect(one, other);
            world.run_until_quiet();
            world.part(one, other);
        }
        world.connect_all();
        world.settle();
        for here in all {
            assert!(shown(&world, all[0], &format!("by {}\0", here.0)), "{seed}: {:?}", world.listing(all[0]));
        }
    }
}

#[test]
fn a_directory_that_is_deleted_and_made_again_keeps_what_was_put_in_it() {
    let (mut world, laptop, desktop) = pair(415, &[("project/old.txt", "one")]);
    world.part(laptop, desktop);
    world.remove(laptop, "project");
    world.write(laptop, "project/new.txt", "made again");
    world.write(desktop, "project/other.txt", "meanwhile");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    world.assert_same_everywhere("project/new.txt", "made again");
    world.assert_same_everywhere("project/other.txt", "meanwhile");
}

#[test]
fn a_directory_that_is_deleted_elsewhere_takes_no_file_along_that_was_never_synced() {
    let (mut world, laptop, desktop) = pair(416, &[("project/a.txt", "one")]);
    let now_ms = world.now_ms;
    world.machines[desktop.0].exclude("project/secret.key", now_ms);
    world.run_until_quiet();
    world.write(desktop, "project/secret.key", "on this machine alone");
    world.run_until_quiet();
    world.remove(laptop, "project");
    world.run_until_quiet();
    assert_eq!(world.read(desktop, "project/secret.key").as_deref(), Some("on this machine alone"));
}

#[test]
fn what_no_watch_was_left_for_is_found_all_the_same() {
    let (mut world, laptop, desktop) = pair(417, &[("deep/down/a.txt", "one")]);
    world.machines[desktop.0].sightless = 100;
    world.write(desktop, "deep/down/a.txt", "edited where nobody watched");
    world.write(laptop, "deep/down/a.txt", "edited on the laptop");
    world.settle();
    for text in ["edited where nobody watched", "edited on the laptop"] {
        assert!(shown(&world, laptop, text), "{text}: {:?}", world.listing(laptop));
    }
}

#[test]
fn a_file_that_is_saved_while_it_is_replaced_is_kept() {
    for calls in 0..20 {
        let (mut world, laptop, desktop) = pair(4180 + u64::from(calls), &[("a.txt", "one\0")]);
        world.machines[desktop.0].disk.ambush(calls, Act::Save("a.txt".into(), "typed just then\0".into()));
        world.write(laptop, "a.txt", "from the laptop\0");
        world.run_until_quiet();
        world.machines[desktop.0].disk.call_off();
        world.settle();
        assert!(
            !world.oracle.owes("typed just then\0") || shown(&world, laptop, "typed just then\0"),
            "{calls}: {:?}",
            world.listing(laptop)
        );
    }
}

#[test]
fn a_file_that_is_half_downloaded_when_the_power_goes_is_never_shown() {
    for calls in 0..30 {
        let (mut world, laptop, desktop) = pair(4190 + u64::from(calls), &[("a.txt", "old and whole")]);
        world.machines[desktop.0].arm(calls, Crash::PowerCut);
        world.write(laptop, "a.txt", "new and whole");
        world.run_for(3_000);
        let found = world.read(desktop, "a.txt");
        assert!(matches!(found.as_deref(), Some("old and whole" | "new and whole")), "{calls}: {found:?}");
        world.settle();
        world.assert_same_everywhere("a.txt", "new and whole");
    }
}

#[test]
fn a_rename_that_changes_case_alone_leaves_one_file() {
    let (mut world, laptop, _desktop) = pair(420, &[("Notes.txt", "one")]);
    world.rename(laptop, "Notes.txt", "notes.txt");
    world.settle();
    world.assert_paths_everywhere(&["notes.txt"]);
    world.assert_same_everywhere("notes.txt", "one");
}

#[test]
fn an_edit_outlives_a_deletion_that_had_not_seen_it() {
    let (mut world, laptop, desktop) = pair(421, &[("a.txt", "one")]);
    world.part(laptop, desktop);
    world.remove(laptop, "a.txt");
    world.write(desktop, "a.txt", "one, edited");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    world.assert_same_everywhere("a.txt", "one, edited");
}

#[test]
fn a_rename_of_a_directory_takes_along_what_another_machine_adds_to_it() {
    let (mut world, laptop, desktop) = pair(422, &[("dir/a.txt", "one")]);
    world.part(laptop, desktop);
    world.rename(laptop, "dir", "renamed");
    world.write(desktop, "dir/b.txt", "added meanwhile");
    world.write(desktop, "dir/a.txt", "edited meanwhile");
    world.run_until_quiet();
    world.connect(laptop, desktop);
    world.settle();
    world.assert_paths_everywhere(&["renamed", "renamed/a.txt", "renamed/b.txt"]);
    world.assert_same_everywhere("renamed/a.txt", "edited meanwhile");
}

#[test]
fn a_full_disk_truncates_no_file() {
    let (mut world, laptop, desktop) = pair(423, &[("a.txt", "old and whole")]);
    world.machines[desktop.0].disk.full = true;
    world.write(laptop, "a.txt", "new, and there is no room for it");
    world.run_for(60_000);
    assert_eq!(world.read(desktop, "a.txt").as_deref(), Some("old and whole"));
    world.machines[desktop.0].disk.full = false;
    world.settle();
    world.assert_same_everywhere("a.txt", "new, and there is no room for it");
}
