//! A TCP service over the mesh: alice offers a local one, bob connects to it through a local port, and both watch what happens.
//! `cargo run -p meshara --example service`

mod common;

use meshara::api::{ConnectEvent, ConnectRequest, Control};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result<()> {
    let dir = tempfile::tempdir()?;
    let (alice, bob) = common::pair(dir.path()).await?;

    // Some TCP server on alice's machine: it greets whoever connects and ends.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = listener.local_addr()?.to_string();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await?;
        tcp.write_all(b"welcome to alice").await?;
        tcp.shutdown().await
    });
    let service = alice.control().serve_add("greeting".to_owned(), target).await?;
    println!("alice: offers {} at {}", service.name, service.tcp);

    // The listener lives as long as `events` does.
    let request =
        ConnectRequest { node: "alice".into(), service: "greeting".into(), listen: "127.0.0.1:0".into() };
    let mut events = bob.control().connect(request).await?;
    let Some(Ok(ConnectEvent::Listening(listening))) = events.recv().await else {
        return Err("the listener did not start".into());
    };
    println!("bob: alice/greeting is at {}", listening.listen);

    let mut tcp = TcpStream::connect(&listening.listen).await?;
    let mut text = String::new();
    tcp.read_to_string(&mut text).await?;
    drop(tcp);
    println!("bob: read {text:?}");
    assert_eq!(text, "welcome to alice");
    server.await??;

    while let Some(event) = events.recv().await {
        match event? {
            ConnectEvent::Opened(connection) => {
                println!("bob: carried a connection of {}", connection.client)
            }
            ConnectEvent::Closed(connection) => {
                println!("bob: it ended after {} bytes", connection.rx_bytes);
                break;
            }
            other => return Err(format!("unexpected: {other:?}").into()),
        }
    }

    bob.shutdown().await;
    alice.shutdown().await;
    Ok(())
}
