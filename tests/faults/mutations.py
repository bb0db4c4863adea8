"""Damaged inputs from valid ones: bytes changed, cut, repeated, spliced; a format's words in strange places."""

from collections.abc import Sequence

import numpy as np

STRANGE_NUMBERS = (b"0", b"-1", b"99999999999999999999", b"1e999", b"nan", b"-inf", b"0x7f", b"1_0", "²".encode())
STRANGE_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
MOST_CHANGES = 6
LONGEST_PIECE = 64  # bytes
RANDOM_SHARE = 0.05  # of the inputs are random bytes


def mutated(random: np.random.Generator, seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """An input near one of the valid `seeds`, or of random bytes; `words` are the format's own."""
    if random.random() < RANDOM_SHARE:
        return random.bytes(int(random.integers(0, 400)))
    content = bytearray(_choice(random, seeds))
    for _ in range(int(random.integers(1, MOST_CHANGES + 1))):
        _change(random, content, seeds, words)
    return bytes(content)


def _choice(random: np.random.Generator, choices: Sequence[bytes]) -> bytes:
    return choices[random.integers(len(choices))]


def _change(random: np.random.Generator, content: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    place = int(random.integers(len(content) + 1))
    end = min(len(content), place + int(random.integers(1, LONGEST_PIECE)))
    way = random.integers(9)
    if way == 0 and place < len(content):
        content[place] ^= 1 << int(random.integers(8))
    elif way == 1 and place < len(content):
        content[place] = int(random.choice(STRANGE_BYTES))
    elif way == 2:
        del content[place:end]
    elif way == 3:
        content[place:place] = content[place:end] * int(random.integers(1, 4))
    elif way == 4:
        del content[place:]
    elif way == 5:
        other = _choice(random, seeds)
        start = int(random.integers(len(other) + 1))
        content[place:end] = other[start : start + int(random.integers(LONGEST_PIECE))]
    elif way == 6:
        size = int(random.choice([2, 4, 8]))
        content[place : place + size] = _choice(random, (b"\xff" * size, b"\0" * size, b"\0" * (size - 1) + b"\x7f"))
    elif way == 7:
        content[place:end] = _choice(random, STRANGE_NUMBERS)
    else:
        content[place:end] = _choice(random, words) if words else random.bytes(end - place)
