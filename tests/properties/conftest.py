"""A deep search takes longer than any other test may."""

from __future__ import annotations

import pytest

from tests.properties.profile import DEEP

DEEP_TIMEOUT_S = 3_600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DEEP:
        for item in items:
            if "tests/properties/" in item.nodeid:
                item.add_marker(pytest.mark.timeout(DEEP_TIMEOUT_S))
