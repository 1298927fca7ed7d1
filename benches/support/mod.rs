//! What the programs that measure two servers beside each other stand on: rounds, servers, clients and the report.
//!
//! Each program has a `job::Job`, a `target::Target` and a `target::Kind` of its own.

pub(crate) mod rounds;
pub(crate) mod report;
pub(crate) mod usage;
pub(crate) mod process;
pub(crate) mod anteroom;
pub(crate) mod certificate;
pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod poll;
pub(crate) mod cycles;
pub(crate) mod fanout;
