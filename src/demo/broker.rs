//! An MQTT broker inside this process: rumqttd on a free loopback port.

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Starts it and returns its address; it ends with the process.
pub(super) async fn start() -> io::Result<SocketAddr> {
    let listen = free_port()?;
    let mut broker = Broker::new(config(listen));
    std::thread::Builder::new().name("broker".into()).spawn(move || {
        if let Err(error) = broker.start() {
            tracing::error!(%error, "the embedded broker ended");
        }
    })?;
    for _ in 0..100 {
        if TcpStream::connect(listen).is_ok() {
            return Ok(listen);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the embedded broker does not answer"))
}

/// rumqttd does not say which port it got, so one is chosen for it.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings { name: "demo".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    let router = RouterConfig {
        max_connections: 64,
        max_outgoing_packet_count: 200,
        max_segment_size: 10 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    Config { router, v5: Some(HashMap::from([("demo".into(), server)])), ..Config::default() }
}
