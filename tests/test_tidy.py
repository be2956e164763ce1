"""House rules that no other tool checks, over the files that git tracks.

Long functions and files are reported at the end of the run, so that growth is seen early; only a rule
fails. Words that may not stand in the repository are put together from parts, so that this file may.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "pelton"

#: One idea a file; a longer one has become two.
FILE_LINES_MAX = 600
#: Above this a function is reported: it no longer fits one screen.
FUNCTION_LINES_LONG = 70
#: And a file from here on: it is on its way to the limit.
FILE_LINES_LONG = 400

SOURCE = {".py", ".go", ".proto", ".sh", ".rs", ".java", ".js", ".ts"}
#: Written by others or by a generator: length and wording are not ours.
GENERATED = re.compile(r"(_pb2(_grpc)?\.pyi?|\.pb\.go|go\.sum|\.lock|image\.yaml)$")

UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
REGISTRIES = [
    "py" + "pi.org",
    "pythonhosted" + ".org",
    "npm" + "js.org",
    "npm" + "js.com",
    "yarn" + "pkg.com",
    "crates" + ".io",
    "proxy.golang" + ".org",
    "sum.golang" + ".org",
    "repo1.maven" + ".org",
    "repo.maven.apache" + ".org",
    "docker" + ".io",
    "gh" + "cr.io",
    "qu" + "ay.io",
]
#: Addresses of people. RFC 2606 keeps the example domains free.
MAIL = re.compile(
    r"\b[\w.+-]+@(?!(?:[\w-]+\.)*(?:example(?:\.\w+)?|test|invalid|localhost)\b)[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b"
)
#: Places on one computer only: home folders, and private addresses but loopback.
PLACES = [
    re.compile("/(?:" + "|".join(("ro" + "ot", "ho" + "me", "Us" + "ers", "wo" + "rk")) + r")/[\w.-]+/"),
    re.compile(r"\b(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}\b"),
]


@cache
def tracked() -> tuple[Path, ...]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("missing tool: git (or no checkout): which files are ours is not known")
    names = [name for name in done.stdout.split("\0") if name]
    return tuple(path for name in names if (path := ROOT / name).is_file() and not path.is_symlink())


def ours(*suffixes: str) -> list[Path]:
    wanted = suffixes or tuple(SOURCE)
    return [path for path in tracked() if path.suffix in wanted and not GENERATED.search(path.name)]


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path), str(path))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_matching(patterns: list[re.Pattern[str]], paths: list[Path]) -> list[str]:
    return [
        f"{name(path)}:{number}: {found.group()}"
        for path in paths
        for number, line in enumerate(text(path).splitlines(), start=1)
        for pattern in patterns
        if (found := pattern.search(line))
    ]


def test_nothing_is_left_unfinished() -> None:
    assert not lines_matching([UNFINISHED], [path for path in tracked() if not GENERATED.search(path.name)])


def test_no_registry_no_person_no_private_place() -> None:
    registries = [re.compile(re.escape(host), re.IGNORECASE) for host in REGISTRIES]
    everywhere = list(tracked())
    written = [path for path in everywhere if not GENERATED.search(path.name)]
    found = lines_matching(registries, everywhere) + lines_matching([MAIL, *PLACES], written)
    assert not found, "\n".join(found)


def test_requirement_files_name_no_place() -> None:
    files = [path for path in tracked() if path.parent.name == "requirements"]
    assert files
    assert not lines_matching([re.compile(r"://|--(?:extra-)?index|--find-links|--trusted-host")], files)


def test_every_pinned_requirement_has_a_hash() -> None:
    for path in tracked():
        if path.parent.name == "requirements" and path.suffix == ".txt":
            pins = re.split(r"\n(?=[a-zA-Z])", text(path))
            bare = [pin.split()[0] for pin in pins if "==" in pin and "--hash=sha256:" not in pin]
            assert not bare, name(path)


def test_every_module_says_what_it_is_for() -> None:
    silent = [name(path) for path in ours(".py") if not ast.get_docstring(tree(path))]
    assert not silent


def test_every_module_says_what_is_public() -> None:
    """`__all__`, even where it is empty; `__init__` files that hold nothing but their docstring need none."""
    missing = []
    for path in ours(".py"):
        if not path.is_relative_to(PACKAGE) or path.name == "__main__.py":
            continue
        body = tree(path).body[1:]
        says = any(
            isinstance(target, ast.Name) and target.id == "__all__"
            for node in body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        )
        if body and not says:
            missing.append(name(path))
    assert not missing


def test_no_file_is_too_long() -> None:
    long = {name(path): count for path in ours() if (count := text(path).count("\n")) > FILE_LINES_MAX}
    assert not long


def imported_modules(path: Path) -> Iterator[str]:
    """What a file imports or names in a string: lazy imports and entry points count as use."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=0) if module:
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Constant(value=str(value)):
                yield from re.findall(r"\bpelton(?:\.\w+)+", value)


def test_every_module_is_used() -> None:
    """By another module of the package, an example or a script; `pelton.testing` is for our users' tests."""
    users = [path for path in ours(".py") if not path.is_relative_to(ROOT / "tests")]
    entry_points = set(re.findall(r"\bpelton(?:\.\w+)+", text(ROOT / "pyproject.toml")))
    unused = []
    for path in ours(".py"):
        if not path.is_relative_to(PACKAGE) or path.name in ("__init__.py", "__main__.py"):
            continue
        if path.is_relative_to(PACKAGE / "testing"):
            continue
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        used = any(module in set(imported_modules(user)) for user in users if user != path)
        if not used and module not in entry_points:
            unused.append(name(path))
    assert not unused


def test_long_functions_and_files_are_reported(note: Callable[[str], None]) -> None:
    functions = sorted(
        (
            (node.end_lineno - node.lineno + 1, f"{name(path)}:{node.lineno} {node.name}")
            for path in ours(".py")
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
        ),
        reverse=True,
    )
    files = sorted(((text(path).count("\n"), name(path)) for path in ours()), reverse=True)
    assert functions, "nothing was measured"
    assert files, "nothing was measured"
    for limit, measured in ((FUNCTION_LINES_LONG, functions), (FILE_LINES_LONG, files)):
        for count, where in measured:
            if count > limit:
                note(f"long: {count} lines: {where}")


@pytest.mark.parametrize(
    ("pattern", "sample"),
    [
        (UNFINISHED, "# TO" + "DO: later"),
        (MAIL, "written by someone@company" + ".com"),
        (PLACES[0], "/ho" + "me/someone/project"),
        (PLACES[1], "192.168" + ".1.7"),
    ],
    ids=["unfinished", "mail", "home", "address"],
)
def test_the_patterns_see_what_they_are_for(pattern: re.Pattern[str], sample: str) -> None:
    assert pattern.search(sample)


def test_example_addresses_are_no_people() -> None:
    assert not MAIL.search("ann@example.com and bob@shop.test, git@localhost")
