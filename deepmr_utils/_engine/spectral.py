"""Convolution of short windows through a discrete Fourier transform of their own length."""

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
    n, device = width + len(taps) - 1, taps.device
    whole = torch.arange(n // 2 + 1, device=device)
    turns = torch.outer(whole, torch.arange(n, device=device)) % n
    angle = turns.double() * (2 * torch.pi / n)
    cosine, sine = angle.cos(), angle.sin()
    k = len(taps)
    c, d = (wave[:, :k] @ taps.flip(0).double().flatten(1) for wave in (cosine, -sine))
    c, d = (part.view(len(whole), *taps.shape[1:]) for part in (c, d))
    # (a + ib)(c + id) by three products: (a + b)c, a(d - c), b(c + d); by ac where b = d = 0
    both = whole[1 : (n + 1) // 2]
    order = torch.cat([whole, both, both]).argsort(stable=True)

    def three(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        return torch.cat([first, second[both], third[both]])[order].to(taps.dtype)

    a, b = cosine[:, :width], -sine[:, :width]
    # each frequency but 0 and that of every other position stands for its mirror image as well
    real, imaginary = (wave / n for wave in (cosine, -sine))
    twice = 1 + (both[:, None] == whole).any(0)[:, None]
    real, imaginary = twice * real, twice * imaginary
    synthesis = three(real + imaginary, imaginary, -real)
    return three(a + b, a, b), three(c, d - c, c + d), synthesis.T.contiguous()


def spectral_convolution(
    difference: Tensor, analysis: Tensor, weights: Tensor, synthesis: Tensor, low: int, width: int
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
