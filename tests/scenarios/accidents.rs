//! Ten thousand files removed or encrypted at once are held, and a person's word brings every byte back.

use hearth_tests::sim::disk::Act;
use hearth_tests::sim::{Here, World};
use syncd_core::brake::Verdict;
use syncd_core::engine::Event;

/// Row 51 of the table of attacks says how many.
const FILES: usize = 10_000;

#[test]
fn ten_thousand_files_that_were_removed_are_held_and_come_back_byte_for_byte() {
    let (mut world, laptop, desktop) = home();
    by_accident(&mut world, laptop, Act::Remove(b"home".to_vec()));
    held_and_undone(&mut world, laptop, desktop);
}

#[test]
fn ten_thousand_files_that_were_encrypted_are_held_and_come_back_byte_for_byte() {
    let (mut world, laptop, desktop) = home();
    for number in 0..FILES {
        by_accident(&mut world, laptop, Act::Write(path(number).into(), vec![0xe5, number as u8, 7]));
    }
    held_and_undone(&mut world, laptop, desktop);
}

/// Two machines with the same files.
fn home() -> (World, Here, Here) {
    let mut world = World::new(951);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for number in 0..FILES {
        world.write(laptop, &path(number), &text(number));
    }
    world.run_until_quiet();
    is_whole(&world, desktop);
    (world, laptop, desktop)
}

/// A program does it, whom the oracle does not take for a person that means what it does.
fn by_accident(world: &mut World, here: Here, act: Act) {
    world.machines[here.0].disk.act(&act).expect("nothing is in the way");
}

fn held_and_undone(world: &mut World, laptop: Here, desktop: Here) {
    world.run_until_quiet();
    is_whole(world, desktop);
    let hold = world.machines[desktop.0].engine().holds().next().map(|(id, _)| id.to_owned());
    let hold = hold.expect("the desktop is told of a hold");
    let now_ms = world.now_ms;
    world.machines[desktop.0].handle(Event::Judged(hold, Verdict::Undo), now_ms);
    world.run_until_quiet();
    for here in [laptop, desktop] {
        is_whole(world, here);
        assert_eq!(world.machines[here.0].engine().holds().count(), 0);
    }
}

fn is_whole(world: &World, here: Here) {
    let listing = world.listing(here);
    assert!((0..FILES).all(|number| listing.get(&path(number)) == Some(&text(number))), "{here:?}");
}

fn path(number: usize) -> String {
    format!("home/{}/{number}.txt", number / 100)
}

fn text(number: usize) -> String {
    format!("file {number}")
}
