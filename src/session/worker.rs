//! One thread with its own sockets and rooms.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel_layer::{
    ChannelLayer, Delivery, Direct, GroupName, Join, Message, Refusal, Ticket, WorkerId,
};
use crate::handler::{Command, Directive, Event, Rendering, Skip};
use crate::listener::Accepted;
use crate::session::inbox::Order;
use crate::session::room::Room;
use crate::session::socket::{Cause, Phase, Socket};
use crate::session::{Seat, WorkerInbox};
use crate::websocket::{CloseCode, OpCode};

/// Timers go off at multiples of this, so that many idle sockets wake the thread seldom.
const TIMER_STEP: Duration = Duration::from_millis(100);

/// For tasks to come to an end once everything is to be dropped.
const TASKS_END_TIMEOUT: Duration = Duration::from_millis(500);

/// Entries of sockets that are gone, beyond as many as there are sockets, that the timers may hold.
const TIMERS_SPARE: usize = 1_024;

/// The key under which an event says which channel its sender can be answered on. Rule: Channels 1 called it so.
const REPLY_CHANNEL: &str = "reply_channel";

/// The number of no socket: the first one is 1.
const NOBODY: u64 = 0;

/// What one read may bring. One buffer serves all sockets of the worker.
const READ_BYTES_MAX: usize = 64 << 10;

/// A worker: runs on one thread and is reached from others through its [`WorkerInbox`] alone.
pub struct Worker {
    id: WorkerId,
    layer: ChannelLayer,
    turn: Rc<Turn>,
    rooms: RefCell<HashMap<GroupName, Rc<Room>>>,
    /// Rooms with collected frames.
    collected: RefCell<Vec<Rc<Room>>>,
    sockets: RefCell<HashMap<u64, Rc<Socket>>>,
    last_id: Cell<u64>,
    read_buffer: Cell<Vec<u8>>,
    /// Where payloads are rendered.
    payload: RefCell<Vec<u8>>,
    tasks: TaskTracker,
    draining: CancellationToken,
    /// When the first socket is closed by the drain, and over how long the others follow.
    drain: Cell<Option<(Instant, Duration)>>,
    finishing: CancellationToken,
    /// Whether what is open is about to be dropped.
    stopping: Cell<bool>,
}

/// What is to be done before the worker sleeps, and when it is to wake up.
#[derive(Debug)]
pub(super) struct Turn {
    inbox: Arc<WorkerInbox>,
    flush: RefCell<Vec<Rc<Socket>>>,
    /// The step at which a socket, by its number, is to be looked at.
    timers: RefCell<BinaryHeap<Reverse<(u64, u64)>>>,
    started_at: Instant,
}

/// What a worker does with a fresh connection.
pub trait Work: 'static {
    /// Serves one connection to its end, or until its socket is handed to [`Worker::start`].
    fn serve(&self, worker: Rc<Worker>, accepted: Accepted) -> impl Future<Output = ()> + 'static;
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker that takes its orders from the inbox. To be made on the thread that runs it.
    pub fn new(id: WorkerId, layer: ChannelLayer, inbox: Arc<WorkerInbox>) -> Rc<Self> {
        let turn =
            Turn { inbox, flush: RefCell::default(), timers: RefCell::default(), started_at: Instant::now() };
        Rc::new(Self {
            id,
            layer,
            turn: Rc::new(turn),
            rooms: RefCell::default(),
            collected: RefCell::default(),
            sockets: RefCell::default(),
            last_id: Cell::new(0),
            read_buffer: Cell::new(vec![0; READ_BYTES_MAX]),
            payload: RefCell::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            drain: Cell::new(None),
            finishing: CancellationToken::new(),
            stopping: Cell::new(false),
        })
    }

    /// Works until told to stop, or drained.
    ///
    /// Must run as a task of a `LocalRuntime`: it then takes its turn after the tasks that are ready already,
    /// which is what gathers the messages of a turn into one write per socket.
    pub async fn run<W: Work>(self: Rc<Self>, work: W) {
        let mut orders = Vec::new();
        let sleep = time::sleep_until(self.turn.started_at);
        tokio::pin!(sleep);
        loop {
            let wake_at = self.turn.wake_at();
            if let Some(at) = wake_at
                && sleep.deadline() != at
            {
                sleep.as_mut().reset(at);
            }
            tokio::select! {
                () = self.turn.inbox.woken() => (),
                () = &mut sleep, if wake_at.is_some() => (),
                // Only ends once it is closed.
                () = self.tasks.wait() => return,
            }
            self.turn.inbox.take(&mut orders);
            for order in orders.drain(..) {
                match order {
                    Order::Serve(accepted) => self.spawn(work.serve(Rc::clone(&self), accepted)),
                    Order::Deliver(delivery) => self.deliver(&delivery),
                    Order::Direct(direct) => self.direct(&direct),
                    Order::Refused(ticket, refusal) => self.refused(ticket, refusal),
                    Order::Drain { grace, over } => self.drain(grace, over),
                    Order::Finish => {
                        self.finishing.cancel();
                        self.tasks.close();
                    }
                    Order::Stop => {
                        self.stop();
                        // Whoever does not end by itself is dropped.
                        time::timeout(TASKS_END_TIMEOUT, self.tasks.wait()).await.unwrap_or_default();
                        return;
                    }
                }
            }
            self.on_timers();
            self.flush();
        }
    }

    /// Cancelled when the process stops: connections between two requests end, new sockets are refused.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when no connection comes any more: those that came while draining end too.
    pub fn finishing(&self) -> &CancellationToken {
        &self.finishing
    }

    /// Whether tasks that do not end by themselves are about to be dropped, with whatever they do.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Waits for the moment in the drain at which something that is no socket, and so cannot be asked to come
    /// back, is to end: each at its own, as for sockets.
    pub fn farewell(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let worker = Rc::clone(self);
        async move {
            worker.draining.cancelled().await;
            if let Some((begin, over)) = worker.drain.get() {
                time::sleep_until(begin + over.mul_f64(fastrand::f64())).await;
            }
        }
    }

    /// Runs a task that the drain waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(task);
    }

    /// Takes a seat in the room of a group; the first on this worker joins the group.
    pub fn seat(self: &Rc<Self>, group: GroupName) -> Seat {
        if let Some(room) = self.rooms.borrow().get(&group) {
            return Seat::new(Rc::clone(room), Rc::clone(self));
        }
        let room = Room::new(group.clone());
        match self.layer.join(self.id, &group) {
            // Without a connection the layer joins when it is back, and nobody is kept waiting for it.
            Join::Ready | Join::LayerDown => room.confirm(),
            Join::Pending(joining) => {
                let room = Rc::downgrade(&room);
                let draining = self.draining.clone();
                self.spawn(async move {
                    tokio::select! {
                        _ = joining => (),
                        () = draining.cancelled() => (),
                    }
                    if let Some(room) = room.upgrade() {
                        room.confirm();
                    }
                });
            }
        }
        self.rooms.borrow_mut().insert(group, Rc::clone(&room));
        Seat::new(room, Rc::clone(self))
    }

    /// Ends a room that has lost its last seat.
    pub(super) fn forget(&self, room: &Rc<Room>) {
        self.rooms.borrow_mut().remove(&room.group);
        self.layer.leave(self.id, &room.group);
    }

    pub(super) fn turn(&self) -> &Rc<Turn> {
        &self.turn
    }

    pub(super) fn new_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// From now on the socket is pinged, drained and found by its number.
    pub(super) fn enter(&self, socket: &Rc<Socket>) {
        self.sockets.borrow_mut().insert(socket.id, Rc::clone(socket));
        let now = Instant::now();
        if self.draining.is_cancelled() {
            socket.drain_at.set(Some(now));
        }
        if let Some(at) = tick(socket, now) {
            self.turn.deadline(socket, at);
        }
    }

    pub(super) fn leave(&self, socket: &Socket) {
        let mut sockets = self.sockets.borrow_mut();
        sockets.remove(&socket.id);
        self.turn.forget_timers(&sockets);
    }

    /// Lends the read buffer of the worker. Never across an `await`.
    pub(super) fn with_read_buffer<T>(&self, read: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut buffer = self.read_buffer.take();
        // A session that panicked has taken it along.
        buffer.resize(READ_BYTES_MAX, 0);
        let result = read(&mut buffer);
        self.read_buffer.set(buffer);
        result
    }

    /// Lets the handler decide on an event and does what it says.
    pub(super) fn perform(&self, socket: &Rc<Socket>, event: Event<'_>) {
        let profile = socket.profile();
        let mut refused = None;
        let mut state = socket.state.borrow_mut();
        profile.handler.on_event(&mut state, event, &mut |command| match command {
            Command::Text(text) => socket.send(OpCode::Text, text.as_bytes()),
            Command::Binary(bytes) => socket.send(OpCode::Binary, bytes),
            Command::Publish(message) => refused = self.publish(socket, message).err(),
            Command::PublishSigned(message) => {
                refused = self.publish(socket, self.signed(socket, message)).err();
            }
            Command::Announce(message) => self.announce(socket, message),
            Command::Fault(fault) => profile.metrics.fault(fault),
        });
        drop(state);
        if let Some(refusal) = refused {
            self.tell_refused(socket, refusal);
        }
    }

    fn publish(&self, socket: &Rc<Socket>, message: Message) -> Result<(), Refusal> {
        if let Some(group) = &socket.group {
            return self.layer.group_send(group, message, self.ticket(socket));
        }
        // A room without a group: the client hears itself.
        let mut payload = self.payload.borrow_mut();
        payload.clear();
        let rendering = socket.profile().handler.render(&message, &mut payload);
        show(socket, &rendering, &payload, Socket::send);
        Ok(())
    }

    fn signed(&self, socket: &Socket, message: Message) -> Message {
        let channel = self.layer.channel(self.ticket(socket), socket.group.as_ref());
        message.with(REPLY_CHANNEL, channel.as_str())
    }

    /// Tells the group about a socket. What comes of it concerns no client.
    fn announce(&self, socket: &Socket, message: Message) {
        let Some(group) = &socket.group else { return };
        let addressable = socket.profile().handler.is_addressable();
        let message = if addressable { self.signed(socket, message) } else { message };
        let nobody = Ticket { worker: self.id, socket: NOBODY };
        if let Err(refusal) = self.layer.group_send(group, message, nobody) {
            socket.profile().metrics.refused(refusal);
        }
    }

    fn ticket(&self, socket: &Socket) -> Ticket {
        Ticket { worker: self.id, socket: socket.id }
    }

    fn direct(self: &Rc<Self>, direct: &Direct) {
        for id in &direct.sockets {
            let socket = self.sockets.borrow().get(id).map(Rc::clone);
            let Some(socket) = socket else {
                self.turn.inbox.gone.inc();
                continue;
            };
            let handler = &socket.profile().handler;
            if handler.delivers(&direct.message) && direct.groups.iter().any(|group| socket.hears(group)) {
                continue;
            }
            let mut payload = self.payload.borrow_mut();
            payload.clear();
            match handler.on_direct(&direct.message, &mut payload) {
                Directive::Show(rendering) => {
                    if !matches!(rendering, Rendering::Skip(_) | Rendering::Ignore) {
                        self.catch_up(&socket);
                    }
                    show(&socket, &rendering, &payload, Socket::push);
                }
                Directive::Join(group) => self.join_group(&socket, group),
                Directive::Leave(group) => {
                    // What came before is still heard.
                    self.catch_up(&socket);
                    self.leave_group(&socket, &group);
                }
            }
        }
    }

    /// What a socket's rooms have collected is older than what comes to it now.
    fn catch_up(&self, socket: &Rc<Socket>) {
        let catch_up = |room: &Room| {
            if room.listed.get() {
                room.catch_up(socket);
            }
        };
        if let (Some(group), false) = (&socket.group, socket.has_left.get()) {
            self.rooms.borrow().get(group).map(Rc::as_ref).into_iter().for_each(catch_up);
        }
        socket.with_others(catch_up);
    }

    fn join_group(self: &Rc<Self>, socket: &Rc<Socket>, group: GroupName) {
        // Whoever is about to end would never leave it again.
        if !socket.is_open() || socket.hears(&group) {
            return;
        }
        if socket.group.as_ref() == Some(&group) {
            socket.has_left.set(false);
            self.seat(group).room().seat(socket);
        } else if socket.is_everywhere() {
            socket.profile().metrics.skipped(Skip::TooManyGroups);
        } else {
            socket.join(self.seat(group));
        }
    }

    fn leave_group(&self, socket: &Socket, group: &GroupName) {
        if socket.group.as_ref() != Some(group) {
            return socket.leave(group);
        }
        let room = self.rooms.borrow().get(group).map(Rc::clone);
        if let Some(room) = room.filter(|_| !socket.has_left.replace(true)) {
            room.unseat(socket);
        }
    }

    fn deliver(&self, delivery: &Delivery) {
        // The last member may have left while the message was on its way.
        let Some(room) = self.rooms.borrow().get(&delivery.group).map(Rc::clone) else { return };
        let collected = room.collect(&delivery.message, &mut self.payload.borrow_mut());
        if collected && !room.listed.replace(true) {
            self.collected.borrow_mut().push(room);
        }
    }

    fn refused(&self, ticket: Ticket, refusal: Refusal) {
        let socket = self.sockets.borrow().get(&ticket.socket).map(Rc::clone);
        if let Some(socket) = socket {
            self.tell_refused(&socket, refusal);
        }
    }

    fn tell_refused(&self, socket: &Rc<Socket>, refusal: Refusal) {
        socket.profile().metrics.refused(refusal);
        self.perform(socket, Event::Refused(refusal));
    }

    fn flush(&self) {
        // Taken before the loops: flushing may list a socket again, for the next turn.
        for room in self.collected.take() {
            room.listed.set(false);
            room.flush();
        }
        for socket in self.turn.flush.take() {
            socket.flush();
        }
    }

    fn on_timers(&self) {
        let now = Instant::now();
        while let Some((step, id)) = self.turn.due(now) {
            let socket = self.sockets.borrow().get(&id).map(Rc::clone);
            let Some(socket) = socket else { continue };
            if socket.timer_step.get() != step {
                continue;
            }
            socket.timer_step.set(0);
            if let Some(next) = tick(&socket, now) {
                self.turn.deadline(&socket, next);
            }
        }
    }

    fn drain(&self, grace: Duration, over: Duration) {
        let begin = Instant::now() + grace;
        self.drain.set(Some((begin, over)));
        self.draining.cancel();
        let sockets = self.sockets.borrow();
        let count = u32::try_from(sockets.len()).unwrap_or(u32::MAX).max(1);
        for (at, socket) in (0_u32..).zip(sockets.values()) {
            let drain_at = begin + over / count * at;
            socket.drain_at.set(Some(drain_at));
            self.turn.deadline(socket, drain_at);
        }
    }

    fn stop(&self) {
        self.stopping.set(true);
        for socket in self.sockets.borrow().values() {
            socket.close(CloseCode::SERVICE_RESTART, "restart", Cause::Shutdown);
            socket.flush();
            // What carries a stream of HTTP/2 is other tasks, which need some turns to send its close frame.
            if socket.transport().is_direct() {
                socket.end(Cause::Shutdown, None);
                // There is no time to wait for what comes of it.
                let _left = socket.poll_left(&mut Context::from_waker(Waker::noop()), |_| Poll::Ready(()));
            }
        }
        self.finishing.cancel();
        self.tasks.close();
    }
}

/// Sends one socket what an event is rendered to.
fn show(
    socket: &Rc<Socket>,
    rendering: &Rendering,
    payload: &[u8],
    send: impl FnOnce(&Rc<Socket>, OpCode, &[u8]),
) {
    match rendering {
        Rendering::Text => send(socket, OpCode::Text, payload),
        Rendering::Binary => send(socket, OpCode::Binary, payload),
        Rendering::Close { code, reason } => socket.close(*code, reason, Cause::Application),
        Rendering::Skip(skip) => socket.profile().metrics.skipped(*skip),
        Rendering::Ignore => (),
    }
}

impl Turn {
    /// Has the socket flushed at the end of this turn.
    pub(super) fn flush_later(&self, socket: &Rc<Socket>) {
        let mut flush = self.flush.borrow_mut();
        flush.push(Rc::clone(socket));
        if flush.len() == 1 {
            self.inbox.wake();
        }
    }

    /// Has the socket looked at then, unless it is looked at before.
    pub(super) fn deadline(&self, socket: &Socket, at: Instant) {
        let step = self.step(at) + 1;
        if (1..=step).contains(&socket.timer_step.get()) {
            return;
        }
        socket.timer_step.set(step);
        let mut timers = self.timers.borrow_mut();
        let is_next = timers.peek().is_none_or(|Reverse((next, _))| step < *next);
        timers.push(Reverse((step, socket.id)));
        if is_next {
            self.inbox.wake();
        }
    }

    /// Throws away the entries of sockets that are gone, once they are the most of them.
    fn forget_timers(&self, sockets: &HashMap<u64, Rc<Socket>>) {
        let mut timers = self.timers.borrow_mut();
        if TIMERS_SPARE + 2 * sockets.len() < timers.len() {
            timers.retain(|Reverse((_, id))| sockets.contains_key(id));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let timers = self.timers.borrow();
        let Reverse((step, _)) = timers.peek()?;
        Some(self.started_at + TIMER_STEP * u32::try_from(*step).unwrap_or(u32::MAX))
    }

    fn due(&self, now: Instant) -> Option<(u64, u64)> {
        let mut timers = self.timers.borrow_mut();
        let Reverse((step, _)) = timers.peek()?;
        if *step <= self.step(now) { timers.pop().map(|Reverse(due)| due) } else { None }
    }

    /// Whole steps from the start to a moment.
    fn step(&self, at: Instant) -> u64 {
        let steps = at.duration_since(self.started_at).as_millis() / TIMER_STEP.as_millis();
        u64::try_from(steps).unwrap_or(u64::MAX)
    }
}

/// Does what is due for a socket, and says when to look again.
fn tick(socket: &Rc<Socket>, now: Instant) -> Option<Instant> {
    match socket.phase() {
        Phase::Open => (),
        Phase::Closing { until, .. }
        | Phase::Answered { until, .. }
        | Phase::Ended { until: Some(until), .. }
            if now < until =>
        {
            return Some(until);
        }
        Phase::Closing { .. } => {
            socket.end(Cause::ClientGone, None);
            return None;
        }
        Phase::Answered { .. } | Phase::Ended { .. } => {
            socket.abandon();
            return None;
        }
    }
    let drain_at = socket.drain_at.get();
    if drain_at.is_some_and(|at| at <= now) {
        socket.close(CloseCode::SERVICE_RESTART, "restart", Cause::Shutdown);
        return None;
    }
    let limited = socket.limited.as_deref();
    let expires_at = limited.and_then(|limited| limited.expires_at);
    if expires_at.is_some_and(|at| at <= now) {
        socket.close(CloseCode::SERVICE_RESTART, "max age", Cause::MaxAge);
        return None;
    }
    let idle_at = limited.zip(socket.profile().idle_max).map(|(limited, max)| limited.spoke_at.get() + max);
    if idle_at.is_some_and(|at| at <= now) {
        socket.close(CloseCode::GOING_AWAY, "idle", Cause::Idle);
        return None;
    }
    let ping = socket.profile().ping;
    let next = match socket.pinged_at.get().filter(|&pinged| socket.heard_at.get() < pinged) {
        Some(pinged_at) if now < pinged_at + ping.timeout => pinged_at + ping.timeout,
        Some(_) => {
            socket.close(CloseCode::GOING_AWAY, "ping timeout", Cause::PingTimeout);
            // A dead peer answers no close frame either.
            socket.flush();
            socket.end(Cause::PingTimeout, None);
            return None;
        }
        None if now < socket.heard_at.get() + ping.every => socket.heard_at.get() + ping.every,
        None => {
            socket.ping(now);
            // Answered by then, most likely, so that the next silence is noticed in time too.
            now + ping.timeout.min(ping.every)
        }
    };
    [drain_at, expires_at, idle_at].into_iter().flatten().min().map_or(Some(next), |at| Some(at.min(next)))
}
