"""What the documents name exists: modules and names, files, make targets, settings, links."""

from __future__ import annotations

import importlib
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PAGES = sorted([_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")])
_SOURCES = sorted((_ROOT / "orochi").rglob("*.py")) + sorted((_ROOT / "workers").rglob("*.py"))
#: Names of SQL objects and settings start with `orochi.` too; these are not Python.
_SQL = re.compile(
    r"^orochi\.(orochi_\w+|tables|shards|shard_placements|chunks|chunk_access|tiering_\w+|nodes|stat_\w+|jobs?\w*|continuous_\w+|_\w+|default_\w+"
    r"|\w+_row_limit|compression(_\w+)?|enable_\w+|force_strategy|frozen_reads|snapshot_reads|direct_compress|small_query_bytes|cache_size_mb|parallel_workers)(\.\w+)?$"
)


def _identity(path: pathlib.Path) -> str:
    return str(path.relative_to(_ROOT))


@pytest.mark.parametrize("path", _PAGES, ids=_identity)
def test_python_names_resolve(path: pathlib.Path) -> None:
    for name in re.findall(r"`((?:orochi|workers)(?:\.\w+)+)`", path.read_text()):
        if not _SQL.match(name):
            assert _resolves(name), name


def test_python_names_in_docstrings_resolve() -> None:
    pattern = r"`((?:orochi|workers)\.\w+\.\w+(?:\.\w+)*)`"
    named = [(_identity(path), name) for path in _SOURCES for name in re.findall(pattern, path.read_text())]
    assert [pair for pair in named if not _SQL.match(pair[1]) and not _resolves(pair[1])] == []


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for attribute in parts[cut:]:
            if not hasattr(value, attribute):
                return attribute in getattr(value, "__annotations__", {})
            value = getattr(value, attribute)
        return True
    return False


@pytest.mark.parametrize("path", _PAGES, ids=_identity)
def test_links_and_files_exist(path: pathlib.Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for name in re.findall(r"`((?:orochi|workers|tests|benchmarks|docs)/[\w./-]+)`", text):
        assert (_ROOT / name).exists(), name


@pytest.mark.parametrize("path", _PAGES, ids=_identity)
def test_make_targets_and_settings_exist(path: pathlib.Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^(\w+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"`make [^`\n]+`|^ *make .*$", text, re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", " ".join(commands))) <= targets
    example = (_ROOT / ".env.example").read_text()
    for setting in re.findall(r"\bOROCHI_[A-Z0-9_]*[A-Z0-9]\b", text):
        assert setting in example, setting


def test_decisions_are_numbered() -> None:
    names = sorted(path.name for path in (_ROOT / "docs" / "adr").glob("*.md"))
    assert [name[:4] for name in names] == [f"{number:04d}" for number in range(1, len(names) + 1)]
    for name in names:
        text = (_ROOT / "docs" / "adr" / name).read_text()
        assert re.match(rf"# {int(name[:4])}\. ", text), name
        for heading in ("Status", "Context", "Decision", "Consequences"):
            assert f"## {heading}" in text, (name, heading)
