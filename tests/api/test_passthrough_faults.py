"""Passing on goes wrong in ways a client can tell, and never to where a caller may not go."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from serve_app.api.directory import UpstreamRoute
from serve_app.api.limits import Limits
from serve_app.protocol import Done, Failed, RawBody, RawHead, RawRequest
from serve_app.upstream.deadlines import Deadlines
from tests.api.passing import passing
from tests.api.serving import KEY, failure
from tests.fakes import FakeBackend, card
from tests.fault_proxy import FaultProxy, Faults
from tests.upstream.driving import upstream
from tests.upstream_server import JSON, SSE, Reply, UpstreamServer, event

BINARY = {"content-type": "audio/mpeg", "content-length": "100000"}


@pytest.mark.parametrize("faults", [Faults(reset_after=5000), Faults(truncate_after=5000)])
async def test_a_binary_answer_that_breaks_off_does_not_look_whole(faults: Faults) -> None:
    async with UpstreamServer() as far, FaultProxy(far.port, faults) as proxy, passing(port=proxy.port) as at:
        far.script.append(Reply(headers=BINARY, pieces=(b"x" * 100_000,)))
        with pytest.raises(httpx.RemoteProtocolError):
            await at.http.post("/v1/audio/speech", json={"input": "x"})
        closed = (await at.row()).closed
    assert closed is not None
    assert (closed.status, closed.failure) == ("failed", "upstream_truncated")


async def test_a_stream_that_breaks_off_ends_with_one_error_event_after_its_last_whole_event() -> None:
    whole, half = event({"n": 1}), event({"text": "y" * 4000})
    async with UpstreamServer() as far, FaultProxy(far.port) as proxy, passing(port=proxy.port) as at:
        far.script.append(Reply(headers=SSE, pieces=(whole, half)))
        proxy.faults = Faults(reset_after=1500)
        answer = await at.http.post("/v1/audio/speech", json={"input": "x"})
    assert answer.content.startswith(whole + b'data: {"error":')
    assert b"yyy" not in answer.content
    assert b"upstream_truncated" in answer.content


async def test_an_upload_that_is_too_large_on_its_way_is_a_413_whatever_the_upstream_says() -> None:
    async def pieces():
        for _ in range(30):
            yield b"x" * 10_000

    async with passing(limits=Limits(max_upload_bytes=200_000)) as at:
        answer = await at.http.post("/v1/videos", content=pieces(), headers={"content-type": "a/b"})
    assert answer.status_code == 413
    assert failure(answer)["code"] == "request_too_large"


async def test_an_upstream_that_falls_silent_is_given_up() -> None:
    quick = Deadlines(raw_idle_s=0.2, beat_s=0.05)

    async def nothing():
        return
        yield b""

    async with UpstreamServer() as far, upstream(far.port, deadlines=quick) as backend:
        far.script.append(Reply(headers=BINARY, pieces=(b"x",), hold=True))
        request = RawRequest("req-1", "GET", "videos/v/content")
        batches = [batch async for batch in backend.forward(request, nothing())]
        async with asyncio.timeout(5):
            await far.client_left.wait()
    events = [event for batch in batches for event in batch]
    assert [type(event) for event in events] == [RawHead, RawBody, Failed]
    assert events[-1].code == "upstream_timeout"
    assert [] in batches


class Listing(FakeBackend):
    """An upstream that offers models and answers with its name."""

    def __init__(self, name: str) -> None:
        super().__init__(cards=[card(f"{name}-model")])
        self.name = name

    async def forward(self, request: RawRequest, body):
        content = b"".join([piece async for piece in body])
        yield [RawHead(200, (("x-from", self.name),)), RawBody(content), Done()]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"json": {"model": "two-model"}}, "two"),
        ({"json": {"model": "one-model"}}, "one"),
        ({"json": {}}, "one"),
        ({"files": {"file": b"x" * 100_000}, "data": {"model": "two-model"}}, "two"),
        ({"json": {"model": "one-model"}, "headers": {"x-upstream": "two"}}, "two"),
    ],
)
async def test_the_upstream_is_the_one_that_was_named_or_has_the_model_or_comes_first(options, first: str) -> None:
    upstreams = {name: UpstreamRoute(Listing(name)) for name in ("one", "two")}
    async with passing(upstreams=upstreams) as at:
        answer = await at.http.post("/v1/images/edits", **options)
    assert answer.headers["x-from"] == first


async def test_an_upstream_or_a_model_that_nobody_has_is_a_404() -> None:
    async with passing() as at:
        named = await at.http.get("/v1/evals", headers={"x-upstream": "none"})
        model = await at.http.post("/v1/moderations", json={"model": "none", "input": "x"})
    assert [failure(answer)["code"] for answer in (named, model)] == ["not_found", "model_not_found"]


async def test_nobody_administers_the_account_with_the_operators_key() -> None:
    async with passing(route={"caller_key": True}) as at:
        with_ours = await at.http.get("/v1/organization/users")
        at.cloud.script.append(Reply(headers=JSON, pieces=(b"{}",)))
        theirs = {"x-api-key": KEY, "authorization": "Bearer sk-admin-of-their-own"}
        with_their_own = await at.http.get("/v1/organization/users", headers=theirs)
        asked = at.cloud.asked
    assert (with_ours.status_code, failure(with_ours)["code"]) == (403, "permission_denied")
    assert with_their_own.status_code == 200
    assert [one.headers["authorization"] for one in asked] == ["Bearer sk-admin-of-their-own"]


async def test_an_account_that_is_not_shared_answers_but_keeps_nothing_for_anyone() -> None:
    async with passing(route={"shared_account": False}) as at:
        at.cloud.script.append(Reply(headers=JSON, pieces=(b"{}",)))
        call = await at.http.post("/v1/moderations", json={"input": "x"})
        objects = [await at.http.get("/v1/assistants"), await at.http.delete("/v1/models/up-1")]
    assert call.status_code == 200
    assert [answer.status_code for answer in objects] == [403, 403]
    assert len(at.cloud.asked) == 1


@pytest.mark.parametrize("path", ["/v1/assistants/%2e%2e", "/v1/assistants/.%2e?x=1"])
async def test_no_path_leads_out_of_the_upstreams_api(path: str) -> None:
    async with passing() as at:
        answer = await at.http.get(path)
        assert answer.status_code == 404
        assert not at.cloud.asked
