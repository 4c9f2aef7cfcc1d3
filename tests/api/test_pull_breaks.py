"""Pulls that are broken off, shared, or not listened to."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest

from tests.api.pulling import (
    BIG,
    Slow,
    carrier_of,
    is_clean,
    left,
    nothing_stays,
    partials,
    pull,
    slow,
)
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE
from tests.registry.registries import (
    Liar,
    Registry,
    put_image,
    sha256,
)

__all__ = ["nothing_stays", "slow"]

pytestmark = pytest.mark.root


def test_a_client_that_goes_away_ends_the_pull_and_the_next_goes_on(
    daemon: Daemon, liar: Liar, slow: Slow
) -> None:
    before = left(daemon)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    sock.sendall(
        f"POST /images/create?fromImage={liar.address}/a&tag=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    assert slow.half.wait(60)
    daemon.wait_for(lambda: sum(partials(daemon)) >= len(BIG) // 2)
    daemon.wait_for(lambda: os.listdir(daemon.data_root / "overlay2/staging"))
    sock.close()
    daemon.wait_for(lambda: is_clean(daemon, before))
    kept = len(BIG) // 2
    assert partials(daemon) == [kept]
    assert kept == len(BIG) // 2
    slow.truthful()
    status, messages = pull(daemon, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)
    path = f"/v2/a/blobs/{sha256(BIG)}"
    assert [fields.get("range") for fields in liar.requests("GET", path)] == [
        None,
        f"bytes={kept}-",
    ]
    assert partials(daemon) == []


def test_two_pulls_of_one_layer_share_its_download(daemon: Daemon, liar: Liar, slow: Slow) -> None:
    results: list[tuple[int, list[Any]]] = []
    threads = [
        threading.Thread(target=lambda: results.append(pull(daemon, f"{liar.address}/a", "1")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert slow.half.wait(60)
    daemon.wait_for(lambda: len(liar.requests("GET", "/v2/a/manifests/1")) == 3)
    time.sleep(0.2)  # the last of them is about to join
    slow.go.set()
    for thread in threads:
        thread.join(60)
    assert [status for status, _ in results] == [200] * 3
    assert all("error" not in messages[-1] for _, messages in results)
    assert len(liar.requests("GET", f"/v2/a/blobs/{sha256(BIG)}")) == 1


def test_one_of_two_going_away_does_not_hurt_the_other(
    daemon: Daemon, liar: Liar, slow: Slow
) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    sock.sendall(
        f"POST /images/create?fromImage={liar.address}/a&tag=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    assert slow.half.wait(60)
    results: list[tuple[int, list[Any]]] = []
    other = threading.Thread(target=lambda: results.append(pull(daemon, f"{liar.address}/a", "1")))
    other.start()
    daemon.wait_for(lambda: len(liar.requests("GET", "/v2/a/manifests/1")) == 2)
    time.sleep(0.2)
    sock.close()
    time.sleep(0.2)
    slow.go.set()
    other.join(60)
    ((status, messages),) = results
    assert (status, messages[-1].get("error")) == (200, None)
    assert len(liar.requests("GET", f"/v2/a/blobs/{sha256(BIG)}")) == 1


def test_a_carrier_that_is_killed_is_said_and_replaced(
    daemon: Daemon, liar: Liar, slow: Slow
) -> None:
    before = left(daemon)
    results: list[tuple[int, list[Any]]] = []
    thread = threading.Thread(target=lambda: results.append(pull(daemon, f"{liar.address}/a", "1")))
    thread.start()
    assert slow.half.wait(60)
    killed = carrier_of(daemon)
    os.kill(killed, signal.SIGKILL)
    thread.join(60)
    ((_, messages),) = results
    assert "the process that moves images over the network ended" in messages[-1]["error"]
    daemon.wait_for(lambda: is_clean(daemon, before))
    slow.truthful()
    status, messages = pull(daemon, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)
    assert carrier_of(daemon) != killed


def test_what_a_client_does_not_read_does_not_pile_up(daemon: Daemon, registry: Registry) -> None:
    put_image(registry, "pull/unread", "1", [BASE, BIG])
    sock = socket.socket(socket.AF_UNIX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(daemon.socket)
    target = f"/images/create?fromImage={registry.address}/pull/unread&tag=1"
    sock.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    name = f"{registry.address}/pull/unread:1"
    daemon.wait_for(lambda: daemon.get(f"/images/{name}/json").status == 200, 20)
    response = http.client.HTTPResponse(sock)
    response.begin()
    assert b"Downloaded newer image" in response.read()
    sock.close()
