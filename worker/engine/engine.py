"""The one thread that owns the context: step() is schedule, decode, update.

Everybody else submits and aborts through a queue that is drained at the top of each step.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from worker.engine.detokenizer import Vocabulary
from worker.engine.kv_cache import KVCache
from worker.engine.prefix_folder import PrefixFolder
from worker.engine.prefix_index import Tier, common_prefix
from worker.engine.runner import Chunk, DecodeError, Logits, ModelRunner
from worker.engine.sampling import Sampled, log_normalizer, sample, token_logprob
from worker.engine.scheduler import Scheduled, Scheduler
from worker.engine.sequence import Output, Sequence, State, Waiter
from worker.protocol import (
    STEP_BUCKETS,
    EngineStats,
    FinishReason,
    Overloaded,
    TokenLogprob,
    WorkerError,
    WorkerFailed,
)

log = logging.getLogger(__name__)

MAX_FAULTS = 3  # one after the other, after which it is no use to begin anew
CLOSE_SECONDS = 10.0  # for the step under way
HANGS = "The model's engine hangs. Send the request again; if it stays so, the worker must be restarted."


class Engine:
    """Continuous batching over a ModelRunner. `submit` and `abort` may be called from any thread."""

    def __init__(
        self,
        runner: ModelRunner,
        vocabulary: Vocabulary,
        *,
        max_waiting: int,
        prefix_cache: bool = True,
        cache_bytes: int = 0,
        prefix_folder: PrefixFolder | None = None,
        drafts: bool = True,
        hang_seconds: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runner = runner
        self.vocabulary = vocabulary
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._new_cache = partial(
            KVCache, runner, prefix_cache, cache_bytes, clock, prefix_folder, self._wake_thread
        )
        self._drafts = drafts
        self.kv_cache = self._new_cache()
        self.scheduler = Scheduler(self.kv_cache, runner.max_batch, drafts)
        self.failure: BaseException | None = None
        self.hangs = False  # for longer than `hang_seconds`, by the watch's own clock
        self._hang_seconds = hang_seconds
        self._num_faults = 0  # one after the other, without a step that worked
        self._clock = clock
        self._capacity = runner.num_slots + max_waiting
        self._turn_began: float | None = None  # None while there is nothing to do
        self._lock = threading.Lock()
        self._unfinished: set[Sequence] = set()  # guarded by the lock: submitted and not yet finished
        self._closed = False
        self._stop_watching = threading.Event()
        self._waiters: list[Waiter] = []
        self._seconds_per_sequence = 1.0
        self._num_prompt = self._num_cached = self._num_output = 0
        self._num_draft = self._num_accepted = self._num_forced = 0
        self._num_steps = self._num_finished = self._num_failed_decodes = 0
        self._num_scheduled = self._num_aborted = self._num_failed = 0
        self._prompt_seconds = self._predicted_seconds = self._step_seconds = 0.0
        self._num_steps_by_seconds = [0] * (len(STEP_BUCKETS) + 1)
        self._thread: threading.Thread | None = None

    # -- from any thread ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="llama-engine", daemon=True)
        self._thread.start()
        if self._hang_seconds < math.inf:
            threading.Thread(target=self._watch, name="llama-watch", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether anything can be submitted; it comes back if what hangs goes on after all."""
        return not self._closed and self.failure is None and not self.hangs

    @property
    def seconds_in_turn(self) -> float:
        """How long the engine's thread has been at what it does now; 0 while it waits for work."""
        began = self._turn_began
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; raises Overloaded or WorkerFailed instead of queueing without end."""
        with self._lock:
            self.check_alive()
            if len(self._unfinished) >= self._capacity:
                raise Overloaded("The model is busy and its queue is full.", self._retry_after())
            self._unfinished.add(sequence)
        self._inbox.put(lambda: self._add(sequence))

    def abort(self, sequence: Sequence) -> None:
        """Let go of a sequence, whatever its state; takes effect before the next step computes anything."""
        self._wake([sequence.channel.close()])
        self._inbox.put(lambda: self._abort(sequence))

    def call(self, function: Callable[[], None]) -> None:
        """Run a function on the engine's thread, between steps, and wait for it."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                function()
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)

        with self._lock:
            self.check_alive()
        self._inbox.put(run)
        while True:
            try:
                return done.result(timeout=1)
            except TimeoutError:
                self.check_alive()  # a thread that has ended will never answer

    def pin_prefix(self, tokens: list[int]) -> None:
        """Compute a prefix once and keep its state for good."""
        self.call(lambda: self._pin(tokens))

    def stats(self) -> EngineStats:
        num_running = len(self.scheduler.running)
        return EngineStats(
            num_slots=self.runner.num_slots,
            capacity=self._capacity,
            seconds_in_turn=self.seconds_in_turn,
            num_running=num_running,
            num_waiting=max(0, len(self._unfinished) - num_running),
            num_prompt_tokens_total=self._num_prompt,
            num_cached_tokens_total=self._num_cached,
            num_output_tokens_total=self._num_output,
            num_draft_tokens_total=self._num_draft,
            num_accepted_tokens_total=self._num_accepted,
            num_forced_tokens_total=self._num_forced,
            num_steps_total=self._num_steps,
            num_finished_total=self._num_finished,
            num_failed_decodes_total=self._num_failed_decodes,
            num_slot_tokens_total=self.kv_cache.num_reused[Tier.SLOT],
            num_memory_tokens_total=self.kv_cache.num_reused[Tier.MEMORY],
            num_file_tokens_total=self.kv_cache.num_reused[Tier.FILE],
            num_cache_bytes=self.kv_cache.memory.num_bytes,
            context_length=self.runner.context_length,
            num_kv_tokens=sum(sequence.num_computed for sequence in tuple(self.scheduler.running)),
            num_scheduled_total=self._num_scheduled,
            num_aborted_total=self._num_aborted,
            num_failed_total=self._num_failed,
            prompt_seconds_total=self._prompt_seconds,
            predicted_seconds_total=self._predicted_seconds,
            step_seconds_total=self._step_seconds,
            num_steps_by_seconds=tuple(self._num_steps_by_seconds),
        )

    def close(self) -> None:
        """Stop the thread, answer everything that is under way with an error, free the context."""
        with self._lock:
            already, self._closed = self._closed, True
        if already:
            return
        self._wake_thread()
        self._stop_watching.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        self._fail_all(WorkerFailed("The worker is shutting down."))
        self.kv_cache.close()
        if self.has_ended:
            self.runner.close()
        else:
            log.error("the engine hangs: its context is left to the process's end")

    @property
    def has_ended(self) -> bool:
        """Whether nothing computes any more; once closed, only a thread that hangs still does."""
        return self._thread is None or not self._thread.is_alive()

    def check_alive(self) -> None:
        """Raise WorkerFailed when nothing can be submitted any more."""
        if self.failure is not None:
            raise WorkerFailed("The model's engine has failed and must be restarted.")
        if self._closed:
            raise WorkerFailed("The worker is shutting down.")
        if self.hangs:
            raise WorkerFailed(HANGS)

    def _wake_thread(self) -> None:
        self._inbox.put(lambda: None)

    def _retry_after(self) -> float:
        rounds = 1 + max(0, len(self._unfinished) - self.runner.num_slots) / self.runner.num_slots
        return min(60.0, max(1.0, rounds * self._seconds_per_sequence))

    # -- on the engine's thread --------------------------------------------------------------------------

    def _run(self) -> None:
        computed = True
        try:
            while not self._closed:
                try:
                    self._turn_began = time.monotonic()
                    # Who waits for a file waits as if for work: when it is there, the thread is woken.
                    self.drain(wait=self.is_idle or not computed)
                    computed = True
                    computed = self.step()
                except Exception as error:
                    self._begin_anew(error)
                if self.hangs:
                    log.warning("the engine goes on after it had hung")
                    self._reset()
                    self.hangs = False
        except BaseException as error:
            log.exception("the engine has failed for good; everything under way fails with it")
            with self._lock:
                self.failure = error
            self._fail_all(WorkerFailed("The model's engine has failed and must be restarted."))

    def _begin_anew(self, error: Exception) -> None:
        """Fail what is under way, and go on with an empty cache. Raises `error` where that has not helped."""
        self._num_faults += 1
        if self._num_faults > MAX_FAULTS:
            raise error
        log.error("the engine has failed; everything under way fails with it", exc_info=error)
        failed = self._fail_all(
            WorkerFailed("The model's engine failed on this answer. Send the request again.")
        )
        self._reset(failed)

    def _reset(self, failed: Iterable[Sequence] = ()) -> None:
        """Forget every sequence and every cell."""
        for sequence in (*self.scheduler.running, *self.scheduler.waiting, *failed):
            sequence.state = State.FINISHED
        for slot in self.kv_cache.slots:
            self.runner.truncate(slot.index, 0)
        self.kv_cache = self._new_cache()
        self.scheduler = Scheduler(self.kv_cache, self.runner.max_batch, self._drafts)

    def _watch(self) -> None:
        """Fail what is under way when a turn does not end.

        Counted in looks and not by the clock, since a process that was stopped for a while has not hung.
        """
        pause = min(1.0, self._hang_seconds / 4)
        looked_at, num_looks = None, 0
        while not self._stop_watching.wait(pause):
            num_looks = num_looks + 1 if self._turn_began == looked_at else 0
            looked_at = self._turn_began
            if looked_at is not None and num_looks * pause >= self._hang_seconds and not self.hangs:
                log.error("the engine hangs; everything under way fails")
                with self._lock:
                    self.hangs = True
                self._fail_all(WorkerFailed(HANGS))

    def _add(self, sequence: Sequence) -> None:
        with self._lock:
            if sequence not in self._unfinished:  # failed with all others before it was here
                sequence.state = State.FINISHED
                return
        self.scheduler.add(sequence)
        with self._failing_alone(sequence):
            self._force(sequence)

    def _abort(self, sequence: Sequence) -> None:
        self._num_aborted += sequence.state is not State.FINISHED
        self._remove(sequence)

    @property
    def is_idle(self) -> bool:
        return not self.scheduler.running and not len(self.scheduler.waiting)

    def drain(self, wait: bool = False) -> None:
        """Do what other threads asked for since the last step."""
        if wait:
            self._turn_began = None
        try:
            first = self._inbox.get(block=wait)
            self._turn_began = time.monotonic()
            first()
            while True:
                self._inbox.get_nowait()()
        except queue.Empty:
            pass

    def step(self) -> bool:
        """Compute one batch, and hand on what came of it; False where there is nothing to compute yet."""
        scheduled = self.scheduler.schedule()
        if scheduled:
            self._num_steps += 1
            self._num_scheduled += len(scheduled)
            self._execute(scheduled)
        self._deliver()
        return bool(scheduled)

    def check_integrity(self) -> None:
        self.scheduler.check_integrity()
        if self.is_idle and self._inbox.empty():
            assert not self._unfinished, "sequences were lost"

    def _execute(self, scheduled: list[Scheduled]) -> None:
        started = self._clock()
        try:
            logits = self.runner.decode([_chunk(s) for s in scheduled])
        except DecodeError as error:
            self._num_failed_decodes += 1
            if len(scheduled) == 1:
                log.error("sequence failed: %s", error)
                self.kv_cache.discard(scheduled[0].sequence)
                self._fail(scheduled[0].sequence, WorkerFailed(f"The model could not be evaluated: {error}."))
                return
            for one in scheduled:  # find out whose fault it is; the others go on
                self._execute_alone(one)
            return
        self._num_faults = 0
        seconds = self._clock() - started
        self._step_seconds += seconds
        self._num_steps_by_seconds[bisect_left(STEP_BUCKETS, seconds)] += 1
        self.scheduler.observe(scheduled, seconds)
        self._update(scheduled, logits)

    def _execute_alone(self, one: Scheduled) -> None:
        """Again, after a failure in company; from the start where that has cost the sequence its cells."""
        sequence = one.sequence
        if self.runner.length(sequence.slot) == sequence.num_computed:
            self._execute([one])
            return
        self.kv_cache.discard(sequence)
        while sequence.state is State.RUNNING and sequence.num_computed < len(sequence.tokens):
            num_tokens = min(sequence.num_due, self.runner.max_batch)
            again = Scheduled(sequence, num_tokens, num_tokens == sequence.num_uncomputed)
            self._execute([again])
            if again.samples:
                break

    def _update(self, scheduled: list[Scheduled], logits: Logits) -> None:
        if any(one.sequence.is_scored for one in scheduled):
            logits = self._score_prompts(scheduled, logits)
        for one in scheduled:
            sequence = one.sequence
            if sequence.num_computed == sequence.num_cached:
                self._num_cached += sequence.num_cached
            if sequence.is_prefill:
                self._num_prompt += min(one.num_tokens, sequence.num_prompt - sequence.num_computed)
            sequence.num_computed += one.num_tokens
            if sequence.snapshots:
                self.kv_cache.snapshot(sequence)
        if scheduled[0].draft:
            self._take_draft(scheduled[0].sequence, scheduled[0].draft, logits)
            return
        sampling = [one.sequence for one in scheduled if one.samples]
        if any(sequence.max_tokens == 0 for sequence in sampling):
            logits = logits[[i for i, sequence in enumerate(sampling) if sequence.max_tokens]]
            for sequence in sampling:
                if not sequence.max_tokens:
                    self._finish(sequence, "length")
            sampling = [sequence for sequence in sampling if sequence.max_tokens]
        if sampling:
            sampled = sample(logits, [s.sampler for s in sampling], self.vocabulary)
            for sequence, token in zip(sampling, sampled, strict=True):
                self._take(sequence, token)

    def _score_prompts(self, scheduled: list[Scheduled], logits: Logits) -> Logits:
        """Note how likely the prompts' tokens were that rows are about; the rows to sample from are left."""
        end, left = 0, []
        for one in scheduled:
            start, end = end, end + _num_logits(one)
            if one.samples:
                left.append(end - 1)
            if one.sequence.is_scored:
                self._score(one.sequence, logits[start:end])
        return logits[left]

    def _score(self, sequence: Sequence, rows: Logits) -> None:
        """`rows` are of the tokens that follow those that were computed before, each about the next one."""
        start, scores = sequence.num_computed, sequence.prompt_scores
        if start == 0:  # also of one that had to begin again
            piece = self.vocabulary.piece(sequence.tokens[0])
            scores[:] = [TokenLogprob(piece.decode("utf-8", "replace"), math.nan, piece)]
        num_top = sequence.sampler.params.logprobs or 0
        for row, token in zip(rows, sequence.tokens[start + 1 : sequence.num_prompt], strict=False):
            scores.append(token_logprob(row, log_normalizer(row), token, num_top, self.vocabulary))
        if start + len(rows) == sequence.num_prompt:
            sequence.was_scored, sequence.prompt_scores = True, []
            self._put(sequence, Output(logprobs=tuple(scores)))

    def _take_draft(self, sequence: Sequence, draft: tuple[int, ...], logits: Logits) -> None:
        """Sample token after token, for as long as the draft has those that come."""
        start, num_accepted, agrees = len(sequence.tokens), 0, True
        while agrees and sequence.state is not State.FINISHED:
            row = logits[num_accepted : num_accepted + 1]
            self._take(sequence, sample(row, [sequence.sampler], self.vocabulary)[0])
            come = sequence.tokens[start + num_accepted :]  # what was sampled, and what that has forced
            num_equal = common_prefix(come, list(draft[num_accepted:]))
            num_accepted += num_equal
            sequence.num_computed += num_equal
            agrees = num_equal == len(come)
        if sequence.state is not State.FINISHED:
            self.kv_cache.trim(sequence)
        sequence.lookup.observe(len(draft), num_accepted)
        self._num_draft += len(draft)
        self._num_accepted += num_accepted

    def _take(self, sequence: Sequence, sampled: Sampled | Exception) -> None:
        """Go on with a token, and with those that have no choice after it."""
        with self._failing_alone(sequence):
            if isinstance(sampled, Exception):
                raise sampled
            if self._append(sequence, sampled.token, sampled.logprob):
                self._force(sequence)

    @contextmanager
    def _failing_alone(self, sequence: Sequence) -> Iterator[None]:
        """What goes wrong about a token is the end of its own sequence."""
        try:
            yield
        except WorkerError as error:
            self._fail(sequence, error)
        except Exception:
            log.exception("sequence failed: no token could be chosen for it")
            self._fail(sequence, WorkerFailed("The next token could not be chosen."))

    def _force(self, sequence: Sequence) -> None:
        """Append what must come next by the constraint: it is computed at once, and not sampled."""
        for token in sequence.sampler.forced():
            self._num_forced += 1
            if not self._append(sequence, token):
                return
        constraint = sequence.sampler.constraint
        if constraint is not None and constraint.is_complete:
            self._finish(sequence, "stop")

    def _append(self, sequence: Sequence, token: int, logprob: TokenLogprob | None = None) -> bool:
        """Whether the sequence goes on."""
        if self.vocabulary.is_end(token):
            if sequence.scores_prompt:  # who reads those reads the last one as that of the next token
                sequence.detokenizer.push(b"", logprob)
            self._finish(sequence, "stop")
            return False
        if sequence.admitted and not sequence.first_token:  # what is forced may come before there is a slot
            sequence.first_token = time.monotonic()
        sequence.tokens.append(token)
        self._num_output += 1
        text, logprobs = sequence.detokenizer.push(self.vocabulary.piece(token), logprob)
        if sequence.detokenizer.stopped or (sequence.stopping and sequence.stopping(sequence.tokens)):
            self._finish(sequence, "stop", text, logprobs)
        elif sequence.num_output >= sequence.max_tokens:
            self._finish(sequence, "length", text, logprobs)
        elif text or logprobs:
            self._put(sequence, Output(text, logprobs))
        return sequence.state is not State.FINISHED

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        text: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        rest, more = sequence.detokenizer.flush()
        self._num_finished += 1
        sequence.ended = time.monotonic()
        took = sequence.ended - sequence.arrived
        self._seconds_per_sequence += 0.1 * (took - self._seconds_per_sequence)
        first_token = sequence.first_token or sequence.ended
        self._prompt_seconds += first_token - (sequence.admitted or first_token)
        self._predicted_seconds += sequence.ended - first_token
        stop = sequence.detokenizer.stopped_by
        last = Output(text + rest, logprobs + more, finish_reason=reason, stop=stop)
        self._put(sequence, last, last=True)
        self._remove(sequence)

    def _fail(self, sequence: Sequence, error: WorkerError) -> None:
        self._num_failed += 1
        self._put(sequence, Output(error=error), last=True)
        self._remove(sequence)

    def _remove(self, sequence: Sequence) -> None:
        if sequence.state is not State.FINISHED:
            self.scheduler.remove(sequence)
        with self._lock:
            self._unfinished.discard(sequence)

    def _put(self, sequence: Sequence, output: Output, last: bool = False) -> None:
        waiter = sequence.channel.put(output, last)
        if waiter is not None:
            self._waiters.append(waiter)

    def _deliver(self) -> None:
        waiters, self._waiters = self._waiters, []
        self._wake(waiters)

    def _wake(self, waiters: list[Waiter | None] | list[Waiter]) -> None:
        """Wake threads at once, and each event loop once for all of its consumers."""
        futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for waiter in waiters:
            if isinstance(waiter, threading.Event):
                waiter.set()
            elif waiter is not None:
                futures.setdefault(waiter.get_loop(), []).append(waiter)
        for loop, ready in futures.items():
            try:
                loop.call_soon_threadsafe(_resolve, ready)
            except RuntimeError:  # the loop is closed, and with it whoever waited
                log.debug("a consumer's event loop was closed")

    def _fail_all(self, error: WorkerError) -> list[Sequence]:
        """All that was under way; from any thread."""
        with self._lock:
            unfinished, self._unfinished = list(self._unfinished), set()
        self._num_failed += len(unfinished)
        self._wake([sequence.channel.put(Output(error=error), last=True) for sequence in unfinished])
        return unfinished

    def _pin(self, tokens: list[int]) -> None:
        if not self.kv_cache.prefix_cache or not tokens:
            return
        slot = next((s for s in self.kv_cache.slots if s.owner is None), None)
        if slot is None:
            raise Overloaded("A prefix can only be pinned while a slot is free.")
        self.kv_cache.vacate(slot)
        restored = self.kv_cache.restore(slot, tokens)
        for start in range(0, 0 if restored else len(tokens), self.runner.max_batch):
            chunk = tokens[start : start + self.runner.max_batch]
            self.runner.decode([Chunk(slot.index, start, chunk)])
        self.kv_cache.pin(slot, tokens, keep_in_file=not restored)


def _chunk(scheduled: Scheduled) -> Chunk:
    sequence = scheduled.sequence
    start = sequence.num_computed
    tokens = sequence.tokens[start : start + scheduled.num_tokens]
    tokens += scheduled.draft
    return Chunk(sequence.slot, start, tokens, _num_logits(scheduled))


def _num_logits(scheduled: Scheduled) -> int:
    if scheduled.sequence.is_scored:
        return scheduled.num_tokens
    return 1 + len(scheduled.draft) if scheduled.samples else 0


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
