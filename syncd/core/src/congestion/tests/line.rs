//! A line with a queue, and senders and receivers as QUIC has them, in simulated time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::congestion::Congestion;
use crate::congestion::cubic::Cubic;

/// Every packet's length.
pub(super) const PACKET: u64 = 1_200;
const ANSWER_PACKETS: usize = 10;
const ANSWER_US: u64 = 10_000;
const SLOT_US: u64 = 100_000;

/// What decides how much is sent.
pub(super) enum Control {
    Ours(Box<Congestion>),
    Cubic { cubic: Cubic, slow: Option<u64> },
}

impl Control {
    pub(super) fn ours() -> Self {
        Self::Ours(Box::new(Congestion::new(PACKET as u16)))
    }

    pub(super) fn cubic() -> Self {
        Self::Cubic { cubic: Cubic::new(0), slow: Some(10 * PACKET) }
    }

    pub(super) fn window(&self) -> u64 {
        match self {
            Self::Ours(ours) => ours.window(),
            Self::Cubic { cubic, slow } => slow.unwrap_or(cubic.window()),
        }
    }

    fn lost(&mut self, now_us: u64, sent_us: u64, bytes: u64) {
        match self {
            Self::Ours(ours) => ours.lost(now_us, sent_us, bytes),
            Self::Cubic { cubic, slow } => {
                if let Some(window) = slow.take() {
                    *cubic = Cubic::new(window);
                }
                cubic.lost(now_us, sent_us, 2 * PACKET);
            }
        }
    }
}

/// The line, there; back it is as long, and never full.
pub(super) struct Line {
    /// Bytes a second.
    pub(super) rate: u64,
    /// One way.
    pub(super) delay_us: u64,
    pub(super) queue_us: u64,
    pub(super) lost_ppm: u64,
    /// Packets that have waited for longer are marked.
    pub(super) mark_us: u64,
    /// Packets arrive in bunches, so far apart.
    pub(super) bunch_us: u64,
}

impl Line {
    pub(super) fn after(round_trip_ms: u64) -> Self {
        Self { rate: 0, delay_us: round_trip_ms * 500, queue_us: 200_000, lost_ppm: 0, mark_us: u64::MAX, bunch_us: 1 }
    }
}

/// A sender and its receiver.
pub(super) struct Flow {
    pub(super) control: Control,
    sent: BTreeMap<u64, u64>,
    next: u64,
    /// What there is to send, if that is little.
    waiting: Option<u64>,
    largest: u64,
    rtt_us: f64,
    tokens: f64,
    filled_us: u64,
    woken_us: Option<u64>,
    heard_us: u64,
    /// What has arrived, in this order.
    arrived: Vec<u64>,
    told: usize,
    heard: usize,
    highest: u64,
    asked: bool,
    /// Packets that were answered.
    pub(super) acked: u64,
    /// Packets that were held for lost.
    pub(super) lost: u64,
    /// Those of them that were not.
    pub(super) needless: u64,
    written_off: Vec<u64>,
    marked: Vec<u64>,
    slots: Vec<u64>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize, u64),
    AnswerLate(usize),
    Answer(usize, usize),
    Send(usize),
    Probe(usize, u64),
}

/// Flows on a line.
pub(super) struct World {
    pub(super) line: Line,
    now_us: u64,
    free_us: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    flows: Vec<Flow>,
    waits: Vec<(u64, u64)>,
    random: u64,
}

impl World {
    pub(super) fn new(line: Line) -> Self {
        let (events, flows, waits) = (BinaryHeap::new(), Vec::new(), Vec::new());
        Self { line, now_us: 0, free_us: 0, events, count: 0, flows, waits, random: 88_172_645_463_325_252 }
    }

    pub(super) fn join(&mut self, control: Control) -> usize {
        let now_us = self.now_us;
        self.flows.push(Flow {
            control,
            sent: BTreeMap::new(),
            next: 1,
            waiting: None,
            largest: 0,
            rtt_us: 100_000.0,
            tokens: 12_000.0,
            filled_us: now_us,
            woken_us: None,
            heard_us: now_us,
            arrived: Vec::new(),
            told: 0,
            heard: 0,
            highest: 0,
            asked: false,
            acked: 0,
            lost: 0,
            needless: 0,
            written_off: Vec::new(),
            marked: Vec::new(),
            slots: Vec::new(),
        });
        let flow = self.flows.len() - 1;
        self.at(now_us, Event::Send(flow));
        self.at(now_us + 300_000, Event::Probe(flow, now_us));
        flow
    }

    /// There are so many packets to send, or always more.
    pub(super) fn offer(&mut self, flow: usize, packets: Option<u64>) {
        self.flows[flow].waiting = packets;
        self.at(self.now_us, Event::Send(flow));
    }

    /// Tells a flow that nothing has arrived for long.
    pub(super) fn break_down(&mut self, flow: usize) {
        if let Control::Ours(ours) = &mut self.flows[flow].control {
            ours.broken(self.now_us);
        }
    }

    pub(super) fn flow(&self, flow: usize) -> &Flow {
        &self.flows[flow]
    }

    /// What part of the line, as it is now, a flow had between two times.
    pub(super) fn share(&self, flow: usize, from_us: u64, to_us: u64) -> f64 {
        let slots = self.flows[flow].slots.iter().take((to_us / SLOT_US) as usize).skip((from_us / SLOT_US) as usize);
        (slots.sum::<u64>() * PACKET) as f64 / (self.line.rate as f64 * (to_us - from_us) as f64 / 1e6)
    }

    /// How long packets waited since, on average and at most.
    pub(super) fn queue_ms(&self, from_us: u64) -> (f64, f64) {
        let waits = || self.waits.iter().filter(|(at, _)| *at >= from_us).map(|(_, wait)| *wait);
        let mean = waits().sum::<u64>() as f64 / waits().count().max(1) as f64;
        (mean / 1e3, waits().max().unwrap_or(0) as f64 / 1e3)
    }

    pub(super) fn run(&mut self, until_us: u64) {
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= until_us) {
            let Some(Reverse((at, _, event))) = self.events.pop() else { return };
            self.now_us = at;
            self.happen(event);
        }
        self.now_us = until_us;
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at_us, self.count, event)));
    }

    fn is_lost(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % 1_000_000 < self.line.lost_ppm
    }

    fn happen(&mut self, event: Event) {
        let now_us = self.now_us;
        match event {
            Event::Arrive(flow, packet) => {
                let state = &mut self.flows[flow];
                state.arrived.push(packet);
                let gap = packet != state.highest + 1;
                state.highest = state.highest.max(packet);
                if gap || state.arrived.len() - state.told >= ANSWER_PACKETS {
                    self.answer(flow);
                } else if !state.asked {
                    state.asked = true;
                    self.at(now_us + ANSWER_US, Event::AnswerLate(flow));
                }
            }
            Event::AnswerLate(flow) => {
                self.flows[flow].asked = false;
                if self.flows[flow].arrived.len() > self.flows[flow].told {
                    self.answer(flow);
                }
            }
            Event::Answer(flow, upto) => {
                self.take_answer(flow, upto);
                self.send(flow);
            }
            Event::Send(flow) => {
                self.flows[flow].woken_us = None;
                self.send(flow);
            }
            Event::Probe(flow, since) => {
                let state = &self.flows[flow];
                let patience = (state.rtt_us * 2.0) as u64 + ANSWER_US;
                if state.heard_us == since && !state.sent.is_empty() {
                    self.emit(flow);
                    self.emit(flow);
                }
                let heard_us = self.flows[flow].heard_us;
                self.at(now_us.max(heard_us) + patience, Event::Probe(flow, heard_us));
            }
        }
    }

    fn answer(&mut self, flow: usize) {
        let state = &mut self.flows[flow];
        state.told = state.arrived.len();
        let told = state.told;
        if !self.is_lost() {
            self.at(self.now_us + self.line.delay_us, Event::Answer(flow, told));
        }
    }

    fn take_answer(&mut self, flow: usize, upto: usize) {
        let now_us = self.now_us;
        let state = &mut self.flows[flow];
        if upto <= state.heard {
            return;
        }
        state.heard_us = now_us;
        let (mut newest, mut acked) = (None, 0);
        for at in state.heard..upto {
            let packet = state.arrived[at];
            let Some(sent_us) = state.sent.remove(&packet) else {
                state.needless += u64::from(state.written_off.contains(&packet));
                continue;
            };
            acked += PACKET;
            state.acked += 1;
            if packet > state.largest {
                (state.largest, newest) = (packet, Some(sent_us));
            }
            if let Control::Ours(ours) = &mut state.control {
                ours.acked(sent_us, PACKET);
            }
        }
        state.heard = upto;
        let slot = (now_us / SLOT_US) as usize;
        state.slots.resize(state.slots.len().max(slot + 1), 0);
        state.slots[slot] += acked / PACKET;
        let in_flight = state.sent.len() as u64 * PACKET;
        match &mut state.control {
            Control::Ours(ours) => ours.round_up(now_us, in_flight, state.waiting == Some(0)),
            Control::Cubic { slow: Some(window), .. } => *window += acked,
            Control::Cubic { cubic, .. } => cubic.acked(now_us, acked, PACKET),
        }
        let marks = state.marked.len();
        state.marked.retain(|packet| *packet > state.largest);
        if let Some(sent_us) = newest {
            if let Control::Ours(ours) = &mut state.control
                && state.marked.len() < marks
            {
                ours.marked(now_us, sent_us);
            }
            let rtt_us = (now_us - sent_us) as f64;
            state.rtt_us = if state.rtt_us == 100_000.0 { rtt_us } else { state.rtt_us * 0.875 + rtt_us * 0.125 };
        }
        let (largest, late_us) = (state.largest, (state.rtt_us * 1.125) as u64);
        let lost: Vec<(u64, u64)> = state
            .sent
            .range(..largest)
            .filter(|(packet, sent_us)| **packet + 3 <= largest || **sent_us + late_us <= now_us)
            .map(|(packet, sent_us)| (*packet, *sent_us))
            .collect();
        for (packet, sent_us) in &lost {
            state.sent.remove(packet);
            state.lost += 1;
            state.written_off.push(*packet);
            state.control.lost(now_us, *sent_us, PACKET);
        }
        let keep = state.written_off.len().saturating_sub(512);
        state.written_off.drain(..keep);
    }

    /// As QUIC does: as much as the window allows, spread over less than a round trip.
    fn send(&mut self, flow: usize) {
        loop {
            let now_us = self.now_us;
            let state = &mut self.flows[flow];
            let window = state.control.window() as f64;
            if state.waiting == Some(0) || (state.sent.len() as u64 + 1) * PACKET >= state.control.window() {
                return;
            }
            let rate = 1.25 * window / state.rtt_us;
            let most = (window * 2_000.0 / state.rtt_us).clamp(10.0 * PACKET as f64, 256.0 * PACKET as f64);
            state.tokens = (state.tokens + rate * (now_us - state.filled_us) as f64).min(most);
            state.filled_us = now_us;
            if state.tokens < PACKET as f64 {
                let wait_us = ((most - state.tokens) / rate) as u64 + 1;
                if state.woken_us.is_none() {
                    state.woken_us = Some(now_us + wait_us);
                    self.at(now_us + wait_us, Event::Send(flow));
                }
                return;
            }
            state.tokens -= PACKET as f64;
            state.waiting = state.waiting.map(|packets| packets - 1);
            self.emit(flow);
        }
    }

    fn emit(&mut self, flow: usize) {
        let now_us = self.now_us;
        let state = &mut self.flows[flow];
        let packet = state.next;
        state.next += 1;
        state.sent.insert(packet, now_us);
        if let Control::Ours(ours) = &mut state.control {
            ours.sent(now_us);
        }
        let wait_us = self.free_us.saturating_sub(now_us);
        self.waits.push((now_us, wait_us));
        if wait_us > self.line.queue_us || self.is_lost() {
            return;
        }
        self.free_us = now_us + wait_us + PACKET * 1_000_000 / self.line.rate;
        if wait_us > self.line.mark_us {
            self.flows[flow].marked.push(packet);
        }
        let arrives_us = self.free_us + self.line.delay_us;
        self.at(arrives_us.next_multiple_of(self.line.bunch_us), Event::Arrive(flow, packet));
    }
}
