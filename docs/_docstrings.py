"""Turn equations and references in docstrings into Markdown for the site."""

import re
import textwrap

import griffe
from latex2mathml.converter import convert

_MATH = re.compile(r"^( *)\.\. math::(?: *(\S.*)\n|\n+)((?:\1 +\S.*\n|\n)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:class|data|func|meth|mod|attr):`~?([^`]+)`")


def _math(found: re.Match[str]) -> str:
    indent, first, rest = found[1], found[2] or "", textwrap.dedent(found[3])
    latex = f"{first}\n{rest}".strip()
    if "&=" in latex:
        latex = rf"\begin{{align*}}{latex}\end{{align*}}"
    return f'{indent}<div class="equation">{convert(latex, display="block")}</div>\n\n'


def to_markdown(text: str) -> str:
    """Turn equations into MathML, and roles and literal blocks into Markdown."""
    text = _MATH.sub(_math, text + "\n").strip("\n")
    # In a span, for Markdown takes what begins with an equation for a block.
    text = _INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", text)
    text = _ROLE.sub(r"`\1`", text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Translate every docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Translate one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
