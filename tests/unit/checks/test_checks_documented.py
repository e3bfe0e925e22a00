"""docs/checks.md lists every kind of check with every parameter, as the schemas have them."""

import inspect
import os
from pathlib import Path

from pytest_falsify.checks.registry import BUILT_IN, check
from pytest_falsify.compare.alignment import WORDS
from pytest_falsify.compare.metrics import METRICS

PAGE = Path(__file__).parents[3] / "docs" / "checks.md"
BEGIN = "<!-- made of the schemas by tests/unit/checks/test_checks_documented.py -->\n"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(each)} |\n" for each in lines)


def spelled(schema):
    """Return in words what a parameter may be."""
    if words := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return ", ".join(f"`{each}`" for each in words)
    if choices := schema.get("oneOf", schema.get("anyOf") if "type" not in schema else None):
        return " or ".join(dict.fromkeys(map(spelled, choices)))
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}"}
    bounds = " ".join(word.format(schema[key]) for key, word in words.items() if key in schema)
    match schema.get("type"):
        case "array":
            return f"list of {spelled(schema.get('items', {}))}"
        case "object":
            keys = ", ".join(f"`{name}`" for name in schema.get("properties", {}))
            return f"mapping of {keys}" if keys else "mapping"
        case kind:
            return " ".join(filter(None, [kind or "value", bounds]))


def section(kind):
    found = check(kind)
    summary = inspect.getdoc(found).splitlines()[0]
    either = getattr(found, "one_of", ())
    rows = [
        [
            f"`{name}`" + (" (required)" if name in found.required else ""),
            spelled(schema),
            schema.get("description", ""),
        ]
        for name, schema in found.parameters.items()
    ]
    names = " and ".join(f"`{each}`" for each in either)
    lacking = f"At least one of {names} must stand there.\n\n"
    return (
        f"\n## `{kind}`\n\n{summary}\n\n"
        + (lacking if either else "")
        + table(["parameter", "takes", "what it is"], rows)
    )


def generated():
    metrics = [
        [
            f"`{name}`",
            ", ".join(f"`{side}`" for side in each.sides),
            each.description,
        ]
        for name, each in METRICS.items()
    ]
    steps = [
        [
            f"`{name}`",
            ", ".join(
                f"`{key}`" + ("?" if key in word.optional else "") for key in word.properties
            ),
            word.description,
        ]
        for name, word in WORDS.items()
    ]
    return (
        "".join(map(section, sorted(BUILT_IN)))
        + "\n## Metrics of `expect` in `parity`\n\n"
        + table(["metric", "sides", "what it is"], metrics)
        + "\n## Steps of `align`\n\n"
        + table(["step", "parameters", "what it does"], steps)
    )


def test_the_page_of_checks_is_what_the_schemas_say():
    head, mark, found = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(head + BEGIN + generated(), encoding="utf-8")
        return
    assert mark
    assert generated() == found, "UPDATE_GOLDEN=1 writes it anew"


def test_every_parameter_says_what_it_is():
    silent = [
        f"{kind}.{name}"
        for kind in BUILT_IN
        for name, schema in check(kind).parameters.items()
        if not schema.get("description")
    ]
    assert silent == []
