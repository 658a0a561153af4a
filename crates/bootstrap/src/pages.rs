//! What a program shows on its HTTP listener beside health and metrics: JSON for people and dashboards.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

type PageFn = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync>;

/// The pages of one program, by path. Clones share them.
#[derive(Clone, Default)]
pub struct Pages {
    pages: Arc<Mutex<BTreeMap<&'static str, PageFn>>>,
}

impl Pages {
    /// Answers `GET path` with what `page` makes at that moment. The listener is open already: before this, the path
    /// is not found.
    pub fn add<F, R>(&self, path: &'static str, page: F)
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Value> + Send + 'static,
    {
        let page: PageFn = Arc::new(move || Box::pin(page()));
        let mut pages = self.pages.lock();
        pages.insert(path, page);
    }

    pub(crate) fn find(&self, path: &str) -> Option<PageFn> {
        let pages = self.pages.lock();
        pages.get(path).cloned()
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}
