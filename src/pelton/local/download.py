"""Fetch Apache Kafka's jars once, and hand out only files that are byte for byte what was pinned.

The pins (`kafka-<version>.pins`, written by `scripts/pin_kafka.py`) are the trust: where a jar comes from
does not matter, what it holds does. Each start checks every file in full, which costs less than reading the
files does anyway. Nothing here starts a process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import importlib.resources
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pelton.errors import LocalKafkaError
from pelton.local.lock import held
from pelton.local.progress import Progress, report

__all__ = ["KAFKA_VERSION", "Pin", "cache_directory", "extra", "fetch_jars", "read_pins"]

#: The newest patch of the Kafka line that Pelton is measured on.
KAFKA_VERSION = "4.2.2"

#: Enough to fill a common line, few enough to be a polite guest of the repository.
PARALLEL_MAX = 4
#: A file is tried this often; waits double from `RETRY_WAIT_S`, so the last try comes 3.5 s after the first.
ATTEMPTS_MAX = 4
RETRY_WAIT_S = 0.5
#: Without an answer to a connect, or without a byte, for this long, a try has failed.
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
#: Another process that downloads on a slow line is waited for this long.
LOCK_WAIT_S = 600.0
#: Kept free beside the jars: a disk filled to the last byte breaks others.
SPARE_BYTES = 32 * 1024 * 1024
CHUNK_BYTES = 128 * 1024

EXTRA_MISSING = "the local Kafka needs an extra: pip install 'pelton[local]'"


@dataclass(frozen=True, slots=True)
class Pin:
    """One file that Kafka needs, and what it must hold."""

    #: Below the repository's root, with forward slashes.
    path: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def extra(module: str) -> ModuleType:
    """A module that only the extra `pelton[local]` brings."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LocalKafkaError(f"{EXTRA_MISSING} (no module `{error.name}`)") from error


def read_pins(version: str = KAFKA_VERSION) -> tuple[Pin, ...]:
    """The files of that Kafka version."""
    text = (
        importlib.resources.files("pelton.local")
        .joinpath(f"kafka-{version}.pins")
        .read_text(encoding="ascii")
    )
    lines = (line.split() for line in text.splitlines())
    return tuple(Pin(path=path, size_bytes=int(size), sha256=sha256) for path, size, sha256 in lines)


def cache_directory() -> Path:
    """Where downloads are kept: `PELTON_CACHE_DIR`, else `pelton` in the user's cache directory."""
    if chosen := os.environ.get("PELTON_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pelton"


def fetch_jars(
    directory: Path | None = None, *, pins: Sequence[Pin] | None = None, repository: str | None = None
) -> list[Path]:
    """Every pinned jar, checked, in `directory` (default: the cache); the missing ones are downloaded.

    Raises `LocalKafkaError` if a file is not what was pinned, cannot be fetched or cannot be written. A file
    of the wrong content is left where it is: it is evidence, and only its owner knows how it came there.
    """
    pins = read_pins() if pins is None else pins
    directory = directory or cache_directory() / f"kafka-{KAFKA_VERSION}"
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with held(directory / ".lock", wait_s=LOCK_WAIT_S, doing="downloading Apache Kafka"):
        missing = [pin for pin in pins if not present(directory / pin.name, pin)]
        if missing:
            if repository is None:
                repository = str(extra("jgo.constants").MAVEN_CENTRAL_URL)
            download(missing, directory, repository)
    return [directory / pin.name for pin in pins]


def present(path: Path, pin: Pin) -> bool:
    """True if the file is there and right, False if it is not there; a wrong one refuses."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LocalKafkaError(f"cannot read {path}: {error.strerror}") from error
    if found != pin.sha256:
        raise LocalKafkaError(
            f"{path} is not the file that was pinned (sha256 {found}, expected {pin.sha256});"
            " it was changed or damaged after the download. Remove it to have it fetched again"
        )
    return True


def download(pins: Sequence[Pin], directory: Path, repository: str) -> None:
    """Fetch the files, several at a time, the lock held; the first failure ends the others, raised."""
    with writing(directory):
        # Left by a process that was killed: nobody else can be writing them, since we hold the lock.
        for part in directory.glob("*.part"):
            part.unlink()
        total = sum(pin.size_bytes for pin in pins)
        free = shutil.disk_usage(directory).free
    if free < total + SPARE_BYTES:
        raise no_space(directory, f"{megabytes(total + SPARE_BYTES)} are needed, {megabytes(free)} are free")
    given_up = threading.Event()
    title = f"Fetching Apache Kafka {KAFKA_VERSION} ({len(pins)} files, {megabytes(total)}) into {directory}"
    with (
        report(title, total) as progress,
        ThreadPoolExecutor(PARALLEL_MAX, thread_name_prefix="pelton-download") as pool,
    ):
        futures = [pool.submit(fetch, pin, directory, repository, progress, given_up) for pin in pins]
        try:
            for future in futures:
                future.result()
        except BaseException:
            given_up.set()
            pool.shutdown(cancel_futures=True)
            raise


def fetch(pin: Pin, directory: Path, repository: str, progress: Progress, given_up: threading.Event) -> None:
    """One file: into a temporary name, checked, renamed; so its name always means a whole, right file."""
    requests = extra("requests")
    url = f"{repository.rstrip('/')}/{pin.path}"
    part = directory / f"{pin.name}.part"
    for attempt in range(1, ATTEMPTS_MAX + 1):
        received = 0
        try:
            with writing(directory), part.open("wb") as file:
                digest = hashlib.sha256()
                for chunk in chunks(requests, url):
                    if given_up.is_set():
                        raise LocalKafkaError(f"the download of {pin.name} was given up")
                    received += len(chunk)
                    if received > pin.size_bytes:
                        raise not_pinned(url, f"more than {pin.size_bytes} bytes")
                    digest.update(chunk)
                    file.write(chunk)
                    progress(len(chunk))
            if received < pin.size_bytes:
                raise requests.ConnectionError(
                    f"the connection ended after {received} of {pin.size_bytes} bytes"
                )
            if digest.hexdigest() != pin.sha256:
                raise not_pinned(url, f"sha256 {digest.hexdigest()}, expected {pin.sha256}")
            with writing(directory):
                part.replace(directory / pin.name)
            return
        except requests.RequestException as error:
            progress(-received)
            status = error.response.status_code if error.response is not None else None
            final = status is not None and status < 500 and status != 429
            if final or attempt == ATTEMPTS_MAX or given_up.wait(RETRY_WAIT_S * 2 ** (attempt - 1)):
                raise LocalKafkaError(
                    f"cannot download {url}: {error}. The first start needs the network (HTTPS_PROXY names a"
                    f" proxy); files fetched elsewhere may be put into {directory}"
                ) from error
        finally:
            part.unlink(missing_ok=True)


def chunks(requests: ModuleType, url: str) -> Iterator[bytes]:
    """The body of one GET; any answer but 200 is a `RequestException`."""
    # Identity: the pinned size is of the file itself.
    headers = {"Accept-Encoding": "identity"}
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.get(url, stream=True, timeout=timeout, headers=headers) as response:
        response.raise_for_status()
        try:
            yield from response.iter_content(CHUNK_BYTES)
        except requests.RequestException:
            raise
        except OSError as error:
            # Of the socket, and not to be taken for one of the disk.
            raise requests.ConnectionError(str(error)) from error


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Name the directory and the mend when the disk refuses."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            # The HTTP client's errors are OSErrors too, without a number: not of this disk.
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(directory, "it filled up during the download") from error
        raise LocalKafkaError(
            f"cannot write to {directory}: {error.strerror}; set PELTON_CACHE_DIR to another directory"
        ) from error


def no_space(directory: Path, detail: str) -> LocalKafkaError:
    return LocalKafkaError(
        f"no space for Apache Kafka in {directory}: {detail};"
        " free some, or set PELTON_CACHE_DIR to another disk"
    )


def not_pinned(url: str, detail: str) -> LocalKafkaError:
    return LocalKafkaError(
        f"{url} answered with something else than the pinned file ({detail}); nothing of it was kept."
        " A proxy or mirror in between may have changed it"
    )


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1_000_000:.0f} MB"
