//! Small contents that go along with the rows that tell of them.

use hearth_schemas::wire::Message;
use hearth_tests::sim::disk::hash_of;
use hearth_tests::sim::{Here, World};
use syncd_core::engine::Event;

#[test]
fn a_save_goes_along_and_nobody_asks_for_it() {
    let (mut world, [laptop, _desktop, _server]) = offering(83, ["laptop", "desktop", "server"]);
    world.write(laptop, "letter.txt", "Dear");
    world.write(laptop, "empty", "");
    world.settle();
    world.assert_same_everywhere("letter.txt", "Dear");
    assert_eq!((world.sent.offers, world.sent.wants), (4, 0), "two files to each of two machines, once");
}

#[test]
fn what_was_not_written_just_now_or_is_large_or_one_of_many_is_asked_for() {
    let (mut world, [laptop, desktop]) = offering(82, ["laptop", "desktop"]);
    world.write(laptop, "old.txt", "from last year");
    world.settle();
    world.run_for(60_000);
    let before = (world.sent.offers, world.sent.wants);
    world.rename(laptop, "old.txt", "older.txt");
    world.settle();
    assert_eq!((world.sent.offers, world.sent.wants), before, "a rename brings no content along");
    world.write(laptop, "large.txt", &"x".repeat(5000));
    world.settle();
    assert_eq!((world.sent.offers, world.sent.wants), (before.0, before.1 + 1));
    world.go_offline(desktop);
    for number in 0..20 {
        world.write(laptop, &format!("many/{number}"), &format!("text {number}"));
    }
    world.run_for(60_000);
    world.connect_all();
    world.settle();
    assert_eq!((world.sent.offers, world.sent.wants), (before.0, before.1 + 21));
}

#[test]
fn an_offer_that_is_not_what_it_is_called_is_asked_for() {
    let mut world = World::new(83);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    let contents = vec![(hash_of(b"Dear"), b"Liar".to_vec().into())];
    let (peer, now_ms) = (world.machines[laptop.0].slot, world.now_ms);
    world.machines[desktop.0].handle(Event::Said(peer, Message::Offer { contents }), now_ms);
    world.write(laptop, "letter.txt", "Dear");
    world.settle();
    world.assert_same_everywhere("letter.txt", "Dear");
    assert_eq!((world.sent.offers, world.sent.wants), (0, 1));
}

#[test]
fn at_a_join_nothing_is_offered_as_it_may_be_there() {
    let (mut world, [laptop]) = offering(84, ["laptop"]);
    world.write(laptop, "letter.txt", "Dear");
    let desktop = world.add_down("desktop");
    world.machines[desktop.0].portions.offers = 8;
    world.write(desktop, "letter.txt", "Dear");
    world.write(desktop, "other.txt", "Sincerely");
    world.start(desktop);
    world.connect_all();
    world.settle();
    assert_eq!((world.sent.offers, world.sent.wants), (0, 1));
}

fn offering<const N: usize>(seed: u64, names: [&str; N]) -> (World, [Here; N]) {
    let mut world = World::new(seed);
    let all = names.map(|name| world.add_down(name));
    for here in all {
        world.machines[here.0].portions.offers = 8;
        world.start(here);
    }
    world.connect_all();
    world.run_until_quiet();
    (world, all)
}
