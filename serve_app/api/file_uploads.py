"""``/v1/uploads``: a file that comes in parts, in any order and side by side, and is one file when it is completed."""

from __future__ import annotations

import asyncio
from hashlib import md5

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api import multipart
from serve_app.api.blobs import Blobs, Draft, unwritable
from serve_app.api.context import Context, context_of, tenant_of
from serve_app.api.files import kept, new_draft
from serve_app.api.incoming import known, sent, there
from serve_app.api.listing import soon
from serve_app.api.uploads import takes
from serve_app.api.wire.files import CompleteUpload, NewUpload, part_json, upload_json
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, File, Part, Upload

router = APIRouter()

_EXPIRES_S = 3600.0
_PIECE_BYTES = 1 << 20


@router.post("/v1/uploads")
async def create_upload(request: Request) -> Response:
    """Announces a file."""
    context = context_of(request)
    asked = await sent(request, NewUpload)
    if asked.bytes > context.limits.max_joined_bytes:
        text = f"The file is larger than {context.limits.max_joined_bytes} bytes."
        raise RequestError(FailureCode.INVALID_REQUEST, text, "bytes", "integer_above_max_value")
    upload = Upload(
        id=f"upload_{context.new_id()}",
        tenant=tenant_of(request).id,
        bytes=asked.bytes,
        created_s=context.clock(),
        expires_s=context.clock() + _EXPIRES_S,
        filename=asked.filename,
        purpose=asked.purpose,
        keep_s=asked.keep_s,
    )
    await soon(context.store.files.open_upload(upload), context.limits)
    return JSONResponse(upload_json(upload))


@router.post("/v1/uploads/{upload_id}/parts", openapi_extra=takes("multipart/form-data"))
async def add_part(request: Request, upload_id: str) -> Response:
    """Takes a piece of the file."""
    context = context_of(request)
    _must_be_pending(await _known(request, upload_id))
    part_id = f"part_{context.new_id()}"
    with await new_draft(context, part_id) as draft:
        await multipart.receive(request, draft, "data", context.limits.max_part_bytes)
        part = Part(part_id, draft.size, context.clock())
        await kept(draft)
    asked = context.store.files.add_part(tenant_of(request).id, upload_id, part)
    upload = await soon(asked, context.limits)
    if upload is None or upload.status != "pending":
        await asyncio.to_thread(context.blobs.remove, part_id)
        raise _over(upload)
    return JSONResponse(part_json(upload, part))


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(request: Request, upload_id: str) -> Response:
    """Makes the parts one file, in the order the client names. Completed again, it answers the same."""
    context, tenant = context_of(request), tenant_of(request).id
    asked = await sent(request, CompleteUpload)
    upload = await _known(request, upload_id)
    if upload.status == "completed":
        return JSONResponse(upload_json(upload))
    _must_be_pending(upload)
    parts = await soon(context.store.files.parts(tenant, upload_id), context.limits)
    _check(upload, asked, parts)
    file = await _joined(context, upload, asked)
    finished = await soon(context.store.files.finish_upload(tenant, upload_id, file), context.limits)
    if finished is None or finished.status != "completed":
        await _remove(context, [file.id])
        raise _over(finished)
    superfluous = [] if finished.file == file else [file.id]
    await _remove(context, [*superfluous, *(part.id for part in parts)])
    return JSONResponse(upload_json(finished))


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel_upload(request: Request, upload_id: str) -> Response:
    """Gives the upload up, with whatever came of it."""
    context, tenant = context_of(request), tenant_of(request).id
    await _known(request, upload_id)
    parts = await soon(context.store.files.parts(tenant, upload_id), context.limits)
    upload = await soon(context.store.files.finish_upload(tenant, upload_id, None), context.limits)
    if upload is None or upload.status != "cancelled":
        raise _over(upload)
    await _remove(context, [part.id for part in parts])
    return JSONResponse(upload_json(upload))


async def _known(request: Request, upload_id: str) -> Upload:
    context = context_of(request)
    found = context.store.files.upload(tenant_of(request).id, known(upload_id, _over(None)))
    return there(await soon(found, context.limits), _over(None))


def _must_be_pending(upload: Upload) -> None:
    if upload.status != "pending":
        raise _over(upload)


def _over(upload: Upload | None) -> RequestError:
    if upload is None:
        return RequestError(FailureCode.NOT_FOUND, "No upload with this id is under way.")
    return RequestError(FailureCode.INVALID_REQUEST, f"The upload is {upload.status}: nothing can be done with it.")


def _check(upload: Upload, asked: CompleteUpload, parts: tuple[Part, ...]) -> None:
    """Raises ``RequestError`` unless the parts named are there and together as large as was said."""
    sizes = {part.id: part.bytes for part in parts}
    if len(set(asked.part_ids)) < len(asked.part_ids) or not sizes.keys() >= set(asked.part_ids):
        text = "Each part must be one of this upload's, and be named once."
        raise RequestError(FailureCode.INVALID_REQUEST, text, "part_ids")
    found = sum(sizes[part_id] for part_id in asked.part_ids)
    if found != upload.bytes:
        text = f"The parts have {found} bytes, and the upload was announced with {upload.bytes}."
        raise RequestError(FailureCode.INVALID_REQUEST, text, "part_ids")


async def _joined(context: Context, upload: Upload, asked: CompleteUpload) -> File:
    """The parts as one blob, under a new file's id."""
    file_id = f"file-{context.new_id()}"
    with await new_draft(context, file_id) as draft:
        try:
            digest = await asyncio.to_thread(_join, context.blobs, asked.part_ids, draft)
        except OSError:
            raise unwritable() from None
        if asked.md5 is not None and asked.md5 != digest:
            raise RequestError(FailureCode.INVALID_REQUEST, "The file's MD5 checksum is another.", "md5")
        await kept(draft)
    now_s = context.clock()
    expires_s = None if upload.keep_s is None else now_s + upload.keep_s
    return File(file_id, upload.tenant, upload.bytes, now_s, upload.filename, upload.purpose, expires_s)


def _join(blobs: Blobs, names: list[str], draft: Draft) -> str:
    """Copies the blobs into the draft, one after the other; their MD5 checksum."""
    digest = md5(usedforsecurity=False)
    for name in names:
        with blobs.path(name).open("rb") as source:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                draft.write(piece)
    return digest.hexdigest()


async def _remove(context: Context, names: list[str]) -> None:
    for name in names:
        await asyncio.to_thread(context.blobs.remove, name)
