//! Databases that programs commit to while the daemon looks: what travels is what was committed, and nothing is taken away.

use hearth_tests::sim::disk::{Act, Crash};
use hearth_tests::sim::{Here, World};
use syncd_core::engine::Event;

#[test]
fn what_is_committed_arrives_while_the_program_goes_on() {
    let (mut world, laptop, desktop) = with_database(400);
    world.must(laptop, Act::Begin("store".into(), Vec::new()));
    world.must(laptop, Act::Commit(0, vec![0], b"two".to_vec()));
    world.must(laptop, Act::Checkpoint(0, 0));
    world.settle();
    assert_eq!(world.paths(desktop), ["store"]);
    world.must(laptop, Act::Commit(0, vec![1, 0], b"three".to_vec()));
    // Half of it stands in the database by now.
    world.must(laptop, Act::Checkpoint(0, 2));
    world.settle();
    assert_same(&world, [laptop, desktop]);
    world.must(laptop, Act::End(0, true));
    world.settle();
    assert_eq!(world.paths(laptop), ["store"]);
}

#[test]
fn a_database_with_a_log_that_nobody_tidied_up_is_replaced_as_a_whole() {
    let (mut world, laptop, desktop) = with_database(401);
    world.must(desktop, Act::Begin("store".into(), Vec::new()));
    world.must(desktop, Act::Commit(0, vec![0], b"of the desktop".to_vec()));
    world.must(desktop, Act::End(0, false));
    world.settle();
    world.must(laptop, Act::Begin("store".into(), Vec::new()));
    world.must(laptop, Act::Commit(0, vec![1], b"of the laptop".to_vec()));
    world.must(laptop, Act::End(0, true));
    world.settle();
    assert_same(&world, [laptop, desktop]);
    assert_eq!(world.paths(desktop), ["store"]);
    assert!(world.machines[desktop.0].disk.tree.staging.is_empty(), "no image is left");
}

#[test]
fn where_nobody_tells_who_has_a_database_open_it_is_not_moved_while_its_shared_memory_stands() {
    let (mut world, laptop, desktop) = with_database(402);
    world.machines[desktop.0].disk.leases = false;
    world.must(desktop, Act::Begin("store".into(), Vec::new()));
    world.rename(laptop, "store", "kept");
    world.run_for(5000);
    assert_eq!(world.paths(desktop), ["store", "store-shm"]);
    world.must(desktop, Act::Commit(0, vec![0], b"two".to_vec()));
    world.must(desktop, Act::End(0, true));
    world.settle();
    assert_eq!(world.paths(desktop), ["kept"]);
}

#[test]
fn what_a_killed_program_leaves_stays_here_whatever_has_the_name_of_the_database() {
    let (mut world, laptop, desktop) = with_database(403);
    world.must(desktop, Act::Begin("store".into(), Vec::new()));
    world.must(desktop, Act::End(0, false));
    move_alone(&mut world, desktop, "store", "kept");
    world.settle();
    world.write(laptop, "store", "no database");
    world.settle();
    assert_eq!(world.paths(desktop), ["kept", "store", "store-shm"]);
    assert_eq!(world.paths(laptop), ["kept", "store"]);
}

#[test]
fn what_a_killed_program_leaves_goes_along_with_the_database_and_keeps_no_directory() {
    let (mut world, laptop, desktop) = with_database(405);
    world.mkdir(laptop, "dir");
    world.rename(laptop, "store", "dir/store");
    world.settle();
    world.must(desktop, Act::Begin("dir/store".into(), Vec::new()));
    world.must(desktop, Act::End(0, false));
    assert_eq!(world.paths(desktop), ["dir", "dir/store", "dir/store-shm"]);
    world.rename(laptop, "dir/store", "kept");
    world.remove(laptop, "dir");
    world.settle();
    assert_eq!(world.paths(desktop), ["kept", "kept-shm"]);
    assert_same_at(&world, "kept", [laptop, desktop]);
}

#[test]
fn a_database_is_not_moved_beside_the_log_of_another() {
    let (mut world, laptop, desktop) = with_database(406);
    world.must(desktop, Act::Begin("kept".into(), b"of the desktop".to_vec()));
    world.must(desktop, Act::Commit(0, vec![0, 1], b"in the log".to_vec()));
    world.must(desktop, Act::End(0, false));
    world.settle();
    move_alone(&mut world, desktop, "kept", "other");
    world.settle();
    assert!(world.paths(desktop).contains(&"kept-wal".to_owned()));
    world.rename(laptop, "store", "kept");
    world.settle();
    assert_eq!(world.paths(desktop), ["kept", "other"]);
    assert_same_at(&world, "kept", [laptop, desktop]);
}

#[test]
fn what_is_committed_with_the_clock_set_back_is_seen() {
    let (mut world, laptop, desktop) = with_database(404);
    world.machines[laptop.0].skew_ms = -400 * 86_400_000;
    let now_ms = world.now_ms;
    world.machines[laptop.0].handle(Event::Overflowed, now_ms);
    world.run_until_quiet();
    world.must(laptop, Act::Begin("store".into(), Vec::new()));
    world.must(laptop, Act::Commit(0, vec![0], b"two".to_vec()));
    world.settle();
    assert_same(&world, [laptop, desktop]);
}

#[test]
fn what_belongs_into_a_directory_that_is_to_have_the_name_of_a_database_in_use_is_not_brought_meanwhile() {
    let (mut world, laptop, desktop) = with_database(412);
    world.must(desktop, Act::Begin("store".into(), Vec::new()));
    world.run_until_quiet();
    world.go_offline(desktop);
    world.save(laptop, "store", "a file by now");
    world.rename(laptop, "store", "kept");
    world.write(laptop, "store/a", "a");
    world.run_until_quiet();
    world.go_online(desktop);
    world.run_for(30_000);
    world.assert_told_and_not_brought_again(desktop);
    world.must(desktop, Act::End(0, true));
    world.settle();
    world.assert_paths_everywhere(&["kept", "store", "store/a"]);
}

#[test]
fn a_further_name_of_a_database_holds_what_is_in_the_log_of_the_first() {
    let (mut world, laptop, desktop) = with_database(413);
    world.must(desktop, Act::HardLink("store".into(), "second".into()));
    world.settle();
    world.must(laptop, Act::Begin("store".into(), Vec::new()));
    world.must(laptop, Act::Commit(0, vec![0, 1], b"in the log".to_vec()));
    world.must(laptop, Act::End(0, false));
    world.settle();
    world.must(desktop, Act::HardLink("store".into(), "third".into()));
    world.settle();
    for path in ["store", "third"] {
        assert_same_at(&world, path, [laptop, desktop]);
    }
}

#[test]
fn an_image_that_is_not_needed_any_more_goes_though_the_daemon_is_killed_before_it_could_go() {
    let (mut world, laptop, desktop) = with_database(414);
    world.must(laptop, Act::Begin("store".into(), Vec::new()));
    world.must(laptop, Act::Commit(0, vec![0], b"two".to_vec()));
    world.run_for(5000);
    world.must(laptop, Act::End(0, true));
    world.run_for(5000);
    assert_eq!(world.machines[laptop.0].disk.tree.staging.len(), 1);
    world.crash(laptop, Crash::Kill);
    world.start(laptop);
    world.settle();
    assert_same(&world, [laptop, desktop]);
    assert!(world.machines[laptop.0].disk.tree.staging.is_empty(), "no image is left");
}

fn with_database(seed: u64) -> (World, Here, Here) {
    let mut world = World::new(seed);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.must(laptop, Act::Begin("store".into(), b"one".to_vec()));
    world.must(laptop, Act::End(0, true));
    world.settle();
    (world, laptop, desktop)
}

/// A person who does not know better moves a database without what a killed program has left beside it.
fn move_alone(world: &mut World, here: Here, from: &str, to: &str) {
    let now_ms = world.now_ms;
    let machine = &mut world.machines[here.0];
    machine.disk.tree.rename(from.as_bytes(), to.as_bytes(), false).expect("it stands there");
    machine.handle(Event::Overflowed, now_ms);
}

fn assert_same(world: &World, machines: [Here; 2]) {
    assert_same_at(world, "store", machines);
}

fn assert_same_at(world: &World, path: &str, machines: [Here; 2]) {
    let [a, b] = machines.map(|here| world.machines[here.0].disk.committed_at(path.as_bytes()));
    assert!(a.is_some() && a == b, "{}", world.describe());
}
