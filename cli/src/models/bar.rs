//! Bars on a terminal; nothing elsewhere.

use std::pin::pin;

use indicatif::{ProgressBar, ProgressStyle};
use spotreel_packs::Progress;
use tokio::sync::watch;

const BYTES: &str = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
const ENDLESS: &str = "{bytes} read, {bytes_per_sec}";

pub fn bytes(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    bar.set_style(style(BYTES));
    bar
}

pub fn endless() -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_style(style(ENDLESS));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants")
}

/// A bar that follows `progress` until `work` ends.
pub async fn beside<T>(
    what: &str,
    mut progress: watch::Receiver<Progress>,
    work: impl Future<Output = T>,
) -> T {
    let bar = bytes(what, 0);
    let mut work = pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Ok(()) = progress.changed() => {
                let now = progress.borrow_and_update();
                bar.set_length(now.bytes_total);
                bar.set_position(now.bytes_done);
            }
        }
    };
    bar.finish_and_clear();
    done
}
