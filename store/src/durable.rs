//! A local disk that keeps what it acknowledges.
//!
//! `object_store`'s own local file system never syncs: a PUT that it has answered can vanish with the power, and a
//! file may come back empty under its right name. Here a PUT is
//!
//! 1. written to a temporary file beside its place, and that file synced;
//! 2. linked to its name (creating; the link fails if the name is taken) or renamed onto it (replacing);
//! 3. acknowledged after the directory, and every directory made for it, has been synced.
//!
//! So a name always leads to the whole object, and an acknowledged name survives a power cut. The few things asked of
//! a disk are behind the trait [`Disk`], so that a test can put a disk beneath that forgets whatever was not synced.
//!
//! This store is for one machine's own disk. Several writers on one machine are fine; a network file system is only as
//! good as its `link` and `fsync`.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Files that are being written end in this, and are never listed.
const TEMPORARY: &str = ".partial";

/// What is known about a file.
#[derive(Debug, Clone, Copy)]
pub struct FileFacts {
    /// Length in bytes.
    pub length: u64,
    /// Last change.
    pub modified: DateTime<Utc>,
    /// Identity, for the entity tag: a file that was replaced has another.
    pub inode: u64,
}

/// What a directory holds.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A directory of that name.
    Directory(String),
    /// A file of that name.
    File(String, FileFacts),
}

/// The few things asked of a disk. All of them block.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes one directory; `Ok` if it was there. The name is not durable before the parent is synced.
    ///
    /// # Errors
    /// As the operating system says.
    fn make_directory(&self, directory: &FsPath) -> io::Result<()>;
    /// Whether the directory is there.
    fn is_directory(&self, directory: &FsPath) -> bool;
    /// Writes a new file and syncs its contents.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_and_sync(&self, file: &FsPath, parts: &[Bytes]) -> io::Result<()>;
    /// Gives the file a second name, unless that is taken.
    ///
    /// # Errors
    /// `AlreadyExists`, or as the operating system says.
    fn link(&self, from: &FsPath, to: &FsPath) -> io::Result<()>;
    /// Moves the file onto a name, taken or not.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &FsPath, to: &FsPath) -> io::Result<()>;
    /// Removes a name.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, file: &FsPath) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_directory(&self, directory: &FsPath) -> io::Result<()>;
    /// Length and age of a file.
    ///
    /// # Errors
    /// `NotFound`, or as the operating system says.
    fn facts(&self, file: &FsPath) -> io::Result<FileFacts>;
    /// Bytes of a file.
    ///
    /// # Errors
    /// `NotFound`, or as the operating system says.
    fn read(&self, file: &FsPath, range: Range<u64>) -> io::Result<Bytes>;
    /// What a directory holds; nothing if it is not there.
    ///
    /// # Errors
    /// As the operating system says.
    fn entries(&self, directory: &FsPath) -> io::Result<Vec<Entry>>;
}

/// The real disk.
#[derive(Debug, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn make_directory(&self, directory: &FsPath) -> io::Result<()> {
        match std::fs::create_dir(directory) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn is_directory(&self, directory: &FsPath) -> bool {
        directory.is_dir()
    }

    fn write_and_sync(&self, file: &FsPath, parts: &[Bytes]) -> io::Result<()> {
        use std::io::Write;
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).open(file)?;
        for part in parts {
            out.write_all(part)?;
        }
        out.sync_all()
    }

    fn link(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn rename(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, file: &FsPath) -> io::Result<()> {
        std::fs::remove_file(file)
    }

    fn sync_directory(&self, directory: &FsPath) -> io::Result<()> {
        std::fs::File::open(directory)?.sync_all()
    }

    fn facts(&self, file: &FsPath) -> io::Result<FileFacts> {
        facts(&std::fs::metadata(file)?)
    }

    fn read(&self, file: &FsPath, range: Range<u64>) -> io::Result<Bytes> {
        use std::os::unix::fs::FileExt;
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut buffer = BytesMut::zeroed(length);
        std::fs::File::open(file)?.read_exact_at(&mut buffer, range.start)?;
        Ok(buffer.freeze())
    }

    fn entries(&self, directory: &FsPath) -> io::Result<Vec<Entry>> {
        let listed = match std::fs::read_dir(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut entries = Vec::new();
        for entry in listed {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // A file may go between being listed and being looked at.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                entries.push(Entry::Directory(name));
            } else if !name.ends_with(TEMPORARY) {
                entries.push(Entry::File(name, facts(&metadata)?));
            }
        }
        Ok(entries)
    }
}

fn facts(metadata: &std::fs::Metadata) -> io::Result<FileFacts> {
    use std::os::unix::fs::MetadataExt;
    if metadata.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(FileFacts { length: metadata.len(), modified: metadata.modified()?.into(), inode: metadata.ino() })
}

/// An object store on a [`Disk`], below one directory.
#[derive(Debug, Clone)]
pub struct DurableStore {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl fmt::Display for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root.display())
    }
}

impl DurableStore {
    /// Opens the directory on the real disk, making it if need be, and clears away what a crash left half written.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        remove_temporaries(&root);
        Ok(Self::on(Arc::new(LocalDisk), root))
    }

    /// On a disk of one's choice. The root directory must exist.
    pub fn on(disk: Arc<dyn Disk>, root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), disk }
    }

    fn place(&self, location: &Path) -> PathBuf {
        let mut place = self.root.clone();
        place.extend(location.as_ref().split('/').filter(|part| !part.is_empty()));
        place
    }

    async fn blocking<T: Send + 'static>(
        &self,
        location: &Path,
        work: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || work(&*disk))
            .await
            .map_err(|source| Error::JoinError { source })?
            .map_err(|source| from_io(source, location))
    }
}

/// Removes files left by a process that died while writing. Only names of ours, and only ones older than a minute: a
/// process beside us may be writing now. They are never listed, so it is no matter when one cannot be removed: another
/// process has just done so, or this one may only read.
fn remove_temporaries(directory: &FsPath) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let is_old = metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() > 60));
        if metadata.is_dir() {
            remove_temporaries(&entry.path());
        } else if is_old && entry.file_name().to_string_lossy().ends_with(TEMPORARY) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Writes parts under a name so that an `Ok` survives a power cut.
fn put(disk: &dyn Disk, root: &FsPath, place: &FsPath, parts: &[Bytes], create: bool) -> io::Result<()> {
    let temporary = temporary_beside(place);
    let made = make_directories(disk, root, place)?;
    let named = disk
        .write_and_sync(&temporary, parts)
        .and_then(|()| if create { disk.link(&temporary, place) } else { disk.rename(&temporary, place) });
    if create || named.is_err() {
        // Nothing depends on this: a temporary file left behind is not listed, and cleared away later.
        let _ = disk.remove(&temporary);
    }
    named?;
    sync_names(disk, place, &made)
}

fn temporary_beside(place: &FsPath) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}{TEMPORARY}", uuid::Uuid::new_v4().simple()));
    place.with_file_name(name)
}

/// Makes the directories between root and place. Returns those whose names are new, the outermost first.
fn make_directories(disk: &dyn Disk, root: &FsPath, place: &FsPath) -> io::Result<Vec<PathBuf>> {
    let mut missing: Vec<PathBuf> = place
        .ancestors()
        .skip(1)
        .take_while(|a| *a != root && a.starts_with(root))
        .take_while(|a| !disk.is_directory(a))
        .map(FsPath::to_path_buf)
        .collect();
    missing.reverse();
    for directory in &missing {
        disk.make_directory(directory)?;
    }
    Ok(missing)
}

fn sync_names(disk: &dyn Disk, place: &FsPath, made: &[PathBuf]) -> io::Result<()> {
    if let Some(parent) = place.parent() {
        disk.sync_directory(parent)?;
    }
    for directory in made.iter().rev() {
        if let Some(parent) = directory.parent() {
            disk.sync_directory(parent)?;
        }
    }
    Ok(())
}

fn from_io(source: io::Error, location: &Path) -> Error {
    let path = location.to_string();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            Error::NotFound { path, source: source.into() }
        }
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: source.into() },
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: source.into() },
        _ => Error::Generic { store: "local disk", source: source.into() },
    }
}

fn meta(location: &Path, facts: FileFacts) -> ObjectMeta {
    let changed = facts.modified.timestamp_micros();
    ObjectMeta {
        location: location.clone(),
        last_modified: facts.modified,
        size: facts.length,
        e_tag: Some(format!("{:x}-{changed:x}-{:x}", facts.inode, facts.length)),
        version: None,
    }
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented { operation: "update".into(), implementer: "local disk".into() });
            }
        };
        let (root, place) = (self.root.clone(), self.place(location));
        let parts: Vec<Bytes> = payload.into_iter().collect();
        self.blocking(location, move |disk| put(disk, &root, &place, &parts, create)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload { store: self.clone(), location: location.clone(), parts: Vec::new() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let place = self.place(location);
        let known = self
            .blocking(location, {
                let place = place.clone();
                move |disk| disk.facts(&place)
            })
            .await?;
        let meta = meta(location, known);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|source| Error::Generic { store: "local disk", source: source.into() })?,
            None => 0..meta.size,
        };
        let bytes = if options.head {
            Bytes::new()
        } else {
            let range = range.clone();
            self.blocking(location, move |disk| disk.read(&place, range)).await?
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed()),
            meta,
            range,
            attributes: Attributes::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let place = store.place(&location);
                    store.blocking(&location, move |disk| disk.remove(&place)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.cloned().unwrap_or_default();
        stream::once(async move {
            let start = store.place(&prefix);
            let base = prefix.clone();
            let found = store
                .blocking(&prefix, move |disk| {
                    let mut found = Vec::new();
                    walk(disk, &start, &base, &mut found)?;
                    Ok(found)
                })
                .await?;
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let place = self.place(&prefix);
        let entries = self.blocking(&prefix, move |disk| disk.entries(&place)).await?;
        let mut result = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        for entry in entries {
            match entry {
                Entry::Directory(name) => result.common_prefixes.push(prefix.clone().join(name)),
                Entry::File(name, facts) => result.objects.push(meta(&prefix.clone().join(name), facts)),
            }
        }
        result.common_prefixes.sort();
        result.objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let create = matches!(options.mode, CopyMode::Create);
        let (root, source, place) = (self.root.clone(), self.place(from), self.place(to));
        self.blocking(from, move |disk| {
            let length = disk.facts(&source)?.length;
            let bytes = disk.read(&source, 0..length)?;
            put(disk, &root, &place, &[bytes], create)
        })
        .await
    }
}

fn walk(disk: &dyn Disk, directory: &FsPath, name: &Path, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
    let mut entries = disk.entries(directory)?;
    entries.sort_by(|a, b| entry_name(a).cmp(entry_name(b)));
    for entry in entries {
        match entry {
            Entry::Directory(child) => walk(disk, &directory.join(&child), &name.clone().join(child), found)?,
            Entry::File(child, facts) => found.push(meta(&name.clone().join(child), facts)),
        }
    }
    Ok(())
}

fn entry_name(entry: &Entry) -> &str {
    match entry {
        Entry::Directory(name) | Entry::File(name, _) => name,
    }
}

/// A file that arrives in parts. They are kept until it is complete: ours are at most some tens of megabytes.
#[derive(Debug)]
struct Upload {
    store: DurableStore,
    location: Path,
    parts: Vec<Bytes>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.extend(data);
        Box::pin(async { Ok(()) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let payload: PutPayload = std::mem::take(&mut self.parts).into_iter().collect();
        self.store.put_opts(&self.location, payload, PutOptions::default()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    fn create() -> PutOptions {
        PutOptions::from(PutMode::Create)
    }

    /// What every store of ours must do. The memory store, ours, and (by the same code) any other.
    async fn contract(store: &dyn ObjectStore) {
        let (a, b) = (Path::from("x/y/a"), Path::from("x/b"));
        assert!(matches!(store.get(&a).await, Err(Error::NotFound { .. })));
        assert!(store.list(None).collect::<Vec<_>>().await.is_empty());

        store.put_opts(&a, Bytes::from_static(b"first").into(), create()).await.unwrap();
        let taken = store.put_opts(&a, Bytes::from_static(b"second").into(), create()).await;
        assert!(matches!(taken, Err(Error::AlreadyExists { .. })), "{taken:?}");
        assert_eq!(store.get(&a).await.unwrap().bytes().await.unwrap(), "first");
        store.put(&a, Bytes::from_static(b"second").into()).await.unwrap();
        assert_eq!(store.get(&a).await.unwrap().bytes().await.unwrap(), "second");
        assert_eq!(store.get_range(&a, 1..3).await.unwrap(), "ec");
        assert_eq!(store.head(&a).await.unwrap().size, 6);

        let mut upload = store.put_multipart(&b).await.unwrap();
        upload.put_part(Bytes::from_static(b"one ").into()).await.unwrap();
        upload.put_part(Bytes::from_static(b"two").into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(store.get(&b).await.unwrap().bytes().await.unwrap(), "one two");

        let mut names: Vec<String> =
            store.list(Some(&Path::from("x"))).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
        names.sort();
        assert_eq!(names, ["x/b", "x/y/a"]);
        let shallow = store.list_with_delimiter(Some(&Path::from("x"))).await.unwrap();
        assert_eq!(shallow.common_prefixes, [Path::from("x/y")]);
        assert_eq!(shallow.objects.len(), 1);
        let after: Vec<_> =
            store.list_with_offset(Some(&Path::from("x")), &Path::from("x/b")).try_collect().await.unwrap();
        assert_eq!(after.len(), 1);

        store.copy(&b, &Path::from("c")).await.unwrap();
        assert!(matches!(store.copy_if_not_exists(&b, &a).await, Err(Error::AlreadyExists { .. })));
        store.delete(&b).await.unwrap();
        assert!(matches!(store.get(&b).await, Err(Error::NotFound { .. })));
        assert_eq!(store.get(&Path::from("c")).await.unwrap().bytes().await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn a_local_disk_keeps_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        contract(&DurableStore::open(directory.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        contract(&object_store::memory::InMemory::new()).await;
    }

    #[tokio::test]
    async fn a_disk_that_forgets_keeps_the_contract_while_the_power_is_on() {
        contract(&crate::faults::ForgetfulDisk::default().store()).await;
    }

    #[tokio::test]
    async fn what_was_acknowledged_survives_a_power_cut() {
        let disk = crate::faults::ForgetfulDisk::default();
        let store = disk.store();
        let place = Path::from("a/b/c/object");
        store.put_opts(&place, Bytes::from_static(b"kept").into(), create()).await.unwrap();
        disk.cut_power();
        assert_eq!(store.get(&place).await.unwrap().bytes().await.unwrap(), "kept");
    }

    #[test]
    fn what_was_not_synced_is_forgotten() {
        // The disk of the test above must be able to forget, or the test proves nothing.
        let forgetful = crate::faults::ForgetfulDisk::default();
        let disk: &dyn Disk = &forgetful;
        let root = FsPath::new("/");
        disk.make_directory(&root.join("d")).unwrap();
        disk.sync_directory(root).unwrap();
        disk.write_and_sync(&root.join("d/unnamed"), &[Bytes::from_static(b"x")]).unwrap();
        forgetful.cut_power();
        assert!(disk.is_directory(&root.join("d")));
        assert!(disk.facts(&root.join("d/unnamed")).is_err(), "its name was never synced");
    }
}
