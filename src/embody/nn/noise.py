"""Sources of random numbers: one stream for a whole batch or, in training, one for each row.

Shapes: B rows, `*` the shape of what a row draws.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["GeneratorNoise", "Group", "Noise", "RowNoise"]

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Group:
    """A group of neighbouring rows of a batch."""

    rows: slice  # the group's rows in this process
    share: float  # the group's share of the whole batch's rows, over all processes


class Noise(Protocol):
    """A source of float32 random numbers on a device."""

    @property
    def device(self) -> torch.device: ...

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers `[B, *]` in [0, 1)."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """Normal numbers `[B, *]` of mean 0 and standard deviation 1."""
        ...

    def groups(self, rows: int, fractions: Sequence[float]) -> list[Group]:
        """Successive groups of a batch's rows, of these fractions of all rows, rounded up or down at random.

        `rows` is the number of rows in this process.
        """
        ...

    def part(self, places: Sequence[int], total: int) -> "Noise":
        """Noise for the rows at `places` (ascending); all processes together select `total` rows."""
        ...


class GeneratorNoise:
    """One stream: the numbers of a row depend on the rows before it."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    @property
    def device(self) -> torch.device:
        return self.generator.device

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def groups(self, rows: int, fractions: Sequence[float]) -> list[Group]:
        stops = _stops(rows, fractions, [self.uniform().item() for _ in fractions])
        return [Group(slice(start, stop), (stop - start) / rows) for start, stop in itertools.pairwise(stops)]

    def part(self, places: Sequence[int], total: int) -> "GeneratorNoise":
        return self


class RowNoise:
    """Number i of a row's n-th draw is a function of (seed, step, row, n, i) and independent of the other rows.

    So any number of processes draws the same numbers. SplitMix64 (Steele, Lea, Flood 2014) hashes these counters by
    elementwise integer operations, which give the same bits on a CPU and on a GPU.
    """

    def __init__(
        self,
        seed: int,
        step: int = 0,
        *,
        rows: Sequence[int] | None = None,
        total: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`rows` are the indices (ascending) of this process's rows among a batch's `total`; by default 0, 1, ..."""
        self._start(_mixed(_mixed(seed) + step * _GOLDEN), rows, total, torch.device(device))

    def _start(self, key: int, rows: Sequence[int] | None, total: int | None, device: torch.device) -> None:
        self.key, self.rows, self.total, self.device, self.draws = key, rows, total, device, 0
        self.row_B = None if rows is None else torch.tensor(rows, device=device)

    def uniform(self, *shape: int) -> Tensor:
        bits_BN = self._bits(shape[0], math.prod(shape[1:]))
        return bits_BN.bitwise_right_shift_(40).bitwise_and_(2**24 - 1).float().mul_(2.0**-24).view(shape)

    def normal(self, *shape: int) -> Tensor:
        count = math.prod(shape[1:])
        bits_BN = self._bits(shape[0], (count + 1) // 2)
        # Box-Muller: each hash gives a radius by its upper half and an angle by its lower half.
        radius_BN = (bits_BN >> 32).bitwise_and_(2**32 - 1).add_(1).float().mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle_BN = bits_BN.bitwise_and_(2**32 - 1).float().mul_(2 * math.pi * 2.0**-32)
        normal_BN = torch.cat((radius_BN * angle_BN.cos(), radius_BN.mul_(angle_BN.sin_())), dim=1)
        return normal_BN[:, :count].reshape(shape)

    def groups(self, rows: int, fractions: Sequence[float]) -> list[Group]:
        numbers = range(rows) if self.rows is None else self.rows
        total = rows if self.total is None else self.total
        # Drawn on the CPU, which would otherwise have to wait for the GPU.
        stops = _stops(total, fractions, [self._next() / 2**64 for _ in fractions])
        here = [bisect_left(numbers, stop) for stop in stops]
        pairs = zip(itertools.pairwise(here), itertools.pairwise(stops), strict=True)
        return [Group(slice(*own), (stop - start) / total) for own, (start, stop) in pairs]

    def part(self, places: Sequence[int], total: int) -> "RowNoise":
        rows = list(places) if self.rows is None else [self.rows[place] for place in places]
        noise = RowNoise.__new__(RowNoise)
        noise._start(self._next(), rows, total, self.device)
        return noise

    def _next(self) -> int:
        """The key of the next draw."""
        self.draws += 1
        return _mixed(self.key + self.draws * _GOLDEN)

    def _bits(self, rows: int, count: int) -> Tensor:
        """int64 `[B, count]` whose 64 bits are all random."""
        row_B = torch.arange(rows, device=self.device) if self.row_B is None else self.row_B
        assert len(row_B) == rows, f"noise of {len(row_B)} rows cannot be drawn for {rows} rows"
        key_B1 = _mix_(row_B * _signed(_GOLDEN) + _signed(self._next()))[:, None]
        return _mix_(key_B1 + torch.arange(count, device=self.device) * _signed(_GOLDEN))


def _stops(total: int, fractions: Sequence[float], rests: Sequence[float]) -> list[int]:
    """The first row of each group, and the end of the last one; `rests` in [0, 1) round the groups' sizes."""
    sizes = [int(total * fraction + rest) for fraction, rest in zip(fractions, rests, strict=True)]
    return [min(stop, total) for stop in itertools.accumulate(sizes, initial=0)]


def _mixed(x: int) -> int:
    """SplitMix64's hash of a counter, in [0, 2^64)."""
    x %= 2**64
    x = (x ^ x >> 30) * _MIX_1 % 2**64
    x = (x ^ x >> 27) * _MIX_2 % 2**64
    return x ^ x >> 31


def _mix_(x: Tensor) -> Tensor:
    """`_mixed` of int64 numbers, in place; products wrap around."""
    x.bitwise_xor_(_shifted(x, 30)).mul_(_signed(_MIX_1))
    x.bitwise_xor_(_shifted(x, 27)).mul_(_signed(_MIX_2))
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right, which fills with zeros; torch's shift repeats the sign bit."""
    return (x >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _signed(x: int) -> int:
    """The int64 with the same bits as an unsigned `x`."""
    return (x + 2**63) % 2**64 - 2**63
