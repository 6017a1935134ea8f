"""Pages for users, their fenced blocks, and the commands in them: what the tests of the documentation read."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
READMES = ("README.md", "README_zh.md")
ALL_PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*DOCS.rglob("*.md"), *(ROOT / name for name in (*READMES, "CONTRIBUTING.md"))]
)
SHELL_LANGUAGES = ("sh", "bash", "console")
NOT_RUN = "<!-- not run:"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block; `is_run` is False behind a comment that says why it is not run."""

    language: str
    text: str
    line: int
    is_run: bool


def read_page(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def find_blocks(name: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages."""
    text = read_page(name)
    return [
        Block(
            language=match[1],
            text=match[2],
            line=text[: match.start()].count("\n") + 1,
            is_run=NOT_RUN not in text[: match.start()].rstrip().rsplit("\n", 1)[-1],
        )
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        if match[1] in languages
    ]


def find_commands(name: str) -> list[list[str]]:
    """Every command in the shell blocks of a page, as words; pipes and variables in front are split off."""
    commands = []
    for block in find_blocks(name, *SHELL_LANGUAGES):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("|") if "|" in words else len(words)
                command, words = words[:end], words[end + 1 :]
                while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                    command = command[1:]
                commands.append(command)
    return [command for command in commands if command]


def get_shape(command: list[str]) -> tuple[str, ...]:
    """A command without what its language may change: program, subcommand, options and file names."""
    head = [word for word in command[:2] if word.isascii()][: 1 if command[0] in ("echo", "printf") else 2]
    return (*head, *(word for word in command[2:] if re.fullmatch(r"--?[a-z][\w-]*|[\w./-]+\.\w+", word)))


def get_code_shape(code: str) -> str:
    """Python code without the texts in it."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def find_links(name: str) -> list[str]:
    """Every relative link and image of a page, without its anchor."""
    text = re.sub(r"^```.*?^```$", "", read_page(name), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [link.partition("#")[0] for link in links if not re.match(r"https?:|#", link)]
