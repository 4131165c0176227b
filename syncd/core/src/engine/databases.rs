//! Images of files: how often they are made of databases that are in use, where they lie, and when they go.
//!
//! The image of a file is the content of its version for as long as the file's own bytes are another. Making one
//! costs as much as copying the file, so a database that changes all the time is looked at ever more seldom. Other files
//! that are written without pause are [`super::unrest`]'s.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::ContentHash;

use super::Engine;
use crate::database::{has_log, image_name};
use crate::disk::{Disk, Source};
use crate::observe::{Imaged, Spot, base_path};
use crate::store::{Store, StoreResult};

/// The shortest and the longest pause between two images of one database, in milliseconds.
pub(super) const PAUSE_MS: (u64, u64) = (2000, 60_000);
/// How long an image that nobody needs here any more is kept for a peer who has asked for it, in milliseconds.
const KEPT_MS: u64 = 60_000;

/// The images on this machine.
#[derive(Default)]
pub(super) struct Databases {
    /// What is in staging, and when it is to go.
    images: BTreeMap<ContentHash, Option<u64>>,
    /// When images were made last, and how long to wait for the next.
    paces: BTreeMap<Spot, (u64, u64)>,
}

impl Databases {
    /// Where the image that is a content lies.
    pub(super) fn image(&self, hash: ContentHash) -> Option<Source> {
        self.images.contains_key(&hash).then(|| Source::Kept(image_name(hash)))
    }

    /// The contents that there are images of.
    pub(super) fn images(&self) -> BTreeSet<ContentHash> {
        self.images.keys().copied().collect()
    }

    /// The moment before which a spot is not worth another image.
    pub(super) fn not_before(&self, spot: &Spot) -> u64 {
        self.paces.get(spot).map_or(0, |(last, pause)| last + pause)
    }

    /// When the next image is to go.
    pub(super) fn drop_at(&self) -> Option<u64> {
        self.images.values().flatten().min().copied()
    }

    /// Files hold these contents themselves: what there is of images of them is not needed.
    pub(super) fn are_plain(&mut self, hashes: &[ContentHash], now_ms: u64) {
        for hash in hashes {
            if let Some(drop_at) = self.images.get_mut(hash) {
                drop_at.get_or_insert(now_ms + KEPT_MS);
            }
        }
    }
}

impl<S: Store> Engine<S> {
    /// Takes note of the images that an earlier run has left. Nothing else tells of one that was made before the run ended,
    /// and that the index does not know to be needless, or not to be needed yet.
    pub(super) fn find_images<D: Disk>(&mut self, disk: &mut D, now_ms: u64) -> StoreResult<()> {
        for hash in disk.images().unwrap_or_default() {
            if self.databases.images.contains_key(&hash) {
                continue;
            }
            let is_needed = self.is_not_whole(disk, hash)?;
            self.databases.images.insert(hash, (!is_needed).then_some(now_ms + KEPT_MS));
        }
        self.let_images_go(now_ms)
    }

    /// Whether a file whose content this is may not hold it itself: it has a log, or was being written.
    fn is_not_whole<D: Disk>(&self, disk: &mut D, hash: ContentHash) -> StoreResult<bool> {
        for base in self.state.store.base_holding(hash)? {
            let path = base_path(&self.state.store, &base)?;
            if base.stat.is_unsure() || has_log(disk, &path).unwrap_or(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes note of images that were made, and of those that changes have made needless.
    pub(super) fn pace_images(&mut self, imaged: &[Imaged], changes: u64, now_ms: u64) -> StoreResult<()> {
        for Imaged { spot, hash, .. } in imaged {
            self.databases.images.insert(*hash, None);
            let (last, pause) = self.databases.paces.get(spot).copied().unwrap_or((0, 0));
            let goes_on = now_ms < last.saturating_add(3 * pause);
            let pause = if goes_on { 2 * pause } else { PAUSE_MS.0 };
            self.databases.paces.insert(spot.clone(), (now_ms, pause.min(PAUSE_MS.1)));
        }
        if changes > 0 || !imaged.is_empty() { self.let_images_go(now_ms) } else { Ok(()) }
    }

    /// Images that are the content of nothing here are to go.
    pub(super) fn let_images_go(&mut self, now_ms: u64) -> StoreResult<()> {
        for (hash, drop_at) in &mut self.databases.images {
            if drop_at.is_none() && self.state.store.base_holding(*hash)?.is_empty() {
                *drop_at = Some(now_ms + KEPT_MS);
            }
        }
        Ok(())
    }

    /// Lets go of the images whose time has come.
    pub(super) fn drop_images(&mut self, now_ms: u64) {
        let due = self.databases.images.extract_if(.., |_, drop_at| drop_at.is_some_and(|at| at <= now_ms));
        self.unwanted.extend(due.map(|(hash, _)| image_name(hash)));
        self.databases.paces.retain(|_, (last, _)| *last + 4 * PAUSE_MS.1 > now_ms);
    }
}
