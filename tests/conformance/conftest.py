"""Targets, certificates and drivers for the suite that every transport is held to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pelton.rpc.channels import Channels
from pelton.rpc.native_dial import native_missing
from pelton.subscription import DeliveryMode, Target, TransportChoice
from tests.conformance.authority import Authority
from tests.conformance.driver import Driver
from tests.conformance.target import ScriptedTarget

Drive = Callable[..., Driver]
#: What makes unary calls.
CHOICES = (TransportChoice.AIO, TransportChoice.NATIVE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every transport in every mode, but no native streams: there are none."""
    none = {"mode": DeliveryMode.STREAM, "transport": TransportChoice.NATIVE}
    items[:] = [item for item in items if not none.items() <= _params(item).items()]


def _params(item: pytest.Item) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-table", action="store_true", help="case x transport, at the end")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--conformance-table", default=False):
        return
    table: dict[str, dict[str, str]] = {}
    for ended in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(ended, []):
            where, _, params = report.nodeid.removesuffix("]").partition("[")
            parts = params.split("-")
            for choice in CHOICES:
                if choice.value in parts:
                    parts.remove(choice.value)
                    case = " ".join([where.rpartition("/")[2].replace(".py::", ": "), *parts])
                    table.setdefault(case, {})[choice.value] = ended
    width = max(map(len, table), default=0)
    columns = [choice.value for choice in CHOICES]
    terminalreporter.write_line(" ".join([f"{'case':{width}}", *(f"{name:7}" for name in columns)]))
    for case, ends in sorted(table.items()):
        found = (f"{ends.get(name, '–'):7}" for name in columns)
        terminalreporter.write_line(" ".join([f"{case:{width}}", *found]))


@pytest.fixture(params=CHOICES, ids=lambda transport: transport.value)
def transport(request: pytest.FixtureRequest) -> TransportChoice:
    if request.param is TransportChoice.NATIVE and native_missing():
        pytest.skip("missing tool: cargo, for pelton_native")
    assert isinstance(request.param, TransportChoice)
    return request.param


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
async def drive(mode: DeliveryMode, transport: TransportChoice) -> AsyncIterator[Drive]:
    """Makes drivers for mode and transport, and closes them: none may leave a call without a result."""
    made: list[Driver] = []

    def make(address: str | Target, channels: Channels | None = None) -> Driver:
        target = Target("shop", address) if isinstance(address, str) else address
        driver = Driver(mode, target, channels, transport)
        made.append(driver)
        return driver

    yield make
    for driver in made:
        await driver.close()
