//! What kills an engine for real: loops that do not end, the kernel out of memory, panics, again and again; and power
//! that comes and goes. Needs mosquitto; some need root and say so.

use crate::device::{Device, LONG, Signal};
use crate::load::Load;
use crate::mosquitto::Mosquitto;
use crate::operate::{Operator, release};
use crate::serve::harness::post;
use prost::Message as _;
use selvedge::bundle::Bundle;
use selvedge::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};
use selvedge::privacy::{Code, ModelState, Stage, Status, Verdict};
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
/// Numbers of the state that each step of the slow model multiplies.
const WIDTH: i64 = 1024;

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let input = inputs.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        op_type: op.into(),
        name: output.into(),
        input,
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn number(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

fn zeros(name: &str, dims: &[i64]) -> TensorProto {
    let raw_data = vec![0; 4 * dims.iter().product::<i64>() as usize];
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: FLOAT, raw_data, ..Default::default() }
}

/// A value of that type; -1 leaves a dimension open.
fn value(name: &str, elem_type: i32, shape: &[i64]) -> ValueInfoProto {
    let dimension = |&size: &i64| {
        let value = match size {
            -1 => tensor_shape_proto::dimension::Value::DimParam("n".into()),
            size => tensor_shape_proto::dimension::Value::DimValue(size),
        };
        tensor_shape_proto::Dimension { value: Some(value), ..Default::default() }
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dimension).collect() };
    let tensor = type_proto::Tensor { elem_type, shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(r#type), ..Default::default() }
}

fn graph(node: Vec<NodeProto>, initializer: Vec<TensorProto>, io: [Vec<ValueInfoProto>; 2]) -> GraphProto {
    let [input, output] = io;
    GraphProto { name: "g".into(), node, initializer, input, output, ..Default::default() }
}

fn model(graph: GraphProto) -> Vec<u8> {
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }.encode_to_vec()
}

/// For each row of `x` a state is multiplied by a matrix: time as its rows.
fn slow() -> Vec<u8> {
    let state = || value("h", FLOAT, &[1, WIDTH]);
    let body = graph(
        vec![node("MatMul", &["h", "w"], "hw", vec![]), node("Add", &["hw", "row"], "next", vec![])],
        vec![],
        [vec![state(), value("row", FLOAT, &[1])], vec![value("next", FLOAT, &[1, WIDTH])]],
    );
    let body = AttributeProto {
        name: "body".into(),
        r#type: AttributeType::Graph as i32,
        g: Some(Box::new(body)),
        ..Default::default()
    };
    let nodes = vec![
        node("Cast", &["x"], "rows", vec![number("to", FLOAT.into())]),
        node("Scan", &["start", "rows"], "y", vec![body, number("num_scan_inputs", 1)]),
    ];
    let zeros = vec![zeros("w", &[WIDTH, WIDTH]), zeros("start", &[1, WIDTH])];
    model(graph(nodes, zeros, [vec![value("x", UINT8, &[-1, 1])], vec![value("y", FLOAT, &[1, WIDTH])]]))
}

/// The largest product of two elements of `x`: memory as the square of its rows.
fn large() -> Vec<u8> {
    let axes = AttributeProto {
        name: "perm".into(),
        r#type: AttributeType::Ints as i32,
        ints: vec![1, 0],
        ..Default::default()
    };
    let nodes = vec![
        node("Cast", &["x"], "column", vec![number("to", FLOAT.into())]),
        node("Transpose", &["column"], "row", vec![axes]),
        node("Mul", &["column", "row"], "all", vec![]),
        node("ReduceMax", &["all"], "y", vec![number("keepdims", 1)]),
    ];
    model(graph(nodes, vec![], [vec![value("x", UINT8, &[-1, 1])], vec![value("y", FLOAT, &[1, 1])]]))
}

/// A version of the digits model that is none: `rows` in its golden sample, and up to `most` in a request.
fn bundle(version: u32, onnx: &[u8], rows: usize, most: usize, outputs: i64) -> Bundle {
    let manifest = format!(
        "format = 1\nname = \"digits\"\nversion = {version}\nruntime = \"0.1.0\"\n\
         [[inputs]]\nname = \"x\"\ndatatype = \"UINT8\"\nshape = [{rows}, 1]\nmax-shape = [{most}, 1]\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1, {outputs}]\n\
         [golden]\natol = 0.0\nmin-agreement = 1.0\n[probation]\nrequests = 1000\nmax-errors = 0\n"
    );
    let (x, y) = (vec![0_u8; rows], vec![0_u8; 4 * outputs as usize]);
    let view = |dtype, shape: Vec<usize>, data| safetensors::tensor::TensorView::new(dtype, shape, data).unwrap();
    let golden = [
        ("0.in.x", view(safetensors::Dtype::U8, vec![rows, 1], &x)),
        ("0.out.y", view(safetensors::Dtype::F32, vec![1, outputs as usize], &y)),
    ];
    let golden = safetensors::serialize(golden, None).unwrap();
    let files =
        [("manifest.toml", manifest.into_bytes()), ("model.onnx", onnx.to_vec()), ("golden.safetensors", golden)];
    Bundle::pack(&files.map(|(name, bytes)| (name.to_owned(), bytes)).into()).unwrap()
}

/// A request of so many rows of zeros.
fn rows(count: usize) -> Vec<u8> {
    let head = serde_json::json!({ "inputs": [{ "name": "x", "datatype": "UINT8", "shape": [count, 1],
        "parameters": { "binary_data_size": count } }] });
    let head = head.to_string();
    let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    post("/v2/models/digits/infer", &length, &[head.as_bytes(), &vec![0; count]].concat())
}

fn is_idle(live: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(live) && m.state == ModelState::Idle)
}

fn is_on_probation(live: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(live) && m.state == ModelState::Probation)
}

fn told(status: &Status, version: u32) -> Option<(Verdict, Stage, Code)> {
    let outcome = status.outcomes.iter().rfind(|outcome| outcome.version == Some(version))?;
    Some((outcome.verdict, outcome.stage, outcome.code))
}

/// What systemd does with `WatchdogSec=`: a service that says nothing for so long is aborted.
struct Manager {
    socket: PathBuf,
    pid: Arc<AtomicU32>,
    _dir: tempfile::TempDir,
    over: Arc<AtomicBool>,
}

const WATCHDOG: Duration = Duration::from_secs(3);

impl Manager {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(WATCHDOG)).unwrap();
        let this = Self { socket: path, pid: Arc::default(), _dir: dir, over: Arc::default() };
        let (pid, over) = (this.pid.clone(), this.over.clone());
        std::thread::spawn(move || {
            let mut barks = false;
            let mut buffer = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(length) => barks |= buffer[..length].windows(10).any(|w| w == b"WATCHDOG=1"),
                    Err(_) if barks => {
                        barks = false;
                        let pid = i32::try_from(pid.load(Ordering::Relaxed)).unwrap();
                        let pid = rustix::process::Pid::from_raw(pid).unwrap();
                        let _ = rustix::process::kill_process(pid, Signal::ABORT);
                    }
                    Err(_) => {}
                }
            }
        });
        this
    }

    fn start_engine(&self, device: &mut Device) {
        let limit = WATCHDOG.as_micros().to_string();
        let socket = self.socket.to_str().unwrap();
        device.start_engine_with(&[("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", &limit)]);
        self.pid.store(device.engine_id(), Ordering::Relaxed);
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Ends the watched engine once, and starts it again.
async fn until_aborted(device: &mut Device, manager: &Manager) {
    let ended = device.engine_ended().await;
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{ended}\n{}", device.log("engine"));
    manager.start_engine(device);
    device.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_does_not_end_is_ended_by_the_watchdog_and_the_version_refused() {
    let (broker, manager) = (Mosquitto::start(), Manager::start());
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.configure("[engine]\n", "[engine]\nhang-seconds = 10\n");
    manager.start_engine(&mut device);
    device.start_link();
    device.ready().await;
    let load = device.load();
    let rows = 3_000_000;
    operator.publish(&bundle(2, &slow(), rows, rows, WIDTH)).await;
    until_aborted(&mut device, &manager).await;
    let status = device.wait("it refused", |status| told(status, 2).is_some()).await;
    assert_eq!(told(&status, 2), Some((Verdict::Refused, Stage::Restart, Code::Crashed)));
    assert!(is_idle(1)(&status), "{status:#?}");
    load.answered_by(1).await;
    assert_eq!(Load::versions(&load.stop()), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inference_that_does_not_end_is_ended_by_the_watchdog_and_the_version_taken_back() {
    let (broker, manager) = (Mosquitto::start(), Manager::start());
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.configure("[engine]\n", "[engine]\nhang-seconds = 10\ndeadline-ms = 2000\n");
    manager.start_engine(&mut device);
    device.start_link();
    device.ready().await;
    operator.publish(&bundle(2, &slow(), 8, 3_000_000, WIDTH)).await;
    device.wait("probation", is_on_probation(2)).await;
    assert_eq!(device.ask(&rows(20)).await.map(|reply| reply.status), Some(200));
    // Who asked is told in time that there is no answer.
    let late = device.ask(&rows(3_000_000)).await.expect("a reply");
    assert_eq!(late.status, 504, "{}", late.text());
    until_aborted(&mut device, &manager).await;
    let status = device.wait("it taken back", |status| told(status, 2).is_some()).await;
    assert_eq!(told(&status, 2), Some((Verdict::RolledBack, Stage::Restart, Code::Crashed)));
    assert!(is_idle(1)(&status), "{status:#?}");
}

/// A control group with a limit of memory, of version 1 or 2; nothing where none may be made here.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("selvedge-test-{}", std::process::id());
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        versions.iter().find_map(|(root, limit)| {
            let dir = PathBuf::from(root).join(&name);
            std::fs::create_dir(&dir).ok()?;
            let group = Self(dir);
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_for_which_the_kernel_kills_the_engine_out_of_memory_goes_back() {
    let Some(group) = Group::new(400 << 20) else {
        return println!("no control group may be made here (it takes root): passed over");
    };
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.start().await;
    group.take(device.engine_id());
    // At its check: a tensor of 576 MB.
    operator.publish(&bundle(2, &large(), 12_000, 12_000, 1)).await;
    let ended = device.engine_ended().await;
    assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{ended}\n{}", device.log("engine"));
    device.start_engine();
    group.take(device.engine_id());
    device.ready().await;
    let status = device.wait("it refused", |status| told(status, 2).is_some()).await;
    assert_eq!(told(&status, 2), Some((Verdict::Refused, Stage::Restart, Code::Crashed)));
    assert!(is_idle(1)(&status), "{status:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_breaks_on_requests_loses_none_but_those_and_goes_back() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.add_lookup();
    device.start().await;
    let ask = |x: i64| {
        let input = serde_json::json!({ "inputs": [{ "name": "x", "datatype": "INT64", "shape": [1], "data": [x] }] });
        post("/v2/models/lookup/infer", "", input.to_string().as_bytes())
    };
    let files = ["manifest.toml", "model.onnx", "golden.safetensors"];
    let read = |name: &str| (name.to_owned(), std::fs::read(device.path("lookup").join(name)).unwrap());
    let mut files: BTreeMap<String, Vec<u8>> = files.map(read).into();
    let manifest = String::from_utf8(files["manifest.toml"].clone()).unwrap();
    let manifest = manifest.replace("version = 1", "version = 2").replace("requests = 1", "requests = 100");
    files.insert("manifest.toml".into(), manifest.into_bytes());
    operator.publish(&Bundle::pack(&files).unwrap()).await;
    let at = |state, live| {
        move |status: &Status| {
            status.models.iter().any(|m| m.model.as_str() == "lookup" && m.live == Some(live) && m.state == state)
        }
    };
    device.wait("probation", at(ModelState::Probation, 2)).await;
    assert_eq!(device.ask(&ask(1)).await.map(|reply| reply.status), Some(200));
    // There is no such place: the operator panics deep below.
    assert_eq!(device.ask(&ask(1_000_000)).await.map(|reply| reply.status), Some(500));
    let status = device.wait("the way back", at(ModelState::Idle, 1)).await;
    assert_eq!(told(&status, 2), Some((Verdict::RolledBack, Stage::Probation, Code::TooManyErrors)));
    assert_eq!(device.ask(&ask(1)).await.map(|reply| reply.status), Some(200));
    assert!(device.engine_has_ended().is_none(), "a panic ends no engine");
}

/// A device with version 2 live and proven, version 1 pinned.
async fn proven(broker: &Mosquitto, operator: &mut Operator) -> Device {
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.start().await;
    let load = device.load();
    operator.publish(&release(2, 0, 20)).await;
    device.wait("version 2", is_idle(2)).await;
    load.stop();
    device
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_proven_and_kills_the_engine_three_times_in_a_boot_goes_back_until_a_signed_retry() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let mut device = proven(&broker, &mut operator).await;
    for (death, signal) in [Signal::SEGV, Signal::ABORT, Signal::KILL].into_iter().enumerate() {
        let status = device.wait("a version", |status| !status.models.is_empty()).await;
        assert!(is_idle(2)(&status), "after {death} deaths: {status:#?}");
        device.end_engine(signal);
        device.start_engine();
        device.ready().await;
    }
    let status = device.wait("the way back", is_idle(1)).await;
    assert_eq!(told(&status, 2), Some((Verdict::RolledBack, Stage::Restart, Code::Crashed)));
    let load = device.load();
    operator.retry(&release(2, 0, 20)).await;
    device.wait("version 2 again", is_idle(2)).await;
    assert_eq!(Load::versions(&load.stop()), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn power_that_comes_and_goes_quarantines_no_version_unless_it_never_gets_to_answer() {
    if !rustix::process::geteuid().is_root() {
        return println!("another boot's id takes root to show: passed over");
    }
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.reboot(1);
    device.start().await;
    operator.publish(&release(2, 0, 1_000_000)).await;
    device.wait("probation", is_on_probation(2)).await;
    let mut boot = 1;
    let mut cut = async |device: &mut Device| {
        device.end_engine(Signal::KILL);
        boot += 1;
        device.reboot(boot);
        device.start_engine();
        device.ready().await;
        device.status().await.unwrap()
    };
    // A flaky supply, and a version that answers between its cuts.
    for _ in 0..12 {
        let status = cut(&mut device).await;
        assert!(is_on_probation(2)(&status), "{status:#?}");
        let load = device.load();
        load.answered_by(2).await;
        let begun = load.seen().len();
        while load.seen().len() < begun + 15 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The count is looked at ten times a second.
        tokio::time::sleep(Duration::from_millis(400)).await;
        load.stop();
    }
    // One that never answers is suspected at last.
    let mut cuts = 0;
    let start = std::time::Instant::now();
    let status = loop {
        cuts += 1;
        let status = cut(&mut device).await;
        if !is_on_probation(2)(&status) {
            break status;
        }
        assert!(cuts < 10 && start.elapsed() < LONG, "{cuts} cuts: {status:#?}");
    };
    assert!(cuts > 5, "{cuts} power cuts are enough to blame a version");
    assert_eq!(told(&status, 2), Some((Verdict::RolledBack, Stage::Restart, Code::Crashed)));
    assert!(is_idle(1)(&status), "{status:#?}");
}
