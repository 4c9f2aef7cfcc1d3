"""A stack of Debian's own programs: nginx, an application in Python, Redis, found by name.

``web`` serves a page and hands ``/visits`` to ``app``, which counts in ``store``. Whoever asks
``web`` is one more visit, so what a load generator says it was answered must be in the store. The
programs are the machine's: in the ``host`` image, or mounted into one that has none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["COMMANDS", "PORTS", "bodies", "requests", "write"]

APP = """\
import http.server
import redis

store = redis.Redis("store")

class Visits(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = b"visit %d\\n" % store.incr("visits")
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("", 8000), Visits).serve_forever()
"""
# The name is asked for as requests come, not once at the beginning.
NGINX = """\
user root;
daemon off;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    resolver 127.0.0.11 valid=1s ipv6=off;
    server {
        listen 80;
        location / { root /stack; }
        location /visits { set $app http://app:8000; proxy_pass $app; }
    }
}
"""
COMMANDS = {
    "store": ["redis-server", "--save", "", "--protected-mode", "no", "--bind", "0.0.0.0"],
    "app": ["/usr/bin/python3", "/stack/app.py"],
    "web": ["nginx", "-c", "/stack/nginx.conf"],
}
PORTS = {"store": {"6379": "6379"}, "web": {"80": "8080"}}
"""The containers' -> the machine's."""


def write(directory: Path) -> None:
    """What is to be at ``/stack`` of each container."""
    (directory / "app.py").write_text(APP)
    (directory / "nginx.conf").write_text(NGINX)
    (directory / "index.html").write_text("<p>A page</p>\n" * 40)


def bodies(image: str, network: str, binds: list[str], **host: Any) -> dict[str, dict[str, Any]]:
    """Name -> the body of ``POST /containers/create``, in the order of their starts."""
    return {
        name: {
            "Image": image,
            "Cmd": command,
            "ExposedPorts": {f"{inside}/tcp": {} for inside in PORTS.get(name, ())},
            "HostConfig": {
                "NetworkMode": network,
                "Binds": binds,
                "PortBindings": {
                    f"{inside}/tcp": [{"HostPort": outside}]
                    for inside, outside in PORTS.get(name, {}).items()
                },
                **host,
            },
        }
        for name, command in COMMANDS.items()
    }


def requests(report: str) -> int:
    """How many wrk(1) had answered, all of them well. Raises ValueError with its report if not."""
    found = re.search(r"(\d+) requests in", report)
    if found is None or "Non-2xx" in report or "Socket errors" in report:
        raise ValueError(report)
    return int(found[1])
