"""Origins and hosts: pages of other sites and foreign names of the server are refused; programs pass."""

import pytest

from dianjing.demo.api.auth import AccessControl

BODY = {"prompt": "cat"}
IMAGES = "/v1/images/generations"
HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "draw.example.com"})
ALLOWED_ORIGIN = "https://draw.example.com"


@pytest.fixture
def local_client(make_client, counting):
    """A client of a server that only this machine reaches."""
    client = make_client(counting, access=AccessControl(hosts=HOSTS, origins=(ALLOWED_ORIGIN,)))
    client.headers["host"] = "127.0.0.1:7860"
    return client


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:7861", "http://localhost:7860"])
def test_a_page_of_another_site_is_refused_before_anything_runs(local_client, counting, origin):
    response = local_client.post(IMAGES, json=BODY, headers={"Origin": origin})
    assert response.status_code == 403
    assert origin in response.json()["error"]["message"]
    assert counting.started_prompts == []


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:7860", ALLOWED_ORIGIN])
def test_programs_the_own_page_and_allowed_sites_pass(local_client, counting, origin):
    response = local_client.post(IMAGES, json=BODY, headers={} if origin is None else {"Origin": origin})
    assert response.status_code == 200
    assert response.headers.get("access-control-allow-origin") == (ALLOWED_ORIGIN if origin == ALLOWED_ORIGIN else None)


def test_a_preflight_request_passes_for_allowed_sites_only(local_client):
    headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert local_client.options(IMAGES, headers={**headers, "Origin": ALLOWED_ORIGIN}).status_code == 200
    assert local_client.options(IMAGES, headers={**headers, "Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "[::1", ""])
def test_a_foreign_host_is_refused(local_client, counting, host):
    """DNS rebinding makes Host and Origin agree."""
    response = local_client.post(IMAGES, json=BODY, headers={"Host": host, "Origin": f"http://{host}"})
    assert response.status_code == 403
    assert local_client.get("/healthz", headers={"Host": host}).status_code == 403
    assert counting.started_prompts == []


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "draw.example.com"])
def test_hosts_of_this_machine_and_of_allowed_sites_pass(local_client, host):
    assert local_client.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_public_server_accepts_any_host_and_its_own_origin_only(make_client, counting):
    client = make_client(counting)
    own = {"Host": "lan.example:7860", "Origin": "http://lan.example:7860"}
    assert client.post(IMAGES, json=BODY, headers=own).status_code == 200
    assert client.post(IMAGES, json=BODY, headers={**own, "Origin": "https://evil.example"}).status_code == 403


def test_refusals_are_in_the_callers_language(local_client):
    chinese = {"Accept-Language": "zh-CN"}
    foreign = local_client.post(IMAGES, json=BODY, headers={**chinese, "Origin": "https://evil.example"})
    assert foreign.json()["error"]["message"].startswith("此服务器不接受来自 https://evil.example 的网页的请求")
    rebound = local_client.get("/healthz", headers={**chinese, "Host": "evil.example"})
    assert rebound.json()["error"]["message"].startswith("此服务器不接受主机名 evil.example")
