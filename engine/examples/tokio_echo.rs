//! An echo server under tokio: `tokio_echo [ADDR]`. Without an address it serves a client of its own, once, and ends.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use udp_plus::{Engine, Message, Outgoing, Preset};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let bind = address.as_deref().unwrap_or("127.0.0.1:0");
    let server = Arc::new(Engine::builder().preset(Preset::Small).bind(bind).start()?);
    println!("listening {} on {}", server.local_addr(), server.driver().kind);
    let echo = tokio::spawn(serve(Arc::clone(&server)));
    if address.is_none() {
        let client = Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").start()?;
        client.put_message("127.0.0.1", server.local_addr().port(), "anyone there?").await?;
        let answer = client.get_message().await?;
        println!("{}: {:?}", answer.sender(), answer.text());
        server.shutdown(Duration::from_secs(5)).await;
    }
    echo.await?;
    Ok(())
}

/// Until the engine stops; every answer is a task of its own, so a slow peer holds up nobody.
async fn serve(server: Arc<Engine>) {
    while let Ok(message) = server.get_message().await {
        tokio::spawn(answer(Arc::clone(&server), message));
    }
}

async fn answer(server: Arc<Engine>, message: Message) {
    let to = message.sender();
    let outcome = match server.send_bucket().put(Outgoing::to(to, message.into_payload())).await {
        Ok(delivery) => delivery.await.map(drop).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = outcome {
        eprintln!("{to}: {error}");
    }
}
