"""The process: TLS and its renewal, read-only, health, metrics, the access log, and its end."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.registries import Authority, sha256
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import Answer, House

DATA = os.urandom(2_000_000)


@pytest.fixture
def secure(root: Path, authority: Authority) -> Iterator[tuple[House, Authority]]:
    place = root.parent
    certificate, key = authority.issue("first")
    shutil.copy(certificate, place / "cert")
    shutil.copy(key, place / "key")
    htpasswd(place / "accounts", anna="secret")
    options = ("--tls-cert", f"{place}/cert", "--tls-key", f"{place}/key")
    house = House(root, *options, "--htpasswd", f"{place}/accounts", "--anonymous-pull")
    house.start()
    house.tls = ssl.create_default_context(cafile=str(authority.certificate))
    house.authorization = basic("anna", "secret")
    yield house, authority
    house.close()


def subject(house: House) -> str:
    """Whose certificate is shown."""
    assert house.tls is not None
    with (
        socket.create_connection(("127.0.0.1", house.port), timeout=60) as raw,
        house.tls.wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        return str(dict(pair[0] for pair in sock.getpeercert()["subject"])["commonName"])  # type: ignore[index,misc]


def test_tls_both_ways_and_renewed(secure: tuple[House, Authority]) -> None:
    house, authority = secure
    house.push("tls/box", "v", DATA)
    house.authorization = ""
    answer = house.request("GET", f"/v2/tls/box/blobs/{sha256(DATA)}", Range="bytes=7-")
    assert (answer.status, answer.body) == (206, DATA[7:])
    challenge = house.request("GET", "/v2/").headers["WWW-Authenticate"]
    assert challenge.startswith(f'Bearer realm="https://127.0.0.1:{house.port}/token"')
    assert subject(house) == "first"
    certificate, key = authority.issue("second")
    place = house.root.parent
    shutil.copy(certificate, place / "cert")
    assert house.process is not None
    house.process.send_signal(signal.SIGHUP)  # the key is the old one's
    house.said("certificates and accounts stay as they were")
    assert subject(house) == "first"
    shutil.copy(key, place / "key")
    htpasswd(place / "accounts", ben="new")
    house.process.send_signal(signal.SIGHUP)
    house.said("certificates and accounts reloaded")
    assert subject(house) == "second"
    assert house.request("GET", "/v2/", Authorization=basic("ben", "new")).status == 200
    assert house.request("GET", "/v2/", Authorization=basic("anna", "secret")).status == 401


def test_read_only_health_metrics_and_the_access_log(root: Path) -> None:
    house = House(root).start()
    digest = house.push("ops/box", "v", b"layer")
    assert house.stop() == 0
    house.options = ("--read-only", "--access-log", "--metrics", "127.0.0.1:0")
    house.start()
    try:
        metrics = house.said(r'msg="serving metrics" address=127\.0\.0\.1:(\d+)')[1]
        box = f"/v2/ops/box/manifests/{digest}"
        assert house.request("GET", box).status == 200
        for method, path in (
            ("POST", "/v2/ops/box/blobs/uploads/"),
            ("PUT", "/v2/ops/box/manifests/w"),
            ("DELETE", box),
        ):
            answer = house.request(method, path)
            assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
        assert house.request("GET", "/healthz").body == b"ok\n"
        assert house.request("GET", "/readyz").body == b"ready\n"
        connection = http.client.HTTPConnection("127.0.0.1", int(metrics), timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        counted = 'sampan_registry_requests_total{method="GET",kind="manifests",status="200"} 1'
        assert counted in text
        assert "sampan_registry_blobs 2\n" in text
        assert 'sampan_registry_request_seconds_count{method="GET",kind="manifests"} 1' in text
        line = house.said(rf"msg=request .*path={box} .*")[0]
        assert "client=127.0.0.1" in line
        assert "method=GET" in line
        assert "status=200" in line
    finally:
        house.close()


def test_a_push_under_way_is_finished_before_the_end(root: Path) -> None:
    house = House(root).start()
    try:
        where = house.begin("drain/box")
        digest = sha256(DATA)
        with socket.create_connection(("127.0.0.1", house.port), timeout=60) as sock:
            head = f"PUT {where}?digest={digest} HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Content-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:1000])
            while house.request("GET", where).headers["Range"] != "0-999":
                time.sleep(0.02)
            assert house.process is not None
            house.process.send_signal(signal.SIGTERM)
            house.said("msg=stopping")
            deadline = time.monotonic() + 60
            while True:
                try:
                    house.connect().connect()
                except ConnectionRefusedError:
                    break
                assert time.monotonic() < deadline
            sock.sendall(DATA[1000:])
            response = http.client.HTTPResponse(sock)
            response.begin()
            answer = Answer(response.status, response.headers, response.read())
            assert answer.status == 201
            assert answer.headers["Connection"] == "close"
        assert house.process.wait(60) == 0
        house.start()
        assert house.request("GET", f"/v2/drain/box/blobs/{digest}").body == DATA
    finally:
        house.close()
