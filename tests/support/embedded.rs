//! The embedded broker as a process of its own, which can be killed and comes back under its address.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::Process;

/// A port that is free now, and below those the system gives to clients: a client that tries again and again to reach
/// a broker that is gone may be given the broker's own port, and then finds itself.
pub fn free_port() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_000..30_000)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Starts it, and waits until it listens.
pub fn start(folder: &Path, address: SocketAddr) -> Process {
    let data = folder.join("broker").display().to_string();
    let one = [("NODESCOPE_KAFKA_PARTITIONS".to_owned(), "1".to_owned())];
    let mut process = Process::start(folder, &["broker", "--data", &data, "--address", &address.to_string()], &one);
    process.says("the broker listens on");
    process
}
