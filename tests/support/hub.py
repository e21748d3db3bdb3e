"""A small server that answers as the Hugging Face hub does about some data sets."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(sets: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serves the files of data sets, by their names USER/NAME; yields the address, and all requests so far."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def as_json(self, content: object) -> None:
            self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            name = next((each for each in sets if f"datasets/{each}" in path), "")
            files = sets.get(name, {})
            resolve, api = f"/datasets/{name}/resolve/", f"/api/datasets/{name}"
            listed: list[dict[str, Any]] = [
                {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": file}
                for file, content in files.items()
            ]
            if path.startswith(resolve):
                file = path[len(resolve) :].partition("/")[2]
                if file in files:
                    tag = hashlib.sha1(files[file]).hexdigest()
                    return self.answer(200, files[file], ETag=f'"{tag}"')
                return self.answer(404, X_Error_Code="EntryNotFound")
            if path.startswith(f"{api}/tree/"):
                folder = path[len(f"{api}/tree/") :].partition("/")[2].strip("/")
                inside = [each for each in listed if each["path"].startswith(f"{folder}/" if folder else "")]
                if "recursive=true" not in self.path.lower():
                    start = len(folder) + 1 if folder else 0
                    folders = {each["path"][:start] + each["path"][start:].partition("/")[0] for each in inside}
                    inside = [each for each in inside if each["path"] in folders]
                    names = folders - {each["path"] for each in inside}
                    inside += [{"type": "directory", "oid": COMMIT, "size": 0, "path": each} for each in sorted(names)]
                return self.as_json(inside) if inside else self.answer(404, X_Error_Code="EntryNotFound")
            if name and (path == api or path.startswith(f"{api}/revision/")):
                siblings = [{"rfilename": file} for file in files]
                about = {"id": name, "sha": COMMIT, "private": False, "gated": False, "tags": [], "downloads": 0}
                return self.as_json(about | {"siblings": siblings, "likes": 0, "disabled": False})
            return self.answer(404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"POST {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            files = next((files for name, files in sets.items() if f"/datasets/{name}/paths-info/" in path), None)
            if files is None:
                return self.answer(404)
            try:
                wanted = json.loads(body)["paths"]
            except ValueError:
                wanted = parse_qs(body.decode())["paths"]
            found = [
                {"type": "file", "oid": hashlib.sha1(files[each]).hexdigest(), "size": len(files[each]), "path": each}
                for each in wanted
                if each in files
            ]
            found += [
                {"type": "directory", "oid": COMMIT, "path": each}
                for each in wanted
                if any(file.startswith(f"{each}/") for file in files)
            ]
            return self.as_json(found)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
