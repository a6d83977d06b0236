from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from hashlib import md5
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types import FileDeleted, FileObject, Upload
from openai.types.uploads import UploadPart

from serve_app.api.blobs import Blobs
from serve_app.api.housekeeping import sweep
from serve_app.api.limits import Limits
from serve_app.store import SqlStore
from tests.api.contract import conforms, typed
from tests.api.keeping import kept_in
from tests.api.serving import KEY, failure
from tests.fakes import FakeClock
from tests.running import wait_for

Kept = tuple[AsyncOpenAI, FakeClock]
BYTES = random.Random(3).randbytes(3_000_000)
LIMITS = Limits(max_file_bytes=4_000_000, max_part_bytes=2_000_000, max_joined_bytes=9_000_000)


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    async with kept_in(tmp_path, limits=LIMITS) as opened:
        yield opened


def plain(sdk: AsyncOpenAI, key: str = KEY) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=str(sdk.base_url), headers={"authorization": f"Bearer {key}"})


def blobs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "files").iterdir())


async def test_a_file_comes_back_to_the_byte(kept: Kept, tmp_path: Path) -> None:
    sdk, clock = kept
    file = await sdk.files.create(file=("Übung 1.bin", BYTES), purpose="user_data")
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(BYTES),
        "Übung 1.bin",
        "user_data",
        "processed",
    )
    assert (file.created_at, file.expires_at) == (int(clock()), None)
    assert (await sdk.files.content(file.id)).content == BYTES
    assert await sdk.files.retrieve(file.id) == file
    async with plain(sdk) as http:
        body = (await http.get(f"files/{file.id}")).json()
        part = await http.get(f"files/{file.id}/content", headers={"range": "bytes=10-19"})
    typed(FileObject, body)
    conforms("OpenAIFile", {name: value for name, value in body.items() if value is not None})
    assert (part.status_code, part.content) == (206, BYTES[10:20])
    assert part.headers["x-content-type-options"] == "nosniff"
    assert blobs(tmp_path) == [file.id]


async def test_an_empty_file_is_a_file(kept: Kept) -> None:
    sdk, _ = kept
    file = await sdk.files.create(file=("empty", b""), purpose="assistants")
    assert (file.bytes, (await sdk.files.content(file.id)).content) == (0, b"")


async def test_a_deleted_file_is_gone_with_its_bytes(kept: Kept, tmp_path: Path) -> None:
    sdk, _ = kept
    file = await sdk.files.create(file=b"x", purpose="batch")
    deleted = await sdk.files.delete(file.id)
    typed(FileDeleted, deleted.model_dump())
    assert (deleted.id, deleted.deleted, blobs(tmp_path)) == (file.id, True, [])
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(file.id)


async def test_files_expire_when_they_were_told_to(kept: Kept) -> None:
    sdk, clock = kept
    batch = await sdk.files.create(file=b"x", purpose="batch")
    hour = await sdk.files.create(file=b"x", purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600})
    assert (batch.expires_at, hour.expires_at) == (batch.created_at + 30 * 86_400, hour.created_at + 3600)
    clock.advance(3600)
    with pytest.raises(openai.NotFoundError):
        await sdk.files.retrieve(hour.id)
    assert [file.id async for file in sdk.files.list()] == [batch.id]


async def test_files_are_listed_page_by_page_newest_first_and_by_purpose(kept: Kept) -> None:
    sdk, clock = kept
    made = []
    for number in range(5):
        clock.advance(1)
        file = await sdk.files.create(file=(f"{number}", b"x"), purpose="batch" if number % 2 else "user_data")
        made.append(file.id)
    assert [file.id async for file in sdk.files.list(limit=2)] == made[::-1]
    assert [file.id async for file in sdk.files.list(limit=2, order="asc")] == made
    assert [file.id async for file in sdk.files.list(purpose="batch")] == [made[3], made[1]]
    async with plain(sdk) as http:
        page = (await http.get("files", params={"limit": "2"})).json()
        wrong = await http.get("files", params={"after": "file-none"})
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", made[4], made[3], True)
    assert (wrong.status_code, failure(wrong)["param"]) == (400, "after")


async def test_another_tenants_files_do_not_exist(kept: Kept) -> None:
    sdk, _ = kept
    file = await sdk.files.create(file=b"x", purpose="batch")
    async with plain(sdk, f"{KEY}-2") as other:
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert (await other.request(method, f"files/{file.id}{path}")).status_code == 404
        assert (await other.get("files")).json()["data"] == []
    assert await sdk.files.retrieve(file.id) == file


@pytest.mark.parametrize(
    ("form", "status", "param"),
    [
        ({"files": {"file": b"x" * 4_000_001}, "data": {"purpose": "batch"}}, 413, "file"),
        ({"files": {"file": b"x"}}, 400, "purpose"),
        ({"files": {"file": b"x"}, "data": {"purpose": "none"}}, 400, "purpose"),
        (
            {"files": {"file": b"x"}, "data": {"purpose": "batch", "expires_after[seconds]": "3600"}},
            400,
            "expires_after.anchor",
        ),
        ({"files": {"other": b"x"}, "data": {"purpose": "batch"}}, 400, "file"),
        ({"files": [("file", b"x"), ("file", b"y")], "data": {"purpose": "batch"}}, 400, "file"),
        ({"files": {"file": b"x"}, "data": {"purpose": "b" * 5000}}, 400, None),
        ({"files": {"file": b"x"}, "data": {f"f{number}": "x" for number in range(40)}}, 400, None),
        ({"data": {"purpose": "batch"}}, 415, None),
        ({"content": b"nothing", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ({"content": b"nothing", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, None),
        (
            {
                "content": b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nhalf',
                "headers": {"content-type": "multipart/form-data; boundary=b"},
            },
            400,
            None,
        ),
    ],
)
async def test_what_cannot_be_kept_is_refused_and_leaves_nothing(
    kept: Kept, tmp_path: Path, form: dict[str, Any], status: int, param: str | None
) -> None:
    async with plain(kept[0]) as http:
        response = await http.post("files", **form)
    assert (response.status_code, failure(response)["param"]) == (status, param)
    assert not (tmp_path / "files").exists() or blobs(tmp_path) == []


async def test_a_disk_that_refuses_is_503(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no folder")
    async with kept_in(tmp_path) as (sdk, _):
        with pytest.raises(openai.InternalServerError) as raised:
            await sdk.files.create(file=b"x", purpose="batch")
    assert (raised.value.status_code, raised.value.code) == (503, "storage_unavailable")


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(kept: Kept, tmp_path: Path) -> None:
    started = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n' + BYTES
        started.set()
        await asyncio.Event().wait()

    async with plain(kept[0]) as http:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        sending = asyncio.create_task(http.post("files", content=half(), headers=headers))
        await started.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    await asyncio.to_thread(wait_for, lambda: not blobs(tmp_path), 5, "the draft is removed")


async def test_an_upload_in_parts_becomes_one_file(kept: Kept, tmp_path: Path) -> None:
    sdk, _ = kept
    upload = await sdk.uploads.create(bytes=len(BYTES), filename="big.jsonl", mime_type="text/jsonl", purpose="batch")
    second, first = await asyncio.gather(
        sdk.uploads.parts.create(upload.id, data=BYTES[2_000_000:]),
        sdk.uploads.parts.create(upload.id, data=BYTES[:2_000_000]),
    )
    digest = md5(BYTES).hexdigest()
    async with plain(sdk) as http:
        body = {"part_ids": [first.id, second.id], "md5": digest}
        answers = [(await http.post(f"uploads/{upload.id}/complete", json=body)).json() for _ in range(2)]
    done = typed(Upload, answers[0])
    conforms("UploadPart", first.model_dump())
    typed(UploadPart, first.model_dump())
    assert answers[0] == answers[1], "completed again, it answers the same"
    assert (upload.status, done.status) == ("pending", "completed")
    assert done.file is not None
    assert (done.file.bytes, done.file.filename, done.file.purpose) == (len(BYTES), "big.jsonl", "batch")
    assert (await sdk.files.content(done.file.id)).content == BYTES
    assert blobs(tmp_path) == [done.file.id]


async def test_the_sdk_uploads_a_file_in_chunks(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "source.bin").write_bytes(BYTES)
    done = await kept[0].uploads.upload_file_chunked(
        file=tmp_path / "source.bin", mime_type="text/plain", purpose="user_data", part_size=1_000_000
    )
    assert done.file is not None
    assert (await kept[0].files.content(done.file.id)).content == BYTES


async def test_parts_that_do_not_make_the_file_are_refused(kept: Kept) -> None:
    sdk, _ = kept
    upload = await sdk.uploads.create(bytes=4, filename="f", mime_type="text/plain", purpose="batch")
    parts = [(await sdk.uploads.parts.create(upload.id, data=data)).id for data in (b"ab", b"cd", b"cde")]
    for wrong in ([parts[0]], [parts[0], parts[2]], [parts[0], parts[0]], [parts[0], "part_none"]):
        with pytest.raises(openai.BadRequestError, match="part"):
            await sdk.uploads.complete(upload.id, part_ids=wrong)
    with pytest.raises(openai.BadRequestError, match="MD5"):
        await sdk.uploads.complete(upload.id, part_ids=parts[:2], md5="0" * 32)
    done = await sdk.uploads.complete(upload.id, part_ids=parts[:2])
    assert done.file is not None
    assert (await sdk.files.content(done.file.id)).content == b"abcd"
    with pytest.raises(openai.BadRequestError, match="completed"):
        await sdk.uploads.parts.create(upload.id, data=b"late")
    with pytest.raises(openai.BadRequestError, match="completed"):
        await sdk.uploads.cancel(upload.id)


async def test_an_upload_that_is_cancelled_or_late_leaves_nothing(kept: Kept, tmp_path: Path) -> None:
    sdk, clock = kept
    one = await sdk.uploads.create(bytes=2, filename="f", mime_type="text/plain", purpose="batch")
    await sdk.uploads.parts.create(one.id, data=b"ab")
    assert (await sdk.uploads.cancel(one.id)).status == "cancelled"
    assert blobs(tmp_path) == []
    two = await sdk.uploads.create(bytes=2, filename="f", mime_type="text/plain", purpose="batch")
    part = await sdk.uploads.parts.create(two.id, data=b"ab")
    clock.advance(3600)
    with pytest.raises(openai.BadRequestError, match="expired"):
        await sdk.uploads.complete(two.id, part_ids=[part.id])
    with pytest.raises(openai.NotFoundError):
        await sdk.uploads.cancel("upload_none")


async def test_the_disk_keeps_what_is_needed_and_loses_the_rest(tmp_path: Path) -> None:
    async with kept_in(tmp_path) as (sdk, clock):
        kept_file = await sdk.files.create(file=b"x", purpose="user_data")
        await sdk.files.create(file=b"x", purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600})
        clock.advance(3600)
        upload = await sdk.uploads.create(bytes=2, filename="f", mime_type="text/plain", purpose="batch")
        part = await sdk.uploads.parts.create(upload.id, data=b"ab")
    (tmp_path / "files" / "file-lost.draft").write_bytes(b"half")
    for name in blobs(tmp_path):
        os.utime(tmp_path / "files" / name, (0, 0))
    (tmp_path / "files" / "file-new.draft").write_bytes(b"half")
    store = await SqlStore.open(f"sqlite:///{tmp_path}/kept.db", clock=clock)
    try:
        assert await sweep(Blobs(tmp_path / "files"), store, 3600) == 2
        await store.reap(20)
        clock.advance(3 * 86_400)
        await store.reap(20)
        assert await store.files.unneeded([part.id]) == {part.id}
    finally:
        await store.close()
    assert blobs(tmp_path) == sorted([kept_file.id, part.id, "file-new.draft"])
