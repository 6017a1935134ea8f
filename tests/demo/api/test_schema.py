"""Schemathesis sends requests that the schema allows and others: the status is never 500 or above."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error

from dianjing.demo.api.app import make_api
from dianjing.demo.api.auth import AccessControl
from dianjing.demo.limits import ServerLimits
from dianjing.demo.queue import JobQueue

MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def schema(tiny_engine):
    def count_pixels(request):
        width, height = request.get_size(tiny_engine.capabilities)
        return (
            width
            * height
            * sum(work.num_frames * work.num_steps for work in request.list_work(tiny_engine.capabilities))
        )

    # a low limit, so that accepted requests run quickly
    limits = ServerLimits(max_run_s=128 * 128 * 4, max_queue_length=1000, max_queue_length_per_owner=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_engine, "predict_s", count_pixels)
        queue = JobQueue(tiny_engine, limits)
        yield schemathesis.openapi.from_asgi("/openapi.json", make_api(queue, AccessControl()))
        assert queue.is_alive
        queue.close()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_no_request_breaks_the_server(schema, mode):
    statuses = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case):
            response = case.call()
            statuses.append(response.status_code)
            case.validate_response(response, checks=[not_a_server_error])

        with suppress(Unsatisfiable):  # a route without parameters has no invalid requests
            send()
    assert {400, 404} <= set(statuses)
    assert len(statuses) >= 60
