"""What of a Kubernetes API server the tooling needs, over HTTP: discovery, server-side apply by one manager, lists,
deletes, logs and exec. It holds objects and runs nothing; tests say what controllers would have made of them."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

KINDS = {
    "v1": {"Namespace": False, "ConfigMap": True, "Secret": True, "Service": True, "PersistentVolumeClaim": True}
    | {"Pod": True, "PersistentVolume": False},
    "apps/v1": {"Deployment": True, "StatefulSet": True, "ControllerRevision": True},
    "batch/v1": {"Job": True},
    "networking.k8s.io/v1": {"Ingress": True, "NetworkPolicy": True},
    "policy/v1": {"PodDisruptionBudget": True},
    "ray.io/v1": {"RayService": True},
}
"""Kinds by group and version; True: in a namespace."""

_PATH = re.compile(
    r"/(?:api|apis)/(?P<version>v1|[a-z0-9.]+/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>log|exec))?"
)
_NAMESPACES = re.compile(r"/api/v1/namespaces(?:/(?P<name>[^/]+))?")


def _plural(kind: str) -> str:
    return {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}.get(kind, kind.lower() + "s")


class ApiServer(ThreadingHTTPServer):
    """``objects`` by kind and name. ``becomes`` is put into the status of an object of that kind when it is applied;
    ``managed_by`` names who already owns the fields of an object."""

    daemon_threads = True

    def __init__(self, kinds: dict[str, dict[str, bool]] = KINDS) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kinds = kinds
        self.objects: dict[tuple[str, str], Json] = {}
        self.becomes: dict[str, Json] = {}
        self.managed_by: dict[tuple[str, str], str] = {}
        self.logs: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self._version = 0

    def put(self, kind: str, name: str, **fields: Any) -> None:
        """An object that somebody else made."""
        metadata = {"name": name, **fields.pop("metadata", {})}
        self.objects[kind, name] = {"kind": kind, "apiVersion": "v1", "metadata": metadata, **fields}

    def names(self, kind: str) -> list[str]:
        return sorted(name for found, name in self.objects if found == kind)

    def apply(self, kind: str, name: str, body: Json, force: bool, dry_run: bool) -> tuple[int, Json]:
        old = self.objects.get((kind, name))
        owner = self.managed_by.get((kind, name))
        if owner and not force:
            return _status(409, f'Apply failed with 1 conflict: conflict with "{owner}": .spec')
        if old and kind == "Job" and old["spec"] != body["spec"]:
            return _status(422, f'Job.batch "{name}" is invalid: spec.template: field is immutable')
        new = self._next(old, body)
        if not dry_run:
            self.objects[kind, name] = new
        return (200 if old else 201), new

    def _next(self, old: Json | None, body: Json) -> Json:
        new = copy.deepcopy(body)
        if old and {**old, "metadata": _own(old), "status": 0} == {**new, "metadata": _own(new), "status": 0}:
            return old
        self._version += 1
        generation = old["metadata"]["generation"] if old else 0
        if old is None or old.get("spec") != new.get("spec"):
            generation += 1
        new["metadata"] |= {
            "resourceVersion": str(self._version),
            "generation": generation,
            "uid": f"uid-{self._version}",
        }
        new["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{self._version % 60:02}Z"
        status = (old or {}).get("status") or self.becomes.get(new["kind"])
        return {**new, "status": copy.deepcopy(status)} if status else new


def _own(manifest: Json) -> Json:
    served = ("resourceVersion", "generation", "uid", "creationTimestamp")
    return {key: value for key, value in manifest["metadata"].items() if key not in served}


def _status(code: int, message: str) -> tuple[int, Json]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: ApiServer

    def log_message(self, *arguments: object) -> None:
        """Not on the tests' output."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        found = self._discovered(url.path)
        if found is not None:
            self._answer(200, found)
            return
        kind, name, sub = self._target(url.path)
        if sub == "exec":
            self._exec(name)
        elif sub == "log":
            self._send(200, self.server.logs[name].encode(), "text/plain")
        elif name:
            found = self.server.objects.get((kind, name))
            self._answer(*((200, found) if found else _status(404, f'{kind} "{name}" not found')))
        else:
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            self._answer(200, {"kind": f"{kind}List", "apiVersion": "v1", "items": self._selected(kind, selector)})

    def do_PATCH(self) -> None:
        url, body = urlsplit(self.path), self._body()
        query = parse_qs(url.query)
        assert query["fieldManager"] == ["llm-backend"]
        kind, name, _ = self._target(url.path)
        if self.headers["Content-Type"] == "application/merge-patch+json":
            old = self.server.objects[kind, name]
            body = {**old, "spec": {**old["spec"], **body["spec"]}}
        else:
            assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        force = query.get("force", [""])[0].lower() == "true"
        self._answer(*self.server.apply(kind, name, body, force, "dryRun" in query))

    def do_DELETE(self) -> None:
        self._body()
        kind, name, _ = self._target(urlsplit(self.path).path)
        gone = self.server.objects.pop((kind, name), None)
        self._answer(*((200, gone) if gone else _status(404, f'{kind} "{name}" not found')))

    def _selected(self, kind: str, selector: str) -> list[Json]:
        wanted = {tuple(each.split("=")) for each in selector.split(",") if each}
        objects = [found for (known, _), found in self.server.objects.items() if known == kind]
        return [each for each in objects if wanted <= set(each["metadata"].get("labels", {}).items())]

    def _discovered(self, path: str) -> Json | None:
        groups = [version for version in self.server.kinds if "/" in version]
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(each) for each in groups]}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if path.startswith("/api") and version in self.server.kinds:
            kinds = self.server.kinds[version].items()
            resources = [_resource(kind, namespaced) for kind, namespaced in kinds]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
        return None

    def _target(self, path: str) -> tuple[str, str, str]:
        namespaces = _NAMESPACES.fullmatch(path)
        if namespaces:
            return "Namespace", namespaces["name"] or "", ""
        found = _PATH.fullmatch(path)
        assert found, path
        kinds = self.server.kinds[found["version"]]
        kind = next(kind for kind in kinds if _plural(kind) == found["plural"])
        assert bool(found["namespace"]) == kinds[kind], path
        return kind, found["name"] or "", found["sub"] or ""

    def _body(self) -> Json:
        body: Json = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        self.server.requests.append((self.command, self.path))
        return body

    def _answer(self, code: int, body: Json) -> None:
        self._send(code, json.dumps(body).encode(), "application/json")

    def _send(self, code: int, body: bytes, form: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", form)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _exec(self, pod: str) -> None:
        """A WebSocket as the API server's: a frame of output on channel 1, a status on channel 3, and the end."""
        self.server.requests.append(("EXEC", self.path))
        seed = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(seed.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        for channel, text in ((1, self.server.logs[pod]), (3, '{"status":"Success"}')):
            payload = bytes([channel]) + text.encode()
            self.wfile.write(bytes([0x82, 126]) + len(payload).to_bytes(2, "big") + payload)
        self.wfile.write(bytes([0x88, 0]))
        self.wfile.flush()
        self.close_connection = True


def _group(version: str) -> Json:
    told = {"groupVersion": version, "version": "v1"}
    return {"name": version.split("/")[0], "versions": [told], "preferredVersion": told}


def _resource(kind: str, namespaced: bool) -> Json:
    verbs = ["get", "list", "patch", "delete", "create"]
    return {"name": _plural(kind), "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs}


@contextmanager
def serving(server: ApiServer) -> Iterator[str]:
    """Its URL."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
