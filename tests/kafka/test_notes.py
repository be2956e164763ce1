"""What is remembered of followed keys, as records: every note comes back as it was, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.core.followed import Kind, Note
from pelton.kafka.notes import note_of, remembered

PLAIN = Note(Kind.LEFT, "events", b"\x00\xff", "retry.s.1m", 7, 1_700_000_000_000, "s/events/0/3")


@given(
    st.builds(
        Note,
        st.sampled_from(Kind),
        st.text(max_size=20),
        st.binary(max_size=40),
        st.just(""),
        st.integers(-1, 1 << 62),
        st.integers(-1, 1 << 62),
        st.text(max_size=20),
    )
)
def test_there_and_back(note: Note) -> None:
    record = remembered(note, "follow.s", 3)
    assert (record.topic, record.partition, record.headers) == ("follow.s", 3, ())
    assert note_of(record.key, record.value) == note


def test_a_struck_one_is_a_tombstone_of_the_same_key() -> None:
    struck = Note(PLAIN.kind, PLAIN.topic, PLAIN.key, PLAIN.place, struck=True)
    record, plain = remembered(struck, "follow.s", 0), remembered(PLAIN, "follow.s", 0)
    assert record.key == plain.key
    assert record.value is None
    assert note_of(record.key, None) == struck


def test_each_place_kind_and_key_is_remembered_by_itself() -> None:
    notes = [
        PLAIN,
        Note(Kind.LEFT, "events", b"\x00\xff", "events"),
        Note(Kind.ENDED, "events", b"\x00\xff"),
        Note(Kind.RELEASED, "events", b"\x00\xff"),
        Note(Kind.ENDED, "others", b"\x00\xff"),
        Note(Kind.ENDED, "events", b""),
    ]
    assert len({remembered(note, "follow.s", 0).key for note in notes}) == len(notes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b"{}"),
        (b"", b"{}"),
        (b"\xff", b"{}"),
        (b"[]", b"{}"),
        (b"1", b"{}"),
        (b"[" * 100_000, b"{}"),
        (b'{"kind":"left","topic":"t"}', b"{}"),
        (b'{"kind":"other","topic":"t","key":""}', b"{}"),
        (b'{"kind":"left","topic":"t","key":"*"}', b"{}"),
        (b'{"kind":"left","topic":"t","key":1}', b"{}"),
        (b'{"kind":"left","topic":"t","key":""}', b""),
        (b'{"kind":"left","topic":"t","key":""}', b"[]"),
        (b'{"kind":"left","topic":"t","key":""}', b'{"through":"far"}'),
        (b'{"kind":"left","topic":"t","key":""}', b'{"through":1e999}'),
    ],
)
def test_what_is_none_of_ours(key: bytes | None, value: bytes) -> None:
    assert note_of(key, value) is None
