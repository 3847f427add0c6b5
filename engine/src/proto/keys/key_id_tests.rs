//! Which key a handshake has (R-PROT-10): HELLOs that are sealed again with another key, which both sides have as well.

use super::cipher::Cipher;
use super::engines_tests::{Engine, Engines};
use super::*;
use crate::hash::Seed;
use crate::proto::binary::flows::Arriving;
use crate::proto::protection::SALT_BYTES;
use crate::wire::DropReason;
use crate::wire::binary::HEADER_BYTES;
use std::time::Duration;

const KEY_ID_AT: usize = 24;
const BODY_AT: usize = HEADER_BYTES + SALT_BYTES;

/// Two engines that have the keys 1, which seals, and 2.
struct Scene {
    engines: Engines,
    opener: Engine,
    other: Engine,
    keys: PreSharedKeys,
}

fn opener_at() -> SocketAddr {
    ([10, 0, 0, 1], 5).into()
}

fn other_at() -> SocketAddr {
    ([10, 0, 0, 2], 5).into()
}

fn lines() -> [String; 2] {
    [format!("1 {}\n", "5a6b7c8d".repeat(8)), format!("2 {}\n", "0f1e2d3c".repeat(8))]
}

fn key_id(datagram: &[u8]) -> u32 {
    u32::from_le_bytes(datagram[KEY_ID_AT..KEY_ID_AT + 4].try_into().unwrap())
}

impl Scene {
    fn new() -> Self {
        let [one, two] = lines();
        let keys = PreSharedKeys::parse((one + &two).as_bytes(), Cipher::default()).unwrap();
        let engines = Engines::new(keys.clone());
        let (opener, other) = (engines.start(&Seed::from_number(1)), engines.start(&Seed::from_number(2)));
        Self { engines, opener, other, keys }
    }

    /// The first HELLO of a flow on which a message waits.
    fn hello(&mut self) -> Vec<u8> {
        let Engines { now, batch, .. } = &mut self.engines;
        self.opener.put(*now, other_at());
        let hello = self.opener.poll(*now, batch).remove(0);
        assert_eq!(key_id(&hello), 1);
        hello
    }

    /// The other engine takes a datagram; what it says to that.
    fn tell_other(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let Engines { now, batch, .. } = &mut self.engines;
        *now += Duration::from_micros(50);
        let arriving = Arriving { now: *now, from: opener_at(), local: None, datagram, key_id: 0 };
        self.other.handle(&arriving, batch).unwrap();
        self.other.poll(*now, batch)
    }

    fn tell_opener(&mut self, datagram: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
        let Engines { now, batch, .. } = &mut self.engines;
        *now += Duration::from_micros(50);
        let arriving = Arriving { now: *now, from: other_at(), local: None, datagram, key_id: 0 };
        self.opener.handle(&arriving, batch)?;
        Ok(self.opener.poll(*now, batch))
    }

    /// The same HELLO, sealed with key 2. `to`: whose it is.
    fn with_key_2(&self, hello: &[u8], to: SocketAddr) -> Vec<u8> {
        let mut hello = hello.to_vec();
        let sealed = |keys: &PreSharedKeys, hello: &mut [u8], seal: bool| {
            let key_id = key_id(hello);
            let (associated, body) = hello.split_at_mut(BODY_AT);
            let salt = associated.last_chunk::<SALT_BYTES>().unwrap();
            let head = HelloHead { peer: to, associated, salt, key_id };
            if seal { keys.seal_hello(&head, body) } else { keys.open_hello(&head, body).unwrap() }
        };
        sealed(&self.keys, &mut hello, false);
        hello[KEY_ID_AT..KEY_ID_AT + 4].copy_from_slice(&2_u32.to_le_bytes());
        sealed(&self.keys, &mut hello, true);
        hello
    }

    /// Key 2 seals from now on, and key 1 is still there.
    fn turn(&mut self) {
        let [one, two] = lines();
        self.keys.replace((two + &one).as_bytes()).unwrap();
    }

    /// An answer to the opener's HELLO is taken, and the message comes.
    fn goes_on(&mut self, answer: &[u8]) {
        for datagram in self.tell_opener(answer).unwrap() {
            self.tell_other(&datagram);
        }
        assert_eq!(self.other.messages, 1);
    }
}

#[test]
fn an_answer_has_the_key_of_what_it_answers() {
    let mut scene = Scene::new();
    let hello = scene.hello();
    let answer = scene.tell_other(&hello).remove(0);
    assert_eq!(key_id(&answer), 1);
    let other_key = scene.with_key_2(&answer, opener_at());
    assert_eq!(scene.tell_opener(&other_key).unwrap_err(), DropReason::BinaryUnauthentic);
    scene.goes_on(&answer);
}

#[test]
fn a_hello_with_a_known_tag_and_another_key_is_of_another_flow() {
    let mut scene = Scene::new();
    let hello = scene.hello();
    let answer = scene.tell_other(&hello).remove(0);
    let other_key = scene.with_key_2(&hello, other_at());
    let other_answer = scene.tell_other(&other_key).remove(0);
    // Answered as it asked, and by another flow; the same HELLO again is of the one it opened.
    assert_eq!((key_id(&answer), key_id(&other_answer)), (1, 2));
    assert_eq!(scene.other.flows.count(), 2);
    assert_eq!(key_id(&scene.tell_other(&hello)[0]), 1);
    assert_eq!(key_id(&scene.tell_other(&other_key)[0]), 2);
    assert_eq!(scene.other.flows.count(), 2);
    // The keys of the first one are what they were.
    scene.goes_on(&answer);
}

/// Who answers may have lost the old key by then.
#[test]
fn a_handshake_that_nobody_has_answered_begins_anew_with_a_new_key() {
    let mut scene = Scene::new();
    let hello = scene.hello();
    scene.turn();
    let now = scene.engines.now;
    scene.opener.look_at_keys(now);
    let anew = scene.opener.poll(now, &mut scene.engines.batch).remove(0);
    assert_eq!(key_id(&anew), 2);
    assert_eq!(scene.opener.flows.count(), 1);
    let late = scene.tell_other(&hello).remove(0);
    assert_eq!(scene.tell_opener(&late).unwrap_err(), DropReason::BinaryUnknownTag);
    let answer = scene.tell_other(&anew).remove(0);
    scene.goes_on(&answer);
}

/// Else they would be lost with the old key, which is to go when all that was put before the turn has ended.
#[test]
fn messages_take_no_flow_that_the_peer_opened_with_the_old_key() {
    let mut scene = Scene::new();
    let hello = scene.hello();
    scene.turn();
    let answer = scene.tell_other(&hello).remove(0);
    scene.goes_on(&answer);
    let Engines { now, batch, .. } = &mut scene.engines;
    scene.other.put(*now, opener_at());
    let left = scene.other.poll(*now, batch);
    // An acknowledgement on the one flow, and a HELLO: the flow of a datagram has no key id, a HELLO has.
    let hellos: Vec<u32> = left.iter().map(|datagram| key_id(datagram)).filter(|&id| id != 0).collect();
    assert_eq!(hellos, [2], "{left:02x?}");
}
