//! Brings together a text file that was changed on two sides, by what its format means.
//!
//! ```text
//! path → format (which formats it may have) ┐
//! base, ours, theirs → text (UTF-8, size)   ┴→ lines | keyfile | json | toml | set → bytes, or nothing
//! ```
//!
//! A pure function of the path and the three contents: swapping the sides changes nothing, so two machines that merge the
//! same pair agree. It takes what only one side changed, and gives nothing where the two clash, where the format is not
//! one that it understands, or where anything would be lost that neither side removed: then both contents are to be kept.
//! Which files are merged at all is said in [`format`]. Whether a merge is asked for, and where the base comes from, is
//! the caller's business. Work is bounded by [`MAX_BYTES`], a number of lines and a depth, never by a clock.

mod diff3;
mod format;
mod json;
mod keyed;
mod keyfile;
mod ledger;
mod lines;
mod outline;
mod set;
mod sides;
#[cfg(test)]
mod tests;
mod text;
mod toml;

use crate::git;

use format::Format;
pub use sides::Sides;
pub use text::MAX_BYTES;
use text::Text;

/// Why a format gives no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The two sides changed the same thing, or something would be lost.
    Clash,
    /// One of the contents is not of this format; another format may do.
    Foreign,
}

/// Merges two changed contents of the file at `path`, below the home, by the content that both were edited from.
///
/// `None`: they cannot be merged, and both are to be kept. Where only one side changed there is nothing to merge, and
/// that side is the result whatever the file is.
pub fn merge(path: &[u8], base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    if let Some(changed) = (Sides { base, x: ours, y: theirs }).pick() {
        return Some(changed.to_vec());
    }
    // The order of the two decides every tie from here on, so it may not depend on which machine asks.
    let (x, y) = if ours < theirs { (ours, theirs) } else { (theirs, ours) };
    let sides = Sides { base, x, y };
    if let Some(format) = git::refs::format_of(path) {
        return git::refs::merge(format, sides).filter(|merged| merged.len() <= MAX_BYTES);
    }
    let formats = format::of(path);
    if formats.is_empty() {
        return None;
    }
    let sides = sides.try_map(Text::read)?;
    if !text::alike(&sides) {
        return None;
    }
    for format in formats {
        match by_format(*format, &sides) {
            Ok(merged) => return (merged.len() <= MAX_BYTES).then(|| merged.into_bytes()),
            Err(Refusal::Clash) => return None,
            Err(Refusal::Foreign) => {}
        }
    }
    None
}

/// Whether two changes of a file of this path and size may be mergeable, so that its base is worth keeping.
pub fn may_merge(path: &[u8], size: u64) -> bool {
    size <= MAX_BYTES as u64 && (git::refs::format_of(path).is_some() || !format::of(path).is_empty())
}

fn by_format(format: Format, sides: &Sides<Text<'_>>) -> Result<String, Refusal> {
    match format {
        Format::Lines => lines::merge(sides),
        Format::Keyfile => keyfile::merge(sides),
        Format::Json => json::merge(sides),
        Format::Toml => toml::merge(sides),
        Format::Set(kind) => set::merge(kind, sides),
    }
}
