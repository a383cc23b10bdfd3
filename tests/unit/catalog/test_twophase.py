from __future__ import annotations

from orochi.catalog import twophase


def test_a_name_tells_who_decides() -> None:
    gid = twophase.new_gid("65f.4000", 4711)
    assert twophase.owner_of(gid) == 4711
    assert twophase.gid_of(twophase.branch(gid, 2)) == gid
    assert gid != twophase.new_gid("65f.4000", 4711)


def test_names_that_do_not_tell() -> None:
    for gid in (twophase.new_gid("65f.4000", 0), twophase.gid("65f.4000", "m0123456789abcdef")):
        assert twophase.owner_of(gid) is None
