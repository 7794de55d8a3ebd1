"""The radix tree against the naive way of comparing with everybody."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from worker.engine.prefix_index import PUBLIC, PrefixIndex, Tier, common_prefix


@dataclass(eq=False)
class Someone:
    tier: Tier = Tier.MEMORY
    namespace: str = PUBLIC


def test_the_longest_known_prefix_is_found_with_all_who_hold_it() -> None:
    index = PrefixIndex()
    short, long, other = Someone(), Someone(Tier.SLOT), Someone()
    index.insert(short, [1, 2, 3])
    index.insert(long, [1, 2, 3, 4, 5, 6])
    index.insert(other, [1, 2, 9])
    steps = index.match([1, 2, 3, 4, 5, 7])
    assert [step.depth for step in steps] == [2, 3, 5]
    assert steps[-1].node.holders == ({long}, set(), set())
    assert steps[1].node.holders == ({long}, {short}, set())
    assert index.num_elsewhere(long) == 3
    assert list(index.prefixes(long, Tier.MEMORY)) == [short]
    index.remove(short)
    index.remove(other)
    assert index.num_elsewhere(long) == 0
    index.check_integrity()


def test_random_insertions_and_removals_find_what_a_search_through_all_finds() -> None:
    rng = random.Random(1)
    index = PrefixIndex()
    held: dict[Someone, list[int]] = {}
    for _ in range(3000):
        if held and rng.random() < 0.45:
            gone = rng.choice(list(held))
            del held[gone]
            index.remove(gone)
        else:
            someone = rng.choice([*held, Someone(rng.choice(list(Tier)))])
            held[someone] = [rng.randrange(2) for _ in range(rng.randrange(12))]
            index.insert(someone, held[someone])
        index.check_integrity()
        wanted = [rng.randrange(2) for _ in range(rng.randrange(12))]
        found = {
            someone: step.depth
            for step in index.match(wanted)
            for holders in step.node.holders
            for someone in holders
        }
        expected = {s: common_prefix(tokens, wanted) for s, tokens in held.items()}
        assert found == {s: depth for s, depth in expected.items() if depth}
        for someone, tokens in held.items():
            others = [common_prefix(tokens, other) for s, other in held.items() if s is not someone]
            assert index.tokens(someone) == tokens
            assert index.num_elsewhere(someone) == max(others, default=0)
            same = {s for s, other in held.items() if s is not someone and other == tokens}
            assert set(index.others_at_end(someone)) == same or not tokens


def test_thousands_of_conversations_are_searched_in_no_time() -> None:
    rng = random.Random(2)
    system = [rng.randrange(50_000) for _ in range(2000)]
    index = PrefixIndex()
    for _ in range(3000):
        index.insert(Someone(), [*system, *(rng.randrange(50_000) for _ in range(500))])
    wanted = [*system, 7, 7]
    started = time.process_time()
    for _ in range(100):
        assert index.match(wanted)[-1].depth == 2000
    assert (time.process_time() - started) / 100 < 0.002
