"""Who is answered: the token, Host and Origin, paths, and requests that no page sends."""

import json
import os
import random
import string
from urllib.parse import quote

import pytest

from medsam_adapt.annotation.access import LARGEST_BODY, addresses_of
from tests.annotation.conftest import TOKEN, changes, painted

FUZZED = int(os.environ.get("MEDSAM_ADAPT_FUZZED_REQUESTS", "300"))
PATHS = ("/", "/api/session", "/api/scans/phantom_000", "/api/scans/phantom_000/label", "/api/scans/phantom_000/image")


@pytest.fixture
def stranger(client):
    """Requests without the token."""
    del client.headers["Authorization"]
    return client


def files_in(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_answered(stranger, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN}x"}):
        reply = stranger.get(path, headers=headers)
        assert reply.status_code == 401
        assert "phantom" not in reply.text
    assert stranger.get(path, params={"token": "wrong"}).status_code == 401
    assert stranger.get(path, params={"token": TOKEN}).status_code == 200


def test_a_change_without_the_token_is_not_made(stranger, session):
    body = changes(painted((36, 40)))
    assert stranger.patch("/api/scans/phantom_000/label", json=body).status_code == 401
    assert session.drawing("phantom_000").version == 0


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://testserver:81", "https://testserver"])
def test_another_page_is_refused_though_it_has_the_token(client, session, origin):
    body = changes(painted((36, 40)))
    reply = client.patch("/api/scans/phantom_000/label", json=body, headers={"Origin": origin})
    assert reply.status_code == 403
    assert session.drawing("phantom_000").version == 0
    own = client.patch("/api/scans/phantom_000/label", json=body, headers={"Origin": "http://testserver"})
    assert own.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", "testserver:81", ""])
def test_another_name_of_the_server_is_refused(client, host):
    assert client.get("/api/session", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "scan", ["..", "../secret", "../../etc/passwd", "/etc/passwd", "phantom_000.nii.gz", "phantom_000/../x", "\0", "é"]
)
def test_no_path_leads_out_of_the_session(client, scans, scan):
    (scans.parent / "secret.nii.gz").write_bytes(b"secret")
    before = files_in(scans.parent)
    for form in (quote(scan, safe=""), quote(scan)):
        for ending in ("", "/label", "/image"):
            assert client.get(f"/api/scans/{form}{ending}").status_code in (401, 404)
        assert client.put(f"/api/scans/{form}/status", json={"labelled": True}).status_code in (404, 405)
    assert files_in(scans.parent) == before


def test_a_body_that_is_too_large_is_refused(client):
    headers = {"Content-Length": str(LARGEST_BODY + 1), "Content-Type": "application/json"}
    assert client.patch("/api/scans/phantom_000/label", content=b"{}", headers=headers).status_code == 413


def test_answers_stay_with_the_page(client):
    headers = client.get("/api/session").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers
    assert client.get("/docs").status_code == 404
    assert client.get("/openapi.json").status_code == 404


def test_addresses_of_a_server():
    hosts, origins = addresses_of("127.0.0.1", 8000, "https://Annotate.example.org/")
    assert hosts == {"127.0.0.1:8000", "localhost:8000", "[::1]:8000", "annotate.example.org"}
    assert "https://annotate.example.org" in origins
    assert "http://localhost:8000" in origins
    assert not any("0.0.0.0" in name for name in addresses_of("0.0.0.0", 8000)[0])


def test_fuzzed_requests_are_refused_and_write_nothing(client, session, scans):
    """Each is wrong in at least one way; MEDSAM_ADAPT_FUZZED_REQUESTS sets how many."""
    rng = random.Random(0)
    before = files_in(scans.parent)
    answers = {}
    for _ in range(FUZZED):
        reply = client.request(**fuzzed(rng))
        answers[reply.status_code] = answers.get(reply.status_code, 0) + 1
        assert 400 <= reply.status_code < 500, reply.text
    assert session.drawing("phantom_000").version == 0
    session.save()
    assert files_in(scans.parent) == before
    assert client.get("/api/session").status_code == 200
    assert len(answers) >= 4, answers


def fuzzed(rng):
    """A request that must be refused."""
    scan = rng.choice(["phantom_000", "..", "%2e%2e", "phantom_000%00", "%ff", noise(rng)])
    endings = ("/label", "/image", "/proposal", "/propagation", "/fill", "/status", "/look", "/" + noise(rng))
    ending = rng.choice(endings)
    body = changes(painted((36, 40)))
    kind = rng.choice(["token", "origin", "host", "body", "body", "body", "path"])
    request = {"method": "PATCH", "url": "/api/scans/phantom_000/label", "headers": {}}
    if kind == "path":
        path = rng.choice([f"/api/scans/{noise(rng)}{ending}", f"/{noise(rng)}", f"/api/{scan}{ending}"])
        return {**request, "method": rng.choice(["GET", "PATCH", "PUT", "POST", "DELETE"]), "url": path, "json": body}
    if kind == "body":
        ending = rng.choice(["/label", "/proposal", "/propagation", "/fill", "/status", "/look"])
        method = {"/label": "PATCH", "/status": "PUT"}.get(ending, "POST")
        content = damaged(rng, body)
        headers = {"Content-Type": rng.choice(["application/json", "text/plain", "multipart/form-data"])}
        url = f"/api/scans/phantom_000{ending}"
        return {"method": method, "url": url, "content": content, "headers": headers}
    headers = {
        "token": {"Authorization": rng.choice(["", "Bearer", f"Bearer {noise(rng)}", f"Basic {TOKEN}"])},
        "origin": {"Origin": rng.choice(["null", f"http://{noise(rng)}", "http://testserver.example"])},
        "host": {"Host": rng.choice(["localhost", noise(rng), "testserver:9"])},
    }[kind]
    return {**request, "json": body, "headers": headers}


def noise(rng):
    letters = string.ascii_letters + string.digits + "._~%"
    return "x" + "".join(rng.choices(letters, k=rng.randrange(1, 30))).replace("%", "%25")


def damaged(rng, body):
    """A body that is no JSON, or one that holds a value or a name that does not belong there."""
    text = json.dumps(body)
    way = rng.randrange(4)
    if way == 0:
        return rng.randbytes(rng.randrange(200))
    if way == 1:
        return text[: rng.randrange(len(text))].encode()
    if way == 2:
        return b"[" * rng.choice([10, 1000, 100_000])
    wrong = rng.choice([None, -1, 1e400, "x" * rng.randrange(1000), [], {}, [[[]]], 2**70, "../../etc/passwd"])
    key = rng.choice([name for name in (*body, "extra") if not (wrong == [] and name == "prompts")])
    return json.dumps({**body, key: wrong}).encode()
