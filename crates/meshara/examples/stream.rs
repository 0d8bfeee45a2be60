//! A stream between two nodes: alice sends back whatever bob writes. `cargo run -p meshara --example stream`

mod common;

use meshara::{Node, Stream};

/// Both applications must name the same protocol.
const PROTOCOL: &str = "echo/1";
/// What bob sends: enough to fill every window on the way.
const SIZE: usize = 8 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result<()> {
    let dir = tempfile::tempdir()?;
    let (alice, bob) = common::pair(dir.path()).await?;
    let to = alice.member().node_id;

    let (served, used) = tokio::join!(serve(&alice), use_echo(&bob, to));
    served?;
    used?;

    bob.shutdown().await;
    alice.shutdown().await;
    Ok(())
}

/// Serves one stream. A real server would spawn a task for each.
async fn serve(node: &Node) -> common::Result<()> {
    let Some(mut stream) = node.accept_stream().await else { return Ok(()) };
    println!("alice: {} opened {}", stream.peer.name, stream.protocol);
    assert_eq!(stream.protocol, PROTOCOL);
    let bytes = tokio::io::copy(&mut stream.receive, &mut stream.send).await?;
    stream.send.finish()?;
    println!("alice: sent {bytes} bytes back");
    // Until the peer has all of it; dropped earlier, the stream would be reset.
    let _ = stream.send.stopped().await;
    Ok(())
}

async fn use_echo(node: &Node, to: meshara::NodeId) -> common::Result<()> {
    let Stream { mut send, mut receive, .. } = node.open_stream(to, PROTOCOL).await?;
    let data: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    let write = async {
        send.write_all(&data).await?;
        send.finish()?;
        common::Result::Ok(())
    };
    let (written, back) = tokio::join!(write, receive.read_to_end(SIZE));
    written?;
    let back = back?;
    println!("bob: got {} bytes back", back.len());
    assert!(back == data, "the bytes differ");
    Ok(())
}
