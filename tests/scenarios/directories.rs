//! Directories move as one, and never take anything along into nothing.

use hearth_tests::sim::disk::{Act, Crash};
use hearth_tests::sim::{Here, World};
use syncd_core::engine::Portions;

#[test]
fn a_directory_that_is_renamed_moves_no_content() {
    let mut world = World::new(21);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for i in 0..50 {
        world.write(laptop, &format!("photos/2026/{i}.jpg"), &format!("picture {i}"));
    }
    world.settle();
    let (before, written) = (world.sent, world.machines[desktop.0].disk.changes);
    world.rename(laptop, "photos", "pictures");
    world.settle();
    world.assert_same_everywhere("pictures/2026/7.jpg", "picture 7");
    assert_eq!(world.sent.contents, before.contents);
    assert!(world.machines[desktop.0].disk.changes - written < 10, "one rename, not one for each file");
}

#[test]
fn a_file_moved_into_a_directory_that_is_not_known_yet_stays_until_it_is() {
    let mut world = World::new(62);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for here in [laptop, desktop] {
        let portions = Portions { rows: 1, ..Portions::default() };
        world.machines[here.0].portions = portions;
        world.crash(here, Crash::Kill);
        world.start(here);
    }
    world.write(laptop, "a.txt", "text");
    world.connect_all();
    world.settle();
    world.rename(laptop, "a.txt", "b.txt");
    world.mkdir(laptop, "new");
    world.rename(laptop, "b.txt", "new/a.txt");
    world.settle();
    world.assert_paths_everywhere(&["new", "new/a.txt"]);
    assert!(world.machines[desktop.0].disk.tree.history.is_empty(), "it was moved, and neither removed nor made again");
}

#[test]
fn two_moves_that_would_make_a_cycle_leave_both_directories() {
    let (mut world, laptop, desktop) = apart(&["a/in-a.txt", "b/in-b.txt"]);
    world.rename(laptop, "a", "b/a");
    world.run_for(1000);
    world.rename(desktop, "b", "a/b");
    world.connect_all();
    world.settle();
    let paths = world.paths(laptop);
    assert_eq!(paths.iter().filter(|path| path.ends_with(".txt")).count(), 2, "{paths:?}");
}

#[test]
fn what_is_created_in_a_directory_moved_elsewhere_follows_it() {
    let (mut world, laptop, desktop) = apart(&["work/old.txt"]);
    world.rename(laptop, "work", "archive");
    world.write(desktop, "work/later.txt", "added");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["archive", "archive/later.txt", "archive/old.txt"]);
}

#[test]
fn a_directory_deleted_here_stays_with_what_was_created_in_it_there() {
    let (mut world, laptop, desktop) = apart(&["work/old.txt"]);
    world.remove(laptop, "work");
    world.write(desktop, "work/later.txt", "added");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["work", "work/later.txt"]);
}

#[test]
fn a_directory_deleted_here_and_moved_there_lives_with_all_that_it_held() {
    let (mut world, laptop, desktop) = apart(&["work/old.txt", "work/deep/er.txt"]);
    world.remove(laptop, "work");
    world.rename(desktop, "work", "kept");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["kept", "kept/deep", "kept/deep/er.txt", "kept/old.txt"]);
}

#[test]
fn a_file_edited_there_in_a_directory_deleted_here_stays() {
    let (mut world, laptop, desktop) = apart(&["work/a.txt", "work/b.txt"]);
    world.remove(laptop, "work");
    world.write(desktop, "work/a.txt", "edited");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["work", "work/a.txt"]);
}

#[test]
fn two_directories_of_one_name_become_one() {
    let (mut world, laptop, desktop) = apart(&["seed.txt"]);
    world.write(laptop, "project/of-laptop.txt", "l");
    world.write(desktop, "project/of-desktop.txt", "d");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["project", "project/of-desktop.txt", "project/of-laptop.txt", "seed.txt"]);
    world.rename(laptop, "project", "renamed");
    world.settle();
    world.assert_paths_everywhere(&["renamed", "renamed/of-desktop.txt", "renamed/of-laptop.txt", "seed.txt"]);
}

#[test]
fn two_directories_that_are_swapped_are_swapped_everywhere() {
    let (mut world, laptop, _) = apart(&["a/in-a.txt", "b/in-b.txt"]);
    world.must(laptop, Act::Swap("a".into(), "b".into()));
    world.connect_all();
    let before = world.sent.contents;
    world.settle();
    world.assert_paths_everywhere(&["a", "a/in-b.txt", "b", "b/in-a.txt"]);
    assert_eq!(world.sent.contents, before);
}

#[test]
fn a_directory_removed_and_made_again_at_once_is_the_same_directory() {
    let (mut world, laptop, desktop) = apart(&["src/main.rs", "src/gone.rs"]);
    world.remove(laptop, "src");
    world.write(laptop, "src/main.rs", "checked out");
    world.write(desktop, "src/lib.rs", "mine");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["src", "src/lib.rs", "src/main.rs"]);
    world.assert_same_everywhere("src/main.rs", "checked out");
}

#[test]
fn an_empty_directory_travels_and_goes() {
    let (mut world, laptop, _) = apart(&["seed.txt"]);
    world.mkdir(laptop, "empty/er");
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["empty", "empty/er", "seed.txt"]);
    world.remove(laptop, "empty");
    world.settle();
    world.assert_paths_everywhere(&["seed.txt"]);
}

#[test]
fn a_file_that_is_created_right_after_its_directory_was_moved_by_a_peer_is_seen() {
    let (mut world, laptop, desktop) = apart(&["work/deep/old.txt"]);
    world.connect_all();
    world.settle();
    world.rename(laptop, "work", "archive");
    world.settle();
    world.write(desktop, "archive/deep/later.txt", "added");
    world.settle();
    world.assert_same_everywhere("archive/deep/later.txt", "added");
}

/// Two machines, parted, with these files in common.
fn apart(paths: &[&str]) -> (World, Here, Here) {
    let mut world = World::new(22);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for path in paths {
        world.write(laptop, path, &format!("text of {path}"));
    }
    world.settle();
    world.part(laptop, desktop);
    (world, laptop, desktop)
}

#[test]
fn what_is_found_in_a_directory_that_was_swapped_meanwhile_is_not_taken_for_its_own() {
    let mut world = World::new(59);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.mkdir(laptop, "sub");
    world.mkdir(laptop, "x/d/b");
    world.settle();
    // `sub/b` stirs, and by the time that it is looked at, another directory has the name `sub`.
    world.mkdir(laptop, "sub/b");
    world.remove(laptop, "sub/b");
    world.must(laptop, Act::Swap("sub".into(), "x/d".into()));
    world.settle();
    world.assert_paths_everywhere(&["sub", "sub/b", "x", "x/d"]);
}
