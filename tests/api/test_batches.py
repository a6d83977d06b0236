from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types import Batch

from serve_app.api.limits import Limits
from serve_app.protocol import Tier
from tests.api.contract import conforms, typed
from tests.api.keeping import eventually, kept_in
from tests.api.serving import KEY, failure
from tests.batch_server import RHYTHM, Echo
from tests.fakes import FakeClock

CHAT = "/v1/chat/completions"


class Kept:
    """The SDK, the clock, and the model behind it."""

    def __init__(self, sdk: AsyncOpenAI, clock: FakeClock, echo: Echo) -> None:
        self.sdk, self.clock, self.echo = sdk, clock, echo

    async def create(self, content: bytes, endpoint: str = CHAT, **options: Any) -> Batch:
        file = await self.sdk.files.create(file=("in.jsonl", content), purpose="batch")
        return await self.sdk.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,
            completion_window="24h",
            **options,  # type: ignore[arg-type]
        )

    async def until(self, batch_id: str, *statuses: str) -> Batch:
        """The batch, as soon as it has one of these statuses."""

        async def there() -> bool:
            return (await self.sdk.batches.retrieve(batch_id)).status in statuses

        await eventually(there)
        return await self.sdk.batches.retrieve(batch_id)

    async def answered(self, batch_id: str, number: int) -> None:
        """Waits until the batch tells that so many of its lines were answered."""

        async def told() -> bool:
            counts = (await self.sdk.batches.retrieve(batch_id)).request_counts
            return counts is not None and counts.completed >= number

        await eventually(told)

    async def rows(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        return [json.loads(line) for line in (await self.sdk.files.content(file_id)).content.splitlines()]


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    echo = Echo()
    limits = Limits(max_batch_lines=200, max_batch_bytes=100_000)
    async with kept_in(tmp_path, limits=limits, rhythm=RHYTHM, local={"echo": echo}) as (sdk, clock):
        yield Kept(sdk, clock, echo)


def line(custom_id: Any, text: str = "hello", url: str = CHAT, **changes: Any) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": text}]} | changes.pop("body", {})
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body} | changes).encode() + b"\n"


async def test_a_batch_answers_each_line_once_in_order_on_the_lowest_tier(kept: Kept) -> None:
    made = await kept.create(b"".join(line(f"r{n}", f"text {n}") for n in range(100)), metadata={"run": "7"})
    assert (made.status, made.request_counts and made.request_counts.total) == ("validating", 0)
    batch = await kept.until(made.id, "completed")
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 100, "completed": 100, "failed": 0}
    assert (batch.error_file_id, batch.errors, batch.metadata, batch.model) == (None, None, {"run": "7"}, "echo")
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (300, 200, 500)
    for moment in (batch.in_progress_at, batch.finalizing_at, batch.completed_at):
        assert moment == batch.created_at
    rows = await kept.rows(batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"r{n}" for n in range(100)]
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in rows]
    assert said == [f"text {n}" for n in range(100)]
    assert len({row["id"] for row in rows} | {row["response"]["request_id"] for row in rows}) == 200
    assert rows[0]["id"].startswith("batch_req_")
    assert {(row["response"]["status_code"], row["error"]) for row in rows} == {(200, None)}
    assert kept.echo.tiers == [Tier.BATCH] * 100
    output = await kept.sdk.files.retrieve(str(batch.output_file_id))
    assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 30 * 86_400)
    async with httpx.AsyncClient(base_url=str(kept.sdk.base_url), headers={"authorization": f"Bearer {KEY}"}) as http:
        body = (await http.get(f"batches/{batch.id}")).json()
    typed(Batch, body)
    conforms("Batch", {name: value for name, value in body.items() if value is not None})


async def test_lines_that_fail_are_told_in_the_error_file(kept: Kept) -> None:
    content = line("good") + line("bad", "bad") + line("none", body={"model": "none"}) + b"\n"
    content += line("stream", body={"stream": True}) + line("poison", "poison")
    batch = await kept.until((await kept.create(content)).id, "completed")
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 5, "completed": 1, "failed": 4}
    assert [row["custom_id"] for row in await kept.rows(batch.output_file_id)] == ["good"]
    rows = {row["custom_id"]: row for row in await kept.rows(batch.error_file_id)}
    told = {
        name: (row["response"]["status_code"], row["response"]["body"]["error"]["code"]) for name, row in rows.items()
    }
    assert told == {
        "bad": (400, "invalid_value"),
        "none": (404, "model_not_found"),
        "stream": (400, "unsupported_parameter"),
        "poison": (503, "engine_lost"),
    }
    assert len(kept.echo.tiers) == 5, "good and bad once; what loses its model three times, and no more"


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (line("a") + b"{oops\n", "invalid_json_line", 2),
        (line("a") + b"[]\n", "invalid_json_line", 2),
        (line("a") + b"\n" + line("a"), "duplicate_custom_id", 3),
        (line(None), "invalid_custom_id", 1),
        (line("a", method="GET"), "invalid_method", 1),
        (line("a", url="/v1/completions"), "mismatched_url", 1),
        (line("a").replace(b'"body": {', b'"body": [], "other": {'), "invalid_body", 1),
        (b"\n \n", "empty_file", None),
        (b"".join(line(str(n)) for n in range(201)), "too_many_requests", 201),
        (line("a", "x" * 100_001), "file_too_large", None),
    ],
)
async def test_a_wrong_input_fails_the_batch_and_says_where(
    kept: Kept, content: bytes, code: str, number: int | None
) -> None:
    batch = await kept.until((await kept.create(content)).id, "failed")
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(each.code, each.line) for each in batch.errors.data] == [(code, number)]
    assert (batch.output_file_id, batch.error_file_id, kept.echo.tiers) == (None, None, [])
    assert batch.failed_at is not None


@pytest.mark.parametrize("endpoint", ["/v1/batches", "/v1/none"])
async def test_an_endpoint_that_does_not_answer_fails_the_batch(kept: Kept, endpoint: str) -> None:
    batch = await kept.until((await kept.create(line("a", url=endpoint), endpoint)).id, "failed")
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].code == "invalid_endpoint"


async def test_a_completion_can_be_a_line_too(kept: Kept) -> None:
    content = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"echo","prompt":"once"}}'
    batch = await kept.until((await kept.create(content, "/v1/completions")).id, "completed")
    rows = await kept.rows(batch.output_file_id)
    assert rows[0]["response"]["body"]["choices"][0]["text"] == "once"


async def test_a_cancelled_batch_keeps_what_was_answered(kept: Kept) -> None:
    made = await kept.create(
        b"".join(line(f"r{n}") for n in range(20)) + line("stuck", "later") + line("last", "later")
    )
    await kept.answered(made.id, 20)
    assert (await kept.sdk.batches.cancel(made.id)).status == "cancelling"
    batch = await kept.until(made.id, "cancelled")
    assert (await kept.sdk.batches.cancel(made.id)).status == "cancelled", "cancelled again, nothing happens"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 22, "completed": 20, "failed": 2}
    assert len(await kept.rows(batch.output_file_id)) == 20
    rows = await kept.rows(batch.error_file_id)
    assert [(row["custom_id"], row["response"], row["error"]["code"]) for row in rows] == [
        ("stuck", None, "batch_cancelled"),
        ("last", None, "batch_cancelled"),
    ]
    assert (batch.cancelling_at, batch.cancelled_at) == (batch.created_at, batch.created_at)


async def test_a_batch_ends_with_its_window(kept: Kept) -> None:
    made = await kept.create(line("quick") + line("stuck", "later"))
    await kept.answered(made.id, 1)
    kept.clock.advance(86_400)
    batch = await kept.until(made.id, "expired")
    assert [row["custom_id"] for row in await kept.rows(batch.output_file_id)] == ["quick"]
    rows = await kept.rows(batch.error_file_id)
    assert [(row["custom_id"], row["error"]["code"]) for row in rows] == [("stuck", "batch_expired")]
    with pytest.raises(openai.BadRequestError, match="expired"):
        await kept.sdk.batches.cancel(made.id)


async def test_the_input_may_be_deleted_while_the_batch_runs(kept: Kept, tmp_path: Path) -> None:
    made = await kept.create(line("a") + line("stuck", "later"))
    await kept.until(made.id, "in_progress")
    await kept.sdk.files.delete(made.input_file_id)
    assert (tmp_path / "files" / made.input_file_id).exists()
    await kept.sdk.batches.cancel(made.id)
    batch = await kept.until(made.id, "cancelled")
    assert batch.request_counts is not None
    assert batch.request_counts.total == 2
    left = {path.name for path in (tmp_path / "files").iterdir()}
    assert left == {made.input_file_id, batch.output_file_id, batch.error_file_id} - {None}


async def test_batches_are_listed_newest_first_to_their_tenant_alone(kept: Kept) -> None:
    made = []
    for _ in range(3):
        kept.clock.advance(1)
        made.append((await kept.create(line("a"), output_expires_after={"anchor": "created_at", "seconds": 3600})).id)
    assert [batch.id async for batch in kept.sdk.batches.list(limit=2)] == made[::-1]
    batch = await kept.until(made[0], "completed")
    output = await kept.sdk.files.retrieve(str(batch.output_file_id))
    assert output.expires_at == output.created_at + 3600
    other = httpx.AsyncClient(base_url=str(kept.sdk.base_url), headers={"authorization": f"Bearer {KEY}-2"})
    async with other:
        assert (await other.get("batches")).json()["data"] == []
        for method, path in (("GET", ""), ("POST", "/cancel")):
            assert (await other.request(method, f"batches/{made[0]}{path}")).status_code == 404
        body = {"input_file_id": batch.input_file_id, "endpoint": CHAT, "completion_window": "24h"}
        response = await other.post("batches", json=body)
    assert (response.status_code, failure(response)["param"]) == (404, "input_file_id")


async def test_a_batch_is_made_of_a_file_for_batches(kept: Kept) -> None:
    file = await kept.sdk.files.create(file=line("a"), purpose="user_data")
    for changes in ({}, {"completion_window": "1h"}, {"endpoint": 7}, {"input_file_id": "a b"}):
        body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | changes
        with pytest.raises(openai.BadRequestError) as raised:
            await kept.sdk.batches.create(**body)  # type: ignore[arg-type]
        assert raised.value.param == next(iter(changes), "input_file_id")
