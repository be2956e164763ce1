//! The way to one target: its addresses, the connections to them, and the calls that wait for one.
//!
//! Each call goes to the next connection with room, in turn. Where none has room one more is opened, up to
//! `CONNECTIONS_PER_ADDRESS_MAX`. Where there is none and none is being made, calls fail at once with the
//! reason, so that whoever watches the target hears of an outage at the first call.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::Call;
use crate::connection::{Connection, Failure, Refused};
use crate::resolve::Place;
use crate::stats::{self, Stats};
use crate::status::{self, Kind, Outcome};

/// More than one only where the peer's stream limit asks for it.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 8;
/// What the server certainly never ran goes out again, this many times: GOAWAYs and refusals in a row are
/// then the target's state, and the engine's business.
pub const SENT_AGAIN_MAX: u32 = 8;
/// One look-up; the system's own time-outs add up to half a minute.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// A name is looked up no more often than this.
const LOOK_UP_EVERY: Duration = Duration::from_secs(1);
/// A connection that was lost before this, without having answered anything, counts as a failed attempt.
const WORKED_AFTER: Duration = Duration::from_secs(1);

pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub server_name: Option<String>,
}

/// What a channel is made with; nothing of it changes.
pub struct Settings {
    /// As the user wrote it, for messages.
    pub target: String,
    pub place: Place,
    pub tls: Option<Tls>,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub connect_timeout: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub reply_bytes_max: usize,
    pub metadata_bytes_max: u32,
}

/// One address of the target.
struct Endpoint {
    address: SocketAddr,
    /// Attempts under way.
    connecting: usize,
    /// The last attempt failed: until the next one there is nothing to wait for.
    refused: bool,
    /// The wait before the next attempt; zero while all is well.
    backoff: Duration,
    retry_at: Instant,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Rc<Call>>,
    /// Those that take calls.
    connections: Vec<Rc<Connection>>,
    /// Those that only finish what is out on them.
    retired: Vec<Rc<Connection>>,
    endpoints: Vec<Endpoint>,
    /// Whose turn it is.
    next: usize,
    looking_up: bool,
    /// When the name was looked up last, and when it may be again after a failure.
    looked_up: Option<Instant>,
    look_up_backoff: Duration,
    look_up_at: Option<Instant>,
    /// An address has failed since the last look-up: the name may mean others now.
    stale: bool,
    failure: Option<Failure>,
    /// What the reconnect timer is set for.
    timer: Option<Instant>,
    closed: bool,
}

pub struct Channel {
    pub settings: Settings,
    pub stats: Arc<Stats>,
    state: RefCell<State>,
    random: Cell<u64>,
}

impl Channel {
    pub fn new(settings: Settings, stats: Arc<Stats>) -> Rc<Self> {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
        Rc::new(Channel { settings, stats, state: RefCell::default(), random: Cell::new(seed | 1) })
    }

    // -- Calls in ---------------------------------------------------------------------------------------

    pub fn submit(self: &Rc<Self>, calls: impl Iterator<Item = Rc<Call>>) {
        {
            let mut state = self.state.borrow_mut();
            if state.closed {
                calls.for_each(|call| call.end(Outcome::cancelled()));
                return;
            }
            state.waiting.extend(calls);
        }
        self.dispatch();
    }

    /// Gives waiting calls to connections, as many as there is room for, and asks for more room.
    pub fn dispatch(self: &Rc<Self>) {
        loop {
            let (call, connection) = {
                let mut state = self.state.borrow_mut();
                while state.waiting.front().is_some_and(|call| call.is_ended()) {
                    state.waiting.pop_front();
                }
                if state.waiting.is_empty() {
                    break;
                }
                let Some(connection) = state.pick() else { break };
                let Some(call) = state.waiting.pop_front() else { break };
                (call, connection)
            };
            match connection.start(&call) {
                Ok(()) => stats::add(&self.stats.sent, 1),
                Err(Refused::Request(why)) => call.end(Outcome::new(Kind::Illegal, status::INTERNAL, why)),
                Err(Refused::Connection) => {
                    self.state.borrow_mut().waiting.push_front(call);
                    connection.retire();
                    self.retired(&connection);
                }
            }
        }
        if !self.state.borrow().waiting.is_empty() {
            self.want_room();
        }
        stats::set(&self.stats.waiting, self.state.borrow().waiting.len() as u64);
    }

    /// Takes what has ended out of the queue.
    pub fn sweep(&self) {
        let mut state = self.state.borrow_mut();
        state.waiting.retain(|call| !call.is_ended());
        stats::set(&self.stats.waiting, state.waiting.len() as u64);
    }

    /// A call's exchange is over. `why` the connection ended, where it did.
    pub fn finished(self: &Rc<Self>, call: &Rc<Call>, answer: Result<Outcome, h2::Error>, why: Option<&str>) {
        if call.is_ended() {
            return;
        }
        match answer {
            Ok(outcome) => call.end(outcome),
            Err(error) if never_ran(&error) && call.back() <= SENT_AGAIN_MAX => {
                stats::add(&self.stats.sent_again, 1);
                // Those of one connection come in the order in which they went out: each behind the other.
                let mut state = self.state.borrow_mut();
                if state.closed {
                    drop(state);
                    call.end(Outcome::cancelled());
                } else {
                    state.waiting.push_back(call.clone());
                }
            }
            Err(error) => call.end(self.lost(call, &error, why)),
        }
    }

    fn lost(&self, call: &Call, error: &h2::Error, why: Option<&str>) -> Outcome {
        let target = &self.settings.target;
        if error.is_reset() {
            let reason = error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR);
            if error.is_remote() && reason == h2::Reason::CANCEL && call.deadline <= Instant::now() {
                // The server's clock was a little quicker than ours.
                return Outcome::failed(
                    status::DEADLINE_EXCEEDED,
                    format!("{target} gave up at the deadline"),
                );
            }
            if error.is_remote() {
                return Outcome::failed(
                    status::of_reset(reason),
                    format!("{target} reset the call: {reason:?}"),
                );
            }
            if why.is_none() {
                return Outcome::failed(status::INTERNAL, format!("{target} broke HTTP/2's rules: {error}"));
            }
        }
        let why = why.map_or_else(|| error.to_string(), str::to_owned);
        Outcome::failed(status::UNAVAILABLE, format!("{target}: {why}"))
    }

    // -- Room -------------------------------------------------------------------------------------------

    /// Calls wait: see to it that somebody takes them, or tell them why nobody does.
    fn want_room(self: &Rc<Self>) {
        let now = Instant::now();
        self.maintain(now);
        let failed = {
            let mut state = self.state.borrow_mut();
            if !state.connections.is_empty() {
                if let Some(address) = state.crowded() {
                    state.connect(address);
                    drop(state);
                    self.spawn_connect(address);
                }
                return;
            }
            // A server that took the last connection and sent us away is there: its turn comes after the wait.
            let to_come = |endpoint: &Endpoint| endpoint.connecting > 0 || !endpoint.refused;
            let hopeful = state.looking_up || state.endpoints.iter().any(to_come);
            if hopeful {
                return;
            }
            let failure = state.failure.clone().unwrap_or_else(|| Failure::new(Kind::Plain, "no connection"));
            (std::mem::take(&mut state.waiting), failure)
        };
        let (waiting, failure) = failed;
        for call in waiting {
            call.end(failure.outcome(&self.settings.target));
        }
        stats::set(&self.stats.waiting, 0);
    }

    /// Looks up what must be, connects where nobody is connected, and sets the timer for what must wait.
    fn maintain(self: &Rc<Self>, now: Instant) {
        let mut connect = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            if state.closed {
                return;
            }
            if state.wants_look_up(now, matches!(self.settings.place, Place::Name(..))) {
                state.looking_up = true;
                let channel = self.clone();
                spawn_local(async move { channel.look_up().await });
            }
            for index in 0..state.endpoints.len() {
                let endpoint = &state.endpoints[index];
                if endpoint.connecting == 0
                    && endpoint.retry_at <= now
                    && !state.connections.iter().any(|one| one.address == endpoint.address)
                {
                    connect.push(endpoint.address);
                    state.endpoints[index].connecting += 1;
                }
            }
            self.arm(&mut state, now);
        }
        for address in connect {
            self.spawn_connect(address);
        }
    }

    fn arm(self: &Rc<Self>, state: &mut State, now: Instant) {
        let idle = |endpoint: &&Endpoint| endpoint.connecting == 0 && endpoint.retry_at > now;
        let next = state
            .endpoints
            .iter()
            .filter(idle)
            .map(|endpoint| endpoint.retry_at)
            .chain(state.look_up_at)
            .min();
        let Some(at) = next.filter(|at| *at > now && state.timer.is_none_or(|timer| *at < timer)) else {
            return;
        };
        state.timer = Some(at);
        let channel = Rc::downgrade(self);
        spawn_local(async move {
            sleep_until(at).await;
            if let Some(channel) = channel.upgrade() {
                let current = channel.state.borrow().timer == Some(at);
                if current {
                    channel.state.borrow_mut().timer = None;
                    channel.maintain(Instant::now());
                }
            }
        });
    }

    async fn look_up(self: Rc<Self>) {
        let found = match timeout(LOOK_UP_TIMEOUT, self.settings.place.look_up()).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(format!("the name cannot be resolved: {error}")),
            Err(_) => Err(format!("the name was not resolved within {} ms", LOOK_UP_TIMEOUT.as_millis())),
        };
        let now = Instant::now();
        {
            let mut state = self.state.borrow_mut();
            state.looking_up = false;
            state.looked_up = Some(now);
            state.stale = false;
            match found {
                Ok(addresses) => {
                    state.look_up_backoff = Duration::ZERO;
                    state.look_up_at = None;
                    for gone in state.adopt(&addresses, now) {
                        gone.retire();
                        stats::sub(&self.stats.connections, 1);
                        state.retired.push(gone);
                    }
                }
                Err(message) => {
                    stats::add(&self.stats.connect_failures, 1);
                    state.failure = Some(Failure::new(Kind::Plain, message));
                    state.look_up_backoff = self.next_backoff(state.look_up_backoff);
                    state.look_up_at = Some(now + state.look_up_backoff);
                }
            }
        }
        self.maintain(now);
        self.dispatch();
    }

    fn spawn_connect(self: &Rc<Self>, address: SocketAddr) {
        let channel = self.clone();
        spawn_local(async move { channel.connect(address).await });
    }

    /// One attempt, and if it succeeds the connection's whole life.
    async fn connect(self: Rc<Self>, address: SocketAddr) {
        let limit = self.settings.connect_timeout;
        let attempt = match timeout(limit, Connection::open(address, &self.settings)).await {
            Ok(attempt) => attempt,
            Err(_) => {
                let text =
                    format!("cannot connect: {address} did not answer within {} ms", limit.as_millis());
                Err(Failure::new(Kind::Plain, text))
            }
        };
        match attempt {
            Err(failure) => self.failed(address, failure),
            Ok((connection, http2)) => {
                stats::add(&self.stats.connected, 1);
                {
                    let mut state = self.state.borrow_mut();
                    if let Some(endpoint) = state.endpoint(address) {
                        endpoint.connecting = endpoint.connecting.saturating_sub(1);
                        endpoint.refused = false;
                    }
                    if state.closed || state.endpoint(address).is_none() {
                        // Nobody wants it any more; it says goodbye.
                        connection.retire();
                        state.retired.push(connection.clone());
                    } else {
                        stats::add(&self.stats.connections, 1);
                        state.connections.push(connection.clone());
                    }
                }
                self.dispatch();
                let why = connection.clone().drive(http2, self.clone()).await;
                self.ended(&connection, why);
            }
        }
    }

    fn failed(self: &Rc<Self>, address: SocketAddr, failure: Failure) {
        stats::add(&self.stats.connect_failures, 1);
        {
            let now = Instant::now();
            let mut state = self.state.borrow_mut();
            state.stale = true;
            state.failure = Some(failure);
            if let Some(endpoint) = state.endpoint(address) {
                endpoint.connecting = endpoint.connecting.saturating_sub(1);
                endpoint.refused = true;
                endpoint.backoff = self.next_backoff(endpoint.backoff);
                endpoint.retry_at = now + endpoint.backoff;
            }
        }
        self.maintain(Instant::now());
        self.dispatch();
    }

    /// The connection takes no more calls: by the peer's word, or by its end.
    pub fn retired(self: &Rc<Self>, connection: &Rc<Connection>) {
        {
            let mut state = self.state.borrow_mut();
            let before = state.connections.len();
            state.connections.retain(|one| !Rc::ptr_eq(one, connection));
            if state.connections.len() == before {
                return;
            }
            stats::sub(&self.stats.connections, 1);
            state.retired.push(connection.clone());
            state.stale = true;
            let now = Instant::now();
            if let Some(endpoint) = state.endpoint(connection.address) {
                if connection.worked(WORKED_AFTER) {
                    endpoint.backoff = Duration::ZERO;
                } else {
                    endpoint.backoff = self.next_backoff(endpoint.backoff);
                }
                endpoint.retry_at = now + endpoint.backoff;
            }
        }
        self.maintain(Instant::now());
    }

    fn ended(self: &Rc<Self>, connection: &Rc<Connection>, why: String) {
        {
            let mut state = self.state.borrow_mut();
            state.retired.retain(|one| !Rc::ptr_eq(one, connection));
            if state.connections.is_empty() {
                state.failure = Some(Failure::new(Kind::Plain, why));
            }
        }
        self.dispatch();
    }

    /// Doubling, with jitter: instances that lost one server do not come back to it all at once.
    fn next_backoff(&self, last: Duration) -> Duration {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        let ceiling = (last * 2).clamp(self.settings.backoff_min, self.settings.backoff_max);
        ceiling.mul_f64(0.8 + 0.2 * (random as f64 / u64::MAX as f64))
    }

    /// For those whose time ends while they wait: why they do.
    pub fn last_failure(&self) -> String {
        let state = self.state.borrow();
        match &state.failure {
            Some(failure) if state.connections.is_empty() => {
                format!("; the last attempt: {}", failure.message)
            }
            _ => String::new(),
        }
    }

    // -- The end ----------------------------------------------------------------------------------------

    /// Takes no more calls. What is out may end within `grace`.
    pub fn close(self: &Rc<Self>, grace: Duration) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            state.closed = true;
            let connections = std::mem::take(&mut state.connections);
            stats::sub(&self.stats.connections, connections.len() as u64);
            state.retired.extend(connections);
            for connection in &state.retired {
                connection.retire();
            }
            std::mem::take(&mut state.waiting)
        };
        for call in waiting {
            call.end(Outcome::cancelled());
        }
        if !self.state.borrow().retired.is_empty() {
            let channel = self.clone();
            spawn_local(async move {
                sleep_until(Instant::now() + grace).await;
                let late: Vec<_> = channel.state.borrow().retired.clone();
                late.iter().for_each(|connection| connection.cut());
            });
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.state.borrow().retired.is_empty()
    }
}

impl State {
    fn endpoint(&mut self, address: SocketAddr) -> Option<&mut Endpoint> {
        self.endpoints.iter_mut().find(|endpoint| endpoint.address == address)
    }

    /// The next in turn that has room.
    fn pick(&mut self) -> Option<Rc<Connection>> {
        let count = self.connections.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            if self.connections[index].has_room() {
                self.next = index + 1;
                return Some(self.connections[index].clone());
            }
        }
        None
    }

    /// An address whose connections are all full and that may have one more: the one with the fewest.
    fn crowded(&self) -> Option<SocketAddr> {
        let connected = |address| self.connections.iter().filter(|one| one.address == address).count();
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.connecting == 0)
            .map(|endpoint| (connected(endpoint.address), endpoint.address))
            .filter(|(count, _)| (1..CONNECTIONS_PER_ADDRESS_MAX).contains(count))
            .min_by_key(|(count, _)| *count)
            .map(|(_, address)| address)
    }

    fn connect(&mut self, address: SocketAddr) {
        if let Some(endpoint) = self.endpoint(address) {
            endpoint.connecting += 1;
        }
    }

    fn wants_look_up(&self, now: Instant, named: bool) -> bool {
        if self.looking_up {
            return false;
        }
        match (self.looked_up, self.look_up_at) {
            (None, _) => true,
            (_, Some(at)) => at <= now,
            (Some(at), None) => named && self.stale && now >= at + LOOK_UP_EVERY,
        }
    }

    /// The addresses are these now; returns the connections to others.
    fn adopt(&mut self, addresses: &[SocketAddr], now: Instant) -> Vec<Rc<Connection>> {
        self.endpoints.retain(|endpoint| addresses.contains(&endpoint.address));
        for address in addresses {
            if self.endpoint(*address).is_none() {
                let (address, backoff) = (*address, Duration::ZERO);
                self.endpoints.push(Endpoint {
                    address,
                    connecting: 0,
                    refused: false,
                    backoff,
                    retry_at: now,
                });
            }
        }
        let (kept, gone) = std::mem::take(&mut self.connections)
            .into_iter()
            .partition(|connection| addresses.contains(&connection.address));
        self.connections = kept;
        gone
    }
}

/// Whether the server certainly did not run it: it said so, or the stream never began.
fn never_ran(error: &h2::Error) -> bool {
    if error.is_go_away() {
        // h2 says this of the streams above the last one that the peer has processed, and of no others.
        return error.is_remote();
    }
    error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
}
