//! Reliable messages: bob sends three, alice reads them. `cargo run -p meshara --example messages`

mod common;

use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> common::Result<()> {
    let dir = tempfile::tempdir()?;
    let (alice, bob) = common::pair(dir.path()).await?;
    let to = alice.member().node_id;

    let texts = ["one", "two", "three"];
    for text in texts {
        // Returns when alice has it on disk. After a timeout it would stay queued and be delivered later.
        let receipt = bob.send(to, text, Duration::from_secs(10)).await?;
        println!("bob: alice stored {} after {:?}", receipt.id, receipt.after);
    }

    let messages = alice.receive().await?;
    for message in &messages {
        println!("alice: {:?} from {}", message.body, message.from.short());
    }
    assert!(messages.iter().map(|message| &message.body[..]).eq(texts.map(str::as_bytes)));
    assert!(alice.receive().await?.is_empty(), "reading consumes");

    bob.shutdown().await;
    alice.shutdown().await;
    Ok(())
}
