"""What templates may do, and what they are stopped at."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from worker.chat import jinja
from worker.chat.jinja import JinjaTemplate, TemplateExhausted, TemplateRefusal


def rendered(source: str, **variables: Any) -> str:
    return JinjaTemplate(source, lambda value: value).render(variables)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('No, thank you') }}",
        "{% macro deeper(x) %}{{ deeper(x) }}{% endmacro %}{{ deeper(1) }}",
        "{{ 1 / 0 }}",
        "{{ missing.attribute.of }}",
        "{{ x['no such key'].more }}",
        "{{ 'a' + 1 }}",
        "{% for item in none %}{% endfor %}",
        "{{ range(10 ** 4) | list }}{{ range(1000000) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ '%d' % 'x' }}",
        "{{ x | from_json }}",
        "{{ dict(a=1).popitem() }}",
    ],
)
def test_whatever_a_template_raises_is_a_refusal(source: str) -> None:
    with pytest.raises((TemplateRefusal, TemplateExhausted)):
        rendered(source, x={})


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = x.y %}{% endfor %}{% endfor %}",
        "{{ 'x' * n }}",
        "{{ n * [1] }}",
        "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{{ 9 ** n }}",
    ],
)
def test_a_template_that_would_go_on_and_on_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "_MAX_STEPS", 10_000)
    with pytest.raises(TemplateExhausted):
        rendered(source, n=10**9, x={})


def test_a_template_may_let_its_lists_grow_but_not_what_it_was_given() -> None:
    messages = [{"content": "a"}]
    source = (
        "{% set seen = [] %}{% for m in messages %}{% set _ = seen.append(m.content) %}{% endfor %}{{ seen }}"
    )
    template = JinjaTemplate(source + "{% set _ = messages.pop() %}", lambda value: value)
    assert template.render({"messages": messages}) == "['a']"
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ("", '{"b": "\u00e9<", "a": [1]}'),
        ("sort_keys=True", '{"a": [1], "b": "\u00e9<"}'),
        ("separators=(',', ':')", '{"b":"\u00e9<","a":[1]}'),
        ("ensure_ascii=True", '{"b": "\\u00e9<", "a": [1]}'),
        ("indent=1", '{\n "b": "\u00e9<",\n "a": [\n  1\n ]\n}'),
    ],
)
def test_json_is_written_as_transformers_writes_it(options: str, written: str) -> None:
    assert rendered(f"{{{{ x | tojson({options}) }}}}", x={"b": "\u00e9<", "a": [1]}) == written


@pytest.mark.parametrize(
    "source", ["{{ x | from_json }}", "{{ x | striptags }}", "{{ (x | safe).unescape() }}"]
)
def test_what_a_template_decodes_is_looked_at_again(source: str) -> None:
    template = JinjaTemplate(source, lambda value: f"looked at {value}")
    for x in ('"\\u003c"', "&lt;"):
        with contextlib.suppress(TemplateRefusal):
            assert template.render({"x": x}).startswith("looked at ")
