//! What was written to some disks, in order, with the flushes in between; and what of it a power cut leaves.
//!
//! A disk may keep back what it was given until it is flushed. So a cut leaves everything from before the last flush,
//! and of what came after it any part, in whole sectors.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hearth_tests::sim::chance::Chance;

const HEADER: usize = 24;
const WRITE: u8 = 1;
const FLUSH: u8 = 2;

/// One thing that a disk was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) disk: u8,
    /// Where it stands in the record.
    pub(crate) begins: u64,
    /// Where it ends there: it was obeyed once the record is that long.
    pub(crate) ends: u64,
    /// Where it goes on the disk, and how many bytes; `None` for a flush.
    pub(crate) write: Option<(u64, u64)>,
}

/// Adds a write to a record.
pub(crate) fn note_write(record: &mut impl Write, disk: u8, offset: u64, data: &[u8]) -> io::Result<()> {
    record.write_all(&header(WRITE, disk, offset, data.len() as u64))?;
    record.write_all(data)
}

/// Adds a flush.
pub(crate) fn note_flush(record: &mut impl Write, disk: u8) -> io::Result<()> {
    record.write_all(&header(FLUSH, disk, 0, 0))
}

fn header(kind: u8, disk: u8, offset: u64, length: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = kind;
    header[1] = disk;
    header[8..16].copy_from_slice(&offset.to_le_bytes());
    header[16..].copy_from_slice(&length.to_le_bytes());
    header
}

/// A record, as far as it was read.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    pub(crate) orders: Vec<Order>,
}

impl Record {
    /// Reads what is in a record up to a length.
    pub(crate) fn read(path: &Path, length: u64) -> Result<Self> {
        let file = File::open(path).context("opening a record")?;
        let (mut orders, mut at) = (Vec::new(), 0);
        while at < length {
            let mut header = [0; HEADER];
            file.read_exact_at(&mut header, at).context("reading a record")?;
            let word = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("eight bytes"));
            let (offset, bytes) = (word(8), word(16));
            ensure!(matches!(header[0], WRITE | FLUSH), "the record is damaged at {at}");
            let ends = at + HEADER as u64 + bytes;
            let write = (header[0] == WRITE).then_some((offset, bytes));
            orders.push(Order { disk: header[1], begins: at, ends, write });
            at = ends;
        }
        Ok(Self { file, orders })
    }

    /// Carries a write out, as a whole.
    pub(crate) fn redo(&self, order: &Order, image: &File) -> Result<()> {
        let Some((offset, bytes)) = order.write else { return Ok(()) };
        image.write_all_at(&self.data(order, bytes)?, offset).context("writing again")
    }

    /// Carries out some sectors of a write.
    fn redo_in_part(&self, order: &Order, image: &File, sector: usize, chance: &mut Chance) -> Result<()> {
        let Some((offset, bytes)) = order.write else { return Ok(()) };
        let mut at = offset;
        for piece in self.data(order, bytes)?.chunks(sector) {
            if chance.percent(50) {
                image.write_all_at(piece, at).context("writing in part")?;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn data(&self, order: &Order, bytes: u64) -> Result<Vec<u8>> {
        let mut data = vec![0; usize::try_from(bytes)?];
        self.file.read_exact_at(&mut data, order.ends - bytes).context("reading a write")?;
        Ok(data)
    }
}

/// How much of what was not flushed is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Nothing.
    Flushed,
    /// Every write with this chance in a hundred, and half of those in part.
    Some(usize),
    /// Everything, as when the machine was merely reset.
    All,
}

/// One disk as it was flushed, further and further on.
#[derive(Debug)]
pub(crate) struct Flushed {
    pub(crate) disk: u8,
    image: File,
    /// Orders before this one are in the image.
    upto: usize,
}

impl Flushed {
    /// Begins with an image from before all orders.
    pub(crate) fn begin(disk: u8, image: &Path) -> Result<Self> {
        let image = File::options().read(true).write(true).open(image).context("opening an image")?;
        Ok(Self { disk, image, upto: 0 })
    }

    /// Goes on to the last flush at or before a length of the record.
    pub(crate) fn advance(&mut self, record: &Record, length: u64) -> Result<()> {
        let before = record.orders.partition_point(|order| order.ends <= length);
        let ours = |order: &&Order| order.disk == self.disk;
        let flush = record.orders[..before].iter().rposition(|order| ours(&order) && order.write.is_none());
        let upto = flush.map_or(0, |at| at + 1).max(self.upto);
        for order in record.orders[self.upto..upto].iter().filter(ours) {
            record.redo(order, &self.image)?;
        }
        self.upto = upto;
        Ok(())
    }

    /// Adds to a copy of this image what a cut at that length leaves of the rest. Returns how many writes there were.
    pub(crate) fn leave(
        &self,
        record: &Record,
        length: u64,
        image: &Path,
        leaving: Leaving,
        sector: usize,
        chance: &mut Chance,
    ) -> Result<usize> {
        let image = File::options().write(true).open(image).context("opening a copy")?;
        let before = record.orders.partition_point(|order| order.ends <= length);
        let rest = record.orders[self.upto..before.max(self.upto)].iter();
        let rest: Vec<&Order> = rest.filter(|order| order.disk == self.disk && order.write.is_some()).collect();
        for order in &rest {
            match leaving {
                Leaving::Flushed => {}
                Leaving::All => record.redo(order, &image)?,
                Leaving::Some(percent) if !chance.percent(percent) => {}
                Leaving::Some(_) if chance.percent(50) => record.redo(order, &image)?,
                Leaving::Some(_) => record.redo_in_part(order, &image, sector, chance)?,
            }
        }
        Ok(rest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Disk 0 gets `a` and a flush, then `b` and `c`; disk 1 gets `z` in between.
    fn record(folder: &Path) -> Record {
        let path = folder.join("record");
        let mut bytes = Vec::new();
        note_write(&mut bytes, 0, 0, b"aaaa").expect("in memory");
        note_flush(&mut bytes, 0).expect("in memory");
        note_write(&mut bytes, 1, 0, b"zzzz").expect("in memory");
        note_write(&mut bytes, 0, 4, b"bbbb").expect("in memory");
        note_write(&mut bytes, 0, 8, b"cccc").expect("in memory");
        std::fs::write(&path, &bytes).expect("written");
        Record::read(&path, bytes.len() as u64).expect("read")
    }

    fn left(leaving: Leaving, orders: usize) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let record = record(folder.path());
        let [base, copy] = ["base", "copy"].map(|name| folder.path().join(name));
        std::fs::write(&base, [b'.'; 12]).expect("written");
        let length = record.orders[orders - 1].ends;
        let mut flushed = Flushed::begin(0, &base).expect("opened");
        flushed.advance(&record, length).expect("advanced");
        std::fs::copy(&base, &copy).expect("copied");
        flushed.leave(&record, length, &copy, leaving, 2, &mut Chance::new(3)).expect("left");
        std::fs::read(&copy).expect("read")
    }

    #[test]
    fn what_was_flushed_stays_and_nothing_from_after_the_cut_is_there() {
        assert_eq!(left(Leaving::Flushed, 1), b"............");
        assert_eq!(left(Leaving::Flushed, 5), b"aaaa........");
        assert_eq!(left(Leaving::All, 4), b"aaaabbbb....");
        assert_eq!(left(Leaving::All, 5), b"aaaabbbbcccc");
    }

    #[test]
    fn a_write_can_be_left_in_part_by_whole_sectors() {
        let torn = left(Leaving::Some(100), 5);
        assert!(torn.starts_with(b"aaaa"));
        let sectors: Vec<&[u8]> = torn[4..].chunks(2).collect();
        let possible = sectors.iter().all(|sector| [b"bb", b"cc", b".."].iter().any(|known| sector == known));
        assert!(possible, "{torn:?}");
    }
}
