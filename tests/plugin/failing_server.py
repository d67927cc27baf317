"""A server of the OpenAI chat protocol that fails as servers fail; a process of its own.

    python server.py PORT LOG PLAN

LOG gets a line of JSON per request. PLAN is JSON: ``faults`` are dealt out to requests by a hash of
the image and seed, each for ``times`` tries; ``always`` gives one fault to every request; ``bad``
gives one to the images with these hashes; ``key`` is the only key let in; ``work_s`` is how long an
answer takes; ``models`` are those that it lists.
"""

import base64
import contextlib
import hashlib
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

WORDS = [
    "a",
    "tiny",
    "picture",
    "of",
    "noise",
    "in",
    "many",
    "colours",
    "with",
    "a",
    "bright",
    "corner",
    "and",
    "dark",
    "dots",
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: ClassVar[dict] = {}
    log = Path()
    lock = threading.Lock()
    tries: ClassVar[Counter] = Counter()
    active = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        fault = self.plan.get("always")
        models = [{"id": name, "object": "model"} for name in self.plan.get("models", [])]
        self.send(503 if fault == "503" else 200, {"object": "list", "data": models})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        cls = type(self)
        with self.lock:
            cls.active += 1
            active = cls.active
        try:
            self.answer(body, active)
        finally:
            with self.lock:
                cls.active -= 1

    def answer(self, body, active):
        parts = {part["type"]: part for part in body["messages"][0]["content"]}
        url = parts["image_url"]["image_url"]["url"]
        image = base64.b64decode(url.partition("base64,")[2], validate=True)
        draw = hashlib.sha256(image + parts["text"]["text"].encode() + str(body["seed"]).encode())
        with self.lock:
            self.tries[draw.hexdigest()] += 1
            number = self.tries[draw.hexdigest()]
        fault = self.fault(image, draw.digest(), number)
        note = {
            "url": url if len(url) < 100_000 else "",
            "sha256": hashlib.sha256(image).hexdigest(),
            "prompt": parts["text"]["text"],
            "key": self.headers.get("authorization"),
            "active": active,
            "fault": fault,
            "at_s": time.monotonic(),
            **{k: v for k, v in body.items() if k != "messages"},
        }
        with self.lock, self.log.open("a") as log:
            log.write(json.dumps(note) + "\n")
        time.sleep(self.plan.get("work_s", 0))
        getattr(self, f"fault_{fault}", self.fault_status)(body, draw.digest(), fault)

    def fault(self, image, draw, number):
        plan = self.plan
        if plan.get("key") and self.headers.get("authorization") != f"Bearer {plan['key']}":
            return "401"
        if plan.get("always"):
            return plan["always"]
        if hashlib.sha256(image).hexdigest() in plan.get("bad", {}):
            return plan["bad"][hashlib.sha256(image).hexdigest()]
        faults = plan.get("faults", [])
        if faults and number <= plan.get("times", 1):
            return faults[draw[0] % len(faults)]
        return "none"

    def completion(self, draw, **choice):
        count = 5 + draw[1] % 8
        text = " ".join(WORDS[draw[2 + n] % len(WORDS)] for n in range(count)) + "."
        message = {"role": "assistant", "content": text}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
            "usage": {"prompt_tokens": 20, "completion_tokens": count, "total_tokens": 20 + count},
        }

    def fault_none(self, body, draw, _):
        self.send(200, self.completion(draw))

    def fault_length(self, body, draw, _):
        self.send(200, self.completion(draw, finish_reason="length"))

    def fault_filter(self, body, draw, _):
        self.send(200, self.completion(draw, finish_reason="content_filter"))

    def fault_surrogate(self, body, draw, _):
        self.send(200, self.completion(draw, message={"role": "assistant", "content": "\ud800"}))

    def fault_parts(self, body, draw, _):
        self.send(200, self.completion(draw, message={"role": "assistant", "content": [1, 2]}))

    def fault_empty_choices(self, body, draw, _):
        self.send(200, {**self.completion(draw), "choices": []})

    def fault_no_usage(self, body, draw, _):
        self.send(200, {**self.completion(draw), "usage": None})

    def fault_html(self, body, draw, _):
        self.send(200, b"<html>a proxy's page</html>", kind="text/html")

    def fault_bad_json(self, body, draw, _):
        self.send(200, json.dumps(self.completion(draw)).encode()[:60])

    def fault_cut_body(self, body, draw, _):
        content = json.dumps(self.completion(draw)).encode()
        self.send(200, content[:60], length=len(content))
        self.close_connection = True

    def fault_reset(self, body, draw, _):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def fault_stall(self, body, draw, _):
        time.sleep(self.plan["stall_s"])
        self.close_connection = True

    def fault_status(self, body, draw, fault):
        headers = {"retry-after": self.plan["retry_after"]} if fault == "429" else {}
        self.send(int(fault), {"error": {"message": f"the server says {fault}"}}, headers=headers)

    def send(self, status, content, *, kind="application/json", length=None, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def shutdown_request(self, request):
        with contextlib.suppress(OSError):
            super().shutdown_request(request)


if __name__ == "__main__":
    Handler.log = Path(sys.argv[2])
    Handler.plan = {"retry_after": "0.02", "stall_s": 2.0, **json.loads(sys.argv[3])}
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
