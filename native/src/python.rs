//! The border: what Python sees. The only file that knows Python.
//!
//! Everything here runs on the event loop's thread, under Python's lock, and never waits. A batch crosses once
//! in each direction: `submit` takes `Call` objects as they are, `drain` gives back the pairs that the pump is
//! handed. No panic crosses: it becomes a RuntimeError.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PySequence, PyString, PyTuple};

use crate::channel::{Settings, Tls};
use crate::frame::frame;
use crate::metadata::{self, Common, Entry};
use crate::port::{Completion, Handle, Mailbox};
use crate::resolve::Place;
use crate::runtime::{self, Command, Commands, Id, Submitted};
use crate::stats::Stats;
use crate::status::{INTERNAL, Kind, Outcome, RESOURCE_EXHAUSTED, UNAVAILABLE, Value};
use crate::tls;

/// Calls of one port that may be out; the engine's concurrency is far below, and this bounds the queues.
const CALLS_MAX: usize = 100_000;
/// Longer than any deadline that means something.
const TIMEOUT_MAX_MS: f64 = 86_400_000.0 * 365.0;

/// Runs `body` so that no panic crosses into Python.
fn guarded<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(PyRuntimeError::new_err("the native transport has a bug: it panicked")))
}

/// The thread and the process it lives in.
struct Shared {
    commands: Commands,
    process: u32,
    ids: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn check(&self) -> PyResult<()> {
        if std::process::id() != self.process {
            return Err(PyRuntimeError::new_err(
                "the native transport was made before a fork; its thread did not come along: make it after",
            ));
        }
        Ok(())
    }

    /// Whether the thread is still there to do it.
    fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    fn next_id(&self) -> Id {
        self.ids.fetch_add(1, Relaxed)
    }
}

#[pyclass(frozen, module = "pelton_native")]
struct Runtime {
    shared: Arc<Shared>,
}

#[pymethods]
impl Runtime {
    #[new]
    fn new() -> PyResult<Self> {
        guarded(|| {
            let (commands, thread) = runtime::start()?;
            let shared = Shared {
                commands,
                process: std::process::id(),
                ids: AtomicU64::new(0),
                thread: Mutex::new(Some(thread)),
            };
            Ok(Runtime { shared: Arc::new(shared) })
        })
    }

    /// A channel to `address`; ValueError says what is wrong with the address or the certificates.
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (address, *, roots, certificate, key, server_name, keepalive_time_ms, keepalive_timeout_ms,
        connect_timeout_ms, backoff_min_ms, backoff_max_ms, reply_bytes_max, metadata_bytes_max))]
    fn channel(
        &self,
        address: &str,
        roots: Option<&[u8]>,
        certificate: Option<&[u8]>,
        key: Option<&[u8]>,
        server_name: Option<String>,
        keepalive_time_ms: u64,
        keepalive_timeout_ms: u64,
        connect_timeout_ms: u64,
        backoff_min_ms: u64,
        backoff_max_ms: u64,
        reply_bytes_max: usize,
        metadata_bytes_max: u32,
    ) -> PyResult<Channel> {
        guarded(|| {
            self.shared.check()?;
            let tls = match roots {
                None => None,
                Some(roots) => Some(Tls {
                    config: tls::config(roots, certificate.zip(key)).map_err(PyValueError::new_err)?,
                    server_name,
                }),
            };
            let settings = Settings {
                target: address.to_owned(),
                place: Place::parse(address).map_err(PyValueError::new_err)?,
                tls,
                keepalive_time: Duration::from_millis(keepalive_time_ms),
                keepalive_timeout: Duration::from_millis(keepalive_timeout_ms),
                connect_timeout: Duration::from_millis(connect_timeout_ms),
                backoff_min: Duration::from_millis(backoff_min_ms),
                backoff_max: Duration::from_millis(backoff_max_ms),
                reply_bytes_max,
                metadata_bytes_max,
            };
            let (id, stats) = (self.shared.next_id(), Arc::<Stats>::default());
            self.shared.send(Command::OpenChannel(id, Box::new(settings), stats.clone()));
            Ok(Channel { shared: self.shared.clone(), id, stats })
        })
    }

    /// Where the calls of one subscription come and go; its `fileno` is readable while results wait.
    #[pyo3(signature = (path, *, reads_replies, request_bytes_max))]
    fn port(&self, path: &str, reads_replies: bool, request_bytes_max: usize) -> PyResult<Port> {
        guarded(|| {
            self.shared.check()?;
            let path = path.parse().map_err(|error| PyValueError::new_err(format!("{path:?}: {error}")))?;
            let (id, mailbox) = (self.shared.next_id(), Arc::new(Mailbox::new()?));
            self.shared.send(Command::OpenPort(id, mailbox.clone(), reads_replies));
            Ok(Port {
                shared: self.shared.clone(),
                id,
                path,
                mailbox,
                request_bytes_max: request_bytes_max.min(u32::MAX as usize),
                table: Table::default(),
                names: HashMap::new(),
                commons: HashMap::new(),
            })
        })
    }

    /// Ends every call and connection, and the thread. May be called twice.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guarded(|| {
            self.shared.check()?;
            let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                self.shared.send(Command::Stop);
                py.detach(|| thread.join())
                    .map_err(|_| PyRuntimeError::new_err("the thread had panicked"))?;
            }
            Ok(())
        })
    }
}

#[pyclass(frozen, module = "pelton_native")]
struct Channel {
    shared: Arc<Shared>,
    id: Id,
    stats: Arc<Stats>,
}

#[pymethods]
impl Channel {
    /// Take no more calls; what is out may end within `grace_ms`. Returns at once; may be called twice.
    fn close(&self, grace_ms: u64) -> PyResult<()> {
        guarded(|| {
            self.shared.check()?;
            self.shared.send(Command::CloseChannel(self.id, Duration::from_millis(grace_ms)));
            Ok(())
        })
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = PyDict::new(py);
        for (name, count) in self.stats.read() {
            counts.set_item(name, count)?;
        }
        Ok(counts)
    }
}

/// A call that is out, as Python knows it.
struct Entered {
    delivery: Py<PyAny>,
    cancelled: bool,
}

/// The calls that are out: by place for the thread, by identity for Python.
#[derive(Default)]
struct Table {
    places: Vec<(u32, Option<Entered>)>,
    free: Vec<u32>,
    /// Address of the delivery, which lives while it stands here -> its place.
    by_identity: HashMap<usize, u32>,
}

impl Table {
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// None if the delivery has a call out already.
    fn enter(&mut self, delivery: &Bound<'_, PyAny>) -> Option<Handle> {
        let identity = delivery.as_ptr() as usize;
        if self.by_identity.contains_key(&identity) {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        self.by_identity.insert(identity, slot);
        let (generation, place) = &mut self.places[slot as usize];
        *place = Some(Entered { delivery: delivery.clone().unbind(), cancelled: false });
        Some(Handle { slot, generation: *generation })
    }

    /// Marks it as cancelled; None if it has no call out, or was cancelled before.
    fn cancel(&mut self, delivery: &Bound<'_, PyAny>) -> Option<Handle> {
        let slot = *self.by_identity.get(&(delivery.as_ptr() as usize))?;
        self.cancel_place(slot)
    }

    fn cancel_place(&mut self, slot: u32) -> Option<Handle> {
        let (generation, place) = &mut self.places[slot as usize];
        let place = place.as_mut()?;
        if std::mem::replace(&mut place.cancelled, true) {
            return None;
        }
        Some(Handle { slot, generation: *generation })
    }

    /// The call has ended; None if it had before.
    fn leave(&mut self, handle: Handle) -> Option<Entered> {
        let (generation, place) = self.places.get_mut(handle.slot as usize)?;
        if *generation != handle.generation {
            return None;
        }
        let place = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(handle.slot);
        self.by_identity.remove(&(place.delivery.as_ptr() as usize));
        Some(place)
    }
}

#[pyclass(module = "pelton_native")]
struct Port {
    shared: Arc<Shared>,
    id: Id,
    path: PathAndQuery,
    mailbox: Arc<Mailbox>,
    request_bytes_max: usize,
    table: Table,
    /// Names of entries that were checked before. A subscription has a handful.
    names: HashMap<String, http::HeaderName>,
    /// What was made of tuples that calls have in common, by the tuple's address: it lives while it stands
    /// here, and never changes.
    commons: HashMap<usize, (Py<PyAny>, Arc<Common>)>,
}

/// More names than any subscription has: beyond these each is checked every time.
const NAMES_MAX: usize = 256;
/// As many as there are partitions and attempts; beyond these all are made anew.
const COMMONS_MAX: usize = 1_024;

impl Port {
    fn name(&mut self, text: &str) -> Result<http::HeaderName, String> {
        if let Some(known) = self.names.get(text) {
            return Ok(known.clone());
        }
        let name = metadata::name(text)?;
        if self.names.len() < NAMES_MAX {
            self.names.insert(text.to_owned(), name.clone());
        }
        Ok(name)
    }

    fn entries(&mut self, entries: &Bound<'_, PyAny>, found: &mut Vec<Entry>) -> Result<(), String> {
        let entries = entries.cast::<PyTuple>().map_err(|_| "its metadata is no tuple".to_owned())?;
        for entry in entries.iter_borrowed() {
            let pair = entry.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
            let pair = pair.ok_or_else(|| "an entry of its metadata is no pair".to_owned())?;
            let (Ok(name), Ok(value)) = (pair.get_borrowed_item(0), pair.get_borrowed_item(1)) else {
                return Err("an entry of its metadata is no pair".to_owned());
            };
            let no_text = "a metadata name is no text";
            let name = name.cast::<PyString>().map_err(|_| no_text.to_owned())?;
            let name = self.name(name.to_str().map_err(|_| no_text.to_owned())?)?;
            let value = if let Ok(value) = value.cast::<PyString>() {
                let text = value.to_str().map_err(|_| format!("the value of {name:?} is no text"))?;
                metadata::text(&name, text)?
            } else if let Ok(value) = value.cast::<PyBytes>() {
                metadata::binary(&name, value.as_bytes())?
            } else {
                return Err(format!("the value of {name:?} is neither text nor bytes"));
            };
            found.push((name, value));
        }
        Ok(())
    }

    fn common(&mut self, entries: &Bound<'_, PyAny>, timeout: Duration) -> Result<Arc<Common>, String> {
        let address = entries.as_ptr() as usize;
        let known = self.commons.get(&address).filter(|(_, known)| known.timeout() == timeout);
        if let Some((_, known)) = known {
            return Ok(known.clone());
        }
        let mut found = Vec::new();
        self.entries(entries, &mut found)?;
        let common = Arc::new(Common::new(&found, timeout));
        if self.commons.len() >= COMMONS_MAX {
            self.commons.clear();
        }
        self.commons.insert(address, (entries.clone().unbind(), common.clone()));
        Ok(common)
    }

    /// What is to be sent; an outcome where it cannot be.
    fn read(
        &mut self,
        call: &Bound<'_, PyAny>,
        handle: Handle,
        shared: &[Entry],
    ) -> Result<Submitted, Outcome> {
        let py = call.py();
        let illegal = |why: String| Outcome::new(Kind::Illegal, INTERNAL, why);
        let attribute = |name| call.getattr(name).map_err(|error| illegal(error.to_string()));
        let body = attribute(intern!(py, "body"))?;
        let body =
            body.cast::<PyBytes>().map_err(|_| illegal("its body is not bytes".to_owned()))?.as_bytes();
        if body.len() > self.request_bytes_max {
            return Err(Outcome::new(Kind::TooLarge, RESOURCE_EXHAUSTED, body.len().to_string()));
        }
        let timeout_ms: f64 = attribute(intern!(py, "timeout_ms"))?
            .extract()
            .map_err(|_| illegal("its timeout_ms is no number".to_owned()))?;
        if timeout_ms.is_nan() {
            return Err(illegal("its timeout_ms is no number".to_owned()));
        }
        let timeout = Duration::from_secs_f64(timeout_ms.clamp(0.0, TIMEOUT_MAX_MS) / 1_000.0);
        let common = self.common(&attribute(intern!(py, "common"))?, timeout).map_err(illegal)?;
        let own = attribute(intern!(py, "metadata"))?;
        let mut entries = Vec::with_capacity(4 + shared.len());
        self.entries(&own, &mut entries).map_err(illegal)?;
        entries.extend_from_slice(shared);
        Ok(Submitted { handle, common, entries, body: frame(body), timeout })
    }

    fn cancel_handles(&self, handles: Vec<Handle>) {
        let mut completions = handles
            .iter()
            .map(|handle| Completion { handle: *handle, outcome: Some(Box::new(Outcome::cancelled())) })
            .collect();
        self.mailbox.put(&mut completions);
        self.shared.send(Command::Cancel(self.id, handles));
    }
}

#[pymethods]
impl Port {
    fn fileno(&self) -> i32 {
        self.mailbox.fd()
    }

    /// Calls that have no result yet.
    fn __len__(&self) -> usize {
        self.table.len()
    }

    /// Start the calls, in this order: objects with `delivery`, `body`, `metadata`, `common` and `timeout_ms`.
    /// `common` is the same tuple for many of them, `shared` are entries that all of them bear. Each ends in
    /// exactly one result of `drain`.
    fn submit(
        &mut self,
        channel: &Channel,
        calls: &Bound<'_, PySequence>,
        shared: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        guarded(|| {
            self.shared.check()?;
            let py = calls.py();
            let at = Instant::now();
            let mut refused: Vec<Completion> = Vec::new();
            let mut submitted = Vec::with_capacity(calls.len()?);
            let mut of_all = Vec::new();
            let wrong = self.entries(shared.as_any(), &mut of_all).err();
            for call in calls.try_iter()? {
                let call = call?;
                let delivery = call.getattr(intern!(py, "delivery"))?;
                let full = self.table.len() >= CALLS_MAX;
                let Some(handle) = self.table.enter(&delivery) else {
                    return Err(PyRuntimeError::new_err(format!(
                        "{} was submitted while its last attempt is out",
                        delivery.repr()?
                    )));
                };
                let read = match &wrong {
                    Some(why) => Err(Outcome::new(Kind::Illegal, INTERNAL, why.clone())),
                    None if full => Err(Outcome::failed(
                        UNAVAILABLE,
                        format!("more than {CALLS_MAX} calls are out: the native transport takes no more"),
                    )),
                    None => self.read(&call, handle, &of_all),
                };
                match read {
                    Ok(one) => submitted.push(one),
                    Err(outcome) => refused.push(Completion { handle, outcome: Some(Box::new(outcome)) }),
                }
            }
            if !submitted.is_empty() {
                let handles: Vec<Handle> = submitted.iter().map(|one| one.handle).collect();
                let path = self.path.clone();
                let command =
                    Command::Submit { port: self.id, channel: channel.id, path, calls: submitted, at };
                if !self.shared.send(command) {
                    refused.extend(handles.into_iter().map(|handle| Completion {
                        handle,
                        outcome: Some(Box::new(Outcome::failed(
                            UNAVAILABLE,
                            "the native transport has ended",
                        ))),
                    }));
                }
            }
            self.mailbox.put(&mut refused);
            Ok(())
        })
    }

    /// Results that are ready: pairs (delivery, `acked`), and for all that must be looked at
    /// (delivery, kind, code, message, reply, trailers).
    fn drain<'py>(
        &mut self,
        py: Python<'py>,
        acked: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        guarded(|| {
            let (plain, others) = (PyList::empty(py), PyList::empty(py));
            for Completion { handle, outcome } in self.mailbox.take() {
                let Some(place) = self.table.leave(handle) else { continue };
                let delivery = place.delivery.into_bound(py);
                match outcome {
                    None if !place.cancelled => plain.append((delivery, acked))?,
                    Some(outcome) if !place.cancelled => others.append(told(py, delivery, *outcome)?)?,
                    _ => others.append(told(py, delivery, Outcome::cancelled())?)?,
                }
            }
            Ok((plain, others))
        })
    }

    /// End the calls of these deliveries now; what has no call out is ignored.
    fn cancel(&mut self, deliveries: &Bound<'_, PyAny>) -> PyResult<()> {
        guarded(|| {
            self.shared.check()?;
            let mut handles = Vec::new();
            for delivery in deliveries.try_iter()? {
                handles.extend(self.table.cancel(&delivery?));
            }
            self.cancel_handles(handles);
            Ok(())
        })
    }

    /// End all calls that are out now.
    fn cancel_all(&mut self) -> PyResult<()> {
        guarded(|| {
            self.shared.check()?;
            let slots = 0..self.table.places.len() as u32;
            let handles = slots.filter_map(|slot| self.table.cancel_place(slot)).collect();
            self.cancel_handles(handles);
            Ok(())
        })
    }

    /// No more calls. May be called twice.
    fn close(&self) -> PyResult<()> {
        guarded(|| {
            self.shared.check()?;
            self.shared.send(Command::ClosePort(self.id));
            Ok(())
        })
    }
}

fn told<'py>(
    py: Python<'py>,
    delivery: Bound<'py, PyAny>,
    outcome: Outcome,
) -> PyResult<Bound<'py, PyTuple>> {
    let trailers = PyList::empty(py);
    for (name, value) in outcome.trailers {
        match value {
            Value::Text(text) => trailers.append((name, text))?,
            Value::Binary(bytes) => trailers.append((name, PyBytes::new(py, &bytes)))?,
        }
    }
    let reply = PyBytes::new(py, &outcome.reply);
    (delivery, outcome.kind as u8, outcome.code, outcome.message, reply, trailers).into_pyobject(py)
}

#[pymodule(name = "_native")]
mod native {
    use super::{Channel, Port, Runtime};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add_class::<Runtime>()?;
        module.add_class::<Channel>()?;
        module.add_class::<Port>()
    }
}
