//! One HTTP/2 connection: made, driven, watched, and what became of each call on it.
//!
//! `drive` is the connection's one task: it moves bytes, looks after every call that is out here, and tells
//! the channel what changed. It ends with the connection, and with it every call that was out.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Ping, PingPong};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, Method, Request, Response, header};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsConnector;

use crate::call::Call;
use crate::channel::{Channel, Settings};
use crate::frame::{Collector, Encoding, Flaw};
use crate::metadata::{self, GRPC_ENCODING, GRPC_MESSAGE, GRPC_STATUS};
use crate::stats;
use crate::status::{self, Kind, Outcome};
use crate::tls;

/// Calls on one connection at once, whatever more the peer would allow: beyond this many another connection
/// costs less than what they wait for one another here.
pub const STREAMS_MAX: usize = 1_024;
/// A reply carries a verdict, not data: these are plenty, and bound what a peer can make us hold.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Streams that we reset and whose late frames are still to be expected: an outage ends many at once.
const RESETS_REMEMBERED: usize = 4_096;
/// A graceful close says goodbye; a peer that does not answer is not waited for.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why there is no connection, or none any more.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }

    fn io(what: &str, error: &io::Error) -> Self {
        match tls::refusal(error) {
            Some(text) => Failure::new(Kind::Miswired, format!("TLS: {text}")),
            None => Failure::new(Kind::Plain, format!("{what}: {error}")),
        }
    }

    pub fn outcome(&self, target: &str) -> Outcome {
        Outcome::new(self.kind, status::UNAVAILABLE, format!("{target}: {}", self.message))
    }
}

/// Bytes to and from the peer, in the clear or not, and when the last ones came.
trait Bidirectional: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Bidirectional for T {}

pub struct Wire {
    socket: Box<dyn Bidirectional>,
    heard: Rc<Cell<Instant>>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.set(Instant::now());
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

pub type Http2 = client::Connection<Wire, Bytes>;

/// Why a call was not taken.
pub enum Refused {
    /// By this connection; another one may take it.
    Connection,
    /// It cannot be sent at all.
    Request(String),
}

/// What the channel sees of a connection.
pub struct Connection {
    pub address: SocketAddr,
    scheme: Scheme,
    authority: Authority,
    /// Gone once the connection is to end when its calls have.
    send: RefCell<Option<SendRequest<Bytes>>>,
    /// Calls that the driver has not taken up yet.
    started: RefCell<Vec<(Rc<Call>, ResponseFuture)>>,
    driver: RefCell<Option<Waker>>,
    open: Cell<usize>,
    limit: Cell<usize>,
    retired: Cell<bool>,
    cut: Cell<bool>,
    /// When it went from no call to one; silence before that is nobody's fault.
    busy_since: Cell<Instant>,
    heard: Rc<Cell<Instant>>,
    opened: Instant,
    answered: Cell<bool>,
    /// A call went out here before.
    used: Cell<bool>,
}

impl Connection {
    /// Connected, secured, and greeted: the peer's SETTINGS are there, so its stream limit is known.
    pub async fn open(address: SocketAddr, settings: &Settings) -> Result<(Rc<Self>, Http2), Failure> {
        let tcp = TcpStream::connect(address).await.map_err(|error| Failure::io("cannot connect", &error))?;
        // Small writes go out at once; a batch is one write anyway.
        tcp.set_nodelay(true).map_err(|error| Failure::io("cannot connect", &error))?;
        let (socket, scheme): (Box<dyn Bidirectional>, _) = match &settings.tls {
            None => (Box::new(tcp), Scheme::HTTP),
            Some(tls) => {
                let host = tls.server_name.clone().unwrap_or_else(|| settings.place.host(address));
                // A name may end in a dot; no certificate bears one.
                let name = ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(|_| {
                    Failure::new(Kind::Miswired, format!("TLS: {host:?} is no name of a server"))
                })?;
                let secured = TlsConnector::from(tls.config.clone())
                    .connect(name, tcp)
                    .await
                    .map_err(|error| Failure::io("TLS handshake", &error))?;
                if !tls::speaks_http2(secured.get_ref().1.alpn_protocol()) {
                    return Err(Failure::new(
                        Kind::Miswired,
                        "TLS: the server does not offer HTTP/2 (ALPN h2)",
                    ));
                }
                (Box::new(secured), Scheme::HTTPS)
            }
        };
        let heard = Rc::new(Cell::new(Instant::now()));
        let wire = Wire { socket, heard: heard.clone() };
        let greeting = |error: h2::Error| match error.get_io() {
            Some(io) => Failure::io("the connection ended before HTTP/2 began", io),
            None => Failure::new(Kind::Plain, format!("the peer does not speak HTTP/2: {error}")),
        };
        let (send, mut http2) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(settings.metadata_bytes_max)
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            // No call before the peer has said how many it takes.
            .initial_max_send_streams(0)
            .handshake::<_, Bytes>(wire)
            .await
            .map_err(greeting)?;
        std::future::poll_fn(|cx| match Pin::new(&mut http2).poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(greeting(error))),
            Poll::Ready(Ok(())) => {
                Poll::Ready(Err(Failure::new(Kind::Plain, "the connection was closed before HTTP/2 began")))
            }
            Poll::Pending if http2.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let authority = settings.place.authority(address);
        let connection = Connection {
            address,
            scheme,
            authority: authority
                .parse()
                .map_err(|_| Failure::new(Kind::Miswired, format!("{authority:?} is no authority")))?,
            send: RefCell::new(Some(send)),
            started: RefCell::default(),
            driver: RefCell::default(),
            open: Cell::new(0),
            limit: Cell::new(http2.max_concurrent_send_streams().min(STREAMS_MAX)),
            retired: Cell::new(false),
            cut: Cell::new(false),
            busy_since: Cell::new(Instant::now()),
            heard,
            opened: Instant::now(),
            answered: Cell::new(false),
            used: Cell::new(false),
        };
        Ok((Rc::new(connection), http2))
    }

    pub fn has_room(&self) -> bool {
        !self.retired.get() && self.open.get() < self.limit.get()
    }

    pub fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// Whether it was any good: one that was lost before it answered anything is a failed attempt.
    pub fn worked(&self, at_least: Duration) -> bool {
        self.answered.get() || self.opened.elapsed() >= at_least
    }

    /// Takes no more calls, and ends when those that are out have.
    pub fn retire(&self) {
        self.retired.set(true);
        self.wake();
    }

    /// Ends now.
    pub fn cut(&self) {
        self.cut.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Puts the call on the wire.
    pub fn start(&self, call: &Rc<Call>) -> Result<(), Refused> {
        let mut send = match &*self.send.borrow() {
            Some(send) => send.clone(),
            None => return Err(Refused::Connection),
        };
        let prepared = call.with_request(|request| {
            let left = call.deadline.saturating_duration_since(Instant::now());
            // What has hardly waited says its whole time-out: the same header every time costs a byte.
            let told = if left > request.timeout.mul_f32(0.98) { request.timeout } else { left };
            let headers = request.common.headers(&request.entries, told, !self.used.replace(true));
            (self.request(&request.path, headers), request.body.clone())
        });
        let Some((request, body)) = prepared else { return Ok(()) };
        let (response, mut stream) = send.send_request(request, false).map_err(|error| {
            if error.is_io() || error.is_go_away() || error.is_reset() {
                Refused::Connection
            } else {
                Refused::Request(error.to_string())
            }
        })?;
        // A stream that was reset meanwhile says so through its response.
        let _ = stream.send_data(body, true);
        call.out(stream);
        if self.open.get() == 0 {
            self.busy_since.set(Instant::now());
        }
        self.open.set(self.open.get() + 1);
        self.started.borrow_mut().push((call.clone(), response));
        self.wake();
        Ok(())
    }

    fn request(&self, path: &PathAndQuery, headers: HeaderMap) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(path.clone());
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_parts(uri).expect("all three parts are there");
        *request.headers_mut() = headers;
        request
    }

    /// The connection's task; returns when nothing of it is left.
    pub async fn drive(self: Rc<Self>, mut http2: Http2, channel: Rc<Channel>) -> String {
        let mut exchanges = FuturesUnordered::new();
        let mut pulse = Pulse::new(&mut http2, &channel.settings, &self);
        let mut goodbye: Option<Pin<Box<Sleep>>> = None;
        let why = std::future::poll_fn(|cx| {
            if self.driver.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                *self.driver.borrow_mut() = Some(cx.waker().clone());
            }
            loop {
                for (call, response) in self.started.take() {
                    exchanges.push(exchange(call, response));
                }
                if self.cut.get() {
                    return Poll::Ready("closed".to_owned());
                }
                let ended = match Pin::new(&mut http2).poll(cx) {
                    Poll::Pending => None,
                    Poll::Ready(Ok(())) => Some("the connection was closed".to_owned()),
                    Poll::Ready(Err(error)) => Some(format!("the connection was lost: {error}")),
                };
                self.limit.set(http2.max_concurrent_send_streams().min(STREAMS_MAX));
                if !self.retired.get() && (ended.is_some() || self.going_away(cx)) {
                    self.retired.set(true);
                    channel.retired(&self);
                }
                let mut moved = false;
                while let Poll::Ready(Some((call, answer))) = exchanges.poll_next_unpin(cx) {
                    moved = true;
                    self.open.set(self.open.get() - 1);
                    self.answered.set(self.answered.get() || answer.is_ok());
                    channel.finished(&call, answer, None);
                }
                if let Some(why) = ended {
                    return Poll::Ready(why);
                }
                if pulse.has_stopped(cx, &self) {
                    stats::add(&channel.stats.keepalive_failures, 1);
                    return Poll::Ready(format!(
                        "keepalive: no answer to a ping within {} ms",
                        channel.settings.keepalive_timeout.as_millis()
                    ));
                }
                if self.retired.get() && self.open.get() == 0 && self.send.borrow_mut().take().is_some() {
                    // Without anyone who could send, the connection says goodbye and closes.
                    goodbye = Some(Box::pin(sleep_until(Instant::now() + GOODBYE)));
                    continue;
                }
                if goodbye.as_mut().is_some_and(|late| late.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready("closed".to_owned());
                }
                if moved {
                    // There is room now. What is started here must be polled before this task may sleep.
                    channel.dispatch();
                    continue;
                }
                if self.started.borrow().is_empty() {
                    return Poll::Pending;
                }
            }
        })
        .await;
        if !self.retired.replace(true) {
            channel.retired(&self);
        }
        self.send.borrow_mut().take();
        drop(pulse);
        drop(http2);
        for (call, response) in self.started.take() {
            exchanges.push(exchange(call, response));
        }
        // Every stream has heard of the end; what each says of it is the same.
        while let Some((call, answer)) = exchanges.next().await {
            channel.finished(&call, answer, Some(&why));
        }
        why
    }

    /// Whether the peer has said that it takes no more streams, or none are left.
    fn going_away(&self, cx: &mut Context<'_>) -> bool {
        match self.send.borrow_mut().as_mut() {
            Some(send) => matches!(send.poll_ready(cx), Poll::Ready(Err(_))),
            None => true,
        }
    }
}

/// Keepalive: a ping after a silence while calls are out, and an end if nothing at all is heard of it.
struct Pulse {
    ping_pong: Option<PingPong>,
    every: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// When the ping went out whose answer is waited for.
    pinged: Option<Instant>,
}

impl Pulse {
    fn new(http2: &mut Http2, settings: &Settings, connection: &Connection) -> Self {
        Pulse {
            ping_pong: http2.ping_pong(),
            every: settings.keepalive_time,
            timeout: settings.keepalive_timeout,
            timer: Box::pin(sleep_until(connection.opened + settings.keepalive_time)),
            pinged: None,
        }
    }

    fn has_stopped(&mut self, cx: &mut Context<'_>, connection: &Connection) -> bool {
        let Some(ping_pong) = &mut self.ping_pong else { return false };
        loop {
            if let Some(at) = self.pinged {
                // Any word from the peer is a sign of life; its answer is one of them.
                let answered = ping_pong.poll_pong(cx).is_ready();
                if answered || connection.heard.get() > at {
                    if answered {
                        self.pinged = None;
                    }
                    self.timer.as_mut().reset(connection.heard.get() + self.every);
                } else {
                    return self.timer.as_mut().poll(cx).is_ready();
                }
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            let now = Instant::now();
            let due = connection.heard.get().max(connection.busy_since.get()) + self.every;
            if connection.is_idle() {
                self.timer.as_mut().reset(now + self.every);
            } else if now < due {
                self.timer.as_mut().reset(due);
            } else if self.pinged.is_some() || ping_pong.send_ping(Ping::opaque()).is_ok() {
                self.pinged = Some(now);
                self.timer.as_mut().reset(now + self.timeout);
            } else {
                self.timer.as_mut().reset(now + self.every);
            }
        }
    }
}

async fn exchange(call: Rc<Call>, response: ResponseFuture) -> (Rc<Call>, Result<Outcome, h2::Error>) {
    let bytes_max = call.channel.settings.reply_bytes_max;
    let answer = async { answer(response.await?, bytes_max).await }.await;
    (call, answer)
}

/// Reads an answer to its end, or as far as it makes sense.
async fn answer(response: Response<h2::RecvStream>, bytes_max: usize) -> Result<Outcome, h2::Error> {
    let (head, mut body) = response.into_parts();
    if body.is_end_stream() {
        return Ok(without_body(head.status.as_u16(), &head.headers));
    }
    if let Some(outcome) = not_grpc(head.status.as_u16(), &head.headers) {
        return Ok(outcome);
    }
    let encoding = match head.headers.get(GRPC_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Encoding::Identity,
        Some(b"gzip") => Encoding::Gzip,
        Some(other) => {
            let name = String::from_utf8_lossy(other).into_owned();
            return Ok(Outcome::failed(status::INTERNAL, format!("the answer is compressed with {name:?}")));
        }
    };
    let mut collector = Collector::new(encoding, bytes_max);
    let mut flaw = None;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        let _ = body.flow_control().release_capacity(piece.len());
        if let Err(found) = collector.feed(&piece) {
            flaw = Some(found);
            break;
        }
    }
    if let Some(flaw) = flaw {
        return Ok(flawed(&flaw));
    }
    let Some(trailers) = body.trailers().await? else {
        return Ok(Outcome::failed(status::INTERNAL, "the answer ended without trailers"));
    };
    let mut outcome = of_trailers(&trailers);
    if outcome.code == status::OK {
        match collector.finish() {
            Ok(Some(message)) => outcome.reply = message,
            Ok(None) => return Ok(no_message()),
            Err(flaw) => return Ok(flawed(&flaw)),
        }
    }
    Ok(outcome)
}

fn no_message() -> Outcome {
    Outcome::new(Kind::NoMessage, status::INTERNAL, "")
}

fn flawed(flaw: &Flaw) -> Outcome {
    match flaw {
        // The words by which every gRPC says so.
        Flaw::TooLarge { announced, max } => Outcome::failed(
            status::RESOURCE_EXHAUSTED,
            format!("Received message larger than max ({announced} vs. {max})"),
        ),
        Flaw::CutShort => no_message(),
        Flaw::Malformed(what) => Outcome::failed(status::INTERNAL, *what),
    }
}

/// A status that came without a message: in the headers, where gRPC allows it ("trailers-only").
fn without_body(http: u16, headers: &HeaderMap) -> Outcome {
    if !headers.contains_key(GRPC_STATUS) {
        let missing =
            || Outcome::failed(status::of_http(http), format!("HTTP status {http} without a gRPC status"));
        return not_grpc(http, headers).unwrap_or_else(missing);
    }
    let outcome = of_trailers(headers);
    if outcome.code == status::OK {
        return no_message();
    }
    outcome
}

/// What an answer that is no gRPC at all comes to: a proxy's page, mostly.
fn not_grpc(http: u16, headers: &HeaderMap) -> Option<Outcome> {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let grpc = content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"));
    if http == 200 && grpc {
        return None;
    }
    let shown = String::from_utf8_lossy(&content_type[..content_type.len().min(100)]).into_owned();
    Some(Outcome::failed(
        status::of_http(http),
        format!("no gRPC answer: HTTP status {http}, content-type {shown:?}"),
    ))
}

fn of_trailers(map: &HeaderMap) -> Outcome {
    let Some(value) = map.get(GRPC_STATUS) else {
        return Outcome::failed(status::UNKNOWN, "the answer's trailers have no grpc-status");
    };
    let Some(code) = status::parse_code(value.as_bytes()) else {
        return Outcome::failed(status::UNKNOWN, "the answer's grpc-status is no number");
    };
    let message =
        map.get(GRPC_MESSAGE).map(|value| status::parse_message(value.as_bytes())).unwrap_or_default();
    Outcome { trailers: metadata::trailers(map), ..Outcome::failed(code, message) }
}
