"""Targets, certificates and drivers for the suite that every transport is held to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pelton.rpc.channels import Channels
from pelton.subscription import DeliveryMode, Target
from tests.conformance.authority import Authority
from tests.conformance.driver import Driver
from tests.conformance.target import ScriptedTarget

Drive = Callable[..., Driver]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(params=list(DeliveryMode), ids=lambda mode: mode.value)
def mode(request: pytest.FixtureRequest) -> DeliveryMode:
    assert isinstance(request.param, DeliveryMode)
    return request.param


@pytest.fixture
async def target() -> AsyncIterator[ScriptedTarget]:
    """Not started yet."""
    target = ScriptedTarget()
    yield target
    await target.stop()


@pytest.fixture
async def drive(mode: DeliveryMode) -> AsyncIterator[Drive]:
    """Makes drivers for the mode, and closes them: none may leave a call without a result."""
    made: list[Driver] = []

    def make(address: str | Target, channels: Channels | None = None) -> Driver:
        target = Target("shop", address) if isinstance(address, str) else address
        driver = Driver(mode, target, channels)
        made.append(driver)
        return driver

    yield make
    for driver in made:
        await driver.close()
