"""A server on loopback that hands out one file, as badly as a test asks."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves ``content`` at ``/file``.

    Attributes:
        cuts: for each answer to come, after how many bytes the connection is dropped (None: never).
        answers: for each answer to come, a status other than 200 (None: the file).
        ranges: whether parts of the file can be asked for.
        tells_length: whether the size is reported.
        redirects: path -> where it has moved to.
        asked: the Range header of each request so far.
    """

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.cuts, self.answers, self.redirects, self.asked = content, [], [], {}, []
        self.ranges = self.tells_length = True

    def handle_error(self, request, client_address):
        """A client that hangs up is no news: some tests refuse what is sent."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


@contextmanager
def serving(content):
    with FileServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if self.path in server.redirects:
            return self._head(302, Location=server.redirects[self.path])
        status = server.answers.pop(0) if server.answers else None
        if status is not None:
            return self._head(status)
        content, start, code, headers = server.content, 0, 200, {}
        if server.ranges and self.headers.get("Range"):
            start, code = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
            if start >= len(content):
                return self._head(416)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if server.tells_length:
            headers["Content-Length"] = str(len(content) - start)
        self._head(code, **headers)
        self.wfile.write(content[start:][: server.cuts.pop(0) if server.cuts else None])
        return None

    def _head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *arguments):
        pass
