//! Packets to bytes and back, without I/O.
//!
//! Invariant: nothing is kept of a packet over `MAX_PACKET`; it is passed over as it streams in and
//! acknowledged, so that a broker that ignores our stated limit cannot make us hang up and find the
//! same packet again. What goes out is reported when the socket took its last byte.

use super::{OnSent, Sent};
use crate::privacy::Kind;
use bytes::{Buf as _, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::Error as CodecError;
use rumqttc::v5::mqttbytes::v5::{Disconnect, DisconnectReasonCode, Packet};
use std::collections::VecDeque;

/// The largest packet that we send or take: a mebibyte and room for topic and headers.
pub const MAX_PACKET: u32 = (1 << 20) + (64 << 10);

/// What the broker sent.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "handled at once, never kept")]
pub(super) enum Incoming {
    Packet(Packet),
    /// A message over `MAX_PACKET`, passed over; with its id when it wants to be acknowledged.
    Oversized {
        topic: Bytes,
        id: Option<u16>,
        size: usize,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the broker sent what is not MQTT 5: {0}")]
    Malformed(CodecError),
    #[error("the broker sent what is not MQTT 5: a length of more than four bytes")]
    Length,
    #[error("the broker sent a packet of {0} bytes that is no message")]
    TooLarge(usize),
}

/// Bytes that came and are not yet packets.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buffer: BytesMut,
    /// Bytes still to come of a packet that is passed over.
    skip: usize,
}

const PUBLISH: u8 = 3;
const DISCONNECT: u8 = 14;

struct Header {
    kind: u8,
    qos: u8,
    /// Of the header itself.
    length: usize,
    /// Of the whole packet.
    frame: usize,
}

impl Header {
    /// `None` while bytes lack.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
        let mut remaining = 0;
        for (i, byte) in rest.iter().take(4).enumerate() {
            remaining |= usize::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                let length = i + 2;
                let frame = length + remaining;
                return Ok(Some(Self { kind: first >> 4, qos: (first >> 1) & 3, length, frame }));
            }
        }
        if rest.len() >= 4 { Err(WireError::Length) } else { Ok(None) }
    }
}

impl Inbox {
    /// Where a read may append; always has room.
    pub fn space(&mut self) -> &mut BytesMut {
        self.buffer.reserve(16 * 1024);
        &mut self.buffer
    }

    /// The next whole packet, or `None` until more bytes came.
    pub fn next(&mut self) -> Result<Option<Incoming>, WireError> {
        let passed = self.skip.min(self.buffer.len());
        self.buffer.advance(passed);
        self.skip -= passed;
        if self.skip > 0 {
            return Ok(None);
        }
        let Some(header) = Header::parse(&self.buffer)? else { return Ok(None) };
        if header.frame > MAX_PACKET as usize {
            return self.pass_over(&header);
        }
        if self.buffer.len() < header.frame {
            self.buffer.reserve(header.frame - self.buffer.len());
            return Ok(None);
        }
        let frame = self.buffer.split_to(header.frame);
        parse(&header, frame).map(|packet| Some(Incoming::Packet(packet)))
    }

    fn pass_over(&mut self, header: &Header) -> Result<Option<Incoming>, WireError> {
        if header.kind != PUBLISH {
            return Err(WireError::TooLarge(header.frame));
        }
        let Some(body) = self.buffer.get(header.length..) else { return Ok(None) };
        let Some((topic, body)) = prefixed(body) else { return Ok(None) };
        let id = match (header.qos, body) {
            (0, _) => None,
            (_, [high, low, ..]) => Some(u16::from_be_bytes([*high, *low])),
            (_, _) => return Ok(None),
        };
        let oversized = Incoming::Oversized { topic: Bytes::copy_from_slice(topic), id, size: header.frame };
        self.skip = header.frame;
        Ok(Some(oversized))
    }
}

/// A string behind its two bytes of length, and what follows; `None` while bytes lack.
fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn parse(header: &Header, mut frame: BytesMut) -> Result<Packet, WireError> {
    // The codec does not know the short forms of DISCONNECT: nothing, or the reason alone.
    if header.kind == DISCONNECT && header.frame <= header.length + 1 {
        let code = frame.get(header.length).copied().unwrap_or(0);
        let code = DisconnectReasonCode::try_from(code).map_err(WireError::Malformed)?;
        return Ok(Packet::Disconnect(Disconnect::new(code)));
    }
    Packet::read(&mut frame, None).map_err(WireError::Malformed)
}

/// Packets on their way to the socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: BytesMut,
    packets: VecDeque<Going>,
}

#[derive(Debug)]
struct Going {
    sent: Sent,
    left: usize,
}

impl Outbox {
    pub fn push(&mut self, packet: &Packet, kind: Kind, topic: &str, limit: u32) -> Result<(), CodecError> {
        let before = self.bytes.len();
        if let Err(e) = packet.write(&mut self.bytes, Some(limit)) {
            self.bytes.truncate(before);
            return Err(e);
        }
        let left = self.bytes.len() - before;
        let sent = Sent { kind, topic: topic.to_owned(), bytes: left as u64 };
        self.packets.push_back(Going { sent, left });
        Ok(())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The socket took `count` bytes: reports the packets that are through.
    pub fn took(&mut self, mut count: usize, on_sent: &mut OnSent) {
        self.bytes.advance(count);
        while let Some(going) = self.packets.front_mut() {
            let part = going.left.min(count);
            (going.left, count) = (going.left - part, count - part);
            if going.left > 0 {
                break;
            }
            self.packets.pop_front().into_iter().for_each(|going| on_sent(going.sent));
        }
    }

    /// The connection is gone: reports what went of the packet that it broke in.
    pub fn abandon(&mut self, on_sent: &mut OnSent) {
        if let Some(mut going) = self.packets.pop_front() {
            going.sent.bytes -= going.left as u64;
            if going.sent.bytes > 0 {
                on_sent(going.sent);
            }
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{PingReq, PingResp, PubAck, Publish};
    use std::sync::{Arc, Mutex};

    fn publish(topic: &str, id: u16, payload: usize) -> Vec<u8> {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, vec![7; payload], None);
        publish.pkid = id;
        let mut bytes = BytesMut::new();
        Packet::Publish(publish).write(&mut bytes, None).unwrap();
        bytes.to_vec()
    }

    /// All that an inbox makes of bytes that come in steps of `step`, and the most that it held.
    fn take(bytes: &[u8], step: usize) -> (Vec<Incoming>, usize) {
        let (mut inbox, mut all, mut most) = (Inbox::default(), Vec::new(), 0);
        for part in bytes.chunks(step) {
            inbox.space().extend_from_slice(part);
            most = most.max(inbox.buffer.len());
            while let Some(incoming) = inbox.next().unwrap() {
                all.push(incoming);
            }
        }
        (all, most)
    }

    #[test]
    fn packets_come_whole_however_the_stream_is_cut() {
        let bytes = [publish("a", 1, 300), publish("b/c", 2, 0), vec![0xd0, 0]].concat();
        for step in 1..bytes.len() {
            let (all, _) = take(&bytes, step);
            assert_eq!(all.len(), 3, "step {step}");
            assert_eq!(all[2], Incoming::Packet(Packet::PingResp(PingResp)));
        }
    }

    #[test]
    fn an_oversized_message_is_passed_over_in_little_memory_and_the_next_one_comes() {
        let bytes = [publish("big", 9, 4 << 20), publish("small", 2, 10)].concat();
        let (all, most) = take(&bytes, 5000);
        assert!(matches!(&all[0], Incoming::Oversized { topic, id: Some(9), .. } if topic == "big"));
        assert!(matches!(&all[1], Incoming::Packet(Packet::Publish(p)) if p.topic == "small"));
        assert!(most <= 5000, "{most} bytes were held");
    }

    #[test]
    fn the_largest_packet_that_we_state_is_taken_and_one_byte_more_is_not() {
        let overhead = publish("t", 1, 1 << 20).len() - (1 << 20);
        let largest = MAX_PACKET as usize - overhead;
        assert!(matches!(take(&publish("t", 1, largest), 65_536).0[..], [Incoming::Packet(_)]));
        assert!(matches!(take(&publish("t", 1, largest + 1), 65_536).0[..], [Incoming::Oversized { .. }]));
    }

    #[test]
    fn short_disconnects_are_understood() {
        for (bytes, code) in [
            (&[0xe0, 0][..], DisconnectReasonCode::NormalDisconnection),
            (&[0xe0, 1, 0x8e], DisconnectReasonCode::SessionTakenOver),
            (&[0xe0, 2, 0x8e, 0], DisconnectReasonCode::SessionTakenOver),
        ] {
            assert_eq!(take(bytes, 10).0, [Incoming::Packet(Packet::Disconnect(Disconnect::new(code)))]);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_wait_for_more_than_a_packet() {
        let mut seed = 1u64;
        for round in 0..20_000 {
            let mut bytes: Vec<u8> = (0..round % 40)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 56) as u8
                })
                .collect();
            // Half of them with a header whose length is right, so that the body is looked at.
            if let [_, length, body @ ..] = &mut bytes[..]
                && round % 2 == 0
            {
                *length = body.len() as u8;
            }
            let mut inbox = Inbox::default();
            inbox.space().extend_from_slice(&bytes);
            while let Ok(Some(_)) = inbox.next() {}
        }
        assert!(matches!(Header::parse(&[0x30, 0xff, 0xff, 0xff, 0xff]), Err(WireError::Length)));
        let mut inbox = Inbox::default();
        inbox.space().extend_from_slice(&[0x90, 0xff, 0xff, 0xff, 0x7f, 0]);
        assert!(matches!(inbox.next(), Err(WireError::TooLarge(_))));
    }

    #[test]
    fn every_byte_that_the_socket_took_is_reported_and_no_other() {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let sink = reported.clone();
        let mut on_sent: OnSent = Box::new(move |sent| sink.lock().unwrap().push(sent.bytes));
        let mut outbox = Outbox::default();
        outbox.push(&Packet::PingReq(PingReq), Kind::Protocol, "", 100).unwrap();
        outbox.push(&Packet::PubAck(PubAck::new(3, None)), Kind::Protocol, "", 100).unwrap();
        outbox.push(&Packet::PubAck(PubAck::new(4, None)), Kind::Protocol, "", 100).unwrap();
        let big = Packet::Publish(Publish { pkid: 1, ..Publish::new("t", QoS::AtLeastOnce, vec![0; 200], None) });
        assert!(outbox.push(&big, Kind::Status, "t", 100).is_err(), "over the broker's limit");
        assert_eq!(outbox.bytes().len(), 10);
        for part in [1, 1, 3, 2] {
            outbox.took(part, &mut on_sent);
        }
        assert_eq!(*reported.lock().unwrap(), [2, 4]);
        outbox.abandon(&mut on_sent);
        assert_eq!(*reported.lock().unwrap(), [2, 4, 1]);
        assert!(outbox.bytes().is_empty());
    }
}
