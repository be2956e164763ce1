//! The transport's one thread, and what it is told.
//!
//! Commands come in batches and in order. Nothing on this thread knows Python, so nothing here ever waits for
//! its lock. Names are looked up on helper threads, since the system's look-up blocks.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use crate::call::{Call, Request};
use crate::channel::{Channel, Settings};
use crate::deadline::Deadlines;
use crate::metadata::{Common, Entry};
use crate::port::{Handle, Mailbox, Port};
use crate::stats::Stats;
use crate::status::Outcome;

/// Threads that look names up: one that hangs must not hold up the others.
const LOOK_UP_THREADS_MAX: usize = 4;
/// How long connections have to say goodbye when the runtime ends.
const GOODBYE: Duration = Duration::from_millis(1_500);

/// A call as Python hands it over.
pub struct Submitted {
    pub handle: Handle,
    pub common: Arc<Common>,
    pub entries: Vec<Entry>,
    pub body: Bytes,
    pub timeout: Duration,
}

/// Names a channel, or a port, between the two threads.
pub type Id = u64;

/// The queue of these is bounded by the calls that may be out, and by the channels and ports there are.
pub enum Command {
    OpenChannel(Id, Box<Settings>, Arc<Stats>),
    CloseChannel(Id, Duration),
    OpenPort(Id, Arc<Mailbox>, bool),
    ClosePort(Id),
    Submit { port: Id, channel: Id, path: PathAndQuery, calls: Vec<Submitted>, at: std::time::Instant },
    Cancel(Id, Vec<Handle>),
    Stop,
}

pub type Commands = UnboundedSender<Command>;

pub fn start() -> std::io::Result<(Commands, JoinHandle<()>)> {
    let (commands, receiver) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOK_UP_THREADS_MAX)
        .thread_name("pelton-look-up")
        .build()?;
    let thread = std::thread::Builder::new().name("pelton-native".to_owned()).spawn(move || {
        // A panic on the way of one task is that task's end. One here is the thread's: its calls end as lost
        // when they are dropped, and whoever submits more is told.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let local = LocalSet::new();
            local.block_on(&runtime, Io::default().run(receiver));
            drop(local);
        }));
        // A look-up that hangs is not waited for.
        runtime.shutdown_background();
    })?;
    Ok((commands, thread))
}

#[derive(Default)]
struct Io {
    channels: HashMap<Id, Rc<Channel>>,
    /// Closed ones with calls or connections that still end.
    closing: Vec<Rc<Channel>>,
    ports: HashMap<Id, (Rc<Port>, AbortHandle)>,
    deadlines: Rc<Deadlines>,
}

impl Io {
    async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        spawn_local(self.deadlines.clone().run());
        while let Some(command) = commands.recv().await {
            if !self.perform(command) {
                break;
            }
        }
        self.stop().await;
    }

    /// Whether to go on.
    fn perform(&mut self, command: Command) -> bool {
        match command {
            Command::OpenChannel(id, settings, stats) => {
                self.channels.insert(id, Channel::new(*settings, stats));
            }
            Command::CloseChannel(id, grace) => {
                self.closing.retain(|channel| !channel.is_quiet());
                if let Some(channel) = self.channels.remove(&id) {
                    channel.close(grace);
                    self.closing.push(channel);
                }
            }
            Command::OpenPort(id, mailbox, reads_replies) => {
                let port = Port::new(mailbox, reads_replies);
                let delivering = spawn_local(port.clone().deliver()).abort_handle();
                self.ports.insert(id, (port, delivering));
            }
            Command::ClosePort(id) => {
                if let Some((port, delivering)) = self.ports.remove(&id) {
                    port.remove_all().iter().for_each(|call| call.forget());
                    delivering.abort();
                }
            }
            Command::Submit { port, channel, path, calls, at } => {
                self.submit(port, channel, &path, calls, at)
            }
            Command::Cancel(port, handles) => self.cancel(port, &handles),
            Command::Stop => return false,
        }
        true
    }

    fn submit(
        &mut self,
        port: Id,
        channel: Id,
        path: &PathAndQuery,
        calls: Vec<Submitted>,
        at: std::time::Instant,
    ) {
        let Some((port, _)) = self.ports.get(&port) else { return };
        let Some(channel) = self.channels.get(&channel) else {
            for call in calls {
                port.complete(call.handle, Some(Box::new(Outcome::cancelled())));
            }
            return;
        };
        let submitted = Instant::from_std(at);
        let made = calls.into_iter().map(|one| {
            let request = Request {
                path: path.clone(),
                common: one.common,
                entries: one.entries,
                body: one.body,
                timeout: one.timeout,
                submitted,
            };
            let call = Call::new(one.handle, port, channel, request);
            port.enter(call.clone());
            self.deadlines.watch(&call);
            call
        });
        channel.submit(made);
    }

    fn cancel(&self, port: Id, handles: &[Handle]) {
        let Some((port, _)) = self.ports.get(&port) else { return };
        let mut channels: Vec<Rc<Channel>> = Vec::new();
        for handle in handles {
            let Some(call) = port.remove(*handle) else { continue };
            call.forget();
            if !channels.iter().any(|known| Rc::ptr_eq(known, &call.channel)) {
                channels.push(call.channel.clone());
            }
        }
        channels.iter().for_each(|channel| channel.sweep());
    }

    async fn stop(mut self) {
        for (port, _) in self.ports.values() {
            for call in port.remove_all() {
                call.end(Outcome::cancelled());
            }
        }
        self.closing.extend(self.channels.drain().map(|(_, channel)| channel));
        for channel in &self.closing {
            channel.close(GOODBYE);
        }
        let quiet = async {
            while !self.closing.iter().all(|channel| channel.is_quiet()) {
                // A goodbye is a round trip; nothing tells of the last one, and this is the process's end.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(GOODBYE, quiet).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::Place;
    use crate::status::{Kind, UNAVAILABLE, UNKNOWN};

    fn settings(address: &str) -> Box<Settings> {
        Box::new(Settings {
            target: address.to_owned(),
            place: Place::parse(address).unwrap(),
            tls: None,
            keepalive_time: Duration::from_secs(300),
            keepalive_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
            reply_bytes_max: 4 << 20,
            metadata_bytes_max: 64 << 10,
        })
    }

    fn submitted(slot: u32) -> Submitted {
        Submitted {
            handle: Handle { slot, generation: 1 },
            common: Arc::new(Common::new(&[], Duration::from_secs(30))),
            entries: Vec::new(),
            body: crate::frame::frame(b"hello"),
            timeout: Duration::from_secs(30),
        }
    }

    fn submit(commands: &Commands, channel: Id, slots: std::ops::Range<u32>) {
        let calls = slots.map(submitted).collect();
        let path = PathAndQuery::from_static("/a.B/C");
        let at = std::time::Instant::now();
        assert!(commands.send(Command::Submit { port: 1, channel, path, calls, at }).is_ok());
    }

    fn wait_for(mailbox: &Mailbox, count: usize) -> Vec<crate::port::Completion> {
        let begun = std::time::Instant::now();
        let mut found = Vec::new();
        while found.len() < count {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} of {count} arrived", found.len());
            found.extend(mailbox.take());
            std::thread::yield_now();
        }
        found
    }

    #[test]
    fn every_call_ends_where_nobody_listens_and_at_the_stop() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (commands, thread) = start().unwrap();
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let _ = commands.send(Command::OpenPort(1, mailbox.clone(), false));
        for (id, address) in [(1, nobody), (2, silent.local_addr().unwrap())] {
            let _ = commands.send(Command::OpenChannel(id, settings(&address.to_string()), Arc::default()));
        }
        submit(&commands, 1, 0..3);
        submit(&commands, 2, 3..5);
        for one in wait_for(&mailbox, 3) {
            assert!(one.handle.slot < 3);
            assert_eq!(one.outcome.unwrap().code, UNAVAILABLE);
        }
        submit(&commands, 9, 5..6);
        let unknown = wait_for(&mailbox, 1).pop().unwrap();
        assert_eq!((unknown.handle.slot, unknown.outcome.unwrap().kind), (5, Kind::Cancelled));
        let _ = commands.send(Command::Stop);
        thread.join().unwrap();
        let mut cut: Vec<_> =
            mailbox.take().into_iter().map(|one| (one.handle.slot, one.outcome.unwrap().kind)).collect();
        cut.sort_by_key(|(slot, _)| *slot);
        assert_eq!(cut, [(3, Kind::Cancelled), (4, Kind::Cancelled)]);
        assert!(commands.is_closed());
    }

    #[test]
    fn a_panic_fails_its_calls_and_nothing_else() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mailbox = Arc::new(Mailbox::new().unwrap());
        LocalSet::new().block_on(&runtime, async {
            let port = Port::new(mailbox.clone(), false);
            let delivering = spawn_local(port.clone().deliver());
            let channel = Channel::new(*settings("127.0.0.1:1"), Arc::default());
            let one = submitted(0);
            let request = Request {
                path: PathAndQuery::from_static("/a.B/C"),
                common: one.common,
                entries: one.entries,
                body: one.body,
                timeout: one.timeout,
                submitted: Instant::now(),
            };
            let call = Call::new(one.handle, &port, &channel, request);
            let task = spawn_local(async move {
                let _held = call;
                panic!("on purpose");
            });
            assert!(task.await.unwrap_err().is_panic());
            tokio::task::yield_now().await;
            delivering.abort();
        });
        let lost = mailbox.take().pop().unwrap();
        assert_eq!(lost.outcome.unwrap().code, UNKNOWN);
    }
}
