"""The yardstick of a start: Ray and Serve with one deployment that does nothing, until it answers. Prints "ready"."""

from __future__ import annotations

import sys
import time
import urllib.request

import ray
from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Nothing:
    async def __call__(self) -> str:
        return "nothing"


def main(port: int) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="serve")
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(Nothing.bind(), route_prefix="/")
    while urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status != 200:
        time.sleep(0.1)
    print("ready", flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
