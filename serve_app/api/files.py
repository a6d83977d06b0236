"""``/v1/files``: what a tenant keeps here, to the byte. Nobody else's exists."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response

from serve_app.api import multipart
from serve_app.api.blobs import Draft, unwritable
from serve_app.api.context import Context, context_of, tenant_of
from serve_app.api.incoming import asked, known, there
from serve_app.api.listing import listed, soon
from serve_app.api.uploads import takes
from serve_app.api.wire.files import FilePaging, NewFile, file_json
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, File, FileQuery, Json

router = APIRouter()

_BRACKETED = re.compile(r"(\w+)\[(\w+)\]")


@router.post("/v1/files", openapi_extra=takes("multipart/form-data"))
async def create_file(request: Request) -> Response:
    """Keeps a file: its bytes first, then what is known of it."""
    context, file_id = context_of(request), f"file-{context_of(request).new_id()}"
    with await new_draft(context, file_id) as draft:
        form = await multipart.receive(request, draft, "file", context.limits.max_file_bytes)
        wanted = read(NewFile, _nested(form.fields), context.limits)
        now_s = context.clock()
        expires_s = None if wanted.keep_s is None else now_s + wanted.keep_s
        name = form.filename or "file"
        file = File(file_id, tenant_of(request).id, draft.size, now_s, name, wanted.purpose, expires_s)
        await kept(draft)
    await soon(context.store.files.add(file), context.limits)
    return JSONResponse(file_json(file))


@router.get("/v1/files")
async def list_files(request: Request) -> Response:
    """A page of the tenant's files."""
    context = context_of(request)
    wanted = asked(request, FilePaging)
    query = FileQuery(wanted.after, wanted.limit, wanted.order, wanted.purpose)
    page = await soon(context.store.files.files(tenant_of(request).id, query), context.limits)
    return listed([file_json(file) for file in page.data], page.has_more)


@router.get("/v1/files/{file_id}")
async def get_file(request: Request, file_id: str) -> Response:
    """What is known of one file."""
    return JSONResponse(file_json(await _found(request, file_id)))


@router.get("/v1/files/{file_id}/content")
async def get_content(request: Request, file_id: str) -> Response:
    """The bytes as they came, or a range of them; never shown by a browser as if they were ours."""
    file = await _found(request, file_id)
    path = context_of(request).blobs.path(file.id)
    if not await asyncio.to_thread(Path.is_file, path):
        raise unwritable()
    headers = {"x-content-type-options": "nosniff"}
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename, headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Forgets one file; its bytes go too, once nothing needs them."""
    context = context_of(request)
    deleted = context.store.files.delete(tenant_of(request).id, known(file_id, no_such_file()))
    if not await soon(deleted, context.limits):
        raise no_such_file()
    for name in await soon(context.store.files.unneeded([file_id]), context.limits):
        await asyncio.to_thread(context.blobs.remove, name)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def no_such_file(param: str | None = None) -> RequestError:
    return RequestError(FailureCode.NOT_FOUND, "No file with this id is stored.", param)


async def new_draft(context: Context, name: str) -> Draft:
    """A blob to write; refused where the disk refuses."""
    try:
        return await asyncio.to_thread(context.blobs.draft, name)
    except OSError:
        raise unwritable() from None


async def kept(draft: Draft) -> None:
    """The draft is in its place; refused where the disk refuses."""
    try:
        await asyncio.to_thread(draft.keep)
    except OSError:
        raise unwritable() from None


async def _found(request: Request, file_id: str) -> File:
    context = context_of(request)
    found = context.store.files.file(tenant_of(request).id, known(file_id, no_such_file()))
    return there(await soon(found, context.limits), no_such_file())


def _nested(fields: dict[str, str]) -> Json:
    """``name[key]=value``, as the SDKs spell an object in a form."""
    body: Json = {}
    for name, value in fields.items():
        match = _BRACKETED.fullmatch(name)
        if match:
            body.setdefault(match[1], {})[match[2]] = value
        else:
            body[name] = value
    return body
