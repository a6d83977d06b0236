"""A Ray cluster of several nodes on one machine, its head without CPUs. Told what to do on standard input, a line each:

``node {"name": …, "num_cpus": …, "labels": …}``   starts a node; answers ``node NAME PID-OF-ITS-RAYLET``
``serve PORT MODELS_FILE``                         serves the graph as on a cluster; answers ``ready``

Ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray
from ray import serve
from ray.cluster_utils import Cluster

from config.settings import load
from deployments.graph import GraphArgs, compose

SMALL = {"object_store_memory": 100 << 20, "include_dashboard": False}


def on_a_cluster(models_file: Path) -> GraphArgs:
    """As in production: nothing fits on the head, and no node takes both ingress replicas with it."""
    return GraphArgs(
        models_file=models_file,
        ingress_cpus=0.5,
        ingress_replicas=2,
        ingress_max_replicas=2,
        ingress_max_replicas_per_node=1,
        upstream_cpus=0.25,
        store_cpus=0.25,
    )


def answer(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def add_node(cluster: Cluster, told: dict[str, object]) -> None:
    name = told.pop("name")
    node = cluster.add_node(**SMALL, **told)
    raylet = node.all_processes["raylet"][0].process.pid
    answer(f"node {name} {raylet}")


def serve_graph(port: int, models_file: Path) -> None:
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    graph = compose(on_a_cluster(models_file), load(models_file), hidden=())
    serve.run_many([serve.RunTarget(graph, name="llm-backend", route_prefix="/")])
    while any(each.status != "RUNNING" for each in serve.status().applications.values()):
        time.sleep(0.1)
    answer("ready")


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "num_cpus": 0})
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
    for line in sys.stdin:
        match line.split(maxsplit=1):
            case ["node", told]:
                add_node(cluster, json.loads(told))
            case ["serve", told]:
                port, path = told.split()
                serve_graph(int(port), Path(path))
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
