//! A machine that joins, or whose index is lost, brings its files and deletes nothing.

use hearth_tests::sim::{Crash, World};

#[test]
fn equal_files_unify_and_different_ones_leave_the_accounts_version_its_name() {
    let mut world = World::new(31);
    let laptop = world.add("laptop");
    world.write(laptop, "same.txt", "equal");
    world.write(laptop, "differs.txt", "of the account");
    world.write(laptop, "dir/only-laptop.txt", "l");
    world.run_until_quiet();
    let desktop = world.add_down("desktop");
    world.write(desktop, "same.txt", "equal");
    world.write(desktop, "differs.txt", "of the one that joins");
    world.write(desktop, "dir/only-desktop.txt", "d");
    world.start(desktop);
    let before = world.sent.contents;
    world.connect_all();
    world.settle();
    world.assert_same_everywhere("same.txt", "equal");
    world.assert_same_everywhere("differs.txt", "of the account");
    world.assert_same_everywhere("dir/only-laptop.txt", "l");
    world.assert_same_everywhere("dir/only-desktop.txt", "d");
    let sibling = world.paths(laptop).into_iter().find(|path| path.contains("(conflict, desktop")).expect("a sibling");
    world.assert_same_everywhere(&sibling, "of the one that joins");
    assert_eq!(world.sent.contents - before, 4, "what is equal does not travel");
}

#[test]
fn an_index_that_is_lost_means_union() {
    let mut world = World::new(32);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.write(laptop, "dir/b.txt", "two");
    world.settle();
    world.crash(desktop, Crash::Kill);
    world.remove(desktop, "a.txt");
    world.write(laptop, "dir/c.txt", "meanwhile");
    world.run_for(2000);
    world.machines[desktop.0].lose_index();
    world.start(desktop);
    world.settle();
    world.assert_paths_everywhere(&["a.txt", "dir", "dir/b.txt", "dir/c.txt"]);
}

#[test]
fn an_index_from_a_backup_deletes_nothing() {
    let mut world = World::new(33);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.settle();
    world.crash(desktop, Crash::Kill);
    let backup = world.machines[desktop.0].index();
    world.start(desktop);
    world.write(desktop, "b.txt", "after the backup");
    world.write(desktop, "a.txt", "edited after the backup");
    world.settle();
    world.crash(desktop, Crash::Kill);
    world.machines[desktop.0].restore_index(backup);
    world.start(desktop);
    world.settle();
    world.assert_paths_everywhere(&["a.txt", "b.txt"]);
    world.assert_same_everywhere("a.txt", "edited after the backup");
}

/// Counter-example to a replica for each index: the laptop, restored, first meets the server, which never heard of what the
/// laptop had told the desktop, and so cannot tell it that it went back.
#[test]
fn an_index_from_a_backup_that_meets_who_heard_less_gives_no_number_twice() {
    let mut world = World::new(331);
    let [laptop, server, desktop] = world.paired(["laptop", "server", "desktop"]);
    world.write(laptop, "a.txt", "known to all");
    world.settle();
    world.crash(laptop, Crash::Kill);
    let backup = world.machines[laptop.0].index();
    world.go_offline(server);
    world.start(laptop);
    world.write(laptop, "a.txt", "told to the desktop alone");
    world.write(laptop, "b.txt", "as well");
    world.run_until_quiet();
    world.crash(laptop, Crash::Kill);
    world.machines[laptop.0].restore_index(backup);
    world.go_offline(desktop);
    world.connect(laptop, server);
    world.start(laptop);
    world.run_until_quiet();
    world.write(laptop, "c.txt", "told to the server");
    world.write(laptop, "a.txt", "told to the server, too");
    world.run_until_quiet();
    assert_eq!(world.read(server, "a.txt").as_deref(), Some("told to the server, too"));
    world.connect_all();
    world.settle();
    world.assert_same_everywhere("b.txt", "as well");
    world.assert_same_everywhere("c.txt", "told to the server");
    let of_a = world.listing(laptop).into_iter().filter(|(path, _)| path.starts_with("a")).count();
    assert_eq!(of_a, 2, "what each was told is there: {:?}", world.listing(laptop));
}

#[test]
fn a_machine_from_an_old_image_takes_nothing_back() {
    let mut world = World::new(332);
    let [laptop, server, desktop] = world.paired(["laptop", "server", "desktop"]);
    for (path, text) in [("stays.txt", "1"), ("goes.txt", "2"), ("dir/moves.txt", "3"), ("changes.txt", "4")] {
        world.write(laptop, path, text);
    }
    world.settle();
    world.crash(laptop, Crash::Kill);
    let (index, tree) = (world.machines[laptop.0].index(), world.machines[laptop.0].disk.tree.clone());
    world.start(laptop);
    world.write(laptop, "new.txt", "5");
    world.write(laptop, "changes.txt", "6");
    world.remove(laptop, "goes.txt");
    world.rename(laptop, "dir", "moved");
    world.settle();
    world.go_offline(desktop);
    world.crash(laptop, Crash::Kill);
    world.machines[laptop.0].restore_index(index);
    world.machines[laptop.0].disk.tree = tree;
    world.start(laptop);
    world.write(laptop, "after.txt", "7");
    world.run_until_quiet();
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&["after.txt", "changes.txt", "moved", "moved/moves.txt", "new.txt", "stays.txt"]);
    world.assert_same_everywhere("changes.txt", "6");
    assert_eq!(world.read(server, "new.txt").as_deref(), Some("5"));
}

#[test]
fn a_root_that_is_another_directory_deletes_nothing() {
    let mut world = World::new(34);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.settle();
    world.machines[desktop.0].disk.root_lost = true;
    world.remove(desktop, "a.txt");
    world.run_for(60_000);
    assert_eq!(world.read(laptop, "a.txt").as_deref(), Some("one"));
}

#[test]
fn two_clones_of_one_image_that_both_run_become_two_machines_and_lose_nothing() {
    let mut world = World::new(335);
    let [laptop, server] = world.paired(["laptop", "server"]);
    world.write(laptop, "shared.txt", "before the cloning");
    world.settle();
    world.crash(laptop, Crash::Kill);
    let (index, tree) = (world.machines[laptop.0].index(), world.machines[laptop.0].disk.tree.clone());
    let clone = world.add_down("clone");
    world.machines[clone.0].restore_index(index);
    world.machines[clone.0].disk.tree = tree;
    world.start(laptop);
    world.start(clone);
    world.write(laptop, "shared.txt", "by the laptop");
    world.write(clone, "shared.txt", "by the clone");
    world.write(laptop, "laptop.txt", "of the laptop");
    world.write(clone, "clone.txt", "of the clone");
    world.connect_all();
    world.settle();
    let listing = world.listing(server);
    for text in ["by the laptop", "by the clone", "of the laptop", "of the clone"] {
        assert!(listing.values().any(|shown| shown == text), "{text}: {listing:?}");
    }
}
