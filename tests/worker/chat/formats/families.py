"""How each model family writes, put down apart from the records, and what a client should get of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Call = tuple[str, dict[str, Any]]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "place": {
            "type": "object",
            "properties": {
                "lat": {"type": "number"},
                "names": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["lat", "names"],
        },
    },
    "required": ["city"],
}
TOOLS: dict[str, Any] = {"get_weather": WEATHER, "get_time": None}


@dataclass(frozen=True, slots=True)
class Family:
    """`templates` are names of llama.cpp's; `calls` writes calls, `begins` is what they begin with.

    `think` stands before and behind its thinking, `say` before and behind what it says.
    """

    templates: tuple[str, ...]
    calls: Callable[[Sequence[Call]], str]
    begins: str
    think: tuple[str, str] | None = None
    say: tuple[str, str] = ("", "")
    several: bool = True
    text_before: bool = True  # whether it may say something and then call
    leaves_out: bool = False  # calls of tools that are not there, which no client should see
    forced: Callable[[Sequence[Call]], str] | None = None  # where it is held to less than it may write


@dataclass(frozen=True, slots=True)
class Outcome:
    thought: str
    content: str
    calls: list[Call]
    whole: bool = True


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def in_tags(begin: str, end: str) -> Callable[[str], str]:
    return lambda text: begin + text + end


def raw(value: Any) -> str:
    """Text without quotes, all else as JSON."""
    return value if isinstance(value, str) else dumped(value)


def json_calls(begin: str, end: str, between: str, one: str = '{"name": "NAME", "arguments": ARGS}') -> Any:
    return lambda calls: begin + between.join(_json(one, *call) for call in calls) + end


def _json(one: str, name: str, arguments: dict[str, Any]) -> str:
    return one.replace("NAME", name).replace("ARGS", dumped(arguments))


def tagged_calls(
    begin: str, end: str, between: str, call: tuple[str, str], parameter: str, joined: str = ""
) -> Any:
    """`call` is what is before a call's parameters and behind them, `parameter` how one is written."""

    def one(name: str, arguments: dict[str, Any]) -> str:
        parameters = [_parameter(parameter, key, value) for key, value in arguments.items()]
        return call[0].replace("NAME", name) + joined.join(parameters) + call[1]

    return lambda calls: begin + between.join(one(*made) for made in calls) + end


def _parameter(parameter: str, key: str, value: Any) -> str:
    is_text = isinstance(value, str)
    kind = "string" if is_text else "object"
    told = parameter.replace("KEY", key).replace("TYPE", kind).replace("IS_TEXT", str(is_text).lower())
    return told.replace("VALUE", raw(value))


def python_calls(begin: str, end: str, between: str) -> Any:
    def one(name: str, arguments: dict[str, Any]) -> str:
        return f"{name}({', '.join(f'{key}={dumped(value)}' for key, value in arguments.items())})"

    return lambda calls: begin + between.join(one(*made) for made in calls) + end


def quoted_calls(begin: str, end: str, quote: str) -> Any:
    def value(of: Any) -> str:
        if isinstance(of, str):
            return quote + of + quote
        if isinstance(of, dict):
            return "{" + ",".join(f"{key}:{value(item)}" for key, item in sorted(of.items())) + "}"
        if isinstance(of, list):
            return "[" + ",".join(map(value, of)) + "]"
        return dumped(of)

    return lambda calls: "".join(f"{begin}call:{name}{value(made)}{end}" for name, made in calls)


def element_calls(calls: Sequence[Call]) -> str:
    space = "]<]minimax[>["

    def element(name: str, of: Any) -> str:
        inner = raw(of)
        if isinstance(of, dict):
            inner = "".join(element(key, item) for key, item in of.items())
        elif isinstance(of, list):
            inner = "".join(element("item", item) for item in of)
        return f"{space}<{name}>{inner}{space}</{name}>"

    def one(name: str, arguments: dict[str, Any]) -> str:
        inner = "".join(element(key, item) for key, item in arguments.items())
        return f'{space}<invoke name="{name}">{inner}{space}</invoke>'

    return f"{space}<tool_call>\n{chr(10).join(one(*call) for call in calls)}\n{space}</tool_call>"


_THINK = ("<think>", "</think>")
_COMMAND = '{"tool_call_id": "0", "tool_name": "NAME", "parameters": ARGS}'
_CODER = tagged_calls(
    "<tool_call>\n",
    "\n</tool_call>",
    "\n</tool_call>\n<tool_call>\n",
    ("<function=NAME>\n", "</function>"),
    "<parameter=KEY>\nVALUE\n</parameter>\n",
)
_GLM = tagged_calls(
    "",
    "",
    "\n",
    ("<tool_call>NAME\n", "</tool_call>"),
    "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n",
)
_GLM_47 = tagged_calls(
    "",
    "",
    "",
    ("<tool_call>NAME", "</tool_call>"),
    "<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>",
)


_COMMAND_FORCED = json_calls(
    "<|START_ACTION|>[", "]<|END_ACTION|>", ", ", '{"tool_name": "NAME", "parameters": ARGS}'
)


def _dsml(section: str) -> Any:
    return tagged_calls(
        f"<｜DSML｜{section}>\n",
        f"\n</｜DSML｜{section}>",
        "\n",
        ('<｜DSML｜invoke name="NAME">\n', "</｜DSML｜invoke>"),
        '<｜DSML｜parameter name="KEY" string="IS_TEXT">VALUE</｜DSML｜parameter>\n',
    )


_HERMES = json_calls("<tool_call>\n", "\n</tool_call>", "\n</tool_call>\n<tool_call>\n")
FAMILIES: dict[str, Family] = {
    "Hermes": Family(
        (
            "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
            "Qwen-Qwen2.5-7B-Instruct",
            "ibm-granite-granite-4.1",
        ),
        _HERMES,
        "<tool_call>",
    ),
    "Qwen 3": Family(("Qwen-Qwen3-0.6B", "Qwen-QwQ-32B"), _HERMES, "<tool_call>", _THINK),
    "Qwen 3.5": Family(("Qwen3.5-4B", "StepFun3.5-Flash"), _CODER, "<tool_call>", _THINK),
    "Qwen3-Coder": Family(("Qwen3-Coder",), _CODER, "<tool_call>"),
    "Mistral 3": Family(
        ("mistralai-Mistral-Nemo-Instruct-2407",), json_calls("[TOOL_CALLS][", "]", ", "), "[TOOL_CALLS]"
    ),
    "Magistral": Family(
        ("mistralai-Ministral-3-14B-Reasoning-2512",),
        lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{dumped(made)}" for name, made in calls),
        "[TOOL_CALLS]",
        ("[THINK]", "[/THINK]"),
    ),
    "Llama 3": Family(
        ("meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct"),
        json_calls("", "", "; ", '{"name": "NAME", "parameters": ARGS}'),
        '{"name"',
        text_before=False,
    ),
    "Functionary 3.1": Family(
        ("meetkai-functionary-medium-v3.1",),
        json_calls("", "", "\n", "<function=NAME>ARGS</function>"),
        "<function=",
    ),
    "Functionary 3.2": Family(
        ("meetkai-functionary-medium-v3.2",),
        lambda calls: "".join(f">>>{name}\n{dumped(made)}" for name, made in calls),
        ">>>",
    ),
    "Granite 3": Family(
        ("ibm-granite-granite-3.3-2B-Instruct",),
        json_calls("<|tool_call|>[", "]", ", "),
        "<|tool_call|>",
        _THINK,
    ),
    "gpt-oss": Family(
        ("openai-gpt-oss-120b",),
        lambda calls: "<|start|>assistant".join(
            f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{dumped(made)}<|call|>"
            for name, made in calls
        ),
        "<|channel|>commentary to=functions.",
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        ("<|channel|>final<|message|>", "<|end|><|start|>assistant"),
        several=False,
        leaves_out=True,
    ),
    "Kimi K2": Family(
        ("moonshotai-Kimi-K2", "Kimi-K2-Instruct", "Kimi-K2-Thinking"),
        lambda calls: (
            "<|tool_calls_section_begin|>"
            + "".join(
                f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{dumped(made)}<|tool_call_end|>"
                for name, made in calls
            )
            + "<|tool_calls_section_end|>"
        ),
        "<|tool_calls_section_begin|>",
        _THINK,
    ),
    "Kimi K3": Family(
        ("Kimi-K3",),
        tagged_calls(
            "<|open|>tools<|sep|>",
            "<|close|>tools<|sep|>",
            "",
            ('<|open|>call tool="NAME" index="1"<|sep|>', "<|close|>call<|sep|>"),
            '<|open|>argument key="KEY" type="TYPE"<|sep|>VALUE<|close|>argument<|sep|>',
        ),
        "<|open|>tools<|sep|>",
        ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    ),
    "DeepSeek R1": Family(
        ("llama-cpp-deepseek-r1",),
        lambda calls: (
            "<｜tool▁calls▁begin｜>"
            + "\n".join(
                f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumped(made)}\n```<｜tool▁call▁end｜>"
                for name, made in calls
            )
            + "<｜tool▁calls▁end｜>"
        ),
        "<｜tool▁calls▁begin｜>",
        _THINK,
    ),
    "DeepSeek V3.1": Family(
        ("deepseek-ai-DeepSeek-V3.1",),
        lambda calls: (
            "<｜tool▁calls▁begin｜>"
            + "".join(
                f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumped(made)}<｜tool▁call▁end｜>"
                for name, made in calls
            )
            + "<｜tool▁calls▁end｜>"
        ),
        "<｜tool▁calls▁begin｜>",
        _THINK,
    ),
    "DeepSeek V3.2": Family(
        ("deepseek-ai-DeepSeek-V3.2",), _dsml("function_calls"), "<｜DSML｜function_calls>", _THINK
    ),
    "DeepSeek V4": Family(
        ("deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731"),
        _dsml("tool_calls"),
        "<｜DSML｜tool_calls>",
        _THINK,
    ),
    "GLM 4.5": Family(
        ("GLM-4.6", "inclusionai-ling-3.0-flash", "poolside-Laguna-XS.2"), _GLM, "<tool_call>", _THINK
    ),
    "GLM 4.7": Family(("GLM-4.7-Flash", "Spark2.5", "poolside-Laguna-S-2.1"), _GLM_47, "<tool_call>", _THINK),
    "Hunyuan 3": Family(
        ("tencent-Hy3",),
        tagged_calls(
            "<tool_calls:opensource>\n",
            "\n</tool_calls:opensource>",
            "\n",
            ("<tool_call:opensource>NAME<tool_sep:opensource>\n", "</tool_call:opensource>"),
            "<arg_key:opensource>KEY</arg_key:opensource>\n"
            "<arg_value:opensource>VALUE</arg_value:opensource>\n",
        ),
        "<tool_calls:opensource>",
        ("<think:opensource>", "</think:opensource>"),
    ),
    "MiniMax M1": Family(
        ("MiniMax-M1",), json_calls("<tool_calls>\n", "\n</tool_calls>", "\n"), "<tool_calls>", _THINK
    ),
    "MiniMax M2": Family(
        ("MiniMax-M2",),
        tagged_calls(
            "<minimax:tool_call>\n",
            "\n</minimax:tool_call>",
            "\n",
            ('<invoke name="NAME">\n', "</invoke>"),
            '<parameter name="KEY">VALUE</parameter>\n',
        ),
        "<minimax:tool_call>",
        _THINK,
    ),
    "MiniMax M3": Family(
        ("MiniMax-M3",), element_calls, "]<]minimax[>[<tool_call>", ("<mm:think>", "</mm:think>")
    ),
    "Seed-OSS": Family(
        ("ByteDance-Seed-OSS",),
        tagged_calls(
            "<seed:tool_call>\n",
            "\n</seed:tool_call>",
            "\n</seed:tool_call>\n<seed:tool_call>\n",
            ("<function=NAME>\n", "</function>"),
            "<parameter=KEY>VALUE</parameter>\n",
        ),
        "<seed:tool_call>",
        ("<seed:think>", "</seed:think>"),
    ),
    "Command R7B": Family(
        ("CohereForAI-c4ai-command-r7b-12-2024-tool_use",),
        json_calls("<|START_ACTION|>[\n    ", "\n]<|END_ACTION|>", ",\n    ", _COMMAND),
        "<|START_ACTION|>",
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        forced=_COMMAND_FORCED,
    ),
    "Cohere 2 MoE": Family(
        ("Cohere2MoE",),
        json_calls("<|START_ACTION|>[\n    ", "\n]<|END_ACTION|>", ",\n    ", _COMMAND),
        "<|START_ACTION|>",
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_TEXT|>", "<|END_TEXT|>"),
        forced=_COMMAND_FORCED,
    ),
    "Command R+": Family(
        ("CohereForAI-c4ai-command-r-plus-tool_use",),
        json_calls("Action:\n```json\n[", "]\n```", ", ", '{"tool_name": "NAME", "parameters": ARGS}'),
        "Action:\n```json",
    ),
    "LFM2": Family(
        ("LFM2-8B-A1B", "LFM2.5-Instruct"),
        python_calls("<|tool_call_start|>[", "]<|tool_call_end|>", ", "),
        "<|tool_call_start|>",
    ),
    "LFM2.5": Family(
        ("LFM2.5-8B-A1B",),
        python_calls("<|tool_call_start|>[", "]<|tool_call_end|>", ", "),
        "<|tool_call_start|>",
        _THINK,
    ),
    "Apertus": Family(
        ("Apertus-8B-Instruct",),
        json_calls("<|tools_prefix|>[", "]<|tools_suffix|>", ", ", '{"NAME": ARGS}'),
        "<|tools_prefix|>",
        ("<|inner_prefix|>", "<|inner_suffix|>"),
    ),
    "Apriel": Family(
        ("Apriel-1.6-15b-Thinker-fixed",),
        json_calls("<tool_calls>[", "]</tool_calls>", ", "),
        "<tool_calls>",
        ("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"),
    ),
    "Nemotron Nano 2": Family(
        ("NVIDIA-Nemotron-Nano-v2",), json_calls("<TOOLCALL>[", "]</TOOLCALL>", ", "), "<TOOLCALL>", _THINK
    ),
    "Gemma 4": Family(
        ("google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"),
        quoted_calls("<|tool_call>", "<tool_call|>", '<|"|>'),
        "<|tool_call>",
        ("<|channel>thought\n", "<channel|>"),
    ),
    "MiniCPM 5": Family(
        ("openbmb-MiniCPM5-1B",),
        tagged_calls(
            "",
            "",
            "\n",
            ('<function name="NAME">', "</function>"),
            '<param name="KEY"><![CDATA[VALUE]]></param>',
        ),
        '<function name="',
        _THINK,
        forced=tagged_calls(
            "", "", "\n", ('<function name="NAME">', "</function>"), '<param name="KEY">VALUE</param>'
        ),
    ),
    "Solar Open": Family(
        ("upstage-Solar-Open-100B",),
        lambda calls: (
            "<|tool_calls|>"
            + "".join(
                f"<|tool_call:begin|>0<|tool_call:name|>{name}<|tool_call:args|>{dumped(made)}<|tool_call:end|>"
                for name, made in calls
            )
        ),
        "<|tool_calls|>",
        ("<|think|>", "<|end|><|begin|>assistant"),
        ("<|content|>", "<|end|><|begin|>assistant"),
    ),
    "FireFunction": Family(
        ("fireworks-ai-llama-3-firefunction-v2",), json_calls(" functools[", "]", ", "), "functools["
    ),
    "GigaChat 3": Family(
        ("GigaChat3-10B-A1.8B",),
        json_calls("<|message_sep|>\n\nfunction call<|role_sep|>\n", "", ""),
        "<|message_sep|>\n\nfunction call<|role_sep|>\n",
        several=False,
    ),
    "GigaChat 3.1": Family(
        ("GigaChat3.1-10B-A1.8B",),
        json_calls("<|function_call|>", "", ""),
        "<|function_call|>",
        several=False,
    ),
}

PARIS: Call = ("get_weather", {"city": "Paris"})
# All that a forced call may have, in the order of the schema.
FULL: Call = ("get_weather", {"city": "Oslo", "days": 3, "place": {"lat": 1.5, "names": ["a b", "c"]}})
_ROME: Call = ("get_weather", {"city": "Rome", "days": 3})
_NOW: Call = ("get_time", {})
_NESTED: Call = ("get_weather", {"city": "Oslo", "place": {"lat": 1.5, "names": ["a b", "c"]}})
_UNICODE: Call = ("get_weather", {"city": "東京 🗼 caf\u00e9"})
_QUOTES: Call = ("get_weather", {"city": 'Say "hi",\nthen \\ {it\'s} [here] </b>\n\n  \tnow'})


def written_by(family: Family) -> Iterator[tuple[str, str, Outcome]]:
    """What is recorded of a family: its name, the model's text, what a client should get."""
    calls, say = family.calls, in_tags(*family.say)
    yield "text", say("It is 5 < 7.\n\nSo [1] it {is}."), Outcome("", "It is 5 < 7.\n\nSo [1] it {is}.", [])
    yield "one call", calls([PARIS]), Outcome("", "", [PARIS])
    for name, made in {"nested": _NESTED, "unicode": _UNICODE, "quotes": _QUOTES, "empty": _NOW}.items():
        yield name, calls([made]), Outcome("", "", [made])
    number = ("get_weather", {"city": "123"})
    yield "text that looks like a number", calls([number]), Outcome("", "", [number])
    if family.several:
        yield "two calls", calls([PARIS, _ROME]), Outcome("", "", [PARIS, _ROME])
        yield "three calls", calls([PARIS, _NOW, _ROME]), Outcome("", "", [PARIS, _NOW, _ROME])
    if family.text_before:
        yield "text before", say("I look.") + calls([PARIS]), Outcome("", "I look.", [PARIS])
    if family.think:
        thought = f"{family.think[0]}Hm, 1 < 2.\n\nYes.{family.think[1]}"
        yield "thinking", thought + say("Four."), Outcome("Hm, 1 < 2.\n\nYes.", "Four.", [])
        yield "thinking before", thought + calls([PARIS]), Outcome("Hm, 1 < 2.\n\nYes.", "", [PARIS])
        yield "thinking cut", f"{family.think[0]}Hm, 1", Outcome("Hm, 1", "", [])
    text = calls([_UNICODE])
    cut = text[: text.index("🗼")]
    yield "cut in a call", cut, Outcome("", "", [("get_weather", {})], whole=False)
    foreign = calls([("launch_rocket", {"city": "Paris"})])
    yield "tool that is not there", foreign, Outcome("", "" if family.leaves_out else foreign, [])
    if not family.leaves_out:
        like = f"Write {family.begins} and then get_weather."
        yield "looks like a call", say(like), Outcome("", like, [])
