from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.upstream_server import UpstreamServer


@pytest.fixture
async def server() -> AsyncIterator[UpstreamServer]:
    async with UpstreamServer() as running:
        yield running
