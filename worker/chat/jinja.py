"""The Jinja environment that chat templates are written for: that of Hugging Face's tokenizers.

https://huggingface.co/docs/transformers/chat_templating_writing names what it offers; templates of
llama.cpp's use `from_json` besides.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

_MAX_STEPS = 1_500_000  # look-ups in one rendering, some seconds: more than conversations need that fit
_MAX_LENGTH = 50_000_000  # characters of a prompt, or of a string on the way there


_GROWING = frozenset({"append", "extend", "insert", "pop"})


class TemplateRefusal(Exception):
    """The template did not make a prompt of what it was given; the message is its own, or says why."""


class TemplateExhausted(Exception):
    """It would work on and on; the message says at what."""


class GenerationTags(Extension):
    """`{% generation %}…{% endgeneration %}`, which mark what training looks at: here, what is in them."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Counts what a rendering does: templates may loop over what a client sends, and within that again."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTags, loopcontrols])
        self._steps = threading.local()

    def begin(self) -> None:
        self._steps.left = _MAX_STEPS

    @property
    def steps_taken(self) -> int:
        """Since this thread began."""
        return int(_MAX_STEPS - self._steps.left)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._step()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._step()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Lists may grow: what a rendering is given is its own. Nothing makes `<` of a client's `&lt;`."""
        if isinstance(obj, Markup) and attr in ("unescape", "striptags"):
            return False
        return (isinstance(obj, list) and attr in _GROWING) or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) if isinstance(side, str | list | tuple) else side for side in (left, right)]
        if operator == "**" or (sizes != [left, right] and abs(sizes[0] * sizes[1]) > _MAX_LENGTH):
            raise TemplateExhausted("it multiplies beyond all measure")
        return super().call_binop(context, operator, left, right)

    def _step(self) -> None:
        self._steps.left -= 1
        if self._steps.left < 0:
            raise TemplateExhausted("it takes too many steps for this conversation")


class JinjaTemplate:
    """A chat template's source, compiled. Raises jinja2.TemplateSyntaxError where it is none."""

    def __init__(self, source: str, decoded: Callable[[Any], Any]) -> None:
        """`decoded` is applied to what the template decodes: text that nobody has looked at yet."""
        self._environment = environment = _Environment()
        environment.filters["tojson"] = _to_json
        environment.filters["from_json"] = lambda text: decoded(json.loads(text))
        environment.filters["striptags"] = lambda text: decoded(Markup(text).striptags())
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self._changes = any(f".{method}(" in source for method in _GROWING)
        # The variables that the template knows, so that it can be told what has no effect.
        self.variables = frozenset(meta.find_undeclared_variables(environment.parse(source)))

    def render(self, variables: Mapping[str, Any]) -> str:
        """Raises TemplateRefusal whatever happens, no template's failure is one of the server, or else
        TemplateExhausted."""
        self._environment.begin()
        try:
            return "".join(self._bounded(deepcopy(variables) if self._changes else variables))
        except (TemplateRefusal, TemplateExhausted):
            raise
        except Exception as error:  # a foreign program, which may raise anything
            raise TemplateRefusal(str(error) or type(error).__name__) from error

    def _bounded(self, variables: Mapping[str, Any]) -> Iterator[str]:
        length = 0
        for piece in self._template.generate(dict(variables)):
            length += len(piece)
            if length > _MAX_LENGTH:
                raise TemplateExhausted("it writes without end")
            yield piece


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As JSON, not as Jinja's own filter writes it, which is for HTML."""
    written = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    return "".join(map(_escaped, written)) if ensure_ascii else written


def _escaped(char: str) -> str:
    """Only what is beyond ASCII, and none of the surrogates that stand in for other characters."""
    return char if char.isascii() or "\ud800" <= char <= "\udfff" else json.dumps(char)[1:-1]


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
