"""The file's shape: which keys there are and what they default to, and its JSON Schema.

Importing this imports pydantic, which is slow: only `load` does, when it runs. How a value is read is
`fields.py`, what several values mean together is `declare.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from pelton.config import values
from pelton.config.fields import (
    BYTES,
    EVENTS,
    MAPPING,
    PLAIN,
    Address,
    Endpoint,
    Expression,
    FieldPath,
    FilePath,
    Flag,
    FolderPath,
    Group,
    Header,
    KafkaSettings,
    Method,
    Name,
    ParameterName,
    SecretText,
    StatusName,
    TargetName,
    Text,
    Topic,
    count,
    duration,
    form,
    is_mapping,
    listed,
    mapped,
    section,
    size,
    word,
    words,
)
from pelton.config.settings import Logging, ProcessLimits
from pelton.subscription import (
    Adapt,
    Atomic,
    DeliveryMode,
    Disposition,
    Intake,
    OnExhausted,
    Ordering,
    RetryPolicy,
    Start,
    Subscription,
    Target,
    ThenKey,
    TransportChoice,
)

__all__ = ["FileShape", "KafkaShape", "ServerShape", "SubscriptionShape", "TargetShape", "json_schema"]

#: Above these a config is generated, and by mistake.
SUBSCRIPTIONS_MAX = 256
TARGETS_MAX = 256
TOPICS_MAX = 256
PARAMETERS_MAX = 64
FIELDS_MAX = 256
LISTED_MAX = 64

#: gRPC carries the length of a message in 32 bits, and protobuf stops at 2 GiB.
MESSAGE_BYTES_MAX = (1 << 31) - 1

_DAY_MS = 86_400_000.0

#: Below it a wait in memory does the same for less.
TIER_DELAY_MIN_MS = 1_000.0
TIER_DELAY_MAX_MS = 7 * _DAY_MS
#: Each is a topic that is read, with a partition for every one of the source.
TIERS_MAX = 8

_retry = RetryPolicy()
_intake = Intake()
_limits = ProcessLimits()
_logging = Logging()
# Only its defaults are read.
_subscription = Subscription("", (), Target("", ""), "", "")
_target = _subscription.target


class _Shape(BaseModel):
    """A mapping with these keys and no others."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, arbitrary_types_allowed=True
    )


class TlsShape(_Shape):
    """Encryption of the calls to a target; {} trusts the system's certificates."""

    ca: FilePath | None = None
    """File with the certificates to trust, in place of the system's."""
    cert: FilePath | None = None
    """File with this side's certificate, for mutual TLS; with `key`."""
    key: FilePath | None = None
    """File with this side's private key, for mutual TLS; with `cert`."""
    server_name: Text | None = None
    """The name the target's certificate bears, where it is not the address's."""


class AuthShape(_Shape):
    """How this side shows who it is, besides a certificate."""

    bearer: SecretText
    """A token by reference: ${file:path}, read again when the file changes, or ${env:NAME}."""


class KeepaliveShape(_Shape):
    """Pings on a connection that is silent."""

    time: Annotated[float, *duration(10_000, _DAY_MS)] = float(_target.keepalive_time_ms)
    """Silence before a ping. Many servers close connections that ping more often than every 5m."""
    timeout: Annotated[float, *duration(100, 600_000)] = float(_target.keepalive_timeout_ms)
    """How long a ping's answer may take."""


class TargetShape(_Shape):
    """A gRPC server that events are sent to."""

    address: Address
    """dns:///host:port, host:port, ipv4:address:port or ipv6:[address]:port."""
    tls: Annotated[
        TlsShape | None,
        section("Write `tls: {}` to trust the system's certificates, or `tls: {ca: <file>}`."),
    ] = None
    """Encryption; required for a target on another computer unless `plaintext: true` says otherwise."""
    plaintext: Flag = False
    """Calls without encryption to another computer, on purpose."""
    auth: Annotated[AuthShape | None, section('Write `auth: {bearer: "${file:<path>}"}`.')] = None
    """How this side shows who it is."""
    max_message_bytes: Annotated[int, *size(1, MESSAGE_BYTES_MAX)] = _target.max_message_bytes
    """The largest request the target takes; larger ones are dead-lettered before the call. Default 4MiB."""
    keepalive: Annotated[KeepaliveShape, section()] = Field(default_factory=KeepaliveShape)
    """Pings on a connection that is silent."""


class RetryShape(_Shape):
    """How often and how long an event that may succeed later is tried again."""

    attempts: Annotated[int, *count(1, 1_000)] = _retry.attempts
    """Attempts before an event is exhausted, the first one counted. Default 8."""
    backoff: Annotated[
        tuple[float, float],
        PlainValidator(values.backoff),
        form("string", pattern=r"^[0-9.]+(ms|s|m|h|d)\.\.[0-9.]+(ms|s|m|h|d)$"),
    ] = (_retry.backoff_min_ms, _retry.backoff_max_ms)
    """The first wait and the longest. Default 100ms..1m."""
    give_up_after: Annotated[float, *duration(1_000, 365 * _DAY_MS)] = _retry.give_up_after_ms
    """From the first attempt on. Default 24h."""
    on_exhausted: Annotated[OnExhausted, *words(OnExhausted)] = _retry.on_exhausted
    """dead_letter (default): set the event aside. hold: try for ever, its key waits."""
    tiers: Annotated[
        list[Annotated[float, *duration(TIER_DELAY_MIN_MS, TIER_DELAY_MAX_MS)]], listed("duration", TIERS_MAX)
    ] = Field(default_factory=list)
    """Longer waits, in topics of their own, each with one attempt more: [1m, 10m, 1h]. Default none."""
    then_key: Annotated[ThenKey, *words(ThenKey)] = _retry.then_key
    """continue (default): later events of a key go on when one was moved or set aside. follow: after it."""
    follow_for: Annotated[float, *duration(1_000, 365 * _DAY_MS)] = _retry.follow_for_ms
    """How long later events of a key follow one of it into the dead letters. Default 24h."""
    follow_keys: Annotated[int, *count(1, 1_000_000)] = _retry.follow_keys_max
    """Keys that are followed, of one partition; at the bound it waits. Default 10000."""


class PartitionIntakeShape(_Shape):
    """Open events of one partition."""

    events: Annotated[int, *EVENTS] = _intake.partition_events_max
    """Default 2000."""
    bytes: Annotated[int, *BYTES] = _intake.partition_bytes_max
    """Default 8MiB."""


class SubscriptionIntakeShape(_Shape):
    """Open events of the whole subscription in this process."""

    events: Annotated[int, *EVENTS] = _intake.subscription_events_max
    """Default 10000."""
    bytes: Annotated[int, *BYTES] = _intake.subscription_bytes_max
    """Default 32MiB."""


class ParkedIntakeShape(_Shape):
    """Events behind a key that waits, of one partition, outside the limits above."""

    events: Annotated[int, *EVENTS] = _intake.parked_events_max
    """Default 1000."""
    bytes: Annotated[int, *BYTES] = _intake.parked_bytes_max
    """Default 8MiB."""


class IntakeShape(_Shape):
    """How much may be open; whichever limit is reached first pauses the partition."""

    partition: Annotated[PartitionIntakeShape, section()] = Field(default_factory=PartitionIntakeShape)
    subscription: Annotated[SubscriptionIntakeShape, section()] = Field(
        default_factory=SubscriptionIntakeShape
    )
    parked: Annotated[ParkedIntakeShape, section()] = Field(default_factory=ParkedIntakeShape)


class ConcurrencyShape(_Shape):
    """Calls out at once, found by trying between 4 and `max`."""

    max: Annotated[int, *count(1, 10_000)] = _subscription.concurrency
    """Never more than this. Default 256."""
    adapt: Annotated[
        Adapt,
        PlainValidator(values.adapt),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["observe"]}]}),
    ] = Adapt.OFF
    """true: follow what the target can do at once. observe: compute and show it only. Default false."""


class ComputedShape(_Shape):
    """A parameter computed for each delivery."""

    from_: Expression = Field(alias="from")
    """An expression over event and delivery."""


class MetadataShape(_Shape):
    """What goes with a call beyond Pelton's own entries."""

    headers: Annotated[list[Header], listed("header", LISTED_MAX)] = Field(default_factory=list)
    """Record headers to copy, by name."""
    parameters: Annotated[list[Text], listed("parameter", PARAMETERS_MAX)] = Field(default_factory=list)
    """Parameters to send as pelton-param-<name>."""


class DeadLettersShape(_Shape):
    """Where events are set aside."""

    topic: Topic | None = None
    """Default dlq.<subscription>."""
    atomic: Annotated[Atomic, *words(Atomic)] = _subscription.atomic
    """auto (default): in one transaction with the offset, if Kafka allows it. never: one, then the other."""


class DescriptorsShape(_Shape):
    """Where the method's descriptor comes from; without it, the target's server reflection."""

    set: FilePath | None = None
    """A descriptor set file, as `protoc --include_imports -o` writes it."""
    files: Annotated[list[FilePath] | None, listed("file", LISTED_MAX)] = None
    """.proto files."""
    paths: Annotated[list[FolderPath] | None, listed("folder", LISTED_MAX)] = None
    """Folders their imports are looked up in; without it, the folder of each file."""


RequestFields = Annotated[
    dict[FieldPath, Expression],
    mapped("`<field>: <expression>`", FIELDS_MAX),
]
ParameterValue = Annotated[
    Annotated[str, PlainValidator(values.constant), form("string", maxLength=4_096), Tag(PLAIN)]
    | Annotated[ComputedShape, Tag(MAPPING)],
    Discriminator(is_mapping),
]


class SubscriptionShape(_Shape):
    """Topics to a target's method: a consumer group of its own."""

    topics: Annotated[list[Topic], listed("topic", TOPICS_MAX)]
    """Source topics; they must exist."""
    target: TargetName
    """A name under targets."""
    delivery: Annotated[DeliveryMode, *words(DeliveryMode, unbuilt=("cloudevents", "pull"))] = (
        _subscription.mode
    )
    """unary (default): any unary method. handler, stream: pelton.v1.EventHandler."""
    method: Method | None = None
    """/package.Service/Method; required for unary, fixed for handler and stream."""
    request: (
        Annotated[
            Annotated[
                Literal["raw"],
                *word("raw"),
                Tag(PLAIN),
            ]
            | Annotated[RequestFields, Tag(MAPPING)],
            Discriminator(is_mapping),
        ]
        | None
    ) = None
    """unary only. raw (default): the record's bytes are the request. Else field: expression."""
    descriptors: Annotated[DescriptorsShape | None, section("Write `descriptors: {set: <file>}`.")] = None
    """unary only. Where the method's descriptor comes from; without it, server reflection."""
    parameters: Annotated[
        dict[ParameterName, ParameterValue], mapped('`<name>: "<constant>"`', PARAMETERS_MAX)
    ] = Field(default_factory=dict)
    """What the event alone does not say: constants, or {from: expression}."""
    metadata: Annotated[MetadataShape, section()] = Field(default_factory=MetadataShape)
    """What goes with a call beyond Pelton's own entries."""
    filter: Expression | None = None
    """A CEL expression; only events for which it is true are delivered."""
    ordering: Annotated[Ordering, *words(Ordering)] = _subscription.ordering
    """key (default), partition or none."""
    concurrency: Annotated[
        Annotated[int, *count(1, 10_000), Tag(PLAIN)] | Annotated[ConcurrencyShape, Tag(MAPPING)],
        Discriminator(is_mapping),
    ] = _subscription.concurrency
    """Calls out at once, per process. Default 256. Or {max, adapt}."""
    rate: (
        Annotated[float, PlainValidator(values.rate), form("string", pattern=r"^[0-9.]+/(s|m|h)$")] | None
    ) = None
    """Calls started in a second, minute or hour, per process: 500/s. Default: no bound."""
    timeout: Annotated[float, *duration(1, 3_600_000)] = _subscription.timeout_ms
    """Of one attempt. Default 10s."""
    retry: Annotated[RetryShape, section()] = Field(default_factory=RetryShape)
    """How often and how long an event that may succeed later is tried again."""
    idempotent: Flag = _subscription.idempotent
    """ALREADY_EXISTS means that an earlier attempt was taken."""
    on_status: Annotated[
        dict[StatusName, Annotated[Disposition, *words(Disposition)]], mapped("`<STATUS>: <decision>`", 16)
    ] = Field(default_factory=dict)
    """Statuses that mean something else here: ack, drop, unwell, miswired, retry or dead_letter."""
    intake: Annotated[IntakeShape, section()] = Field(default_factory=IntakeShape)
    """How much may be open."""
    start: Annotated[Start, PlainValidator(values.start), form("string", minLength=1)] = _subscription.start
    """Where a new subscription begins: earliest (default), latest or a time with its zone."""
    drain_timeout: Annotated[float, *duration(1, 3_600_000)] = _subscription.drain_timeout_ms
    """How long a revoke or a stop waits for the calls that are out. Default 15s."""
    dead_letters: Annotated[DeadLettersShape | None, section("Write `dead_letters: {topic: <name>}`.")] = None
    """Where events are set aside."""
    transport: Annotated[TransportChoice, *words(TransportChoice)] = _subscription.transport
    """What makes the calls: aio, native, or auto (default): native where it is installed."""
    group: Group | None = None
    """The consumer group. Default pelton.<name>."""
    kafka: KafkaSettings = Field(default_factory=dict)
    """Consumer settings beside the file's."""


class ServerShape(_Shape):
    """Where this process answers."""

    http: Endpoint = ("127.0.0.1", 8360)
    """/livez, /readyz and /metrics. Default 127.0.0.1:8360."""
    grpc: Endpoint = ("127.0.0.1", 8361)
    """gRPC health. Default 127.0.0.1:8361."""


class LimitsShape(_Shape):
    """What all subscriptions of the process may hold open together."""

    events: Annotated[int, *EVENTS] = _limits.events_max
    """Default 50000."""
    bytes: Annotated[int, *BYTES] = _limits.bytes_max
    """Default 64MiB."""


class LoggingShape(_Shape):
    """How the process logs."""

    format: Annotated[
        str,
        *word("auto", "text", "json"),
    ] = _logging.format
    """text, json, or auto (default): text on a terminal, JSON elsewhere."""
    level: Annotated[
        str,
        *word("debug", "info", "warning", "error"),
    ] = _logging.level
    """debug, info (default), warning or error."""


class KafkaShape(_Shape):
    """The section `kafka` alone, for commands that need no more of a file."""

    kafka: KafkaSettings


class FileShape(_Shape):
    """A Pelton config file."""

    kafka: KafkaSettings
    """Kafka client settings, passed through; bootstrap.servers is required."""
    targets: Annotated[dict[Name, TargetShape], mapped("`<name>: {address: <address>}`", TARGETS_MAX)]
    """gRPC servers by name."""
    subscriptions: Annotated[
        dict[Name, SubscriptionShape], mapped("a name and its options", SUBSCRIPTIONS_MAX)
    ]
    """Subscriptions by name."""
    server: Annotated[ServerShape, section()] = Field(default_factory=ServerShape)
    """Where this process answers."""
    limits: Annotated[LimitsShape, section()] = Field(default_factory=LimitsShape)
    """What all subscriptions of the process may hold open together."""
    logging: Annotated[LoggingShape, section()] = Field(default_factory=LoggingShape)
    """How the process logs."""


def json_schema() -> dict[str, Any]:
    """The file's JSON Schema (2020-12), for editors: keys, forms and bounds of each value by itself."""
    schema = FileShape.model_json_schema()
    _prune(schema)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Pelton config"
    schema["properties"]["kafka"]["required"] = ["bootstrap.servers"]
    return schema


def _prune(node: Any) -> None:
    """Take out what holds for values once they are read, not for the file: defaults, nulls, class names."""
    if isinstance(node, list):
        for item in node:
            _prune(item)
    if not isinstance(node, dict):
        return
    for name, inner in node.items():
        if name in ("properties", "$defs"):
            for item in inner.values():
                item.pop("default", None)
                item.pop("title", None)
                _prune(item)
        elif name not in ("enum", "required"):
            _prune(inner)
    branches = [branch for branch in node.get("anyOf", []) if branch != {"type": "null"}]
    if len(branches) == 1:
        del node["anyOf"]
        node.update({name: inner for name, inner in branches[0].items() if name != "description"})
