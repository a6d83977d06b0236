"""Requests by the hundred, fitting OpenAI's specification and not: no route answers 5xx, all refuse in the envelope."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from tests.api.contract import SPEC
from tests.api.everything import MODEL, served
from tests.api.spec import served as specification

pytestmark = [
    pytest.mark.skipif(not SPEC.exists(), reason=f"OpenAI's specification is not at {SPEC}"),
    pytest.mark.timeout(300),
]

EXAMPLES = 5
"""Of each route, in either mode. Always the same: what failed once fails again."""

MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
PUBLIC = ("/health", "/ready")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    with served(tmp_path_factory.mktemp("fuzz")) as (url, gate):
        yield url, schemathesis.openapi.from_dict(specification(gate.app))


def cases(operation: Any, mode: schemathesis.GenerationMode) -> list[Any]:
    """The same ones each time; none where the specification leaves nothing to get wrong."""
    drawn: list[Any] = []

    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def draw(case: Any) -> None:
        drawn.append(case)

    try:
        draw()
    except Unsatisfiable:
        return []
    return drawn


def complaint(answer: schemathesis.Response) -> str | None:
    """What is wrong with an answer, whatever it was an answer to."""
    if answer.status_code >= 500:
        return f"status {answer.status_code}"
    if answer.status_code < 400:
        return None
    if answer.headers["content-type"] != ["application/json"]:
        return f"refused in {answer.headers['content-type']}"
    body = answer.json()
    error = body.get("error")
    if isinstance(error, dict):
        known = {"message", "type", "param", "code"} if "type" not in body else {"message", "type"}
        return None if set(error) == known and isinstance(error["message"], str) else f"envelope {body}"
    return None if isinstance(error, str) else f"no envelope: {body}"


def test_no_route_answers_5xx_and_every_refusal_has_the_envelope(house: tuple[str, Any]) -> None:
    url, schema = house
    chance = random.Random(1)
    complaints, asked, statuses = [], set(), set()
    with requests.Session() as session:
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.path in PUBLIC:
                continue
            for case in [case for mode in MODES for case in cases(operation, mode)]:
                if isinstance(case.body, dict) and "model" in case.body and chance.random() < 0.7:
                    case.body["model"] = MODEL  # so that it is not refused for its model alone
                answer = case.call(base_url=url, session=session, timeout=30)
                asked.add(operation.label)
                statuses.add(answer.status_code)
                if wrong := complaint(answer):
                    complaints.append(f"{operation.label}: {wrong}: {str(case.body)[:300]} {case.query}")
    assert not complaints, "\n".join(complaints[:20])
    assert {200, 400, 404} <= statuses
    assert "POST /v1/chat/completions" in asked
