"""A service as there are many: HTTP, four worker processes, onnxruntime; observed with two lines.

    python observed_service.py MODEL CORPUS FLUSH_SECONDS

Prints its port when it listens. ``POST /`` with a batch size as the body runs the model once and answers with the
worker's process id.
"""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime

import graphopt

WORKERS = 4


def serve(listener: socket.socket, model: str, corpus: str, flush_seconds: float) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session = graphopt.observe(session, corpus, flush_seconds=flush_seconds)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            size = int(self.rfile.read(int(self.headers["Content-Length"])))
            session.run(None, {"x": np.ones((size, 32), np.float32)})
            answer = str(os.getpid()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.serve_forever()


def main() -> None:
    model, corpus, flush_seconds = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    for _ in range(WORKERS):
        if os.fork() == 0:
            serve(listener, model, corpus, float(flush_seconds))
    print(listener.getsockname()[1], flush=True)
    for _ in range(WORKERS):
        os.wait()


if __name__ == "__main__":
    main()
