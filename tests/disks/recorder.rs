//! Disks that remember everything they were told: files that a small FUSE file system serves, for loop devices above.
//!
//! Runs in a process of its own. Were it part of one that waits for such a disk, neither could ever be ended.
//! A file `NAME.bad` beside the images makes a disk fail: each line is the offset and the length of sectors that cannot be
//! read, in bytes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use hearth_tests::process::Process;

use crate::image::{FileSystem, copy};
use crate::writes::{note_flush, note_write};

const START_LIMIT: Duration = Duration::from_secs(20);
/// Sizes never change, so everybody may remember them.
const FOR_LONG: Duration = Duration::from_secs(3600);
/// What file systems give to files at once, in bytes.
const BLOCK: usize = 4096;
/// The inode of the first disk; the folder has 1.
const FIRST: u64 = 2;

/// The recorder and its folder, until it is dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    process: Process,
    folder: PathBuf,
}

impl Recorder {
    /// Makes an empty file system on each disk, and serves them.
    pub(crate) fn start(folder: &Path, system: FileSystem, disks: &[&str]) -> Result<Self> {
        for part in ["before", "now", "served"] {
            fs::create_dir_all(folder.join(part)).context("making a folder for disks")?;
        }
        for disk in disks {
            let before = folder.join("before").join(disk);
            system.make(&before)?;
            copy(&before, &folder.join("now").join(disk))?;
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(std::env::current_exe().context("finding this program")?);
        command.arg("record").arg(folder);
        let mut process = Process::spawn("the recorder", command, &folder.join("recorder.log"), true)?;
        process.first_line(START_LIMIT).context("starting to record: is there /dev/fuse?")?;
        Ok(Self { process, folder: folder.to_path_buf() })
    }

    /// Where a disk is served.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.folder.join("served").join(name)
    }

    /// Where a disk is as it was before everything.
    pub(crate) fn before(&self, name: &str) -> PathBuf {
        self.folder.join("before").join(name)
    }

    /// The record of all disks.
    pub(crate) fn record(&self) -> PathBuf {
        self.folder.join("record")
    }

    /// How long the record is: what was obeyed before this call stands before it.
    pub(crate) fn length(&self) -> Result<u64> {
        Ok(fs::metadata(self.record()).context("looking at the record")?.len())
    }

    /// Makes the first block of a content unreadable wherever it lies on a disk, or all well again. Where it lies is
    /// not asked of the file system: not each of them tells.
    pub(crate) fn spoil(&self, disk: &str, content: Option<&[u8]>) -> Result<()> {
        let mut lines = String::new();
        if let Some(wanted) = content.and_then(|content| content.get(..BLOCK)) {
            let mut image = File::open(self.folder.join("now").join(disk)).context("opening a disk")?;
            let mut found = vec![0; BLOCK];
            let mut offset = 0;
            while image.read_exact(&mut found).is_ok() {
                if found == wanted {
                    lines += &format!("{offset} {BLOCK}\n");
                }
                offset += BLOCK;
            }
            ensure!(!lines.is_empty(), "the content is not on the disk");
        }
        let (file, part) = (self.folder.join(format!("{disk}.bad")), self.folder.join("bad.part"));
        fs::write(&part, lines).and_then(|()| fs::rename(&part, &file)).context("spoiling a disk")
    }

    /// Ends it; its disks must not be in use any more.
    pub(crate) fn stop(mut self) -> Result<()> {
        let unmounted =
            hearth_tests::process::succeed(Command::new("umount").arg(self.folder.join("served")), START_LIMIT);
        unmounted?;
        self.process.wait(START_LIMIT).map(drop)
    }
}

/// Serves the disks of a folder until they are unmounted.
pub(crate) fn serve(folder: &Path) -> Result<()> {
    let mut names: Vec<_> =
        fs::read_dir(folder.join("now"))?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    let disks = names.into_iter().map(|name| {
        let name = name.into_string().ok().context("disks have plain names")?;
        let file = File::options().read(true).write(true).open(folder.join("now").join(&name))?;
        let bytes = file.metadata()?.len();
        Ok(Disk { bad: folder.join(format!("{name}.bad")), name, file, bytes })
    });
    let disks = disks.collect::<Result<Vec<_>>>()?;
    let record = Mutex::new(File::create(folder.join("record")).context("beginning a record")?);
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("recorded".to_owned()), MountOption::NoAtime];
    let session =
        fuser::spawn_mount(Disks { disks, record }, folder.join("served"), &config).context("serving disks by FUSE")?;
    // What is on standard output is read by whoever started this.
    writeln!(io::stdout(), "ready").context("saying so")?;
    session.join().context("serving disks")
}

struct Disk {
    name: String,
    file: File,
    bytes: u64,
    bad: PathBuf,
}

impl Disk {
    fn can_read(&self, offset: u64, bytes: u64) -> bool {
        let Ok(file) = File::open(&self.bad) else { return true };
        let ranges = io::BufReader::new(file).lines().map_while(Result::ok);
        let mut ranges = ranges.filter_map(|line| {
            let (from, length) = line.split_once(' ')?;
            Some((from.parse::<u64>().ok()?, length.parse::<u64>().ok()?))
        });
        !ranges.any(|(from, length)| from < offset + bytes && offset < from + length)
    }
}

struct Disks {
    disks: Vec<Disk>,
    record: Mutex<File>,
}

impl Disks {
    fn disk(&self, ino: INodeNo) -> Option<(u8, &Disk)> {
        let number = u64::from(ino).checked_sub(FIRST)?;
        Some((u8::try_from(number).ok()?, self.disks.get(usize::try_from(number).ok()?)?))
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let disk = self.disk(ino);
        let folder = u64::from(ino) == 1;
        let bytes = disk.map_or(0, |(_, disk)| disk.bytes);
        (folder || disk.is_some()).then_some(FileAttr {
            ino,
            size: bytes,
            blocks: bytes / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if folder { FileType::Directory } else { FileType::RegularFile },
            perm: if folder { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn noted(&self, note: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        note(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Filesystem for Disks {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = self.disks.iter().position(|disk| OsStr::new(&disk.name) == name);
        match number.and_then(|number| self.attributes(INodeNo(FIRST + number as u64))) {
            Some(attributes) => reply.entry(&FOR_LONG, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&FOR_LONG, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Nothing is kept above: each read and write comes here.
    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((_, disk)) = self.disk(ino) else { return reply.error(Errno::ENOENT) };
        let bytes = u64::from(size).min(disk.bytes.saturating_sub(offset));
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
        if disk.can_read(offset, bytes) && disk.file.read_exact_at(&mut data, offset).is_ok() {
            reply.data(&data);
        } else {
            reply.error(Errno::EIO);
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some((number, disk)) = self.disk(ino) else { return reply.error(Errno::ENOENT) };
        let noted = self.noted(|record| note_write(record, number, offset, data));
        match noted.and_then(|()| disk.file.write_all_at(data, offset)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let Some((number, _)) = self.disk(ino) else { return reply.error(Errno::ENOENT) };
        match self.noted(|record| note_flush(record, number)) {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _offset: u64, reply: ReplyDirectory) {
        reply.ok();
    }
}
