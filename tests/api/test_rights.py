"""What a key may: one door for all routes, and behind it the models it names."""

from __future__ import annotations

import asyncio
import logging
import re
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from serve_app.api.admission import Tenant
from serve_app.api.gate import Gate
from serve_app.api.keyring import Keyring
from serve_app.api.passthrough import check_model
from serve_app.errors import RequestError
from serve_app.protocol import Delta, Done, FailureCode, Generate, Secret, Started, Usage
from tests.api.everything import MODEL, Everything
from tests.api.keyed import KeyedHouse, keyed_house
from tests.api.serving import failure
from tests.fakes import FakeBackend, card

CHAT = "/v1/chat/completions"
PUBLIC = {"/health", "/ready"}
OURS = re.compile("/v1/organization/(admin_api_keys|projects|usage|costs)")


def chat(model: str = MODEL, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}]} | more


def saying_hello() -> FakeBackend:
    steps = [Started(1)], [Delta(0, "Hello"), Delta(0, finish="stop")], [Done(Usage(1, 1))]
    return FakeBackend(*steps, cards=[card("other")])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[KeyedHouse]:
    async with keyed_house(tmp_path, {MODEL: Everything(), "other": saying_hello()}) as house:
        yield house


def every_route(gate: Gate) -> list[tuple[str, str]]:
    """Every method of every address there is, and of some where there is nothing."""
    found = []
    for route in gate.app.routes:
        path = route.path.replace("{", "x").replace("}", "").replace(":path", "")
        found += [(method, path) for method in sorted(getattr(route, "methods", None) or {"GET"})]
    assert len(found) > 40
    return [*found, ("GET", "/nothing"), ("POST", "/v1/organization/projects/x/y"), ("GET", "/"), ("GET", "/docs")]


async def test_no_route_answers_without_a_key_but_the_public_ones(house: KeyedHouse) -> None:
    await house.make()
    async with house.client() as nobody, house.client(Secret.of(b"w" * 32).text) as wrong:
        for method, path in every_route(house.gate):
            for client in (nobody, wrong):
                answer = await client.request(method, path)
                assert (answer.status_code != 401) == (path in PUBLIC), (method, path)


async def test_every_route_of_the_organization_wants_the_scope_admin_and_every_other_inference(
    house: KeyedHouse,
) -> None:
    _, user = await house.make("inference")
    _, admin = await house.make("admin", project=None)
    async with house.client(user) as user_client, house.client(admin) as admin_client:
        for method, path in every_route(house.gate):
            if path in PUBLIC:
                continue
            client = user_client if OURS.match(path) else admin_client
            answer = await client.request(method, path)
            assert answer.status_code == 403, (method, path)
            assert method == "HEAD" or "needs an API key with the scope" in answer.text


async def test_refusals_of_unknown_revoked_and_expired_keys_are_the_same_bytes(house: KeyedHouse) -> None:
    revoked_id, revoked = await house.make()
    _, expired = await house.make(expires_s=time.time() - 1)
    await house.store.keys.revoke(revoked_id)
    answers = []
    for text in (revoked, expired, Secret.of(b"u" * 32).text, "nonsense"):
        async with house.client(text) as client:
            answer = await client.get("/v1/models")
        hidden = ("x-request-id", "openai-processing-ms")
        answers.append((answer.status_code, answer.content, [h for h in answer.headers.items() if h[0] not in hidden]))
    assert answers[0][0] == 401
    assert all(answer == answers[0] for answer in answers)


async def test_a_key_calls_the_models_it_names_and_sees_no_others(house: KeyedHouse) -> None:
    _, text = await house.make(models=("other", "unheard-of"))
    async with house.client(text) as client:
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["other"]
        assert (await client.get(f"/v1/models/{MODEL}")).status_code == 404
        assert (await client.post(CHAT, json=chat("other"))).status_code == 200
        for path, body in {
            CHAT: chat(),
            "/v1/completions": {"model": MODEL, "prompt": "Hi"},
            "/v1/embeddings": {"model": MODEL, "input": "Hi"},
            "/v1/responses": {"model": MODEL, "input": "Hi"},
            "/v1/responses/compact": {"model": MODEL, "input": "Hi"},
            "/v1/responses/input_tokens": {"model": MODEL, "input": "Hi"},
            "/tokenize": {"model": MODEL, "content": "Hi"},
        }.items():
            refused = await client.post(path, json=body)
            assert (refused.status_code, failure(refused)["code"]) == (403, "model_not_allowed"), path
            assert failure(refused)["param"] == "model"
        assert (await client.post(CHAT, json=chat("no-such-model"))).status_code == 403


async def test_the_keys_of_one_project_see_the_same_and_others_nothing(house: KeyedHouse) -> None:
    texts = [(await house.make())[1], (await house.make())[1], (await house.make(project="proj_second"))[1]]
    async with house.client(texts[0]) as client:
        kept = (await client.post(CHAT, json=chat(store=True))).json()["id"]
    statuses = []
    for text in texts:
        async with house.client(text) as client:
            statuses.append((await client.get(f"{CHAT}/{kept}")).status_code)
    assert statuses == [200, 200, 404]


async def test_the_weight_of_a_key_reaches_the_model(house: KeyedHouse) -> None:
    _, text = await house.make(weight=2.5)
    async with house.client(text) as client:
        await client.post(CHAT, json=chat("other"))
        await client.post("/v1/completions", json={"model": "other", "prompt": "Hi"})
        await client.post("/v1/responses", json={"model": "other", "input": "Hi"})
    backend = (await house.context.directory.resolve("other")).backend
    assert isinstance(backend, FakeBackend)
    assert [work.weight for work in backend.requests if isinstance(work, Generate)] == [2.5, 2.5, 2.5]


async def batch(house: KeyedHouse, text: str, model: str) -> tuple[Any, list[Any]]:
    """A batch of one line; as it ended, and the lines of its results."""
    line = {"custom_id": "1", "method": "POST", "url": CHAT, "body": chat(model)}
    client = house.openai(text)
    file = await client.files.create(file=("b.jsonl", orjson.dumps(line)), purpose="batch")
    made = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    async with asyncio.timeout(20):
        while made.status not in ("completed", "failed"):
            await asyncio.sleep(0.05)
            made = await client.batches.retrieve(made.id)
    contents = [await client.files.content(name) for name in (made.output_file_id, made.error_file_id) if name]
    return made, [orjson.loads(row) for content in contents for row in content.text.splitlines()]


async def test_the_lines_of_a_batch_may_call_what_its_key_may(house: KeyedHouse) -> None:
    _, text = await house.make(models=("other",))
    _, [answered] = await batch(house, text, "other")
    _, [refused] = await batch(house, text, MODEL)
    assert answered["response"]["status_code"] == 200
    assert (refused["response"]["status_code"], refused["response"]["body"]["error"]["code"]) == (
        403,
        "model_not_allowed",
    )


@pytest.mark.parametrize(
    ("head", "named", "passes"),
    [
        (b'{"model": "mine"}', None, True),
        (b'{"model": "mine"}', "mine", True),
        (b'{"input": "x"}', "mine", True),
        (b'{"model": "theirs"}', "mine", False),
        (b'{"model": "mine"}', "theirs", False),
        (b'{"model": "mine", "model": "theirs"}', None, False),
        (b'{"a": {"model": "mine"}, "model": "theirs"', None, False),
        (b'{"model": ["mine"]}', None, False),
        (b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nmine\r\n', None, False),
        (b"", None, False),
        (b"", "mine", False),
    ],
)
def test_what_is_passed_on_for_a_key_with_models_names_one_of_them_beyond_doubt(
    head: bytes, named: str | None, passes: bool
) -> None:
    tenant = Tenant("proj_1", models=frozenset({"mine"}))
    with nullcontext() if passes else pytest.raises(RequestError) as caught:
        check_model(tenant, named, head)
    assert passes or caught.value.failed.code is FailureCode.MODEL_NOT_ALLOWED


def wrong_keys(right: str, count: int) -> list[tuple[bool, str]]:
    """In no order: random ones, and ones that are right but for their end. All are made the same way."""
    random = Random(7)
    kinds = [True, False] * (count // 2)
    random.shuffle(kinds)
    beginnings = (right if near else Secret.of(random.randbytes(32)).text for near in kinds)
    return [(near, begin[:-6] + f"{n:06d}") for n, (near, begin) in enumerate(zip(kinds, beginnings, strict=True))]


def welch(keyring: Keyring, texts: list[tuple[bool, str]]) -> float:
    """|t| of how long the two kinds take, without what took longer than nearly all: that was the machine."""
    taken: list[tuple[bool, int]] = []
    for near, text in texts:
        began = time.perf_counter_ns()
        found = keyring._opened(keyring._known, [Secret(text).digest])
        taken.append((near, time.perf_counter_ns() - began))
        assert found is None
    longest = sorted(ns for _, ns in taken)[len(taken) * 98 // 100]
    near_ns, far_ns = ([ns for kind, ns in taken if kind is near and ns <= longest] for near in (True, False))
    spread = statistics.variance(near_ns) / len(near_ns) + statistics.variance(far_ns) / len(far_ns)
    return abs(statistics.mean(near_ns) - statistics.mean(far_ns)) / spread**0.5


async def test_the_time_a_wrong_key_takes_does_not_tell_how_much_of_it_is_right(house: KeyedHouse) -> None:
    """What tells shows in every measurement; what the machine does beside, in some."""
    _, right = await house.make()
    keyring = Keyring(house.store.keys)
    await keyring.in_use()
    texts = wrong_keys(right, 10_000)
    assert min(welch(keyring, texts) for _ in range(5)) < 4.5


def contents(folder: Path) -> list[str]:
    return [file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file()]


async def test_a_key_stands_in_no_log_no_answer_and_no_file(
    house: KeyedHouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, canary = await house.make(models=("other",))
    seen = []
    for method, path in every_route(house.gate):
        async with house.client(canary) as client:
            for request in ({}, {"json": {"model": canary, "input": canary}}, {"params": {"after": "x"}}):
                answer = await client.request(method, path, **request)
                sent_back = canary in answer.text and "json" in request
                seen.append(answer.text if not sent_back else "")
                seen.append(str(answer.headers))
    await house.context.ledger.stop()
    seen += [caplog.text, *await asyncio.to_thread(contents, tmp_path)]
    assert not [text for text in seen if canary in text]
