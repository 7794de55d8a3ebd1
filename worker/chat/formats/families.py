"""The records of all model families, and which one a chat template belongs to.

The formats are those of the families' own chat templates and of what the models write; a record is put before
those that say less.
"""

from __future__ import annotations

import re
from dataclasses import replace

from worker.chat.formats.channels import ChannelCall
from worker.chat.formats.elements import Elements
from worker.chat.formats.json_text import JsonObject, NamedJson
from worker.chat.formats.python_call import PythonCall
from worker.chat.formats.quoted import Quoted
from worker.chat.formats.record import THINK, Calls, Format, Syntax, Tags
from worker.chat.formats.tagged import Parameter, Tagged

_NAME = r"(?P<name>[^\s<>{}\[\]\"]+)"
_OBJECT = JsonObject()
_BARE = (JsonObject(strict=True),)

# <function=f>{…}</function>, Llama 3.1's custom calls and Functionary's; before it the same with parameters.
_FUNCTION = NamedJson(
    "<function=", re.compile(rf"<function={_NAME}>\s*(?={{)"), "<function={name}>", "</function>"
)


def _function(line: str, value_line: str) -> Tagged:
    """`<function=f><parameter=key>value</parameter></function>`, with line breaks between or without."""
    parameter = Parameter(
        begins="<parameter=",
        head=re.compile(r"<parameter=(?P<key>[^>]+)>"),
        write=f"<parameter={{key}}>{value_line}",
        end="</parameter>",
        write_end=f"{value_line}</parameter>{line}",
        line_breaks=bool(value_line),
    )
    head = re.compile(rf"<function={_NAME}>(?!\s*{{)(?=\s*\S)")
    return Tagged(
        "<function=", head, f"<function={{name}}>{line}", parameter, "</function>", ("</tool_call>",)
    )


_CODER = _function("\n", "\n")
_MISTRAL_NAMED = NamedJson(
    "",
    re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?:\[CALL_ID\][A-Za-z0-9]+)?(?:\[ARGS\])?\s*(?={)"),
    "{name}[ARGS]",
)

# What most models write, whatever their template says: all of it is read for all families of JSON calls.
_JSON_OPENERS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>")
_JSON_CLOSERS = ("</tool_call>", "<|eom_id|>", "<|/tool_call|>")
_READ: tuple[Syntax, ...] = (_OBJECT, _FUNCTION, _CODER, _MISTRAL_NAMED)


def _json_calls(begin: str, end: str, between: str, *written: Syntax) -> Calls:
    first = written or (_OBJECT,)
    return Calls(
        syntaxes=(*first, *(syntax for syntax in _READ if syntax not in first)),
        begin=begin,
        end=end,
        between=between,
        openers=_JSON_OPENERS,
        closers=_JSON_CLOSERS,
        bare=_BARE,
    )


_MISTRAL_THINK = Tags("[THINK]", "[/THINK]")
_BOTH = (THINK, _MISTRAL_THINK)

HERMES = Format(
    "Hermes, Qwen and others",
    ("<tool_call>",),
    _json_calls("<tool_call>\n", "\n</tool_call>", "\n</tool_call>\n<tool_call>\n"),
    _BOTH,
    calls_end_thinking=True,
)
CODER = Format(
    "Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5",
    ("<function=", "<parameter="),
    _json_calls("<tool_call>\n", "\n</tool_call>", "\n</tool_call>\n<tool_call>\n", _CODER),
    _BOTH,
    calls_end_thinking=True,
)
MISTRAL = Format("Mistral", ("[TOOL_CALLS]",), _json_calls("[TOOL_CALLS][", "]", ", "), _BOTH)
MISTRAL_NAMED = Format(
    "Mistral v11 and later",
    ("[TOOL_CALLS]", "[ARGS]"),
    _json_calls("[TOOL_CALLS]", "", "[TOOL_CALLS]", _MISTRAL_NAMED),
    _BOTH,
)
LLAMA = Format(
    "Llama 3",
    ('"parameters"',),
    _json_calls("", "", "; ", JsonObject(arguments_key="parameters")),
    _BOTH,
)
FUNCTIONARY_31 = Format("Functionary 3.1", ("<function=",), _json_calls("", "", "\n", _FUNCTION), _BOTH)
FUNCTIONARY_32 = Format(
    "Functionary 3.2",
    (">>>", "recipient"),
    Calls(
        (NamedJson(">>>", None, ">>>{name}\n"),),
        between="",
        bare=(NamedJson("", None, "{name}\n"),),
    ),
    unsaid=(">>>all\n",),
    lead="all\n",
)
GRANITE = Format(
    "Granite 3",
    ("<|tool_call|>",),
    _json_calls("<|tool_call|>[", "]", ", "),
    (
        THINK,
        Tags("Here is my thought process:", "Here is my response:"),
        Tags("Here's my thought process:", "Here's my response:"),
    ),
    answer=Tags("<response>", "</response>"),
)
PHI = Format("Phi-4-mini", ("<|/tool|>",), _json_calls("<|tool_call|>[", "]<|/tool_call|>", ", "))
GPT_OSS = Format(
    "gpt-oss",
    ("<|channel|>", "<|message|>"),
    Calls((ChannelCall(),), several=False),
    (Tags("<|channel|>analysis<|message|>", "<|end|>"),),
    answer=Tags("<|channel|>final<|message|>", ""),
    channels=True,
    after_thinking="<|start|>assistant",
)
KIMI_K2 = Format(
    "Kimi K2",
    ("<|tool_calls_section_begin|>",),
    Calls(
        (
            NamedJson(
                "<|tool_call_begin|>",
                re.compile(
                    r"<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[^\s<>:{]+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>\s*"
                ),
                "<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
                "<|tool_call_end|>",
            ),
        ),
        begin="<|tool_calls_section_begin|>",
        end="<|tool_calls_section_end|>",
        closers=("<|tool_calls_section_end|>",),
    ),
    (THINK, Tags("◁think▷", "◁/think▷")),
    calls_end_thinking=True,
)
_K3_ARGUMENT = Parameter(
    begins="<|open|>argument",
    head=re.compile(r'<\|open\|>argument\s+key="(?P<key>[^"]*)"(?:\s+type="(?P<type>\w+)")?\s*<\|sep\|>'),
    write='<|open|>argument key="{key}" type="{type}"<|sep|>',
    end="<|close|>argument<|sep|>",
    write_end="<|close|>argument<|sep|>",
    write_types=("string", "object"),
)
KIMI_K3 = Format(
    "Kimi K3",
    ("<|open|>", "<|sep|>"),
    Calls(
        (
            Tagged(
                "<|open|>call",
                re.compile(r'<\|open\|>call\s+tool="(?P<name>[^"]+)"[^<]*<\|sep\|>'),
                '<|open|>call tool="{name}" index="1"<|sep|>',
                _K3_ARGUMENT,
                "<|close|>call<|sep|>",
            ),
        ),
        begin="<|open|>tools<|sep|>",
        end="<|close|>tools<|sep|>",
    ),
    (Tags("<|open|>think<|sep|>", "<|close|>think<|sep|>"),),
    answer=Tags("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    unsaid=("<|close|>message<|sep|>", "<|close|>think<|sep|>"),
    thinks_again=True,
    calls_end_thinking=True,
)


def _dsml(section: str) -> Format:
    parameter = Parameter(
        begins="<｜DSML｜parameter",
        head=re.compile(
            r'<｜DSML｜parameter\s+name="(?P<key>[^"]*)"(?:\s+string="(?P<type>true|false)")?\s*>'
        ),
        write='<｜DSML｜parameter name="{key}" string="{type}">',
        end="</｜DSML｜parameter>",
        write_end="</｜DSML｜parameter>\n",
        write_types=("true", "false"),
    )
    call = Tagged(
        "<｜DSML｜invoke",
        re.compile(r'<｜DSML｜invoke\s+name="(?P<name>[^"]+)"\s*>'),
        '<｜DSML｜invoke name="{name}">\n',
        parameter,
        "</｜DSML｜invoke>",
    )
    begin, end = f"<｜DSML｜{section}>", f"</｜DSML｜{section}>"
    return Format(
        f"DeepSeek {'V3.2' if section == 'function_calls' else 'V4'}",
        ("｜DSML｜", section),
        Calls((call,), f"{begin}\n", f"\n{end}", "\n"),
        calls_end_thinking=True,
    )


_DEEPSEEK_BEGIN, _DEEPSEEK_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_DEEPSEEK_OPENERS = ("<｜tool▁calls｜>", "<｜tool_calls_begin｜>", "<｜tool calls begin｜>")
_R1_CALL = NamedJson(
    "<｜tool▁call▁begin｜>",
    re.compile(rf"<｜tool▁call▁begin｜>\s*function\s*<｜tool▁sep｜>\s*{_NAME}\s*(?:```(?:json)?\s*)?(?={{)"),
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
    "\n```<｜tool▁call▁end｜>",
    ("```<｜tool▁call▁end｜>", "<｜tool▁call▁end｜>", "```"),
)
_R1_BEGUN = replace(
    _R1_CALL,
    begins="function<｜tool▁sep｜>",
    head=re.compile(rf"function\s*<｜tool▁sep｜>\s*{_NAME}\s*(?:```(?:json)?\s*)?(?={{)"),
)
_V31_CALL = NamedJson(
    "<｜tool▁call▁begin｜>",
    re.compile(rf"<｜tool▁call▁begin｜>\s*{_NAME}\s*<｜tool▁sep｜>\s*(?={{)"),
    "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
)
DEEPSEEK_R1 = Format(
    "DeepSeek R1, V3",
    ("<｜tool▁calls▁begin｜>", "```json"),
    Calls(
        (_R1_CALL, _R1_BEGUN, _V31_CALL),
        begin=_DEEPSEEK_BEGIN,
        end=_DEEPSEEK_END,
        between="\n",
        openers=_DEEPSEEK_OPENERS,
        closers=("<｜tool▁call▁end｜>",),
    ),
    calls_end_thinking=True,
)
DEEPSEEK_V31 = Format(
    "DeepSeek V3.1",
    ("<｜tool▁calls▁begin｜>",),
    replace(DEEPSEEK_R1.calls, syntaxes=(_V31_CALL, _R1_CALL, _R1_BEGUN), between=""),
    calls_end_thinking=True,
)


def _keyed(name: str, words: tuple[str, ...], mark: str, line: str) -> Format:
    """GLM's: `<tool_call>f<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`."""
    key, value = f"arg_key{mark}", f"arg_value{mark}"
    parameter = Parameter(
        begins=f"<{key}>",
        head=re.compile(rf"<{key}>(?P<key>.*?)</{key}>\s*<{value}>", re.DOTALL),
        write=f"<{key}>{{key}}</{key}>{line}<{value}>",
        end=f"</{value}>",
        write_end=f"</{value}>{line}",
    )
    begin, end = f"<tool_call{mark}>", f"</tool_call{mark}>"
    separator = f"<tool_sep{mark}>" if mark else ""
    call = Tagged(
        begin,
        re.compile(rf"<tool_call{mark}>\s*{_NAME}\s*(?:{separator}\s*)?(?=<{key}>|{end})"),
        f"{begin}{{name}}{separator}{line}",
        parameter,
        end,
    )
    section = ("<tool_calls{}>\n", "\n</tool_calls{}>") if mark else ("", "")
    return Format(
        name,
        words,
        Calls((call,), section[0].format(mark), section[1].format(mark), line),
        (Tags(f"<think{mark}>", f"</think{mark}>"),),
        unsaid=("<|role_end|>",),
        calls_end_thinking=True,
    )


GLM = _keyed("GLM 4.5 and 4.6", ("<arg_key>",), "", "\n")
GLM_47 = _keyed("GLM 4.7, Laguna, Spark", ("<arg_key>",), "", "")
HUNYUAN_3 = _keyed("Hunyuan 3", ("<arg_key{}>", ":opensource"), ":opensource", "\n")


def _invoke(name: str, words: tuple[str, ...], space: str, section: str) -> Format:
    """`<invoke name="f"><parameter name="key">value</parameter></invoke>`."""
    parameter = Parameter(
        begins=f"<{space}parameter",
        head=re.compile(rf'<{space}parameter\s+name="?(?P<key>[^">]*)"?\s*>'),
        write=f'<{space}parameter name="{{key}}">',
        end=f"</{space}parameter>",
        write_end=f"</{space}parameter>\n",
    )
    call = Tagged(
        f"<{space}invoke",
        re.compile(rf'<{space}invoke\s+name="?(?P<name>[^">]+)"?\s*>'),
        f'<{space}invoke name="{{name}}">\n',
        parameter,
        f"</{space}invoke>",
    )
    return Format(
        name, words, Calls((call,), f"<{section}>\n", f"\n</{section}>", "\n"), calls_end_thinking=True
    )


MINIMAX_M2 = _invoke("MiniMax M2", ("<minimax:tool_call>",), "", "minimax:tool_call")
MINIMAX_M3 = Format(
    "MiniMax M3",
    ("]<]minimax[>[",),
    Calls(
        (Elements("]<]minimax[>["),),
        begin="]<]minimax[>[<tool_call>\n",
        end="\n]<]minimax[>[</tool_call>",
        between="\n",
    ),
    (Tags("<mm:think>", "</mm:think>"),),
)
MINIMAX_M1 = Format(
    "MiniMax M1, Hunyuan, Apriel 1.5",
    ("<tool_calls>",),
    Calls(
        (
            _OBJECT,
            NamedJson(
                "<tool_call>",
                re.compile(rf"<tool_call>\s*{_NAME}\s*(?:<tool_sep>\s*)?```(?:json)?\s*(?={{)"),
                "<tool_call>{name}\n```json\n",
                "\n```\n</tool_call>",
                ("```</tool_call>", "```", "</tool_call>"),
            ),
        ),
        begin="<tool_calls>\n",
        end="\n</tool_calls>",
        between="\n",
        closers=("</tool_call>",),
        bare=_BARE,
    ),
    answer=Tags("<answer>", "</answer>"),
)
_STEPS = Tags("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]")
APRIEL = Format(
    "Apriel",
    ("<tool_calls>", "[BEGIN FINAL RESPONSE]"),
    Calls((_OBJECT,), "<tool_calls>[", "]</tool_calls>", ", ", bare=_BARE),
    (_STEPS,),
    unsaid=("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
)
SEED = Format(
    "Seed-OSS",
    ("<seed:tool_call>",),
    Calls(
        (_function("\n", ""),),
        begin="<seed:tool_call>\n",
        end="\n</seed:tool_call>",
        between="\n</seed:tool_call>\n<seed:tool_call>\n",
    ),
    (Tags("<seed:think>", "</seed:think>"),),
    calls_end_thinking=True,
)
COMMAND = JsonObject("tool_name", "parameters")
COMMAND_R7B = Format(
    "Command R7B, Command A",
    ("<|START_ACTION|>", "<|START_RESPONSE|>"),
    Calls((COMMAND,), "<|START_ACTION|>[", "]<|END_ACTION|>", ", "),
    (Tags("<|START_THINKING|>", "<|END_THINKING|>"),),
    thinks_again=True,
    answer=Tags("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
COMMAND_TEXT = replace(
    COMMAND_R7B,
    name="Cohere 2 MoE",
    words=("<|START_ACTION|>", "<|START_TEXT|>"),
    answer=Tags("<|START_TEXT|>", "<|END_TEXT|>"),
)
COMMAND_R_PLUS = Format(
    "Command R",
    ("directly-answer", "Action:"),
    Calls(
        (COMMAND,),
        "Action:\n```json\n[",
        "]\n```",
        ", ",
        openers=("Action: ```json", "Action:```json"),
        closers=("```",),
    ),
    unsaid=("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
)
LLAMA_4 = Format(
    "Llama 4",
    ("<|header_start|>",),
    Calls(
        (PythonCall(), JsonObject(arguments_key="parameters")),
        begin="<|python_start|>[",
        end="]<|python_end|>",
        between=", ",
        openers=("<|python_start|>",),
        closers=("<|python_end|>", "<|python_start|>"),
        bare=(PythonCall(), *_BARE),
    ),
)
LFM2 = Format(
    "LFM2",
    ("<|tool_call_start|>",),
    Calls((PythonCall(), _OBJECT), "<|tool_call_start|>[", "]<|tool_call_end|>", ", "),
)
LFM2_LIST = replace(LFM2, words=("<|tool_list_start|>",))
LFM2_PLAIN = replace(LFM2, words=("List of tools: [", "keep_past_thinking"))  # names no token of a call
OLMO_3 = Format(
    "OLMo 3", ("<function_calls>",), Calls((PythonCall(),), "<function_calls>", "</function_calls>", "\n")
)
APERTUS = Format(
    "Apertus",
    ("<|tools_prefix|>",),
    Calls(
        (
            NamedJson(
                "{",
                re.compile(r'\{\s*"(?P<name>[^"]+)"\s*:\s*(?={)'),
                '{"{name}": ',
                "}",
            ),
        ),
        begin="<|tools_prefix|>[",
        end="]<|tools_suffix|>",
        between=", ",
    ),
    (Tags("<|inner_prefix|>", "<|inner_suffix|>"),),
    thinks_again=True,
)
NEMOTRON = Format("Nemotron Nano 2", ("<TOOLCALL>",), Calls((_OBJECT,), "<TOOLCALL>[", "]</TOOLCALL>", ", "))
GEMMA_4 = Format(
    "Gemma 4",
    ("<|tool_call>",),
    Calls((Quoted('<|"|>'),), "<|tool_call>", "<tool_call|>", "<tool_call|><|tool_call>"),
    (Tags("<|channel>thought", "<channel|>"),),
    unsaid=("<|channel>", "<channel|>"),
    thinks_again=True,
)
FUNCTION_GEMMA = Format(
    "FunctionGemma",
    ("<start_function_call>",),
    Calls(
        (Quoted("<escape>"),),
        "<start_function_call>",
        "<end_function_call>",
        "<end_function_call><start_function_call>",
    ),
)
MINICPM_5 = Format(
    "MiniCPM 5",
    ('<function name="', "<param "),
    Calls(
        (
            Tagged(
                "<function name=",
                re.compile(r'<function name="(?P<name>[^"]+)"\s*>'),
                '<function name="{name}">',
                Parameter(
                    begins="<param ",
                    head=re.compile(r'<param name="(?P<key>[^"]+)"\s*>'),
                    write='<param name="{key}">',
                    end="</param>",
                    write_end="</param>",
                    cdata=True,
                ),
                "</function>",
            ),
        ),
        between="\n",
    ),
)
SOLAR = Format(
    "Solar Open",
    ("<|tool_call:begin|>",),
    Calls(
        (
            NamedJson(
                "<|tool_call:begin|>",
                re.compile(
                    rf"<\|tool_call:begin\|>[^<]*<\|tool_call:name\|>\s*{_NAME}\s*<\|tool_call:args\|>\s*"
                ),
                "<|tool_call:begin|>0<|tool_call:name|>{name}<|tool_call:args|>",
                "<|tool_call:end|>",
            ),
        ),
        begin="<|tool_calls|>",
        openers=("<|begin|>assistant<|tool_calls|>",),
        end="",
    ),
    (Tags("<|think|>", "<|end|>"),),
    answer=Tags("<|begin|>assistant<|content|>", ""),
    unsaid=("<|content|>", "<|end|>", "<|begin|>assistant"),
    after_thinking="<|begin|>assistant",
)
FIREFUNCTION = Format("FireFunction", ("functools[",), Calls((_OBJECT,), " functools[", "]", ", "))
GIGACHAT = Format(
    "GigaChat 3",
    ("function call", "<|role_sep|>"),
    Calls((_OBJECT,), "<|message_sep|>\n\nfunction call<|role_sep|>\n", several=False),
)
GIGACHAT_31 = Format(
    "GigaChat 3.1", ("<|function_call|>",), Calls((_OBJECT,), "<|function_call|>", several=False)
)

FORMATS: tuple[Format, ...] = (
    KIMI_K3,
    KIMI_K2,
    _dsml("function_calls"),
    _dsml("tool_calls"),
    DEEPSEEK_R1,
    DEEPSEEK_V31,
    MINIMAX_M3,
    MINIMAX_M2,
    HUNYUAN_3,
    SOLAR,
    GPT_OSS,
    SEED,
    COMMAND_TEXT,
    COMMAND_R7B,
    COMMAND_R_PLUS,
    LFM2,
    LFM2_LIST,
    LFM2_PLAIN,
    APERTUS,
    APRIEL,
    NEMOTRON,
    OLMO_3,
    GEMMA_4,
    FUNCTION_GEMMA,
    MINICPM_5,
    GIGACHAT_31,
    GIGACHAT,
    FIREFUNCTION,
    FUNCTIONARY_32,
    PHI,
    GLM_47,
    CODER,
    MINIMAX_M1,
    MISTRAL_NAMED,
    MISTRAL,
    GRANITE,
    HERMES,
    FUNCTIONARY_31,
    LLAMA_4,
    LLAMA,
)


def _told(own: Calls) -> Calls:
    """Of a model that was told to call as Hermes does: it may still do so in its own way."""
    told = HERMES.calls
    return replace(
        told,
        syntaxes=tuple(dict.fromkeys((*told.syntaxes, *own.syntaxes))),
        openers=tuple(dict.fromkeys((*told.openers, *filter(None, (own.begin.strip(), *own.openers))))),
        closers=tuple(dict.fromkeys((*told.closers, *filter(None, (own.end.strip(), *own.closers))))),
    )


def choose(template: str, *, knows_tools: bool = True) -> Format:
    """By what the template's own words tell of the model's training.

    One whose template does not know tools is told of them, and calls as Hermes does.
    """
    found = next((form for form in FORMATS if all(word in template for word in form.words)), HERMES)
    if found is GLM_47 and re.search(r"</arg_key>(\n|\\n)", template):
        found = GLM
    thinks = bool(found.thinking) and (found.channels or found.thinking[0].begin in template)
    calls = found.calls if knows_tools or found.channels else _told(found.calls)
    return replace(found, calls=calls, template_thinks=thinks)
