//! The verdict: both ends' books laid side by side.

use crate::cli::Mode;
use crate::conserve::NO_OUTCOME;
use crate::record::{ClientRecord, ServerRecord};

/// What the books of both ends amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages a receiving application got again; null if nobody knows.
    pub duplicates: Option<u64>,
    /// Messages that were not what was sent.
    pub corrupted: Option<u64>,
    /// Delivered, as the sender says, but the receiver never saw them.
    pub missing: Option<u64>,
    /// Delivered, but the echo never came.
    pub echoes_missing: Option<u64>,
    /// Everything that is wrong. Empty: every message was delivered, uncorrupted, once.
    pub causes: Vec<String>,
}

/// Judges a run; `server` is the other end's books, where they are known.
pub fn judge(mode: Mode, run: u32, client: &mut ClientRecord, server: Option<&ServerRecord>) -> Verdict {
    // Every message offered ends exactly once. What has no outcome has failed, and says so.
    let ended = client.delivered + client.failed_total();
    let mut verdict = Verdict::default();
    if ended < client.offered {
        *client.failed.entry(NO_OUTCOME).or_default() += client.offered - ended;
    } else if ended > client.offered {
        verdict.causes.push(format!("{} outcomes too many", ended - client.offered));
        client.offered = ended;
    }
    if client.delivered == 0 {
        verdict.causes.push("no message was delivered".to_owned());
    }
    for (cause, count) in &client.failed {
        verdict.causes.push(format!("{count} of {} messages failed: {cause}", client.offered));
    }
    if let Some(server) = server {
        judge_server(run, client, server, &mut verdict);
    }
    if mode == Mode::Echo {
        judge_echoes(run, client, &mut verdict);
    }
    let mut complain = |count: Option<u64>, what: &str| {
        if let Some(count) = count.filter(|&count| count > 0) {
            verdict.causes.push(format!("{count} messages {what}"));
        }
    };
    complain(verdict.duplicates, "were handed over more than once");
    complain(verdict.corrupted, "did not have the content that was sent");
    complain(verdict.missing, "were reported delivered, but never received");
    complain(verdict.echoes_missing, "were delivered, but their echo never came");
    verdict
}

fn judge_server(run: u32, client: &ClientRecord, server: &ServerRecord, verdict: &mut Verdict) {
    let audit = &server.audit;
    verdict.duplicates = Some(audit.duplicates);
    verdict.corrupted = Some(audit.corrupted + audit.foreign);
    let nothing = crate::bitmap::Bitmap::default();
    let seen = audit.seen(run).unwrap_or(&nothing);
    verdict.missing = Some(client.delivered_numbers.missing_in(seen));
    // A failed message may have arrived all the same; nothing else may.
    let extra = seen.missing_in(&client.delivered_numbers);
    if extra > client.failed_total() {
        verdict
            .causes
            .push(format!("{} messages were received that nobody sent", extra - client.failed_total()));
    }
    for (cause, count) in &server.echo_failed {
        verdict.causes.push(format!("{count} echoes failed: {cause}"));
    }
}

fn judge_echoes(run: u32, client: &ClientRecord, verdict: &mut Verdict) {
    let echoes = &client.echoes;
    *verdict.duplicates.get_or_insert(0) += echoes.duplicates;
    *verdict.corrupted.get_or_insert(0) += echoes.corrupted + echoes.foreign;
    let nothing = crate::bitmap::Bitmap::default();
    verdict.echoes_missing = Some(client.delivered_numbers.missing_in(echoes.seen(run).unwrap_or(&nothing)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Audit, Expected};
    use crate::payload::{self, Stamp};
    use crate::sizes::Lengths;

    const RUN: u32 = 9;
    const EXPECTED: Expected = Expected { run: RUN, lengths: Lengths::fixed(64) };

    fn message(number: u64) -> [u8; 64] {
        let mut payload = [0; 64];
        payload::fill(&mut payload, Stamp { run: RUN, slot: 0, number });
        payload
    }

    fn client(delivered: impl IntoIterator<Item = u64>) -> ClientRecord {
        let mut record = ClientRecord::new(Audit::of_run(EXPECTED, 0), 0);
        for number in delivered {
            record.delivered_numbers.insert(number);
            record.delivered += 1;
            record.offered += 1;
        }
        record
    }

    fn server(received: impl IntoIterator<Item = u64>) -> ServerRecord {
        let mut record = ServerRecord { audit: Audit::of_run(EXPECTED, 0), ..ServerRecord::default() };
        for number in received {
            record.audit.enter(&message(number));
        }
        record
    }

    #[test]
    fn all_well() {
        let verdict = judge(Mode::Sink, RUN, &mut client(0..10), Some(&server(0..10)));
        assert_eq!(
            verdict,
            Verdict { duplicates: Some(0), corrupted: Some(0), missing: Some(0), ..Verdict::default() }
        );
        let verdict = judge(Mode::Sink, RUN, &mut client(0..10), None);
        assert_eq!(verdict, Verdict::default());
    }

    #[test]
    fn a_false_success_a_duplicate_and_a_stray_are_seen() {
        let verdict = judge(Mode::Sink, RUN, &mut client(0..10), Some(&server((1..10).chain([3, 77]))));
        assert_eq!((verdict.missing, verdict.duplicates), (Some(1), Some(1)));
        assert_eq!(verdict.causes.len(), 3, "{:?}", verdict.causes);
    }

    #[test]
    fn a_message_without_outcome_has_failed() {
        let mut client = client(0..10);
        client.offered = 12;
        *client.failed.entry("timed_out").or_default() += 1;
        let verdict = judge(Mode::Sink, RUN, &mut client, Some(&server(0..11)));
        assert_eq!(client.failed.get("no_outcome"), Some(&1));
        assert_eq!(client.offered, client.delivered + client.failed_total());
        assert_eq!(verdict.causes.len(), 2, "one may have arrived all the same: {:?}", verdict.causes);
    }

    #[test]
    fn an_echo_that_never_came() {
        let mut client = client(0..10);
        (0..9).for_each(|number| {
            client.echoes.enter(&message(number));
        });
        let verdict = judge(Mode::Echo, RUN, &mut client, None);
        assert_eq!((verdict.echoes_missing, verdict.missing, verdict.causes.len()), (Some(1), None, 1));
    }
}
