//! What a start costs, in looks at the disk; and what an import waits for.

use hearth_schemas::ids::{DeviceId, ReplicaId, RunId, Slot};
use hearth_schemas::wire::Message;
use hearth_tests::sim::{Crash, Here, World};
use syncd_core::engine::Event;

/// The directories that [`write_in_twelve`] leaves in a home, with the home itself.
const LISTED: u64 = 1 + 3 + 12;

#[test]
fn a_start_lists_each_directory_once() {
    let mut world = World::new(401);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    write_in_twelve(&mut world, laptop);
    world.settle();
    for here in [laptop, desktop] {
        world.crash(here, Crash::Kill);
        world.machines[here.0].disk.lists = 0;
        world.start(here);
        world.run_until_quiet();
        assert_eq!(world.machines[here.0].disk.lists, LISTED);
    }
}

#[test]
fn directories_that_are_found_are_listed_once() {
    let mut world = World::new(402);
    let laptop = world.add_down("laptop");
    write_in_twelve(&mut world, laptop);
    world.machines[laptop.0].disk.lists = 0;
    world.start(laptop);
    world.run_until_quiet();
    assert_eq!(world.machines[laptop.0].disk.lists, LISTED);
}

#[test]
fn a_change_made_while_a_directory_is_begun_to_be_watched_is_seen() {
    for calls in 0..12 {
        let mut world = World::new(403 + u64::from(calls));
        let [laptop, desktop] = world.paired(["laptop", "desktop"]);
        world.write(laptop, "dir/notes.txt", "text");
        world.settle();
        world.crash(laptop, Crash::Kill);
        let act = hearth_tests::sim::disk::Act::Write("dir/notes.txt".into(), "typed just then".into());
        world.machines[laptop.0].disk.ambush(calls, act);
        world.start(laptop);
        world.run_until_quiet();
        world.machines[laptop.0].disk.call_off();
        world.settle();
        let text = world.read(laptop, "dir/notes.txt").expect("still there");
        assert_eq!(world.read(desktop, "dir/notes.txt"), Some(text), "{calls}");
    }
}

#[test]
fn what_is_told_late_of_one_of_many_moved_directories_is_seen() {
    let mut world = World::new(421);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for at in 0..100 {
        world.write(laptop, &format!("{at}/notes.txt"), "text");
    }
    world.settle();
    world.write(desktop, "0/notes.txt", "typed before the move");
    let late = std::mem::take(&mut world.machines[desktop.0].disk.stirred);
    for at in 0..100 {
        world.rename(laptop, &at.to_string(), &format!("moved {at}"));
    }
    world.run_until_quiet();
    world.machines[desktop.0].disk.stirred.extend(late);
    world.settle();
    world.assert_same_everywhere("moved 0/notes.txt", "typed before the move");
}

#[test]
fn an_import_waits_while_a_peer_tells_what_it_finds() {
    let said = |clean, rows| {
        let mut world = World::new(420);
        let [_, desktop] = [world.add("laptop"), world.add_down("desktop")];
        world.write(desktop, "same.txt", "equal");
        let now_ms = world.now_ms;
        let machine = &mut world.machines[desktop.0];
        machine.start(now_ms);
        let peer = Slot(77);
        machine.handle(Event::PeerUp(peer, DeviceId([7; 32])), now_ms);
        let hello = Message::Hello { replica: ReplicaId(7), run: RunId(7), yours: Default::default(), cursor: None };
        machine.handle(Event::Said(peer, hello), now_ms);
        for upto in 0..rows {
            let told = Message::Rows { rows: Vec::new(), upto, end: true, known: None };
            machine.handle(Event::Said(peer, told), now_ms + 1000 * upto);
        }
        let now_ms = now_ms + 1000 * rows;
        let state = Message::State { known: Default::default(), digest: 0, clean, stuck: false, flushed: 0 };
        machine.handle(Event::Said(peer, state), now_ms);
        machine.disk.lists = 0;
        machine.work(now_ms);
        let at_once = machine.disk.lists > 0;
        let later = machine.wakes_at(now_ms).map(|at| at - now_ms);
        machine.work(now_ms + 2000);
        (at_once, later, machine.disk.lists > 0)
    };
    assert_eq!(said(true, 3), (true, None, true), "it is through");
    assert_eq!(said(false, 3), (false, Some(1000), true), "nothing more came");
    assert_eq!(said(true, 0), (false, None, false), "nobody was heard");
}

/// Writes a file into each of twelve directories, which lie in three.
fn write_in_twelve(world: &mut World, here: Here) {
    for at in 0..12 {
        world.write(here, &format!("{}/{at}/notes.txt", at % 3), "text");
    }
}
