"""Bodies that are not read whole: what is let through to a route that asks for it, and when it is refused."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from serve_app.api.gate import Gate
from serve_app.api.limits import Limits
from serve_app.api.refusals import install
from serve_app.api.uploads import ANY_MEDIA, Upload, takes
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode
from tests.api.serving import failure, in_memory, make_context

SMALL = Limits(max_body_bytes=100, max_upload_bytes=1000)


def gate(limits: Limits = SMALL) -> Gate:
    app = FastAPI()
    install(app)

    async def measure(request: Request) -> Response:
        return JSONResponse([len(piece) async for piece in request.stream()])

    app.add_api_route("/forms", measure, methods=["POST"], openapi_extra=takes("multipart/form-data"))
    app.add_api_route("/anything", measure, methods=["POST"], openapi_extra=takes(ANY_MEDIA))
    return Gate(app, make_context(limits=limits), own_request_id=True)


@pytest.mark.parametrize(("path", "media_type"), [("/forms", "multipart/form-data; boundary=x"), ("/anything", "a/b")])
async def test_a_route_gets_the_media_types_it_takes_as_they_come(path: str, media_type: str) -> None:
    async def pieces():
        for n in (300, 500):
            yield b"x" * n

    async with in_memory(gate()) as client:
        answer = await client.post(path, content=pieces(), headers={"content-type": media_type})
    assert [n for n in answer.json() if n] == [300, 500]


async def test_a_route_gets_no_media_type_it_does_not_take() -> None:
    async with in_memory(gate()) as client:
        answer = await client.post("/forms", content=b"x", headers={"content-type": "a/b"})
    assert answer.status_code == 415
    assert failure(answer)["code"] == "unsupported_media_type"


async def test_an_upload_may_not_be_compressed() -> None:
    async with in_memory(gate()) as client:
        answer = await client.post("/anything", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.parametrize("announced", [True, False])
async def test_an_upload_that_is_too_large_is_refused_whether_it_says_so_or_not(announced: bool) -> None:
    async def pieces():
        for _ in range(3):
            yield b"x" * 400

    async with in_memory(gate()) as client:
        answer = await client.post("/anything", content=b"x" * 1200 if announced else pieces())
    assert answer.status_code == 413
    assert failure(answer)["code"] == "request_too_large"


async def test_a_json_body_of_a_route_that_takes_forms_is_read_whole_and_bounded_as_ever() -> None:
    async with in_memory(gate()) as client:
        small = await client.post("/forms", json={"a": "b"})
        large = await client.post("/forms", json={"a": "b" * 200})
    assert [n for n in small.json() if n] == [9]
    assert large.status_code == 413


async def test_an_upload_that_falls_silent_is_refused_and_one_that_goes_on_is_not() -> None:
    script = [(b"a", True, 0.0), (b"b", True, 0.0), (b"c", True, 9.0)]

    async def receive() -> Message:
        data, more, wait_s = script.pop(0)
        await asyncio.sleep(wait_s)
        return {"type": "http.request", "body": data, "more_body": more}

    upload = Upload(Limits(body_timeout_s=0.02))
    assert [(await upload.receive(receive))["body"] for _ in range(2)] == [b"a", b"b"]
    with pytest.raises(RequestError) as refusal:
        await upload.receive(receive)
    assert refusal.value.failed.code is FailureCode.REQUEST_TIMEOUT


async def test_a_client_may_wait_for_its_answer_as_long_as_it_likes_once_its_upload_is_complete() -> None:
    async def end() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def leave() -> Message:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    upload = Upload(Limits(body_timeout_s=0.01))
    await upload.receive(end)
    assert (await upload.receive(leave))["type"] == "http.disconnect"
