//! The same scenario under tokio, tokio-uring and no runtime at all: the engine brings its own threads and needs none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use futures_lite::StreamExt;
use std::sync::Arc;
use support::{HANG, each_driver, mixed_text, skip, small};
use udp_plus::{DriverChoice, Engine, FailureCause, Message, Outgoing, PutError};

each_driver! {
    under_tokio,
    under_tokio_across_tasks,
    under_tokio_uring,
    under_block_on,
    across_runtimes,
}

/// Two engines talk: short, long, many at once, an error, a cancellation, the end.
async fn scenario(driver: DriverChoice) {
    let a = small(driver).start().unwrap();
    let b = small(driver).start().unwrap();
    let to = b.local_addr();
    for size in [5, 50_000] {
        let text = mixed_text(size, 1);
        let (sent, got) =
            futures_lite::future::zip(a.put_message("127.0.0.1", to.port(), text.clone()), b.get_message())
                .await;
        sent.unwrap();
        let message = got.unwrap();
        assert!(message.text() == Some(&text));
        b.put_message("localhost", message.sender().port(), "an answer").await.unwrap();
        assert_eq!(a.get_message().await.unwrap().text(), Some("an answer"));
    }
    let mut deliveries = Vec::new();
    for number in 0..200 {
        deliveries.push(a.send_bucket().put(Outgoing::to(to, number.to_string())).await.unwrap());
    }
    let numbers = b.recv_bucket().take(200).map(|message| message.text().unwrap().parse::<u32>().unwrap());
    let mut numbers: Vec<u32> = numbers.collect().await;
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..200));
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    let error = a.put_message("127.0.0.1", to.port(), &b"\xff"[..]).await.unwrap_err();
    assert!(matches!(error, PutError::Submit(_)));
    let silent = support::plain_socket();
    let delivery = a.send_bucket().put(Outgoing::to(silent.local_addr().unwrap(), "x")).await.unwrap();
    delivery.cancel();
    assert_eq!(delivery.await.unwrap_err().cause, FailureCause::Cancelled);
    a.shutdown(HANG).await;
    b.shutdown(HANG).await;
    assert!(b.get_message().await.is_err());
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

fn under_tokio(driver: DriverChoice) {
    // Spawned, so that its futures have to be `Send`.
    let runtime = tokio();
    let done = runtime.spawn(async move { tokio::time::timeout(HANG, scenario(driver)).await });
    runtime.block_on(done).unwrap().unwrap();
}

async fn echo(engine: Arc<Engine>) {
    while let Ok(message) = engine.get_message().await {
        // The client's own message is the word on whether the answer came.
        drop(engine.send_bucket().put(answer(message)).await.unwrap());
    }
}

fn answer(message: Message) -> Outgoing {
    Outgoing::to(message.sender(), message.into_payload())
}

fn under_tokio_across_tasks(driver: DriverChoice) {
    let work = async move {
        let server = Arc::new(small(driver).start().unwrap());
        let echoes: Vec<_> = (0..4).map(|_| tokio::spawn(echo(Arc::clone(&server)))).collect();
        let client = Arc::new(small(driver).start().unwrap());
        let port = server.local_addr().port();
        let calls: Vec<_> = (0..50)
            .map(|number| {
                let client = Arc::clone(&client);
                tokio::spawn(async move {
                    client.put_message("127.0.0.1", port, format!("{number}")).await.unwrap();
                    client.get_message().await.unwrap().text().unwrap().parse::<u32>().unwrap()
                })
            })
            .collect();
        let mut numbers = Vec::new();
        for call in calls {
            numbers.push(call.await.unwrap());
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..50));
        server.shutdown(HANG).await;
        for echo in echoes {
            echo.await.unwrap();
        }
    };
    tokio().block_on(async { tokio::time::timeout(HANG, work).await }).unwrap();
}

fn under_tokio_uring(driver: DriverChoice) {
    if !support::usable(DriverChoice::Uring) {
        return skip("tokio-uring needs io_uring");
    }
    tokio_uring::start(scenario(driver));
}

fn under_block_on(driver: DriverChoice) {
    futures_lite::future::block_on(scenario(driver));
}

/// One engine, used from all of them at once.
fn across_runtimes(driver: DriverChoice) {
    if !support::usable(DriverChoice::Uring) {
        return skip("tokio-uring needs io_uring");
    }
    let engine = Arc::new(small(driver).start().unwrap());
    async fn work(engine: Arc<Engine>) -> Vec<Message> {
        let mut got = Vec::new();
        for _ in 0..50 {
            let to = engine.local_addr();
            engine.put_message("127.0.0.1", to.port(), "x").await.unwrap();
            got.push(engine.get_message().await.unwrap());
        }
        got
    }
    let threads = [
        std::thread::spawn({
            let engine = Arc::clone(&engine);
            move || tokio().block_on(work(engine)).len()
        }),
        std::thread::spawn({
            let engine = Arc::clone(&engine);
            move || tokio_uring::start(work(engine)).len()
        }),
        std::thread::spawn({
            let engine = Arc::clone(&engine);
            move || futures_lite::future::block_on(work(engine)).len()
        }),
    ];
    let got: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(got, 150);
    assert!(engine.recv_bucket().is_empty());
}
