//! Three machines, of which not all meet.

use hearth_tests::sim::World;

#[test]
fn a_machine_passes_on_what_it_knows_of_others() {
    let mut world = World::new(41);
    let [laptop, _server, desktop] = world.paired(["laptop", "server", "desktop"]);
    world.part(laptop, desktop);
    world.write(laptop, "a/notes.txt", "by way of the server");
    world.run_until_quiet();
    world.assert_same_everywhere("a/notes.txt", "by way of the server");
    world.write(desktop, "a/notes.txt", "and back");
    world.run_until_quiet();
    world.connect_all();
    world.settle();
    world.assert_same_everywhere("a/notes.txt", "and back");
}

#[test]
fn a_message_in_a_bottle_reaches_the_one_who_was_never_there_at_the_same_time() {
    let mut world = World::new(42);
    let [laptop, server, desktop] = world.paired(["laptop", "server", "desktop"]);
    world.go_offline(desktop);
    world.write(laptop, "notes.txt", "for later");
    world.run_until_quiet();
    world.go_offline(laptop);
    world.connect(server, desktop);
    world.run_until_quiet();
    assert_eq!(world.read(desktop, "notes.txt").as_deref(), Some("for later"));
    world.connect_all();
    world.settle();
}

#[test]
fn three_edits_of_one_file_are_all_there() {
    let mut world = World::new(43);
    let all = world.paired(["laptop", "server", "desktop"]);
    world.write(all[0], "notes.txt", "first");
    world.settle();
    for here in all {
        world.go_offline(here);
    }
    for here in all {
        world.write(here, "notes.txt", &format!("by {here:?}"));
        world.run_for(1000);
    }
    world.connect_all();
    world.settle();
    assert_eq!(world.paths(all[0]).len(), 3);
}

#[test]
fn clocks_that_are_off_by_ten_years_lose_nothing() {
    let mut world = World::new(44);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    let ten_years = 10 * 365 * 86_400_000;
    world.machines[laptop.0].skew_ms = ten_years;
    world.write(laptop, "notes.txt", "from the future");
    world.settle();
    world.machines[laptop.0].skew_ms = -ten_years;
    world.write(laptop, "notes.txt", "from the past");
    world.settle();
    world.assert_same_everywhere("notes.txt", "from the past");
    world.write(desktop, "notes.txt", "from today");
    world.settle();
    world.assert_paths_everywhere(&["notes.txt"]);
    world.assert_same_everywhere("notes.txt", "from today");
}

#[test]
fn a_machine_that_was_told_many_rows_at_once_says_that_it_knows_them() {
    let mut world = World::new(44);
    let [laptop, desktop] = ["laptop", "desktop"].map(|name| world.add_down(name));
    // Nothing is to be done about them, so nothing else makes the machine go on.
    world.machines[desktop.0].excluded.insert(b"away".to_vec());
    for here in [laptop, desktop] {
        world.machines[here.0].portions.rows = 2;
        world.start(here);
    }
    world.connect_all();
    (world.slowest_ms, world.eager) = (1, 0);
    for number in 0..200 {
        world.mkdir(laptop, &format!("away/{number}"));
    }
    world.run_until_quiet();
    for here in [laptop, desktop] {
        let summary = world.machines[here.0].engine().summary().expect("an index in memory");
        assert_eq!(summary.agreeing.len(), 1, "{summary:?}");
    }
}

#[test]
fn a_machine_that_was_away_for_a_year_gets_all_and_brings_nothing_back() {
    let mut world = World::new(55);
    let [laptop, desktop, attic] = world.paired(["laptop", "desktop", "attic"]);
    for n in 0..10 {
        world.write(laptop, &format!("year/{n}.txt"), &format!("of {n}"));
    }
    world.settle();
    world.go_offline(attic);
    world.write(attic, "year/3.txt", "edited in the attic");
    world.remove(attic, "year/4.txt");
    for month in 0..12 {
        world.write(laptop, &format!("year/new {month}.txt"), "of that month");
        world.write(desktop, "year/diary.txt", &format!("month {month}"));
        world.run_for(30 * 86_400_000);
    }
    world.remove(laptop, "year/0.txt");
    world.remove(laptop, "year/3.txt");
    world.write(desktop, "year/4.txt", "edited on the desktop");
    world.rename(laptop, "year/5.txt", "kept.txt");
    world.run_until_quiet();
    world.go_online(attic);
    world.connect_all();
    world.settle();
    let paths = world.paths(attic);
    assert!(!paths.contains(&"year/0.txt".to_owned()), "what was deleted is not brought back: {paths:?}");
    assert_eq!(paths.len(), 1 + 9 - 1 + 1 + 12 + 1, "{paths:?}");
    world.assert_same_everywhere("year/3.txt", "edited in the attic");
    world.assert_same_everywhere("year/4.txt", "edited on the desktop");
    world.assert_same_everywhere("kept.txt", "of 5");
    world.assert_same_everywhere("year/diary.txt", "month 11");
}
