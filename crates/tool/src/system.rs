//! The clock, the random source and the files of the tool's machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use apikeys_core::clock::UnixMillis;
use zeroize::Zeroizing;

/// The largest file accepted as a key or a password.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The time by this machine's clock.
#[allow(
    clippy::disallowed_methods,
    reason = "the tool is a shell: it reads the clock here and hands the instant on"
)]
pub(crate) fn now() -> Result<UnixMillis> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("this machine's clock stands before 1970: set it")?;
    Ok(UnixMillis(
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
    ))
}

/// Fills the bytes from the system's cryptographic random source.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).context("the system's random source gave nothing")
}

/// 128 random bits in hexadecimal, for values that must not repeat.
pub(crate) fn random_name() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fill_random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads a secret, which only its owner may be able to read; `None` if there is no such file.
pub(crate) fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>> {
    let shown = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    let metadata = file
        .metadata()
        .with_context(|| format!("cannot read {shown}"))?;
    ensure!(metadata.is_file(), "{shown} is not a file");
    let mode = metadata.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{shown} can be read or written by others (mode {mode:03o}), so what is in it may no \
         longer be secret. If nobody else had access to it: chmod 600 {shown}. Otherwise make a \
         new one"
    );
    read_text(file)
        .with_context(|| format!("cannot read {shown}"))
        .map(Some)
}

/// Reads a short text, without a check of its file's permissions.
pub(crate) fn read_text(source: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    source.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Creates a file that only its owner can read; fails if the file exists.
pub(crate) fn create_private(path: &Path) -> Result<File> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} is there already; it is not overwritten", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
}

/// Writes a whole file made by [`create_private`]. On failure removes it, since half a secret
/// would pass for a whole one.
pub(crate) fn write_private(mut file: File, path: &Path, text: &str) -> Result<()> {
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(path);
        return Err(error).with_context(|| format!("cannot write {}", path.display()));
    }
    Ok(())
}

/// Whether text written there is lost: if a process starts with a closed output, the runtime
/// opens /dev/null in its place.
pub(crate) fn is_null_device(output: BorrowedFd<'_>) -> io::Result<bool> {
    let output = File::from(output.try_clone_to_owned()?).metadata()?;
    let is_null =
        |null: fs::Metadata| output.file_type().is_char_device() && output.rdev() == null.rdev();
    Ok(fs::metadata("/dev/null").is_ok_and(is_null))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("apikeys-{}", random_name().unwrap()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_private_file_is_readable_by_its_owner_alone_and_never_overwritten() {
        let folder = Folder::new();
        let path = folder.0.join("secret");
        assert!(read_private(&path).unwrap().is_none());
        write_private(create_private(&path).unwrap(), &path, "text").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(read_private(&path).unwrap().unwrap().as_str(), "text");
        assert!(create_private(&path).is_err());
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_what_to_do() {
        let folder = Folder::new();
        let path = folder.0.join("secret");
        write_private(create_private(&path).unwrap(), &path, "text").unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err().to_string();
            assert!(
                error.contains("chmod 600") && !error.contains("text"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_null_device_is_told_from_what_keeps_a_text() {
        let null = File::options().write(true).open("/dev/null").unwrap();
        assert!(is_null_device(null.as_fd()).unwrap());
        let folder = Folder::new();
        let file = create_private(&folder.0.join("kept")).unwrap();
        assert!(!is_null_device(file.as_fd()).unwrap());
        let (_reader, writer) = io::pipe().unwrap();
        assert!(!is_null_device(writer.as_fd()).unwrap());
        let zero = File::open("/dev/zero").unwrap();
        assert!(!is_null_device(zero.as_fd()).unwrap());
    }
}
