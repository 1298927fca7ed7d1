//! A layer of this project in the test itself, for what no server says yet.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anteroom::channel_layer::{
    ChannelLayer, Delivery, Direct, Inbox, LayerConfig, LayerMetrics, Refusal, Ticket, WorkerId,
};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::support::wait_until;

/// Whoever sends from here.
pub const SENDER: Ticket = Ticket { worker: WorkerId(0), socket: 0 };

/// A layer, run on a thread of its own, for tests wait for Python on theirs.
pub struct Peer {
    pub layer: ChannelLayer,
    refusals: Arc<Refusals>,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Refusals(Mutex<Vec<Refusal>>);

impl Inbox for Refusals {
    fn deliver(&self, _: Delivery) {}

    fn direct(&self, _: Direct) {}

    fn refused(&self, _: Ticket, refusal: Refusal) {
        self.0.lock().unwrap().push(refusal);
    }
}

impl Peer {
    /// A layer that is up.
    pub fn start(config: LayerConfig) -> Self {
        let metrics = LayerMetrics::register(&Registry::new()).unwrap();
        let refusals = Arc::new(Refusals::default());
        let inboxes = vec![Arc::clone(&refusals) as Arc<dyn Inbox>];
        let (layer, task) = ChannelLayer::new(config, inboxes, metrics);
        let stop = CancellationToken::new();
        let running = task.run(stop.clone(), CancellationToken::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(running));
        wait_until("the layer is up", || layer.health().up);
        Self { layer, refusals, stop, thread }
    }

    /// What was given up of what it sent.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.0.lock().unwrap().clone()
    }

    /// Ends it when everything is sent.
    pub fn stop(self) {
        self.stop.cancel();
        self.thread.join().unwrap();
    }
}
