//! Which directory each watch is on, as far as moves and removals have been told.
//!
//! A watch belongs to an inode and goes along wherever that is moved. A directory is known here by the watch of the one
//! that it is in, so that all below a moved one moves by itself. The engine knows a directory by the path that it last
//! named it by: what was out of sight meanwhile, or had a third path, is looked at again once it is named anew, or at once if
//! it comes back. Knows nothing of inotify but the order in which a rename is told: from, to, and then by the moved directory itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use syncd_core::path::{RelPath, split};

/// Directories that were moved out of sight and keep their watch, should they come back.
const AWAY: usize = 1 << 12;
/// No path is deeper: more than this is a table that has lost touch.
const DEEPEST: usize = 1 << 12;

/// What the kernel names a watch by.
pub(super) type Watch = i32;

type Name = Arc<[u8]>;

/// Where a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Root,
    In(Watch, Name),
    /// The directory that it is in has no watch.
    Alone(RelPath),
    /// Out of sight.
    Away,
}

struct Entry {
    place: Place,
    /// Where it was when the engine last named it.
    named: Place,
    since: Since,
    /// The engine named it by a path that no move of it was told to yet: it moved it there itself, or was quicker.
    ahead: bool,
}

/// What has become of a directory, or of one above it, since the engine last named it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Since {
    /// It is where it was.
    Still,
    /// It was moved once: all that happened in it was told by the path that it had, or by that which it has.
    Moved,
    /// It was out of sight, or moved again: what happened in it may have been told by a path that the engine never heard.
    Elsewhere,
}

/// A rename of a directory that was told, but not yet by the directory itself.
struct Move {
    cookie: u32,
    from: Option<Place>,
    to: Option<Place>,
    /// It was told before the latest batch.
    old: bool,
}

/// It cannot be told which directory was moved where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lost;

/// The watches and what they are on.
#[derive(Default)]
pub(super) struct Table {
    entries: BTreeMap<Watch, Entry>,
    by_name: BTreeMap<(Watch, Name), Watch>,
    root: Option<Watch>,
    moves: Vec<Move>,
    away: VecDeque<Watch>,
}

impl Table {
    /// How many watches there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether this watch is known.
    pub(super) fn has(&self, watch: Watch) -> bool {
        self.entries.contains_key(&watch)
    }

    /// Where the directory of a watch is. `None` if that is out of sight.
    pub(super) fn path(&self, watch: Watch) -> Option<RelPath> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = watch;
        while names.len() < DEEPEST {
            match &self.entries.get(&at)?.place {
                Place::Root => break,
                Place::In(parent, name) => {
                    names.push(name);
                    at = *parent;
                }
                Place::Alone(path) => {
                    names.push(path);
                    break;
                }
                Place::Away => return None,
            }
        }
        names.reverse();
        (names.len() < DEEPEST).then(|| names.join(&b'/'))
    }

    /// The engine names a directory by its path. Gives whether something may have happened in it since it was last named
    /// that was told by neither of the two paths.
    pub(super) fn name(&mut self, watch: Watch, path: &[u8]) -> bool {
        let place = self.place_of(path);
        if place == Place::Root {
            self.root = Some(watch);
        }
        let (mut is_news, mut ahead) = (true, false);
        if let Some(entry) = self.entries.get(&watch) {
            let is_there = entry.place == place;
            let is_known = match entry.since {
                Since::Still => is_there || !(entry.ahead || matches!(entry.place, Place::Alone(_))),
                Since::Moved => is_there,
                Since::Elsewhere => false,
            };
            is_news = !is_known;
            ahead = is_known && (entry.ahead || !is_there);
        }
        self.put(watch, place.clone());
        if let Some(entry) = self.entries.get_mut(&watch) {
            (entry.named, entry.since, entry.ahead) = (place, Since::Still, ahead);
        }
        is_news
    }

    /// A directory was moved away from a name.
    pub(super) fn moved_from(&mut self, cookie: u32, parent: Watch, name: &[u8]) {
        self.moves.push(Move { cookie, from: Some(Place::In(parent, name.into())), to: None, old: false });
    }

    /// A directory was moved to a name.
    pub(super) fn moved_to(&mut self, cookie: u32, parent: Watch, name: &[u8]) {
        let to = Some(Place::In(parent, name.into()));
        match self.moves.iter_mut().find(|told| told.cookie == cookie && told.to.is_none()) {
            Some(told) => told.to = to,
            None => self.moves.push(Move { cookie, from: None, to, old: false }),
        }
    }

    /// The directory of a watch says that it was moved. Gives what is to be looked at at once, as the engine will not name
    /// it anew: it is back where it was.
    pub(super) fn moved(&mut self, watch: Watch) -> Result<Vec<RelPath>, Lost> {
        let Some(entry) = self.entries.get(&watch) else { return Ok(Vec::new()) };
        let told_by = |told: &Move| told.from.as_ref() == Some(&entry.place);
        // The engine may have named it by its later path before this was read.
        let known_to = |told: &Move| told.to.as_ref() == Some(&entry.place);
        let only = || (self.moves.len() == 1).then_some(0);
        let found = self.moves.iter().position(told_by).or_else(|| self.moves.iter().position(known_to)).or_else(only);
        let place = self.moves.remove(found.ok_or(Lost)?).to.unwrap_or(Place::Away);
        if entry.ahead && entry.since == Since::Still && place == entry.place {
            // The engine knows, and knew before anything was told by that path.
            self.entries.entry(watch).and_modify(|entry| entry.ahead = false);
            return Ok(Vec::new());
        }
        let is_back = place == entry.named && !self.is_moved_above(&place);
        let was_ahead = entry.ahead;
        let is_away = place == Place::Away;
        if is_away {
            self.away.push_back(watch);
        }
        self.put(watch, place);
        let below = self.at_and_below(watch);
        for &at in &below {
            if let Some(entry) = self.entries.get_mut(&at) {
                let again = is_away || entry.since != Since::Still || (at == watch && was_ahead);
                entry.since = match (is_back, again) {
                    (true, _) => Since::Still,
                    (false, true) => Since::Elsewhere,
                    (false, false) => Since::Moved,
                };
                entry.ahead &= at != watch;
            }
        }
        Ok(if is_back { below.into_iter().filter_map(|watch| self.path(watch)).collect() } else { Vec::new() })
    }

    /// A watch has ended.
    pub(super) fn gone(&mut self, watch: Watch) {
        self.take(watch);
        self.entries.remove(&watch);
    }

    /// All that could be read was read: what a rename says of itself comes right after the rest, at the latest with the
    /// next batch. Gives watches that are not worth keeping any longer, with their directories out of sight.
    pub(super) fn end_batch(&mut self) -> Vec<Watch> {
        self.moves.retain(|told| !told.old);
        self.moves.iter_mut().for_each(|told| told.old = true);
        let mut surplus = Vec::new();
        while self.away.len() > AWAY {
            let Some(watch) = self.away.pop_front() else { break };
            if self.entries.get(&watch).is_some_and(|entry| entry.place == Place::Away) {
                surplus.extend(self.at_and_below(watch));
            }
        }
        surplus.iter().for_each(|watch| self.gone(*watch));
        surplus
    }

    fn place_of(&self, path: &[u8]) -> Place {
        if path.is_empty() {
            return Place::Root;
        }
        let (dir, name) = split(path);
        let mut names = dir.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        let parent = names.try_fold(self.root, |at, name| Some(self.by_name.get(&(at?, name.into())).copied()));
        match parent.flatten() {
            Some(parent) => Place::In(parent, name.into()),
            None => Place::Alone(path.to_vec()),
        }
    }

    fn put(&mut self, watch: Watch, place: Place) {
        self.take(watch);
        if let Place::In(parent, name) = &place {
            self.by_name.insert((*parent, name.clone()), watch);
        }
        let entry = self.entries.entry(watch);
        entry.and_modify(|entry| entry.place = place.clone()).or_insert(Entry {
            named: place.clone(),
            place,
            since: Since::Still,
            ahead: false,
        });
    }

    /// Takes a directory's name from it; another may bear it by now.
    fn take(&mut self, watch: Watch) {
        if let Some(Entry { place: Place::In(parent, name), .. }) = self.entries.get(&watch) {
            let key = (*parent, name.clone());
            if self.by_name.get(&key) == Some(&watch) {
                self.by_name.remove(&key);
            }
        }
    }

    fn is_moved_above(&self, place: &Place) -> bool {
        let Place::In(parent, _) = place else { return false };
        self.entries.get(parent).is_some_and(|entry| entry.since != Since::Still)
    }

    fn at_and_below(&self, watch: Watch) -> Vec<Watch> {
        let mut found = vec![watch];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            let children = self.by_name.range((parent, Name::from([]))..).take_while(|((of, _), _)| *of == parent);
            found.extend(children.map(|(_, child)| *child));
            at += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Watch = 1;

    #[test]
    fn what_is_moved_takes_all_below_along() {
        let mut table = with(&[(2, "a"), (3, "a/b"), (4, "ab")]);
        table.moved_from(7, ROOT, b"a");
        table.moved_to(7, 4, b"c");
        assert_eq!(table.moved(2), Ok(vec![]), "the engine names it anew");
        assert_eq!(paths(&table, &[2, 3, 4]), ["ab/c", "ab/c/b", "ab"]);
        assert!(
            !table.name(2, b"ab/c") && !table.name(3, b"ab/c/b") && !table.name(4, b"ab"),
            "one path, then the other"
        );
    }

    #[test]
    fn what_comes_back_before_it_was_missed_is_looked_at_at_once() {
        let mut table = with(&[(2, "a"), (3, "a/b")]);
        table.moved_from(7, ROOT, b"a");
        assert_eq!(table.moved(2), Ok(vec![]));
        assert_eq!((table.path(2), table.path(3)), (None, None), "out of sight");
        table.moved_to(8, ROOT, b"a");
        assert_eq!(table.moved(2), Ok(vec![b"a".to_vec(), b"a/b".to_vec()]));
        assert!(!table.name(2, b"a") && !table.name(3, b"a/b"));
    }

    #[test]
    fn below_a_moved_directory_nothing_is_back_where_the_engine_knows_it() {
        let mut table = with(&[(2, "a"), (3, "a/b")]);
        for (cookie, watch, parent, from, to) in [(1, 2, ROOT, "a", "z"), (2, 3, 2, "b", "c"), (3, 3, 2, "c", "b")] {
            table.moved_from(cookie, parent, from.as_bytes());
            table.moved_to(cookie, parent, to.as_bytes());
            assert_eq!(table.moved(watch), Ok(vec![]));
        }
        assert_eq!(paths(&table, &[3]), ["z/b"]);
        assert!(!table.name(2, b"z") && table.name(3, b"z/b") && !table.name(3, b"z/b"), "news, once");
    }

    #[test]
    fn two_that_exchange_their_names_are_told_apart() {
        let mut table = with(&[(2, "a"), (3, "b"), (4, "a/in"), (5, "b/in")]);
        table.moved_from(7, ROOT, b"a");
        table.moved_to(7, ROOT, b"b");
        assert_eq!(table.moved(2), Ok(vec![]));
        table.moved_from(8, ROOT, b"b");
        table.moved_to(8, ROOT, b"a");
        assert_eq!(table.moved(3), Ok(vec![]));
        assert_eq!(paths(&table, &[2, 3, 4, 5]), ["b", "a", "b/in", "a/in"]);
    }

    #[test]
    fn renames_that_are_told_at_the_same_time_are_told_apart() {
        let mut table = with(&[(2, "a"), (3, "b")]);
        table.moved_from(7, ROOT, b"a");
        table.moved_from(8, ROOT, b"b");
        table.moved_to(8, ROOT, b"y");
        table.moved_to(7, ROOT, b"x");
        table.end_batch();
        assert_eq!((table.moved(2), table.moved(3)), (Ok(vec![]), Ok(vec![])));
        assert_eq!(paths(&table, &[2, 3]), ["x", "y"]);
        assert_eq!(table.moved(2), Err(Lost), "nobody told of this one");
    }

    #[test]
    fn what_the_engine_named_by_its_later_path_stays_there() {
        let mut table = with(&[(2, "a"), (3, "a/b")]);
        assert!(!table.name(2, b"c"), "nothing was told by a third path so far");
        // Another one has taken its name before its move was read.
        assert!(table.name(9, b"a"));
        for (cookie, from, to) in [(7, "a", "b"), (8, "b", "c")] {
            table.moved_from(cookie, ROOT, from.as_bytes());
            table.moved_to(cookie, ROOT, to.as_bytes());
            assert_eq!(table.moved(2), Ok(if to == "c" { vec![b"c".to_vec(), b"c/b".to_vec()] } else { vec![] }));
        }
        assert_eq!(paths(&table, &[2, 3, 9]), ["c", "c/b", "a"]);
    }

    #[test]
    fn what_the_engine_has_moved_itself_is_no_news_whoever_is_quicker() {
        for engine_first in [true, false] {
            let mut table = with(&[(2, "a"), (3, "a/b")]);
            let name = |table: &mut Table| !table.name(2, b"c") && !table.name(3, b"c/b");
            assert!(!engine_first || name(&mut table));
            table.moved_from(7, ROOT, b"a");
            table.moved_to(7, ROOT, b"c");
            assert_eq!(table.moved(2), Ok(vec![]));
            assert!(engine_first || name(&mut table));
            assert_eq!(paths(&table, &[2, 3]), ["c", "c/b"]);
            // Somebody takes it to a name that the engine never hears of, and back.
            for (cookie, from, to) in [(8, "c", "d"), (9, "d", "c")] {
                table.moved_from(cookie, ROOT, from.as_bytes());
                table.moved_to(cookie, ROOT, to.as_bytes());
                assert_eq!(table.moved(2), Ok(if to == "c" { vec![b"c".to_vec(), b"c/b".to_vec()] } else { vec![] }));
            }
        }
    }

    #[test]
    fn what_was_at_a_name_in_between_is_looked_at_when_it_is_named() {
        let mut table = with(&[(2, "a"), (3, "a/b"), (4, "e")]);
        for (cookie, from, to) in [(7, "a", "b"), (8, "b", "c")] {
            table.moved_from(cookie, ROOT, from.as_bytes());
            table.moved_to(cookie, ROOT, to.as_bytes());
            assert_eq!(table.moved(2), Ok(vec![]));
        }
        assert!(table.name(2, b"c") && table.name(3, b"c/b") && !table.name(2, b"c"));
        table.moved_from(9, ROOT, b"e");
        table.moved_to(9, ROOT, b"f");
        assert_eq!(table.moved(4), Ok(vec![]));
        assert!(table.name(4, b"g"), "the engine has heard of a later move");
    }

    #[test]
    fn a_name_that_another_bears_by_now_is_not_taken_from_it() {
        let mut table = with(&[(2, "a")]);
        assert!(table.name(3, b"a") && table.name(4, b"a/b"));
        table.gone(2);
        assert_eq!((paths(&table, &[3, 4]), table.len()), (vec!["a".to_owned(), "a/b".to_owned()], 3));
    }

    #[test]
    fn a_directory_in_one_without_a_watch_is_known_by_its_path() {
        let mut table = with(&[(5, "far/deep")]);
        assert_eq!(paths(&table, &[5]), ["far/deep"]);
        assert!(table.name(6, b"far"));
        assert!(table.name(5, b"far/deep") && !table.name(5, b"far/deep"));
    }

    #[test]
    fn only_so_many_are_watched_out_of_sight() {
        let mut table = with(&[]);
        for watch in 2..AWAY as Watch + 4 {
            table.name(watch, watch.to_string().as_bytes());
            table.moved_from(watch as u32, ROOT, watch.to_string().as_bytes());
            assert_eq!(table.moved(watch), Ok(vec![]));
        }
        assert_eq!(table.end_batch(), [2, 3]);
        assert_eq!(table.len(), AWAY + 1);
    }

    fn with(entries: &[(Watch, &str)]) -> Table {
        let mut table = Table::default();
        table.name(ROOT, b"");
        for (watch, path) in entries {
            assert!(table.name(*watch, path.as_bytes()));
        }
        table
    }

    fn paths(table: &Table, watches: &[Watch]) -> Vec<String> {
        let path = |watch: &Watch| String::from_utf8(table.path(*watch).expect("in sight")).expect("text");
        watches.iter().map(path).collect()
    }
}
