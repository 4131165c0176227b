//! The activity log: what happened here and by whose doing, a line at a time, for `hearth log`.
//!
//! Keeps the newest lines in memory and on disk, and tells them to the bus. Names of files stand in it, so the file
//! is private to the person (0600) like everything in the state directory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::bus::Signals;

/// Lines kept.
const LINES: usize = 2000;
/// Lines in the file before it is written anew.
const FILE_LINES: usize = 4 * LINES;

/// How long a line may wait to be written to the file while others follow it.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// Most bytes that wait to be written to the file.
const FLUSH_BYTES: usize = 64 << 10;

/// The log.
pub struct Activity {
    signals: Signals,
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    /// As they stand in the file: parsed, they take five times as much.
    lines: VecDeque<Box<str>>,
    file: Option<File>,
    written: usize,
    /// Lines that are not in the file yet: a first sync has many in a moment.
    unwritten: String,
    flushed: Instant,
}

impl Inner {
    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            // A log that cannot be written must not stop what it is about.
            let _ = file.write_all(self.unwritten.as_bytes());
        }
        self.unwritten.clear();
        self.flushed = Instant::now();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Activity {
    /// Opens the log in this directory; what cannot be read of it is left out.
    pub fn open(dir: &Path, signals: Signals) -> Self {
        let path = dir.join("activity.jsonl");
        let mut lines = VecDeque::new();
        let mut written = 0;
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                written += 1;
                if serde_json::from_str::<Value>(&line).is_ok() {
                    push(&mut lines, line.into());
                }
            }
        }
        let file = append(&path);
        Self {
            signals,
            path,
            inner: Mutex::new(Inner { lines, file, written, unwritten: String::new(), flushed: Instant::now() }),
        }
    }

    /// Writes a line about a path, or about the machine if there is none.
    pub fn note(&self, event: &str, path: Option<&[u8]>, device: Option<&str>, text: &str) {
        let mut line = json!({ "time": Timestamp::now().to_string(), "event": event, "text": text });
        if let Some(path) = path {
            crate::answer::put_path(&mut line, "path", path);
        }
        if let Some(device) = device.filter(|device| !device.is_empty()) {
            line["device"] = device.into();
        }
        self.signals.activity(&line);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.written >= FILE_LINES {
            self.rewrite(&mut inner);
        }
        let line: Box<str> = line.to_string().into();
        inner.unwritten.push_str(&line);
        inner.unwritten.push('\n');
        if inner.flushed.elapsed() > FLUSH_EVERY || inner.unwritten.len() > FLUSH_BYTES {
            inner.flush();
        }
        inner.written += 1;
        push(&mut inner.lines, line);
    }

    /// The newest lines, oldest first.
    pub fn newest(&self, limit: usize) -> Value {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.flush();
        let skip = inner.lines.len().saturating_sub(limit);
        inner.lines.iter().skip(skip).filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
    }

    fn rewrite(&self, inner: &mut Inner) {
        inner.unwritten.clear();
        let text: String = inner.lines.iter().map(|line| format!("{line}\n")).collect();
        let temporary = self.path.with_extension("new");
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        let done = options.and_then(|mut file| file.write_all(text.as_bytes()));
        if done.and_then(|()| std::fs::rename(&temporary, &self.path)).is_ok() {
            inner.file = append(&self.path);
        }
        inner.written = inner.lines.len();
    }
}

fn push(lines: &mut VecDeque<Box<str>>, line: Box<str>) {
    if lines.len() == LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}

fn append(path: &Path) -> Option<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).ok()
}
