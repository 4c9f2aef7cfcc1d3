"""Those who forge, flood, stall or lie: others are answered all the same."""

from __future__ import annotations

import random
import socket
import struct
import time

import pytest

from sampan.kernel.netns import Inside
from tests.network.resolver.place import (
    SECOND,
    UPSTREAM,
    Place,
    addresses,
    code,
    endpoint,
    question,
    told,
)

pytestmark = pytest.mark.root

WEB = endpoint("web", "10.0.0.2")


def test_no_packet_ends_or_stalls_it(place: Place) -> None:
    place.serve(WEB, servers=[])
    dice = random.Random(53)
    base = question("web", edns=1232)
    with place.socket() as sock:
        for number in range(3000):
            packet = bytearray(base if number % 2 else dice.randbytes(dice.randrange(600)))
            for _ in range(dice.randrange(5)):
                if packet:
                    packet[dice.randrange(len(packet))] = dice.randrange(256)
            sock.send(bytes(packet))
    # A question finds no room while the rest is being read, and is asked again, as libc does.
    for _ in range(10):
        try:
            answer = place.ask("web")
            break
        except TimeoutError:
            continue
    assert addresses(answer) == ["10.0.0.2"]


def test_a_flood_of_one_does_not_keep_another_waiting(place: Place) -> None:
    place.serve(WEB, servers=[])
    namespace, pidfd = place.another()
    place.resolver.serve({"id": "c2", "networks": ["n1"], "servers": []}, namespace, pidfd)
    with place.socket() as flood, place.socket(namespace=namespace) as other:
        flood.setblocking(False)
        for number in range(200):
            for _ in range(50):
                flood.send(question("web"))
            if number % 10 == 0:
                begin = time.monotonic()
                other.send(question("web", ident=number))
                assert other.recv(512)[:2] == number.to_bytes(2, "big")
                assert time.monotonic() - begin < 5


def test_a_forged_reply_of_the_resolver_to_itself_goes_nowhere(place: Place) -> None:
    place.serve(WEB, servers=[])
    query = question("web")
    length = 8 + len(query)
    datagram = struct.pack(">4H", 53, 53, length, 0) + query
    with Inside(place.container):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        address = socket.inet_aton("127.0.0.11")
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, 17, 0)
        raw.sendto(head + address * 2 + datagram, ("127.0.0.11", 0))
    assert addresses(place.ask("web")) == ["10.0.0.2"]


def test_connections_are_few_and_who_sends_no_query_is_left(place: Place) -> None:
    place.serve(WEB, servers=[])
    held = [place.socket(socket.SOCK_STREAM) for _ in range(60)]
    for one in held[:30]:
        one.send(b"\0")
    assert addresses(place.ask_tcp(question("web"))) == ["10.0.0.2"]
    assert held[0].recv(1) == b""  # it made room
    for bad in (b"\xff\xff", b"\0\0", b"\0\x0c" + bytes(2) + b"\x80" + bytes(9)):
        with place.socket(socket.SOCK_STREAM) as sock:
            sock.send(bad)
            assert sock.recv(1) == b""
    for one in held:
        one.close()


def test_who_does_not_read_its_answers_ends_alone(place: Place) -> None:
    place.serve(*(endpoint("many", f"10.0.1.{number}") for number in range(1, 200)))
    query = question("many")
    with place.socket(socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            while True:
                sock.sendall((struct.pack(">H", len(query)) + query) * 20)
    assert len(addresses(place.ask_tcp(query))) == 199


def test_a_server_that_lies_is_not_believed(place: Place) -> None:
    def lies(packet: bytes) -> list[bytes]:
        lie, truth = told("192.0.2.66"), told("192.0.2.1")
        return [
            lie(bytes((packet[0] ^ 1,)) + packet[1:]),
            lie(packet.replace(b"example", b"elpmaxe")),
            lie(packet)[:20],
            b"",
            packet,
            truth(packet),
        ]

    place.upstream(UPSTREAM, lies)
    place.serve()
    assert addresses(place.ask("one.example")) == ["192.0.2.1"]


def test_a_server_that_asks_us_what_we_ask_it_comes_to_an_end(place: Place) -> None:
    seen = []

    def loop(packet: bytes) -> bytes | None:
        seen.append(packet)
        with place.socket() as sock:
            sock.send(packet)
            return sock.recv(512)

    place.upstream(UPSTREAM, loop)
    place.resolv_conf.write_text(f"nameserver {UPSTREAM}\n")
    place.serve(WEB)
    assert code(place.ask("round.and.round")) == 2
    assert len(seen) == 1
    assert addresses(place.ask("web")) == ["10.0.0.2"]


def test_questions_under_way_are_bounded_for_each_client(place: Place) -> None:
    place.upstream(UPSTREAM, lambda _: None)
    place.serve(WEB)
    namespace, pidfd = place.another()
    place.upstream(SECOND, told(), namespace)
    place.resolver.serve({"id": "c2", "networks": [], "servers": [SECOND]}, namespace, pidfd)
    with place.socket() as sock:
        for number in range(300):
            sock.send(question(f"{number}.example", ident=number))
        refused = [sock.recv(512) for _ in range(300 - 256)]
        assert {code(one) for one in refused} == {2}
    with place.socket(namespace=namespace) as sock:
        sock.send(question("quick.example"))
        assert code(sock.recv(512)) == 0
