//! Puts what the core knows into the JSON shapes of the bus (docs/protocol.md).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use data_encoding::BASE64;
use hearth_schemas::paths::Paths;
use jiff::Timestamp;
use serde_json::{Value, json};
use syncd_core::store::{Kept, Problem};

use crate::bus::Failure;

/// Sets `key` to a path; one that is not UTF-8 has `KEY_b64` beside it.
pub fn put_path(object: &mut Value, key: &str, path: &[u8]) {
    object[key] = String::from_utf8_lossy(path).into_owned().into();
    if std::str::from_utf8(path).is_err() {
        object[format!("{key}_b64")] = BASE64.encode(path).into();
    }
}

/// A time in milliseconds since 1970, as RFC 3339 in UTC.
pub fn time(ms: u64) -> Value {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or(Value::Null, |time| time.to_string().into())
}

/// A problem of a path.
pub fn problem(problem: &Problem) -> Value {
    let mut out = json!({ "what": problem.what, "hint": problem.hint, "path": Value::Null });
    if !problem.path.is_empty() {
        put_path(&mut out, "path", &problem.path);
    }
    if let Some(ms) = problem.copied_ms {
        out["last_copy"] = time(ms);
    }
    out
}

/// A displaced content.
pub fn kept(kept: &Kept, size: u64, blake3: &str) -> Value {
    let mut out = json!({
        "version": kept.name,
        "time": time(kept.time_ms),
        "device": kept.device,
        "size": size,
        "blake3": blake3,
        "cause": kept.cause,
    });
    put_path(&mut out, "path", &kept.path);
    out
}

/// The path below the home, as the core names it.
pub fn below_home(paths: &Paths, path: &Path) -> Result<Vec<u8>, Failure> {
    match path.strip_prefix(&paths.home) {
        Ok(rest) => Ok(rest.as_os_str().as_bytes().to_vec()),
        Err(_) => Err(Failure::usage(
            format!("{} is not in the home directory", path.display()),
            "Hearth looks after the home directory alone",
        )),
    }
}

/// A path of the core, below the home.
pub fn in_home(paths: &Paths, path: &[u8]) -> std::path::PathBuf {
    if path.is_empty() { paths.home.clone() } else { paths.home.join(OsStr::from_bytes(path)) }
}
