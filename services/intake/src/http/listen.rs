//! Connections: how many, how long for a header, how long for a reader that does not read.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use spotreel_bootstrap::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use crate::config::ApiConfig;

/// After an error of accept (out of files): long enough to not spin, short enough to not be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// More than the headers that browsers send, with a key in them; hyper answers 431 beyond it.
const LARGEST_HEADER: usize = 32 << 10;

/// Accepts until the program stops; requests under way are answered.
pub(super) async fn run(
    listener: TcpListener,
    router: Router,
    config: Arc<ApiConfig>,
    ctx: Context,
) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(config.connections));
    loop {
        let place = places.clone().acquire_owned();
        let Some(place) = ctx.stopping.run_until_cancelled(place).await else {
            return Ok(());
        };
        let Some(accepted) = ctx.stopping.run_until_cancelled(listener.accept()).await else {
            return Ok(());
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = serve(stream, router.clone(), config.clone(), ctx.clone());
                ctx.tasks.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router, config: Arc<ApiConfig>, ctx: Context) {
    let _ = stream.set_nodelay(true); // slower without it, not wrong
    let mut stream = TimeoutStream::new(stream);
    // Not for reading: a follower of events says nothing for hours.
    stream.set_write_timeout(Some(config.idle_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // It runs from the end of the answer before, so it is also how long an idle connection is kept.
        .header_read_timeout(config.keep_alive)
        .max_buf_size(LARGEST_HEADER)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );
    let mut connection = pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "connection failed");
                }
                return;
            }
            () = ctx.stopping.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
