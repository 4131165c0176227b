//! Finds the programs under test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Returns the path of `syncd`, `hearth` or `relay-server`: in `HEARTH_BIN_DIR`, else beside the running program,
/// as cargo lays them out.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("HEARTH_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => beside_us()?,
    };
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is not built; `cargo build --workspace` makes it", path.display());
    path.canonicalize().with_context(|| format!("resolving {}", path.display()))
}

fn beside_us() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("finding the running program")?;
    let folder = exe.parent().context("the running program lies in a folder")?;
    // Test programs are one folder deeper than the others.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(Path::new(folder).to_path_buf())
}
