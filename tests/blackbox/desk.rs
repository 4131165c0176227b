//! A home under the hands of its people, and what is owed to them.
//!
//! Every act of a person goes through here, so that it is known exactly which contents a *hand* did away with. A content
//! that was seen whole in its place on a machine, and that no hand on that machine overwrote or removed since, can
//! only have been moved by the daemon: it is owed until the end, wherever and in whichever form.
//!
//! A look and the act that follows it are not one step for the daemon, which may put another file in the same place
//! in between. The link count of what was looked at tells: if it did not go, something else did, and nothing that was
//! seen on this machine so far is claimed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, openat, renameat_with, utimensat};

/// Folders in which nobody works by hand.
const OURS: [&str; 3] = [".config", ".local", ".cache"];
/// How names begin and end that the rules keep out, of those that people here use.
const UNFINISHED: [(&[u8], &[u8]); 2] = [(b".goutputstream-", b""), (b".save", b".swp")];

/// One home; people share it between threads.
#[derive(Debug)]
pub struct Desk {
    home: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Contents that were seen whole, by hash in hex, and where.
    seen: BTreeMap<String, String>,
    /// Inodes that somebody has open for writing.
    busy: BTreeSet<u64>,
    /// How often something unknown went.
    unsure: usize,
}

/// What is in a home, relative to it.
#[derive(Debug, Default)]
pub struct Survey {
    /// Files, and links of any kind.
    pub files: Vec<PathBuf>,
    /// Directories, the home itself included.
    pub folders: Vec<PathBuf>,
    /// What editors write first, under names that do not travel.
    pub unfinished: Vec<PathBuf>,
}

/// How a person opens a file to write into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It must not exist yet.
    Fresh,
    /// It must exist, and its bytes stay until they are overwritten.
    Again,
}

impl Desk {
    /// Takes over a home.
    pub fn new(home: PathBuf) -> Self {
        Self { home, state: Mutex::default() }
    }

    /// Returns a path in the home.
    pub fn path(&self, relative: &Path) -> PathBuf {
        self.home.join(relative)
    }

    /// Lists the home as far as it travels; what goes meanwhile may be left out.
    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        let mut left = vec![PathBuf::new()];
        while let Some(folder) = left.pop() {
            let listed = fs::read_dir(self.path(&folder)).into_iter().flatten().flatten();
            let mut entries: Vec<_> = listed.map(|entry| (folder.join(entry.file_name()), entry.file_type())).collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            for (path, kind) in entries.into_iter().filter(|(path, _)| !is_ours(path)) {
                let is_folder = kind.is_ok_and(|kind| kind.is_dir());
                if is_unfinished(&path) {
                    survey.unfinished.push(path);
                } else if is_folder {
                    left.push(path);
                } else {
                    survey.files.push(path);
                }
            }
            survey.folders.push(folder);
        }
        survey
    }

    /// Writes into a file, for as long as `edit` takes; nobody else writes into it meanwhile. Returns the content's hash.
    pub fn write(
        &self,
        relative: &Path,
        opened: Opened,
        edit: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<String> {
        let (mut file, inode) = self.take_up(relative, opened)?;
        let edited = edit(&mut file);
        let hash = self.put_down(relative, file, inode)?;
        edited.map(|()| hash)
    }

    /// Moves something, over what stands there if that can be replaced.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if from == to {
            return Err(ErrorKind::InvalidInput.into());
        }
        let (from, to) = (self.path(from), self.path(to));
        self.displace(&to, |occupied| {
            let flags = if occupied { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            Ok(renameat_with(CWD, &from, CWD, &to, flags)?)
        })
    }

    /// Lets two things change places.
    pub fn swap(&self, one: &Path, other: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, self.path(one), CWD, self.path(other), RenameFlags::EXCHANGE)?)
    }

    /// Removes a file or a link.
    pub fn remove(&self, relative: &Path) -> io::Result<()> {
        let path = self.path(relative);
        self.displace(&path, |_| fs::remove_file(&path))
    }

    /// Removes a directory with all that is in it when it is listed; one to which something is added meanwhile stays.
    pub fn remove_all(&self, relative: &Path) -> io::Result<()> {
        for entry in fs::read_dir(self.path(relative))? {
            let entry = entry?;
            let below = relative.join(entry.file_name());
            if entry.file_type()?.is_dir() { self.remove_all(&below)? } else { self.remove(&below)? }
        }
        fs::remove_dir(self.path(relative))
    }

    /// Makes a directory.
    pub fn make_directory(&self, relative: &Path) -> io::Result<()> {
        fs::create_dir(self.path(relative))
    }

    /// Makes a symlink.
    pub fn link(&self, relative: &Path, target: &Path) -> io::Result<()> {
        symlink(target, self.path(relative))
    }

    /// Sets the permission bits of a file or directory.
    pub fn change_mode(&self, relative: &Path, mode: u32) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(CWD, self.path(relative), flags, Mode::empty())?);
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Sets the modification time, of a link itself too.
    pub fn touch(&self, relative: &Path, seconds: i64, nanoseconds: i64) -> io::Result<()> {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(utimensat(CWD, self.path(relative), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Looks at a file; what stands there whole is owed from then on. Returns its content, unless it is being written.
    pub fn look(&self, relative: &Path) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(relative);
        let mut state = self.lock();
        let mut file = open(&path, OFlags::RDONLY)?;
        let before = file.metadata()?;
        if !before.is_file() || state.busy.contains(&before.ino()) {
            return Ok(None);
        }
        let content = whole(&mut file)?;
        let stands = fs::symlink_metadata(&path).is_ok_and(|now| now.ino() == before.ino());
        if stands && !content.is_empty() {
            state.seen.entry(hash_of(&content)).or_insert_with(|| format!("seen at {relative:?}"));
        }
        Ok(Some(content).filter(|_| stands))
    }

    /// Returns what is owed, by hash, and where it was seen.
    pub fn owed(&self) -> BTreeMap<String, String> {
        self.lock().seen.clone()
    }

    /// Returns how often claims had to be given up.
    pub fn unsure(&self) -> usize {
        self.lock().unsure
    }

    fn take_up(&self, relative: &Path, opened: Opened) -> io::Result<(File, u64)> {
        let mut state = self.lock();
        let flags = match opened {
            Opened::Fresh => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            Opened::Again => OFlags::RDWR,
        };
        let mut file = open(&self.path(relative), flags)?;
        let inode = file.metadata()?.ino();
        if !state.busy.insert(inode) {
            return Err(ErrorKind::ResourceBusy.into());
        }
        let before = whole(&mut file)?;
        state.seen.remove(&hash_of(&before));
        Ok((file, inode))
    }

    fn put_down(&self, relative: &Path, mut file: File, inode: u64) -> io::Result<String> {
        let mut state = self.lock();
        state.busy.remove(&inode);
        let content = whole(&mut file)?;
        let hash = hash_of(&content);
        drop(file);
        // Else it was moved or removed while it was written: it never stood in its place as a whole.
        if fs::symlink_metadata(self.path(relative)).is_ok_and(|now| now.ino() == inode) && !content.is_empty() {
            state.seen.insert(hash.clone(), format!("written at {relative:?}"));
        }
        Ok(hash)
    }

    /// Does what makes an entry go; what it held is not owed on this machine any more.
    fn displace(&self, path: &Path, act: impl FnOnce(bool) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        let victim = Victim::at(path)?;
        act(victim.is_some())?;
        let Some(victim) = victim else { return Ok(()) };
        if victim.is_gone()? {
            state.seen.remove(&victim.hash);
        } else {
            state.seen.clear();
            state.unsure += 1;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands where a hand is about to put something else, or nothing.
struct Victim {
    file: File,
    hash: String,
}

impl Victim {
    fn at(path: &Path) -> io::Result<Option<Self>> {
        let data = match fs::symlink_metadata(path) {
            Ok(data) => data,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !data.is_file() {
            return Ok(Some(Self { file: open(path, OFlags::PATH)?, hash: String::new() }));
        }
        let mut file = open(path, OFlags::RDONLY)?;
        let hash = hash_of(&whole(&mut file)?);
        Ok(Some(Self { file, hash }))
    }

    fn is_gone(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }
}

/// What nobody works in by hand: the product's own folders, and what it has put aside for a moment.
fn is_ours(path: &Path) -> bool {
    let aside = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".hearth-"));
    aside || OURS.iter().any(|ours| path == Path::new(ours))
}

fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    UNFINISHED.iter().any(|(start, end)| name.starts_with(start) && name.ends_with(end))
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(CWD, path, flags, Mode::from_raw_mode(0o644))?))
}

fn whole(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}

fn hash_of(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn desk() -> (tempfile::TempDir, Desk) {
        let folder = tempfile::tempdir().expect("a folder");
        let desk = Desk::new(folder.path().to_path_buf());
        (folder, desk)
    }

    fn put(desk: &Desk, path: &str, text: &str) -> String {
        desk.write(Path::new(path), Opened::Fresh, |file| file.write_all(text.as_bytes())).expect("written")
    }

    #[test]
    fn what_a_hand_did_away_with_is_not_owed_and_everything_else_is() {
        let (_folder, desk) = desk();
        let [a, b, c] = [("a", "one"), ("b", "two"), ("c", "three")].map(|(path, text)| put(&desk, path, text));
        desk.rename(Path::new("a"), Path::new("b")).expect("renamed over");
        assert_eq!(desk.owed().into_keys().collect::<BTreeSet<_>>(), BTreeSet::from([a.clone(), c.clone()]));
        let longer = desk.write(Path::new("c"), Opened::Again, |file| {
            file.seek(io::SeekFrom::End(0))?;
            file.write_all(b" and more")
        });
        let longer = longer.expect("appended");
        assert_eq!(desk.owed().into_keys().collect::<BTreeSet<_>>(), BTreeSet::from([a, longer.clone()]));
        desk.remove(Path::new("b")).expect("removed");
        assert_eq!(desk.owed().into_keys().collect::<Vec<_>>(), [longer]);
        assert!(!desk.owed().contains_key(&b) && desk.unsure() == 0);
    }

    #[test]
    fn what_another_put_in_between_makes_unsure() {
        let (_folder, desk) = desk();
        put(&desk, "a", "one");
        put(&desk, "b", "two");
        let path = desk.path(Path::new("a"));
        let elsewhere = desk.path(Path::new("history"));
        let raced = desk.displace(&path, |_| {
            fs::rename(&path, &elsewhere)?;
            fs::write(&path, "by the daemon")?;
            fs::remove_file(&path)
        });
        raced.expect("removed");
        assert!(desk.owed().is_empty() && desk.unsure() == 1);
    }

    #[test]
    fn a_file_being_written_is_neither_owed_nor_written_by_another() {
        let (_folder, desk) = desk();
        let path = Path::new("a");
        let written = desk.write(path, Opened::Fresh, |file| {
            file.write_all(b"half")?;
            assert_eq!(desk.look(path)?, None);
            let other = desk.write(path, Opened::Again, |_| Ok(()));
            assert_eq!(other.expect_err("busy").kind(), ErrorKind::ResourceBusy);
            file.write_all(b" and half")
        });
        assert_eq!(desk.owed().into_keys().collect::<Vec<_>>(), [written.expect("written")]);
        assert_eq!(desk.look(path).expect("read"), Some(b"half and half".to_vec()));
    }
}
