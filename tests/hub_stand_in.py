"""A Hugging Face hub of one process: what HfApi and snapshot_download call, on a port of this machine."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Keeps repositories as dicts of files; those that end in .safetensors go through LFS, where that is asked for."""

    def __init__(self, uses_lfs=False):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.uses_lfs = uses_lfs
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str | None] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses_commits = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if "/preupload/" in path:
            return self._answer({"files": [self._mode(file) for file in json.loads(body)["files"]]})
        if "/commit/" in path:
            return self._commit(path, [json.loads(line) for line in body.splitlines()])
        return self._answer({"error": path}, 404)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_HEAD(self):
        self._send_file(with_content=False)

    def do_GET(self):
        path = self.path.split("?")[0]
        if not path.startswith("/api/models/"):
            return self._send_file(with_content=True)
        repository = "/".join(path.split("/")[3:5])
        files = self.server.repositories.get(repository)
        if files is None:
            return self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": _oid(files[name])} for name in files
            ]
            return self._answer(entries)
        return self._answer({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})

    def _create(self, asked):
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        known = name in self.server.repositories
        if not known:
            self.server.repositories[name], self.server.visibility[name] = (
                {".gitattributes": b""},
                asked.get("visibility"),
            )
        self._answer({"url": f"{self.server.url}/{name}"}, 409 if known else 200)

    def _mode(self, file):
        large = self.server.uses_lfs and file["path"].endswith(".safetensors")
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _batch(self, asked):
        actions = {"upload": {"href": f"{self.server.url}/objects"}}
        objects = [{"oid": one["oid"], "size": one["size"], "actions": actions} for one in asked["objects"]]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, path, lines):
        if self.server.refuses_commits:
            return self._answer({"error": "no"}, 403)
        name = "/".join(path.split("/")[3:5])
        files = self.server.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return self._answer({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _send_file(self, with_content):
        owner, repository, _, _, *name = self.path.strip("/").split("/")
        content = self.server.repositories[f"{owner}/{repository}"].get("/".join(name))
        if content is None:
            return self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT}
        return self._answer(content, headers=headers, with_content=with_content)

    def _answer(self, answer, status=200, headers=None, with_content=True):
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *args):
        """Stay silent."""


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
