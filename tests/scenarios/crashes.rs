//! A daemon that dies at any call leaves each file old or new, and goes on where it was.

use hearth_tests::sim::{Crash, World};

#[test]
fn a_crash_at_any_call_while_changes_are_applied_loses_nothing() {
    for how in [Crash::Kill, Crash::PowerCut] {
        for calls in 0..40 {
            let mut world = World::new(51 + u64::from(calls));
            let [laptop, desktop] = world.paired(["laptop", "desktop"]);
            for name in ["a", "b", "dir/c", "dir/d"] {
                world.write(laptop, name, &format!("old {name}"));
            }
            world.settle();
            world.machines[desktop.0].arm(calls, how);
            world.write(laptop, "a", "changed a");
            world.rename(laptop, "b", "dir/b");
            world.rename(laptop, "dir", "moved");
            world.remove(laptop, "moved/c");
            world.write(laptop, "fresh/e", "added e");
            world.settle();
            world.assert_paths_everywhere(&["a", "fresh", "fresh/e", "moved", "moved/b", "moved/d"]);
            world.assert_same_everywhere("a", "changed a");
        }
    }
}

#[test]
fn a_daemon_that_was_down_finds_what_happened_meanwhile() {
    let mut world = World::new(52);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "dir/a.txt", "one");
    world.write(laptop, "dir/b.txt", "two");
    world.settle();
    world.crash(desktop, Crash::Kill);
    world.rename(desktop, "dir", "renamed");
    world.remove(desktop, "renamed/a.txt");
    world.write(desktop, "renamed/b.txt", "two and a half");
    world.write(laptop, "dir/c.txt", "three");
    world.start(desktop);
    world.settle();
    world.assert_paths_everywhere(&["renamed", "renamed/b.txt", "renamed/c.txt"]);
}
