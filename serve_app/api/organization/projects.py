"""``/v1/organization/projects``: whose data there is."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of
from serve_app.api.incoming import asked, known, sent
from serve_app.api.listing import listed, soon
from serve_app.api.organization.issuing import missing
from serve_app.api.wire.organization import NewProject, ProjectPaging, ProjectShape, project_json
from serve_app.protocol import Project

router = APIRouter()

_PROJECTS = "/v1/organization/projects"
_WHAT = "project"


@router.post(_PROJECTS)
async def create_project(request: Request) -> Response:
    context, wanted = context_of(request), await sent(request, NewProject)
    project = Project(f"proj_{context.new_id()}", wanted.name, context.clock())
    await soon(context.store.keys.add_project(project), context.limits)
    return JSONResponse(project_json(project))


@router.get(_PROJECTS)
async def list_projects(request: Request) -> Response:
    """A page, oldest first."""
    context, page = context_of(request), asked(request, ProjectPaging)
    archived = page.include_archived == "true"
    found = await soon(context.store.keys.projects(page.after, page.limit, archived), context.limits)
    return listed([project_json(project) for project in found.data], found.has_more)


@router.get(_PROJECTS + "/{project_id}")
async def get_project(request: Request, project_id: str) -> Response:
    context = context_of(request)
    return _found(await soon(context.store.keys.project(known(project_id, missing(_WHAT))), context.limits))


@router.post(_PROJECTS + "/{project_id}")
async def update_project(request: Request, project_id: str) -> Response:
    """Another name."""
    wanted = await sent(request, ProjectShape)
    if wanted.name is None:
        return await get_project(request, project_id)
    context = context_of(request)
    changed = context.store.keys.rename_project(known(project_id, missing(_WHAT)), wanted.name)
    return _found(await soon(changed, context.limits))


@router.post(_PROJECTS + "/{project_id}/archive")
async def archive_project(request: Request, project_id: str) -> Response:
    """Its keys open nothing any more; its data stays."""
    context = context_of(request)
    archived = await soon(context.store.keys.archive_project(known(project_id, missing(_WHAT))), context.limits)
    await context.admission.keys_changed()
    return _found(archived)


def _found(project: Project | None) -> Response:
    if project is None:
        raise missing(_WHAT)
    return JSONResponse(project_json(project))
