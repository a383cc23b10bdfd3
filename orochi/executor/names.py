"""Names that gateway and workers share: Celery tasks, queues and Redis keys.

`orochi` never imports `workers`; it knows a task by its name here.
"""

from __future__ import annotations

RUN_FRAGMENTS = "orochi.fragments.run"
SCAN_STRIPES = "orochi.fragments.scan"
COMPRESS_CHUNK = "orochi.compression.compress_chunk"
DECOMPRESS_CHUNK = "orochi.compression.decompress_chunk"
FLUSH_COLUMNAR = "orochi.compression.flush"
FLUSH_NODE = "orochi.compression.flush_node"
MOVE_CHUNK = "orochi.tiering.move_chunk"
RESTORE_STRIPES = "orochi.tiering.restore"
WRITE_STRIPES = "orochi.compression.write_stripes"
COLLECT_STATS = "orochi.stats.collect"
COLLECT_NODE_STATS = "orochi.stats.collect_node"
REBALANCING_COLLECT = "orochi.rebalancing.collect"
RESOLVE_TRANSACTIONS = "orochi.recovery.resolve"
SWEEP = "orochi.recovery.sweep"
SWEEP_NODE = "orochi.recovery.sweep_node"
SCHEDULE_JOBS = "orochi.jobs.schedule"
#: What the names of tasks that run jobs begin with.
JOB_TASK = "orochi.jobs.run"

#: Background work that any node's maintenance worker may do.
MAINTENANCE_QUEUE = "maintenance"
#: Where jobs wait, each kind by itself; and what looks which of them are due.
COMPRESSION_QUEUE, TIERING_QUEUE, STATS_QUEUE = "compression", "tiering", "stats"
REFRESH_QUEUE, RETENTION_QUEUE, RECOVERY_QUEUE = "refresh", "retention", "recovery"
JOBS_QUEUE, SCHEDULER_QUEUE = "jobs", "scheduler"
JOB_QUEUES = (
    SCHEDULER_QUEUE,
    RECOVERY_QUEUE,
    STATS_QUEUE,
    RETENTION_QUEUE,
    COMPRESSION_QUEUE,
    TIERING_QUEUE,
    REFRESH_QUEUE,
    JOBS_QUEUE,
)


def fragment_queue(node_id: int) -> str:
    """Where a node's fragments wait."""
    return f"node.{node_id}"


def maintenance_queue(node_id: int) -> str:
    """Where background work that needs this node's files waits."""
    return f"{MAINTENANCE_QUEUE}.{node_id}"


def result_key(run: str) -> str:
    """List of the answers to one run of a query."""
    return f"orochi:result:{run}"


def input_key(run: str, stage: str, part: int | None) -> str:
    """List of Arrow streams: rows that fragments of the run read, for workers that see no file of them."""
    return f"orochi:input:{run}:{input_name(stage, part)}"


def input_name(stage: str, part: int | None) -> str:
    """What a stage's rows, or one part of them, are called in keys and file names."""
    return f"in-{stage}" if part is None else f"in-{stage}-{part}"


def query_key(run: str) -> str:
    """Exists while a gateway waits for the run."""
    return f"orochi:query:{run}"


def cancel_key(run: str) -> str:
    """Exists once the run is cancelled."""
    return f"orochi:cancel:{run}"


def lease_key(run: str, task: str) -> str:
    """Renewed while a worker works on the task; `DONE` after it."""
    return f"orochi:lease:{run}:{task}"


def alive_key(queue: str) -> str:
    """Renewed while any worker process listens to the queue."""
    return f"orochi:alive:{queue}"


#: Appends ARGV[2...] to the list KEYS[1], which then lives ARGV[1] seconds, while KEYS[2] exists: while
#: somebody waits. One step, so that what comes too late cannot appear after the list was deleted. The lease KEYS[3], if
#: given, is marked as that of a task which has sent everything.
PUSH_WANTED = """
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
if KEYS[3] then redis.call('SET', KEYS[3], 'done', 'EX', 60) end
local length = 0
for at = 2, #ARGV do length = redis.call('RPUSH', KEYS[1], ARGV[at]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return length
"""

#: In the answer of a task that found the rows it reads neither in a file nor in Redis.
MISSING = "missing"
#: What the rows shipped to a maintenance task are called.
ROWS = "rows"
#: A lease's value when its task has sent everything: what `PUSH_WANTED` writes.
DONE = b"done"

#: Advisory locks in the coordinator database that one process at a time holds for a periodic task.
REBALANCING_LOCK, RECOVERY_LOCK = (0x6F726F63_68690012 + number for number in range(2))

RESULT_TTL_SECONDS = 120
INPUT_TTL_SECONDS = 600
QUERY_TTL_SECONDS = 60
CANCEL_TTL_SECONDS = 600
ALIVE_TTL_SECONDS = 5
