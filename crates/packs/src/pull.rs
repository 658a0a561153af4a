//! A pack from the bucket onto this disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::statvfs;
use spotreel_domain::model::Model;
use spotreel_s3::GetRangeError;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use crate::landing::Landing;
use crate::lock::Lock;
use crate::marker::{Marker, replace};
use crate::plan::{Found, Siblings, find};
use crate::progress::Teller;
use crate::{INDEX, Pack, PackError, PackFile, Progress, Published, Remote, RemoteError, window};

/// Where new versions gather while the old one is in use.
const INCOMING: &str = ".incoming";
/// Of a pack's hash in a directory's name.
const SHORT_HASH: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullOptions {
    /// Ranges in flight or waiting for their turn. S3 gives some 90 MB/s a connection: 16 fill a line of 10 Gbit/s.
    pub window: usize,
    /// Of one range. All of the window together are the memory that a pull takes.
    pub range_bytes: u64,
    /// Room on the disk that is left alone.
    pub keep_free: u64,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            window: 16,
            range_bytes: 8 << 20,
            keep_free: 0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(
        "{} has {free} bytes free, but the pack needs {needed} more: free some space or use another directory", dir.display()
    )]
    NoRoom {
        dir: PathBuf,
        needed: u64,
        free: u64,
    },
    #[error("{path} could not be downloaded")]
    Get { path: String, source: GetRangeError },
    #[error("an internal task of the pull panicked")]
    Task(#[from] JoinError),
}

impl PullError {
    /// As of [`PackError`], and `no_room`, `unreachable`, `internal`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Remote(error) => error.code(),
            Self::Pack(error) => error.code(),
            Self::NoRoom { .. } => "no_room",
            Self::Get { source, .. } => match source {
                GetRangeError::Missing { .. } => "missing_file",
                GetRangeError::Short { .. } => "truncated",
                _ => "unreachable",
            },
            Self::Task(_) => "internal",
        }
    }

    /// Whether the same pull may succeed soon; it goes on where this one ended.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Remote(error) => error.retryable(),
            Self::Get { source, .. } => source.retryable(),
            Self::Pack(_) | Self::NoRoom { .. } | Self::Task(_) => false,
        }
    }
}

/// Where the files land, and what is known of them.
struct Site {
    /// `dir` is the staging directory if there is one.
    pack: Pack,
    /// Where the pack will lie; none: the files land there at once.
    home: Option<PathBuf>,
    marker: Marker,
    lock: Lock,
}

impl Remote {
    /// Brings the model's current pack to `packs/<model>`, whole and verified. What is there already stays; what another
    /// pack in `packs` has is linked; a pull that was ended, by whatever, is gone on with. A second one waits.
    ///
    /// A first pull fills the directory in load order, so that an engine can begin early ([`Progress::loadable`]). A new
    /// version gathers apart and then takes the old one's place at once: who has the old files open goes on reading them.
    pub async fn pull(
        &self,
        model: Model,
        packs: &Path,
        options: &PullOptions,
        progress: watch::Sender<Progress>,
    ) -> Result<Arc<Pack>, PullError> {
        let lock = Lock::take(packs).await?;
        let Published { pack, text } = self.current(model, &packs.join(model.as_str())).await?;
        let pack = Arc::new(pack);
        let teller = Teller(progress);
        teller.begins(&pack);
        let site = Site::prepare(packs, &pack, &text, lock)?;
        let survey = {
            let (packs, teller) = (packs.to_owned(), teller.clone());
            spawn_blocking(move || site.survey(&packs, &teller))
        };
        let (mut site, mut wanted) = survey.await??;
        check_room(packs, &wanted, options.keep_free)?;
        // A hash may be wrong because of what an earlier pull left: once more, from the start.
        wanted = self.fetch(&mut site, wanted, options, &teller).await?;
        wanted = self.fetch(&mut site, wanted, options, &teller).await?;
        if let Some((file, _)) = wanted.first() {
            let path = site.pack.path(file);
            return Err(PackError::Sha256Mismatch { path }.into());
        }
        site.move_in()?;
        teller.ends();
        Ok(pack)
    }

    /// Ranges as they come, into one file after the other; the flush of one goes on while the next arrives. Returns those
    /// whose hash was wrong, to be fetched from the start.
    async fn fetch(
        &self,
        site: &mut Site,
        wanted: Vec<(PackFile, u64)>,
        options: &PullOptions,
        teller: &Teller,
    ) -> Result<Vec<(PackFile, u64)>, PullError> {
        let mut wrong = Vec::new();
        let mut settling = JoinSet::new();
        let mut pieces = pin!(window::fetch(self, &wanted, options));
        let mut open = None;
        let landed = loop {
            let (piece, got) = tokio::select! {
                // At once: somebody may wait for this very file.
                Some(settled) = settling.join_next() => {
                    site.settle(settled?, teller, &mut wrong)?;
                    continue;
                }
                piece = pieces.next() => match piece {
                    Some(piece) => piece,
                    None => break Ok(()),
                },
            };
            let (file, part) = &wanted[piece.file];
            let bytes = match got {
                Ok(bytes) => bytes,
                Err(error) => break Err(error),
            };
            let count = bytes.len() as u64;
            let landing =
                open.get_or_insert_with(|| Landing::begin(&site.pack, file, *part, &site.lock));
            let taken = landing.take(bytes).await;
            if taken {
                teller.got(count);
            }
            if (piece.last || !taken)
                && let Some(landing) = open.take()
            {
                let file = file.clone();
                settling.spawn(async move { (file.clone(), landing.finish(file).await) });
            }
            if !taken {
                break Ok(()); // the disk's error comes from `finish`
            }
        };
        // Also after an error: what has come whole stays.
        while let Some(settled) = settling.join_next().await {
            site.settle(settled?, teller, &mut wrong)?;
        }
        landed.map(|()| wrong)
    }
}

impl Site {
    fn prepare(packs: &Path, pack: &Pack, text: &[u8], lock: Lock) -> Result<Self, PackError> {
        let incoming = packs.join(INCOMING);
        let model = pack.index.model;
        let name = format!("{model}-{}", &pack.sha256[..SHORT_HASH]);
        let another = Pack::open(&pack.dir).is_ok_and(|old| old.sha256 != pack.sha256);
        sweep(&incoming, &format!("{model}-"), another.then_some(&name))?;
        let home = another.then(|| pack.dir.clone());
        let dir = match another {
            true => incoming.join(name),
            false => pack.dir.clone(),
        };
        let pack = Pack {
            dir,
            ..pack.clone()
        };
        fs::create_dir_all(&pack.dir).map_err(PackError::unwritable(&pack.dir))?;
        replace(&pack.dir.join(INDEX), text)?;
        Ok(Self {
            marker: Marker::of(&pack),
            pack,
            home,
            lock,
        })
    }

    /// What is to be fetched, and from which byte on. Blocks.
    fn survey(
        mut self,
        packs: &Path,
        teller: &Teller,
    ) -> Result<(Self, Vec<(PackFile, u64)>), PackError> {
        let siblings = Siblings::of(packs, &self.pack);
        let mut wanted = Vec::new();
        for file in self.pack.index.load_order() {
            match find(&self.pack, file, &self.marker, &siblings)? {
                Found::Whole => {
                    self.marker.note(&self.pack, file)?;
                    teller.got(file.bytes);
                    self.tell_whole(file, teller);
                }
                Found::Part(bytes) => {
                    teller.got(bytes);
                    wanted.push((file.clone(), bytes));
                }
            }
        }
        self.marker.save(&self.pack)?;
        Ok((self, wanted))
    }

    fn settle(
        &mut self,
        (file, settled): (PackFile, Result<(), PackError>),
        teller: &Teller,
        wrong: &mut Vec<(PackFile, u64)>,
    ) -> Result<(), PackError> {
        match settled {
            Ok(()) => self.keep(&file, teller)?,
            Err(PackError::Sha256Mismatch { path }) => {
                tracing::warn!(path = %path.display(), "downloaded file has a wrong hash; retrying");
                teller.lost(file.bytes);
                wrong.push((file, 0));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn keep(&mut self, file: &PackFile, teller: &Teller) -> Result<(), PackError> {
        self.marker.note(&self.pack, file)?;
        self.marker.save(&self.pack)?;
        self.tell_whole(file, teller);
        Ok(())
    }

    fn tell_whole(&self, file: &PackFile, teller: &Teller) {
        if self.home.is_none() {
            teller.whole(file);
        }
    }

    /// The new version in the place of the old one, in one step.
    fn move_in(self) -> Result<(), PackError> {
        let Some(home) = &self.home else {
            return Ok(());
        };
        let staging = self.pack.dir.as_path();
        let flags = RenameFlags::RENAME_EXCHANGE;
        let swapped = renameat2(AT_FDCWD, staging, AT_FDCWD, home.as_path(), flags);
        swapped
            .map_err(io::Error::from)
            .map_err(PackError::unwritable(home))?;
        // The old one by now.
        fs::remove_dir_all(staging).map_err(PackError::unwritable(staging))
    }
}

/// Removes what pulls of other versions left behind, or a kill before the old version was removed.
fn sweep(incoming: &Path, prefix: &str, but: Option<&String>) -> Result<(), PackError> {
    let Ok(entries) = fs::read_dir(incoming) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && but.is_none_or(|but| name != *but) {
            fs::remove_dir_all(entry.path()).map_err(PackError::unwritable(entry.path()))?;
        }
    }
    Ok(())
}

fn check_room(packs: &Path, wanted: &[(PackFile, u64)], keep_free: u64) -> Result<(), PullError> {
    let needed = wanted.iter().map(|(file, part)| file.bytes - part).sum();
    let found = statvfs(packs).map_err(io::Error::from);
    let found = found.map_err(PackError::unreadable(packs))?;
    let free = found.blocks_available() * found.fragment_size();
    let free = free.saturating_sub(keep_free);
    match needed > free {
        true => Err(PullError::NoRoom {
            dir: packs.to_owned(),
            needed,
            free,
        }),
        false => Ok(()),
    }
}
