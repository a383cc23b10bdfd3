"""When a task is given up, and how fragments are shared out."""

from __future__ import annotations

import itertools

import pytest

from orochi import errors
from orochi.executor import names, tracking
from orochi.planner import fragment as fragments

QUEUED = tracking.Sighting(None, 1, True)
EMPTY = tracking.Sighting(None, 0, True)
LEASED = tracking.Sighting(b"1", 0, True)
DONE = tracking.Sighting(names.DONE, 0, True)


def _tracker(
    count: int, *, slots: int = 1, attempts: int = 3
) -> tuple[tracking.Tracker, itertools.count[int]]:
    made = [fragments.Fragment(i, i % 2 + 1, (i,), (), "", ()) for i in range(count)]
    return tracking.Tracker(made, slots=slots, attempts=attempts), itertools.count()


def _send(tracker: tracking.Tracker, ids: itertools.count[int], now: float = 0.0) -> list[tracking.Task]:
    return tracker.next_tasks(now, (str(i) for i in ids))


def test_what_runs_together_is_one_task() -> None:
    stripe = fragments.StripeRef(1, "s", 10)
    scan = fragments.Scan("s", "t", "r", (), (stripe,))
    made = [fragments.Fragment(i, 1, (i,), (scan,), "", (), vector_sql="SELECT") for i in range(40)]
    ids = itertools.count()
    first = _send(tracking.Tracker(made, slots=1, attempts=3), ids)
    assert [len(task.fragments) for task in first] == [40]


def test_a_few_each_then_many_in_one() -> None:
    tracker, ids = _tracker(100, slots=2)
    first = _send(tracker, ids)
    assert [len(task.fragments) for task in first] == [8, 8, 8, 8]
    assert _send(tracker, ids) == []
    for task in first:
        for fragment in task.fragments:
            assert tracker.answered(task.task_id, [fragment.number], 0.001)
    second = _send(tracker, ids)
    assert [len(task.fragments) for task in second] == [17, 9, 17, 9]  # some stay for whoever is done first
    assert len({f.number for task in second for f in task.fragments}) == 52


def test_what_a_task_gives_back_goes_elsewhere() -> None:
    tracker, ids = _tracker(8)  # four on each node
    first, _ = _send(tracker, ids)
    numbers = [fragment.number for fragment in first.fragments]
    tracker.answered(first.task_id, [numbers[0]], 0.6)
    tracker.deferred(first.task_id, numbers[1:])
    assert first.task_id not in tracker.tasks
    (next_one,) = _send(tracker, ids)
    assert [fragment.number for fragment in next_one.fragments] == [numbers[1]]
    assert next_one.attempt == 1
    tracker.deferred("unknown", [1])


def test_costly_fragments_stay_alone() -> None:
    tracker, ids = _tracker(40)
    for task in _send(tracker, ids):
        for fragment in task.fragments:
            tracker.answered(task.task_id, [fragment.number], 5.0)
    assert {len(task.fragments) for task in _send(tracker, ids)} == {1}


def test_a_lease_that_ends_must_be_missed_twice() -> None:
    tracker, ids = _tracker(1)
    (task,) = _send(tracker, ids)
    tracker.observe(task.task_id, LEASED, 1)
    tracker.observe(task.task_id, EMPTY, 2)
    tracker.heard(task.task_id)  # a part came in between
    tracker.observe(task.task_id, EMPTY, 3)
    assert task.task_id in tracker.tasks
    tracker.observe(task.task_id, EMPTY, 4)
    assert not tracker.tasks
    (again,) = _send(tracker, ids)
    assert again.attempt == 2
    assert tracker.answered(task.task_id, [0], 1.0)  # the first attempt answers after all
    assert not tracker.answered(again.task_id, [0], 1.0)
    assert tracker.is_done


def test_an_answer_to_several_counts_for_all_or_for_none() -> None:
    tracker, ids = _tracker(8)  # node 1 has 0, 2, 4, 6
    lost, _ = _send(tracker, ids)
    assert [fragment.number for fragment in lost.fragments] == [0, 2, 4, 6]
    for now in range(3):
        tracker.observe(lost.task_id, LEASED if not now else EMPTY, now)
    (again,) = _send(tracker, ids, 3)
    assert tracker.answered(lost.task_id, [0, 2], 0.1)  # it was on its way all the time
    assert not tracker.answered(again.task_id, [0, 2, 4, 6], 0.1)  # has rows of 0 and 2 among the others
    (rest,) = _send(tracker, ids, 4)
    assert ([fragment.number for fragment in rest.fragments], rest.attempt) == ([4, 6], 2)
    assert tracker.answered(rest.task_id, [4, 6], 0.1)
    assert {task.node_id for task in tracker.tasks.values()} == {2}


def test_what_was_answered_late_is_not_sent_again() -> None:
    tracker, ids = _tracker(4)  # node 1 has 0, 2
    lost, _ = _send(tracker, ids)
    for now in range(3):
        tracker.observe(lost.task_id, LEASED if not now else EMPTY, now)
    assert tracker.answered(lost.task_id, [0], 0.1)
    (again,) = _send(tracker, ids, 3)
    assert [fragment.number for fragment in again.fragments] == [2]


def test_done_without_an_answer_is_lost() -> None:
    tracker, ids = _tracker(1)
    (task,) = _send(tracker, ids)
    tracker.observe(task.task_id, DONE, 1)
    tracker.observe(task.task_id, DONE, 2)
    assert _send(tracker, ids)[0].attempt == 2


def test_attempts_end() -> None:
    tracker, ids = _tracker(1, attempts=2)
    for _ in range(2):
        (task,) = _send(tracker, ids)
        tracker.observe(task.task_id, LEASED, 1)
        tracker.observe(task.task_id, EMPTY, 2)
        if task.attempt == 2:
            with pytest.raises(errors.WorkerLost, match="lost 2 times"):
                tracker.observe(task.task_id, EMPTY, 3)
        else:
            tracker.observe(task.task_id, EMPTY, 3)


def test_waiting_in_a_queue_is_no_loss_while_a_worker_lives() -> None:
    tracker, ids = _tracker(1)
    (task,) = _send(tracker, ids)
    for now in range(1000):
        tracker.observe(task.task_id, QUEUED, now)
    assert task.task_id in tracker.tasks


def test_a_message_that_vanished_is_sent_again() -> None:
    tracker, ids = _tracker(1)
    (task,) = _send(tracker, ids)
    for now in range(10):
        if task.task_id in tracker.tasks:
            tracker.observe(task.task_id, EMPTY, now)
    assert _send(tracker, ids)[0].attempt == 2


def test_a_queue_without_worker_is_an_error() -> None:
    tracker, ids = _tracker(1)
    (task,) = _send(tracker, ids)
    nobody = tracking.Sighting(None, 1, False)
    tracker.observe(task.task_id, nobody, 1)
    tracker.observe(task.task_id, QUEUED, 9)
    tracker.observe(task.task_id, nobody, 13)
    with pytest.raises(errors.WorkerLost, match="no worker of node 1"):
        tracker.observe(task.task_id, nobody, 30)


def test_redis_forgot_everything() -> None:
    tracker, ids = _tracker(4, slots=4)
    sent = _send(tracker, ids)
    tracker.answered(sent[0].task_id, [sent[0].fragments[0].number], 0.1)
    tracker.resend_all()
    again = _send(tracker, ids)
    assert sorted(f.number for task in again for f in task.fragments) == sorted(
        f.number for task in sent[1:] for f in task.fragments
    )
