"""Move, merge and split modules by map files. Runs on a tree whose floors lie inside dianjing/ (no links)."""

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rename_symbols import parse

ROOT = Path(sys.argv[1])
MAPS = sys.argv[2:]


def path_of(module):
    p = ROOT.joinpath(*module.split("."))
    return p / "__init__.py" if (p / "__init__.py").is_file() else p.with_suffix(".py")


def target_path(module, is_package):
    p = ROOT.joinpath(*module.split("."))
    return p / "__init__.py" if is_package else p.with_suffix(".py")


modules, order, moves, renames = {}, defaultdict(list), {}, {}
for mp in MAPS:
    for n, kind, rest in parse(mp):
        if kind in ("module", "move", "rename"):
            old, _, new = (x.strip() for x in rest.partition("->"))
            if kind == "module":
                modules[old] = new
                order[new].append(old)
            elif kind == "move":
                moves[old] = new
            elif "(" not in old:
                renames[old] = new

all_py = [p for p in ROOT.rglob("*.py") if ".git" not in p.parts and ".venv" not in p.parts]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


existing = {module_of(p): p for p in all_py}
packages = {m for m, p in existing.items() if p.name == "__init__.py"}


def new_module(m):
    return modules.get(m, m)


# where each top-level symbol (new name) of an old module goes
sym_target = {}
for old, target in moves.items():
    mod, _, name = old.rpartition(".")
    if mod not in existing:
        print("NO MODULE", old)
        continue
    sym_target[(mod, renames.get(old, name))] = target

# dotted names in strings and documents
dotted = {}
for old in existing:
    if old in modules:
        dotted[old] = modules[old]
for old, t in moves.items():
    mod, _, name = old.rpartition(".")
    new = renames.get(old, name)
    dotted[f"{mod}.{name}"] = f"{t}.{new}"
for old, new in renames.items():
    mod, _, name = old.rpartition(".")
    if mod in existing and old not in dotted:
        dotted[old] = f"{new_module(mod)}.{new}"
keys = sorted(dotted, key=len, reverse=True)
pattern = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, keys)) + r")(?![\w])") if keys else None


def unfloor(m):
    parts = m.split(".")
    parts = parts[1:] if parts[0] == "dianjing" else parts
    return "/".join(parts) + ".py"


paths = {unfloor(o): unfloor(n) for o, n in modules.items()}
ppattern = (
    re.compile(r"(?<![\w/])(" + "|".join(sorted(map(re.escape, paths), key=len, reverse=True)) + r")(?![\w])")
    if paths
    else None
)
for p in ROOT.rglob("*"):
    if p.is_file() and p.suffix in (".py", ".md", ".toml", ".cfg", ".yaml", ".txt", ".json") and ".git" not in p.parts:
        t = p.read_text(encoding="utf-8", errors="surrogateescape")
        u = t

        def both(s):
            if pattern:
                s = pattern.sub(lambda m: dotted[m[1]], s)
            if ppattern:
                s = ppattern.sub(lambda m: paths[m[1]], s)
            return s

        if p.suffix != ".py":
            u = both(u)
        else:
            ls = u.split("\n")
            for tok in reversed(list(tokenize.generate_tokens(io.StringIO(u).readline))):
                if tok.type in (tokenize.STRING, tokenize.COMMENT) and (new := both(tok.string)) != tok.string:
                    (l1, c1), (l2, c2) = tok.start, tok.end
                    ls[l1 - 1 : l2] = (ls[l1 - 1][:c1] + new + ls[l2 - 1][c2:]).split("\n")
            u = "\n".join(ls)
        if u != t:
            p.write_text(u, encoding="utf-8", errors="surrogateescape")


def chunks(path):
    """(kind, names, text lines) of top-level statements, comments above going along."""
    text = path.read_text()
    lines = text.split("\n")
    tree = ast.parse(text)
    out, last = [], 0
    for i, node in enumerate(tree.body):
        start = min([node.lineno] + [d.lineno for d in getattr(node, "decorator_list", [])]) - 1
        end = node.end_lineno
        # a comment that stands at the end of the line or above belongs to the statement
        head = last
        block = lines[head:end]
        last = end
        names = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [x.id for t in node.targets for x in ast.walk(t) if isinstance(x, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        kind = "other"
        if (
            i == 0
            and isinstance(node, ast.Expr)
            and isinstance(getattr(node, "value", None), ast.Constant)
            and isinstance(node.value.value, str)
        ):
            kind = "doc"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            kind = "import"
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            kind = "import"
        out.append((kind, names, "\n".join(block), node))
    tail = "\n".join(lines[last:]).strip()
    if tail:
        out.append(("other", [], tail, ast.parse("")))
    return out


def names_used(node):
    return {x.id for x in ast.walk(node) if isinstance(x, ast.Name)} | {
        w
        for x in ast.walk(node)
        if isinstance(x, ast.Constant) and isinstance(x.value, str) and len(x.value) < 120
        for w in re.findall(r"[A-Za-z_]\w*", x.value)
    }


def symbol_home(mod, name):
    if (mod, name) in sym_target:
        return sym_target[(mod, name)]
    return new_module(mod)


def rewrite_imports(text, own_new, alias_log):
    """Rewrite import statements of a source text; own_new: the module that the text will live in."""
    tree = ast.parse(text)
    lines = text.split("\n")
    edits = []
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            groups, changed, plain = defaultdict(list), False, []
            for a in node.names:
                full = f"{node.module}.{a.name}"
                if full in existing and (full in modules):
                    nm = modules[full]
                    pkg, _, last = nm.rpartition(".")
                    if nm == own_new:
                        print("SELF MODULE IMPORT", own_new, full)
                    groups[pkg].append((last, a.asname))
                    changed = True
                    if a.asname is None and last != a.name:
                        aliases[a.name] = last
                elif node.module in existing and full not in existing:
                    home = symbol_home(node.module, a.name)
                    if home != node.module:
                        changed = True
                    if home == own_new and a.asname in (None, a.name):
                        changed = True
                        continue
                    groups[home].append((a.name, a.asname))
                else:
                    groups[node.module].append((a.name, a.asname))
            if changed:
                indent = " " * node.col_offset
                new = [
                    indent + f"from {m} import " + ", ".join(n if not s else f"{n} as {s}" for n, s in ns)
                    for m, ns in groups.items()
                ]
                edits.append((node.lineno - 1, node.end_lineno, new))
        elif isinstance(node, ast.Import):
            new, changed = [], False
            for a in node.names:
                nm = new_module(a.name)
                changed |= nm != a.name
                new.append(" " * node.col_offset + "import " + nm + (f" as {a.asname}" if a.asname else ""))
            if changed:
                edits.append((node.lineno - 1, node.end_lineno, new))
    comments = {}
    for s, e, new in sorted(edits, reverse=True):
        noqa = re.search(r"#\s*noqa.*$", lines[s])
        if noqa and new:
            new[0] += "  " + noqa[0]
        if not new and lines[s].startswith(" "):
            new = [re.match(r"\s*", lines[s])[0] + "pass"]
        lines[s:e] = new
    text = "\n".join(lines)
    for old, new in aliases.items():
        tree = ast.parse(text)
        lines = text.split("\n")
        spots = [(x.lineno - 1, x.col_offset) for x in ast.walk(tree) if isinstance(x, ast.Name) and x.id == old]
        bound = [
            x
            for x in ast.walk(tree)
            if (isinstance(x, ast.Name) and x.id == new) or (isinstance(x, ast.arg) and x.arg == new)
        ]
        if bound:
            alias_log.append(f"{own_new}: module name {new} (was {old}) is also a variable")
        for l, c in sorted(spots, reverse=True):
            c = len(lines[l].encode()[:c].decode())
            assert lines[l][c : c + len(old)] == old, (own_new, old, lines[l])
            lines[l] = lines[l][:c] + new + lines[l][c + len(old) :]
        text = "\n".join(lines)
    return text


log = []
targets = defaultdict(list)  # new module -> [(old module, [chunks])]
incoming = defaultdict(list)
top_names = {}
for old, path in existing.items():
    if not old.startswith(("dianjing", "benchmarks")):
        continue
    cs = chunks(path)
    top_names[old] = {n for k, ns, _, _ in cs for n in ns}
for old in moves:
    mod, _, name = old.rpartition(".")
    if (mod in top_names) and renames.get(old, name) not in top_names[mod]:
        print("NO SYMBOL", old, renames.get(old, name))

touched = set(modules) | {o.rpartition(".")[0] for o in moves} | set(modules.values()) | set(moves.values())
outputs = {}


def emit(target):
    sources = order.get(target, []) + ([target] if target in existing and target not in modules else [])
    if target in existing and target not in modules:
        sources = [target] + order.get(target, [])
    doc, imports, body, used_names, needed = None, [], [], set(), defaultdict(set)
    seen_defs = {}

    def add(mod, kind, names, text, node):
        nonlocal doc
        body.append(text)
        for n in names:
            if n in seen_defs and seen_defs[n] != mod and n != "__all__":
                print(f"CLASH {target}: {n} from {seen_defs[n]} and {mod}")
            seen_defs[n] = mod
        for u in names_used(node) & top_names[mod]:
            home = symbol_home(mod, u)
            if home != target:
                needed[home].add(u)

    all_sources = list(sources)
    for mod in sources:
        for kind, names, text, node in chunks(existing[mod]):
            if kind == "doc":
                if doc is None:
                    doc = text
            elif kind == "import":
                imports.append(text)
            elif names and all((mod, n) in sym_target and sym_target[(mod, n)] != target for n in names):
                continue
            else:
                add(mod, kind, names, text, node)
    for (mod, name), t in sym_target.items():
        if t != target or mod in sources and False:
            continue
        if mod in sources:
            continue
        found = False
        for kind, names, text, node in chunks(existing[mod]):
            if name in names:
                found = True
                if mod not in all_sources:
                    all_sources.append(mod)
                    imports += [x[2] for x in chunks(existing[mod]) if x[0] == "import"]
                add(mod, kind, names, text, node)
        if not found:
            print("MISSING", mod, name)
    if doc is None:
        doc = f'"""{target.rpartition(".")[2].replace("_", " ").capitalize()}."""'
    mains = [b for b in body if b.strip().startswith("if __name__")]
    body = [b for b in body if b not in mains] + mains[:1]
    if len(mains) > 1:
        print("SEVERAL MAINS", target)
    extra = [f"from {h} import {', '.join(sorted(ns))}" for h, ns in sorted(needed.items())]
    text = (
        doc.strip("\n")
        + "\n\n"
        + "\n".join(i.strip("\n") for i in imports + extra)
        + "\n\n\n"
        + "\n\n\n".join(b.strip("\n") for b in body)
        + "\n"
    )
    outputs[target] = rewrite_imports(text, target, log)


new_targets = {t for t in (set(modules.values()) | set(moves.values()))}
affected = new_targets | {new_module(o.rpartition(".")[0]) for o in moves}
for t in sorted(affected):
    emit(t)
# every other file: imports alone
plain = {}
for mod, path in existing.items():
    if mod in modules or mod in affected:
        continue
    if mod.startswith(("dianjing", "benchmarks", "tests")) or True:
        plain[path] = rewrite_imports(path.read_text(), mod, log)
for m in modules:
    existing[m].unlink()
for t, text in outputs.items():
    is_package = any(
        c != t and c.startswith(t + ".") for c in list(outputs) + [m for m in existing if m not in modules]
    )
    p = target_path(t, is_package)
    p.parent.mkdir(parents=True, exist_ok=True)
    p.write_text(text)
    d = p.parent
    while d != ROOT and not (d / "__init__.py").exists() and "dianjing" in d.parts:
        (d / "__init__.py").write_text(f'"""{d.name.replace("_", " ").capitalize()}."""\n')
        d = d.parent
for path, text in plain.items():
    if path.exists() and text != path.read_text():
        path.write_text(text)
for d in sorted((p for p in ROOT.rglob("*") if p.is_dir() and ".git" not in p.parts), key=lambda p: -len(p.parts)):
    left = [x for x in d.iterdir() if x.name != "__pycache__"]
    if (
        left
        and all(x.name == "__init__.py" for x in left)
        and "dianjing" in d.parts
        and not any(m.startswith(module_of(d / "__init__.py")) for m in outputs)
    ):
        print("EMPTY PACKAGE", d)
print("\n".join(log))
