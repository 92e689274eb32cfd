//! Updates by delta: fewer bytes, the same promises.

use super::*;
use crate::bundle::Node;

/// The digest of the delta's node, and of all of its chunks.
fn delta_of(world: &World) -> (Digest, Vec<Digest>) {
    let mut deltas = world.board.iter().filter_map(|(topic, bytes)| match Node::parse(bytes) {
        Ok(Node::Delta(index)) => Some((topic.rsplit('/').next()?.parse().ok()?, index.chunks)),
        Ok(Node::Index(_) | Node::Parts { .. }) | Err(_) => None,
    });
    let (node, chunks) = deltas.next().expect("there is a delta");
    assert!(deltas.next().is_none(), "and no other");
    (node, chunks.iter().map(|chunk| chunk.sha256).collect())
}

async fn linked(world: &World, disk: &FaultyDisk) -> Device {
    let mut device = Device::start(world, disk, 1000).await.unwrap();
    device.link(world).await.unwrap();
    device
}

fn codes(device: &Device) -> Vec<Code> {
    device.updater.status().outcomes.iter().map(|outcome| outcome.code).collect()
}

#[tokio::test]
async fn a_device_that_has_the_version_before_fetches_the_delta_and_nothing_else() {
    let world = World::with_delta();
    let (node, chunks) = delta_of(&world);
    let device = linked(&world, &settled(&world).await).await;
    assert_eq!(device.brought, [vec![node], chunks].concat());
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    assert!(codes(&device).is_empty());
}

#[tokio::test]
async fn a_device_that_has_another_version_fetches_the_whole() {
    let mut world = World::with_delta();
    let files = ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"];
    let read = |name: &str| std::fs::read(model_dir("digits").join(name)).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = files.iter().map(|&name| (name.to_owned(), read(name))).collect();
    files.insert("labels.txt".to_owned(), b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n".to_vec());
    world.factory = Bundle::pack(&files).unwrap();
    let (node, _) = delta_of(&world);
    let device = linked(&world, &settled(&world).await).await;
    assert!(!device.brought.contains(&node));
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

#[tokio::test]
async fn an_old_version_that_was_damaged_since_costs_the_delta_and_not_the_update() {
    let world = World::with_delta();
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 1000).await.unwrap();
    let base = Path::new("/state/models/digits").join(format!("{}.bundle", world.factory.digest()));
    let mut bytes = disk.read(&base, Bundle::MAX_BYTES).unwrap().unwrap();
    bytes[9000] ^= 1;
    disk.write(&base, &bytes).unwrap();
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    assert_eq!(codes(&device), [Code::BadDelta]);
    assert!(device.brought.starts_with(&[delta_of(&world).0]), "it was tried");
}

#[tokio::test]
async fn wrong_bytes_where_a_delta_should_be_cost_the_delta_and_not_the_update() {
    for of_node in [true, false] {
        let mut world = World::with_delta();
        let (node, chunks) = delta_of(&world);
        let wrong = if of_node { node } else { chunks[0] };
        world.board.insert(topics::chunk(&wrong), b"something else".to_vec());
        let device = linked(&world, &settled(&world).await).await;
        assert_eq!(device.ask(&world).await.unwrap(), 2);
        assert_eq!(codes(&device), [Code::DigestMismatch]);
    }
}

#[tokio::test]
async fn a_delta_that_does_not_come_is_given_up_for_the_whole() {
    let world = World::with_delta();
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 1000).await.unwrap();
    device.updater.link_is_new().unwrap();
    for message in world.metadata() {
        device.updater.on_message(message).await.unwrap();
    }
    assert!(matches!(device.updater.request(), Fetch::Delta { .. }));
    device.updater.asked_in_vain().unwrap();
    assert!(matches!(device.updater.request(), Fetch::Target { .. }));
    // That it was given up lasts through a new link; a chunk of the whole is not given up.
    device.link(&world).await.unwrap();
    assert!(!device.brought.contains(&delta_of(&world).0));
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    assert_eq!(codes(&device), [Code::BadDelta]);
    device.updater.asked_in_vain().unwrap();
    assert_eq!(codes(&device), [Code::BadDelta]);
}

#[tokio::test]
async fn power_cut_at_any_operation_of_an_update_by_delta() {
    let world = World::with_delta();
    for torn in Torn::ALL {
        cut_in(&world, torn, "delta").await;
    }
}

mod roads {
    use super::*;
    use crate::bundle::{ChunkRef, DeltaIndex};
    use crate::trust::{Contents, DeltaRef};
    use crate::update::fetch::{DeltaFault, Download, FetchError, Wanted};
    use crate::update::machine::Offered;

    fn sha(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn index(from: &str, to: &str, size: u64) -> DeltaIndex {
        let chunks = vec![ChunkRef { sha256: sha("chunk"), wire: 5, raw: 5 }];
        DeltaIndex { from: sha(from), sha256: sha(to), size, chunks }
    }

    fn reference(from: &str, node: &[u8], wire: u64) -> DeltaRef {
        DeltaRef { from: sha(from), node: Digest::of(node), size: node.len() as u64, wire }
    }

    /// An offer of "new", 1000 bytes, on a device that has "live" and "pinned".
    fn download(disk: &FaultyDisk, deltas: Vec<DeltaRef>) -> Download {
        let offered = Offered { version: 2, target: sha("target"), allow_downgrade: false, retry: 0 };
        let bundle = Some(Contents { sha256: sha("new"), size: 1000 });
        let wanted =
            Wanted { model: digits(), offered, ordinal: 3, size: 9, memory_mib: None, urgent: false, bundle, deltas };
        let bases = ["live", "pinned"].map(|name| (sha(name), Path::new("/models").join(name))).to_vec();
        Download::new(Arc::new(disk.clone()), Path::new("/fetch"), wanted, bases).unwrap()
    }

    const WHOLE: Fetch = Fetch::Target { ordinal: 3 };

    #[test]
    fn the_shortest_delta_from_a_version_that_is_here_goes_first_then_the_next_then_the_whole() {
        let deltas = [("pinned", 70), ("elsewhere", 10), ("live", 50)]
            .map(|(from, wire)| reference(from, from.as_bytes(), wire));
        let mut download = download(&FaultyDisk::new(), deltas.to_vec());
        assert_eq!(download.request(), Fetch::Delta { ordinal: 3, delta: 2 });
        assert!(download.give_delta_up().unwrap());
        assert_eq!(download.request(), Fetch::Delta { ordinal: 3, delta: 0 });
        assert!(download.give_delta_up().unwrap());
        assert_eq!(download.request(), WHOLE);
        assert!(!download.give_delta_up().unwrap());
        assert_eq!(download.request(), WHOLE);
    }

    #[test]
    fn a_delta_without_room_for_what_it_makes_is_not_begun() {
        let disk = FaultyDisk::new();
        disk.full_after(0);
        assert_eq!(download(&disk, vec![reference("live", b"node", 5)]).request(), WHOLE);
        let endless = reference("live", b"node", u64::MAX);
        assert_eq!(download(&FaultyDisk::new(), vec![endless]).request(), Fetch::Delta { ordinal: 3, delta: 0 });
    }

    #[test]
    fn a_delta_whose_node_is_not_what_the_target_says_is_given_up() {
        let whole = Node::Parts { sha256: sha("new"), parts: index("live", "new", 1000).chunks };
        let wrong = [
            Node::Delta(index("pinned", "new", 1000)).to_bytes(),
            Node::Delta(index("live", "other", 1000)).to_bytes(),
            Node::Delta(index("live", "new", 1001)).to_bytes(),
            whole.to_bytes(),
            b"{}".to_vec(),
        ];
        for node in wrong {
            let mut download = download(&FaultyDisk::new(), vec![reference("live", &node, 50)]);
            let error = download.node(&node).unwrap_err();
            assert!(matches!(error, FetchError::Delta(DeltaFault::Other | DeltaFault::Index(_))), "{error:?}");
        }
        let node = Node::Delta(index("live", "new", 1000)).to_bytes();
        let mut download = download(&FaultyDisk::new(), vec![reference("live", &node, 50)]);
        assert!(matches!(download.node(b"else"), Err(FetchError::Mismatch { .. })));
        download.node(&node).unwrap();
        assert_eq!(download.request(), Fetch::Chunks { ordinals: vec![0] });
    }
}
