"""An answer of several parts is taken whole, whatever a broken connection did to its parts."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pyarrow as pa
import pytest

from orochi.executor import exchange

_ROWS = 30


def _items(folder: exchange.SharedFolder | None = None, rows: Sequence[int] = range(_ROWS)) -> list[bytes]:
    """An answer as a worker sends it; in many parts if it does not see the gateway's folder."""
    sent: list[bytes] = []

    def send(item: bytes) -> int:
        sent.append(item)
        return 0

    writer = exchange.ResultWriter(
        {"task": "t", "fragment": 3},
        send,
        inline_bytes=16,
        folder=folder,
        file_name="answer",
        cancelled=lambda: False,
        waiting=lambda: 0,
    )
    for start in range(0, _ROWS, 5):
        writer.write(pa.record_batch({"n": pa.array(rows[start : start + 5])}))
    writer.finish({"stats": {}})
    return sent


def _taken(answers: exchange.Answers, items: list[bytes]) -> list[list[int]]:
    found = [answers.take(*exchange.unpack(item)) for item in items]
    return [
        [value for batch in part for value in batch.column(0).to_pylist()]
        for part in found
        if part is not None
    ]


def test_parts_come_together() -> None:
    items = _items()
    assert len(items) > 3
    assert _taken(exchange.Answers(), items) == [list(range(_ROWS))]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_part_that_comes_twice_counts_once(at: int) -> None:
    items = _items()
    assert _taken(exchange.Answers(), [*items[: at + 1], *items[at:]]) == [list(range(_ROWS))]


def test_parts_of_two_answers_are_never_one() -> None:
    """The queue may deliver a task twice, and what it sends the second time may be ordered otherwise."""
    first, second = _items(), list(reversed(range(_ROWS)))
    again = _items(rows=second)
    answers = exchange.Answers()
    assert _taken(answers, [*first[:2], *again]) == [second]
    assert _taken(answers, first[2:]) == [list(range(_ROWS))]  # the tracker knows that it was answered


def test_two_answers_are_two_files(tmp_path: pathlib.Path) -> None:
    folder = exchange.SharedFolder.create(tmp_path)
    first, second = _items(folder), _items(folder)
    assert _taken(exchange.Answers(), [*first, *second]) == [list(range(_ROWS))] * 2


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_answer_that_lacks_a_part_is_none(at: int) -> None:
    items = _items()
    answers = exchange.Answers()
    assert _taken(answers, items[:at] + items[at + 1 :]) == []
    assert _taken(answers, items) == [list(range(_ROWS))]


def test_memory_of_a_mapped_answer_is_given_back(tmp_path: pathlib.Path) -> None:
    """It can be read again all the same, though the file has no name any more."""
    items = _items(exchange.SharedFolder.create(tmp_path / "results"))
    assert len(items) == 1
    batches = exchange.Answers().take(*exchange.unpack(items[0]))
    assert batches is not None
    assert not list(tmp_path.rglob("*.arrow"))
    for batch in batches:
        assert batch.column(0).to_pylist()
        exchange.forget(batches)
    assert [value for batch in batches for value in batch.column(0).to_pylist()] == list(range(_ROWS))
    gathered = exchange.Gathered()
    gathered.add(batches)
    gathered.add([pa.record_batch({"n": pa.array([_ROWS])})])
    exchange.forget(gathered)
    assert [value for batch in gathered for value in batch.column(0).to_pylist()] == list(range(_ROWS + 1))
    exchange.forget([])
