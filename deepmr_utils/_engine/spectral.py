"""Convolution of short windows through a discrete Fourier transform of their own length."""

import math

import torch

from .windows import Tensor


def spectral_pays(width: int, taps: Tensor) -> bool:
    """Whether `spectral_convolution` needs clearly fewer multiplications than tap by tap."""
    k, i, o = taps.shape
    n = width + k - 1
    products = 3 * (n // 2) + n % 2 - 2 * (n % 2 == 0)
    # the small transforms run at the speed of memory: each counts about three times
    transforms = 3 * products * (width * i + n * o)
    return products * i * o + transforms < width * k * i * o


def spectrum(taps: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices of `spectral_convolution` for windows of a width.

    Returns
    -------
    analysis : Tensor (F, width)
    weights : Tensor (F, I, O)
    synthesis : Tensor (n, F), n = width + k - 1
    """
    k = len(taps)
    n = width + k - 1
    turn = lambda f, steps: 2 * math.pi * f * torch.arange(steps, dtype=torch.float64) / n  # noqa: E731
    kernel = taps.flip(0).double().reshape(k, -1)
    analysis, weights, synthesis = [], [], []
    for f in range(n // 2 + 1):
        angle, tap_angle, back = (turn(f, steps) for steps in (width, k, n))
        real, imaginary = tap_angle.cos().to(kernel) @ kernel, -tap_angle.sin().to(kernel) @ kernel
        if f == 0 or 2 * f == n:  # a real point
            analysis.append(angle.cos())
            weights.append(real)
            synthesis.append(back.cos() / n)
        else:  # (a + ib)(c + id) by the three products (a + b)c, a(d - c), b(c + d)
            analysis += [angle.cos() - angle.sin(), angle.cos(), -angle.sin()]
            weights += [real, imaginary - real, real + imaginary]
            scale = 2 / n
            synthesis += [
                (back.cos() - back.sin()) * scale, -back.sin() * scale, -back.cos() * scale,
            ]  # fmt: skip
    stack = lambda rows, dim: torch.stack(rows, dim).to(taps)  # noqa: E731
    return stack(analysis, 0), stack(weights, 0).view(-1, *taps.shape[1:]), stack(synthesis, 1)


def spectral_convolution(
    difference: Tensor,
    analysis: Tensor,
    weights: Tensor,
    synthesis: Tensor,
    low: int,
    width: int,
) -> Tensor:
    """Full convolution of short windows through a discrete Fourier transform of their own length.

    A window of w positions and a kernel of k taps need w * k products of matrices tap by tap, and
    about 1.5 (w + k) of them here: one for each real frequency, three for each complex one.

    Parameters
    ----------
    difference : Tensor (w, S, A, I)
    analysis, weights, synthesis : Tensor
        Of `spectrum`.
    low, width : int
        First output row and number of rows wanted.

    Returns
    -------
    Tensor (width, S, A, O)
    """
    w, sites, alleles, channels = difference.shape
    points = (analysis @ difference.reshape(w, -1)).view(len(analysis), -1, channels)
    products = torch.bmm(points, weights).view(len(analysis), -1)
    return (synthesis[low : low + width] @ products).view(width, sites, alleles, -1)
