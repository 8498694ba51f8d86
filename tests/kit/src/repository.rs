//! Paths of the project's files.

use std::path::{Path, PathBuf};

/// The project's folder.
pub fn root() -> &'static Path {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    kit.ancestors().nth(2).unwrap()
}

/// A new folder for a test's files, beside the build's.
pub fn scratch(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    // A test's program is in the folder `deps` of its profile, the bench's is beside that folder.
    let mut folders = program.ancestors().skip(1);
    let target = folders.find(|folder| !folder.ends_with("deps")).unwrap();
    let folder = target.parent().unwrap().join("tmp").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A file or a folder of the project.
pub fn path(relative: impl AsRef<Path>) -> PathBuf {
    root().join(relative)
}

/// The text of a file of the project.
pub fn read(relative: &str) -> String {
    let path = path(relative);
    std::fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}
