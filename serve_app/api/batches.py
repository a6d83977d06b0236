"""``/v1/batches``: files of requests, answered on idle capacity within a day."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of, tenant_of
from serve_app.api.files import no_such_file
from serve_app.api.incoming import asked, known, sent, there
from serve_app.api.listing import listed, soon
from serve_app.api.wire.batches import BatchPaging, NewBatch, batch_json
from serve_app.errors import RequestError
from serve_app.protocol import Batch, FailureCode

router = APIRouter()

_WINDOW_S = 86_400.0


@router.post("/v1/batches")
async def create_batch(request: Request) -> Response:
    """Takes a batch. Its input is looked at afterwards: what is wrong with it, the batch will tell."""
    context, admitted = context_of(request), tenant_of(request)
    tenant = admitted.id
    wanted = await sent(request, NewBatch)
    found = context.store.files.file(tenant, wanted.input_file_id)
    file = there(await soon(found, context.limits), no_such_file("input_file_id"))
    if file.purpose != "batch":
        text = "The input file must have been sent with the purpose 'batch'."
        raise RequestError(FailureCode.INVALID_REQUEST, text, "input_file_id")
    now_s = context.clock()
    batch = Batch(
        id=f"batch_{context.new_id()}",
        tenant=tenant,
        endpoint=wanted.endpoint,
        input_file_id=file.id,
        completion_window=wanted.completion_window,
        created_s=now_s,
        expires_s=now_s + _WINDOW_S,
        keep_s=wanted.keep_s,
        metadata=wanted.metadata,
        key=admitted.key,
    )
    await soon(context.store.batches.create(batch), context.limits)
    request.app.state.batches.wake()
    return JSONResponse(batch_json(batch))


@router.get("/v1/batches")
async def list_batches(request: Request) -> Response:
    """A page of the tenant's batches, newest first."""
    context = context_of(request)
    wanted = asked(request, BatchPaging)
    page = await soon(context.store.batches.batches(tenant_of(request).id, wanted.after, wanted.limit), context.limits)
    return listed([batch_json(batch) for batch in page.data], page.has_more)


@router.get("/v1/batches/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> Response:
    """One batch, as far as it is."""
    context = context_of(request)
    found = context.store.batches.batch(tenant_of(request).id, _known(batch_id))
    return _found(await soon(found, context.limits))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Stops a batch; what was answered is kept. Nothing happens to one that is ending or was cancelled before."""
    context = context_of(request)
    batch = await soon(context.store.batches.cancel(tenant_of(request).id, _known(batch_id)), context.limits)
    if batch is not None and batch.status in ("completed", "failed", "expired"):
        raise RequestError(FailureCode.INVALID_REQUEST, f"The batch is {batch.status}: it cannot be cancelled.")
    return _found(batch)


def _known(batch_id: str) -> str:
    return known(batch_id, _not_found())


def _found(batch: Batch | None) -> Response:
    return JSONResponse(batch_json(there(batch, _not_found())))


def _not_found() -> RequestError:
    return RequestError(FailureCode.NOT_FOUND, "No batch with this id exists.")
