//! The packet that agents send each other: 64 bytes, the same there and back.
//!
//! | Bytes | What |
//! |---|---|
//! | 0–3 | `NSLK` |
//! | 4 | version, 1 |
//! | 5 | 1 for a question, 2 for its answer |
//! | 6–7 | 0 |
//! | 8–15 | sequence number |
//! | 16–31 | number of the sending agent, drawn at random when it starts |
//! | 32–39 | the sender's clock, nanoseconds since it started; for whoever looks at a capture |
//! | 40–63 | 0 |
//!
//! Numbers are in network byte order. An answer is the question with one byte changed, so whoever answers keeps nothing
//! and sends no more than it got. The sender believes an answer that has its number and a sequence it waits for: 128 bits
//! that only those on the way can know.

/// Length of both packets.
pub(super) const LENGTH: usize = 64;

const MAGIC: [u8; 4] = *b"NSLK";
const VERSION: u8 = 1;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// A packet as it goes over the network.
pub(super) type Packet = [u8; LENGTH];

/// The question of that number.
pub(super) fn question(agent: [u8; 16], sequence: u64, nanoseconds: u64) -> Packet {
    let mut packet = [0; LENGTH];
    let parts: [&[u8]; 5] =
        [&MAGIC, &[VERSION, QUESTION, 0, 0], &sequence.to_be_bytes(), &agent, &nanoseconds.to_be_bytes()];
    for (to, from) in packet.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    packet
}

/// The answer to what was received; `None` if it is no question, as an answer is: two agents never answer each other for
/// ever.
pub(super) fn answer(received: &[u8]) -> Option<Packet> {
    let mut packet: Packet = received.try_into().ok()?;
    let [m0, m1, m2, m3, VERSION, kind, 0, 0, ..] = &mut packet else { return None };
    if [*m0, *m1, *m2, *m3] != MAGIC || *kind != QUESTION {
        return None;
    }
    *kind = ANSWER;
    Some(packet)
}

/// The sequence number of an answer to that agent; `None` for anything else.
pub(super) fn answered(received: &[u8], agent: [u8; 16]) -> Option<u64> {
    let packet: &Packet = received.try_into().ok()?;
    let head = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, ANSWER, 0, 0];
    if !packet.starts_with(&head) || packet.get(16..32)? != agent {
        return None;
    }
    Some(u64::from_be_bytes(packet.get(8..16)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGENT: [u8; 16] = [7; 16];

    #[test]
    fn a_question_is_answered_once_and_with_its_own_length() {
        let question = question(AGENT, 0x0102_0304, 5);
        assert_eq!(&question[..8], b"NSLK\x01\x01\0\0");
        assert_eq!(question[40..], [0; 24]);
        let answer = answer(&question).unwrap();
        assert_eq!(answer.len(), question.len());
        assert_eq!(answer.iter().zip(question).filter(|(a, q)| **a != *q).count(), 1);
        assert_eq!(answered(&answer, AGENT), Some(0x0102_0304));
        assert_eq!(super::answer(&answer), None, "an answer is not answered");
        assert_eq!(answered(&question, AGENT), None);
        assert_eq!(answered(&answer, [8; 16]), None, "somebody else's");
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let question = question(AGENT, 1, 1);
        assert_eq!(answer(&question[..63]), None);
        assert_eq!(answer(&[question.as_slice(), &[0]].concat()), None);
        for at in [0, 3, 4, 5, 6, 7] {
            let mut wrong = question;
            wrong[at] ^= 0x40;
            assert_eq!(answer(&wrong), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..130)) {
            prop_assert!(answer(&bytes).is_none_or(|answer| answer.len() == bytes.len()));
            answered(&bytes, AGENT);
        }

        #[test]
        fn sequences_come_back(sequence in any::<u64>(), nanoseconds in any::<u64>()) {
            let answer = answer(&question(AGENT, sequence, nanoseconds)).unwrap();
            prop_assert_eq!(answered(&answer, AGENT), Some(sequence));
        }
    }
}
