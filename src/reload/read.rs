//! Reading the file, whatever lies under its name.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::config::{ReadFiles, SecretSource, Secrets};
use crate::tls;

/// No table of routes is as large as this.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a file has no text.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It is missing, a dangling link, or not ours to read.
    #[error("cannot read the file: {0}")]
    Io(io::Error),
    /// It is a directory, a fifo, a device.
    #[error("this is not a regular file")]
    NotAFile,
    /// It is larger than 4 MiB.
    #[error("the file is larger than 4 MiB")]
    TooLarge,
    /// Its bytes are no text.
    #[error("the file is not UTF-8: a wrong byte at offset {0}")]
    NotUtf8(usize),
}

/// Reads a text file. Never waits for a fifo's other end.
///
/// # Errors
///
/// There is no text to be had.
pub fn read(path: &Path) -> Result<String, ReadError> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(ReadError::Io)?;
    if !file.metadata().map_err(ReadError::Io)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(ReadError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| ReadError::NotUtf8(error.utf8_error().valid_up_to()))
}

/// The SHA-256 of a text, in hex.
pub fn digest(text: &str) -> String {
    format!("{:x}", Sha256::digest(text.as_bytes()))
}

/// What a configuration was read from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The SHA-256 of its text, in hex.
    pub digest: String,
    /// The files that it names.
    pub files: ReadFiles,
}

/// Secrets from the environment and from files, which are relative to the configuration.
#[derive(Debug)]
pub struct FileSecrets {
    folder: PathBuf,
}

impl FileSecrets {
    /// For a configuration at this path.
    pub fn beside(path: &Path) -> Self {
        Self { folder: path.parent().unwrap_or(Path::new("")).to_owned() }
    }
}

impl Secrets for FileSecrets {
    fn read(&self, source: &SecretSource) -> Result<String, String> {
        let text = match source {
            SecretSource::Env(name) => std::env::var(name).map_err(|_| "it is not set".to_owned())?,
            SecretSource::File(path) => read(&self.folder.join(path)).map_err(|error| error.to_string())?,
        };
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn find_folder(&self, path: &str) -> Result<(), String> {
        match fs::metadata(self.folder.join(path)) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err("it is no folder".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err("it does not exist".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn find_authorities(&self) -> Result<(), String> {
        tls::find_authorities()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_no_file_gives_an_error_and_never_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("directory")).unwrap();
        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        symlink(path("nowhere"), path("dangling")).unwrap();
        fs::write(path("bytes"), [b'a', 0xff]).unwrap();
        fs::write(path("huge"), vec![b' '; 5 << 20]).unwrap();
        fs::write(path("good"), "version = 1\n").unwrap();
        let cases = [
            ("directory", "this is not a regular file"),
            ("fifo", "this is not a regular file"),
            ("dangling", "cannot read the file: No such file or directory (os error 2)"),
            ("bytes", "the file is not UTF-8: a wrong byte at offset 1"),
            ("huge", "the file is larger than 4 MiB"),
        ];
        for (name, error) in cases {
            assert_eq!(read(&path(name)).unwrap_err().to_string(), error, "{name}");
        }
        assert_eq!(read(&path("good")).unwrap(), "version = 1\n");
    }

    #[test]
    fn folders_are_looked_for_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("public")).unwrap();
        symlink("public", path("link")).unwrap();
        fs::write(path("routes.toml"), "").unwrap();
        let secrets = FileSecrets::beside(&path("routes.toml"));
        let absolute = path("public").display().to_string();
        let cases = [
            ("public", Ok(())),
            ("link", Ok(())),
            (".", Ok(())),
            (absolute.as_str(), Ok(())),
            ("missing", Err("it does not exist")),
            ("routes.toml", Err("it is no folder")),
            ("routes.toml/public", Err("Not a directory (os error 20)")),
        ];
        for (name, found) in cases {
            assert_eq!(secrets.find_folder(name), found.map_err(str::to_owned), "{name}");
        }
    }
}
