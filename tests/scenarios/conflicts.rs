//! Two people changed the same thing: nothing is lost, and all machines show the same.

use hearth_tests::sim::{Here, World};

use crate::apart_with;

#[test]
fn two_edits_of_one_file_are_both_kept_and_the_sibling_has_the_same_name_on_both() {
    let (mut world, laptop, desktop) = apart_with("notes.txt", "first");
    world.write(laptop, "notes.txt", "from the train");
    world.run_for(1000);
    world.write(desktop, "notes.txt", "from the desk");
    world.connect_all();
    world.settle();
    let paths = world.paths(laptop);
    assert_eq!(paths.len(), 2, "{paths:?}");
    let sibling = paths.iter().find(|path| path.contains("conflict")).expect("a sibling");
    assert!(sibling.starts_with("notes (conflict, laptop, ") && sibling.ends_with(").txt"), "{sibling}");
    world.assert_same_everywhere("notes.txt", "from the desk");
    world.assert_same_everywhere(sibling, "from the train");
}

#[test]
fn an_edit_of_a_file_whose_next_content_is_on_its_way_is_a_conflict() {
    let mut world = World::new(18);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "notes.txt", "first");
    world.settle();
    world.write(laptop, "notes.txt", "from the laptop");
    let is_told = |world: &World| world.machines[desktop.0].engine().summary().expect("an index").incoming > 0;
    while !is_told(&world) {
        assert!(world.step(u64::MAX), "the desktop is told");
    }
    assert_eq!(world.read(desktop, "notes.txt").as_deref(), Some("first"));
    world.write(desktop, "notes.txt", "from the desktop");
    world.settle();
    let listing = world.listing(laptop);
    for text in ["from the laptop", "from the desktop"] {
        assert!(listing.values().any(|shown| shown == text), "{text} stays in sight: {listing:?}");
    }
}

#[test]
fn the_same_edit_on_both_is_no_conflict() {
    let (mut world, laptop, desktop) = apart_with("notes.txt", "first");
    world.write(laptop, "notes.txt", "the same");
    world.write(desktop, "notes.txt", "the same");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["notes.txt"]);
}

#[test]
fn a_file_deleted_here_and_edited_there_is_kept() {
    let (mut world, laptop, desktop) = apart_with("notes.txt", "first");
    world.remove(laptop, "notes.txt");
    world.write(desktop, "notes.txt", "still needed");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["notes.txt"]);
    world.assert_same_everywhere("notes.txt", "still needed");
}

#[test]
fn a_file_renamed_here_and_edited_there_is_the_edited_file_under_its_later_name() {
    let (mut world, laptop, desktop) = apart_with("notes.txt", "first");
    world.rename(laptop, "notes.txt", "diary.txt");
    world.write(desktop, "notes.txt", "more");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["diary.txt"]);
    world.assert_same_everywhere("diary.txt", "more");
}

#[test]
fn of_two_renames_the_later_one_stands_and_there_is_one_file() {
    let (mut world, laptop, desktop) = apart_with("notes.txt", "first");
    world.rename(laptop, "notes.txt", "one.txt");
    world.run_for(1000);
    world.rename(desktop, "notes.txt", "two.txt");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["two.txt"]);
}

#[test]
fn two_files_that_take_one_name_are_both_there() {
    let (mut world, laptop, desktop) = apart_with("seed.txt", "first");
    world.write(laptop, "plan.txt", "of the laptop");
    world.run_for(1000);
    world.write(desktop, "plan.txt", "of the desktop");
    world.connect_all();
    world.settle();
    assert_eq!(world.paths(laptop).len(), 3);
    world.assert_same_everywhere("plan.txt", "of the desktop");
}

#[test]
fn a_sibling_that_is_removed_is_gone_everywhere_and_the_file_stays() {
    let (mut world, laptop, sibling) = conflicting();
    world.remove(laptop, &sibling);
    world.settle();
    world.assert_paths_everywhere(&["notes.txt"]);
    world.assert_same_everywhere("notes.txt", "from the desk");
}

#[test]
fn a_sibling_that_is_edited_becomes_a_file_of_its_own() {
    let (mut world, laptop, sibling) = conflicting();
    world.write(laptop, &sibling, "merged by hand");
    world.settle();
    world.assert_paths_everywhere(&[&sibling, "notes.txt"]);
    world.assert_same_everywhere(&sibling, "merged by hand");
}

#[test]
fn a_sibling_that_is_moved_over_the_file_takes_its_place() {
    let (mut world, laptop, sibling) = conflicting();
    world.rename(laptop, &sibling, "notes.txt");
    world.settle();
    world.assert_paths_everywhere(&["notes.txt"]);
    world.assert_same_everywhere("notes.txt", "from the train");
}

#[test]
fn a_sibling_keeps_its_name_when_the_file_is_removed() {
    let (mut world, laptop, sibling) = conflicting();
    world.remove(laptop, "notes.txt");
    world.settle();
    world.assert_paths_everywhere(&[&sibling]);
    world.assert_same_everywhere(&sibling, "from the train");
}

#[test]
fn a_sibling_that_both_edit_has_two_versions_with_flat_names() {
    let (mut world, laptop, sibling) = conflicting();
    let desktop = Here(1);
    world.go_offline(laptop);
    world.write(laptop, &sibling, "one way");
    world.run_for(1000);
    world.write(desktop, &sibling, "the other way");
    world.connect_all();
    world.settle();
    let paths = world.paths(laptop);
    assert_eq!(paths.len(), 3, "{paths:?}");
    assert!(paths.iter().all(|path| path.matches("(conflict").count() <= 1), "{paths:?}");
}

#[test]
fn what_was_deleted_where_it_was_written_before_anybody_had_it_keeps_no_moved_file_from_agreeing() {
    let mut world = World::new(12);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "notes.txt", "first");
    world.settle();
    tell_and_do_away(&mut world, laptop, "notes.txt", "second", |world| {
        world.rename(desktop, "notes.txt", "diary.txt");
    });
    world.settle();
    world.assert_paths_everywhere(&["diary.txt"]);
    world.assert_same_everywhere("diary.txt", "first");
}

#[test]
fn a_version_that_nobody_has_is_not_taken_out_while_a_device_is_away() {
    let mut world = World::new(13);
    let [laptop, desktop, tablet] = world.paired(["laptop", "desktop", "tablet"]);
    world.write(laptop, "notes.txt", "first");
    world.settle();
    world.go_offline(tablet);
    tell_and_do_away(&mut world, laptop, "notes.txt", "second", |world| {
        world.rename(desktop, "notes.txt", "diary.txt");
    });
    world.run_for(10_000);
    for here in [laptop, desktop] {
        let summary = world.machines[here.0].engine().summary().expect("an index in memory");
        assert!(summary.awaits_away && !summary.standing.stuck, "{summary:?}");
    }
    world.go_online(tablet);
    world.settle();
    world.assert_paths_everywhere(&["diary.txt"]);
}

/// Writes a content and removes it as soon as others have been told of it, before they have it.
fn tell_and_do_away(world: &mut World, here: Here, path: &str, text: &str, meanwhile: impl FnOnce(&mut World)) {
    let told = world.sent.rows;
    world.write(here, path, text);
    meanwhile(world);
    while world.sent.rows == told {
        assert!(world.step(u64::MAX), "others are told");
    }
    world.remove(here, path);
}

/// Two machines with a conflict: the name of the sibling.
fn conflicting() -> (World, Here, String) {
    let (mut world, laptop, desktop) = apart_with("notes.txt", "first");
    world.write(laptop, "notes.txt", "from the train");
    world.run_for(1000);
    world.write(desktop, "notes.txt", "from the desk");
    world.connect_all();
    world.settle();
    let sibling = world.paths(laptop).into_iter().find(|path| path.contains("conflict")).expect("a sibling");
    (world, laptop, sibling)
}
