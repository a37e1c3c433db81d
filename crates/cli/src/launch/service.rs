//! What every long-running process of Stoa has: bound sockets, metrics, and a way to be stopped.

use crate::data::DataDir;
use crate::measures;
use crate::process::Failure;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Binds a TCP address; `option` says how to choose another.
pub async fn listen(address: SocketAddr, what: &str, option: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        let place = if address.ip() == Ipv4Addr::LOCALHOST {
            format!("port {}", address.port())
        } else {
            format!("address {address}")
        };
        format!("{place} for {what} cannot be used: {error}; choose another with {option}").into()
    })
}

/// An address on loopback.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Ends when it is told to stop, or when nobody could tell it any more.
pub async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Ends when the data folder no longer stands where it was; says so.
pub async fn gone(data: &DataDir) -> Failure {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while data.is_there() {
        ticks.tick().await;
    }
    format!(
        "the data folder {} was deleted or replaced while it was in use, and what was promised is no longer kept: it stopped",
        data.path("").display()
    )
    .into()
}

/// Serves Prometheus metrics of this process.
pub fn serve_metrics(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let recorder = measures::install()?;
    let page = recorder.clone();
    let app = axum::Router::new().route(
        "/metrics",
        axum::routing::get(move || std::future::ready(page.render())),
    );
    tokio::spawn(async move {
        let mut upkeep = tokio::time::interval(Duration::from_secs(5));
        loop {
            upkeep.tick().await;
            recorder.run_upkeep();
        }
    });
    tokio::spawn(async move {
        axum::serve(listener, app)
            .with_graceful_shutdown(shutdown)
            .await
    });
    Ok(())
}
