//! A retry policy of one's own: the same wait before every repeat, with jitter, and four tries at most. Sends to a socket that
//! does not answer, and shows when each row came; then the same with the engine's own policy.
//!
//! What to know before writing one: the documentation of `udp_plus::retry`.
#![allow(clippy::disallowed_methods, reason = "an application reads the clock")]

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use udp_plus::retry::{RetryPolicy, RowTry};
use udp_plus::{Builder, Engine, Outgoing, Preset};

/// See the file.
#[derive(Debug)]
pub struct Constant {
    /// Before every repeat.
    pub wait: Duration,
    /// Transmissions of a row.
    pub tries_max: u32,
}

impl RetryPolicy for Constant {
    fn row_wait(&self, row: &RowTry, random: u32) -> Duration {
        // No shorter than it takes to answer; up to an eighth of jitter.
        let wait = self.wait.max(row.first_wait);
        wait + wait / 8 * (random >> 24) / 256
    }

    fn gives_up(&self, row: &RowTry, _since_first: Duration) -> bool {
        row.tries >= self.tries_max
    }

    fn hello_wait(&self, _to: SocketAddr, _tries: u32, _random: u32) -> Duration {
        self.wait
    }

    fn refused_wait(&self, _to: SocketAddr, _tries: u32, _random: u32) -> Duration {
        self.wait
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = || {
        let builder = Engine::builder().preset(Preset::Small).bind("127.0.0.1:0");
        builder.rto_initial(Duration::from_millis(100)).try_span_max(Duration::from_secs(2))
    };
    show("standard", options())?;
    show("constant", options().retry_policy(Constant { wait: Duration::from_millis(250), tries_max: 4 }))
}

/// When the rows of one message arrive where nobody confirms them.
fn show(name: &str, builder: Builder) -> Result<(), Box<dyn Error>> {
    let silent = UdpSocket::bind("127.0.0.1:0")?;
    silent.set_read_timeout(Some(Duration::from_millis(50)))?;
    let engine = builder.start()?;
    let started = Instant::now();
    let (send, mut outcomes) = (engine.send_bucket(), Vec::new());
    send.put_batch(&mut vec![Outgoing::to(silent.local_addr()?, "anybody there?")]);
    let mut row = [0; 2_048];
    while outcomes.is_empty() {
        if silent.recv(&mut row).is_ok() {
            println!("{name}: a row after {:>4} ms", started.elapsed().as_millis());
        }
        send.outcome_batch(&mut outcomes);
    }
    for (_, outcome) in outcomes {
        let ended = outcome.map(|_| "delivered".to_owned()).unwrap_or_else(|error| error.to_string());
        println!("{name}: {ended}, after {} ms", started.elapsed().as_millis());
    }
    Ok(())
}
