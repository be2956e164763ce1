//! Where a subscription's results wait for Python: filled by the transport's thread, emptied by the loop.
//!
//! The wake-up is a file descriptor that the loop watches. It is written when the first result is put into an
//! empty mailbox, so however many follow before the loop comes, they cost one wake-up.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::{read, write};
use tokio::sync::Notify;

use crate::call::Call;
use crate::status::Outcome;

/// Names one call to Python: a place in its table, and which of the calls that have stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub slot: u32,
    pub generation: u32,
}

pub struct Completion {
    pub handle: Handle,
    /// None is the common case: OK, with nothing in it that anybody has to read.
    pub outcome: Option<Box<Outcome>>,
}

/// Both threads' side. Bounded by the calls that are out: each puts in one completion, or two if cancelled.
pub struct Mailbox {
    completions: Mutex<Vec<Completion>>,
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Mailbox {
    pub fn new() -> std::io::Result<Self> {
        let (reader, writer) = wake_pair()?;
        Ok(Mailbox { completions: Mutex::default(), reader, writer })
    }

    pub fn fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Completion>> {
        // Nothing in here can panic half-way through a change.
        self.completions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, completions: &mut Vec<Completion>) {
        if completions.is_empty() {
            return;
        }
        let first = {
            let mut waiting = self.lock();
            let first = waiting.is_empty();
            waiting.append(completions);
            first
        };
        if first {
            // Full means that a wake-up is on its way already.
            let _ = write(&self.writer, &1u64.to_ne_bytes());
        }
    }

    /// The wake-up is taken before the completions: one that is put in between wakes the loop once more.
    pub fn take(&self) -> Vec<Completion> {
        let mut buffer = [0; 64];
        let _ = read(&self.reader, &mut buffer);
        std::mem::take(&mut *self.lock())
    }
}

#[cfg(target_os = "linux")]
fn wake_pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::event::{EventfdFlags, eventfd};
    let reader = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let writer = reader.try_clone()?;
    Ok((reader, writer))
}

#[cfg(not(target_os = "linux"))]
fn wake_pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{OFlags, fcntl_setfl};
    let (reader, writer) = rustix::pipe::pipe()?;
    for end in [&reader, &writer] {
        fcntl_setfl(end, OFlags::NONBLOCK)?;
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok((reader, writer))
}

/// The transport thread's side.
pub struct Port {
    mailbox: Arc<Mailbox>,
    /// The common answer says nothing but OK: whether what it says besides is read at all.
    pub reads_replies: bool,
    ended: RefCell<Vec<Completion>>,
    changed: Notify,
    calls: RefCell<Vec<Option<Rc<Call>>>>,
}

impl Port {
    pub fn new(mailbox: Arc<Mailbox>, reads_replies: bool) -> Rc<Self> {
        Rc::new(Port {
            mailbox,
            reads_replies,
            ended: RefCell::default(),
            changed: Notify::new(),
            calls: RefCell::default(),
        })
    }

    pub fn enter(&self, call: Rc<Call>) {
        let mut calls = self.calls.borrow_mut();
        let slot = call.handle.slot as usize;
        if calls.len() <= slot {
            calls.resize_with(slot + 1, || None);
        }
        calls[slot] = Some(call);
    }

    /// The call of this handle, which is then no longer the port's.
    pub fn remove(&self, handle: Handle) -> Option<Rc<Call>> {
        let mut calls = self.calls.borrow_mut();
        let place = calls.get_mut(handle.slot as usize)?;
        if place.as_ref()?.handle != handle {
            return None;
        }
        place.take()
    }

    pub fn remove_all(&self) -> Vec<Rc<Call>> {
        self.calls.borrow_mut().drain(..).flatten().collect()
    }

    pub fn complete(&self, handle: Handle, outcome: Option<Box<Outcome>>) {
        let mut ended = self.ended.borrow_mut();
        if ended.is_empty() {
            self.changed.notify_one();
        }
        ended.push(Completion { handle, outcome });
    }

    /// Puts what has gathered while other tasks ran into the mailbox, in one go.
    pub async fn deliver(self: Rc<Self>) {
        loop {
            self.changed.notified().await;
            self.flush();
        }
    }

    fn flush(&self) {
        self.mailbox.put(&mut self.ended.borrow_mut());
    }
}

impl Drop for Port {
    /// Also where the thread ends by a panic: what its calls left behind still arrives.
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(slot: u32) -> Completion {
        Completion { handle: Handle { slot, generation: 0 }, outcome: None }
    }

    #[test]
    fn one_wake_for_all_that_gathers() {
        let mailbox = Mailbox::new().unwrap();
        let mut buffer = [0; 64];
        assert!(read(&mailbox.reader, &mut buffer).is_err(), "nothing to wake for");
        mailbox.put(&mut Vec::new());
        assert!(read(&mailbox.reader, &mut buffer).is_err(), "nothing was put in");
        mailbox.put(&mut vec![completion(0)]);
        mailbox.put(&mut vec![completion(1), completion(2)]);
        assert_eq!(read(&mailbox.reader, &mut buffer).unwrap(), 8, "once");
        assert!(read(&mailbox.reader, &mut buffer).is_err());
        let slots: Vec<u32> = mailbox.take().iter().map(|one| one.handle.slot).collect();
        assert_eq!(slots, [0, 1, 2]);
        mailbox.put(&mut vec![completion(3)]);
        assert_eq!(mailbox.take().len(), 1);
        assert!(read(&mailbox.reader, &mut buffer).is_err(), "taken with the completions");
    }

    #[test]
    fn what_is_left_arrives_when_the_port_ends() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let port = Port::new(mailbox.clone(), false);
        port.complete(Handle { slot: 7, generation: 1 }, None);
        assert!(mailbox.take().is_empty());
        drop(port);
        assert_eq!(mailbox.take().len(), 1);
    }
}
