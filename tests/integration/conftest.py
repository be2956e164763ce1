"""Tests against a real broker on this computer."""

from __future__ import annotations

from tests.kafka_fixtures import create_topic, kafka, topic_name

__all__ = ["create_topic", "kafka", "topic_name"]
