"""What the client's errors mean to us: end, or go on; and how they are said to a user.

The one place where a client error becomes one of ours.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from pelton.errors import BrokerError, FencedError, PublishError

__all__ = [
    "OWN_NAMES",
    "broker_error",
    "error_of",
    "is_denied",
    "is_fatal",
    "is_fenced",
    "is_offset_lost",
    "is_record_fault",
    "not_there",
    "publish_error",
]

_FENCED: Final = frozenset(
    {KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID, KafkaError._FENCED}
)
#: A fatal error carries its reason in its text alone: the client's binding hands out no second code.
_FENCED_TEXTS: Final = tuple(KafkaError(code).str() for code in _FENCED)
_DENIED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
#: How two processes come to bear one name, and what to do about it.
OWN_NAMES: Final = (
    "Names are told apart by a file lock on one host: give containers that share a host name, or users that "
    "share a host, their own group.instance.id in the Kafka settings."
)
_UNREACHABLE: Final = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}
)
_FENCED_PRODUCER: Final = frozenset(
    {KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError._FENCED}
)
_OF_RECORD: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
    }
)
_MISSING: Final = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART})
#: A record that the broker will never take, however often it is sent.
_NEVER: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._INVALID_ARG,
        KafkaError._FATAL,
    }
)

#: What somebody has to do at the topic.
_MENDS: Final = {
    KafkaError.MSG_SIZE_TOO_LARGE: ". Raise the topic's max.message.bytes",
    KafkaError.RECORD_LIST_TOO_LARGE: ". Raise the topic's max.message.bytes",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: ". Allow this user to write to it",
    KafkaError._UNKNOWN_PARTITION: ". Add partitions: a record keeps the number that it has in the source",
}


def error_of(exception: KafkaException) -> KafkaError:
    """The error within the client's exception."""
    error = exception.args[0] if exception.args else None
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def is_fatal(error: KafkaError) -> bool:
    """The client instance is finished: nothing it is asked to do will work again."""
    return error.fatal() or error.code() in _FENCED or error.code() == KafkaError._FATAL


def is_fenced(error: KafkaError) -> bool:
    """Somebody else bears this client's name now; or, of a transaction, the broker has ended it."""
    return error.code() in _FENCED or error.code() in _FENCED_PRODUCER


def is_record_fault(error: KafkaError) -> bool:
    """The record itself will not be taken, wherever it stands. The broker says so of its whole batch."""
    return error.code() in _OF_RECORD


def is_denied(error: KafkaError) -> bool:
    """Wrong credentials or missing rights: waiting does not help, a person does."""
    return error.code() in _DENIED


def is_offset_lost(error: KafkaError) -> bool:
    """The log no longer has the offset that was asked for."""
    return error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


def broker_error(error: KafkaError, doing: str, bootstrap: str) -> BrokerError:
    """`doing` failed at `bootstrap`, said with what to do about it."""
    text = f"{doing} at {bootstrap}: {error.str()} ({error.name()})."
    if error.code() in _FENCED or any(reason in error.str() for reason in _FENCED_TEXTS):
        return FencedError(text)
    if error.code() in _DENIED:
        return BrokerError(f"{text} Check the credentials (sasl.*, ssl.*) and the rights of their user.")
    if error.code() in _UNREACHABLE:
        return BrokerError(f"{text} Check that Kafka runs there and that security.protocol is the broker's.")
    if error.code() == KafkaError._INVALID_ARG:
        return BrokerError(f"{text} Check the names and values under `kafka:`.")
    return BrokerError(text)


def not_there(topic: str, where: str) -> str:
    """A topic is missing, said with what to do about it; `where` is what the brokers are known by."""
    return f"not written to {topic}: the topic is not there at {where}. Check its name, or create it"


def publish_error(error: KafkaError, topic: str) -> PublishError:
    """The broker's, or the client's, no to one record."""
    retriable = error.code() not in _NEVER and not error.fatal()
    if error.code() in _MISSING:
        return PublishError(not_there(topic, "the brokers"), retriable=retriable)
    mend = _MENDS.get(error.code(), "")
    return PublishError(f"not written to {topic}: {error.str()} ({error.name()}){mend}", retriable=retriable)
