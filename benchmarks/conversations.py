"""Chats: users who think between turns, and send the whole conversation again with each.

What a server remembers of a conversation it need not compute again, and there may be more users than slots.
So beside throughput it shows the time to the first token in the first turn (all new) and in later turns
(nearly all known), and which share of all prompt tokens came from a cache, by
`usage.prompt_tokens_details.cached_tokens`, which llama-server has as well.

Questions and pauses come from a seed: every server meets the same users. Answers are its own, and are part of
what is sent back.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from itertools import islice

from benchmarks.client import exchange, undisturbed
from benchmarks.loads import warm_up
from benchmarks.replies import Reply, decode
from benchmarks.running import Server
from benchmarks.workload import Workload, asked, endless_questions, system_prompt


@dataclass(frozen=True, slots=True)
class Conversations:
    """`clients` users, each with one conversation; `think` bounds the seconds before each message."""

    clients: int
    workload: Workload
    turns: int = 4
    system_tokens: int = 0  # of the system prompt that all share, beyond its first 60
    think: tuple[float, float] = (1.0, 3.0)
    seed: int = 1

    @property
    def name(self) -> str:
        system = f", system +{self.system_tokens}" if self.system_tokens else ""
        return f"{self.clients} users x {self.turns} turns{system}"

    async def warm_up(self, server: Server) -> None:
        """With the short system prompt: a long one is computed when the first user comes."""
        await warm_up(server, self.workload, self.clients)

    async def run(self, server: Server) -> list[Reply]:
        questions = list(islice(endless_questions(), self.clients * self.turns))
        with undisturbed():
            users = (
                self._chat(server, user, questions[user :: self.clients]) for user in range(self.clients)
            )
            return [reply for replies in await asyncio.gather(*users) for reply in replies]

    async def _chat(self, server: Server, user: int, questions: list[str]) -> list[Reply]:
        """One conversation; a turn that failed is left out of what is sent later."""
        pauses = random.Random(f"{self.seed}, user {user}")
        history = asked("", system_prompt(self.system_tokens))[:1]
        replies: list[Reply] = []
        for question in questions:
            await asyncio.sleep(pauses.uniform(*self.think))
            message = {"role": "user", "content": question}
            request = self.workload.request(server.model_id, [*history, message])
            recording = await exchange(server.port, request)
            recording.opening = not replies
            replies.append(reply := decode(recording))
            if reply.error is None:
                history += [message, {"role": "assistant", "content": reply.text}]
        return replies
