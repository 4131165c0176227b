//! The installed schemas, read with GIO and handed to the core as plain data.
//!
//! GIO accepts old names of enumerated values and does not list them; they are read from the compiled file itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gio::{SettingsSchema, SettingsSchemaSource};
use syncd_core::settings::schema::{Domain, KeyInfo, Schema, Schemas};
use syncd_core::settings::value::from_variant;

use super::places::Places;

/// What tells one set of compiled schemas from the next: each file and when it was changed.
pub(super) type Stamp = BTreeMap<PathBuf, SystemTime>;

/// The compiled schemas that are there.
pub(super) fn stamp(places: &Places) -> Stamp {
    let changed = |dir: &Path| {
        let file = dir.join("gschemas.compiled");
        let time = std::fs::metadata(&file).and_then(|meta| meta.modified()).ok()?;
        Some((file, time))
    };
    let own = places.extensions.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten());
    let own = own.filter_map(Result::ok).map(|entry| entry.path().join("schemas"));
    places.schemas.iter().cloned().chain(own).filter_map(|dir| changed(&dir)).collect()
}

/// Reads all schemas; takes milliseconds and blocks.
///
/// A directory that GIO cannot read is left out: its programs cannot read their settings either.
pub(super) fn read(places: &Places) -> Schemas {
    let mut found = BTreeMap::new();
    let mut source: Option<SettingsSchemaSource> = None;
    let mut sources = Vec::new();
    // Weakest first: each one looks for the parents of its schemas in those before it.
    for dir in places.schemas.iter().rev() {
        if let Ok(next) = SettingsSchemaSource::from_directory(dir, source.as_ref(), false) {
            sources.push(next.clone());
            source = Some(next);
        }
    }
    for file in stamp(places).keys() {
        let Some(dir) = file.parent().filter(|dir| !places.schemas.iter().any(|known| known == dir)) else { continue };
        if let Ok(extension) = SettingsSchemaSource::from_directory(dir, source.as_ref(), false) {
            sources.insert(0, extension);
        }
    }
    for source in sources {
        let (fixed, relocatable) = source.list_schemas(false);
        for id in fixed.iter().chain(&relocatable) {
            if let Some(schema) = source.lookup(id, false) {
                found.insert(id.to_string(), plain(&schema));
            }
        }
    }
    for file in stamp(places).keys() {
        add_aliases(file, &mut found);
    }
    Schemas::new(found)
}

/// Adds the old names that a compiled file tells, for keys that have them and have none yet.
fn add_aliases(file: &Path, found: &mut BTreeMap<String, Schema>) {
    let Ok(file) = gvdb::read::File::from_file(file) else { return };
    let Ok(table) = file.hash_table() else { return };
    for (id, schema) in found {
        let Ok(keys) = table.get_hash_table(id) else { continue };
        for (name, info) in schema.keys.iter_mut().filter(|(_, info)| matches!(info.domain, Domain::Choice(_))) {
            if info.aliases.is_empty()
                && let Some(stored) = keys.get_gvariant(name).ok().and_then(|boxed| boxed.as_variant())
            {
                info.aliases = aliases(&stored);
            }
        }
    }
}

/// The old names in a key as it is compiled: its default, then pairs of a letter and what the letter stands for.
fn aliases(stored: &glib::Variant) -> BTreeMap<String, String> {
    let pairs = (1..stored.n_children()).map(|index| stored.child_value(index));
    let words = pairs.into_iter().filter(|pair| pair.n_children() == 2).find_map(|pair| {
        let letter = pair.child_value(0).get::<u8>()?;
        matches!(letter, b'e' | b'c').then(|| pair.child_value(1).get::<Vec<u32>>()).flatten()
    });
    aliases_in(&words.unwrap_or_default()).unwrap_or_default()
}

/// Old names and what took their place, from GLib's table of texts.
///
/// Each text stands on whole words: a number, then 0xff for a name or 0xfe for an old one, the text, zeros, and 0xff
/// as the last byte. The number of an old name is the place, in words, of the name that replaces it.
fn aliases_in(words: &[u32]) -> Option<BTreeMap<String, String>> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let text_at = |word: usize| -> Option<(u8, &str)> {
        let (&mark, rest) = bytes.get(4 * word.checked_add(1)?..)?.split_first()?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        Some((mark, std::str::from_utf8(&rest[..end]).ok()?))
    };
    let mut aliases = BTreeMap::new();
    let mut at = 0;
    while at < words.len() {
        let (mark, text) = text_at(at)?;
        if mark == 0xfe {
            let (_, name) = text_at(usize::try_from(u32::from_le(words[at])).ok()?)?;
            aliases.insert(text.to_owned(), name.to_owned());
        }
        // The number, then mark, text, zero and last byte, filled up to whole words.
        at += 1 + (text.len() + 3).div_ceil(4);
    }
    Some(aliases)
}

fn plain(schema: &SettingsSchema) -> Schema {
    let keys = schema.list_keys().into_iter().map(|name| {
        let key = schema.key(&name);
        let info = KeyInfo {
            kind: key.value_type().as_str().to_owned(),
            domain: domain(&key.range()),
            aliases: BTreeMap::new(),
            default: from_variant(&key.default_value()),
        };
        (name.to_string(), info)
    });
    Schema { path: schema.path().map(String::from), keys: keys.collect() }
}

/// What GIO says of a key's values: `(kind, <detail>)`.
fn domain(range: &glib::Variant) -> Domain {
    let Some((kind, detail)) = range.get::<(String, glib::Variant)>() else { return Domain::Any };
    let words = || detail.get::<Vec<String>>().unwrap_or_default().into_iter().collect::<BTreeSet<_>>();
    match kind.as_str() {
        "enum" => Domain::Choice(words()),
        "flags" => Domain::Flags(words()),
        "range" if detail.n_children() == 2 => {
            Domain::Range(from_variant(&detail.child_value(0)), from_variant(&detail.child_value(1)))
        }
        _ => Domain::Any,
    }
}
