//! The sockets: workers that hold them, rooms that join them, and the task that reads each one.
//!
//! A [`Worker`] is one thread with sockets and rooms of its own and no locks. Others reach it through its
//! inbox. Reading happens in a task per socket, writing at the end of a turn in the worker's loop, so that
//! whatever came in during one turn leaves in one write per socket.

mod profile;
mod rate;
mod worker;
mod inbox;
mod room;
mod socket;
mod transport;
mod task;
mod metrics;

pub use inbox::WorkerInbox;
pub use metrics::{Metrics, RouteMetrics};
pub use profile::{FullQueue, Ping, Profile, Queue};
pub use rate::{OverRate, Rate};
pub use room::Seat;
pub use task::Admission;
pub use transport::{Duplex, Transport};
pub use worker::{Work, Worker};
