"""The proxy does to bytes what it says, both ways, and undoes it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import HOST, Proxy, Way
from tests.integration.delivery.processes import until

#: Nothing of these takes a tenth of it.
TIMEOUT_S = 20.0


class Echo:
    """Sends back what it gets; knows how its connections ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.ends: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    connection.sendall(data)
                self.ends.append("fin")
            except ConnectionError:
                self.ends.append("rst")

    def close(self) -> None:
        # Closing alone does not wake a thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.port), timeout=TIMEOUT_S) as client:
        yield client


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return take(client, len(data))


def take(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = client.recv(count - len(got))
        if not more:
            break
        got += more
    return got


def silent(client: socket.socket, seconds: float = 0.2) -> bool:
    """Nothing comes for so long. Silence has no event to wait for."""
    client.settimeout(seconds)
    try:
        client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        client.settimeout(TIMEOUT_S)
    return False


def test_it_passes_everything_on(proxy: Proxy, client: socket.socket) -> None:
    data = bytes(range(256)) * 4_096
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert take(client, len(data)) == data
    sender.join()
    assert (proxy.connections, proxy.up_bytes, proxy.down_bytes) == (1, len(data), len(data))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_latency_keeps_order_and_adds_up(proxy: Proxy, client: socket.socket, direction: str) -> None:
    proxy.spoil(**{direction: Way(latency_ms=100, jitter_ms=50)})
    start = time.monotonic()
    assert b"".join(ask(client, bytes([number])) for number in range(5)) == bytes(range(5))
    assert time.monotonic() - start >= 5 * 0.05


def test_bandwidth(proxy: Proxy, client: socket.socket) -> None:
    proxy.spoil(down=Way(bytes_per_s=50_000, slice_bytes=1_000))
    start = time.monotonic()
    assert ask(client, b"x" * 20_000) == b"x" * 20_000
    # The pause after the last piece comes after its arrival.
    assert time.monotonic() - start >= 0.38


def test_slices(proxy: Proxy, client: socket.socket) -> None:
    proxy.spoil(down=Way(slice_bytes=1, slice_gap_ms=5))
    client.sendall(b"abc")
    assert [client.recv(100) for _ in range(3)] == [b"a", b"b", b"c"]


def test_a_limit_ends_the_connection_both_ways(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    proxy.spoil(down=Way(limit_bytes=10))
    client.sendall(b"0123456789abcdef")
    assert take(client, 100) == b"0123456789"
    until(lambda: echo.ends, "the other side to hear of it")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_black_hole_keeps_back_and_tells_nobody(
    proxy: Proxy, client: socket.socket, direction: str
) -> None:
    assert ask(client, b"before") == b"before"
    proxy.spoil(**{direction: Way(black_hole=True)})
    client.sendall(b"during")
    assert silent(client)
    carried = proxy.up_bytes if direction == "up" else proxy.down_bytes
    assert carried == len("before")
    proxy.heal()
    assert take(client, 6) == b"during"
    assert ask(client, b"after") == b"after"


def test_what_is_held_comes_when_it_is_let_go_and_new_connections_are_not_held(
    proxy: Proxy, client: socket.socket
) -> None:
    assert ask(client, b"before") == b"before"
    proxy.hold()
    client.sendall(b"during")
    with socket.create_connection((HOST, proxy.port), timeout=TIMEOUT_S) as other:
        assert ask(other, b"new") == b"new"
    assert silent(client)
    proxy.let_go()
    assert take(client, 6) == b"during"


def test_a_black_hole_swallows_the_end(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    assert ask(client, b"x") == b"x"
    proxy.spoil(up=Way(black_hole=True))
    client.shutdown(socket.SHUT_WR)
    assert silent(client)
    assert echo.ends == []
    proxy.heal()
    assert client.recv(1) == b""
    assert echo.ends == ["fin"]


def test_a_timeout_ends_what_it_holds_up(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    proxy.spoil(up=Way(timeout_ms=100))
    client.sendall(b"lost")
    assert client.recv(1) == b""
    until(lambda: echo.ends, "the other side to hear of it")
    assert proxy.up_bytes == 0


def test_a_slow_close(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    proxy.spoil(up=Way(slow_close_ms=200))
    assert ask(client, b"x") == b"x"
    start = time.monotonic()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert time.monotonic() - start >= 0.2
    assert echo.ends == ["fin"]


def test_a_reset_reaches_both_sides(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    assert ask(client, b"x") == b"x"
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    until(lambda: echo.ends, "the other side to hear of it")
    assert echo.ends == ["rst"]


def test_a_close_reaches_both_sides(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    assert ask(client, b"x") == b"x"
    assert proxy.close() == 1
    assert client.recv(1) == b""
    until(lambda: echo.ends, "the other side to hear of it")
    assert echo.ends == ["fin"]


def test_refused_and_taken_again(proxy: Proxy, client: socket.socket) -> None:
    assert ask(client, b"x") == b"x"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, proxy.port), timeout=TIMEOUT_S)
    assert ask(client, b"y") == b"y"
    proxy.listen()
    with socket.create_connection((HOST, proxy.port), timeout=TIMEOUT_S) as another:
        assert ask(another, b"z") == b"z"


def test_nobody_behind_it(proxy: Proxy) -> None:
    with socket.create_server((HOST, 0)) as gone:
        proxy.target_port = gone.getsockname()[1]
    # The reset may come as early as the connection.
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((HOST, proxy.port), timeout=TIMEOUT_S) as client,
    ):
        client.recv(1)
