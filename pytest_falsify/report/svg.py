"""What all pictures write: text at a place, escaped."""

from __future__ import annotations

from xml.sax.saxutils import escape


def text(  # noqa: PLR0917 - place, then text: the order in which drawing has them
    x: float, y: float, words: str, kind: str, anchor: str = "start", more: str = ""
) -> str:
    """Return a ``text`` element.

    Args:
        x: in pixels, of the anchor.
        y: of the baseline.
        words: what it says.
        kind: its classes.
        anchor: ``start``, ``middle`` or ``end``.
        more: further attributes.
    """
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}{" " + more if more else ""}>{escape(words)}</text>'
