"""Numbers within bounds, as GBNF."""

from __future__ import annotations

# Beyond this many digits there is no bound worth enforcing, and no end to what a model may write.
_LARGEST = 10**15 - 1
_FRACTION = '("." [0-9]{1,15})?'
_ZERO_FRACTION = '("." "0"{1,15})?'
_POSITIVE_FRACTION = '"." "0"{0,14} [1-9] [0-9]{0,14}'


def integers(low: int | None, high: int | None) -> str:
    """Whole numbers from `low` to `high`. Raises ValueError if there are none."""
    low, high = _bounded(low, high)
    alternatives = []
    if low < 0:
        alternatives.append(f'"-" {_naturals(max(1, -high), -low)}')
    if high >= 0:
        alternatives.append(_naturals(max(0, low), high))
    return f"({' | '.join(alternatives)})"


def decimals(low: int | None, high: int | None, *, above_low: bool, below_high: bool) -> str:
    """Decimal numbers between whole bounds, which `above_low` and `below_high` exclude themselves."""
    low, high = _bounded(low, high)
    alternatives = []
    if high > 0 or (high == 0 and not below_high and low <= 0 and not (low == 0 and above_low)):
        alternatives += _magnitudes(max(0, low), high, above_low and low >= 0, below_high)
    if low < 0:
        magnitudes = _magnitudes(max(0, -high), -low, below_high and high <= 0, above_low)
        alternatives += [f'"-" ({magnitude})' for magnitude in magnitudes]
    if not alternatives:
        raise ValueError("no number lies between the bounds")
    return f"({' | '.join(alternatives)})"


def _bounded(low: int | None, high: int | None) -> tuple[int, int]:
    low = -_LARGEST if low is None else low
    high = _LARGEST if high is None else high
    if low > high:
        raise ValueError("no number lies between the bounds")
    return low, high


def _magnitudes(low: int, high: int, above_low: bool, below_high: bool) -> list[str]:
    """Decimal numbers without a sign, from `low` to `high`."""
    if low == high:
        return [] if above_low or below_high else [f'"{low}" {_ZERO_FRACTION}']
    alternatives = [f'"{low}" {_POSITIVE_FRACTION}' if above_low else f'"{low}" {_FRACTION}']
    if high - 1 > low:
        alternatives.append(f"{_naturals(low + 1, high - 1)} {_FRACTION}")
    if not below_high:
        alternatives.append(f'"{high}" {_ZERO_FRACTION}')
    return alternatives


def _naturals(low: int, high: int) -> str:
    """Whole numbers from `low` to `high`, both at least 0, one alternative for each number of digits."""
    alternatives = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        smallest = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        alternatives.append(_same_length(str(smallest), str(min(high, 10**digits - 1))))
    return f"({' | '.join(alternatives)})"


def _same_length(low: str, high: str) -> str:
    if not low:
        return '""'
    rest = len(low) - 1
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return f"[{low[0]}-{high[0]}] [0-9]{{{rest}}}" if rest else f"[{low[0]}-{high[0]}]"
    if low[0] == high[0]:
        return f'"{low[0]}" {_same_length(low[1:], high[1:])}'
    alternatives = [f'"{low[0]}" {_same_length(low[1:], "9" * rest)}']
    if int(high[0]) - int(low[0]) > 1:
        alternatives.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{rest}}}")
    alternatives.append(f'"{high[0]}" {_same_length("0" * rest, high[1:])}')
    return f"({' | '.join(alternatives)})"
