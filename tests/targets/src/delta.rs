//! Requests for parts of contents, the signatures in them, and the runs that answer them.

use std::io;

use hearth_schemas::wire::{Compare, MAX_BLOCKS, MAX_MESSAGE, MAX_PACKED, MAX_WANTS, Signature, Wanted};
use syncd_core::delta::{Piece, difference, patch, read_runs, sign};

use crate::decodes;

const KEY: [u8; 32] = [7; 32];

/// The first byte chooses what the rest is.
pub fn run(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => requests(bytes),
        1 => made_up(bytes),
        2 => runs(bytes),
        _ => edited(bytes),
    }
}

fn requests(bytes: &[u8]) {
    if let Ok(wanted) = Wanted::decode(bytes) {
        assert_eq!(decodes::<Wanted>(bytes, MAX_MESSAGE).as_ref(), Some(&wanted));
        assert!(wanted.length > 0 && wanted.offset.checked_add(wanted.length).is_some());
        assert!(wanted.older.is_none_or(|older| older.block > 0 && older.blocks.len() <= MAX_BLOCKS));
    }
    if let Ok(compare) = Compare::decode(bytes) {
        assert_eq!(decodes::<Compare>(bytes, MAX_MESSAGE).as_ref(), Some(&compare));
        assert!(compare.contents.len() <= MAX_WANTS);
        assert!(compare.contents.iter().all(|(_, older)| older.block > 0 && older.blocks.len() <= MAX_BLOCKS));
    }
}

/// Whatever a signature says, the runs become as many bytes as there are, and do not mix new ones up.
fn made_up(bytes: &[u8]) {
    let Some((&[count, block], bytes)) = bytes.split_first_chunk::<2>() else { return };
    let (blocks, content) = bytes.split_at(bytes.len().min(usize::from(count) * 8));
    let signature = Signature { block: 64 + u32::from(block), blocks: blocks.as_chunks::<8>().0.to_vec() };
    let answer = difference(content, &signature, &KEY).expect("memory does not fail");
    let mut at = 0;
    let read = read_runs(&mut &answer[..], content.len() as u64, |piece| {
        match piece {
            Piece::Data(new) => {
                assert_eq!(new, &content[at..at + new.len()]);
                at += new.len();
            }
            Piece::Older { from, len } => {
                assert!((from + len) / u64::from(signature.block) <= signature.blocks.len() as u64);
                at += usize::try_from(len).expect("less than the content");
            }
            Piece::Zeros(_) | Piece::Packed { .. } => panic!("nothing was asked to say this"),
        }
        Ok(())
    });
    assert!(read.is_ok() && at == content.len(), "{read:?}");
}

/// Runs of a peer become so many bytes as were asked for, or nothing.
fn runs(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let (length, half) = (u64::from(u16::from_le_bytes(*length)), bytes.len() / 2);
    if let Ok(content) = patch(&bytes[..half], &bytes[half..], length) {
        assert_eq!(content.len() as u64, length);
    }
    let mut sum = 0;
    let read = read_runs(&mut io::BufReader::with_capacity(7, bytes), length, |piece| {
        sum += match piece {
            Piece::Data(new) => new.len() as u64,
            Piece::Zeros(len) => len,
            Piece::Packed { len, frame } => {
                assert!(!frame.is_empty() && (frame.len() as u64) < len && len <= MAX_PACKED);
                len
            }
            Piece::Older { from, len } => {
                assert!(from.checked_add(len).is_some());
                len
            }
        };
        assert!(sum <= length, "more than was asked for");
        Ok(())
    });
    assert!(read.is_err() || sum == length);
}

/// What is edited is put together as it is.
fn edited(bytes: &[u8]) {
    let (older, content) = bytes.split_at(bytes.len() / 2);
    // Repeated, so that there are blocks that both have.
    let older = older.repeat(4);
    let content = [&older[..older.len() / 3], content, &older[older.len() / 3..]].concat();
    let signature = sign(&older[..], older.len() as u64, &KEY).expect("memory does not fail");
    let answer = difference(&content, &signature, &KEY).expect("memory does not fail");
    assert!(patch(&older, &answer, content.len() as u64).expect("it fits") == content, "another content");
    assert!(answer.len() <= content.len() + 32 + content.len() / 2, "{} for {}", answer.len(), content.len());
}
