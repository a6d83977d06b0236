"""``/v1/responses``: made by local models and by upstreams alike, kept here."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api.calls import Call, receive
from serve_app.api.context import Context, context_of, tenant_of
from serve_app.api.enduring import Enduring
from serve_app.api.history import kept, no_response, past
from serve_app.api.incoming import asked, known, there
from serve_app.api.listing import listed, soon
from serve_app.api.replay import position_asked, replay
from serve_app.api.responding import Job, answer
from serve_app.api.resumable import Resumable
from serve_app.api.wire.responses import Asked, ItemPage, ResponseRequest
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Json

router = APIRouter()


@router.post("/v1/responses", response_model=None)
async def create(request: Request) -> Response:
    """A response: whole, as a stream, or in the background."""
    call = await receive(request)
    wanted = read(ResponseRequest, call.body, call.context.limits)
    job = await _job(call, wanted)
    enduring = _enduring(request)
    if wanted.background and wanted.stream:
        return enduring.stream(job)
    if wanted.background:
        await enduring.begin(job)
        return JSONResponse(await _get(call.context, call.tenant, job.response_id))
    made = answer(job)
    return Resumable(made, call, job.response_id) if wanted.store and wanted.stream else made


@router.get("/v1/responses/{response_id}")
async def get_response(request: Request, response_id: str) -> Response:
    """The response as it is now; with ``stream=true`` its events, from the beginning or after ``starting_after``."""
    context, tenant = context_of(request), tenant_of(request).id
    response = await _get(context, tenant, _known(response_id))
    if (after := position_asked(request)) is not None:
        return await replay(context, tenant, response_id, after)
    return JSONResponse(response)


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Forgets it. What goes on from it stays as it is; if it is still being made, it is stopped."""
    context, tenant = context_of(request), tenant_of(request).id
    if not await soon(context.store.responses.delete(tenant, _known(response_id)), context.limits):
        raise no_response()
    _enduring(request).stop(tenant, response_id)
    await soon(context.store.streams.drop(tenant, response_id), context.limits)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """Stops a response in the background; one that has ended stays as it is."""
    context, tenant = context_of(request), tenant_of(request).id
    cancelled = context.store.responses.cancel(tenant, _known(response_id))
    response = there(await soon(cancelled, context.limits), no_response())
    if not response["background"]:
        text = "Only responses created with `background` set to true can be cancelled."
        raise RequestError(FailureCode.INVALID_REQUEST, text)
    _enduring(request).stop(tenant, response_id)
    return JSONResponse(response)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, response_id: str) -> Response:
    """A page of everything the model was given, what came before the request included."""
    context = context_of(request)
    query = asked(request, ItemPage).query
    found = context.store.responses.input_items(tenant_of(request).id, _known(response_id), query)
    page = there(await soon(found, context.limits), no_response())
    return listed(page.data, page.has_more)


async def _job(call: Call, wanted: ResponseRequest) -> Job:
    needs_input(wanted)
    history = await past(call.context, call.tenant, wanted)
    items = await kept(call.context, call.tenant, wanted.input, history.items)
    return Job(call, wanted, history, items, f"resp_{call.id}", int(call.started_s))


def needs_input(wanted: Asked) -> None:
    """``RequestError`` for a request that gives the model nothing."""
    if not wanted.input and wanted.previous_response_id is None and wanted.conversation is None:
        code = "missing_required_parameter"
        raise RequestError(FailureCode.INVALID_REQUEST, "Missing required parameter: 'input'.", "input", code)


async def _get(context: Context, tenant: str, response_id: str) -> Json:
    return there(await soon(context.store.responses.get(tenant, response_id), context.limits), no_response())


def _known(response_id: str) -> str:
    return known(response_id, no_response())


def _enduring(request: Request) -> Enduring:
    return cast(Enduring, request.app.state.enduring)
