"""An S3 server in memory, behind a proxy that fails requests on purpose.

with FaultyStorage() as storage:  # storage.environment is what a process needs to reach it
    storage.fail("503", method="PUT", key="shards/", times=2)
"""

import contextlib
import http.client
import logging
import os
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from unittest.mock import patch

import fsspec

FAULTS = ("500", "503", "reset", "cut", "lost", "short")
"""What can be done to a request: an answer with that status; the connection is reset unanswered; it
is reset in the middle of the upload; the request is carried out and its answer lost; the answer ends
in the middle.
"""
_ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
}
_HOP = frozenset({"connection", "expect", "keep-alive", "transfer-encoding"})
BUCKET = "bucket"


@dataclass(frozen=True)
class Request:
    """One that arrived, and what was done to it."""

    method: str
    target: str
    fault: str | None


@dataclass
class _Rule:
    fault: str
    method: str
    key: str
    times: float
    share: float

    def holds(self, method: str, target: str, draw: float) -> bool:
        fits = self.method in ("", method) and re.search(self.key, target)
        return bool(fits) and self.times > 0 and draw < self.share


@dataclass
class FaultyStorage:
    """moto's server and the proxy before it; ``requests`` are those that arrived.

    Args:
        tries: of a client's own library, before vila2data hears of an error.
        seed: of the draws of faults with a share.
    """

    tries: int = 1
    seed: int = 0
    requests: list[Request] = field(default_factory=list)
    _rules: list[_Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    is_down: bool = False

    def __enter__(self) -> Self:
        from moto.server import ThreadedMotoServer

        self._random = random.Random(self.seed)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        self.upstream = self._moto.get_host_and_port()
        self._proxy = _Proxy(("127.0.0.1", 0), _Handler)
        self._proxy.storage = self
        threading.Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True).start()
        self.direct("POST", "/moto-api/reset")  # of another one in this process
        self.direct("PUT", f"/{BUCKET}")
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What leads fsspec here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._proxy.server_port}",
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": str(self.tries),
        }

    @contextlib.contextmanager
    def reached(self, more: Mapping[str, str] | None = None) -> Iterator[Self]:
        """This process, and those that it starts, reach the storage."""
        systems = fsspec.get_filesystem_class("s3")
        systems.clear_instance_cache()  # of another such storage
        with patch.dict(os.environ, self.environment | dict(more or {})):
            yield self
        systems.clear_instance_cache()

    def url(self, name: str) -> str:
        """Of a folder in it."""
        return f"s3://{BUCKET}/{name}"

    def fail(
        self,
        fault: str,
        *,
        method: str = "",
        key: str = "",
        times: float = float("inf"),
        share: float = 1.0,
    ) -> None:
        """Fails requests from now on.

        Args:
            fault: one of ``FAULTS``.
            method: of HTTP; all where empty.
            key: found in the target, a regular expression.
            times: at most.
            share: of those that it holds for.
        """
        with self._lock:
            self._rules.append(_Rule(fault, method, key, times, share))

    def heal(self) -> None:
        """Fails nothing more."""
        with self._lock:
            self._rules.clear()
            self.is_down = False

    def faults(self) -> list[Request]:
        """Requests that were failed."""
        return [request for request in self.requests if request.fault]

    def keys(self, prefix: str) -> list[str]:
        """What is stored, asked without the proxy."""
        _, _, body = self.direct("GET", f"/{BUCKET}?list-type=2&prefix={prefix}")
        return re.findall(r"<Key>([^<]*)</Key>", body.decode())

    def decide(self, method: str, target: str) -> str | None:
        """The fault of a request that arrived."""
        with self._lock:
            draw = self._random.random()
            rule = next((r for r in self._rules if r.holds(method, target, draw)), None)
            if rule is not None:
                rule.times -= 1
            fault = "reset" if self.is_down else rule.fault if rule else None
            self.requests.append(Request(method, target, fault))
            return fault

    def direct(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body of a request without the proxy."""
        connection = http.client.HTTPConnection(*self.upstream, timeout=30)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers or [("Host", "127.0.0.1"), ("Content-Length", "0")]:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    storage: FaultyStorage

    def handle_error(self, *_: Any) -> None:
        """Clients that are killed, and connections that were cut, are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        storage = self.server.storage
        fault = storage.decide(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "reset":
            self._reset()
            return
        body = self.rfile.read(length // 2 if fault == "cut" else length)
        if fault == "cut":
            self._reset()
        elif fault in _ERRORS:
            self._refuse(*_ERRORS[fault])
        else:
            self._pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        headers = [(k, v) for k, v in self.headers.items() if k.lower() not in _HOP]
        status, told, answer = self.server.storage.direct(self.command, self.path, body, headers)
        if fault == "lost":
            self._reset()
            return
        self.send_response_only(status)
        for name, value in told:
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        length = dict(told).get("Content-Length", "0") if self.command == "HEAD" else len(answer)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2] if fault == "short" else answer)
        if fault == "short":
            self.wfile.flush()
            self._reset()

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()
