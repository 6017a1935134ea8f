"""Apply rename lines of map files with a language server (type-aware)."""

import ast
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlparse


class Server:
    def __init__(self, root, binary):
        self.root = Path(root).resolve()
        self.proc = subprocess.Popen(
            [binary, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.next_id, self.answers, self.cv = 0, {}, threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.request(
            "initialize",
            {
                "processId": os.getpid(),
                "rootUri": self.root.as_uri(),
                "workspaceFolders": [{"uri": self.root.as_uri(), "name": "w"}],
                "capabilities": {
                    "workspace": {
                        "workspaceEdit": {"documentChanges": True},
                        "configuration": True,
                        "didChangeWatchedFiles": {"dynamicRegistration": True},
                    },
                    "textDocument": {"rename": {"prepareSupport": True}},
                },
            },
        )
        self.notify("initialized", {})
        self.open_versions = {}

    def _send(self, message):
        body = json.dumps(message).encode()
        with self.cv:
            self.proc.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self.proc.stdin.flush()

    def _read(self):
        out = self.proc.stdout
        while True:
            length = 0
            while line := out.readline().strip():
                if line.lower().startswith(b"content-length"):
                    length = int(line.split(b":")[1])
            if not length:
                return
            m = json.loads(out.read(length))
            if "method" in m and "id" in m:
                result = None
                if m["method"] == "workspace/configuration":
                    result = [
                        {
                            "analysis": {
                                "diagnosticMode": "openFilesOnly",
                                "typeCheckingMode": "basic",
                                "autoImportCompletions": False,
                            },
                            "disableTaggedHints": True,
                        }
                        if i.get("section", "").startswith(("basedpyright", "python"))
                        else {}
                        for i in m["params"]["items"]
                    ]
                threading.Thread(
                    target=self._send, args=({"jsonrpc": "2.0", "id": m["id"], "result": result},), daemon=True
                ).start()
            elif "id" in m:
                with self.cv:
                    self.answers[m["id"]] = m
                    self.cv.notify_all()

    def notify(self, method, params):
        self._send({"jsonrpc": "2.0", "method": method, "params": params})

    def request(self, method, params, timeout=300):
        self.next_id += 1
        i = self.next_id
        self._send({"jsonrpc": "2.0", "id": i, "method": method, "params": params})
        with self.cv:
            if not self.cv.wait_for(lambda: i in self.answers, timeout):
                raise TimeoutError(method)
            m = self.answers.pop(i)
        if "error" in m:
            raise RuntimeError(m["error"]["message"])
        return m.get("result")

    def open(self, path):
        uri = Path(path).resolve().as_uri()
        if uri in self.open_versions:
            return uri
        self.open_versions[uri] = 1
        self.notify(
            "textDocument/didOpen",
            {"textDocument": {"uri": uri, "languageId": "python", "version": 1, "text": Path(path).read_text()}},
        )
        return uri

    def rename(self, path, line, column, new):
        """Edits {path: [(line, start, end, new)]} of a rename; nothing is applied."""
        uri = self.open(path)
        edit = self.request(
            "textDocument/rename",
            {"textDocument": {"uri": uri}, "position": {"line": line, "character": column}, "newName": new},
        )
        changes = {}
        if not edit:
            return changes
        for d in edit.get("documentChanges") or []:
            if "edits" in d:
                changes.setdefault(d["textDocument"]["uri"], []).extend(d["edits"])
        for u, e in (edit.get("changes") or {}).items():
            changes.setdefault(u, []).extend(e)
        out = {}
        for u, edits in changes.items():
            p = Path(unquote(urlparse(u).path))
            if self.root not in p.resolve().parents:
                raise RuntimeError(f"edit outside: {p}")
            for e in edits:
                s, t = e["range"]["start"], e["range"]["end"]
                assert s["line"] == t["line"]
                out.setdefault(str(p), []).append((s["line"], s["character"], t["character"], e["newText"]))
        return out


def column_of(text_line, name, start=0):
    m = re.compile(r"\b%s\b" % re.escape(name)).search(text_line, start)
    return m.start() if m else None


def locate(root, dotted):
    """dotted[(param)] -> (path, line0, col, name). Raises LookupError."""
    m = re.fullmatch(r"([\w.]+?)(?:\((\w+)\))?", dotted)
    if not m:
        raise LookupError(f"bad coordinate {dotted}")
    chain, param = m[1].split("."), m[2]
    base = Path(root)
    path, rest = None, None
    for n in range(len(chain), 0, -1):
        p = base.joinpath(*chain[:n])
        if p.with_suffix(".py").is_file():
            path, rest = p.with_suffix(".py"), chain[n:]
            break
        if (p / "__init__.py").is_file():
            path, rest = p / "__init__.py", chain[n:]
            break
    if path is None:
        raise LookupError(f"no module for {dotted}")
    text = path.read_text()
    lines = text.split("\n")
    node = ast.parse(text)
    if not rest:
        raise LookupError(f"{dotted} is a module")

    def encode(line0, byte_col):
        return len(lines[line0].encode()[:byte_col].decode())

    for depth, name in enumerate(rest):
        found = None
        body = node.body
        stack = list(body)
        while stack:
            item = stack.pop(0)
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                if item.name == name:
                    found = item
                    break
            elif isinstance(item, (ast.Assign, ast.AnnAssign)):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                for t in targets:
                    for x in ast.walk(t):
                        if isinstance(x, ast.Name) and x.id == name:
                            found = x
                            break
            elif type(item).__name__ == "TypeAlias":
                if item.name.id == name:
                    found = item.name
            elif isinstance(item, (ast.If, ast.Try, ast.With)):
                stack = (
                    list(item.body)
                    + list(getattr(item, "orelse", []))
                    + [s for h in getattr(item, "handlers", []) for s in h.body]
                    + stack
                )
            if found is not None:
                break
        if found is None and isinstance(node, ast.ClassDef):
            for x in ast.walk(node):
                if (
                    isinstance(x, ast.Attribute)
                    and x.attr == name
                    and isinstance(x.value, ast.Name)
                    and x.value.id == "self"
                    and isinstance(x.ctx, ast.Store)
                ):
                    line0 = x.end_lineno - 1
                    return path, line0, encode(line0, x.end_col_offset) - len(name), name
        if found is None:
            raise LookupError(f"{dotted}: no {name} in {path}")
        node = found
    if param:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            raise LookupError(f"{dotted}: not a function")
        a = node.args
        for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]:
            if arg.arg == param:
                return path, arg.lineno - 1, encode(arg.lineno - 1, arg.col_offset), param
        # nested function? no
        raise LookupError(f"{dotted}: no parameter {param}")
    if isinstance(node, ast.Name):
        return path, node.lineno - 1, encode(node.lineno - 1, node.col_offset), node.id
    line0 = node.lineno - 1
    return path, line0, column_of(lines[line0], node.name, encode(line0, node.col_offset) + 3), node.name


def parse(map_path):
    for n, line in enumerate(Path(map_path).read_text().split("\n"), 1):
        body = re.sub(r"\s+#.*$", "", line).strip()
        if not body or body.startswith("#"):
            continue
        kind, _, rest = body.partition(" ")
        yield n, kind, rest.strip()


def depth(old):
    return old.count(".") + (100 if "(" in old else 0)


def main():
    root, binary, *maps = sys.argv[1:]
    todo = []
    for mp in maps:
        for n, kind, rest in parse(mp):
            if kind == "rename":
                old, arrow, new = rest.partition("->")
                old, new = old.strip(), new.strip()
                todo.append((old, new, f"{Path(mp).name}:{n}"))
    # all edits are asked for on the unchanged tree, ordered by file so that caches stay warm, and applied at the end
    todo.sort()
    server = Server(root, binary)
    started = time.time()
    bad = 0
    edits, origin = {}, {}
    for i, (old, new, where) in enumerate(todo):
        try:
            path, line, col, name = locate(root, old)
            if name == new:
                continue
            found = server.rename(path, line, col, new)
            if not found:
                raise RuntimeError("no edits")
            for p, es in found.items():
                for l, s, e, text in es:
                    key = (p, l, s)
                    if key in edits and edits[key] != (e, text):
                        print(
                            f"CONFLICT {where} {old} -> {new} at {p}:{l + 1}: {edits[key]} by {origin[key]} against {(e, text)}",
                            flush=True,
                        )
                        continue
                    edits[key] = (e, text)
                    origin[key] = old
        except (LookupError, RuntimeError, TimeoutError, AssertionError, SyntaxError) as err:
            bad += 1
            print(f"FAILED {where} {old} -> {new}: {err}", flush=True)
        if i % 50 == 49:
            print(f"{i + 1}/{len(todo)} {time.time() - started:.0f} s", flush=True)
    by_file = {}
    for (p, l, s), (e, text) in edits.items():
        by_file.setdefault(p, []).append((l, s, e, text))
    for p, es in by_file.items():
        lines = Path(p).read_text().split("\n")
        for l, s, e, text in sorted(es, reverse=True):
            lines[l] = lines[l][:s] + text + lines[l][e:]
        Path(p).write_text("\n".join(lines))
    print(
        f"{len(todo)} renames, {bad} failed, {len(edits)} edits in {len(by_file)} files, {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
