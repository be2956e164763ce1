//! Unary gRPC calls for Pelton: batches in, batches out, on a thread of its own.
//!
//! `python` is the border: what Python sees, and the only file that knows Python. `runtime` is the thread and
//! what it is told. A `channel` is the way to one target: it looks the name up (`resolve`), keeps
//! `connection`s open and gives each `call` to one of them. `port` is where a subscription's results are
//! fetched. `frame`, `metadata`, `status` and `tls` code and decode, and hold no state.
//!
//! Rule 1: every call that was submitted ends exactly once (`call`). Rule 2: nothing here retries what the
//! server may have run; what it certainly never ran goes out again, a bounded number of times. Rule 3: nothing
//! here decides what a status means for an event. Rule 4: everything that queues has a bound with a name.

/// A call is a dozen small allocations, made on one thread and freed on another: an eighth less CPU than by libc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod call;
pub mod channel;
pub mod connection;
pub mod deadline;
pub mod frame;
pub mod metadata;
pub mod port;
pub mod resolve;
pub mod runtime;
pub mod stats;
pub mod status;
pub mod tls;

#[cfg(feature = "python")]
mod python;
