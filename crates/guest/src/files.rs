//! Serves the guest's files, and connections from inside the guest.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use faultline_guest::{
    link::Substream,
    wire::{FileStat, Reply},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::respond;

fn absolute(path: &str) -> io::Result<&Path> {
    let path = Path::new(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path must be absolute",
        ))
    }
}

/// Returns a file's metadata.
pub fn stat(path: &str) -> io::Result<Option<FileStat>> {
    match fs::metadata(absolute(path)?) {
        Ok(meta) => Ok(Some(FileStat {
            kind: if meta.is_file() {
                "file"
            } else if meta.is_dir() {
                "directory"
            } else {
                "other"
            }
            .to_owned(),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size(),
        })),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Sends the first bytes of a regular file. Pipes and devices are refused, because they could block forever.
pub async fn read(mut stream: Substream, path: &str, max: u64) -> io::Result<()> {
    let opened = absolute(path).and_then(|path| {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ))
        }
    });
    match opened {
        Ok(file) => {
            respond(&mut stream, Ok(Reply::Done)).await?;
            let mut file = tokio::fs::File::from_std(file).take(max);
            tokio::io::copy(&mut file, &mut stream).await?;
            stream.shutdown().await
        }
        Err(e) => respond(&mut stream, Err(e)).await,
    }
}

/// Receives a file's bytes until the host closes its side, then replaces the file atomically.
pub async fn write(mut stream: Substream, path: &str, mode: u32) -> io::Result<()> {
    let prepared = absolute(path).and_then(|path| {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        let name = path
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_string_lossy();
        let draft = folder.join(format!(".{name}.faultline"));
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        Ok((draft, path.to_owned(), file))
    });
    let (draft, path, file) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => return respond(&mut stream, Err(e)).await,
    };
    respond(&mut stream, Ok(Reply::Done)).await?;
    let mut file = tokio::fs::File::from_std(file);
    let written = async {
        tokio::io::copy(&mut stream, &mut file).await?;
        file.flush().await?;
        fs::set_permissions(&draft, Permissions::from_mode(mode & 0o7777))?;
        fs::rename(&draft, &path)
    };
    let result = written.await;
    if result.is_err() {
        let _ = fs::remove_file(&draft);
    }
    respond(&mut stream, result.map(|()| Reply::Done)).await?;
    stream.shutdown().await
}

/// Connects from inside the guest and forwards the bytes.
pub async fn forward(mut stream: Substream, host: &str, port: u16) -> io::Result<()> {
    match TcpStream::connect((host, port)).await {
        Ok(mut tcp) => {
            respond(&mut stream, Ok(Reply::Done)).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut tcp)
                .await
                .map(|_| ())
        }
        Err(e) => respond(&mut stream, Err(e)).await,
    }
}
