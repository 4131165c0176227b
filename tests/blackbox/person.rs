//! Somebody who writes, moves and deletes in a home, without waiting for anybody but now and then for a friend's file.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::blackbox::desk::{Desk, Opened, Survey};
use crate::blackbox::journal::Journal;
use crate::sim::chance::Chance;
use crate::tree::noise;
use crate::watch::{Wake, until};

/// Names that people choose from: few, so that they meet; and one that only a conflict copy should have.
const FILE_NAMES: [&[u8]; 14] = [
    b"a",
    b"b.txt",
    b"notes.md",
    b"draft.txt",
    b".hidden",
    b"-rf",
    b"line\nbreak.txt",
    b"invalid \xff\xfe.txt",
    "Gr\u{fc}\u{df}e \u{1f3e1}.txt".as_bytes(),
    "e\u{301}.txt".as_bytes(),
    "\u{e9}.txt".as_bytes(),
    b"notes (conflict, m0, abcdef).md",
    &[b'n'; 255],
    b"*",
];
const FOLDER_NAMES: [&[u8]; 6] = [b"dir", b"sub", b"other folder", b"d\xff", "Ordner \u{fc}".as_bytes(), &[b'd'; 255]];
const TARGETS: [&[u8]; 5] = [b"a", b"../b.txt", b"nowhere/at all", b".", b"invalid \xff target"];
const FILE_MODES: [u32; 7] = [0o600, 0o644, 0o640, 0o755, 0o400, 0o444, 0o777];
const FOLDER_MODES: [u32; 4] = [0o700, 0o755, 0o750, 0o775];

/// Things that a home has at most before its people begin to tidy up.
const PLENTY: usize = 120;
/// How long somebody looks out for what a friend wrote.
const PATIENCE: Duration = Duration::from_millis(400);
/// Large contents are written in pieces of this length.
const PIECE_BYTES: usize = 64 << 10;

/// What people everywhere wrote last, so that others can wait for it.
#[derive(Debug, Default)]
pub(super) struct News(Mutex<VecDeque<(usize, PathBuf)>>);

impl News {
    fn tell(&self, machine: usize, path: &Path) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back((machine, path.to_path_buf()));
        if all.len() > 32 {
            all.pop_front();
        }
    }

    fn written_by_others(&self, machine: usize) -> Option<PathBuf> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().find(|(author, _)| *author != machine).map(|(_, path)| path.clone())
    }
}

/// Counts what all people did, so that accidents happen in the middle of it.
#[derive(Debug)]
pub(super) struct Progress {
    /// Acts done, people still acting.
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Progress {
    /// Begins with this many people.
    pub(super) fn of(people: usize) -> Self {
        Self { state: Mutex::new((0, people)), changed: Condvar::new() }
    }

    /// Waits until so much was done; false if nobody acts any more.
    pub(super) fn reach(&self, acts: usize) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 < acts && state.1 > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.1 > 0
    }

    fn step(&self, acts: usize, leaving: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0 + acts, state.1 - leaving);
        self.changed.notify_all();
    }
}

/// Leaves when dropped, even by a panic: nobody may wait for the dead.
struct Present<'a>(&'a Progress);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.step(0, 1);
    }
}

/// One person.
pub(super) struct Person {
    pub(super) name: String,
    pub(super) machine: usize,
    pub(super) chance: Chance,
    pub(super) desk: Arc<Desk>,
    pub(super) journal: Arc<Journal>,
    pub(super) news: Arc<News>,
    pub(super) written: usize,
}

impl Person {
    /// Does so many things, one right after the other.
    pub(super) fn live(&mut self, acts: usize, progress: &Progress) {
        let _present = Present(progress);
        for _ in 0..acts {
            self.act();
            progress.step(1, 0);
        }
    }

    fn act(&mut self) {
        let Survey { files, folders, .. } = self.desk.survey();
        let tidying = files.len() + folders.len() > PLENTY;
        let file = self.chance.pick(&files).cloned().unwrap_or_else(|| PathBuf::from("a"));
        let folder = self.chance.pick(&folders).cloned().unwrap_or_default();
        let parent = self.chance.pick(&folders).cloned().unwrap_or_default();
        let there = parent.join(self.name_from(&FILE_NAMES));
        match self.chance.below(100) {
            _ if tidying && self.chance.percent(40) => self.remove_all(&folder),
            0..15 => self.create(&there),
            15..24 => self.append(&file),
            24..33 => self.overwrite(&file),
            33..44 => self.save(&file),
            44..48 => self.truncate(&file),
            48..54 => {
                let place = parent.join(self.name_from(&FOLDER_NAMES));
                self.note("mkdir", &place, &self.desk.make_directory(&place));
            }
            54..60 => self.rename(&file, &there),
            60..65 => {
                let place = parent.join(self.name_from(&FOLDER_NAMES));
                self.rename(&folder, &place);
            }
            65..70 => {
                let over = self.chance.pick(&files).cloned().unwrap_or_default();
                self.rename(&file, &over);
            }
            70..74 => self.swap(&file, &files, &folder, &folders),
            74..80 => self.note("rm", &file, &self.desk.remove(&file)),
            80..82 => self.remove_all(&folder),
            82..86 => self.change_mode(&file, &folder),
            86..89 => self.touch(&file),
            89..92 => {
                let target = Path::new(OsStr::from_bytes(TARGETS[self.chance.below(TARGETS.len())]));
                self.note("ln -s", &there, &self.desk.link(&there, target));
            }
            92..94 => self.copy(&file, &there),
            94..96 => self.become_another_kind(&file),
            _ => self.follow_a_friend(),
        }
        if self.chance.percent(12) {
            self.follow_a_friend();
        }
    }

    fn create(&mut self, path: &Path) {
        let content = self.content();
        let done = self.desk.write(path, Opened::Fresh, |file| in_pieces(file, &content));
        self.note(&format!("create {} bytes", content.len()), path, &done);
        self.news.tell(self.machine, path);
    }

    fn append(&mut self, path: &Path) {
        let content = self.content();
        let done = self.desk.write(path, Opened::Again, |file| {
            file.seek(SeekFrom::End(0))?;
            in_pieces(file, &content)
        });
        self.note(&format!("append {} bytes", content.len()), path, &done);
        self.news.tell(self.machine, path);
    }

    fn overwrite(&mut self, path: &Path) {
        let content = self.content();
        let (emptied, place) = (self.chance.percent(40), self.chance.bits());
        let done = self.desk.write(path, Opened::Again, |file| {
            let length = file.metadata()?.len();
            if emptied {
                file.set_len(0)?;
            }
            file.seek(SeekFrom::Start(if emptied { 0 } else { place % (length + 1) }))?;
            in_pieces(file, &content)
        });
        self.note(&format!("overwrite with {} bytes", content.len()), path, &done);
        self.news.tell(self.machine, path);
    }

    /// As editors save: into a temporary file beside it, which then takes its place; some keep a backup meanwhile.
    fn save(&mut self, path: &Path) {
        let content = self.content();
        let number = self.chance.below(10_000);
        let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let style = self.chance.below(3);
        let temporary = parent.join(match style {
            0 => format!(".goutputstream-{number}"),
            1 => format!("{number}"),
            _ => format!(".save{number}.swp"),
        });
        let backup = parent.join(format!("backup {number}.orig"));
        let done = self.desk.write(&temporary, Opened::Fresh, |file| in_pieces(file, &content)).and_then(|hash| {
            let kept = style == 1 && self.desk.rename(path, &backup).is_ok();
            let saved = self.desk.rename(&temporary, path);
            if saved.is_err() {
                self.desk.remove(&temporary)?;
            }
            if kept {
                // What could not be replaced goes back to its name.
                if saved.is_ok() { self.desk.remove(&backup)? } else { self.desk.rename(&backup, path)? }
            }
            saved.map(|()| hash)
        });
        self.note(&format!("save {} bytes by {temporary:?}", content.len()), path, &done);
        self.news.tell(self.machine, path);
    }

    fn truncate(&mut self, path: &Path) {
        let place = self.chance.bits();
        let done = self.desk.write(path, Opened::Again, |file| {
            let length = file.metadata()?.len();
            file.set_len(place % (length + 1))
        });
        self.note("truncate", path, &done);
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let done = self.desk.rename(from, to);
        self.note(&format!("mv {from:?}"), to, &done);
        if done.is_ok() {
            self.news.tell(self.machine, to);
        }
    }

    fn swap(&mut self, file: &Path, files: &[PathBuf], folder: &Path, folders: &[PathBuf]) {
        let (one, other) = match self.chance.below(3) {
            0 => (folder, self.chance.pick(folders).map_or(file, PathBuf::as_path)),
            1 => (folder, file),
            _ => (file, self.chance.pick(files).map_or(folder, PathBuf::as_path)),
        };
        self.note(&format!("swap {one:?}"), other, &self.desk.swap(one, other));
    }

    fn remove_all(&self, folder: &Path) {
        // Nobody empties a whole home.
        if folder.components().next().is_some() {
            self.note("rm -r", folder, &self.desk.remove_all(folder));
        }
    }

    fn change_mode(&mut self, file: &Path, folder: &Path) {
        let (path, modes): (_, &[u32]) =
            if self.chance.percent(60) { (file, &FILE_MODES) } else { (folder, &FOLDER_MODES) };
        let mode = modes[self.chance.below(modes.len())];
        if path.components().next().is_some() {
            self.note(&format!("chmod {mode:o}"), path, &self.desk.change_mode(path, mode));
        }
    }

    fn touch(&mut self, path: &Path) {
        let seconds = self.chance.below(4_000_000_000).cast_signed() as i64;
        let nanoseconds = self.chance.below(1_000_000_000).cast_signed() as i64;
        self.note(&format!("touch -d @{seconds}.{nanoseconds:09}"), path, &self.desk.touch(path, seconds, nanoseconds));
    }

    fn copy(&mut self, from: &Path, to: &Path) {
        let done = self.desk.look(from).and_then(|content| {
            let content = content.ok_or(io::ErrorKind::ResourceBusy)?;
            self.desk.write(to, Opened::Fresh, |file| in_pieces(file, &content))
        });
        self.note(&format!("cp {from:?}"), to, &done);
    }

    /// A file goes, and a directory or a link takes its name at once.
    fn become_another_kind(&mut self, path: &Path) {
        let directory = self.chance.percent(50);
        let done = self.desk.remove(path).and_then(|()| {
            if directory { self.desk.make_directory(path) } else { self.desk.link(path, Path::new("elsewhere")) }
        });
        self.note(if directory { "becomes a directory" } else { "becomes a link" }, path, &done);
    }

    /// Waits a moment for what somebody else wrote last, and writes into it as soon as it is there.
    fn follow_a_friend(&mut self) {
        let Some(path) = self.news.written_by_others(self.machine) else { return };
        let place = self.desk.path(&path);
        let folder = place.parent().unwrap_or(&place);
        let seen = Wake::on(folder).and_then(|wake| {
            until("a friend's file", PATIENCE, &wake, || Ok(Some(()).filter(|()| place.symlink_metadata().is_ok())))
        });
        if seen.is_ok() {
            self.append(&path);
        }
    }

    fn name_from(&mut self, names: &[&'static [u8]]) -> &'static OsStr {
        OsStr::from_bytes(names[self.chance.below(names.len())])
    }

    /// Returns bytes that nobody else writes.
    fn content(&mut self) -> Vec<u8> {
        let length = match self.chance.below(100) {
            0..4 => return Vec::new(),
            4..80 => self.chance.below(300),
            80..95 => self.chance.below(600 << 10),
            _ => self.chance.below(5 << 20),
        };
        self.written += 1;
        let mut content = format!("{} wrote {}\n", self.name, self.written).into_bytes();
        // Without a zero byte it is text, which may be merged.
        if self.chance.percent(70) {
            content.push(0);
            content.extend(noise(self.chance.bits(), length));
        }
        content
    }

    fn note<T: Debug>(&self, what: &str, path: &Path, done: &io::Result<T>) {
        self.journal.note(&self.name, &format!("{what} {path:?}: {done:?}"));
    }
}

fn in_pieces(file: &mut File, content: &[u8]) -> io::Result<()> {
    content.chunks(PIECE_BYTES).try_for_each(|piece| file.write_all(piece))
}
