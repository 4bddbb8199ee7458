//! Being asked to stop: Ctrl-C, or SIGTERM from whoever runs the service.

use tokio::signal::unix::{SignalKind, signal};

/// Waits until the process is asked to stop.
pub async fn asked() {
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be waited for");
            let _ = interrupted.await;
        }
    }
}
