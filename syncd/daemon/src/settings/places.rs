//! Where dconf and the schemas are on this machine: profile, database, locks, schema directories.
//!
//! Reads the environment that it is given and the profile that dconf itself would read, in the same order. The
//! first line of the profile names the database that a person writes; the others are the administrator's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The database file of the user's layer.
    pub database: PathBuf,
    /// The object that writes to it.
    pub writer: String,
    /// Databases of the administrator, strongest first.
    pub system: Vec<PathBuf>,
    /// Directories with compiled schemas, strongest first.
    pub schemas: Vec<PathBuf>,
    /// Directories of shell extensions; each may bring schemas of its own.
    pub extensions: Vec<PathBuf>,
}

impl Places {
    /// Resolves everything from an environment, and from the profile that it leads to.
    ///
    /// `None` if there is nothing to sync: no home, or a profile that names no database that can be written.
    pub fn resolve(var: impl Fn(&str) -> Option<OsString>, uid: u32) -> Option<Self> {
        let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME")?;
        let config = absolute("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let data = absolute("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
        let runtime = absolute("XDG_RUNTIME_DIR");
        let list = |name: &str, fallback: &str| {
            let text = var(name).filter(|text| !text.is_empty()).unwrap_or_else(|| OsString::from(fallback));
            std::env::split_paths(&text).filter(|path| path.is_absolute()).collect::<Vec<PathBuf>>()
        };
        let data_dirs = list("XDG_DATA_DIRS", "/usr/local/share:/usr/share");
        let profile = read_profile(&var, uid, runtime.as_deref(), &data_dirs)?;
        let lines: Vec<&str> = profile.lines().map(line).filter(|line| !line.is_empty()).collect();
        let (database, writer) = match lines.first()?.split_once(':')? {
            ("user-db", name) if is_name(name) => {
                (config.join("dconf").join(name), format!("/ca/desrt/dconf/Writer/{name}"))
            }
            ("service-db", name) if name.split('/').all(is_name) => {
                (runtime?.join("dconf-service").join(name), format!("/ca/desrt/dconf/{name}"))
            }
            _ => return None,
        };
        let system = lines[1..].iter().filter_map(|line| match line.split_once(':')? {
            ("system-db", name) if is_name(name) => Some(Path::new("/etc/dconf/db").join(name)),
            ("file-db", path) => Some(PathBuf::from(path)),
            _ => None,
        });
        let mut schemas = list("GSETTINGS_SCHEMA_DIR", "");
        let all_data = || std::iter::once(&data).chain(&data_dirs);
        schemas.extend(all_data().map(|dir| dir.join("glib-2.0/schemas")));
        let extensions = all_data().map(|dir| dir.join("gnome-shell/extensions")).collect();
        Some(Self { database, writer, system: system.collect(), schemas, extensions })
    }

    /// The paths that the administrator locks.
    pub fn locks(&self) -> BTreeSet<String> {
        let mut locks = BTreeSet::new();
        for path in &self.system {
            // A database that is missing or broken locks nothing, for dconf as for us.
            let Ok(file) = gvdb::read::File::from_file(path) else { continue };
            let Ok(table) = file.hash_table() else { continue };
            let Ok(table) = table.get_hash_table(".locks") else { continue };
            locks.extend(table.keys().filter_map(Result::ok).map(|key| key.to_string()));
        }
        locks.retain(|lock| lock.starts_with('/'));
        locks
    }
}

fn read_profile(
    var: impl Fn(&str) -> Option<OsString>,
    uid: u32,
    runtime: Option<&Path>,
    data_dirs: &[PathBuf],
) -> Option<String> {
    const BUILT_IN: &str = "user-db:user";
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    if let Some(mandatory) = read(Path::new("/run/dconf/user").join(uid.to_string())) {
        return Some(mandatory);
    }
    let named = |name: &Path| match name.is_absolute() {
        true => read(name.to_owned()),
        false => read(Path::new("/etc/dconf/profile").join(name))
            .or_else(|| data_dirs.iter().find_map(|dir| read(dir.join("dconf/profile").join(name)))),
    };
    if let Some(name) = var("DCONF_PROFILE").filter(|name| !name.is_empty()) {
        // One that is named and cannot be read is an empty profile: nothing can be written.
        return named(Path::new(&name));
    }
    let session = runtime.and_then(|dir| read(dir.join("dconf/profile")));
    Some(session.or_else(|| named(Path::new("user"))).unwrap_or_else(|| BUILT_IN.to_owned()))
}

fn line(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(vars: &[(&str, &str)]) -> Option<Places> {
        let var = |name: &str| vars.iter().find(|var| var.0 == name).map(|var| OsString::from(var.1));
        Places::resolve(var, 1)
    }

    #[test]
    fn the_first_line_of_the_profile_names_the_database() {
        let dir = tempfile::tempdir().expect("a directory");
        let profile = dir.path().join("profile");
        let with = |text: &str| {
            std::fs::write(&profile, text).expect("written");
            let path = profile.to_str().expect("a text");
            places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("DCONF_PROFILE", path)])
        };
        let own = with("# ours\nuser-db:other # x\nsystem-db:site\nfile-db:/x/y\n").expect("places");
        assert_eq!(own.database, Path::new("/h/.config/dconf/other"));
        assert_eq!(own.writer, "/ca/desrt/dconf/Writer/other");
        assert_eq!(own.system, [Path::new("/etc/dconf/db/site"), Path::new("/x/y")]);
        let keyfile = with("service-db:keyfile/user\n").expect("places");
        assert_eq!(keyfile.database, Path::new("/r/dconf-service/keyfile/user"));
        assert_eq!(keyfile.writer, "/ca/desrt/dconf/keyfile/user");
        assert_eq!(with("system-db:site\n"), None);
        assert_eq!(with("user-db:../x\n"), None);
        assert_eq!(places(&[("HOME", "/h"), ("DCONF_PROFILE", "/no/such")]), None);
        assert_eq!(places(&[]), None);
    }
}
