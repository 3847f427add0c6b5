//! Writes every received message to a file, synced, before it is dropped: `tokio_uring_journal FILE [ADDR] [COUNT]`.
//!
//! The engine's shards and the disk do not wait for each other: the journal is a tokio-uring runtime on a thread of its
//! own, which takes whatever is in the receive bucket and writes it with one write and one sync.

use std::error::Error;
use std::io;
use udp_plus::{Engine, Message, Outgoing, Preset, RecvBucket};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let temporary = std::env::temp_dir().join(format!("journal-{}", std::process::id()));
    let path = arguments.next().unwrap_or_else(|| temporary.display().to_string());
    let bind = arguments.next();
    let count = arguments.next().map_or(Ok(if bind.is_some() { usize::MAX } else { 3 }), |n| n.parse())?;

    let engine = Engine::builder()
        .preset(Preset::Small)
        .bind(bind.clone().unwrap_or_else(|| "127.0.0.1:0".to_owned()))
        .start()?;
    println!("listening {}, writing {path}", engine.local_addr());
    let (bucket, file) = (engine.recv_bucket(), path.clone());
    let journal = std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || tokio_uring::start(write_journal(bucket, file, count)))?;
    if bind.is_none() {
        for text in ["one", "two", "three"] {
            engine.send_bucket().blocking_put(Outgoing::to(engine.local_addr(), text))?.wait()?;
        }
    }
    let written = journal.join().map_err(|_| "the journal panicked")??;
    println!("{written} messages written");
    if bind.is_none() {
        print!("{}", std::fs::read_to_string(&path)?);
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

async fn write_journal(bucket: RecvBucket, path: String, count: usize) -> io::Result<usize> {
    let file = tokio_uring::fs::File::create(path).await?;
    let (mut written, mut position) = (0, 0);
    let mut batch = Vec::new();
    while written < count
        && let Ok(first) = bucket.get().await
    {
        batch.push(first);
        bucket.get_batch(&mut batch);
        written += batch.len();
        let lines: Vec<u8> = batch.iter().flat_map(line).collect();
        let bytes = lines.len() as u64;
        file.write_all_at(lines, position).await.0?;
        file.sync_data().await?;
        position += bytes;
        // On disk: the application is done with them for good.
        batch.drain(..).for_each(Message::commit);
    }
    file.close().await?;
    Ok(written)
}

fn line(message: &Message) -> Vec<u8> {
    format!("{} {:?}\n", message.sender(), String::from_utf8_lossy(message.payload())).into_bytes()
}
