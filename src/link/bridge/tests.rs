use super::*;
use crate::bundle::{ChunkRef, Digest, Index, ModelName, Node, topics};
use crate::ipc::{MAX_WINDOW, Role};
use std::collections::BTreeSet;

/// A bridge with what its actions add up to.
struct Link {
    bridge: Bridge,
    subscribed: BTreeSet<String>,
    to_engine: Vec<ToEngine>,
    hung_up: bool,
    got_on: u32,
    gets_on: bool,
    /// Topics that were asked for again.
    again: u32,
}

impl Link {
    /// With an engine that trusts root 1, and a session.
    fn new() -> Self {
        let mut link = Self {
            bridge: Bridge::new(),
            subscribed: BTreeSet::new(),
            to_engine: Vec::new(),
            hung_up: false,
            got_on: 0,
            gets_on: false,
            again: 0,
        };
        let up = [link.bridge.session(true), link.bridge.engine_up()].concat();
        link.apply(up);
        link.says(ToLink::Hello { protocol: PROTOCOL, root: 1 });
        link
    }

    fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Subscribe(topic) => self.again += u32::from(!self.subscribed.insert(topic)),
                Action::Unsubscribe(topic) => assert!(self.subscribed.remove(&topic), "{topic} was not subscribed"),
                Action::ToEngine(message) => self.to_engine.push(message),
                Action::Tell(_) => {}
                Action::GetsOn(true) => {
                    self.got_on += 1;
                    self.gets_on = true;
                }
                Action::GetsOn(false) => self.gets_on = false,
                Action::HangUp => self.hung_up = true,
            }
        }
    }

    fn says(&mut self, message: ToLink) {
        let actions = self.bridge.engine_says(message);
        self.apply(actions);
    }

    fn shows(&mut self, topic: &str, bytes: impl AsRef<[u8]>) -> Vec<ToEngine> {
        let before = self.to_engine.len();
        let actions = self.bridge.broker_shows(topic, bytes.as_ref());
        self.apply(actions);
        self.to_engine.split_off(before)
    }

    fn chunks(&mut self, ordinals: impl IntoIterator<Item = u32>) {
        let ordinals = ordinals.into_iter().collect();
        self.says(ToLink::Fetch(Fetch::Chunks { ordinals }));
    }

    fn topics(&self) -> Vec<&str> {
        self.subscribed.iter().map(|t| t.trim_start_matches("selvedge/v1/")).collect()
    }

    /// Brings targets that name these nodes, and asks for the first by name.
    fn offer(&mut self, nodes: &[&Node]) {
        let targets: Vec<_> = nodes.iter().enumerate().map(|(i, n)| (format!("{i}"), digest_json(n))).collect();
        self.board(&targets);
        self.says(ToLink::Fetch(Fetch::Target { ordinal: 0 }));
    }

    fn board(&mut self, targets: &[(String, serde_json::Value)]) {
        self.shows(&topics::tuf("timestamp.json"), listing("snapshot.json", 7));
        self.shows(&topics::tuf("7.snapshot.json"), listing("targets.json", 8));
        let targets: serde_json::Map<_, _> = targets.iter().cloned().collect();
        let bytes = serde_json::json!({ "signed": { "version": 8, "targets": targets } }).to_string();
        self.shows(&topics::tuf("8.targets.json"), bytes);
    }
}

fn listing(name: &str, version: u32) -> String {
    serde_json::json!({ "signed": { "version": 40, "meta": { name: { "version": version } } }, "more": [1] })
        .to_string()
}

fn digest_json(node: &Node) -> serde_json::Value {
    serde_json::json!({ "length": 1, "hashes": { "sha256": Digest::of(&node.to_bytes()) } })
}

fn wire(i: u32) -> Vec<u8> {
    zstd::bulk::compress(&i.to_le_bytes(), 1).unwrap()
}

fn chunk_ref(raw: &[u8], wire: &[u8]) -> ChunkRef {
    ChunkRef {
        sha256: Digest::of(wire),
        wire: u32::try_from(wire.len()).unwrap(),
        raw: u32::try_from(raw.len()).unwrap(),
    }
}

/// An index of `count` chunks, of which chunk `i` expands to the number `i % distinct`.
fn index(count: u32, distinct: u32) -> Node {
    let packed: Vec<u8> = (0..count).flat_map(|i| (i % distinct).to_le_bytes()).collect();
    let chunks = (0..count).map(|i| chunk_ref(&[0; 4], &wire(i % distinct))).collect();
    Node::Index(Index::new(ModelName::new("m").unwrap(), 1, &packed, chunks))
}

fn topic_of(bytes: &[u8]) -> String {
    topics::chunk(&Digest::of(bytes))
}

#[test]
fn the_engine_is_greeted_and_the_board_followed_from_its_root() {
    let link = Link::new();
    let greeting = [ToEngine::Hello { protocol: PROTOCOL }, ToEngine::Connected(true)];
    assert_eq!(link.to_engine, greeting);
    assert_eq!(link.topics(), ["tuf/2.root.json", "tuf/timestamp.json"]);
}

#[test]
fn metadata_is_followed_by_name_and_what_is_superseded_is_dropped() {
    let mut link = Link::new();
    let timestamp = listing("snapshot.json", 7);
    let brought = link.shows(&topics::tuf("timestamp.json"), &timestamp);
    let metadata = ToEngine::Metadata { role: Role::Timestamp, version: 40, bytes: timestamp.clone().into_bytes() };
    assert_eq!(brought, [metadata]);
    assert!(link.shows(&topics::tuf("timestamp.json"), &timestamp).is_empty(), "a duplicate is no news");
    link.shows(&topics::tuf("7.snapshot.json"), listing("targets.json", 8));
    link.shows(&topics::tuf("timestamp.json"), listing("snapshot.json", 9));
    link.shows(&topics::tuf("9.snapshot.json"), listing("targets.json", 10));
    let followed = ["tuf/10.targets.json", "tuf/2.root.json", "tuf/9.snapshot.json", "tuf/timestamp.json"];
    assert_eq!(link.topics(), followed);
    // What was dropped may still arrive; it is nobody's any more.
    assert!(link.shows(&topics::tuf("7.snapshot.json"), "late").is_empty());
}

#[test]
fn a_new_root_makes_the_link_look_at_everything_anew() {
    let mut link = Link::new();
    link.offer(&[&index(2, 2)]);
    let brought = link.shows(&topics::tuf("2.root.json"), "root");
    assert!(matches!(brought[..], [ToEngine::Metadata { role: Role::Root, version: 2, .. }]));
    link.says(ToLink::Hello { protocol: PROTOCOL, root: 2 });
    assert!(link.topics().contains(&"tuf/3.root.json") && !link.topics().contains(&"tuf/2.root.json"));
    let again = link.shows(&topics::tuf("timestamp.json"), listing("snapshot.json", 7));
    assert_eq!(again.len(), 1, "the same timestamp is news to the new root");
}

#[test]
fn a_target_is_found_by_the_place_of_its_name_also_where_others_are_broken() {
    let mut link = Link::new();
    let node = index(3, 3);
    let broken = serde_json::json!({ "hashes": { "sha256": "zz" } });
    let none = serde_json::json!({ "hashes": {} });
    link.board(&[("b".into(), digest_json(&node)), ("a".into(), broken), ("c".into(), none)]);
    for ordinal in [0, 2, 3, u32::MAX] {
        link.says(ToLink::Fetch(Fetch::Target { ordinal }));
        assert_eq!(link.subscribed.len(), 4, "ordinal {ordinal} is nothing to subscribe to");
    }
    link.says(ToLink::Fetch(Fetch::Target { ordinal: 1 }));
    let bytes = node.to_bytes();
    assert_eq!(link.shows(&topic_of(&bytes), &bytes), [ToEngine::Node { bytes }]);
    assert_eq!(link.subscribed.len(), 4, "it is unsubscribed once it came");
}

#[test]
fn a_delta_is_found_by_its_place_also_where_others_are_broken() {
    let mut link = Link::new();
    let chunk = chunk_ref(&[0; 4], &wire(0));
    let delta =
        crate::bundle::DeltaIndex { from: Digest::of(b"1"), sha256: Digest::of(b"2"), size: 9, chunks: vec![chunk] };
    let bytes = Node::Delta(delta).to_bytes();
    let with = |custom: serde_json::Value| {
        let mut target = digest_json(&index(3, 3));
        target["custom"] = custom;
        target
    };
    let node = serde_json::json!({ "node": Digest::of(&bytes) });
    let good = with(serde_json::json!({ "deltas": [{ "node": 7 }, node, {}] }));
    link.board(&[
        ("a".into(), good),
        ("b".into(), with(serde_json::json!({ "deltas": 7 }))),
        ("c".into(), with(7.into())),
    ]);
    for (ordinal, delta) in [(0, 0), (0, 2), (0, 3), (0, u32::MAX), (1, 0), (2, 0), (3, 0), (u32::MAX, 0)] {
        link.says(ToLink::Fetch(Fetch::Delta { ordinal, delta }));
        assert_eq!(link.subscribed.len(), 4, "delta {delta} of {ordinal} is nothing to subscribe to");
    }
    link.says(ToLink::Fetch(Fetch::Delta { ordinal: 0, delta: 1 }));
    assert_eq!(link.shows(&topic_of(&bytes), &bytes), [ToEngine::Node { bytes: bytes.clone() }]);
    link.chunks([0]);
    assert_eq!(link.shows(&topic_of(&wire(0)), wire(0)), [ToEngine::Chunk { ordinal: 0, bytes: wire(0) }]);
}

#[test]
fn chunks_come_through_a_window_each_once_and_equal_ones_for_each_place() {
    let mut link = Link::new();
    let node = index(20, 10);
    link.offer(&[&node]);
    link.shows(&topic_of(&node.to_bytes()), node.to_bytes());
    link.chunks([0, 10, 0, 1, 99]);
    assert_eq!(link.subscribed.len(), 4 + 2);
    let bytes = wire(0);
    let chunk = |ordinal| ToEngine::Chunk { ordinal, bytes: wire(0) };
    assert_eq!(link.shows(&topic_of(&bytes), &bytes), [chunk(0), chunk(10)]);
    assert!(link.shows(&topic_of(&bytes), &bytes).is_empty(), "a duplicate delivery");
    assert_eq!((link.got_on, link.gets_on), (1, true), "nor does it say again that the session is worth it");
    link.chunks([0, 1]);
    assert_eq!(link.to_engine.last(), Some(&chunk(0)), "what crossed comes from memory");
    assert_eq!(link.subscribed.len(), 4 + 1);
    link.chunks(1..20);
    assert_eq!(link.subscribed.len(), 4 + MAX_WINDOW);
    link.says(ToLink::Fetch(Fetch::Nothing));
    assert_eq!(link.subscribed.len(), 4);
    assert!(!link.gets_on, "a fleet that has all of it does not come back at once");
    link.chunks([3]);
    assert_eq!(link.subscribed.len(), 4 + 1, "the list outlives a pause");
}

#[test]
fn the_same_request_again_subscribes_anew_and_a_shrinking_one_does_not() {
    let mut link = Link::new();
    let node = index(4, 4);
    link.offer(&[&node]);
    link.shows(&topic_of(&node.to_bytes()), node.to_bytes());
    let subscriptions = |link: &mut Link, ordinals: &[u32]| {
        let fetch = ToLink::Fetch(Fetch::Chunks { ordinals: ordinals.to_vec() });
        link.bridge.engine_says(fetch).iter().filter(|action| matches!(action, Action::Subscribe(_))).count()
    };
    assert_eq!(subscriptions(&mut link, &[0, 1, 2]), 3);
    assert_eq!(subscriptions(&mut link, &[1, 2]), 0);
    assert_eq!(subscriptions(&mut link, &[1, 2]), 2);
}

#[test]
fn wrong_bytes_are_shown_once_each_and_the_right_ones_still_awaited() {
    let mut link = Link::new();
    let node = index(4, 4);
    link.offer(&[&node]);
    let topic = topic_of(&node.to_bytes());
    assert_eq!(link.shows(&topic, "wrong").len(), 1);
    assert_eq!(link.shows(&topic, "wrong").len(), 0);
    assert_eq!(link.shows(&topic, "").len(), 0, "a cleared place is nothing");
    assert_eq!(link.again, 2);
    (0..10).for_each(|_| drop(link.shows(&topic, "wrong")));
    assert_eq!(link.again, 3, "what really stands there does not come for ever");
    assert_eq!(link.shows(&topic, node.to_bytes()).len(), 1);

    link.chunks([2]);
    let shown: usize = (0..1000).map(|i| link.shows(&topic_of(&wire(2)), format!("wrong {i}")).len()).sum();
    assert_eq!(shown, 8, "a flood of wrong contents is cut off");
    assert_eq!((link.got_on, link.again), (0, 3 + 3));
    link.chunks([2, 3]);
    assert!(link.shows(&topic_of(&wire(2)), "wrong 1").is_empty(), "asking again does not forget");
    assert_eq!(link.shows(&topic_of(&wire(2)), wire(2)).len(), 1);
}

/// Cuts an index into parts of `step` bytes: the node and the parts' wire bytes.
fn cut(index: &Node, step: usize) -> (Node, Vec<Vec<u8>>) {
    let bytes = index.to_bytes();
    let wires: Vec<_> = bytes.chunks(step).map(|raw| zstd::bulk::compress(raw, 1).unwrap()).collect();
    let parts = bytes.chunks(step).zip(&wires).map(|(raw, wire)| chunk_ref(raw, wire)).collect();
    let sha256 = Digest::of(&bytes);
    (Node::Parts { sha256, parts }, wires)
}

#[test]
fn once_all_parts_came_ordinals_refer_to_the_index_that_they_make() {
    let mut link = Link::new();
    let (node, parts) = cut(&index(100, 100), 3000);
    assert!(parts.len() > 3);
    link.offer(&[&node]);
    link.shows(&topic_of(&node.to_bytes()), node.to_bytes());
    for (ordinal, part) in (0..parts.len() as u32).zip(&parts).rev() {
        link.chunks([ordinal]);
        let brought = link.shows(&topic_of(part), part);
        assert!(matches!(brought[..], [ToEngine::Chunk { ordinal: o, .. }] if o == ordinal));
    }
    link.chunks([99]);
    assert!(matches!(link.shows(&topic_of(&wire(99)), wire(99))[..], [ToEngine::Chunk { ordinal: 99, .. }]));
}

#[test]
fn parts_that_join_to_something_else_or_to_too_much_change_nothing() {
    let (Node::Parts { parts, .. }, wires) = cut(&index(100, 100), 3000) else { panic!() };
    let sha256 = Digest::of(b"something else");
    let lying = Node::Parts { sha256, parts: parts.clone() };
    let zeros = vec![0; 90_000];
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    let huge = Node::Parts { sha256, parts: vec![chunk_ref(&zeros, &bomb); 500] };
    let mut link = Link::new();
    link.offer(&[&lying, &huge]);
    link.shows(&topic_of(&lying.to_bytes()), lying.to_bytes());
    for (ordinal, wire) in (0..).zip(&wires) {
        link.chunks([ordinal]);
        link.shows(&topic_of(wire), wire);
    }
    link.chunks([0, 99]);
    let brought = link.to_engine.last();
    assert!(
        matches!(brought, Some(ToEngine::Chunk { ordinal: 0, bytes }) if *bytes == wires[0]),
        "it refers to a part"
    );

    link.says(ToLink::Fetch(Fetch::Target { ordinal: 1 }));
    link.shows(&topic_of(&huge.to_bytes()), huge.to_bytes());
    for first in (0..500).step_by(MAX_WINDOW) {
        link.chunks(first..first + 8);
        link.shows(&topic_of(&bomb), &bomb);
    }
    link.chunks([499]);
    let brought = link.to_engine.last();
    assert!(matches!(brought, Some(ToEngine::Chunk { ordinal: 499, bytes }) if *bytes == bomb), "it refers to a part");
}

#[test]
fn an_engine_that_comes_back_starts_over_and_one_that_is_away_wants_nothing() {
    let mut link = Link::new();
    link.offer(&[&index(2, 2)]);
    let down = link.bridge.engine_down();
    link.apply(down);
    assert!(link.subscribed.is_empty());
    let lost = link.bridge.session(false);
    assert!(lost.is_empty(), "nobody to tell");
    let up = link.bridge.engine_up();
    link.apply(up);
    assert_eq!(link.to_engine.last(), Some(&ToEngine::Connected(false)));
    link.says(ToLink::Hello { protocol: PROTOCOL, root: 1 });
    assert_eq!(link.shows(&topics::tuf("timestamp.json"), listing("snapshot.json", 7)).len(), 1);
    link.says(ToLink::Fetch(Fetch::Target { ordinal: 0 }));
    assert_eq!(link.topics(), ["tuf/2.root.json", "tuf/7.snapshot.json", "tuf/timestamp.json"]);
}

#[test]
fn an_engine_of_another_version_or_without_manners_is_hung_up_on() {
    for first in [ToLink::Hello { protocol: 99, root: 1 }, ToLink::Fetch(Fetch::Nothing)] {
        let mut link = Link::new();
        let up = link.bridge.engine_up();
        link.apply(up);
        link.says(first);
        assert!(link.hung_up && link.subscribed.is_empty());
        link.chunks([1]);
        assert!(link.subscribed.is_empty(), "nothing is heard after that");
    }
}

#[test]
fn hostile_metadata_neither_panics_nor_adds_subscriptions() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let hostile = [
        "",
        "null",
        "{",
        "[]",
        "\u{0}",
        &deep,
        r#"{"signed":null}"#,
        r#"{"signed":{"version":-1,"meta":{"snapshot.json":{"version":-1}}}}"#,
        r#"{"signed":{"version":1e99,"meta":{"snapshot.json":{"version":4294967296}}}}"#,
        r#"{"signed":{"meta":{"snapshot.json":{"version":0}}}}"#,
        r#"{"signed":{"meta":{"snapshot.json":{"version":"../../#"}}}}"#,
        r#"{"signed":{"targets":{"a":{"hashes":{"sha256":7}}}}}"#,
        r#"{"signed":{"targets":[1,2,3]}}"#,
    ];
    let mut link = Link::new();
    for role in ["timestamp.json", "2.root.json", "7.snapshot.json", "8.targets.json"] {
        for bytes in hostile {
            link.shows(&topics::tuf(role), bytes);
            link.says(ToLink::Fetch(Fetch::Target { ordinal: 0 }));
        }
    }
    for version in 1..2000 {
        link.shows(&topics::tuf("timestamp.json"), listing("snapshot.json", version));
        link.shows(&topics::tuf(format!("{version}.snapshot.json")), listing("targets.json", u32::MAX - version));
    }
    for topic in ["", "#", "selvedge/v1/tuf/", "selvedge/v1/chunk/\u{0}", "selvedge/v1/tuf/timestamp.json/x"] {
        assert!(link.shows(topic, "x").is_empty(), "{topic}");
    }
    assert_eq!(link.subscribed.len(), 4);
    assert!(!link.hung_up);
}

/// A snapshot of these delegated roles, and targets that delegate to them in this order.
fn delegate(link: &mut Link, versions: &[(&str, u32)]) {
    let mut meta = serde_json::json!({ "targets.json": { "version": 8 } });
    for (name, version) in versions {
        meta[format!("{name}.json")] = serde_json::json!({ "version": version });
    }
    link.shows(&topics::tuf("timestamp.json"), listing("snapshot.json", 7));
    link.shows(&topics::tuf("7.snapshot.json"), serde_json::json!({ "signed": { "meta": meta } }).to_string());
    let roles: Vec<_> = versions.iter().map(|(name, _)| serde_json::json!({ "name": name })).collect();
    let signed = serde_json::json!({ "version": 8, "targets": {}, "delegations": { "roles": roles } });
    link.shows(&topics::tuf("8.targets.json"), serde_json::json!({ "signed": signed }).to_string());
}

#[test]
fn delegated_roles_are_followed_and_their_targets_found_by_place() {
    let mut link = Link::new();
    delegate(&mut link, &[("vision", 3), ("sound", 4)]);
    assert!(link.subscribed.contains(&topics::tuf("3.vision.json")));
    assert!(link.subscribed.contains(&topics::tuf("4.sound.json")));
    let node = index(2, 2);
    let file = serde_json::json!({ "signed": { "targets": { "words/a": {}, "words/b": digest_json(&node) } } });
    let brought = link.shows(&topics::tuf("4.sound.json"), file.to_string());
    let expected = ToEngine::Delegated { name: "sound".into(), version: 4, bytes: file.to_string().into_bytes() };
    assert_eq!(brought, [expected]);
    assert!(link.shows(&topics::tuf("4.sound.json"), file.to_string()).is_empty(), "a duplicate is no news");
    for ordinal in [0, 1 << 16, 2 << 16, 3 << 16, u32::MAX] {
        link.says(ToLink::Fetch(Fetch::Target { ordinal }));
        assert_eq!(link.subscribed.len(), 6, "{ordinal:x} is no target with a digest");
    }
    link.says(ToLink::Fetch(Fetch::Target { ordinal: 2 << 16 | 1 }));
    assert!(link.subscribed.contains(&topic_of(&node.to_bytes())));
}

#[test]
fn delegated_roles_that_are_many_or_oddly_named_are_bounded() {
    let mut link = Link::new();
    let names: Vec<String> = (0..1000).map(|n| format!("team-{n}")).collect();
    let many: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    delegate(&mut link, &many);
    assert_eq!(link.subscribed.len(), 4 + topics::MAX_DELEGATED);
    for odd in ["root", "#", "a/b", "", "+", "..", "a.b", "A"] {
        let mut link = Link::new();
        delegate(&mut link, &[(odd, 1)]);
        assert_eq!(link.subscribed.len(), 4, "{odd}");
    }
    let actions = link.bridge.engine_down();
    link.apply(actions);
    assert!(link.subscribed.is_empty());
}

#[test]
fn a_root_at_the_end_of_numbers_is_no_panic() {
    let mut link = Link::new();
    link.says(ToLink::Hello { protocol: PROTOCOL, root: u32::MAX });
    assert_eq!(link.topics(), ["tuf/timestamp.json"]);
}
