"""What a ``test:`` string really is: most of those in the field are prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class StringKind(Enum):
    """What can be done with a ``test:`` string."""

    COMMAND = "command"  # a shell can run it
    NODE = "node"  # a pytest node id
    NAME = "name"  # the name of a test function, bare or with its module path
    PROSE = "prose"
    PLACEHOLDER = "placeholder"  # a command that waits for somebody to fill it in
    MIXED = "mixed"  # commands and prose in one string
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedString:
    """A judged ``test:`` string; ``why`` says what makes it unrunnable, else it is empty."""

    kind: StringKind
    why: str = ""


_NODE = re.compile(r"[\w./-]+\.py(?:::\w+)+(?:\[[^\]]*\])?")
_NAME = re.compile(r"(?:\w+::)*\w*[a-z0-9]_\w+|\w+(?:::\w+)+")
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]*>|…|(?<![\w./*])\.\.\.(?![\w/])|\bTODO\b|\bTBD\b")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=(?:\S*[^\s,])?")
_SUBSTITUTION = re.compile(r"[A-Za-z_]\w*=[\"']?\$[({]|[A-Za-z_]\w*=[\"']")
_STRAY_PARENTHESIS = re.compile(r"(?<!\bdo)(?<!\bthen)(?<!\belse)(?<=[\w\]])\s+\([^()]*\)(?!\s*\{)")
_PROGRAM_WORDS = (
    "apr awk bash cargo cat cd cmake cmp cp ctest curl cut dd docker du echo env export git go "
    "grep head hf huggingface-cli jq kani llama-cli ls make mkdir mv ninja nm node npm nproc "
    "nsys ncu numactl nvcc nvidia-smi objdump perf pip printf probador ps pv pytest python "
    "python3 pytest-falsify realizar rg rm rsync ruff rustc sed set sh sha256sum ssh stat "
    "tail taskset tee timeout touch uv valgrind wc which xargs xxd yq zsh { ( [ [[ if for while "
    "done fi else then do esac case trap ! lake lean aprender forjar jsonschema"
)
_PROGRAMS = frozenset(_PROGRAM_WORDS.split())
# Programs whose names are also verbs that a sentence can begin with.
_VERBS = frozenset(("test", "compare", "diff", "find", "sort", "time", "exit", "export", "make"))
_SIGNS = re.compile(r"(?:^|\s)(?:-{1,2}\w|[./~$]\S|\S+=\S|\||&&|>|<)|\S/\S|\.\w{1,5}(?:\s|$)")


def judge_test(text: str) -> JudgedString:
    """Tell what a ``test:`` string is. Nothing is run or looked up."""
    text = text.strip()
    if not text:
        return JudgedString(kind=StringKind.EMPTY, why="it is empty")
    if _NODE.fullmatch(text):
        return JudgedString(kind=StringKind.NODE)
    if _NAME.fullmatch(text):
        return JudgedString(kind=StringKind.NAME)
    return _judge_lines(_joined(text))


def _judge_lines(lines: list[str]) -> JudgedString:
    prose = [line for line in lines if not _is_command(line)]
    if len(prose) == len(lines):
        return JudgedString(kind=StringKind.PROSE, why="it is prose: no line of it is a command")
    if prose:
        return JudgedString(kind=StringKind.MIXED, why=f"a shell would run the prose `{prose[0]}`")
    for line in lines:
        if found := _STRAY_PARENTHESIS.search(_unquoted(line)):
            why = f"a shell cannot read the prose `{found.group().strip()}`"
            return JudgedString(kind=StringKind.MIXED, why=why)
        if found := _PLACEHOLDER.search(_unquoted(line)):
            why = f"`{found.group()}` is a placeholder"
            return JudgedString(kind=StringKind.PLACEHOLDER, why=why)
    return JudgedString(kind=StringKind.COMMAND)


def _joined(text: str) -> list[str]:
    """Return the lines that a shell would see: continued ones joined, comments left out."""
    lines: list[str] = []
    is_continued = False
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if is_continued or (lines and line.startswith(("|", "&&"))):
            lines[-1] = f"{lines[-1]} {line}"
        else:
            lines.append(line)
        is_continued = line.endswith(("\\", "|", "&&"))
        lines[-1] = lines[-1].removesuffix("\\").rstrip()
    return lines


def _is_command(line: str) -> bool:
    if _SUBSTITUTION.match(line):
        return True
    words = line.split()
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    if not words:
        return True
    first = words[0]
    if first in _VERBS:
        return bool(_SIGNS.search(" ".join(words[1:]))) or len(words) <= 2  # noqa: PLR2004
    if first in _PROGRAMS:
        return True
    return bool(re.fullmatch(r"\.{0,2}/\S+|[\w.-]+/\S+\.(?:sh|py)", first))


def _unquoted(line: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"", "''", line)
