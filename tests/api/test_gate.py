from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from serve_app.api import refusals
from serve_app.api.app import create_app
from serve_app.api.context import request_id_of, tenant_of
from serve_app.api.gate import Gate
from serve_app.api.limits import Limits
from serve_app.errors import RequestError
from serve_app.protocol import Opened, Turn
from tests.api.serving import KEY, failure, in_memory, listening, make_context, serving
from tests.fakes import MemoryStore

SMALL = Limits(max_body_bytes=1000, body_timeout_s=0.3)


def gated(*, keys: tuple[str, ...] = (KEY,), limits: Limits = SMALL, own_request_id: bool = True) -> Gate:
    """A small app behind the gate: echoes, streams, breaks, and breaks in the middle of a stream."""
    app = FastAPI(redirect_slashes=False)
    refusals.install(app)

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        state = {"tenant": tenant_of(request).id, "id": request_id_of(request)}
        return JSONResponse({"body": (await request.body()).decode(), **state})

    @app.get("/stream")
    async def stream() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.get("/broken")
    async def broken() -> Response:
        raise RuntimeError("secret prompt /etc/passwd")

    @app.get("/half")
    async def half() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("in the middle")

        return StreamingResponse(parts())

    @app.get("/slow")
    async def slow() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    return Gate(app, make_context(keys=keys, limits=limits), own_request_id=own_request_id)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with in_memory(gated(), key=KEY) as client:
        yield client


@pytest.mark.parametrize("path", ["/stream", "/broken", "/nowhere", "/docs"])
async def test_every_answer_carries_id_time_and_version(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert len(response.headers.get_list("x-request-id")) == 1
    assert response.headers["openai-processing-ms"].isdecimal()
    assert response.headers["openai-version"] == "2020-10-01"
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_request_keeps_the_id_it_came_with(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo", headers={"x-request-id": "abc-1.2:3"}, json={})
    assert response.headers["x-request-id"] == response.json()["id"] == "abc-1.2:3"


@pytest.mark.parametrize("hostile", ["", "a b", "a" * 129, "é".encode(), b"x\ty"])
async def test_a_hostile_request_id_is_replaced(client: httpx.AsyncClient, hostile: str | bytes) -> None:
    response = await client.post("/echo", headers={"x-request-id": hostile}, json={})
    assert response.headers["x-request-id"] == f"{1:032x}"


async def test_behind_a_server_that_adds_the_request_id_it_is_not_added_twice() -> None:
    async with in_memory(gated(own_request_id=False), key=KEY) as client:
        response = await client.post("/echo", headers={"x-request-id": "given"}, json={})
    assert "x-request-id" not in response.headers
    assert response.json()["id"] == "given"


async def test_an_unknown_address_is_404_and_a_wrong_method_405_in_the_envelope(client: httpx.AsyncClient) -> None:
    missing = await client.get("/nowhere")
    assert (missing.status_code, failure(missing)["code"]) == (404, "not_found")
    for method in ("GET", "OPTIONS", "DELETE"):
        wrong = await client.request(method, "/echo")
        assert (wrong.status_code, failure(wrong)["code"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"


async def test_allow_names_the_methods_of_all_routes_of_a_path() -> None:
    async with in_memory(create_app(make_context(), own_request_id=True)) as client:
        response = await client.put("/v1/chat/completions", json={})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_head_answers_like_get_without_a_body(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llm_backend.access")
    response = await client.head("/stream")
    assert (response.status_code, response.content) == (200, b"")
    assert "HEAD /stream 200" in caplog.text
    assert response.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        ({"content-length": "1001"}, 413, "request_too_large"),
        ({"content-length": "9" * 40}, 413, "request_too_large"),
    ],
)
async def test_a_body_nobody_could_read_is_refused_unread(
    client: httpx.AsyncClient, headers: dict[str, str], status: int, code: str
) -> None:
    async def body() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    response = await client.post("/echo", headers=headers, content=body())
    assert (response.status_code, failure(response)["code"]) == (status, code)


@pytest.mark.parametrize("content_type", [None, "application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_read_with_and_without_a_content_type(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post("/echo", headers=headers, content=b'{"a": 1}')
    assert response.json()["body"] == '{"a": 1}'


async def test_a_streamed_body_is_refused_as_soon_as_it_is_too_large(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 400
            yield b"x" * 400

    response = await client.post("/echo", content=endless())
    assert (response.status_code, failure(response)["code"]) == (413, "request_too_large")
    assert sent <= 1600


async def test_a_body_that_does_not_arrive_in_time_is_refused(client: httpx.AsyncClient) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    response = await client.post("/echo", content=stalled())
    assert (response.status_code, failure(response)["code"]) == (408, "request_timeout")


async def test_an_exception_is_logged_with_the_request_id_and_answered_without_its_text(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/broken", headers={"x-request-id": "find-me"})
    assert (response.status_code, failure(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "find-me" in record.getMessage()


async def test_half_an_answer_never_ends_cleanly() -> None:
    async with listening(gated(keys=())) as url, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{url}/half")


async def test_a_body_too_large_for_the_limit_still_gets_its_answer_over_a_real_connection() -> None:
    async with listening(gated(keys=())) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/echo", content=b"x" * 5_000_000)
    assert (response.status_code, failure(response)["code"]) == (413, "request_too_large")


async def test_a_sender_that_drips_is_cut_off_over_a_real_connection() -> None:
    async with listening(gated(keys=())) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n{")
        assert b" 408 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_websocket_is_refused() -> None:
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message["type"])

    await gated()({"type": "websocket", "path": "/echo", "headers": []}, None, send)
    assert sent == ["websocket.close"]


async def test_one_line_per_request_names_the_route_and_nothing_the_client_wrote(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llm_backend.access")
    headers = {"x-request-id": "r-1", "x-client-request-id": "c-1"}
    await client.post("/echo", json={"messages": "canary"}, headers=headers)
    await client.get("/nowhere/canary%0ainjected")
    echo, missing = [r.getMessage() for r in caplog.records if r.name == "llm_backend.access"]
    assert echo.startswith("POST /echo 200 ")
    assert all(part in echo for part in ("request_id=r-1", "client_request_id=c-1", "tenant="))
    assert missing.startswith("GET - 404 ")
    assert "canary" not in caplog.text
    assert KEY not in caplog.text


async def test_a_client_that_left_is_logged_as_499(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llm_backend.access")
    async with listening(gated(keys=())) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as raw:
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(raw, b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert await loop.sock_recv(raw, 4096)
    [line] = [r.getMessage() for r in caplog.records if r.name == "llm_backend.access"]
    assert line.startswith("GET /slow 499 ")


async def test_every_route_but_health_refuses_without_a_key() -> None:
    gate = create_app(make_context(keys=(KEY,)), own_request_id=True)
    asked = set()
    async with in_memory(gate) as client:
        for route in gate.app.routes:
            for method in route.methods - {"HEAD"}:
                response = await client.request(method, route.path.replace("{", "").replace("}", ""))
                asked.add((method, route.path))
                public = route.path in ("/health", "/ready")
                assert (response.status_code == 401) is not public, route.path
    assert {("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/openapi.json")} <= asked
    assert len(asked) >= 12


async def test_the_app_runs_the_ledger_for_as_long_as_it_serves() -> None:
    context = make_context(store=MemoryStore())
    turn = Turn("chatcmpl-1", ({"role": "user", "content": "Hi"},))
    opened = Opened("e", "writer-1", "t", "r", "llama", "chat/completions", "local", 1.0, turn=turn)
    async with serving(context):
        await context.ledger.open(opened)
    with pytest.raises(RequestError):
        await context.ledger.open(replace(opened, entry_id="late"))


async def test_the_documentation_knows_the_routes_and_needs_a_key() -> None:
    async with serving(make_context(keys=(KEY,)), key=KEY) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/docs", headers={"authorization": ""})).status_code == 401
    assert {"get", "post"} <= set(paths["/v1/chat/completions"])
    assert "/ready" not in paths
