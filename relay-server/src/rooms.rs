//! Pairing rooms: where a machine that shows a code and one that was told it exchange messages.
//!
//! A room belongs to a device, so that it outlives that device's connection; a joiner is a connection, because nobody
//! knows yet who it is. Rooms count tries and time. Which connection a device is on, and sending the messages, is the
//! business of [`crate::relay`].

use std::collections::BTreeMap;

use hearth_schemas::ids::{AccountId, Slot};
use hearth_schemas::relay::{PAIRING_COOL_DOWN_SECONDS, PAIRING_SECONDS, PAIRING_TRIES, PAIRING_TRY_SECONDS, Refusal};

use crate::random::Random;
use crate::relay::ConnectionId;

/// A device of an account.
pub type Member = (AccountId, Slot);

/// Most rooms at one time.
const MOST: usize = 4096;

/// Every open room.
#[derive(Default)]
pub struct Rooms {
    rooms: BTreeMap<u32, Room>,
    cooling: BTreeMap<AccountId, u64>,
}

struct Room {
    opener: Member,
    joiner: Option<Joiner>,
    tries_left: u32,
    until_ms: u64,
}

struct Joiner {
    conn: ConnectionId,
    until_ms: u64,
}

/// The joiner left its room, or was put out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Whose room it is, or was.
    pub opener: Member,
    /// Who left, if somebody was in.
    pub joiner: Option<ConnectionId>,
    /// Tries left; 0 when the room is gone.
    pub tries_left: u32,
}

impl Rooms {
    /// Opens a room for a device and gives its number. The device must have no other.
    pub(crate) fn open(&mut self, opener: Member, random: &mut Random, now_ms: u64) -> Result<u32, Refusal> {
        self.cooling.retain(|_, until_ms| *until_ms > now_ms);
        if self.cooling.contains_key(&opener.0) || self.rooms.len() >= MOST {
            return Err(Refusal::Limit);
        }
        // Short numbers are easier to say; with at most half of them taken, a free one is soon drawn.
        let most = if self.rooms.len() < 50 { 99 } else { 9999 };
        let number = loop {
            let number = random.number(most);
            if !self.rooms.contains_key(&number) {
                break number;
            }
        };
        let until_ms = now_ms + PAIRING_SECONDS * 1000;
        self.rooms.insert(number, Room { opener, joiner: None, tries_left: PAIRING_TRIES, until_ms });
        Ok(number)
    }

    /// Whose room this is, if somebody may enter it.
    pub fn vacant(&self, number: u32, now_ms: u64) -> Option<Member> {
        let room = self.rooms.get(&number)?;
        (room.joiner.is_none() && room.tries_left > 0 && room.until_ms > now_ms).then_some(room.opener)
    }

    /// Lets a joiner into a vacant room and counts the try.
    pub fn enter(&mut self, number: u32, conn: ConnectionId, now_ms: u64) {
        if let Some(room) = self.rooms.get_mut(&number) {
            room.tries_left -= 1;
            room.joiner = Some(Joiner { conn, until_ms: now_ms + PAIRING_TRY_SECONDS * 1000 });
        }
    }

    /// Whose room the connection is in.
    pub fn opener_of(&self, conn: ConnectionId) -> Option<Member> {
        self.rooms.values().find(|room| room.has(conn)).map(|room| room.opener)
    }

    /// Who is in the device's room.
    pub fn joiner_of(&self, opener: Member) -> Option<ConnectionId> {
        self.rooms.values().find(|room| room.opener == opener)?.joiner.as_ref().map(|joiner| joiner.conn)
    }

    /// The joiner goes, or its connection broke.
    pub fn leave(&mut self, conn: ConnectionId, now_ms: u64) -> Option<Left> {
        let number = *self.rooms.iter().find(|(_, room)| room.has(conn))?.0;
        Some(self.vacate(number, now_ms))
    }

    /// The device's connection broke: whoever is in its room goes, the room stays.
    pub fn opener_away(&mut self, opener: Member, now_ms: u64) -> Option<Left> {
        let number = self.number_of(opener)?;
        self.rooms.get(&number)?.joiner.as_ref()?;
        Some(self.vacate(number, now_ms))
    }

    /// The device ends its room.
    pub fn close(&mut self, opener: Member) -> Option<Left> {
        let number = self.number_of(opener)?;
        let room = self.rooms.remove(&number)?;
        Some(Left { opener, joiner: room.joiner.map(|joiner| joiner.conn), tries_left: 0 })
    }

    /// Ends what has run out of time: a joiner's try, or a whole room.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Left> {
        let over: Vec<(u32, Member, bool)> = self
            .rooms
            .iter()
            .map(|(number, room)| (*number, room.opener, room.until_ms <= now_ms))
            .filter(|(number, _, over)| *over || self.rooms[number].try_is_over(now_ms))
            .collect();
        over.into_iter()
            .filter_map(
                |(number, opener, over)| {
                    if over { self.close(opener) } else { Some(self.vacate(number, now_ms)) }
                },
            )
            .collect()
    }

    fn number_of(&self, opener: Member) -> Option<u32> {
        self.rooms.iter().find(|(_, room)| room.opener == opener).map(|(number, _)| *number)
    }

    /// Puts the joiner out, and ends the room if that was the last try.
    fn vacate(&mut self, number: u32, now_ms: u64) -> Left {
        let room = self.rooms.get_mut(&number).expect("the caller found the room under this number");
        let left =
            Left { opener: room.opener, joiner: room.joiner.take().map(|it| it.conn), tries_left: room.tries_left };
        if left.tries_left == 0 {
            self.rooms.remove(&number);
            self.cooling.insert(left.opener.0, now_ms + PAIRING_COOL_DOWN_SECONDS * 1000);
        }
        left
    }
}

impl Room {
    fn has(&self, conn: ConnectionId) -> bool {
        self.joiner.as_ref().is_some_and(|joiner| joiner.conn == conn)
    }

    fn try_is_over(&self, now_ms: u64) -> bool {
        self.joiner.as_ref().is_some_and(|joiner| joiner.until_ms <= now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENER: Member = (AccountId([1; 32]), Slot(1));
    const JOINER: ConnectionId = ConnectionId(7);

    #[test]
    fn three_joiners_may_try_and_then_the_account_must_wait() {
        let (mut rooms, number) = with_room();
        for tries_left in [2, 1, 0] {
            assert_eq!(rooms.vacant(number, 0), Some(OPENER));
            rooms.enter(number, JOINER, 0);
            assert_eq!(rooms.vacant(number, 0), None, "one at a time");
            assert_eq!(rooms.leave(JOINER, 0), Some(Left { opener: OPENER, joiner: Some(JOINER), tries_left }));
        }
        assert_eq!(rooms.vacant(number, 0), None);
        let mut random = Random::new([0; 32]);
        let cool_down_ms = PAIRING_COOL_DOWN_SECONDS * 1000;
        assert_eq!(rooms.open(OPENER, &mut random, cool_down_ms - 1), Err(Refusal::Limit));
        assert!(rooms.open(OPENER, &mut random, cool_down_ms).is_ok());
    }

    #[test]
    fn a_room_is_gone_after_ten_minutes() {
        let (mut rooms, number) = with_room();
        rooms.enter(number, JOINER, 599_999);
        assert_eq!(rooms.expire(599_999), []);
        assert_eq!(rooms.expire(600_000), [Left { opener: OPENER, joiner: Some(JOINER), tries_left: 0 }]);
        assert_eq!(rooms.vacant(number, 600_000), None);
    }

    #[test]
    fn a_room_cannot_be_entered_late_even_if_nobody_swept() {
        let (rooms, number) = with_room();
        assert_eq!(rooms.vacant(number, 600_000), None);
    }

    #[test]
    fn who_dawdles_in_a_room_is_put_out() {
        let (mut rooms, number) = with_room();
        rooms.enter(number, JOINER, 0);
        let left = rooms.expire(PAIRING_TRY_SECONDS * 1000);
        assert_eq!(left, [Left { opener: OPENER, joiner: Some(JOINER), tries_left: 2 }]);
        assert_eq!(rooms.vacant(number, 120_000), Some(OPENER));
    }

    #[test]
    fn a_room_outlives_its_openers_connection() {
        let (mut rooms, number) = with_room();
        assert_eq!(rooms.opener_away(OPENER, 0), None);
        rooms.enter(number, JOINER, 0);
        assert_eq!(rooms.opener_of(JOINER), Some(OPENER));
        assert_eq!(rooms.joiner_of(OPENER), Some(JOINER));
        let left = rooms.opener_away(OPENER, 0);
        assert_eq!(left, Some(Left { opener: OPENER, joiner: Some(JOINER), tries_left: 2 }));
        assert_eq!(rooms.vacant(number, 0), Some(OPENER));
    }

    #[test]
    fn a_code_that_served_its_purpose_is_gone_without_a_cool_down() {
        let (mut rooms, number) = with_room();
        rooms.enter(number, JOINER, 0);
        assert_eq!(rooms.close(OPENER), Some(Left { opener: OPENER, joiner: Some(JOINER), tries_left: 0 }));
        assert_eq!(rooms.vacant(number, 0), None);
        assert!(rooms.open(OPENER, &mut Random::new([0; 32]), 0).is_ok());
    }

    fn with_room() -> (Rooms, u32) {
        let mut rooms = Rooms::default();
        let number = rooms.open(OPENER, &mut Random::new([9; 32]), 0).expect("there is room");
        (rooms, number)
    }
}
