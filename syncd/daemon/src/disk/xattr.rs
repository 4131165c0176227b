//! Extended attributes of the `user` namespace, by an open file, or by a path through a descriptor in `/proc`.
//!
//! `security`, `system` and `trusted` belong to the machine and stay. Linux holds a name and its value in 255 and
//! 65,536 bytes (xattr(7)); what is more in all than a row can carry is left out when reading, and left alone when
//! setting.

use std::io;
use std::os::fd::AsFd;

use hearth_schemas::item::{MAX_XATTRS, USER_XATTR, Xattrs};
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The extended attributes at a path. `None` where the file system keeps none.
pub(super) fn read(path: &str) -> io::Result<Option<Xattrs>> {
    gather(list(path), |name, into| rustix::fs::getxattr(path, name, spare_capacity(into)))
}

/// Those of a file that is open for reading.
pub(super) fn read_open(file: &impl AsFd) -> io::Result<Option<Xattrs>> {
    let names = grow(|into| rustix::fs::flistxattr(file, spare_capacity(into))).map(|names| ours(&names));
    gather(names, |name, into| rustix::fs::fgetxattr(file, name, spare_capacity(into)))
}

fn gather(
    names: Result<Vec<Vec<u8>>, Errno>,
    get: impl Fn(&[u8], &mut Vec<u8>) -> Result<usize, Errno>,
) -> io::Result<Option<Xattrs>> {
    let names = match names {
        Err(Errno::OPNOTSUPP) => return Ok(None),
        names => names?,
    };
    let mut xattrs = Xattrs::new();
    let mut bytes = 0;
    for name in names {
        let value = match grow(|into| get(&name, into)) {
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            value => value?,
        };
        bytes += name.len() + value.len();
        if bytes > MAX_XATTRS {
            break;
        }
        xattrs.insert(name, value);
    }
    Ok(Some(xattrs))
}

/// Makes the extended attributes at a path these. A file system that keeps none is left at that.
pub(super) fn write(path: &str, wanted: &Xattrs) -> io::Result<()> {
    let names = match list(path) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        names => names?,
    };
    let found = read(path)?.unwrap_or_default();
    for name in names.iter().filter(|name| found.contains_key(*name) && !wanted.contains_key(*name)) {
        match rustix::fs::removexattr(path, name.as_slice()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (name, value) in wanted.iter().filter(|(name, value)| found.get(*name) != Some(value)) {
        match rustix::fs::setxattr(path, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The names at a path, in order.
fn list(path: &str) -> Result<Vec<Vec<u8>>, Errno> {
    grow(|into| rustix::fs::listxattr(path, spare_capacity(into))).map(|names| ours(&names))
}

/// The names that travel, of a list as the system gives it, in order.
fn ours(names: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = names
        .split(|&byte| byte == 0)
        .filter(|name| name.len() > USER_XATTR.len() && name.starts_with(USER_XATTR))
        .map(<[u8]>::to_vec)
        .collect();
    names.sort();
    names
}

/// What a call gives that wants to know beforehand how much that will be.
fn grow(mut call: impl FnMut(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    for room in [256, 4 << 10, 64 << 10, 1 << 20] {
        let mut bytes = Vec::with_capacity(room);
        match call(&mut bytes) {
            Ok(_) => return Ok(bytes),
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::TOOBIG)
}
