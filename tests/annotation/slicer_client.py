"""Requests as 3D Slicer's MONAI Label module sends them, and its reading of the answers.

What it does differently from most clients: it keeps the path of the server's address and puts the endpoint behind it,
sends no Origin and no cookie, writes forms with a fixed boundary, names uploaded files by their whole path, and takes
the name of a result from the answer's form.
"""

import http.client
import json
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from urllib.parse import quote_plus, urlparse

BOUNDARY = "----------lImIt_of_THE_fIle_eW_$"


class Refused(Exception):
    """An answer that is not 200; ``status`` and the server's text."""

    def __init__(self, status, text):
        super().__init__(f"Status: {status}; Response: {text}")
        self.status, self.text = status, text


class SlicerClient:
    """Talks to the server at an address such as ``http://127.0.0.1:8000/monai/TOKEN``."""

    def __init__(self, address, folder):
        self.address, self.folder = urlparse(address), Path(folder)

    def ask(self, method, selector, body=None, content_type="application/json"):
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=60)
        if isinstance(body, dict):
            body = json.dumps(body)
        headers = {} if body is None else {"content-type": content_type, "content-length": str(len(body))}
        connection.request(method, self.address.path.rstrip("/") + "/" + selector.lstrip("/"), body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        if found[0] != 200:
            raise Refused(found[0], found[2].decode())
        return found

    def json(self, method, selector, body=None):
        return json.loads(self.ask(method, selector, body)[2])

    def form(self, method, selector, params, **files):
        """The answer to a form of ``params`` and files."""
        lines = [f"--{BOUNDARY}", 'Content-Disposition: form-data; name="params"', "", json.dumps(params)]
        for name, path in files.items():
            lines += [
                f"--{BOUNDARY}",
                f'Content-Disposition: form-data; name="{name}"; filename="{path}"',
                "Content-Type: application/octet-stream",
                "",
                Path(path).read_bytes(),
            ]
        lines += [f"--{BOUNDARY}--", ""]
        body = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\r\n" for line in lines)
        return self.ask(method, selector, body, f"multipart/form-data; boundary={BOUNDARY}")

    def infer(self, model, image, params, session_id=None):
        """The file of the result, and its parameters."""
        selector = f"/infer/{quote_plus(model)}?image={quote_plus(image)}"
        if session_id:
            selector += f"&session_id={quote_plus(session_id)}"
        params = {**params, "result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
        _, headers, body = self.form("POST", selector, params)
        assert headers["content-type"].startswith("multipart")
        parts = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body)
        found, path = {}, None
        for part in parts.iter_parts():
            if name := part.get_filename():
                path = self.folder / name
                path.write_bytes(part.get_payload(decode=True))
            else:
                found[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
        return path, json.loads(found["params"])

    def save_label(self, image, path, label_info):
        params = {"label_info": label_info, "model": "any", "client_id": "user-xyz"}
        return json.loads(self.form("PUT", f"/datastore/label?image={quote_plus(image)}", params, label=path)[2])

    def upload_image(self, image, path):
        selector = f"/datastore/?image={quote_plus(image)}"
        return json.loads(self.form("PUT", selector, {"client_id": "user-xyz"}, file=path)[2])

    def download(self, selector, name):
        path = self.folder / name
        path.write_bytes(self.ask("GET", selector)[2])
        return path

    def download_label(self, image, tag):
        _, headers, body = self.ask("GET", f"/datastore/label?label={quote_plus(image)}&tag={quote_plus(tag)}")
        path = self.folder / headers["content-disposition"].partition('filename="')[2].rstrip('"')
        path.write_bytes(body)
        return path

    def create_session(self, path):
        return json.loads(self.form("PUT", "/session/", {}, files=path)[2])

    def next_sample(self, strategy):
        return self.json("POST", f"/activelearning/{quote_plus(strategy)}", {"client_id": "user-xyz"})
