"""The command line: `orochi up`, `down`, `status`, `gateway`, `worker`, `beat`, `flower`, `migrate`,
`verify`, `jobs`, `demo`.

Commands import what they need when they run: `orochi status` starts no database driver, and every
process of a cluster begins here.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from orochi import settings as settings_module

app = typer.Typer(
    name="orochi",
    help="An HTAP database behind the PostgreSQL protocol, on plain PostgreSQL servers and Celery workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    pathlib.Path,
    typer.Option("--data-dir", envvar="OROCHI_DATA_DIR", help="Where the cluster keeps everything."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
_DEFAULT_DIR = pathlib.Path("./orochi-data")


def main() -> None:
    """Entry point of the console script."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            version = metadata.version("orochi")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        typer.echo(f"orochi {version}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def up(
    data_dir: DataDir = _DEFAULT_DIR,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The gateway's port.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, max=16, help="Data nodes; 1 is the default.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Worker slots of each node.")] = None,
    s3: Annotated[bool | None, typer.Option("--s3/--no-s3", help="Start a local S3 too.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is healthy.")] = False,
    as_json: Json = False,
    stop_with: Annotated[
        int | None, typer.Option("--stop-with", metavar="PID", help="Stop when this process ends.")
    ] = None,
) -> None:
    """Start a cluster on this machine, from wheels; stays until stopped, unless --detach.

    On a directory that has a cluster, options that are not given are as before.
    """
    from rich import console as consoles

    from orochi.embedded import cluster, console, daemon, state, supervisor

    _log("supervisor")
    out = consoles.Console(stderr=as_json)
    progress = console.Progress(out)
    options = cluster.Options(data_dir.absolute(), port, nodes, workers, s3, stop_with)

    def report(event: str, details: dict[str, object]) -> None:
        progress.report(event, details)
        if event == "up":
            _print_up(details, as_json=as_json, out=out)

    try:
        if state.is_locked(options.data_dir):
            raise state.AlreadyRunning
        if detach:
            report("up", daemon.run_detached(options, report))
        else:
            cluster.run(options, report)
    except state.AlreadyRunning:
        _fail(f"a cluster is already running on {options.data_dir}", "stop it with `orochi down` first")
    except (cluster.Refused, supervisor.StartFailed, daemon.Failed, OSError, RuntimeError) as error:
        _fail(str(error))
    finally:
        progress.close()


@app.command()
def down(data_dir: DataDir = _DEFAULT_DIR) -> None:
    """Stop the cluster and wait until nothing of it runs; its data stays."""
    from orochi.embedded import control

    try:
        stopped = control.stop(data_dir.absolute())
    except (control.StopFailed, ValueError) as error:
        _fail(str(error))
    typer.echo("stopped" if stopped else f"no cluster is running on {data_dir}", err=True)


@app.command()
def status(data_dir: DataDir = _DEFAULT_DIR, as_json: Json = False) -> None:
    """Show every process of the cluster. Exits with 3 when it is not running."""
    import dataclasses

    from orochi.embedded import control, state

    try:
        phase, info, lines = control.status(data_dir.absolute())
    except (FileNotFoundError, ValueError) as error:
        _fail(str(error), code=3)
    if as_json:
        typer.echo(
            json.dumps({"status": phase} | info | {"processes": [dataclasses.asdict(line) for line in lines]})
        )
    else:
        from rich import console as consoles

        from orochi.embedded import console

        console.show_status(consoles.Console(), phase, lines, info)
    if phase is not state.Phase.RUNNING:
        raise typer.Exit(3)


@app.command()
def gateway() -> None:
    """Run the gateway: the PostgreSQL protocol on OROCHI_GATEWAY_HOST and OROCHI_GATEWAY_PORT."""
    from orochi.gateway import server

    server.main(_settings())


@app.command()
def worker(
    node: Annotated[int, typer.Option(envvar="OROCHI_NODE_ID", help="The node whose queue it serves.")],
    slot: Annotated[int | None, typer.Option(min=0, help="Run this slot only, in this process.")] = None,
    maintenance: Annotated[
        bool, typer.Option("--maintenance", help="Run the node's background work only, in this process.")
    ] = False,
    jobs: Annotated[
        bool, typer.Option("--jobs", help="Run policies and users' jobs only, in this process.")
    ] = False,
) -> None:
    """Run a node's worker: OROCHI_PARALLEL_WORKERS slots and its background work, supervised."""
    if (slot is not None) + maintenance + jobs > 1:
        raise typer.BadParameter("--slot, --maintenance and --jobs exclude each other")
    os.environ["OROCHI_NODE_ID"] = str(node)
    settings = _settings()
    if slot is None and not maintenance and not jobs:
        from orochi.embedded import crew

        _log(f"worker{node}")
        crew.run(node, settings)
        return
    from workers import launch

    if maintenance:
        launch.maintenance(node, settings)
    elif jobs:
        launch.jobs(node, settings)
    else:
        launch.fragments(node, slot or 0, settings)


@app.command()
def beat(
    schedule: Annotated[
        pathlib.Path | None, typer.Option(help="Its file; in OROCHI_DATA_DIR unless given.")
    ] = None,
) -> None:
    """Run the scheduler of background work. A second one does no harm."""
    path = (_settings().data_dir / "beat-schedule" if schedule is None else schedule).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _celery("beat", f"--schedule={path}", "--pidfile=", "--loglevel=INFO")


@app.command()
def flower(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 5555,
) -> None:
    """Run Flower, which shows tasks. FLOWER_BASIC_AUTH=user:password is required."""
    if ":" not in os.environ.get("FLOWER_BASIC_AUTH", ""):
        _fail(
            "FLOWER_BASIC_AUTH=user:password is not set", "Flower shows task arguments and can stop workers"
        )
    _celery("flower", f"--address={host}", f"--port={port}", "--persistent=False")


@app.command()
def migrate(
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="HOST:PORT[/DBNAME]", help="Register this data node; may be repeated."
        ),
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the servers.")] = 60.0,
) -> None:
    """Bring the catalog in OROCHI_COORDINATOR_DSN up to date, and register nodes. May be repeated.

    With no --node and no node registered yet, the coordinator becomes the only data node.
    """
    import psycopg

    from orochi import errors
    from orochi.embedded import registry

    settings = _settings()
    _log("migrate")
    try:
        dsns = [registry.node_dsn(settings, address) for address in nodes or []]
        registry.wait_for([settings.coordinator_dsn, *dsns], wait)
        node_ids = registry.install(settings.coordinator_dsn, dsns)
    except (errors.OrochiError, psycopg.Error, ValueError, TimeoutError) as error:
        _fail(str(error))
    typer.echo(f"catalog is up to date; data nodes: {', '.join(map(str, node_ids))}", err=True)


@app.command()
def verify(
    dsn: Annotated[str | None, typer.Argument(help="The catalog; else the running cluster's own.")] = None,
    data_dir: DataDir = _DEFAULT_DIR,
    quick: Annotated[bool, typer.Option("--quick", help="Compare checksums, decode nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Read every stripe of every node below the data directory. Exits with 1 when one is damaged or missing."""
    import dataclasses

    from rich import console as consoles
    from rich import progress as bars

    from orochi.embedded import verification

    out = consoles.Console(stderr=True)
    with bars.Progress(*bars.Progress.get_default_columns(), bars.DownloadColumn(), console=out) as bar:
        task = bar.add_task("stripes", total=None)
        try:
            report = verification.verify(
                data_dir.absolute(),
                dsn,
                lambda done, total: bar.update(task, completed=done, total=total),
                quick=quick,
            )
        except (FileNotFoundError, ValueError, verification.Unreachable) as error:
            _fail(str(error), code=3)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report)))
    else:
        for finding in report.findings:
            where = f" (table {finding.table})" if finding.table else ""
            typer.echo(f"{finding.path}{where}: {finding.message}\n    {finding.detail}")
        typer.echo(
            f"{report.stripes} stripes, {report.column_chunks} column chunks, {report.bytes} bytes:"
            f" {len(report.findings) or 'no'} damaged or missing"
        )
    if report.findings:
        raise typer.Exit(1)


@app.command()
def jobs(
    dsn: Annotated[str | None, typer.Argument(help="The catalog; else the running cluster's own.")] = None,
    data_dir: DataDir = _DEFAULT_DIR,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show progress.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks of --watch.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Show policies and jobs: when they run next, how they ended, how far they are."""
    from rich import console as consoles

    from orochi.embedded import jobs_console

    source = jobs_console.Source(data_dir.absolute(), dsn)
    try:
        if as_json:
            typer.echo(json.dumps({"jobs": source.read()}))
        elif watch:
            jobs_console.watch(consoles.Console(), source, every)
        else:
            jobs_console.show(consoles.Console(), source.read())
    except jobs_console.Unreachable as error:
        _fail(str(error), code=3)
    except KeyboardInterrupt:
        raise typer.Exit from None


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster running.")] = False,
) -> None:
    """Show what Orochi does, on a cluster of its own with real flights (in a checkout of the repository)."""
    root = pathlib.Path(__file__).resolve().parents[1]
    if not (root / "benchmarks" / "demo.py").is_file():
        _fail("the demo is part of the repository, not of the installed package")
    os.chdir(root)
    arguments = ["--keep"] if keep else []
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.demo", *arguments])


@app.command()
def health(
    service: Annotated[Literal["gateway", "worker", "beat", "flower"], typer.Argument(help="Which one.")],
    schedule: Annotated[pathlib.Path | None, typer.Option(help="beat's file, as beat was told.")] = None,
    port: Annotated[int, typer.Option(help="Flower's port.")] = 5555,
) -> None:
    """Exit with 0 when the service that runs in this container works: for health checks."""
    from orochi.embedded import health as checks

    if not checks.is_healthy(service, _settings(), schedule=schedule, port=port):
        raise typer.Exit(1)


def _celery(*arguments: str) -> None:
    """Be a Celery process that runs no tasks: without their modules it has no engine in its memory."""
    from workers import app as workers

    workers.app.conf.include = ()
    workers.app.conf.task_send_sent_event = False  # of beat's ticks; workers tell of tasks that do something
    workers.app.start(argv=list(arguments))


def _settings() -> settings_module.Settings:
    from orochi import settings

    return settings.get()


def _log(process: str) -> None:
    """Log to stderr: stdout is for what was asked for."""
    from orochi import logs

    settings = _settings()
    logs.setup(settings.log_level, json=settings.log_json, process=process)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _print_up(info: dict[str, object], *, as_json: bool, out: object) -> None:
    from rich import console as consoles

    from orochi.embedded import console

    if as_json:
        typer.echo(json.dumps(info))
        sys.stdout.flush()
    elif isinstance(out, consoles.Console):
        console.show_up(out, info)


def _fail(message: str, hint: str | None = None, code: int = 1) -> NoReturn:
    typer.secho(f"error: {message}", fg="red", err=True)
    if hint is not None:
        typer.secho(f"hint: {hint}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
