"""Pages of other sites, and names made to lead here, are kept out; programs and the server's own page pass."""

import pytest

from dianjing.demo.api.auth import AccessControl

ASK = {"prompt": "cat"}
PICTURES = "/v1/images/generations"
KNOWN = frozenset({"localhost", "127.0.0.1", "::1", "draw.example.com"})
FRIEND = "https://draw.example.com"


@pytest.fixture
def local(make_client, counting):
    """A server that only this machine reaches."""
    client = make_client(counting, access=AccessControl(hosts=KNOWN, origins=(FRIEND,)))
    client.headers["host"] = "127.0.0.1:7860"
    return client


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:7861", "http://localhost:7860"])
def test_a_page_of_another_site_is_refused_before_anything_is_drawn(local, counting, origin):
    answer = local.post(PICTURES, json=ASK, headers={"Origin": origin})
    assert answer.status_code == 403
    assert origin in answer.json()["error"]["message"]
    assert counting.began == []


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:7860", FRIEND])
def test_programs_the_own_page_and_sites_that_were_allowed_pass(local, counting, origin):
    answer = local.post(PICTURES, json=ASK, headers={} if origin is None else {"Origin": origin})
    assert answer.status_code == 200
    assert answer.headers.get("access-control-allow-origin") == (FRIEND if origin == FRIEND else None)


def test_only_allowed_sites_are_let_in_by_the_question_that_browsers_ask_first(local):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert local.options(PICTURES, headers={**asked, "Origin": FRIEND}).status_code == 200
    assert local.options(PICTURES, headers={**asked, "Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "[::1", ""])
def test_a_name_that_was_made_to_lead_here_is_refused(local, counting, host):
    """DNS rebinding: the page and the server then have one name, so Origin fits."""
    answer = local.post(PICTURES, json=ASK, headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status_code == 403
    assert local.get("/healthz", headers={"Host": host}).status_code == 403
    assert counting.began == []


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "draw.example.com"])
def test_the_names_of_this_machine_and_of_allowed_sites_are_known(local, host):
    assert local.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_server_that_others_reach_is_known_by_any_name_and_still_asked_by_its_own_pages_only(make_client, counting):
    client = make_client(counting)
    own = {"Host": "lan.example:7860", "Origin": "http://lan.example:7860"}
    assert client.post(PICTURES, json=ASK, headers=own).status_code == 200
    assert client.post(PICTURES, json=ASK, headers={**own, "Origin": "https://evil.example"}).status_code == 403


def test_it_is_said_in_the_callers_language(local):
    chinese = {"Accept-Language": "zh-CN"}
    foreign = local.post(PICTURES, json=ASK, headers={**chinese, "Origin": "https://evil.example"})
    assert foreign.json()["error"]["message"].startswith("https://evil.example 的网页不能操作此服务器")
    rebound = local.get("/healthz", headers={**chinese, "Host": "evil.example"})
    assert rebound.json()["error"]["message"].startswith("此服务器没有 evil.example 这个名字")
