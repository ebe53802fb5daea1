"""Layouts: which axes of a value hold sequences, positions and channels.

A network may put positions anywhere: (N, C, L) behind a convolution, (N, L, C) before a dense layer
by position, (N, C * L) when flattened, (N, C, L / 4, 4) in bins. A layout writes each axis as a
product of factors, for instance ``((N,), (64, P))`` for the flattened one.
"""

from dataclasses import dataclass
from math import prod

import torch

Tensor = torch.Tensor
N, P = "sequences", "positions"  # factors; any other factor is a number of channels
Axis = tuple[str | int, ...]


class LayoutError(ValueError):
    """A value for which there is no layout; says why."""


@dataclass(frozen=True)
class Layout:
    """Factors of every axis of a value, first to last, without those of size 1.

    Channels are counted through the channel factors in their order.
    """

    axes: tuple[Axis, ...]
    length: int

    @property
    def factors(self) -> list[str | int]:
        """All factors in the order of memory."""
        return [factor for axis in self.axes for factor in axis]

    @property
    def split(self) -> tuple[int, int]:
        """Channels before and behind the positions."""
        factors = self.factors
        where = factors.index(P)
        return tuple(
            prod(f for f in part if f != N) for part in (factors[:where], factors[where + 1 :])
        )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return prod(self.split)

    @property
    def position_axis(self) -> int:
        """Axis in which positions are, alone or with other factors."""
        return next(d for d, axis in enumerate(self.axes) if P in axis)

    @property
    def is_channels_first(self) -> bool:
        """Whether it is (N, C, L), or (N, C, 1, L)."""
        first, *middle, last = self.axes
        if (first, last) != ((N,), (P,)) or len(middle) not in (1, 2):
            return False
        return all(isinstance(f, int) for f in middle[0]) and not any(middle[1:])

    def size(self, factor: str | int, n: int) -> int:
        """Size of a factor for n sequences."""
        return {N: n, P: self.length}.get(factor, factor)

    def shape(self, n: int, length: int | None = None) -> tuple[int, ...]:
        """Shape of a value of n sequences; of its columns at one position for a length of 1."""
        own = self if length is None else Layout(self.axes, length)
        return tuple(prod(own.size(f, n) for f in axis) for axis in self.axes)

    def columns(self, n: int) -> tuple[int, ...]:
        """Shape of n columns of channels at one position each, in which n stands for sequences."""
        factors = [f for f in self.factors if f != P]
        if factors[:1] != [N]:
            raise LayoutError("has channels before its sequences")
        return self.shape(n, 1)

    def inner(self) -> tuple[int, ...]:
        """Shape of a column at one position, of the axes behind that of the sequences."""
        first = next(d for d, axis in enumerate(self.axes) if N in axis)
        if any(isinstance(f, int) for f in self.axes[first]):
            raise LayoutError("has channels beside its sequences")
        return self.columns(1)[first + 1 :]

    def viewed(self, shape: tuple[int, ...], n: int) -> tuple["Layout", int]:
        """Layout after a view, and the positions that each new position holds.

        A view that splits positions makes bins; what is within a bin are channels.
        """
        rest, axes, length, bins = self.factors, [], self.length, 1
        for size in shape:
            axis: list[str | int] = []
            while size > 1:
                if not rest:
                    raise LayoutError("has another number of elements")
                factor = rest.pop(0)
                own = length if factor == P else self.size(factor, n)
                if size % own == 0:
                    axis.append(factor)
                    size //= own
                elif own % size == 0 and factor != N and not (factor == P and bins > 1):
                    rest.insert(0, own // size)
                    if factor == P:
                        bins, length = own // size, size
                    axis.append(factor if factor == P else size)
                    size = 1
                else:
                    raise LayoutError("takes sequences or positions apart")
            axes.append(tuple(axis))
        if rest:  # positions of which there is one
            axes[-1] += tuple(rest)
        return Layout(tuple(axes), length), bins

    def permuted(self, order: list[int]) -> tuple["Layout", list[int] | None]:
        """Layout after a permutation of axes, and that of the channel factors if they move."""
        new = Layout(tuple(self.axes[d] for d in order), self.length)
        places, numbered = [], 0
        for axis in self.axes:
            channels = [f for f in axis if isinstance(f, int)]
            places.append(list(range(numbered, numbered + len(channels))))
            numbered += len(channels)
        moved = [place for d in order for place in places[d]]
        return new, None if moved == sorted(moved) else moved

    def channel_factors(self) -> list[int]:
        """Sizes of the channel factors."""
        return [factor for factor in self.factors if isinstance(factor, int)]

    def replaced(self, sizes: dict[int, int | None]) -> "Layout":
        """Layout with other channels in some axes; None takes an axis away."""
        axes = []
        for d, axis in enumerate(self.axes):
            size = sizes.get(d, 0)
            if size is not None:
                axes.append(axis if d not in sizes else () if size == 1 else (size,))
        return Layout(tuple(axes), self.length)

    def _order(self) -> list[int]:
        """Where positions, sequences and then the channel factors are among the factors."""
        factors = self.factors
        channels = [k for k, factor in enumerate(factors) if isinstance(factor, int)]
        return [factors.index(P), factors.index(N), *channels]

    def table(self, value: Tensor, n: int) -> Tensor:
        """Values of n sequences by position, (length, n, channels)."""
        value = value.reshape([self.size(f, n) for f in self.factors])
        return value.permute(self._order()).reshape(self.length, n, -1)

    def whole(self, table: Tensor) -> Tensor:
        """A value from its rows by position, (length, n, channels): the inverse of `table`."""
        order, n = self._order(), table.shape[1]
        value = table.reshape(self.length, n, *self.channel_factors())
        back = [order.index(k) for k in range(len(order))]
        return value.permute(back).contiguous().view(self.shape(n))
