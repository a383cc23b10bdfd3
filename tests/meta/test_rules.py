"""The repository's own rules, held by the suite so that nobody has to remember them."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re

import pytest

from orochi import settings

_ROOT = pathlib.Path(__file__).parents[2]
_SOURCES = sorted(
    path
    for folder in ("orochi", "workers")
    for path in (_ROOT / folder).rglob("*.py")
    if "versions" not in path.parts
)
_MODULE_LINES = 450
_FUNCTION_LINES = 90


def _name(path: pathlib.Path) -> str:
    return str(path.relative_to(_ROOT))


@pytest.mark.parametrize("path", _SOURCES, ids=_name)
def test_module(path: pathlib.Path) -> None:
    """Short, explained, and free of what the project does not write."""
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= _MODULE_LINES, "split it"
    assert ast.get_docstring(tree), "say what the file keeps true"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=None):
                pytest.fail(f"bare except at line {node.lineno}")
            case ast.Call(func=ast.Name(id="print" | "eval" | "exec" | "breakpoint")):
                pytest.fail(f"{ast.unparse(node.func)}() at line {node.lineno}")
            case ast.Raise(
                exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))
            ):
                pytest.fail(f"unfinished at line {node.lineno}")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= _FUNCTION_LINES, f"{node.name} at line {node.lineno} has {length} lines"
            case ast.Import() | ast.ImportFrom():
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cloudpickle", "dill", "marshal"}, "JSON only"


def test_orochi_does_not_import_workers() -> None:
    """Task names are constants in orochi; only the command line starts a worker."""
    for path in (_ROOT / "orochi").rglob("*.py"):
        imports = re.search(r"^(from|import) workers\b", path.read_text(), re.MULTILINE)
        assert not imports, path


def test_settings_are_documented() -> None:
    """Each setting stands in .env.example with its default, and nothing else does."""
    text = (_ROOT / ".env.example").read_text()
    documented = set(re.findall(r"^#?(OROCHI_[A-Z0-9_]+)=", text, re.MULTILINE))
    fields = {f"OROCHI_{name.upper()}" for name in settings.Settings.model_fields}
    assert documented == fields
    for name, field in settings.Settings.model_fields.items():
        match = re.search(rf"^#OROCHI_{name.upper()}=(.*)$", text, re.MULTILINE)
        if match and isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert float(match[1]) == float(field.default), name


def test_changelog_lines_are_short() -> None:
    for number, line in enumerate((_ROOT / "CHANGELOG.md").read_text().splitlines(), 1):
        assert len(line) <= 80, f"line {number}"


def test_tasks_and_beat_agree() -> None:
    """Every task name that orochi or beat uses is registered by the workers."""
    app = importlib.import_module("workers.app").app
    app.loader.import_default_modules()
    registered = {name for name in app.tasks if not name.startswith("celery.")}
    beat = importlib.import_module("beat_schedule")
    schedule = getattr(beat, "SCHEDULE", None) or app.conf.beat_schedule
    assert schedule
    assert {entry["task"] for entry in schedule.values()} <= registered
    names = importlib.import_module("orochi.executor.tasks") if _exists("orochi/executor/tasks.py") else None
    for constant, value in vars(names).items() if names else ():
        if constant.isupper() and isinstance(value, str) and value.startswith("orochi."):
            assert value in registered, constant


def _exists(name: str) -> bool:
    return (_ROOT / name).exists()


def test_celery_speaks_json_only() -> None:
    conf = importlib.import_module("workers.app").app.conf
    assert list(conf.accept_content) == ["json"]
    assert list(conf.result_accept_content or conf.accept_content) == ["json"]
    assert (conf.task_serializer, conf.result_serializer) == ("json", "json")
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1


def test_every_test_file_is_collected() -> None:
    """A test in a file that pytest does not take is a test that never ran."""
    for path in (_ROOT / "tests").rglob("*.py"):
        if (
            path.name.startswith("test_")
            or "support" in path.parts
            or path.name in {"conftest.py", "__init__.py"}
        ):
            continue
        assert "def test_" not in path.read_text(), path


def test_no_test_is_skipped_silently() -> None:
    for path in (_ROOT / "tests").rglob("test_*.py"):
        if path != pathlib.Path(__file__):
            assert not re.search(r"mark\.(skip|xfail)\b|importorskip", path.read_text()), path
