//! A served request over the same inference in this process, taken in turns.

use crate::client::Client;
use crate::server::{Server, image};
use crate::{Figure, figure, quantile, sorted};
use selvedge::engine::Live;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const ROUNDS: usize = 20_000;

pub fn measure(server: &Server) -> Vec<Figure> {
    println!("overhead: {ROUNDS} requests, each beside the same inference in-process");
    let live = server.slots.get("digits").unwrap();
    let mut session = live.model().session().unwrap();
    let mut client = Client::connect(&server.socket);
    let input = [image()];
    let (mut served, mut direct) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 500 {
        let start = Instant::now();
        let reply = client.ask();
        let middle = Instant::now();
        let outputs = session.run(&input).unwrap();
        let end = Instant::now();
        assert_eq!((reply.status, &reply.output[..]), (200, outputs[0].bytes()));
        if round >= 500 {
            served.push((middle - start).as_secs_f64() * 1e6);
            direct.push((end - middle).as_secs_f64() * 1e6);
        }
    }
    let (served, direct, handed) = (sorted(served), sorted(direct), sorted(hand_over(server, live)));
    for (what, times) in [("served", &served), ("handed over", &handed), ("in-process", &direct)] {
        println!("  {what:<11} p50 {:>7.1} µs, p99 {:>7.1} µs", quantile(times, 0.5), quantile(times, 0.99));
    }
    let over = |share| quantile(&served, share) - quantile(&direct, share);
    vec![figure("serve/overhead-us-p50", over(0.5), "us"), figure("serve/overhead-us-p99", over(0.99), "us")]
}

/// From a task of the API's runtime to a worker and back, without a socket: what the threads cost.
fn hand_over(server: &Server, live: Arc<Live>) -> Vec<f64> {
    let workers = server.workers.clone();
    let asking = server.runtime.spawn(async move {
        let mut times = Vec::new();
        for round in 0..ROUNDS + 500 {
            let inputs = vec![image()];
            let start = Instant::now();
            workers.infer(live.clone(), inputs, Duration::from_secs(10)).await.unwrap();
            if round >= 500 {
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        times
    });
    server.runtime.block_on(asking).unwrap()
}
