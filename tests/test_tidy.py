"""Rules of the project that no linter knows, over the files git tracks."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_LINES_MAX = 450
BANNED_NAMES = {"utils", "helpers", "common", "manager", "misc"}
# Put together here, so that this file doesn't hold what it looks for.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
SLEEPERS = {"time", "trio", "asyncio"}
UNSAFE_LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@cache
def tracked() -> tuple[Path, ...]:
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return tuple(path for name in listing.split("\0") if name and (path := ROOT / name).is_file())


@cache
def python_files(*folders: str) -> tuple[tuple[str, ast.Module], ...]:
    """Tracked Python files below the folders (all, if none is named), as path and syntax tree."""
    return tuple(
        (name, parsed(path))
        for path in tracked()
        if (name := path.relative_to(ROOT).as_posix()).endswith(".py")
        and (not folders or name.startswith(tuple(f"{folder}/" for folder in folders)))
    )


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.Module) -> set[str]:
    """Top-level names of every module imported anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def calls_of(tree: ast.Module, module: str, function: str) -> list[int]:
    """Lines where `module.function(...)` is called."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == function
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == module
    ]


def broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler is bare, or swallows every exception without a word."""
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    everything = any(isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"} for name in caught)
    silent = all(
        isinstance(node, ast.Pass | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in handler.body
    )
    return everything and silent


def test_files_stay_short() -> None:
    long = {
        name: lines
        for path in tracked()
        if (name := path.relative_to(ROOT).as_posix()).startswith(("deepshard/", "kernels/")) and path.suffix == ".py"
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    }
    assert long == {}, f"split by idea: {long}"


def test_nothing_is_left_unfinished() -> None:
    marked = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".sh", ".cfg", ".yml", ".json"} or path.name in {"Makefile", "run"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert marked == []


def test_modules_are_named_for_what_they_hold() -> None:
    vague = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py" and BANNED_NAMES & {path.stem, *path.relative_to(ROOT).parts[:-1]}
    ]
    assert vague == []


def test_tests_do_not_sleep() -> None:
    sleeping = [
        f"{name}:{line}"
        for name, tree in python_files("tests")
        for module in SLEEPERS
        for line in calls_of(tree, module, "sleep")
    ]
    assert sleeping == []


@pytest.mark.clause("15.6/1")
def test_nothing_is_loaded_that_can_run_code() -> None:
    unsafe = [name for name, tree in python_files() if imported(tree) & UNSAFE_LOADERS]
    unsafe += [f"{name}:{line}" for name, tree in python_files() for line in calls_of(tree, "torch", "load")]
    assert unsafe == []


def test_no_error_is_swallowed_unseen() -> None:
    swallowed = [
        f"{name}:{node.lineno}"
        for name, tree in python_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and broad(node)
    ]
    assert swallowed == []


def test_every_package_says_what_it_is() -> None:
    silent = [
        name
        for name, tree in python_files("deepshard")
        if name.endswith("/__init__.py") and not (ast.get_docstring(tree) or "").strip()
    ]
    assert silent == []


def test_kernels_stand_alone() -> None:
    assert (ROOT / "kernels/__init__.py").read_text(encoding="utf-8") == ""
    assert [name for name, tree in python_files("kernels") if "deepshard" in imported(tree)] == []


def test_decisions_are_numbered_uniquely() -> None:
    names = [path.name for path in tracked() if path.parent == ROOT / "protocol-spec/decisions"]
    assert [name for name in names if not re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", name)] == []
    numbers = Counter(name[:3] for name in names)
    assert [number for number, count in numbers.items() if count > 1] == []


def test_test_files_have_unique_names() -> None:
    # Tests are not packages, so two files of one name would be one module.
    names = Counter(Path(name).name for name, _ in python_files("tests") if not name.endswith("conftest.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_readme_says_how_to_begin() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make devnet", "make test"):
        assert command in readme


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ("except:\n        raise", True),
        ("except Exception:\n        pass", True),
        ("except (ValueError, Exception):\n        ...", True),
        ("except Exception:\n        raise", False),
        ("except ValueError:\n        pass", False),
    ],
)
def test_the_rule_against_swallowing_bites(body: str, refused: bool) -> None:  # noqa: FBT001
    tree = ast.parse(f"def f():\n    try:\n        g()\n    {body}\n")
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    assert [broad(handler) for handler in handlers] == [refused]


def test_the_other_rules_bite() -> None:
    tree = ast.parse("import trio\nfrom deepshard.errors import UsageError\ntrio.sleep(1)\n")
    assert calls_of(tree, "trio", "sleep") == [3]
    assert imported(tree) == {"trio", "deepshard"}
    assert UNFINISHED.search("# " + "TO" + "DO: later")
