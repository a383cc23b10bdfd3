"""Who runs PostgreSQL: oneself, or as root the user `nobody`, since PostgreSQL refuses root.

`nobody` often cannot enter the folders that root uses (`/root`, `mktemp -d`). Nothing here changes
the rights of a folder that is not ours: the caller asks `can_enter` and goes another way.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pwd
import subprocess

_CANDIDATES = ("nobody", "daemon")


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged user of this machine."""

    name: str
    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, object]:
        """For `subprocess.Popen`; supplementary groups are dropped too."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: pathlib.Path) -> None:
        """Give it a file or folder."""
        os.chown(path, self.uid, self.gid)

    def can_enter(self, folder: pathlib.Path) -> bool:
        """Whether it may reach `folder` through all of its parents."""
        return self._runs(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])

    def can_run(self, program: pathlib.Path) -> bool:
        """Whether `program --version` succeeds as this user."""
        return self._runs([str(program), "--version"])

    def _runs(self, argv: list[str]) -> bool:
        try:
            done = subprocess.run(
                argv,
                cwd="/",
                check=False,
                timeout=30,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0


def for_postgres() -> Account | None:
    """None when this process may run PostgreSQL itself.

    Raises:
        LookupError: this is root, and the machine has no unprivileged user.
    """
    if os.geteuid() != 0:
        return None
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = Account(name, entry.pw_uid, entry.pw_gid)
        if account.can_enter(pathlib.Path("/")):
            return account
    raise LookupError(f"no user of {', '.join(_CANDIDATES)} can run PostgreSQL, which refuses to run as root")
