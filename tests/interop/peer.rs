//! A layer of this project in the test itself, for what no server says yet.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anteroom::channel_layer::{
    ChannelLayer, Delivery, Direct, Inbox, Join, LayerConfig, LayerMetrics, Message, Refusal, Ticket,
    WorkerId,
};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::support::wait_until;

/// Whoever sends from here.
pub const SENDER: Ticket = Ticket { worker: WorkerId(0), socket: 0 };

/// A layer, run on a thread of its own, for tests wait for Python on theirs.
pub struct Peer {
    pub layer: ChannelLayer,
    inbox: Arc<Heard>,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Heard {
    messages: Mutex<Vec<Arc<Message>>>,
    refusals: Mutex<Vec<Refusal>>,
}

impl Inbox for Heard {
    fn deliver(&self, delivery: Delivery) {
        self.messages.lock().unwrap().push(delivery.message);
    }

    fn direct(&self, _: Direct) {}

    fn refused(&self, _: Ticket, refusal: Refusal) {
        self.refusals.lock().unwrap().push(refusal);
    }
}

impl Peer {
    /// A layer that is up.
    pub fn start(config: LayerConfig) -> Self {
        let metrics = LayerMetrics::register(&Registry::new()).unwrap();
        let inbox = Arc::new(Heard::default());
        let inboxes = vec![Arc::clone(&inbox) as Arc<dyn Inbox>];
        let (layer, task) = ChannelLayer::new(config, inboxes, metrics);
        let stop = CancellationToken::new();
        let running = task.run(stop.clone(), CancellationToken::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(running));
        wait_until("the layer is up", || layer.health().up);
        Self { layer, inbox, stop, thread }
    }

    /// Makes it a member of a group.
    pub fn join(&self, group: &str) {
        let group = group.parse().unwrap();
        // Ready once Redis has confirmed it.
        wait_until("the group is joined", || matches!(self.layer.join(WorkerId(0), &group), Join::Ready));
    }

    /// What has come for its groups.
    pub fn heard(&self) -> Vec<Arc<Message>> {
        self.inbox.messages.lock().unwrap().clone()
    }

    /// What was given up of what it sent.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.inbox.refusals.lock().unwrap().clone()
    }

    /// Ends it when everything is sent.
    pub fn stop(self) {
        self.stop.cancel();
        self.thread.join().unwrap();
    }
}
