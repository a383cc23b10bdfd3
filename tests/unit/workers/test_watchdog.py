from __future__ import annotations

from workers import watchdog


def test_an_idle_worker_that_leaves_messages_lying_is_deaf() -> None:
    dog = watchdog.Watchdog(patience=8)
    seen = [dog.is_deaf(begun=5, busy=False, waiting=2, now=float(now)) for now in range(12)]
    assert seen == [False] * 9 + [True] * 3


def test_work_silence_and_progress_start_the_count_again() -> None:
    dog = watchdog.Watchdog(patience=8)
    looks = [
        *({"begun": 5, "busy": False, "waiting": 1} for _ in range(7)),
        {"begun": 5, "busy": True, "waiting": 1},
        *({"begun": 5, "busy": False, "waiting": 1} for _ in range(7)),
        {"begun": 5, "busy": False, "waiting": 0},
        *({"begun": 5, "busy": False, "waiting": 1} for _ in range(7)),
        *({"begun": number, "busy": False, "waiting": 9} for number in range(6, 40)),
    ]
    assert not any(dog.is_deaf(**look, now=float(now)) for now, look in enumerate(looks))
