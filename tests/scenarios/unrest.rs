//! Files that are written without pause.

use hearth_tests::sim::disk::{Act, Crash};
use hearth_tests::sim::{Here, World};
use syncd_core::engine::Event;

/// How often the writer of these stories writes, in milliseconds.
const PAUSE_MS: u64 = 50;

#[test]
fn a_log_that_never_rests_arrives_as_growing_parts_and_is_told() {
    let mut world = World::new(301);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "other.txt", "at rest");
    let before = world.sent.contents;
    let mut log = Log::new("app.log");
    let mut seen = vec![String::new()];
    for ms in (0..300_000).step_by(50) {
        log.append(&mut world, laptop);
        let there = world.read(desktop, "app.log").unwrap_or_default();
        assert!(log.text.starts_with(&there), "{ms} ms: {there:?} is no part of it from the beginning");
        if there != *seen.last().expect("at least one") {
            seen.push(there);
        }
        if ms == 8000 {
            assert_eq!(seen.len(), 1, "a file that may rest any moment is waited for");
        }
        if ms == 20_000 {
            assert_eq!(seen.len(), 2, "one that does not is copied");
            world.assert_same_everywhere("other.txt", "at rest");
        }
        if ms > 11_000 {
            assert!(told(&world, laptop), "{ms} ms: it is said that there is more");
            assert!(!world.machines[laptop.0].engine().summary().expect("an index").standing.clean);
        }
    }
    // One after ten seconds, and one a minute from there.
    assert_eq!(seen.len(), 6, "{:?}", seen.iter().map(String::len).collect::<Vec<_>>());
    assert!(world.sent.contents - before <= 8);
    world.settle();
    world.assert_same_everywhere("app.log", &log.text);
    assert!(!told(&world, laptop));
    assert!(world.machines[laptop.0].disk.tree.staging.is_empty(), "no copy is left");
}

#[test]
fn a_file_that_changes_whenever_it_is_looked_at_is_copied_too() {
    changes_whenever_it_is_looked_at(1);
}

#[test]
fn so_is_one_that_is_read_in_pieces() {
    changes_whenever_it_is_looked_at(4);
}

fn changes_whenever_it_is_looked_at(pieces: usize) {
    let mut world = World::new(302);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.machines[laptop.0].disk.pieces = pieces;
    world.write(laptop, "still.img", "is read in pieces as well");
    let mut log = Log::new("disk.img");
    let mut seen = Vec::new();
    for _ in 0..2400 {
        log.append(&mut world, laptop);
        let disk = &mut world.machines[laptop.0].disk;
        disk.call_off();
        for calls in 0..12 {
            log.text.push('.');
            disk.ambush(calls, Act::Write("disk.img".into(), log.text.clone().into_bytes()));
        }
        let there = world.read(desktop, "disk.img").unwrap_or_default();
        if seen.last() != Some(&there) {
            seen.push(there);
        }
    }
    world.machines[laptop.0].disk.call_off();
    assert!((3..=5).contains(&seen.len()), "{}", seen.len());
    log.append(&mut world, laptop);
    world.settle();
    world.assert_same_everywhere("disk.img", &log.text);
    world.assert_same_everywhere("still.img", "is read in pieces as well");
}

#[test]
fn what_comes_for_a_file_that_is_being_written_takes_nothing_from_its_writer() {
    let mut world = World::new(303);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    let mut log = Log::new("app.log");
    for ms in (0..100_000).step_by(50) {
        log.append(&mut world, laptop);
        if ms == 30_000 {
            world.save(desktop, "app.log", "of the desktop's own");
        }
        assert_eq!(world.read(laptop, "app.log").as_deref(), Some(log.text.as_str()));
    }
    world.settle();
    let listing = world.listing(laptop);
    for text in [log.text.as_str(), "of the desktop's own"] {
        assert!(listing.values().any(|found| found == text), "{text:?} is not in {:?}", listing.keys());
    }
}

#[test]
fn where_there_is_no_room_for_a_copy_it_is_waited_for_and_nothing_else_is() {
    let mut world = World::new(304);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    let mut log = Log::new("app.log");
    world.machines[laptop.0].disk.full = true;
    for _ in 0..1000 {
        log.append(&mut world, laptop);
    }
    assert!(told(&world, laptop));
    assert_eq!(world.read(desktop, "app.log"), None);
    world.machines[laptop.0].disk.full = false;
    for _ in 0..400 {
        log.append(&mut world, laptop);
    }
    assert!(world.read(desktop, "app.log").is_some_and(|there| log.text.starts_with(&there)));
    world.settle();
    world.assert_same_everywhere("app.log", &log.text);
}

#[test]
fn who_waits_hears_soon_whether_it_is_still_being_written() {
    let mut world = World::new(305);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    let mut log = Log::new("app.log");
    (0..400).for_each(|_| log.append(&mut world, laptop));
    let asked = log.text.clone();
    let hurry = |world: &mut World| {
        let now_ms = world.now_ms;
        world.machines[laptop.0].handle(Event::Hurry, now_ms);
        world.machines[laptop.0].engine().summary().expect("an index").looking
    };
    assert!(hurry(&mut world), "that is to be found out");
    (0..10).for_each(|_| log.append(&mut world, laptop));
    let summary = world.machines[laptop.0].engine().summary().expect("an index");
    assert!(!summary.looking && summary.standing.stuck, "it is, and waiting on would be in vain");
    let there = world.read(desktop, "app.log").expect("it is there");
    assert!(there.starts_with(&asked), "what was written before the call has arrived");

    assert!(hurry(&mut world));
    world.run_for(3000);
    let summary = world.machines[laptop.0].engine().summary().expect("an index");
    assert!(summary.settled, "it has come to rest");
    world.assert_same_everywhere("app.log", &log.text);
}

#[test]
fn copies_of_a_log_outlive_the_daemon_and_go_when_it_rests() {
    for (seed, how) in [(306, Crash::Kill), (307, Crash::PowerCut)] {
        let mut world = World::new(seed);
        let [laptop, desktop] = world.paired(["laptop", "desktop"]);
        world.part(laptop, desktop);
        let mut log = Log::new("app.log");
        (0..300).for_each(|_| log.append(&mut world, laptop));
        world.crash(laptop, how);
        world.start(laptop);
        world.connect(laptop, desktop);
        (0..600).for_each(|_| log.append(&mut world, laptop));
        let there = world.read(desktop, "app.log");
        assert!(there.as_ref().is_some_and(|there| log.text.starts_with(there)), "{how:?}: {there:?}");
        world.settle();
        world.assert_same_everywhere("app.log", &log.text);
        assert!(world.machines[laptop.0].disk.tree.staging.is_empty(), "no copy is left");
    }
}

/// A file that a program appends to all the time.
struct Log {
    path: &'static str,
    text: String,
    lines: usize,
}

impl Log {
    fn new(path: &'static str) -> Self {
        Self { path, text: String::new(), lines: 0 }
    }

    fn append(&mut self, world: &mut World, here: Here) {
        self.lines += 1;
        self.text += &format!("{}\n", self.lines);
        world.write(here, self.path, &self.text);
        world.run_for(PAUSE_MS);
    }
}

fn told(world: &World, here: Here) -> bool {
    world.machines[here.0].engine().problems().any(|problem| problem.what.contains("still being written"))
}
