"""Fragments are Celery tasks: Flower shows them, and the queue takes JSON only."""

from __future__ import annotations

import base64
import json
import pickle
import urllib.request
import uuid

import pytest
import redis

from tests.support import cluster as clusters
from tests.support import oracle

_QUERY = "SELECT carrier, count(*), avg(dep_delay) FROM flights GROUP BY carrier"


def tasks(cluster: clusters.Cluster) -> dict[str, dict[str, object]]:
    url = cluster.flower_url
    request = urllib.request.Request(
        f"{url.split('://')[0]}://{url.split('://')[1].rsplit('@')[-1].rstrip('/')}/api/tasks?limit=1000"
    )
    if "@" in url:
        credentials = url.split("://")[1].rsplit("@", 1)[0]
        request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as reply:
        return dict(json.load(reply))


def test_flower_lists_the_fragments_of_a_query(cluster: clusters.Cluster, flights_pair: oracle.Pair) -> None:
    before = set(tasks(cluster))
    flights_pair.same(_QUERY)

    def new_fragments() -> list[dict[str, object]]:
        listed = tasks(cluster)
        found = [
            task for key, task in listed.items() if key not in before and "fragment" in str(task["name"])
        ]
        return found if all(task["state"] == "SUCCESS" for task in found) else []

    # the workers tell of their tasks independently
    clusters.eventually(lambda: len({task["worker"] for task in new_fragments()}) == 2)


def test_both_nodes_have_a_worker(cluster: clusters.Cluster) -> None:
    assert len(cluster.pids("workers")) >= 2


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/json"])
def test_pickle_is_refused(cluster: clusters.Cluster, flights_pair: oracle.Pair, content_type: str) -> None:
    """A pickled message, also one that claims to be JSON, runs no code and leaves the worker alive."""
    client = redis.Redis.from_url(cluster.redis_url)
    marker = cluster.data_dir / f"pickled-{uuid.uuid4().hex}"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return open, (str(marker), "w")

    body = pickle.dumps(((Bomb(),), {}, {}))
    [(node,)] = flights_pair.orochi("SELECT min(node_id) FROM orochi.nodes WHERE role = 'data'")
    task = str(uuid.uuid4())
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary",
        "content-type": content_type,
        "headers": {
            "lang": "py",
            "task": "orochi.fragments.run",
            "id": task,
            "root_id": task,
            "argsrepr": "",
            "kwargsrepr": "",
        },
        "properties": {
            "correlation_id": task,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": f"node.{node}"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    client.lpush(f"node.{node}", json.dumps(envelope))
    clusters.eventually(lambda: client.llen(f"node.{node}") == 0)
    flights_pair.same(_QUERY)
    assert not marker.exists()


def test_queues_are_empty_after_queries(cluster: clusters.Cluster, flights_pair: oracle.Pair) -> None:
    """No result is left behind in Valkey when its query has ended."""
    client = redis.Redis.from_url(cluster.redis_url)
    flights_pair.same(_QUERY)
    clusters.eventually(lambda: client.hlen("unacked") == 0)
    left = [key.decode() for key in client.scan_iter("orochi:result:*")]
    # What came after its query had ended (a last heartbeat) goes by itself.
    assert all(0 < client.ttl(key) <= 600 for key in left), left


def test_valkey_wants_a_password(cluster: clusters.Cluster) -> None:
    port = int(cluster.redis_url.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=port).ping()
