"""What computing, copying and idling cost with this model on this machine, learned from what they took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Rate:
    """An amount per unit: a mean in which older measurements weigh ever less, and large ones more."""

    FORGETTING = 0.9

    def __init__(self, prior: float) -> None:
        self._prior = prior  # until something has been measured
        self._amount = self._units = 0.0

    def observe(self, units: float, amount: float) -> None:
        self._amount = self.FORGETTING * self._amount + amount
        self._units = self.FORGETTING * self._units + units

    @property
    def per_unit(self) -> float:
        return self._amount / self._units if self._units else self._prior


class Slope:
    """What one more costs, apart from what anything costs: least squares, in which older ones weigh less."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, x: float, y: float) -> None:
        new = (1.0, x, y, x * x, x * y)
        old = (self._weight, self._x, self._y, self._xx, self._xy)
        self._weight, self._x, self._y, self._xx, self._xy = (
            0.99 * before + now for before, now in zip(old, new, strict=True)
        )

    @property
    def per_unit(self) -> float:
        """Never less than nothing; the mean as long as everything measured was of one size."""
        if not self._x:
            return 0.0
        variance = self._xx - self._x**2 / self._weight
        if variance < 0.01 * self._xx:
            return self._y / self._x
        return max(0.0, (self._xy - self._x * self._y / self._weight) / variance)


class Costs:
    """In seconds. Transfers pass for free until one was tried, so that one is tried."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.prompt_token = Rate(prior=1e-3)
        self.row = Slope()  # one more sequence in a step
        self.saved_byte = Rate(prior=0.0)
        self.loaded_byte = Rate(prior=0.0)
        self.read_byte = Rate(prior=0.0)  # from a file
        self.state_bytes = Rate(prior=0.0)  # by token, of what was saved
        self.num_outputs = Rate(prior=64.0)  # by sequence

    def compute(self, num_tokens: int) -> float:
        return num_tokens * self.prompt_token.per_unit

    def save(self, num_tokens: int) -> float:
        return num_tokens * self.state_bytes.per_unit * self.saved_byte.per_unit

    def load(self, num_tokens: int) -> float:
        return num_tokens * self.state_bytes.per_unit * self.loaded_byte.per_unit

    def copy(self, num_tokens: int) -> float:
        return self.save(num_tokens) + self.load(num_tokens)

    @contextmanager
    def timing(self, rate: Rate, units: float) -> Iterator[None]:
        started = self._clock()
        yield
        rate.observe(units, self._clock() - started)

    def observe_step(self, num_rows: int, num_prompt_tokens: int, seconds: float) -> None:
        """Learn from a step that decoded so many sequences beside so many tokens of prompts."""
        if not num_prompt_tokens:
            self.row.observe(num_rows, seconds)
        elif num_prompt_tokens > num_rows:  # otherwise what prompts took is lost in the noise
            extra = seconds - num_rows * self.row.per_unit
            self.prompt_token.observe(num_prompt_tokens, max(extra, seconds / 4))
