//! The installed schemas, read with GIO and handed to the core as plain data.

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
    Schemas::new(found)
}

fn plain(schema: &SettingsSchema) -> Schema {
    let keys = schema.list_keys().into_iter().map(|name| {
        let key = schema.key(&name);
        let info = KeyInfo {
            kind: key.value_type().as_str().to_owned(),
            domain: domain(&key.range()),
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
