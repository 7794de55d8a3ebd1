"""What crosses the seam between gateway and worker: plain, picklable data and named errors.

Standard library only, so that the gateway can import it without the model's libraries and Modal can
carry every object in it between containers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
ModelKind = Literal["chat", "embedding"]

# How deep JSON in a request may nest: templates and schemas are read recursively.
MAX_NESTING = 100

# Fields of SamplingParams that a model's author may recommend a value for.
RECOMMENDABLE = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is sampled; the defaults are OpenAI's, where llama.cpp's differ.

    `top_k` 0 and `min_p` 0 switch these samplers off, `repeat_penalty` 1 and `typical_p` 1 likewise.
    `logprobs` is the number of alternatives wanted per token (0: only the sampled one), None for none.
    `max_tokens` None means up to the context's end. `seed` None draws a fresh one. Fields named in
    `left_to_model` were not given; the worker puts the model's own recommendations in their place.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    logprobs: int | None = None
    typical_p: float = 1.0
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    left_to_model: frozenset[str] = frozenset()

    def given(self) -> dict[str, Any]:
        """What is not left to the model, by name: the arguments of `create_completion`."""
        left = {*self.left_to_model, "left_to_model"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat completion, validated and with the model's name resolved.

    `messages` are the chat template's own: dicts with `role`, `content` (text) and, where they apply,
    `name`, `tool_calls`, `tool_call_id`, `reasoning_content`. `tools`, `tool_choice` and `response_format`
    are in OpenAI's shapes, as `create_chat_completion` takes them: only tools that may be called; none,
    auto, required or a named function; the formats {"type": "regex", "regex": …} and {"type": "choice",
    "choice": […]} beside OpenAI's. `template_kwargs` are variables for the template. Without `stream`, the
    events may all come at the end. If it `continues`, the last message is what the assistant has begun, and
    the answer is what follows. With `count_only` nothing is computed, and `Accepted` is the only event.
    Slots are shared fairly between `client`s.
    """

    request_id: str
    model: str
    messages: Sequence[Mapping[str, Any]]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    stream: bool = True
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    parallel_tool_calls: bool = True
    response_format: Mapping[str, Any] | None = None
    reasoning_effort: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    count_only: bool = False
    client: str = ""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Text completions without a chat template: `n` for each prompt, text or token ids.

    Choice `i` continues prompt `i // n`.
    """

    request_id: str
    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    echo: bool = False
    stream: bool = True
    client: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """One vector for each input, text or token ids.

    With `dimensions`, a vector is that many of its first numbers, normalised again.
    """

    request_id: str
    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None

    @property
    def stream(self) -> bool:
        """Vectors come all at once."""
        return False


Request = ChatRequest | CompletionRequest | EmbeddingRequest


def nests_too_deep(value: object) -> bool:
    """Whether decoded JSON has more than MAX_NESTING lists and objects in one another."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_NESTING):
        level = [inner for outer in level for inner in _contents(outer) if isinstance(inner, (dict, list))]
    return bool(level)


def _contents(value: dict[str, object] | list[object]) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its natural-log probability, and the most likely tokens in its place.

    A prompt's first token, which nothing predicts, has NaN.
    """

    token: str
    logprob: float
    bytes: bytes
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The first event of every request: the prompt fits and is queued; from here on it may stream.

    `ignored` names the parameters that have no effect on this model.
    """

    prompt_tokens: int
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that choice `index` has grown by; never half a character, never half a stop string."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """What the model thinks before it answers."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """Tool call number `call` of choice `index`: it begins where `id` and `name` are given, else it grows."""

    index: int
    call: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Choice `index` is complete; `stop` is the stop string that ended it, if one did."""

    index: int
    reason: FinishReason
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of an answer at its worker: until it had a slot, until its first token, until its last."""

    queue: float
    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts over all choices; the last event of every request that did not fail."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    timings: Timings | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Embedded:
    """All vectors of an EmbeddingRequest, in the order of its inputs, each of length 1.

    `vectors` are float32, little endian, `dimensions` of them an input.
    """

    vectors: bytes
    dimensions: int


Event = Accepted | TextDelta | ReasoningDelta | ToolCallDelta | Finished | Embedded | Usage


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as `/v1/models` shows it; `created` is a Unix time in seconds."""

    id: str
    created: int
    context_length: int
    kind: ModelKind = "chat"


STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A picture of the engine; the `num_..._total` only ever grow."""

    num_slots: int
    capacity: int  # requests that may run or wait
    seconds_in_turn: float  # how long the engine's thread has been at what it does now; 0 without work
    num_running: int
    num_waiting: int
    num_prompt_tokens_total: int
    num_cached_tokens_total: int
    num_output_tokens_total: int
    num_draft_tokens_total: int
    num_accepted_tokens_total: int
    num_forced_tokens_total: int
    num_steps_total: int
    num_finished_total: int
    num_failed_decodes_total: int
    num_slot_tokens_total: int  # cached ones, by where they were
    num_memory_tokens_total: int
    num_file_tokens_total: int
    num_cache_bytes: int  # of states in memory
    context_length: int
    num_kv_tokens: int  # of running sequences
    num_scheduled_total: int  # sequences in all steps
    num_aborted_total: int
    num_failed_total: int
    prompt_seconds_total: float  # of finished sequences, from slot to first token
    predicted_seconds_total: float  # and from there to the last
    step_seconds_total: float
    num_steps_by_seconds: tuple[int, ...]  # up to each of STEP_BUCKETS, and beyond


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """An engine's picture, and whose it is."""

    id: str
    model: str
    engine: EngineStats


class WorkerError(Exception):
    """Anything a worker answers instead of events.

    WorkerError
      InvalidRequest              the request can never succeed as it stands
        ContextLengthExceeded     its prompt is longer than the context
        WrongKind                 its model does something else
      Overloaded                  the waiting queue is full; try again later
      WorkerFailed                the worker could not do its part

    Every argument is positional and in `args`, so that pickle restores the same class anywhere.
    """


class InvalidRequest(WorkerError):
    """`InvalidRequest(message, param, code)`: `param` names the request's field, `code` is OpenAI's."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.message, self.param, self.code = message, param, code

    def __str__(self) -> str:
        return self.message


class ContextLengthExceeded(InvalidRequest):
    """`ContextLengthExceeded(context_length, num_tokens, param)`: `param` is what was too long.

    With `at_least`, not all of the tokens were counted. `without_tools` is how many there were without tools,
    where there are any.
    The wording is OpenAI's, because LiteLLM and LangChain recognise it.
    """

    def __init__(
        self,
        context_length: int,
        num_tokens: int,
        param: str = "prompt",
        at_least: bool = False,
        without_tools: int | None = None,
    ) -> None:
        counted = f"at least {num_tokens} tokens" if at_least else f"{num_tokens} tokens"
        what = param
        if without_tools is not None:
            least = "at least " if at_least else ""
            in_tools = max(0, num_tokens - without_tools)
            counted += f" ({without_tools} in the {param}, {least}{in_tools} in the tools)"
            what = f"{param} or the tools"
        super().__init__(
            f"This model's maximum context length is {context_length} tokens. However, your {param} "
            f"resulted in {counted}. Please reduce the length of the {what}.",
            param,
            "context_length_exceeded",
        )
        self.args = (context_length, num_tokens, param, at_least, without_tools)
        self.context_length, self.num_tokens, self.at_least = context_length, num_tokens, at_least
        self.without_tools = without_tools

    def of(self, param: str) -> ContextLengthExceeded:
        """The same, about the request's field that the prompt was made from."""
        return ContextLengthExceeded(
            self.context_length, self.num_tokens, param, self.at_least, self.without_tools
        )

    def beside_tools(self, without_tools: int) -> ContextLengthExceeded:
        """The same, with how many of its tokens the prompt has without tools."""
        return ContextLengthExceeded(
            self.context_length, self.num_tokens, self.param or "prompt", self.at_least, without_tools
        )


class WrongKind(InvalidRequest):
    """`WrongKind(model, kind)`: what was asked of `model`, which is of that kind, is another kind's."""

    def __init__(self, model: str, kind: ModelKind) -> None:
        does = {
            "chat": f"The model '{model}' writes text and makes no embeddings. Name an embedding model",
            "embedding": f"The model '{model}' makes embeddings, with POST /v1/embeddings, and writes no "
            "text. Name a model that chats",
        }[kind]
        super().__init__(f"{does}; GET /v1/models lists what is served.", "model", "unsupported_model")
        self.args = (model, kind)


class Overloaded(WorkerError):
    """`Overloaded(message, retry_after)`: seconds after which a retry has a chance."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)
        self.message, self.retry_after = message, retry_after

    def __str__(self) -> str:
        return self.message


class WorkerFailed(WorkerError):
    """The request was fine, the worker was not; the message is fit for the client to read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What crosses between containers at a time: events, or the error that ends them.

    `attempt` is drawn anew each time the request starts to run. A container that dies makes Modal run the
    request again elsewhere and splice the second generation onto the first: a change shows it. `stats` come
    along with a batch now and then.
    """

    attempt: str
    events: Sequence[Event]
    error: WorkerError | None = None
    stats: WorkerStats | None = None
