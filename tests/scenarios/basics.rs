//! A change made here is there.

use hearth_tests::sim::World;

#[test]
fn a_file_written_here_appears_there() {
    let mut world = World::new(1);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "notes.txt", "one");
    world.settle();
    world.assert_same_everywhere("notes.txt", "one");
}

#[test]
fn an_edit_made_here_appears_there() {
    let mut world = World::new(2);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "notes.txt", "one");
    world.settle();
    world.write(desktop, "notes.txt", "two");
    world.settle();
    world.assert_same_everywhere("notes.txt", "two");
    world.save(laptop, "notes.txt", "three");
    world.settle();
    world.assert_same_everywhere("notes.txt", "three");
}

#[test]
fn a_file_removed_here_goes_there_and_is_in_its_history() {
    let mut world = World::new(3);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "notes.txt", "one");
    world.settle();
    world.remove(laptop, "notes.txt");
    world.settle();
    world.assert_paths_everywhere(&[]);
}

#[test]
fn directories_travel_with_their_times_and_modes_even_when_empty() {
    let mut world = World::new(4);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.mkdir(laptop, "a/b/c");
    world.write(desktop, "d/e/f.txt", "f");
    world.settle();
    world.assert_paths_everywhere(&["a", "a/b", "a/b/c", "d", "d/e", "d/e/f.txt"]);
}
