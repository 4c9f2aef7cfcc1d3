"""The carrier by itself: mirrors, certificates, proxies, limits, and its own end."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from sampan.errors import InvalidArgument, NotFound, SampanError, Unavailable
from sampan.registry.carrier import handle, messages
from sampan.registry.carrier.handle import Carriers
from sampan.registry.client.proxies import Proxies
from sampan.registry.policy import Policy
from sampan.registry.types import Credentials
from tests.image.archives import BASE, ONE
from tests.registry.registries import (
    PASSWORD,
    USER,
    Authority,
    Liar,
    Registry,
    image_of,
    put_image,
    sha256,
)

T = TypeVar("T")
ADDRESS = "192.0.2.77"
"""Of this machine for these tests: what is loopback is trusted more."""


def carried(place: Path, work: Callable[[Carriers], Awaitable[T]]) -> T:
    """Run something with a carrier, and see it end."""

    async def main() -> T:
        carriers = Carriers(str(place))
        try:
            return await work(carriers)
        finally:
            await carriers.close()

    return asyncio.run(main())


def resolve(
    place: Path,
    domain: str,
    path: str,
    policy: Policy,
    credentials: Credentials | None = None,
) -> messages.Resolved:
    where = messages.Where(domain, path, credentials or Credentials(), policy)
    request = messages.Resolve(number=0, where=where, reference="1", architecture="amd64")
    return carried(place, lambda carriers: carriers.ask(request, messages.Resolved))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """An address of this machine that is not loopback's."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    yield ADDRESS
    subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo"], check=True)


def held(liar: Liar, path: str) -> str:
    manifest, blobs = image_of([BASE, ONE])
    liar.hold(path, "1", manifest, blobs)
    return sha256(manifest)


# -- mirrors -------------------------------------------------------------------------------------


def test_a_mirror_is_asked_before_docker_hub(tmp_path: Path, liar: Liar) -> None:
    digest = held(liar, "library/x")
    policy = Policy(mirrors=(f"http://{liar.address}/",), certs=())
    credentials = Credentials("hub-user", "hub-password")
    found = resolve(tmp_path, "docker.io", "library/x", policy, credentials)
    assert found.top.digest == digest
    assert all("authorization" not in fields for _, _, fields in liar.asked)


@pytest.mark.parametrize("trouble", ["404", "500", "garbage", "gone"])
def test_a_mirror_that_fails_is_passed_over(tmp_path: Path, liar: Liar, trouble: str) -> None:
    digest = held(liar, "library/x")
    other = Liar()
    path = "/v2/library/x/manifests/1"
    if trouble == "garbage":
        other.held[path] = "x", b"garbage"
    elif trouble == "500":
        other.paths["GET", path] = lambda request: request.answer(500)
    elif trouble == "gone":
        other.close()
    policy = Policy(mirrors=(f"http://{other.address}/", f"http://{liar.address}/"), certs=())
    assert resolve(tmp_path, "docker.io", "library/x", policy).top.digest == digest
    if trouble != "gone":
        other.close()


def test_a_layer_a_mirror_has_not_comes_from_the_next(tmp_path: Path, liar: Liar) -> None:
    held(liar, "library/x")
    other = Liar()
    policy = Policy(mirrors=(f"http://{other.address}/", f"http://{liar.address}/"), certs=())
    where = messages.Where("docker.io", "library/x", Credentials(), policy)
    request = messages.Fetch(number=0, where=where, digest=sha256(BASE), size=len(BASE))
    carried(tmp_path, lambda carriers: carriers.ask(request, messages.Fetched))
    assert (tmp_path / "blobs/sha256" / sha256(BASE)[7:]).read_bytes() == BASE
    assert other.requests("GET", f"/v2/library/x/blobs/{sha256(BASE)}")
    other.close()


# -- certificates --------------------------------------------------------------------------------


@pytest.mark.root
def test_certificates_are_verified_by_the_host_s_own_authority(
    tmp_path: Path, address: str, authority: Authority
) -> None:
    registry = Registry(tmp_path, tls=authority.issue("server", address), address=address)
    try:
        host = f"{address}:{registry.port}"
        with pytest.raises(SampanError, match="tls: failed to verify certificate"):
            resolve(tmp_path, host, "x", Policy(certs=()))
        certs = tmp_path / "certs.d" / host
        certs.mkdir(parents=True)
        (certs / "ca.crt").write_bytes(authority.certificate.read_bytes())
        trusting = Policy(certs=(str(tmp_path / "certs.d"),))
        with pytest.raises(NotFound, match="manifest unknown"):
            resolve(tmp_path, host, "x", trusting)
        with pytest.raises(NotFound, match="manifest unknown"):
            resolve(tmp_path, host, "x", Policy(certs=(), insecure=(host,)))
        with pytest.raises(NotFound, match="manifest unknown"):
            resolve(tmp_path, host, "x", Policy(certs=(), insecure=("192.0.2.0/24",)))
        (certs / "bad.crt").write_text("no certificate")
        with pytest.raises(InvalidArgument, match=r"bad\.crt: not a certificate"):
            resolve(tmp_path, host, "x", trusting)
    finally:
        registry.close()


@pytest.mark.root
def test_a_certificate_for_another_name_is_refused(
    tmp_path: Path, address: str, authority: Authority
) -> None:
    registry = Registry(tmp_path, tls=authority.issue("elsewhere"), address=address)
    try:
        host = f"{address}:{registry.port}"
        certs = tmp_path / "certs.d" / host
        certs.mkdir(parents=True)
        (certs / "ca.crt").write_bytes(authority.certificate.read_bytes())
        with pytest.raises(SampanError, match="failed to verify certificate"):
            resolve(tmp_path, host, "x", Policy(certs=(str(tmp_path / "certs.d"),)))
    finally:
        registry.close()


@pytest.mark.root
def test_a_client_s_certificate_is_shown(
    tmp_path: Path, address: str, authority: Authority
) -> None:
    registry = Registry(
        tmp_path,
        tls=authority.issue("server", address),
        client_ca=authority.certificate,
        address=address,
    )
    try:
        host = f"{address}:{registry.port}"
        certs = tmp_path / "certs.d" / host
        certs.mkdir(parents=True)
        (certs / "ca.crt").write_bytes(authority.certificate.read_bytes())
        policy = Policy(certs=(str(tmp_path / "certs.d"),), attempts=1)
        with pytest.raises(SampanError) as refused:
            resolve(tmp_path, host, "x", policy)
        assert not isinstance(refused.value, NotFound)
        certificate, key = authority.issue("client")
        (certs / "me.cert").write_bytes(certificate.read_bytes())
        with pytest.raises(InvalidArgument, match=r"missing key .*me\.key"):
            resolve(tmp_path, host, "x", policy)
        (certs / "me.key").write_bytes(key.read_bytes())
        with pytest.raises(NotFound, match="manifest unknown"):
            resolve(tmp_path, host, "x", policy)
    finally:
        registry.close()


@pytest.mark.root
def test_plain_http_is_for_insecure_registries_only(
    tmp_path: Path, address: str, liar: Liar
) -> None:
    open_ = Registry(tmp_path, address=address)
    try:
        host = f"{address}:{open_.port}"
        with pytest.raises(SampanError, match="server gave HTTP response to HTTPS client"):
            resolve(tmp_path, host, "x", Policy(certs=()))
        with pytest.raises(NotFound, match="manifest unknown"):
            resolve(tmp_path, host, "x", Policy(certs=(), insecure=(address,)))
    finally:
        open_.close()


@pytest.mark.root
def test_a_password_is_not_sent_in_the_clear_where_a_secure_registry_says_so(
    tmp_path: Path, address: str, authority: Authority
) -> None:
    secure = Liar(authority.issue("server", address), address=address)
    try:
        certs = tmp_path / "certs.d" / secure.address
        certs.mkdir(parents=True)
        (certs / "ca.crt").write_bytes(authority.certificate.read_bytes())
        realm = f'Bearer realm="http://{address}:1/token"'
        secure.paths["GET", "/v2/x/manifests/1"] = lambda request: request.answer(
            401, b"", WWW_Authenticate=realm
        )
        policy = Policy(certs=(str(tmp_path / "certs.d"),))
        with pytest.raises(NotFound, match="in the clear: refused"):
            resolve(tmp_path, secure.address, "x", policy, Credentials(USER, PASSWORD))
    finally:
        secure.close()


# -- proxies -------------------------------------------------------------------------------------


class Proxy:
    """Forwards CONNECT and absolute requests to where a test says; remembers what it was asked."""

    def __init__(self, target: int) -> None:
        self.asked: list[bytes] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(65536)
            if not more:
                return
            head += more
        self.asked.append(head)
        upstream = socket.create_connection(("127.0.0.1", self._target))
        if head.startswith(b"CONNECT"):
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            line, rest = head.split(b"\r\n", 1)
            method, address, version = line.split(b" ")
            path = b"/" + address.split(b"/", 3)[3]
            # One request a connection: the next one has to be rewritten too.
            first = b"%b %b %b\r\nConnection: close\r\n" % (method, path, version)
            upstream.sendall(first + rest)
        threading.Thread(target=_pump, args=(upstream, sock), daemon=True).start()
        _pump(sock, upstream)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_https_goes_through_a_proxy_s_tunnel(tmp_path: Path, authority: Authority) -> None:
    secure = Liar(authority.issue("tunnelled", "registry.test"))
    digest = held(secure, "x")
    proxy = Proxy(secure.port)
    try:
        certs = tmp_path / "certs.d" / "registry.test"
        certs.mkdir(parents=True)
        (certs / "ca.crt").write_bytes(authority.certificate.read_bytes())
        policy = Policy(
            certs=(str(tmp_path / "certs.d"),),
            proxies=Proxies(https=f"http://me:s%20t@{proxy.address}"),
        )
        assert resolve(tmp_path, "registry.test", "x", policy).top.digest == digest
        assert proxy.asked[0].startswith(b"CONNECT registry.test:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6cyB0\r\n" in proxy.asked[0]
    finally:
        proxy.close()
        secure.close()


def test_http_goes_through_a_proxy_as_it_is(tmp_path: Path, liar: Liar) -> None:
    digest = held(liar, "x")
    proxy = Proxy(liar.port)
    try:
        policy = Policy(
            certs=(),
            insecure=("registry.test",),
            proxies=Proxies(http=f"http://{proxy.address}", https="http://127.0.0.1:9"),
        )
        assert resolve(tmp_path, "registry.test", "x", policy).top.digest == digest
        assert proxy.asked[0].startswith(b"GET http://registry.test/v2/x/manifests/1 HTTP/1.1\r\n")
    finally:
        proxy.close()


# -- the process ---------------------------------------------------------------------------------


def test_no_more_downloads_at_once_than_allowed(tmp_path: Path, liar: Liar) -> None:
    blobs = [os.urandom(1000) for _ in range(8)]
    now, most = 0, 0
    lock = threading.Lock()
    both = threading.Event()

    def answer(data: bytes) -> Callable[[object], None]:
        def slowly(request: object) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
                if now == 2:
                    both.set()
            assert both.wait(60)
            threading.Event().wait(0.05)  # for a third, which must not come
            with lock:
                now -= 1
            request.answer(200, data)  # type: ignore[attr-defined]

        return slowly

    for data in blobs:
        liar.paths["GET", f"/v2/x/blobs/{sha256(data)}"] = answer(data)

    async def work(carriers: Carriers) -> None:
        where = messages.Where(liar.address, "x", Credentials(), Policy(certs=(), downloads=2))
        async with asyncio.TaskGroup() as group:
            for data in blobs:
                request = messages.Fetch(number=0, where=where, digest=sha256(data), size=len(data))
                group.create_task(carriers.ask(request, messages.Fetched))

    carried(tmp_path, work)
    assert most == 2
    assert len(os.listdir(tmp_path / "blobs/sha256")) == 8


def test_it_ends_when_nobody_needs_it_and_another_is_started(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "IDLE_SECONDS", 0.2)
    put_image(registry, "idle", "1", [BASE])
    where = messages.Where(registry.address, "idle", Credentials(), Policy(certs=()))
    request = messages.Resolve(number=0, where=where, reference="1", architecture="amd64")

    def running() -> set[str]:
        path = f"/proc/self/task/{os.getpid()}/children"
        return set(Path(path).read_text().split())

    async def work(carriers: Carriers) -> None:
        before = running()
        await carriers.ask(request, messages.Resolved)
        (first,) = running() - before
        async with asyncio.timeout(60):
            while first in running():
                await asyncio.sleep(0.05)
        await carriers.ask(request, messages.Resolved)
        assert running() - before not in ({first}, set())

    carried(tmp_path, work)


def test_an_answer_that_never_comes_ends_with_the_carrier(tmp_path: Path, liar: Liar) -> None:
    hanging = threading.Event()

    def hang(request: object) -> None:
        hanging.wait(30)

    liar.paths["GET", "/v2/x/manifests/1"] = hang
    where = messages.Where(liar.address, "x", Credentials(), Policy(certs=()))
    request = messages.Resolve(number=0, where=where, reference="1", architecture="amd64")

    async def main() -> None:
        carriers = Carriers(str(tmp_path))
        asking = asyncio.create_task(carriers.ask(request, messages.Resolved))
        while not liar.asked:
            await asyncio.sleep(0.02)
        await carriers.close()
        with pytest.raises(Unavailable):
            await asking

    asyncio.run(main())
    hanging.set()


def test_passwords_are_in_no_argument_and_in_no_message(tmp_path: Path, liar: Liar) -> None:
    seen: list[bytes] = []

    def look(request: object) -> None:
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            seen.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        request.answer(401, b"", WWW_Authenticate='Basic realm="x"')  # type: ignore[attr-defined]

    liar.paths["GET", "/v2/x/manifests/1"] = look
    with pytest.raises(NotFound) as refused:
        resolve(tmp_path, liar.address, "x", Policy(certs=()), Credentials(USER, PASSWORD))
    assert PASSWORD not in refused.value.message
    assert PASSWORD not in repr(Credentials(USER, PASSWORD))
    assert seen and not any(PASSWORD.encode() in line for line in seen)
