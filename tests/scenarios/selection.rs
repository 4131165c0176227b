//! Rules differ between machines, and a rule deletes nothing.

use hearth_tests::sim::disk::Act;
use hearth_tests::sim::world::Here;
use hearth_tests::sim::{Crash, World};
use syncd_core::engine::Event;

/// A machine starts anew with one more path that is excluded there.
fn exclude(world: &mut World, here: Here, path: &str) {
    world.crash(here, Crash::Kill);
    world.machines[here.0].excluded.insert(path.as_bytes().to_vec());
    world.start(here);
}

#[test]
fn what_is_excluded_on_one_machine_travels_between_the_others_through_it() {
    let mut world = World::new(81);
    let laptop = world.add_down("laptop");
    let server = world.add_down("server");
    let desktop = world.add_down("desktop");
    world.machines[server.0].excluded.insert(b"videos".to_vec());
    for here in [laptop, server, desktop] {
        world.start(here);
    }
    world.connect(laptop, server);
    world.connect(server, desktop);
    world.write(laptop, "videos/holiday.mp4", "long");
    world.write(laptop, "notes.txt", "short");
    world.run_until_quiet();
    assert_eq!(world.paths(server), ["notes.txt"]);
    assert_eq!(world.read(desktop, "notes.txt").as_deref(), Some("short"));
    world.connect(laptop, desktop);
    world.run_until_quiet();
    assert_eq!(world.read(desktop, "videos/holiday.mp4").as_deref(), Some("long"));
}

#[test]
fn a_rule_that_excludes_and_is_lifted_again_deletes_nothing() {
    let mut world = World::new(82);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/holiday.mp4", "long");
    world.write(laptop, "notes.txt", "short");
    world.settle();
    exclude(&mut world, desktop, "videos");
    world.run_until_quiet();
    assert_eq!(world.read(laptop, "videos/holiday.mp4").as_deref(), Some("long"));
    assert_eq!(world.read(desktop, "videos/holiday.mp4").as_deref(), Some("long"));
    world.write(laptop, "videos/holiday.mp4", "longer");
    world.run_until_quiet();
    world.crash(desktop, Crash::Kill);
    world.machines[desktop.0].excluded.clear();
    world.start(desktop);
    world.settle();
    world.assert_same_everywhere("videos/holiday.mp4", "longer");
}

#[test]
fn what_a_person_removes_while_it_is_excluded_comes_back_with_the_rule_lifted() {
    let mut world = World::new(83);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "videos/holiday.mp4", "long");
    world.settle();
    exclude(&mut world, desktop, "videos");
    world.run_until_quiet();
    world.remove(desktop, "videos");
    world.run_until_quiet();
    assert_eq!(world.read(laptop, "videos/holiday.mp4").as_deref(), Some("long"));
    world.crash(desktop, Crash::Kill);
    world.machines[desktop.0].excluded.clear();
    world.start(desktop);
    let now_ms = world.now_ms;
    world.machines[desktop.0].handle(Event::RulesChanged, now_ms);
    world.settle();
    world.assert_same_everywhere("videos/holiday.mp4", "long");
}

#[test]
fn what_cannot_be_read_and_is_excluded_is_no_problem_any_more() {
    let mut world = World::new(86);
    let [_laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(desktop, "secret.txt", "one");
    world.must(desktop, Act::Chmod("secret.txt".into(), 0o000));
    world.run_for(5000);
    assert_eq!(world.machines[desktop.0].engine().problems().count(), 1);
    let now_ms = world.now_ms;
    world.machines[desktop.0].exclude("secret.txt", now_ms);
    world.run_until_quiet();
    assert_eq!(world.machines[desktop.0].engine().problems().count(), 0);
}

#[test]
fn a_socket_is_nobodys_business() {
    let mut world = World::new(84);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.must(laptop, Act::Socket("agent.sock".into()));
    world.write(laptop, "a.txt", "one");
    world.run_until_quiet();
    assert_eq!(world.paths(desktop), ["a.txt"]);
}

#[test]
fn what_is_excluded_in_a_directory_stays_at_its_path_when_another_directory_takes_the_name() {
    let mut world = World::new(85);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "app/old.txt", "old");
    world.write(laptop, "new/new.txt", "new");
    world.settle();
    exclude(&mut world, desktop, "app/private");
    world.write(desktop, "app/private/key", "secret");
    world.run_until_quiet();
    world.remove(laptop, "app");
    world.rename(laptop, "new", "app");
    world.run_until_quiet();
    assert_eq!(world.paths(laptop), ["app", "app/new.txt"]);
    assert_eq!(world.paths(desktop), ["app", "app/new.txt", "app/private", "app/private/key"]);
}

#[test]
fn what_cannot_be_had_because_a_socket_has_its_name_is_told_and_keeps_nothing_else_waiting() {
    let mut world = World::new(91);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.must(desktop, Act::Socket("videos".into()));
    world.must(desktop, Act::Socket("notes.txt".into()));
    world.run_until_quiet();
    world.write(laptop, "videos/holiday.mp4", "long");
    world.write(laptop, "notes.txt", "of the laptop");
    world.write(laptop, "other.txt", "arrives");
    world.run_for(60_000);
    assert_eq!(world.read(desktop, "other.txt").as_deref(), Some("arrives"));
    let engine = world.machines[desktop.0].engine();
    let told: Vec<_> = engine.problems().map(|problem| problem.path.clone()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.contains(&b"notes.txt".to_vec()) && told.contains(&b"videos".to_vec()), "{told:?}");
    assert!(!engine.summary().expect("an index in memory").settled);
    world.remove(desktop, "videos");
    world.remove(desktop, "notes.txt");
    world.settle();
    world.assert_same_everywhere("videos/holiday.mp4", "long");
    world.assert_same_everywhere("notes.txt", "of the laptop");
}

#[test]
fn what_cannot_be_had_for_its_name_is_not_brought_again_and_again() {
    let mut world = World::new(93);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.must(desktop, Act::Socket("notes.txt".into()));
    world.write(laptop, "notes.txt", "of the laptop");
    world.run_for(20_000);
    world.assert_told_and_not_brought_again(desktop);
    world.remove(desktop, "notes.txt");
    world.settle();
    world.assert_same_everywhere("notes.txt", "of the laptop");
}

/// A directory that was deleted elsewhere stays here for what is excluded in it. The name's next owner waited for ever,
/// and nobody was told.
#[test]
fn what_cannot_be_had_because_a_deleted_directory_stays_for_what_is_excluded_is_told() {
    let mut world = World::new(94);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "app/old.txt", "old");
    world.settle();
    exclude(&mut world, desktop, "app/private");
    world.write(desktop, "app/private/key", "secret");
    world.run_until_quiet();
    world.remove(laptop, "app");
    world.run_until_quiet();
    world.write(laptop, "app", "a program now");
    world.run_for(20_000);
    let told: Vec<_> = world.machines[desktop.0].engine().problems().map(|problem| problem.path.clone()).collect();
    assert_eq!(told, [b"app".to_vec()]);
    world.assert_told_and_not_brought_again(desktop);
    world.rename(desktop, "app/private", "private");
    world.settle();
    assert_eq!(world.read(desktop, "app").as_deref(), Some("a program now"));
    assert_eq!(world.read(desktop, "private/key").as_deref(), Some("secret"));
}

#[test]
fn what_stays_here_for_what_it_is_is_named_and_is_no_problem() {
    let mut world = World::new(92);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.mkdir(laptop, "run");
    world.must(laptop, Act::Socket("run/agent.sock".into()));
    world.write(laptop, "tool", "runs as its owner");
    world.must(laptop, Act::Chmod("tool".into(), 0o4755));
    world.run_until_quiet();
    let staying = |world: &World| -> Vec<String> {
        let staying = world.machines[laptop.0].engine().staying();
        staying.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    };
    assert_eq!(staying(&world), ["run/agent.sock", "tool"]);
    assert_eq!(world.machines[laptop.0].engine().problems().count(), 0);
    assert!(world.machines[desktop.0].engine().staying().is_empty(), "the bit has not travelled");
    world.crash(laptop, Crash::Kill);
    world.start(laptop);
    world.run_until_quiet();
    assert_eq!(staying(&world), ["run/agent.sock", "tool"], "it is found again");

    world.rename(laptop, "run", "away");
    world.must(laptop, Act::Chmod("tool".into(), 0o755));
    world.run_until_quiet();
    assert_eq!(staying(&world), ["away/agent.sock"]);
    world.remove(laptop, "away/agent.sock");
    world.run_until_quiet();
    assert_eq!(staying(&world), Vec::<String>::new());
}
