//! Brings large contents, and answers who brings one from here.
//!
//! Where an older version lies here, the two are compared group by group, or chunk by chunk where much has moved, and what is
//! missing then with the signature of what the older version has in its place. The content is put together in its own order, so that it is verified as it
//! comes, and what broke off is gone on with. A chunk that is not what it should be is asked for once more, plainly.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use hearth_schemas::codec;
use hearth_schemas::ids::ContentHash;
use hearth_schemas::wire::{Carrier, ChunkList, GroupList, MAX_CHUNKS, MAX_GROUPS, MAX_PACKED, NOT_HERE, Run, Wanted};
use quinn::{Connection, RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use syncd_core::chunk::{Check, Part, assemble, beside, cut};
use syncd_core::delta::{Piece, Search, read_runs, sign};
use syncd_core::disk::{RelPath, Source, StageName};
use syncd_core::groups::{GROUPED, GroupName, in_place};
use tokio::sync::mpsc;

use super::{Failed, Shared, blocking};
use crate::disk::{RealDisk, Unfinished};
use crate::runs::runs_of;
use crate::squeeze::Squeeze;
use crate::stream::{FrameError, pack, read_frame, unpack, write_head};

/// Bytes read or written in one go.
const BLOCK: usize = 256 << 10;
/// Length of an encoded chunk list, at most, in bytes.
const MAX_LIST: usize = MAX_CHUNKS * 16;
/// The same for a group list.
const MAX_GROUP_LIST: usize = MAX_GROUPS * 8 + 8;

/// How to put a content together, in its own order.
#[derive(Default)]
struct Plan {
    older: Option<Arc<File>>,
    steps: Vec<Step>,
    check: Option<Check>,
}

enum Step {
    /// From the older version.
    Copy { from: u64, to: u64, len: u64 },
    /// From the peer.
    Bring(Missing),
}

/// A part that comes from the peer, who may refer to these stretches of the older version.
#[derive(Clone)]
struct Missing {
    to: u64,
    len: u64,
    beside: Vec<(u64, u64)>,
}

impl Plan {
    /// Brings these parts from the peer as they are.
    fn plain(parts: &[(u64, u64)]) -> Self {
        let bring = |&(to, len): &(u64, u64)| Step::Bring(Missing { to, len, beside: Vec::new() });
        Self { steps: parts.iter().filter(|(_, len)| *len > 0).map(bring).collect(), ..Self::default() }
    }

    /// Takes from the older version what it has, of the content from `have` on.
    fn compared(older: Arc<File>, older_len: u64, list: ChunkList, own: &ChunkList, have: u64, key: &[u8; 32]) -> Self {
        let parts = assemble(&list, own);
        Self::of_parts(older, older_len, &parts, Check::new(list, key, have), have)
    }

    fn of_parts(older: Arc<File>, older_len: u64, parts: &[Part], check: Check, have: u64) -> Self {
        let mut steps = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let (Part::Older { to, len, .. } | Part::Missing { to, len }) = *part;
            let done = have.saturating_sub(to);
            if done >= len {
                continue;
            }
            let (to, len) = (to + done, len - done);
            steps.push(match *part {
                Part::Older { from, .. } => Step::Copy { from: from + done, to, len },
                Part::Missing { .. } => Step::Bring(Missing { to, len, beside: beside(parts, at, older_len) }),
            });
        }
        Self { older: Some(older), steps, check: Some(check) }
    }
}

/// Brings a large content into staging and gives its name there, `None` if it is not what it is called.
pub(super) async fn bring(
    shared: &Shared,
    connection: &Connection,
    hash: ContentHash,
    size: u64,
    older: Option<RelPath>,
) -> Result<Option<StageName>, Failed> {
    let disk = shared.disk.clone();
    let opened = blocking(move || {
        let mut content = disk.open_part(hash)?;
        if content.in_order() > size {
            content.restart()?;
        }
        Ok(content)
    });
    let mut content = opened.await?;
    let have = content.in_order();
    let plan = match older {
        Some(older) if have < size => {
            match compare_in_place(shared, connection, hash, (have, size), older.clone()).await? {
                None => compare(shared, connection, hash, (have, size), older).await?,
                some => some,
            }
        }
        _ => None,
    };
    let plan = plan.unwrap_or_else(|| Plan::plain(&[(have, size - have)]));
    let mut wrong;
    (content, wrong) = put_together(shared, connection, hash, content, plan).await?;
    if !wrong.is_empty() {
        tracing::debug!(parts = wrong.len(), "parts of a content were not what the older version promised");
        let erased = blocking(move || {
            wrong.iter().try_for_each(|&(at, len)| content.erase(at, len))?;
            Ok((content, wrong))
        });
        (content, wrong) = erased.await?;
        (content, _) = put_together(shared, connection, hash, content, Plan::plain(&wrong)).await?;
    }
    Ok(blocking(move || content.finish(size)).await?)
}

/// Compares the older version with the content, group by group; `None` if that cannot be done, or is not worth it.
async fn compare_in_place(
    shared: &Shared,
    connection: &Connection,
    hash: ContentHash,
    (have, size): (u64, u64),
    older: RelPath,
) -> Result<Option<Plan>, Failed> {
    if size < GROUPED {
        return Ok(None);
    }
    let disk = shared.disk.clone();
    let reading = blocking(move || {
        let older = Arc::new(disk.open_source(&Source::Copy(older))?);
        let len = older.metadata()?.len();
        let groups = disk.groups_of(&older, size)?;
        Ok((older, len, groups))
    });
    let (list, own) = tokio::join!(fetch_groups(connection, hash, size), reading);
    let (list, Ok((older, older_len, own))) = (list?, own) else { return Ok(None) };
    let Some(parts) = in_place(size, &list, &own) else { return Ok(None) };
    let check = Check::of_groups(size, list, &shared.content_key, have);
    Ok(Some(Plan::of_parts(older, older_len, &parts, check, have)))
}

async fn fetch_groups(connection: &Connection, hash: ContentHash, length: u64) -> Result<Vec<GroupName>, FrameError> {
    let asked = Carrier::Groups { hash, length };
    let list: GroupList = request(connection, &asked, MAX_GROUP_LIST, "a malformed group list").await?;
    Ok(list.groups)
}

/// Compares the older version with the content, chunk by chunk; `None` if it cannot be read.
async fn compare(
    shared: &Shared,
    connection: &Connection,
    hash: ContentHash,
    (have, size): (u64, u64),
    older: RelPath,
) -> Result<Option<Plan>, Failed> {
    let (disk, key) = (shared.disk.clone(), shared.content_key);
    // Cut as the wanted content is: the sizes follow from its length, which may be on the other side of a step.
    let cutting = blocking(move || cut_older(&disk, older, size, &key));
    let (list, own) = tokio::join!(fetch_list(connection, hash, size), cutting);
    let list = list?;
    if list.chunks.iter().map(|(len, _)| u64::from(*len)).sum::<u64>() != size {
        return Err(FrameError::Ended("the peer does not have it".into()).into());
    }
    // It may have been moved since it was thought of, and be so each time that it is tried again.
    let Ok((older, older_len, own)) = own else { return Ok(None) };
    Ok(Some(Plan::compared(older, older_len, list, &own, have, &key)))
}

fn cut_older(disk: &RealDisk, older: RelPath, size: u64, key: &[u8; 32]) -> io::Result<(Arc<File>, u64, ChunkList)> {
    let older = Arc::new(disk.open_source(&Source::Copy(older))?);
    let len = older.metadata()?.len();
    let list = cut(Stretches::new(&older, &[(0, len)]), size, key)?;
    Ok((older, len, list))
}

async fn fetch_list(connection: &Connection, hash: ContentHash, length: u64) -> Result<ChunkList, FrameError> {
    let asked = Carrier::Chunks { hash, length };
    let list: ChunkList = request(connection, &asked, MAX_LIST, "a malformed chunk list").await?;
    if list.chunks.len() > MAX_CHUNKS {
        return Err(FrameError::Nonsense("a chunk list too long"));
    }
    Ok(list)
}

/// Asks on a stream of its own what has one answer, of at most so many bytes; `malformed` names one that cannot be.
async fn request<T: Serialize + DeserializeOwned>(
    connection: &Connection,
    asked: &Carrier,
    limit: usize,
    malformed: &'static str,
) -> Result<T, FrameError> {
    let ended = |error: String| FrameError::Ended(error);
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| ended(error.to_string()))?;
    write_head(&mut send, asked).await?;
    let _ = send.finish();
    let bytes = recv.read_to_end(limit).await.map_err(|error| ended(error.to_string()))?;
    codec::decode(&bytes, limit).map_err(|_| FrameError::Nonsense(malformed))
}

/// Takes the steps of a plan. Gives the parts that turned out wrong.
async fn put_together(
    shared: &Shared,
    connection: &Connection,
    hash: ContentHash,
    content: Unfinished,
    plan: Plan,
) -> Result<(Unfinished, Vec<(u64, u64)>), Failed> {
    let mut wanted = Vec::new();
    for step in &plan.steps {
        if let Step::Bring(missing) = step {
            wanted.push(missing.clone());
        }
    }
    let (older, key) = (plan.older.clone(), shared.content_key);
    let (handfuls, ready) = mpsc::channel(4);
    let talking = async {
        if wanted.is_empty() {
            return Ok(());
        }
        let (send, mut recv) = connection.open_bi().await.map_err(|error| FrameError::Ended(error.to_string()))?;
        tokio::select! {
            Err(error) = ask(send, hash, wanted, older, key) => Err(error),
            gathered = gather(&mut recv, handfuls) => gathered,
        }
    };
    let writing = blocking(move || write_all(content, plan, Incoming::new(ready)));
    let (talked, written) = tokio::join!(talking, writing);
    match written {
        Ok(done) => Ok(done),
        // What the network says of it tells more than that something did not come.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(talked.err().map_or(error.into(), Failed::from)),
        Err(error) => Err(error.into()),
    }
}

/// Asks for parts of a content, each with the signature of what the older version has beside it.
async fn ask(
    mut send: SendStream,
    hash: ContentHash,
    wanted: Vec<Missing>,
    older: Option<Arc<File>>,
    key: [u8; 32],
) -> Result<(), FrameError> {
    write_head(&mut send, &Carrier::Ranges { hash }).await?;
    let (frames, mut ready) = mpsc::channel(2);
    let signing = tokio::task::spawn_blocking(move || {
        for Missing { to: offset, len: length, beside } in wanted {
            let older = older.as_ref().filter(|_| !beside.is_empty()).and_then(|older| {
                let len = beside.iter().map(|(_, len)| len).sum();
                // What cannot be read saves nothing.
                sign(Stretches::new(older, &beside), len, &key).ok().filter(|signature| !signature.blocks.is_empty())
            });
            if frames.blocking_send(pack(&codec::encode(&Wanted { offset, length, older }))).is_err() {
                return;
            }
        }
    });
    while let Some(frame) = ready.recv().await {
        send.write_all(&frame).await?;
    }
    signing.await.map_err(|error| FrameError::Ended(error.to_string()))?;
    let _ = send.finish();
    Ok(())
}

/// Passes on what comes, packet by packet, in handfuls that are worth waking the writer for.
async fn gather(recv: &mut RecvStream, handfuls: mpsc::Sender<Vec<Bytes>>) -> Result<(), FrameError> {
    let (mut handful, mut bytes) = (Vec::new(), 0);
    loop {
        let chunk = recv.read_chunk(BLOCK, true).await.map_err(|error| FrameError::Ended(error.to_string()))?;
        let ended = chunk.is_none();
        if let Some(chunk) = chunk {
            bytes += chunk.bytes.len();
            handful.push(chunk.bytes);
        }
        if bytes >= BLOCK || ended {
            bytes = 0;
            let sent = handfuls.send(std::mem::take(&mut handful)).await;
            if ended || sent.is_err() {
                // If the writer is gone, it knows why.
                return Ok(());
            }
        }
    }
}

/// Takes the steps of a plan, with what comes from the peer.
fn write_all(content: Unfinished, plan: Plan, mut incoming: Incoming) -> io::Result<(Unfinished, Vec<(u64, u64)>)> {
    let mut writing = Writing { content, older: plan.older, check: plan.check, at: 0, block: vec![0; BLOCK] };
    for step in plan.steps {
        match step {
            Step::Copy { from, to, len } => {
                writing.at = to;
                writing.copy(from, len)?;
            }
            Step::Bring(Missing { to, len, beside }) => {
                writing.at = to;
                let mut bytes = [0; 8];
                incoming.read_exact(&mut bytes)?;
                let bytes = u64::from_le_bytes(bytes);
                if bytes == NOT_HERE {
                    return Err(io::Error::new(ErrorKind::NotFound, "the peer does not have it"));
                }
                writing.content.expect(bytes)?;
                read_runs(&mut incoming, len, |piece| writing.take(piece, &beside))?;
            }
        }
    }
    Ok((writing.content, writing.check.map(Check::finish).unwrap_or_default()))
}

/// A content that is written in its own order.
struct Writing {
    content: Unfinished,
    older: Option<Arc<File>>,
    check: Option<Check>,
    at: u64,
    block: Vec<u8>,
}

impl Writing {
    fn take(&mut self, piece: Piece<'_>, beside: &[(u64, u64)]) -> io::Result<()> {
        match piece {
            Piece::Data(bytes) => self.write(bytes),
            Piece::Zeros(len) => {
                self.content.skip(len, self.at)?;
                if let Some(check) = &mut self.check {
                    check.zeros(len);
                }
                self.at += len;
                Ok(())
            }
            Piece::Packed { len, frame } => {
                let len = usize::try_from(len.min(MAX_PACKED)).map_err(io::Error::other)?;
                let bytes = unpack(frame, len).map_err(|_| ErrorKind::InvalidData)?;
                if bytes.len() == len { self.write(&bytes) } else { Err(ErrorKind::InvalidData.into()) }
            }
            Piece::Older { mut from, mut len } => {
                for &(start, there) in beside {
                    let now = len.min(there.saturating_sub(from));
                    if now > 0 {
                        self.copy(start + from, now)?;
                    }
                    (from, len) = ((from + now).saturating_sub(there), len - now);
                }
                if len == 0 { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.write(bytes, self.at)?;
        if let Some(check) = &mut self.check {
            check.update(bytes);
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Copies from the older version. What it does not have any more is left out, and so found wrong.
    fn copy(&mut self, from: u64, len: u64) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        let mut done = 0;
        while done < len {
            let step = usize::try_from((len - done).min(BLOCK as u64)).map_err(io::Error::other)?;
            let read = self.older.as_ref().map(|older| older.read_exact_at(&mut block[..step], from + done));
            if matches!(read, Some(Ok(()))) {
                self.write(&block[..step])?;
            } else {
                self.at += step as u64;
                if let Some(check) = &mut self.check {
                    check.skip(step as u64);
                }
            }
            done += step as u64;
        }
        self.block = block;
        Ok(())
    }
}

/// What comes from a peer, as it comes.
struct Incoming {
    ready: mpsc::Receiver<Vec<Bytes>>,
    handful: std::vec::IntoIter<Bytes>,
    open: Bytes,
}

impl Incoming {
    fn new(ready: mpsc::Receiver<Vec<Bytes>>) -> Self {
        Self { ready, handful: Vec::new().into_iter(), open: Bytes::new() }
    }
}

impl BufRead for Incoming {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.open.is_empty() {
            match self.handful.next() {
                Some(next) => self.open = next,
                None => match self.ready.blocking_recv() {
                    Some(handful) => self.handful = handful.into_iter(),
                    None => break,
                },
            }
        }
        Ok(&self.open)
    }

    fn consume(&mut self, amount: usize) {
        self.open = self.open.split_off(amount);
    }
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let now = there.len().min(out.len());
        out[..now].copy_from_slice(&there[..now]);
        self.consume(now);
        Ok(now)
    }
}

/// Stretches of a file, one after the other. Fails where the file has become shorter.
struct Stretches<'a> {
    file: &'a File,
    left: std::vec::IntoIter<(u64, u64)>,
    open: (u64, u64),
}

impl<'a> Stretches<'a> {
    /// Offsets and lengths in bytes.
    fn new(file: &'a File, stretches: &[(u64, u64)]) -> Self {
        Self { file, left: Vec::from(stretches).into_iter(), open: (0, 0) }
    }
}

impl Read for Stretches<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.open.1 == 0 {
            let Some(next) = self.left.next() else { return Ok(0) };
            self.open = next;
        }
        let now = usize::try_from(self.open.1).map_or(out.len(), |len| len.min(out.len()));
        let read = self.file.read_at(&mut out[..now], self.open.0)?;
        if read == 0 && now > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.open = (self.open.0 + read as u64, self.open.1 - read as u64);
        Ok(read)
    }
}

/// Answers how a content is cut; that it is not here where there is no file.
pub(super) async fn send_list(
    send: &mut SendStream,
    file: io::Result<File>,
    length: u64,
    key: [u8; 32],
) -> Result<(), FrameError> {
    let list = blocking(move || cut(file?.take(length), length, &key)).await;
    let list = list.ok().filter(|list| list.chunks.len() <= MAX_CHUNKS);
    Ok(send.write_all(&codec::encode(&list.unwrap_or(ChunkList { chunks: Vec::new() }))).await?)
}

/// Answers what the groups of a content are called; that it is not here where there is no file.
pub(super) async fn send_groups(
    send: &mut SendStream,
    file: io::Result<File>,
    disk: RealDisk,
    (hash, length): (ContentHash, u64),
) -> Result<(), FrameError> {
    let groups = blocking(move || match disk.known_groups(hash, length) {
        Some(known) => Ok(known),
        None => disk.groups_of(&file?, length),
    });
    let groups = groups.await.ok().filter(|groups| groups.len() <= MAX_GROUPS).unwrap_or_default();
    Ok(send.write_all(&codec::encode(&GroupList { groups })).await?)
}

/// Answers requests for parts of a content, one after the other.
pub(super) async fn send_parts(
    send: &mut SendStream,
    recv: &mut RecvStream,
    file: io::Result<File>,
    key: [u8; 32],
) -> Result<(), FrameError> {
    let Ok(file) = file.map(Arc::new) else { return Ok(send.write_all(&NOT_HERE.to_le_bytes()).await?) };
    while let Some(frame) = read_frame(recv).await? {
        let wanted = Wanted::decode(&frame).map_err(|_| FrameError::Nonsense("a malformed request"))?;
        let file = Arc::clone(&file);
        let (blocks, mut ready) = mpsc::channel(4);
        let reading = tokio::task::spawn_blocking(move || {
            read_part(&file, &wanted, &key, &mut |block| {
                blocks.blocking_send(block).map_err(|_| io::Error::from(ErrorKind::BrokenPipe))
            })
        });
        while let Some(block) = ready.recv().await {
            send.write_chunk(block).await?;
        }
        let ended = |error: String| FrameError::Ended(error);
        reading.await.map_err(|error| ended(error.to_string()))?.map_err(|error| ended(error.to_string()))?;
    }
    Ok(())
}

/// Says what stands in a part of a file, in blocks to be sent one after the other.
fn read_part(
    file: &File,
    wanted: &Wanted,
    key: &[u8; 32],
    say: &mut impl FnMut(Bytes) -> io::Result<()>,
) -> io::Result<()> {
    let runs = runs_of(file, wanted.offset, wanted.length)?;
    let data = runs.iter().filter(|run| matches!(run, Run::Data(_))).map(|run| run.len()).fold(0, u64::saturating_add);
    say(Bytes::copy_from_slice(&data.to_le_bytes()))?;
    let mut search = wanted.older.as_ref().map(|older| Search::new(older, key));
    let mut squeeze = Squeeze::new()?;
    let mut at = wanted.offset;
    for run in runs {
        let len = run.len();
        match (run, &mut search) {
            (Run::Data(_), Some(search)) => {
                search.pieces(Stretches::new(file, &[(at, len)]), |piece| match piece {
                    Piece::Older { from, len } => say(Run::Older { from, len }.encode().into()),
                    Piece::Data(new) => say_data(Bytes::copy_from_slice(new), &mut squeeze, say),
                    Piece::Zeros(_) | Piece::Packed { .. } => Err(ErrorKind::Unsupported.into()),
                })?;
            }
            (Run::Data(_), None) => {
                let mut done = 0;
                while done < len {
                    let step = usize::try_from((len - done).min(BLOCK as u64)).map_err(io::Error::other)?;
                    let mut block = vec![0; step];
                    file.read_exact_at(&mut block, at + done)?;
                    say_data(block.into(), &mut squeeze, say)?;
                    done += step as u64;
                }
            }
            (other, _) => say(other.encode().into())?,
        }
        at += len;
    }
    Ok(())
}

fn say_data(block: Bytes, squeeze: &mut Squeeze, say: &mut impl FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
    let len = block.len() as u64;
    match squeeze.block(&block) {
        Some(frame) => {
            say(Run::Packed { len, packed: frame.len() as u64 }.encode().into())?;
            say(frame.into())
        }
        None => {
            say(Run::Data(len).encode().into())?;
            say(block)
        }
    }
}

#[cfg(test)]
mod tests {
    use syncd_core::disk::Disk;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn what_an_older_version_has_is_taken_from_it_and_the_rest_is_brought() {
        let world = World::new();
        let (old, new) = edited();
        let (content, wrong, said) = world.bring(&old, &new, None, |_| {});
        assert_eq!(wrong, []);
        assert!(said < 40_000, "{said} bytes for 2000 new ones");
        assert!(content.finish(new.len() as u64).expect("staged").is_some());
    }

    #[test]
    fn an_older_version_that_changes_in_the_middle_is_found_out_and_its_chunks_are_brought_plainly() {
        let world = World::new();
        let (old, new) = edited();
        let changes: [fn(&File); 2] = [
            |older| older.write_all_at(&[1; 5000], 700_000).expect("written"),
            |older| older.set_len(1_000_000).expect("shorter"),
        ];
        for change in changes {
            let (mut content, wrong, _) = world.bring(&old, &new, None, change);
            let sum: u64 = wrong.iter().map(|(_, len)| len).sum();
            assert!(sum > 0 && sum < new.len() as u64, "{wrong:?}");
            wrong.iter().for_each(|&(at, len)| content.erase(at, len).expect("erased"));
            let (content, wrong) = world.take(content, Plan::plain(&wrong), &new);
            assert_eq!(wrong, []);
            assert!(content.finish(new.len() as u64).expect("staged").is_some());
        }
    }

    #[test]
    fn of_a_large_content_that_changed_in_place_only_that_is_brought_and_nothing_is_cut() {
        let world = World::new();
        let mut old = vec![0; 17 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut old);
        let mut new = old.clone();
        new[9 << 20..][..4096].fill(1);
        new.extend_from_slice(&old[..50_000]);
        let path = |name| world.folder.path().join("home").join(name);
        std::fs::write(path("old"), &old).expect("written");
        std::fs::write(path("new"), &new).expect("written");
        let size = new.len() as u64;
        // Whoever has the new one remembers its groups from when it was hashed.
        let mut disk = world.disk.clone();
        let found = loop {
            match disk.content(b"new") {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => break read.expect("read"),
            }
        };
        assert_eq!(found.content.hash.0, *blake3::keyed_hash(&KEY, &new).as_bytes());
        let list = disk.known_groups(found.content.hash, size).expect("remembered");
        assert_eq!(list, disk.groups_of(&File::open(path("new")).expect("opens"), size).expect("read"));
        for changes in [false, true] {
            let older = Arc::new(File::options().read(true).write(true).open(path("old")).expect("opens"));
            let own = disk.groups_of(&older, size).expect("read");
            let parts = in_place(size, &list, &own).expect("nearly alike");
            let check = Check::of_groups(size, list.clone(), &KEY, 0);
            let plan = Plan::of_parts(Arc::clone(&older), old.len() as u64, &parts, check, 0);
            let answers = world.answers(&plan, &new);
            let said: usize = answers.iter().map(Bytes::len).sum();
            assert!(said < 60_000, "{said} bytes for 54,096 new ones");
            if changes {
                older.write_all_at(&[1; 5000], 3 << 20).expect("written");
            }
            let (mut content, wrong) = write_all(world.part(&new), plan, incoming(answers)).expect("written");
            assert_eq!(wrong, if changes { vec![(3 << 20, 64 << 10)] } else { Vec::new() });
            if changes {
                wrong.iter().for_each(|&(at, len)| content.erase(at, len).expect("erased"));
                (content, _) = world.take(content, Plan::plain(&wrong), &new);
            }
            assert!(content.finish(size).expect("staged").is_some());
            disk.drop_part(found.content.hash).expect("dropped");
        }
    }

    #[test]
    fn what_broke_off_is_gone_on_with_beside_an_older_version() {
        let world = World::new();
        let (old, new) = edited();
        for have in [1, 300_000, 1_400_123, new.len() - 1] {
            let (content, wrong, said) = world.bring(&old, &new, Some(have), |_| {});
            assert!(wrong.is_empty() && said < 40_000, "{wrong:?}, {said}");
            assert!(content.finish(new.len() as u64).expect("staged").is_some());
        }
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let world = World::new();
        let (_, new) = edited();
        let told = |answer: Vec<u8>| {
            let plan = Plan::plain(&[(0, new.len() as u64)]);
            write_all(world.part(&new), plan, incoming(vec![answer.into()])).map(|_| ()).map_err(|error| error.kind())
        };
        let run = |run: Run| [&100u64.to_le_bytes()[..], &run.encode()].concat();
        let len = new.len() as u64;
        assert_eq!(told(Vec::new()), Err(ErrorKind::UnexpectedEof));
        assert_eq!(told(NOT_HERE.to_le_bytes().to_vec()), Err(ErrorKind::NotFound));
        assert_eq!(told(run(Run::Zeros(len + 1))), Err(ErrorKind::InvalidData));
        assert_eq!(told(run(Run::Older { from: 0, len: 5 })), Err(ErrorKind::InvalidData), "nothing was signed");
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("compresses");
        let packed = Run::Packed { len: MAX_PACKED, packed: bomb.len() as u64 };
        assert_eq!(told([run(packed), bomb].concat()), Err(ErrorKind::InvalidData), "more than it says");
        let short = zstd::bulk::compress(&[0; 50], 1).expect("compresses");
        let packed = Run::Packed { len: 100, packed: short.len() as u64 };
        assert_eq!(told([run(packed), short].concat()), Err(ErrorKind::InvalidData), "less than it says");
        assert_eq!(told(u64::MAX.wrapping_sub(1).to_le_bytes().to_vec()), Err(ErrorKind::StorageFull));
    }

    #[test]
    fn an_older_version_that_was_moved_away_saves_nothing_and_stops_nothing() {
        let world = World::new();
        assert!(cut_older(&world.disk, b"gone/film.bin".to_vec(), 300_000, &KEY).is_err());
        std::fs::write(world.folder.path().join("home/film.bin"), [5; 300_000]).expect("written");
        let (_, len, list) = cut_older(&world.disk, b"film.bin".to_vec(), 300_000, &KEY).expect("read");
        assert_eq!((len, list), (300_000, cut(&[5; 300_000][..], 300_000, &KEY).expect("cut")));
    }

    struct World {
        folder: tempfile::TempDir,
        disk: RealDisk,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a directory");
            let at = |name| folder.path().join(name);
            for name in ["home", "data", "state"] {
                std::fs::create_dir(at(name)).expect("made");
            }
            let disk = RealDisk::open(&at("home"), &at("data"), &at("state"), KEY).expect("opens");
            Self { folder, disk }
        }

        fn part(&self, new: &[u8]) -> Unfinished {
            let hash = ContentHash(*blake3::keyed_hash(&KEY, new).as_bytes());
            self.disk.open_part(hash).expect("staged")
        }

        /// Puts `new` together from `old`, which changes once it has been looked at. Gives what turned out wrong, and how
        /// many bytes the answers had.
        fn bring(
            &self,
            old: &[u8],
            new: &[u8],
            have: Option<usize>,
            change: impl Fn(&File),
        ) -> (Unfinished, Vec<(u64, u64)>, usize) {
            let mut content = self.part(new);
            content.restart().expect("staged");
            if let Some(have) = have {
                content.write(&new[..have], 0).expect("staged");
                content = {
                    drop(content);
                    self.part(new)
                };
                assert_eq!(content.in_order(), have as u64);
            }
            std::fs::write(self.folder.path().join("home/old"), old).expect("written");
            let size = new.len() as u64;
            let (older, len, own) = cut_older(&self.disk, b"old".to_vec(), size, &KEY).expect("cut");
            let list = cut(new, size, &KEY).expect("cut");
            let plan = Plan::compared(older, len, list, &own, content.in_order(), &KEY);
            let answers = self.answers(&plan, new);
            change(&File::options().write(true).open(self.folder.path().join("home/old")).expect("opens"));
            let said = answers.iter().map(Bytes::len).sum();
            let (content, wrong) = write_all(content, plan, incoming(answers)).expect("written");
            (content, wrong, said)
        }

        fn take(&self, content: Unfinished, plan: Plan, new: &[u8]) -> (Unfinished, Vec<(u64, u64)>) {
            let answers = self.answers(&plan, new);
            write_all(content, plan, incoming(answers)).expect("written")
        }

        /// What who has the content says to what a plan asks for.
        fn answers(&self, plan: &Plan, new: &[u8]) -> Vec<Bytes> {
            let path = self.folder.path().join("new");
            std::fs::write(&path, new).expect("written");
            let file = File::open(path).expect("opens");
            let mut said = Vec::new();
            for step in &plan.steps {
                let Step::Bring(Missing { to, len, beside }) = step else { continue };
                let older = plan.older.as_ref().filter(|_| !beside.is_empty());
                let sum = beside.iter().map(|(_, len)| len).sum();
                let older = older.map(|older| sign(Stretches::new(older, beside), sum, &KEY).expect("signed"));
                let wanted = Wanted { offset: *to, length: *len, older };
                read_part(&file, &wanted, &KEY, &mut |block| {
                    said.push(block);
                    Ok(())
                })
                .expect("read");
            }
            said
        }
    }

    fn incoming(answers: Vec<Bytes>) -> Incoming {
        let (send, ready) = mpsc::channel(1);
        send.try_send(answers).expect("there is room");
        Incoming::new(ready)
    }

    /// A content and an edit of it, at three places.
    fn edited() -> (Vec<u8>, Vec<u8>) {
        let mut old = vec![0; 2 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut old);
        let mut new = old.clone();
        new.splice(1_500_000..1_500_000, [1; 1000]);
        new.splice(900_000..950_000, []);
        new.splice(100_000..101_000, [2; 1000]);
        (old, new)
    }
}
