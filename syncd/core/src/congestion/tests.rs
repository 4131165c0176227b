//! On simulated lines: what comes through, what waits, and what others get.

mod line;

use line::{Control, Flow, Line, World};

const MBIT: u64 = 125_000;
const SECOND: u64 = 1_000_000;

#[test]
fn a_clean_line_is_filled_and_its_queue_stays_short() {
    for (rate, delay_ms) in [(100, 40), (20, 40), (60, 150), (10, 10), (2, 200)] {
        let mut world = World::new(Line { rate: rate * MBIT, ..Line::after(delay_ms) });
        let flow = world.join(Control::ours());
        world.run(10 * SECOND);
        let share = world.share(flow, 2 * SECOND, 10 * SECOND);
        let (mean_ms, most_ms) = world.queue_ms(2 * SECOND);
        assert!(share > 0.95, "{rate} Mbit/s, {delay_ms} ms: {share}");
        let most = 20.0 + delay_ms as f64 / 2.0;
        assert!(mean_ms < most / 2.0 && most_ms < most, "{rate} Mbit/s, {delay_ms} ms: {mean_ms}, {most_ms} ms");
    }
}

#[test]
fn random_losses_slow_nobody() {
    for percent in [1, 2] {
        let lossy = || Line { rate: 100 * MBIT, lost_ppm: percent * 10_000, ..Line::after(40) };
        let [ours, cubic] = [Control::ours(), Control::cubic()].map(|control| {
            let mut world = World::new(lossy());
            let flow = world.join(control);
            world.run(8 * SECOND);
            let Flow { needless, acked, .. } = *world.flow(flow);
            assert!(needless * 20 <= acked, "{needless} of {acked} were sent again for nothing");
            world.share(flow, 2 * SECOND, 8 * SECOND)
        });
        assert!(ours > 0.94, "{percent} % lost: {ours}");
        assert!(ours > 20.0 * cubic, "{percent} % lost: {ours} and {cubic}");
    }
}

#[test]
fn a_line_that_becomes_slower_or_faster_is_followed() {
    for (before, after) in [(100, 10), (10, 100), (50, 25), (25, 50)] {
        let mut world = World::new(Line { rate: before * MBIT, ..Line::after(40) });
        let flow = world.join(Control::ours());
        world.run(4 * SECOND);
        world.line.rate = after * MBIT;
        world.run(10 * SECOND);
        let share = world.share(flow, 7 * SECOND, 10 * SECOND);
        let (mean_ms, _) = world.queue_ms(7 * SECOND);
        assert!(share > 0.85 && mean_ms < 30.0, "{before} to {after} Mbit/s: {share}, a queue of {mean_ms} ms");
    }
}

#[test]
fn a_line_that_becomes_longer_is_no_queue_for_long() {
    let mut world = World::new(Line { rate: 20 * MBIT, ..Line::after(40) });
    let flow = world.join(Control::ours());
    world.run(5 * SECOND);
    world.line.delay_us = 60_000;
    world.run(40 * SECOND);
    let share = world.share(flow, 30 * SECOND, 40 * SECOND);
    let (mean_ms, _) = world.queue_ms(30 * SECOND);
    assert!(share > 0.9 && mean_ms < 30.0, "{share}, a queue of {mean_ms} ms");
}

#[test]
fn a_short_queue_is_not_overrun() {
    let mut world = World::new(Line { rate: 100 * MBIT, queue_us: 5_000, ..Line::after(40) });
    let flow = world.join(Control::ours());
    world.run(10 * SECOND);
    let share = world.share(flow, 2 * SECOND, 10 * SECOND);
    let Flow { lost, acked, .. } = *world.flow(flow);
    assert!(share > 0.85 && lost * 25 < acked, "{share}, {lost} of {acked} lost");
}

#[test]
fn marks_keep_the_queue_short_and_bunches_do_not_slow() {
    for line in [Line { mark_us: 20_000, ..Line::after(10) }, Line { bunch_us: 10_000, ..Line::after(40) }] {
        let mut world = World::new(Line { rate: 50 * MBIT, ..line });
        let flow = world.join(Control::ours());
        world.run(10 * SECOND);
        let share = world.share(flow, 2 * SECOND, 10 * SECOND);
        let (mean_ms, _) = world.queue_ms(2 * SECOND);
        assert!(share > 0.9 && mean_ms < 20.0, "{share}, a queue of {mean_ms} ms");
    }
}

#[test]
fn after_a_silence_it_begins_afresh() {
    let mut world = World::new(Line { rate: 50 * MBIT, ..Line::after(40) });
    let flow = world.join(Control::ours());
    world.run(5 * SECOND);
    let before = world.flow(flow).control.window();
    world.line.lost_ppm = 1_000_000;
    world.run(8 * SECOND);
    world.line.lost_ppm = 0;
    world.break_down(flow);
    assert!(world.flow(flow).control.window() < before / 10);
    world.run(12 * SECOND);
    let share = world.share(flow, 10 * SECOND, 12 * SECOND);
    assert!(share > 0.9, "{share}");
}

#[test]
fn others_get_their_part() {
    for queue_ms in [20, 200] {
        for lead in [0, 1] {
            let mut world = World::new(Line { rate: 10 * MBIT, queue_us: queue_ms * 1000, ..Line::after(40) });
            let first = world.join(if lead == 0 { Control::ours() } else { Control::cubic() });
            world.run(10 * SECOND);
            let second = world.join(if lead == 0 { Control::cubic() } else { Control::ours() });
            world.run(60 * SECOND);
            let shares = [first, second].map(|flow| world.share(flow, 20 * SECOND, 60 * SECOND));
            let ours = shares[lead];
            assert!((0.1..0.9).contains(&ours) && shares[0] + shares[1] > 0.9, "{queue_ms} ms, {lead}: {shares:?}");
        }
    }
}

#[test]
fn two_of_ours_share() {
    for delay_ms in [20, 80] {
        let mut world = World::new(Line { rate: 20 * MBIT, ..Line::after(delay_ms) });
        let first = world.join(Control::ours());
        world.run(5 * SECOND);
        let second = world.join(Control::ours());
        world.run(60 * SECOND);
        let shares = [first, second].map(|flow| world.share(flow, 25 * SECOND, 60 * SECOND));
        let (mean_ms, _) = world.queue_ms(25 * SECOND);
        assert!(shares.iter().all(|share| *share > 0.3) && shares[0] + shares[1] > 0.95, "{shares:?}");
        assert!(mean_ms < 40.0, "a queue of {mean_ms} ms");
    }
}

#[test]
fn a_line_is_found_out_within_a_few_round_trips() {
    let mut world = World::new(Line { rate: 100 * MBIT, ..Line::after(40) });
    let flow = world.join(Control::ours());
    world.run(400_000);
    let bytes = world.flow(flow).acked * line::PACKET;
    assert!(bytes > 2_700_000, "{bytes} bytes in ten round trips");
}

#[test]
fn who_had_little_to_send_learned_nothing_of_the_line() {
    let mut world = World::new(Line { rate: 100 * MBIT, ..Line::after(40) });
    let flow = world.join(Control::ours());
    for turn in 1..=40 {
        world.offer(flow, Some(1));
        world.run(turn * 100_000);
    }
    world.offer(flow, None);
    world.run(4 * SECOND + 400_000);
    let bytes = world.flow(flow).acked * line::PACKET;
    assert!(bytes > 2_000_000, "{bytes} bytes in ten round trips");
}

#[test]
fn who_had_little_to_send_for_a_while_still_knows_the_line() {
    let mut world = World::new(Line { rate: 100 * MBIT, ..Line::after(40) });
    let flow = world.join(Control::ours());
    world.run(3 * SECOND);
    let before = world.flow(flow).control.window();
    for turn in 1..=100 {
        world.offer(flow, Some(1));
        world.run(3 * SECOND + turn * 100_000);
    }
    assert!(world.flow(flow).control.window() * 10 >= before * 8);
    world.offer(flow, None);
    world.run(15 * SECOND);
    assert!(world.share(flow, 13 * SECOND + 200_000, 15 * SECOND) > 0.95);
}
