//! Ranges in flight: many at a time, handed on in order, over the borders of files.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use spotreel_s3::{GetRangeError, Store};
use tokio_util::task::AbortOnDropHandle;

use crate::pull::PullOptions;
use crate::{PackFile, PullError, Remote};

/// Above the tries of the store and the SDK, which pass within seconds: a bucket that is overrun needs longer.
const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// A part of one file.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Which of the files that were asked for.
    pub file: usize,
    pub range: Range<u64>,
    pub last: bool,
}

/// Each file from its offset to its end, in pieces; at least one, which may be empty.
pub(crate) fn pieces(files: &[(PackFile, u64)], range_bytes: u64) -> Vec<Piece> {
    let mut all = Vec::new();
    for (at, (file, from)) in files.iter().enumerate() {
        let mut start = *from;
        loop {
            let end = file.bytes.min(start + range_bytes);
            let last = end == file.bytes;
            all.push(Piece {
                file: at,
                range: start..end,
                last,
            });
            if last {
                break;
            }
            start = end;
        }
    }
    all
}

/// The pieces in order, with no more than `options.window` of them in memory or under way.
pub(crate) fn fetch<'a>(
    remote: &'a Remote,
    files: &'a [(PackFile, u64)],
    options: &PullOptions,
) -> impl Stream<Item = (Piece, Result<Bytes, PullError>)> + use<'a> {
    let range_bytes = options.range_bytes.max(1);
    let (pieces, buffers) = (pieces(files, range_bytes), Buffers::new(range_bytes));
    let ask = move |piece: Piece| {
        let file = &files[piece.file].0;
        let (store, key, path) = (
            remote.store.clone(),
            remote.blob(&file.sha256),
            file.path.clone(),
        );
        let (range, buffers) = (piece.range.clone(), buffers.clone());
        // A task each, so that bodies are read also while the disk is waited for.
        let task = tokio::spawn(async move {
            let mut buffer = buffers.take();
            let got = get(&store, &key, range, &mut buffer).await;
            got.map(|()| buffers.give_back(buffer))
        });
        let task = AbortOnDropHandle::new(task);
        async move {
            let got = match task.await {
                Ok(got) => got.map_err(|source| PullError::Get { path, source }),
                Err(error) => Err(PullError::Task(error)),
            };
            (piece, got)
        }
    };
    stream::iter(pieces)
        .map(ask)
        .buffered(options.window.max(1))
}

async fn get(
    store: &Store,
    key: &str,
    range: Range<u64>,
    bytes: &mut BytesMut,
) -> Result<(), GetRangeError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match store.get_range(key, range.clone(), bytes).await {
            Err(error) if error.retryable() => {
                tracing::debug!(key, ?range, %error, "download of a range failed; retrying");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            got => return got,
        }
    }
    store.get_range(key, range, bytes).await
}

/// Memory for ranges, used again and again: fresh memory would cost as much as what is read into it.
#[derive(Clone)]
struct Buffers {
    range_bytes: usize,
    all: Arc<Mutex<Vec<BytesMut>>>,
}

impl Buffers {
    fn new(range_bytes: u64) -> Self {
        Self {
            range_bytes: usize::try_from(range_bytes).unwrap_or(usize::MAX),
            all: Arc::default(),
        }
    }

    /// One whose bytes nobody holds any more, or a new one: as many as there are ranges at a time.
    fn take(&self) -> BytesMut {
        let mut all = self.all.lock();
        let free = all
            .iter_mut()
            .position(|buffer| buffer.try_reclaim(self.range_bytes));
        match free {
            Some(at) => all.swap_remove(at),
            None => BytesMut::with_capacity(self.range_bytes),
        }
    }

    /// What was read into it; the buffer is free when the last clone of that is gone.
    fn give_back(&self, mut buffer: BytesMut) -> Bytes {
        let bytes = buffer.split().freeze();
        let mut all = self.all.lock();
        all.push(buffer);
        bytes
    }
}
