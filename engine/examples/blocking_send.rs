//! Sends one text, without any async runtime: `blocking_send HOST:PORT TEXT`. Without arguments, to an engine of its own.

use std::error::Error;
use std::net::ToSocketAddrs;
use udp_plus::{Engine, Outgoing, Preset};

fn main() -> Result<(), Box<dyn Error>> {
    let start = || Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").start();
    let receiver = start()?;
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or_else(|| receiver.local_addr().to_string());
    let text = arguments.next().unwrap_or_else(|| "Hello, World!".to_owned());
    let to = host.to_socket_addrs()?.next().ok_or("the name has no address")?;

    // An engine on 127.0.0.1 reaches this machine only; to go further, bind "0.0.0.0:0".
    let sender = match to.ip().is_loopback() {
        true => start()?,
        false => Engine::builder().preset(Preset::Small).bind("0.0.0.0:0").start()?,
    };
    let delivered = sender.send_bucket().blocking_put(Outgoing::to(to, text))?.wait()?;
    println!("delivered in {:?} with {} tries", delivered.rtt(), delivered.tries);
    if let Some(message) = receiver.recv_bucket().try_get() {
        println!("{}: {:?}", message.sender(), message.text());
    }
    Ok(())
}
