"""Servers of captions, in processes of their own: ``python -m benchmarks.chaos.servers PORT``."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .processes import wait_for

MODEL = "hashed"
_ANSWER_S = 0.1


class _Answers(BaseHTTPRequestHandler):
    """The chat protocol, with a text that is a hash of the request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._tell({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(_ANSWER_S)
        drawn = hashlib.sha256(json.dumps([body["messages"], body["seed"]]).encode()).hexdigest()
        message = {"role": "assistant", "content": f"A picture of {drawn[:8]} and {drawn[8:16]}."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        base = {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL}
        self._tell({**base, "choices": [choice], "usage": usage})

    def _tell(self, content: dict[str, object]) -> None:
        told = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server:
    """One such server."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos.servers", str(self.port)],
            stderr=subprocess.DEVNULL,  # clients that are killed make it complain
        )
        wait_for(self._answers, "a server that answers")

    def _answers(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Takes requests and answers none."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Answers).serve_forever()
