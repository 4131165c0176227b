//! Brings small contents of which older versions lie here: what these look like goes there, what is new comes back.
//!
//! What does not fit in the end, because an older version has changed meanwhile or is gone, is asked for as a whole. Many
//! go on one stream, so that none of them waits for another.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

use hearth_schemas::codec;
use hearth_schemas::ids::{ContentHash, Slot};
use hearth_schemas::wire::{Carrier, Compare, MAX_WANTS, Message, PACK_BYTES, Pack};
use quinn::{Connection, RecvStream, SendStream};
use serde_bytes::ByteBuf;
use syncd_core::delta::{MAX_OLDER, difference, patch, sign};
use syncd_core::disk::{RelPath, Source};
use syncd_core::fetch::Edit;
use tokio::sync::mpsc;

use super::{Shared, read_small, take_contents};
use crate::disk::RealDisk;
use crate::stream::{FrameError, pack, read_frame, write_head};

/// Bytes of signatures that are worth a frame.
const FRAME: usize = 32 << 10;

/// The contents that were asked for, and of what they are edits.
pub(super) type Asked = BTreeMap<ContentHash, (u64, RelPath)>;

/// Brings contents; gives those that have to be asked for as a whole.
pub(super) async fn bring(
    shared: &Shared,
    connection: &Connection,
    slot: Slot,
    edits: Vec<Edit>,
) -> Result<Vec<ContentHash>, (Vec<ContentHash>, FrameError)> {
    let asked: Asked = edits.into_iter().map(|edit| (edit.hash, (edit.size, edit.older))).collect();
    let asked = Arc::new(asked);
    let mut done = BTreeSet::new();
    let result = exchange(shared, connection, slot, &asked, &mut done).await;
    let left = asked.keys().filter(|hash| !done.contains(hash)).copied().collect();
    match result {
        Ok(()) => Ok(left),
        Err(error) => Err((left, error)),
    }
}

async fn exchange(
    shared: &Shared,
    connection: &Connection,
    slot: Slot,
    asked: &Arc<Asked>,
    done: &mut BTreeSet<ContentHash>,
) -> Result<(), FrameError> {
    let (send, mut recv) = connection.open_bi().await.map_err(|error| FrameError::Ended(error.to_string()))?;
    let asking = ask(send, shared.disk.clone(), Arc::clone(asked), shared.content_key);
    let taking = take_contents(&mut recv, shared, slot, Some(asked), done);
    tokio::select! {
        Err(error) = asking => Err(error),
        taken = taking => taken,
    }
}

async fn ask(mut send: SendStream, disk: RealDisk, asked: Arc<Asked>, key: [u8; 32]) -> Result<(), FrameError> {
    write_head(&mut send, &Carrier::Edits).await?;
    let (frames, mut ready) = mpsc::channel(2);
    let signing = tokio::task::spawn_blocking(move || {
        let (mut compare, mut bytes) = (Compare { contents: Vec::new() }, 0);
        for (hash, (_, older)) in asked.iter() {
            // What cannot be read saves nothing.
            let older = read_older(&disk, older).and_then(|older| sign(&older[..], older.len() as u64, &key));
            let Ok(older) = older else { continue };
            bytes += older.blocks.len() * 8 + 40;
            compare.contents.push((*hash, older));
            if bytes >= FRAME || compare.contents.len() >= MAX_WANTS {
                bytes = 0;
                if frames.blocking_send(pack(&codec::encode(&compare))).is_err() {
                    return;
                }
                compare.contents.clear();
            }
        }
        if !compare.contents.is_empty() {
            // The writer being gone means that the stream is.
            let _ = frames.blocking_send(pack(&codec::encode(&compare)));
        }
    });
    while let Some(frame) = ready.recv().await {
        send.write_all(&frame).await?;
    }
    signing.await.map_err(|error| FrameError::Ended(error.to_string()))?;
    let _ = send.finish();
    Ok(())
}

fn read_older(disk: &RealDisk, path: &RelPath) -> io::Result<Vec<u8>> {
    let mut older = Vec::new();
    disk.open_source(&Source::Copy(path.clone()))?.take(MAX_OLDER).read_to_end(&mut older)?;
    Ok(older)
}

/// Puts a content together from its runs; `None` if that cannot be.
pub(super) fn put_together(disk: &RealDisk, asked: &Asked, hash: ContentHash, runs: &[u8]) -> Option<Vec<u8>> {
    let (size, older) = asked.get(&hash)?;
    let older = read_older(disk, older).ok()?;
    patch(&older, runs, *size).ok()
}

/// Answers what is new in contents, request by request.
pub(super) async fn answer(shared: &Shared, send: &mut SendStream, recv: &mut RecvStream) -> Result<(), FrameError> {
    while let Some(frame) = read_frame(recv).await? {
        let compare = Compare::decode(&frame).map_err(|_| FrameError::Nonsense("a malformed comparison"))?;
        let located = shared.driver.ask(move |engine, _| {
            let locate = |(hash, older)| (hash, older, engine.locate(hash).ok().flatten());
            compare.contents.into_iter().map(locate).collect::<Vec<_>>()
        });
        let located = located.await.map_err(|stopped| FrameError::Ended(stopped.to_string()))?;
        let (disk, key) = (shared.disk.clone(), shared.content_key);
        let (frames, mut ready) = mpsc::channel(2);
        let reading = tokio::task::spawn_blocking(move || {
            let (mut answer, mut bytes) = (Pack { contents: Vec::new() }, 0);
            for (hash, older, source) in located {
                let content = source.and_then(|source| read_small(&disk, &source).ok());
                // What is not here, or too long by now, has no runs.
                let runs = content.and_then(|content| difference(&content, &older, &key).ok()).unwrap_or_default();
                bytes += runs.len() + 64;
                answer.contents.push((hash, ByteBuf::from(runs)));
                if bytes >= PACK_BYTES {
                    bytes = 0;
                    if frames.blocking_send(pack(&codec::encode(&answer))).is_err() {
                        return;
                    }
                    answer.contents.clear();
                }
            }
            if !answer.contents.is_empty() {
                // The writer being gone means that the stream is.
                let _ = frames.blocking_send(pack(&codec::encode(&answer)));
            }
        });
        while let Some(frame) = ready.recv().await {
            send.write_all(&frame).await?;
        }
        reading.await.map_err(|error| FrameError::Ended(error.to_string()))?;
    }
    Ok(())
}

/// Asks for what could not be put together, as a whole.
pub(super) fn ask_whole(left: &[ContentHash], out: &mpsc::UnboundedSender<Message>) {
    for wants in left.chunks(MAX_WANTS) {
        // A peer whose writer has ended is about to be reported gone.
        let _ = out.send(Message::Get { wants: wants.to_vec() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn an_edit_is_put_together_unless_the_older_version_is_gone_or_is_another_by_now() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name| folder.path().join(name);
        for name in ["home", "data", "state"] {
            std::fs::create_dir(at(name)).expect("made");
        }
        let disk = RealDisk::open(&at("home"), &at("data"), &at("state"), KEY).expect("opens");
        let mut old = vec![0; 50_000];
        blake3::Hasher::new().finalize_xof().fill(&mut old);
        let new = [&old[..20_000], b"inserted", &old[20_000..]].concat();
        let hash = ContentHash(*blake3::keyed_hash(&KEY, &new).as_bytes());
        let asked = Asked::from([(hash, (new.len() as u64, b"old".to_vec()))]);
        std::fs::write(at("home/old"), &old).expect("written");
        let signature = sign(&old[..], 50_000, &KEY).expect("signed");
        let runs = difference(&new, &signature, &KEY).expect("told");
        assert!(runs.len() < 2000, "{}", runs.len());

        assert!(put_together(&disk, &asked, hash, &runs).expect("it fits") == new);
        assert_eq!(put_together(&disk, &asked, ContentHash([1; 32]), &runs), None, "nobody asked for it");
        assert_eq!(put_together(&disk, &asked, hash, &[]), None, "it is not there");
        std::fs::write(at("home/old"), &old[..30_000]).expect("written");
        assert_eq!(put_together(&disk, &asked, hash, &runs), None, "it is shorter by now");
        old[10_000] ^= 1;
        std::fs::write(at("home/old"), &old).expect("written");
        let other = put_together(&disk, &asked, hash, &runs).expect("another content");
        let mut bringing = disk.bringing();
        bringing.add(hash, &other);
        let brought = bringing.finish();
        assert!(matches!(brought[..], [(_, Ok(None))]), "it is not taken for the content");
        std::fs::remove_file(at("home/old")).expect("removed");
        assert_eq!(put_together(&disk, &asked, hash, &runs), None, "it is gone");
    }
}
