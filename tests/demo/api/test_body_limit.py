"""The limit of request bodies by itself: parts that stop arriving, and responses that have begun."""

import asyncio

import pytest

from dianjing.demo.api.body_limit import BodyLimitMiddleware
from dianjing.demo.limits import ServerLimits

LIMITS = ServerLimits(max_body_bytes=100, max_body_items=10, body_timeout_s=0.05)


async def read_and_answer(scope, receive, send):
    size, has_more = 0, True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        size, has_more = size + len(message["body"]), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def run(parts, *, app=read_and_answer, headers=((b"transfer-encoding", b"chunked"),)):
    """The status, headers and body of the response to a body in parts; None: nothing arrives any more."""
    sent, remaining = [], list(parts)

    async def receive():
        part = remaining.pop(0)
        if part is None:
            await asyncio.sleep(100)
        return {"type": "http.request", "body": part, "more_body": bool(remaining)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers), "query_string": b""}
    asyncio.run(BodyLimitMiddleware(app, limits=LIMITS)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def test_a_body_within_the_limits_passes_in_its_parts():
    assert run([b"x" * 60, b"y" * 40])[::2] == (200, b"100")


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ([b"x" * 60, b"y" * 41], 413, b"at most 100 bytes"),
        ([b"[" * 6, b"," * 5], 413, b"more than 10 values"),
        ([b"x", None], 408, b"nothing of the request has arrived"),
    ],
)
def test_a_body_beyond_a_limit_is_refused_and_its_connection_closed(parts, status, words):
    answer, headers, body = run(parts)
    assert answer == status
    assert words in body
    assert headers[b"connection"] == b"close"


def test_a_form_may_hold_any_bytes():
    form = [(b"transfer-encoding", b"chunked"), (b"content-type", b"multipart/form-data; boundary=a")]
    assert run([b",[{" * 30], headers=form)[0] == 200


def test_a_fault_of_the_app_is_not_hidden():
    async def fail(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run([b"x"], app=fail)


def test_an_answer_before_the_body_closes_the_connection():
    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    status, headers, body = run([b"x"], app=answer)
    assert (status, body) == (401, b"no")
    assert headers[b"connection"] == b"close"
    assert b"connection" not in run([b"x"], app=answer, headers=())[1]  # a request without a body
