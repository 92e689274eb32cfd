//! One connection's protocol state, without I/O: packets in, messages out, ids, limits, timers.
//!
//! Invariant: a packet id in use is never given out again; what the broker does not acknowledge in
//! time ends the connection, so nothing can wait for ever.

use super::handle::{Publish, PublishError};
use super::reason::{Lost, publish_reason, subscribe_reason};
use super::wire::{Inbox, Incoming, MAX_PACKET, Outbox};
use super::{Message, OnSent, Options};
use crate::privacy::Kind;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, LastWill, Login,
    Packet, PingReq, PubAck, PubAckReason, Publish as PublishPacket, SubAck, Subscribe, SubscribeReasonCode,
    Unsubscribe,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Publishes that may wait for their acknowledgement; fewer where the broker says so.
const MAX_IN_FLIGHT: u16 = 16;
/// SUBSCRIBEs whose topics are remembered for the log.
const MAX_SUBSCRIBING: usize = 64;
/// Filters of one SUBSCRIBE: AWS IoT Core takes no more.
const MAX_FILTERS: usize = 8;
/// Bytes on their way out above which nothing more is taken on.
const BUSY: usize = 256 * 1024;
/// How long the broker may take for an acknowledgement or a ping's answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct InFlight {
    publish: Publish,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub inbox: Inbox,
    pub outbox: Outbox,
    last_id: u16,
    in_flight: BTreeMap<u16, InFlight>,
    subscribing: BTreeMap<u16, Vec<String>>,
    max_in_flight: u16,
    max_packet: u32,
    keep_alive: Duration,
    last_in: Instant,
    last_out: Instant,
    pinged: Option<Instant>,
}

impl Conn {
    /// A connection that is about to say CONNECT.
    pub fn open(options: &Options, password: Option<String>, now: Instant) -> Result<Self, Lost> {
        let mut conn = Self {
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            last_id: 0,
            in_flight: BTreeMap::new(),
            subscribing: BTreeMap::new(),
            max_in_flight: MAX_IN_FLIGHT,
            max_packet: MAX_PACKET,
            keep_alive: options.broker.keep_alive,
            last_in: now,
            last_out: now,
            pinged: None,
        };
        let connect = Connect {
            keep_alive: u16::try_from(options.broker.keep_alive.as_secs()).unwrap_or(u16::MAX),
            client_id: options.client_id.clone(),
            clean_start: true,
            properties: Some(ConnectProperties {
                session_expiry_interval: Some(0),
                max_packet_size: Some(MAX_PACKET),
                ..ConnectProperties::new()
            }),
        };
        let will = options.will.as_ref();
        let will = will.map(|w| LastWill::new(&w.topic, w.bytes.to_vec(), QoS::AtLeastOnce, true, None));
        let login = options.broker.username.as_ref().map(|name| Login::new(name, password.unwrap_or_default()));
        conn.send(&Packet::Connect(connect, will, login), Kind::Connect, "")?;
        Ok(conn)
    }

    /// The answer to CONNECT: from here on the broker's limits hold.
    pub fn accepted(&mut self, ack: &ConnAck) -> Result<(), Lost> {
        if ack.code != ConnectReturnCode::Success {
            return Err(Lost::Refused(ack.code));
        }
        let Some(limits) = &ack.properties else { return Ok(()) };
        if limits.retain_available == Some(0) {
            return Err(Lost::Lacks("retained messages"));
        }
        if limits.max_qos == Some(0) {
            return Err(Lost::Lacks("acknowledged messages (QoS 1)"));
        }
        self.max_in_flight = limits.receive_max.unwrap_or(MAX_IN_FLIGHT).clamp(1, MAX_IN_FLIGHT);
        self.max_packet = limits.max_packet_size.unwrap_or(MAX_PACKET).min(MAX_PACKET);
        if let Some(seconds) = limits.server_keep_alive.filter(|&s| s > 0) {
            self.keep_alive = Duration::from_secs(seconds.into());
        }
        Ok(())
    }

    /// True when another publish may be taken on.
    pub fn may_publish(&self) -> bool {
        self.in_flight.len() < usize::from(self.max_in_flight) && !self.is_busy()
    }

    pub fn is_busy(&self) -> bool {
        self.outbox.bytes().len() >= BUSY
    }

    /// So much waits to go out that nothing may come in that would be answered.
    pub fn is_choked(&self) -> bool {
        self.outbox.bytes().len() >= 4 * BUSY
    }

    /// True when all that was published is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn publish(&mut self, publish: Publish, now: Instant) {
        if publish.done.is_closed() {
            return;
        }
        let id = self.next_id();
        let packet = PublishPacket {
            retain: publish.retain,
            pkid: id,
            ..PublishPacket::new(&publish.topic, QoS::AtLeastOnce, publish.bytes.clone(), None)
        };
        let packet = Packet::Publish(packet);
        let (actual, limit) = (packet.size() as u64, u64::from(self.max_packet));
        match self.send(&packet, publish.kind, &publish.topic) {
            Ok(()) => drop(self.in_flight.insert(id, InFlight { publish, since: now })),
            Err(_) => {
                let topic = publish.topic.clone();
                publish.finish(Err(PublishError::TooLarge { topic, actual, limit }));
            }
        }
    }

    pub fn subscribe<'a>(&mut self, filters: impl IntoIterator<Item = &'a String>) {
        let filters: Vec<String> = filters.into_iter().cloned().collect();
        for some in filters.chunks(MAX_FILTERS) {
            let pkid = self.next_id();
            let packet = Subscribe {
                pkid,
                filters: some.iter().map(|path| Filter::new(path, QoS::AtLeastOnce)).collect(),
                properties: None,
            };
            if let Err(e) = self.send(&Packet::Subscribe(packet), Kind::Subscribe, &some[0]) {
                tracing::warn!("cannot subscribe to {:?}: {e}", some[0]);
            } else if self.subscribing.len() < MAX_SUBSCRIBING {
                self.subscribing.insert(pkid, some.to_vec());
            }
        }
    }

    pub fn unsubscribe(&mut self, filter: &str) {
        let packet = Unsubscribe { pkid: self.next_id(), filters: vec![filter.to_owned()], properties: None };
        if let Err(e) = self.send(&Packet::Unsubscribe(packet), Kind::Unsubscribe, filter) {
            tracing::warn!("cannot unsubscribe from {filter:?}: {e}");
        }
    }

    pub fn disconnect(&mut self) -> Result<(), Lost> {
        let packet = Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection));
        self.send(&packet, Kind::Disconnect, "")
    }

    /// The next packet that came, if it is whole; a message if it is one.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, Lost> {
        loop {
            match self.inbox.next()? {
                None => return Ok(None),
                Some(Incoming::Packet(packet)) => return Ok(Some(packet)),
                Some(Incoming::Oversized { topic, id, size }) => {
                    let topic = String::from_utf8_lossy(&topic).chars().take(200).collect::<String>();
                    tracing::warn!("passed over a message of {size} bytes on {topic:?}: the limit is {MAX_PACKET}");
                    id.map_or(Ok(()), |id| self.acknowledge(id))?;
                }
            }
        }
    }

    /// Does what a packet asks for within the session.
    pub fn handle(&mut self, packet: Packet) -> Result<Option<Message>, Lost> {
        match packet {
            Packet::Publish(publish) => return self.message(publish),
            Packet::PubAck(ack) => self.acknowledged(&ack),
            Packet::SubAck(ack) => self.subscribed(&ack),
            Packet::UnsubAck(_) => {}
            Packet::PingResp(_) => self.pinged = None,
            Packet::Disconnect(disconnect) => {
                let said = disconnect.properties.and_then(|p| p.reason_string);
                let code = disconnect.reason_code;
                return Err(Lost::Ended { code, said });
            }
            Packet::Auth(_) => return Err(Lost::Unexpected("AUTH")),
            Packet::Connect(..) | Packet::ConnAck(_) => return Err(Lost::Unexpected("a second greeting")),
            Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                return Err(Lost::Unexpected("part of a QoS 2 exchange"));
            }
            Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PingReq(_) => {
                return Err(Lost::Unexpected("a client's packet"));
            }
        }
        Ok(None)
    }

    fn message(&mut self, publish: PublishPacket) -> Result<Option<Message>, Lost> {
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.acknowledge(publish.pkid)?,
            QoS::ExactlyOnce => return Err(Lost::Unexpected("a QoS 2 message, which was not asked for")),
        }
        let Ok(topic) = std::str::from_utf8(&publish.topic) else {
            tracing::warn!("passed over a message whose topic is not UTF-8");
            return Ok(None);
        };
        Ok(Some(Message { topic: topic.to_owned(), bytes: publish.payload, retained: publish.retain }))
    }

    fn acknowledge(&mut self, id: u16) -> Result<(), Lost> {
        self.send(&Packet::PubAck(PubAck::new(id, None)), Kind::Protocol, "")
    }

    /// An acknowledgement of something that is not in flight is passed over: it harms nobody.
    fn acknowledged(&mut self, ack: &PubAck) {
        let Some(InFlight { publish, .. }) = self.in_flight.remove(&ack.pkid) else { return };
        if [PubAckReason::Success, PubAckReason::NoMatchingSubscribers].contains(&ack.reason) {
            return publish.finish(Ok(()));
        }
        let topic = publish.topic.clone();
        let reason = publish_reason(ack.reason);
        publish.finish(Err(PublishError::Refused { topic, reason }));
    }

    fn subscribed(&mut self, ack: &SubAck) {
        let filters = self.subscribing.remove(&ack.pkid).unwrap_or_default();
        for (filter, code) in filters.iter().zip(&ack.return_codes) {
            match code {
                SubscribeReasonCode::Success(_) => {}
                SubscribeReasonCode::Failure
                | SubscribeReasonCode::Unspecified
                | SubscribeReasonCode::ImplementationSpecific
                | SubscribeReasonCode::NotAuthorized
                | SubscribeReasonCode::TopicFilterInvalid
                | SubscribeReasonCode::PkidInUse
                | SubscribeReasonCode::QuotaExceeded
                | SubscribeReasonCode::SharedSubscriptionsNotSupported
                | SubscribeReasonCode::SubscriptionIdNotSupported
                | SubscribeReasonCode::WildcardSubscriptionsNotSupported => {
                    tracing::warn!("the broker refused to subscribe to {filter}: {}", subscribe_reason(*code));
                }
            }
        }
    }

    /// The socket took or gave bytes.
    pub fn wrote(&mut self, count: usize, now: Instant, on_sent: &mut OnSent) {
        self.last_out = now;
        self.outbox.took(count, on_sent);
    }

    pub fn read(&mut self, now: Instant) {
        self.last_in = now;
    }

    /// When `tick` is due.
    pub fn deadline(&self) -> Instant {
        let ping = match self.pinged {
            Some(since) => since + self.patience(),
            None => self.last_in.min(self.last_out) + self.keep_alive.mul_f32(0.75),
        };
        let oldest = self.in_flight.values().map(|f| f.since).min();
        oldest.map_or(ping, |since| ping.min(since + PATIENCE))
    }

    /// Pings a quiet broker, gives up a silent one. `reading` is false while our own side is slow
    /// to take messages: what the broker answers then lies unread.
    pub fn tick(&mut self, now: Instant, reading: bool) -> Result<(), Lost> {
        if !reading {
            self.pinged = self.pinged.map(|_| now);
            self.last_in = now;
            self.in_flight.values_mut().for_each(|f| f.since = now);
        }
        if let Some(late) = self.in_flight.values().find(|f| now >= f.since + PATIENCE) {
            let topic = late.publish.topic.clone();
            return Err(Lost::Unacknowledged { topic, after: PATIENCE });
        }
        match self.pinged {
            Some(since) if now >= since + self.patience() => return Err(Lost::Silent(self.patience())),
            Some(_) => {}
            None if now >= self.deadline() || !reading => {
                self.send(&Packet::PingReq(PingReq), Kind::Protocol, "")?;
                self.pinged = Some(now);
            }
            None => {}
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        self.keep_alive.min(PATIENCE)
    }

    /// The connection is over: who waits for an acknowledgement is told, the ledger gets the rest.
    pub fn end(mut self, on_sent: &mut OnSent) {
        self.outbox.abandon(on_sent);
        for InFlight { publish, .. } in self.in_flight.into_values() {
            let topic = publish.topic.clone();
            publish.finish(Err(PublishError::Interrupted { topic }));
        }
    }

    fn send(&mut self, packet: &Packet, kind: Kind, topic: &str) -> Result<(), Lost> {
        let sent = self.outbox.push(packet, kind, topic, self.max_packet);
        sent.map_err(|e| Lost::Io(std::io::Error::other(e)))
    }

    /// Few ids are in use, so a free one is near.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            if !self.in_flight.contains_key(&id) && !self.subscribing.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests;
