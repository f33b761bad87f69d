//! Runs one seed to its end: instances that start, crash, try again and give way, until everything is
//! delivered and confirmed. Start at `run`.

use std::sync::Arc;
use std::time::Duration;

use millrace_core::encode::{Encoding, Format};
use millrace_core::error::Kind;
use millrace_core::pipeline;
use millrace_core::progress::Progress;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::points::Points;
use crate::reading::Reading;
use crate::world::{Plant, World};
use crate::{sink, source};

/// Simulated; everything that is to happen happens within seconds of it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What was found: nothing, or what is broken and how it came to that.
#[derive(Debug)]
pub struct Finding {
    pub seed: u64,
    pub violation: Option<String>,
    pub trace: Vec<String>,
}

/// Needs a runtime of one thread with its clock paused, so that a seed always does the same.
pub async fn run<R: Reading + 'static>(seed: u64, plant: Plant) -> Finding {
    let world = Arc::new(World::new(seed, plant));
    let (stop, stopping) = watch::channel(false);
    let mut instances = JoinSet::new();
    let mut names = 0..;
    for _ in 0..1 + world.below(2) {
        instances.spawn(instance::<R>(world.clone(), names.next().unwrap_or(0), stopping.clone()));
        sleep(Duration::from_millis(world.below(200))).await;
    }
    let started = Instant::now();
    while !world.is_over() && started.elapsed() < PATIENCE {
        sleep(Duration::from_millis(20)).await;
        while let Some(ended) = instances.try_join_next() {
            if ended.is_err() {
                world.violate("a task panicked");
            }
        }
        if instances.is_empty() {
            // Nobody is left: whoever operates it starts one again.
            instances.spawn(instance::<R>(world.clone(), names.next().unwrap_or(0), stopping.clone()));
        }
    }
    if !world.is_over() {
        world.violate(format!("not over after {} s", PATIENCE.as_secs()));
    }
    // Its receivers are the instances; they may be gone.
    let _ = stop.send(true);
    if tokio::time::timeout(PATIENCE, instances.join_all()).await.is_err() {
        world.violate("an instance does not stop");
    }
    Finding { seed, violation: world.violation(), trace: world.trace() }
}

/// A process that is started again whenever it crashes, under another name each time.
async fn instance<R: Reading>(world: Arc<World>, nth: u64, mut stopping: watch::Receiver<bool>) {
    for life in 0.. {
        let points =
            Points { world: world.clone(), instance: nth * 1_000 + life, crashed: Arc::new(Notify::new()) };
        let crashed = points.crashed.clone();
        tokio::select! {
            biased;
            () = crashed.notified() => (),
            () = attempts::<R>(points, &mut stopping) => return,
        }
        sleep(Duration::from_millis(world.below(300))).await;
    }
}

/// As the daemon does it: again and again after what may pass, until told to stop or shut out.
async fn attempts<R: Reading>(points: Points, stopping: &mut watch::Receiver<bool>) {
    let mut source = source::Scripted::<R>::new(points.clone());
    let mut sink = sink::Scripted::<R>::new(points.clone());
    let world = &points.world;
    let format = Format { encoding: Encoding::Json { schemas: false }, ..Format::new("p") };
    let progress = Arc::new(Progress::default());
    loop {
        let (shown, told) = (progress.clone(), stopping.clone());
        let ended = pipeline::run(&mut source, &mut sink, format.clone(), shown, told).await;
        let error = match ended {
            Ok(()) if *stopping.borrow() => return,
            Ok(()) => {
                world.note(format!("{}: the pipeline ended by itself", points.instance));
                sleep(Duration::from_millis(1 + world.below(100))).await;
                continue;
            }
            Err(error) => error,
        };
        world.note(format!("{}: {error}", points.instance));
        match error.kind() {
            Kind::Transient => (),
            Kind::Fenced => return,
            Kind::Config | Kind::Record | Kind::Fatal => {
                world.violate(format!("stopped for good: {error}"));
                return;
            }
        }
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            () = sleep(Duration::from_millis(1 + world.below(300))) => (),
        }
    }
}
