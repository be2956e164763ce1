//! The one timer for all deadlines.
//!
//! Most calls end long before their deadline, and their entries stay until they are swept out: once there are
//! twice as many as the last sweep left, so that a sweep costs each call a constant.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::call::Call;
use crate::channel::Channel;

/// Below this many a sweep is not worth it.
const SWEEP_MIN: usize = 1_024;
/// With nothing to wait for.
const IDLE: Duration = Duration::from_secs(3_600);

struct Entry {
    at: Instant,
    call: Weak<Call>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

#[derive(Default)]
pub struct Deadlines {
    entries: RefCell<BinaryHeap<Reverse<Entry>>>,
    sweep_at: Cell<usize>,
    earlier: Notify,
}

impl Deadlines {
    pub fn watch(&self, call: &Rc<Call>) {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= self.sweep_at.get().max(SWEEP_MIN) {
            entries.retain(|Reverse(entry)| alive(entry).is_some());
            self.sweep_at.set(2 * entries.len());
        }
        if entries.peek().is_none_or(|Reverse(first)| call.deadline < first.at) {
            self.earlier.notify_one();
        }
        entries.push(Reverse(Entry { at: call.deadline, call: Rc::downgrade(call) }));
    }

    /// Ends what is late, for ever.
    pub async fn run(self: Rc<Self>) {
        loop {
            let next = self.entries.borrow().peek().map(|Reverse(first)| first.at);
            let until = next.unwrap_or_else(|| Instant::now() + IDLE);
            if timeout_at(until, self.earlier.notified()).await.is_err() {
                self.expire(Instant::now());
            }
        }
    }

    fn expire(&self, now: Instant) {
        // Those that still waited stand in their channels' queues.
        let mut channels: Vec<Rc<Channel>> = Vec::new();
        while let Some(entry) = self.due(now) {
            let Some(call) = alive(&entry) else { continue };
            call.expire();
            if !channels.iter().any(|known| Rc::ptr_eq(known, &call.channel)) {
                channels.push(call.channel.clone());
            }
        }
        for channel in channels {
            channel.sweep();
        }
    }

    fn due(&self, now: Instant) -> Option<Entry> {
        let mut entries = self.entries.borrow_mut();
        entries.peek().filter(|Reverse(first)| first.at <= now)?;
        entries.pop().map(|Reverse(entry)| entry)
    }
}

fn alive(entry: &Entry) -> Option<Rc<Call>> {
    entry.call.upgrade().filter(|call| !call.is_ended())
}
