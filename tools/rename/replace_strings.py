"""Apply string, json and toml lines of map files on a tree whose floors lie inside dianjing/."""

import fnmatch
import io
import re
import sys
import tokenize
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rename_symbols import parse

ROOT = Path(sys.argv[1])
MAPS = sys.argv[2:]
FLOORS = ("dit", "weights", "pipelines", "train", "demo")
files = [
    p
    for p in ROOT.rglob("*")
    if p.is_file() and ".git" not in p.parts and p.suffix in (".py", ".md", ".toml", ".txt", ".json", ".css")
]


def old_name(p):
    parts = p.relative_to(ROOT).parts
    return "/".join(parts[1:] if parts[0] == "dianjing" and len(parts) > 1 and parts[1] in FLOORS else parts)


names = {p: old_name(p) for p in files}


def match(globs):
    out = []
    for g in globs:
        g = g.rstrip(",")
        pats = [g, g + "/*"] if not any(c in g for c in "*") else [g.replace("**/", "*").replace("**", "*")]
        for p, n in names.items():
            if any(fnmatch.fnmatch(n, q) for q in pats) and p not in out:
                out.append(p)
    return out


strings, jsons, tomls = [], [], []
for mp in MAPS:
    for n, kind, rest in parse(mp):
        w = f"{Path(mp).name}:{n}"
        if kind == "string":
            m = re.fullmatch(r'"(.*?)"\s*->\s*"(.*?)"\s+in\s+(.*)', rest)
            if not m:
                print("BAD", w, rest)
                continue
            strings.append((m[1], m[2], m[3].split(), w))
        elif kind == "json":
            m = re.fullmatch(r"(\S+)\s+(\S+)\s*->\s*(\S+)", rest)
            jsons.append((*m.groups(), w))
        elif kind == "toml":
            m = re.fullmatch(r"(\S+)\s*->\s*(\S+)", rest)
            tomls.append((*m.groups(), w))
per_file = {}
for old, new, globs, w in strings:
    hit = match(globs)
    if not hit:
        print("NO FILES", w, globs)
    for p in hit:
        per_file.setdefault(p, {}).setdefault(old, new)
count = 0
for p, table in per_file.items():
    text = p.read_text()
    if p.suffix != ".py":
        for old, new in table.items():
            text = text.replace(f'"{old}"', f'"{new}"')
        p.write_text(text)
        continue
    lines = text.split("\n")
    edits = []
    for tok in tokenize.generate_tokens(io.StringIO(text).readline):
        if tok.type == tokenize.STRING and tok.start[0] == tok.end[0]:
            m = re.fullmatch(r"""([rRbBuU]*)(['"])(.*)\2""", tok.string)
            if m and "f" not in m[1].lower() and m[3] in table:
                edits.append((tok.start[0] - 1, tok.start[1], tok.end[1], f"{m[1]}{m[2]}{table[m[3]]}{m[2]}"))
    for l, s, e, new in sorted(edits, reverse=True):
        lines[l] = lines[l][:s] + new + lines[l][e:]
        count += 1
    p.write_text("\n".join(lines))


def rename_keys(x, table):
    if isinstance(x, dict):
        return {table.get(k, k): rename_keys(v, table) for k, v in x.items()}
    if isinstance(x, list):
        return [rename_keys(v, table) for v in x]
    return x


byf = {}
for f, old, new, w in jsons:
    byf.setdefault(f, {})[old] = new
for f, table in byf.items():
    p = ROOT / ("dianjing/" + f if f.split("/")[0] in FLOORS else f)
    text = p.read_text()
    out = text
    for old, new in table.items():
        out = re.sub(r'"%s"(\s*:)' % re.escape(old), lambda m: f'"{new}"{m[1]}', out)
    p.write_text(out)
table = {}
for old, new, w in tomls:
    table[old] = new


def toml_text(text):
    section, out = "", []
    for line in text.split("\n"):
        m = re.match(r"^(\s*#?\s*)\[+([\w.]+)\]+", line)
        if m:
            section = m[2]
        full_section = section
        m = re.match(r"^(\s*#?\s*)([\w.]+)(\s*=.*)$", line)
        if m:
            key = f"{section}.{m[2]}" if section else m[2]
            rest = m[3]
            for old, new in table.items():
                if old.startswith(key + ".") and "{" in rest:
                    last = old[len(key) + 1 :]
                    if "." not in last:
                        rest = re.sub(r"(?<![\w.])%s(?=\s*=)" % last, new, rest)
            newkey = m[2]
            if key in table:
                newkey = ".".join(m[2].split(".")[:-1] + [table[key]])
            line = m[1] + newkey + rest
        out.append(line)
    text = "\n".join(out)
    return re.sub(r"\[\[sets\]\]", "[[datasets]]", text)


dotted = re.compile(
    r"(?<![\w.])(" + "|".join(re.escape(o) for o in sorted(table, key=len, reverse=True) if "." in o) + r")(?![\w.]*\w)"
)
for p in files:
    text = p.read_text(encoding="utf-8", errors="surrogateescape")
    new = text
    if p.suffix == ".toml" and p.name != "pyproject.toml":
        new = toml_text(new)
    if p.suffix == ".py":
        lines = new.split("\n")
        pieces = []
        try:
            toks = list(tokenize.generate_tokens(io.StringIO(new).readline))
        except Exception:
            toks = []
        for tok in reversed(toks):
            if tok.type == tokenize.STRING and (
                "[run]" in tok.string
                or "[data]" in tok.string
                or "[model]" in tok.string
                or "[[sets]]" in tok.string
                or "[optimizer]" in tok.string
            ):
                (l1, c1), (l2, c2) = tok.start, tok.end
                body = toml_text(tok.string)
                if body != tok.string:
                    block = lines[l1 - 1][:c1] + body + lines[l2 - 1][c2:]
                    lines[l1 - 1 : l2] = block.split("\n")
        new = "\n".join(lines)
    if p.suffix in (".py", ".md", ".toml"):
        new = dotted.sub(lambda m: ".".join(m[1].split(".")[:-1] + [table[m[1]]]), new)
    if new != text:
        p.write_text(new, encoding="utf-8", errors="surrogateescape")
print(f"{len(strings)} string lines, {count} edits, {len(jsons)} json, {len(tomls)} toml")
