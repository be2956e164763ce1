"""What a user declares: which topics, which target, and by which policies.

Plain frozen values with their defaults. Reading them from a file, and every check that can name a line,
is `pelton.config`; what they mean in motion is `pelton.core`. Nothing here reads, connects or decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pelton.event import Position

__all__ = [
    "Adapt",
    "Atomic",
    "DeliveryMode",
    "Descriptors",
    "Disposition",
    "Intake",
    "MetadataPolicy",
    "OnExhausted",
    "Ordering",
    "Parameter",
    "RequestMapping",
    "RetryPolicy",
    "Secret",
    "Start",
    "Subscription",
    "Target",
    "ThenKey",
    "Tier",
    "Tls",
    "TransportChoice",
    "id_prefix",
    "is_reserved_metadata",
    "position_id",
]


#: Names that mean something to gRPC, to HTTP/2 or to us; a record's header that is copied under one of them
#: would forge it.
_METADATA_RESERVED = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trace-bin",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_METADATA_RESERVED_PREFIXES = ("pelton-", "ce-", "grpc-")


class Ordering(Enum):
    """What must stay in order."""

    #: Events of a key: the next one is not attempted before this one is settled. A null key is unordered.
    KEY = "key"
    #: All events of a partition, one after the other.
    PARTITION = "partition"
    #: Nothing.
    NONE = "none"


class DeliveryMode(Enum):
    """How the target is called."""

    #: Any unary method; the request is built by `request`.
    UNARY = "unary"
    #: `pelton.v1.EventHandler/Handle`: one delivery a call.
    HANDLER = "handler"
    #: `pelton.v1.EventHandler/HandleStream`: batches down, settlements up.
    STREAM = "stream"


class TransportChoice(Enum):
    """What makes the calls."""

    #: The fastest that is installed.
    AUTO = "auto"
    #: `grpc.aio`, always there.
    AIO = "aio"
    #: `pelton_native`, a wheel of its own.
    NATIVE = "native"


class Disposition(Enum):
    """What a status means for the event; the cells of the outcome table."""

    #: Settled: the target took the event.
    ACK = "ack"
    #: Settled on purpose without effect; counted.
    DROP = "drop"
    #: The target is unwell: back off, feed the breaker; an outage burns no attempt.
    UNWELL = "unwell"
    #: The target is wired wrongly: in a row and without a success, pause the subscription and probe.
    MISWIRED = "miswired"
    #: The event may fail: try again, up to the policy's attempts.
    RETRY = "retry"
    #: The event is wrong: dead-letter at once.
    DEAD_LETTER = "dead_letter"


class Adapt(Enum):
    """Whether the concurrency follows what the target can do at once."""

    #: It is what the config says.
    OFF = "false"
    #: What it would be is computed and shown, and nothing follows it.
    OBSERVE = "observe"
    #: It is found between a minimum and what the config says.
    ON = "true"


class OnExhausted(Enum):
    """What happens to an event whose attempts are used up."""

    #: It is set aside in the dead-letter topic and its key goes on.
    DEAD_LETTER = "dead_letter"
    #: It is tried for ever, and its key waits behind it.
    HOLD = "hold"


class ThenKey(Enum):
    """What becomes of a key when an event of it was moved to a tier, or dead-lettered."""

    #: Its later events go on.
    CONTINUE = "continue"
    #: They go after it, in order, until it is settled; and into the dead letters, until the key is released.
    FOLLOW = "follow"


class Atomic(Enum):
    """Whether an event's record in a topic of ours and its passing here are one transaction."""

    #: Where Kafka allows it. Where it does not, a crash may write the record twice.
    AUTO = "auto"
    #: Never: the record is acknowledged, then the event is passed.
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Tier:
    """A topic in which events wait for their next attempt, all of them equally long."""

    delay_ms: float
    topic: str


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long an event that may succeed later is tried again."""

    #: Attempts before an event is exhausted, the first one counted; at least 1.
    attempts: int = 8
    #: The first wait is drawn from 0 to this; each further one from 0 to double, in milliseconds.
    backoff_min_ms: float = 100.0
    backoff_max_ms: float = 60_000.0
    #: From the first attempt on, time with the breaker open not counted.
    give_up_after_ms: float = 24 * 3600 * 1000.0
    on_exhausted: OnExhausted = OnExhausted.DEAD_LETTER
    #: Where an event that is exhausted waits for one more attempt each, the shortest wait first.
    tiers: tuple[Tier, ...] = ()
    then_key: ThenKey = ThenKey.CONTINUE
    #: How long the later events of a key follow one of it into the dead letters.
    follow_for_ms: float = 24 * 3600 * 1000.0
    #: Keys that are followed, of one partition.
    follow_keys_max: int = 10_000


@dataclass(frozen=True, slots=True)
class Intake:
    """How many events, and how many bytes of them, may be open; whichever is reached first pauses."""

    partition_events_max: int = 2_000
    partition_bytes_max: int = 8 << 20
    subscription_events_max: int = 10_000
    subscription_bytes_max: int = 32 << 20
    #: Waiting, and parked behind a key that waits, per partition: outside the limits above.
    parked_events_max: int = 1_000
    parked_bytes_max: int = 8 << 20


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret by reference: where it is read from, never what it says."""

    #: ``env`` or ``file``.
    kind: str
    #: The variable's name or the file's path.
    name: str

    def __str__(self) -> str:
        return f"${{{self.kind}:{self.name}}}"


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates by path, read again when the files change. No `ca` means the system's own."""

    ca: str | None = None
    #: This side's certificate and key, for mutual TLS; both or neither.
    cert: str | None = None
    key: str | None = None
    #: The name the certificate must bear, where it is not the address's own.
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A gRPC server. Its channels are shared by the subscriptions that name it."""

    name: str
    #: A gRPC name such as ``dns:///shop:50051`` or ``127.0.0.1:50051``.
    address: str
    #: None means plaintext.
    tls: Tls | None = None
    #: Plaintext to an address that is not loopback must be asked for.
    plaintext: bool = False
    bearer: Secret | None = None
    #: The largest request the target takes; larger ones are dead-lettered before the call.
    max_message_bytes: int = 4 << 20
    keepalive_time_ms: int = 300_000
    keepalive_timeout_ms: int = 20_000


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that the event alone does not say: a constant, or an expression over event and delivery."""

    name: str
    constant: str | None = None
    expression: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class RequestMapping:
    """`request:` of a unary subscription: fields of the request message and where each comes from."""

    #: Dotted field path -> expression, in file order. Empty means ``raw``: the record as it is.
    fields: Mapping[str, str] = field(default_factory=dict)
    #: Line of each field in the file.
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def raw(self) -> bool:
        return not self.fields


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Where the method's descriptor comes from: a descriptor set, `.proto` files, or the server itself."""

    descriptor_set: str | None = None
    proto_files: tuple[str, ...] = ()
    proto_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetadataPolicy:
    """What goes with a call beyond the reserved entries."""

    #: Record headers to copy, by name.
    headers: tuple[str, ...] = ()
    #: Parameters to send as ``pelton-param-<name>``.
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription that has no committed offset begins."""

    #: ``earliest``, ``latest`` or ``timestamp``.
    at: str = "earliest"
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """Topics to a target's method, with the policies that hold on the way."""

    name: str
    topics: tuple[str, ...]
    target: Target
    #: ``/package.Service/Method``; fixed by the mode for `handler` and `stream`.
    method: str
    #: The consumer group.
    group: str
    mode: DeliveryMode = DeliveryMode.UNARY
    transport: TransportChoice = TransportChoice.AUTO
    request: RequestMapping = field(default_factory=RequestMapping)
    descriptors: Descriptors = field(default_factory=Descriptors)
    parameters: tuple[Parameter, ...] = ()
    metadata: MetadataPolicy = field(default_factory=MetadataPolicy)
    #: A CEL expression; only events for which it is true are delivered.
    filter: str | None = None
    ordering: Ordering = Ordering.KEY
    #: Calls out at once, per process.
    concurrency: int = 256
    adapt: Adapt = Adapt.OFF
    #: Calls a second, per process; None for as many as there are.
    rate_per_second: float | None = None
    #: Of one attempt.
    timeout_ms: float = 10_000.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    #: ALREADY_EXISTS means an earlier attempt was taken: ack.
    idempotent: bool = False
    #: Cells of the outcome table that this subscription changes: status name -> disposition.
    statuses: Mapping[str, Disposition] = field(default_factory=dict)
    intake: Intake = field(default_factory=Intake)
    start: Start = field(default_factory=Start)
    #: How long a revoke or a stop waits for the calls that are out.
    drain_timeout_ms: float = 15_000.0
    dead_letter_topic: str = ""
    atomic: Atomic = Atomic.AUTO
    #: Consumer settings that this subscription adds to the file's `kafka:` mapping.
    kafka: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    line: int = 0
    #: Option -> its line, for those of which only the brokers and the target can say whether they are right.
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)

    def line_of(self, option: str) -> int:
        """Where the option stands; the subscription's own line where it stands nowhere."""
        return self.lines.get(option, self.line)

    @property
    def follow_topic(self) -> str | None:
        """Where it is remembered which keys are followed; None where none is."""
        return f"follow.{self.name}" if self.retry.then_key is ThenKey.FOLLOW else None

    @property
    def read_topics(self) -> tuple[str, ...]:
        """All topics that are read: the source's, and those of the retry tiers."""
        return (*self.topics, *(tier.topic for tier in self.retry.tiers))

    def start_of(self, topic: str) -> Start:
        """Where a topic without a committed offset begins; a tier has no event that was not moved there."""
        return self.start if topic in self.topics else Start()


def position_id(subscription: str, position: Position) -> str:
    """The delivery id: stable over every attempt, restart and owner of the partition."""
    return f"{id_prefix(subscription, position.topic, position.partition)}{position.offset}"


def id_prefix(subscription: str, topic: str, partition: int) -> str:
    """What the delivery ids of a partition have before the offset."""
    return f"{subscription}/{topic}/{partition}/"


def is_reserved_metadata(name: str) -> bool:
    """Whether no record may set the metadata entry `name` (lower case) of a call."""
    return name in _METADATA_RESERVED or name.startswith(_METADATA_RESERVED_PREFIXES)
