//! What a machine does with the rest while something is held until a person has spoken.

use hearth_schemas::item::Class;
use hearth_tests::sim::{Crash, Here, World};
use syncd_core::brake::{Limits, Share, Verdict};
use syncd_core::engine::{Event, Portions};
use syncd_core::store::Store;

/// One replaced content is too many.
const NONE_REPLACED: Limits = Limits {
    removes: Share { items: 10, percent: 100 },
    bytes: u64::MAX,
    replaces: Share { items: 0, percent: 0 },
    window_ms: 600_000,
};

/// The daemon starts anew, with these limits.
fn limit(world: &mut World, here: Here) {
    world.crash(here, Crash::Kill);
    world.machines[here.0].limits = NONE_REPLACED;
    world.start(here);
    world.run_for(3_000);
}

fn judge(world: &mut World, here: Here, verdict: Verdict) {
    let now_ms = world.now_ms;
    let machine = &mut world.machines[here.0];
    let id = machine.engine().holds().next().expect("something is held").0.to_owned();
    machine.handle(Event::Judged(id, verdict), now_ms);
}

fn pause(world: &mut World, here: Here, paused: bool) {
    let now_ms = world.now_ms;
    world.machines[here.0].handle(Event::Paused(paused), now_ms);
}

#[test]
fn what_needs_the_name_of_something_held_waits_with_it_and_is_not_brought() {
    let (mut world, laptop, desktop) = crate::apart_with("notes", "old");
    world.machines[desktop.0].portions = Portions { nodes: 1, fetch: (1, 1), ..Portions::default() };
    limit(&mut world, desktop);
    world.write(laptop, "notes", "new");
    world.run_for(1_000);
    world.rename(laptop, "notes", "notes.txt");
    world.run_for(1_000);
    world.write(laptop, "notes/a", "first");
    world.write(laptop, "notes/b", "second");
    world.run_for(3_000);
    world.connect(laptop, desktop);
    world.run_for(10_000);
    let sent = world.sent;
    world.run_for(60_000);
    assert_eq!(world.sent, sent, "nothing crosses the network until a person has spoken");
    assert_eq!(world.paths(desktop), ["notes"]);
    judge(&mut world, desktop, Verdict::Release);
    world.settle();
    world.assert_paths_everywhere(&["notes", "notes.txt", "notes/a", "notes/b"]);
    world.assert_same_everywhere("notes.txt", "new");
}

#[test]
fn nobody_waits_for_a_version_whose_sibling_was_edited_where_the_rest_is_held() {
    let (mut world, laptop, desktop) = crate::apart_with("notes", "old");
    world.write(desktop, "notes", "from the desktop");
    world.run_for(1_000);
    world.write(laptop, "notes", "from the laptop");
    world.run_for(1_000);
    limit(&mut world, desktop);
    world.connect(laptop, desktop);
    // The laptop has told of its version, and does not ask for the other one.
    let has_both = |world: &World| {
        let leaves = world.machines[desktop.0].engine().state.store.rows_of(Class::Leaf).expect("an index in memory");
        leaves.iter().any(|row| row.content.len() > 1)
    };
    while !has_both(&world) {
        world.run_for(1);
    }
    pause(&mut world, laptop, true);
    world.run_for(3_000);
    let sibling = world.paths(desktop).into_iter().find(|path| path != "notes").expect("a sibling");
    assert_eq!(world.read(desktop, &sibling).as_deref(), Some("from the desktop"));
    // It asks when that has just been overwritten at both its names, and before it can know.
    world.write(desktop, &sibling, "the sibling, edited");
    world.write(desktop, "notes", "edited again");
    pause(&mut world, laptop, false);
    world.run_for(60_000);
    assert_eq!(world.read(laptop, &sibling).as_deref(), Some("the sibling, edited"));
    assert_eq!(world.machines[laptop.0].engine().problems().next(), None, "{}", world.describe());
    while world.machines[desktop.0].engine().holds().next().is_some() {
        judge(&mut world, desktop, Verdict::Undo);
        world.run_for(3_000);
    }
    world.settle();
    world.assert_same_everywhere(&sibling, "the sibling, edited");
}
