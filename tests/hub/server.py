"""A model hub on loopback, as far as huggingface_hub asks for it: repositories of small files, by commit."""

import base64
import json
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """Keeps repositories in memory.

    Attributes:
        repositories: OWNER/NAME -> path -> bytes.
        created: what was asked for when repositories were made.
        asked: method and path of each request so far.
        refuses: whether every request that writes is forbidden.
        answers: what is in the way of the hub and answers in its place, as a hotel's network does; None: nothing.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.created, self.asked, self.refuses, self.answers = {}, [], [], False, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub():
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def commit_of(files):
    """A number for a state of a repository, of 40 hexadecimal digits as git's."""
    return sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self._path()
        if self.server.answers is not None:
            return self._answer(200, self.server.answers)
        if path[:2] == ["api", "models"]:
            return self._describe("/".join(path[2:4]), path[5] if path[4:5] == ["revision"] else "main")
        name, files = "/".join(path[:2]), self.server.repositories.get("/".join(path[:2]), {})
        content = files.get("/".join(path[4:]))
        if path[2:3] != ["resolve"] or content is None:
            return self._answer(404, code="EntryNotFound" if name in self.server.repositories else "RepoNotFound")
        tag = {"ETag": f'"{sha1(content).hexdigest()}"', "X-Repo-Commit": commit_of(files)}
        return self._answer(200, content, tag)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self._path()
        if path == ["api", "validate-yaml"]:
            odd = "license: odd" in json.loads(body)["content"]
            return self._json({"errors": [{"message": '"license" is odd'}] * odd, "warnings": []}, 400 if odd else 200)
        if self.server.refuses:
            return self._answer(403)
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.created.append(asked)
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, {".gitattributes": b""})
            return self._json({"url": f"https://huggingface.co/{name}"}, 409 if known else 200)
        files = self.server.repositories["/".join(path[2:4])]
        if path[4] == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        commit = commit_of(files)
        # Older versions of the library know only the hosts that were set when it was imported.
        url = f"https://huggingface.co/{'/'.join(path[2:4])}/commit/{commit}"
        return self._json({"commitUrl": url, "commitOid": commit})

    def _path(self):
        self.server.asked.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]

    def _describe(self, name, revision):
        files = self.server.repositories.get(name)
        if files is None:
            return self._answer(404, code="RepoNotFound")
        if revision not in ("main", commit_of(files)):
            return self._answer(404, code="RevisionNotFound")
        siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
        return self._json({"id": name, "sha": commit_of(files), "siblings": siblings, "private": False})

    def _json(self, content, status=200):
        return self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status, content=b"", headers=(), code=None):
        self.send_response(status)
        for name, value in {**dict(headers), **({"X-Error-Code": code} if code else {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass
