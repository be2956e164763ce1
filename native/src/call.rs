//! One call, from its submission to its one end.
//!
//! Rule 1: whoever ends it first wins, and nobody ends it twice; a call that is dropped without an end (a bug
//! of ours, a panic) ends as UNKNOWN. Rule 2: it is out while it has a stream; ending it resets the stream.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::time::Instant;

use crate::channel::Channel;
use crate::metadata::{Common, Entry};
use crate::port::{Handle, Port};
use crate::status::{DEADLINE_EXCEEDED, Kind, OK, Outcome, UNKNOWN};

/// What is sent. Kept until the end: what the server never ran is sent again.
pub struct Request {
    pub path: PathAndQuery,
    pub common: Arc<Common>,
    /// Of this call alone.
    pub entries: Vec<Entry>,
    pub body: Bytes,
    pub timeout: Duration,
    pub submitted: Instant,
}

pub struct Call {
    pub handle: Handle,
    port: Rc<Port>,
    pub channel: Rc<Channel>,
    pub deadline: Instant,
    timeout: Duration,
    request: RefCell<Option<Request>>,
    stream: RefCell<Option<h2::SendStream<Bytes>>>,
    sent_again: Cell<u32>,
    ended: Cell<bool>,
}

impl Call {
    pub fn new(handle: Handle, port: &Rc<Port>, channel: &Rc<Channel>, request: Request) -> Rc<Self> {
        Rc::new(Call {
            handle,
            port: port.clone(),
            channel: channel.clone(),
            // Beyond what the clock can say there is no deadline worth the name.
            deadline: request
                .submitted
                .checked_add(request.timeout)
                .unwrap_or(request.submitted + Duration::from_secs(86_400 * 365)),
            timeout: request.timeout,
            request: RefCell::new(Some(request)),
            stream: RefCell::default(),
            sent_again: Cell::new(0),
            ended: Cell::new(false),
        })
    }

    pub fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// What to send; None once the call has ended.
    pub fn with_request<T>(&self, look: impl FnOnce(&Request) -> T) -> Option<T> {
        self.request.borrow().as_ref().map(look)
    }

    /// It is on the wire.
    pub fn out(&self, stream: h2::SendStream<Bytes>) {
        *self.stream.borrow_mut() = Some(stream);
    }

    /// The server never ran it: it waits again. How often that was so.
    pub fn back(&self) -> u32 {
        self.stream.borrow_mut().take();
        self.sent_again.set(self.sent_again.get() + 1);
        self.sent_again.get()
    }

    pub fn end(&self, outcome: Outcome) {
        if !self.close() {
            return;
        }
        let plain = outcome.code == OK
            && outcome.kind == Kind::Plain
            && outcome.trailers.is_empty()
            && (!self.port.reads_replies || outcome.reply.is_empty());
        self.port.complete(self.handle, (!plain).then(|| Box::new(outcome)));
    }

    /// Its time is over, wherever it waits.
    pub fn expire(&self) {
        let ms = self.timeout.as_millis();
        let address = &self.channel.settings.target;
        let message = if self.stream.borrow().is_some() {
            format!("no answer from {address} within {ms} ms")
        } else {
            format!(
                "no connection to {address} with room for a call within {ms} ms{}",
                self.channel.last_failure()
            )
        };
        self.end(Outcome::failed(DEADLINE_EXCEEDED, message));
    }

    /// Python has given it its result already.
    pub fn forget(&self) {
        self.close();
    }

    /// Whether this was the end.
    fn close(&self) -> bool {
        if self.ended.replace(true) {
            return false;
        }
        self.port.remove(self.handle);
        self.request.borrow_mut().take();
        if let Some(mut stream) = self.stream.borrow_mut().take() {
            // Of a stream that has ended already, nothing is left to reset.
            stream.send_reset(h2::Reason::CANCEL);
        }
        true
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended.replace(true) {
            let outcome = Outcome::failed(UNKNOWN, "the native transport lost this call to a bug of its own");
            self.port.complete(self.handle, Some(Box::new(outcome)));
        }
    }
}
