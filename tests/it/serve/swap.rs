//! Versions change while requests are under way.

use super::harness::{Device, held_out, json_request, load};
use selvedge::tensor::Tensor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_answered_by_the_version_that_took_it() {
    let device = Device::start();
    let old = device.slots.get("digits").unwrap();
    let image = held_out()[0].0;
    let input = Tensor::from_f32(vec![1, 1, 8, 8], &image).unwrap();
    let expected = old.run(std::slice::from_ref(&input)).unwrap();
    let in_flight = device.workers.infer(old, vec![input.clone()], Duration::from_secs(10));
    let new = load("digits-adapted");
    assert!(new.run(&[input]).unwrap() != expected, "the versions differ on this image");
    assert_eq!(device.slots.install(new).unwrap().version(), 1);
    assert!(in_flight.await.unwrap().outputs == expected);
    let after = device.post("/v2/models/digits/infer", &json_request(&image)).await.json();
    assert_eq!(after["model_version"], "2");
}

/// Over HTTP: 100 swaps under four clients; every answer is from a version that was live meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_under_load_lose_no_request() {
    let device = Arc::new(Device::start());
    let image = held_out()[0].0;
    let versions = [load("digits"), load("digits-adapted")];
    // Counts installs twice: before and after. Odd means that one is under way.
    let installs = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (device, installs, done) = (device.clone(), installs.clone(), done.clone());
            tokio::spawn(async move {
                let mut answered = 0;
                while !done.load(SeqCst) {
                    let before = installs.load(SeqCst);
                    let reply = device.post("/v2/models/digits/infer", &json_request(&image)).await;
                    let after = installs.load(SeqCst);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    let version = reply.json()["model_version"].as_str().unwrap().parse::<u64>().unwrap();
                    // Install number i makes version i % 2 + 1 live.
                    let possible = before / 2..=after.div_ceil(2);
                    assert!(possible.clone().any(|i| i % 2 + 1 == version), "{version} in {possible:?}");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for swap in 1..=100 {
        installs.fetch_add(1, SeqCst);
        device.slots.install(versions[swap % 2].clone());
        installs.fetch_add(1, SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done.store(true, SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert!(versions.iter().all(|live| live.counts().failed == 0));
}
