//! The embedded broker as a process of its own, which can be killed and comes back under its address.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::Process;

/// A port that is free now.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Starts it, and waits until it listens.
pub fn start(folder: &Path, address: SocketAddr) -> Process {
    let data = folder.join("broker").display().to_string();
    let one = [("NODESCOPE_KAFKA_PARTITIONS".to_owned(), "1".to_owned())];
    let mut process = Process::start(folder, &["broker", "--data", &data, "--address", &address.to_string()], &one);
    process.says("the broker listens on");
    process
}
