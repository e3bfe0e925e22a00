"""Which functions a source file really defines, and which of them a test runner would run.

Python is read by ``ast``; Rust, C, C++ and CUDA by tree-sitter, where its wheels are installed
(the extra ``[lint]``).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A named function, class or constant.

    Attributes:
        unrun: why a test runner would not run it; empty where it would.
    """

    line: int
    unrun: str = ""


_GRAMMARS = {
    ".rs": "tree_sitter_rust",
    ".c": "tree_sitter_c",
    ".h": "tree_sitter_cpp",
    ".cc": "tree_sitter_cpp",
    ".cpp": "tree_sitter_cpp",
    ".cxx": "tree_sitter_cpp",
    ".hpp": "tree_sitter_cpp",
    ".cu": "tree_sitter_cuda",
    ".cuh": "tree_sitter_cuda",
}
LANGUAGES = frozenset({".py", *_GRAMMARS})
_NAMED_TYPES = (
    "class_specifier const_item enum_item enum_specifier function_item function_signature_item "
    "macro_definition mod_item preproc_def preproc_function_def static_item struct_item "
    "struct_specifier trait_item type_item"
)
_NAMED = frozenset(_NAMED_TYPES.split())
_DECLARED = frozenset({"function_declarator", "init_declarator"})
_RUST_TESTS = ("test", "::test]", "test(", "rstest", "quickcheck", "proptest", "kani::proof")


def definitions(suffix: str, source: bytes) -> Mapping[str, Definition] | None:
    """Return what a source defines, by its last name; None when nothing here can read it.

    Args:
        suffix: the file's suffix, ``.py`` or ``.rs`` for example.
        source: its bytes.
    """
    if suffix == ".py":
        return _python(source)
    grammar = _GRAMMARS.get(suffix)
    parser = _parser(grammar) if grammar else None
    if parser is None:
        return None
    return dict(_named(parser.parse(source).root_node))


def _python(source: bytes) -> Mapping[str, Definition] | None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return dict(_members(tree, is_reached=True))


def _members(node: ast.AST, *, is_reached: bool) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield child.name, _function(child, is_reached=is_reached)
                yield from _members(child, is_reached=False)
            case ast.ClassDef():
                yield child.name, Definition(line=child.lineno, unrun="it is a class")
                is_suite = is_reached and child.name.startswith("Test")
                yield from _members(child, is_reached=is_suite)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, Definition(line=child.lineno, unrun="it is not a function")
            case ast.If() | ast.Try() | ast.With():
                yield from _members(child, is_reached=is_reached)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, *, is_reached: bool) -> Definition:
    marks = " ".join(ast.unparse(each) for each in node.decorator_list)
    unrun = ""
    if not node.name.startswith("test"):
        unrun = "its name does not begin with `test`"
    elif not is_reached:
        unrun = "it stands inside another function or a class that pytest does not collect"
    elif "fixture" in marks:
        unrun = "it is a fixture"
    elif "mark.skip(" in marks or marks.endswith("mark.skip"):
        unrun = "it is skipped"
    elif _is_hollow(node.body):
        unrun = "it is empty"
    return Definition(line=node.lineno, unrun=unrun)


def _is_hollow(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(each, ast.Pass)
        or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in body
    )


@cache
def _parser(grammar: str) -> Any:
    if find_spec("tree_sitter") is None or find_spec(grammar) is None:
        return None
    tree_sitter = import_module("tree_sitter")
    language = tree_sitter.Language(import_module(grammar).language())
    return tree_sitter.Parser(language)


def _named(root: Any) -> Iterator[tuple[str, Definition]]:
    """Walk without recursion: generated sources nest deeper than Python's stack."""
    waiting = [(root, "")]
    while waiting:
        node, marks = waiting.pop()
        if node.type in _NAMED and (name := node.child_by_field_name("name")):
            yield _text(name), _definition(node, marks)
        elif node.type in _DECLARED and (name := node.child_by_field_name("declarator")):
            yield _text(name).rpartition("::")[2], _definition(node, marks)
        waiting.extend(_with_marks(node))


def _with_marks(node: Any) -> Iterator[tuple[Any, str]]:
    """Yield the children, each with the attributes that stand before it.

    Inside a macro (``proptest! { fn holds() ... }``) Rust's grammar sees tokens only, so a name
    after the token ``fn`` is taken for a function there.
    """
    marks, before = "", ""
    for child in node.children:
        if child.type == "attribute_item":
            marks += _text(child)
            continue
        if node.type == "token_tree" and child.type == "identifier" and before == "fn":
            yield _Token(child), "#[test]"
        yield child, marks
        marks = ""
        before = _text(child) if child.child_count == 0 else ""


class _Token:
    """A name in a macro's tokens, seen as the function that it becomes."""

    type = "function_item"
    children: tuple[Any, ...] = ()

    def __init__(self, name: Any) -> None:
        self._name = name
        self.start_point = name.start_point

    def child_by_field_name(self, _field: str) -> Any:
        return self._name


def _definition(node: Any, marks: str) -> Definition:
    unrun = ""
    if node.type == "function_item":
        if "ignore" in marks:
            unrun = "it is ignored"
        elif not any(sign in marks for sign in _RUST_TESTS):
            unrun = "it has no `#[test]`"
    return Definition(line=node.start_point[0] + 1, unrun=unrun)


def _text(node: Any) -> str:
    return bytes(node.text).decode("utf-8", "replace")
