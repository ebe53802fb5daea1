"""Convolution of short windows through a discrete Fourier transform of their own length."""

import numpy as np
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
    n = width + len(taps) - 1
    unit = np.eye(n // 2 + 1)
    window = np.fft.rfft(np.eye(width, n)).T
    kernel = np.fft.rfft(taps.flip(0).double().cpu().numpy(), n, axis=0)
    real, imaginary = (np.fft.irfft(points, n).T for points in (unit + 0j, 1j * unit))
    # (a + ib)(c + id) by three products: (a + b)c, a(d - c), b(c + d); by ac where b = d = 0
    whole, both = np.arange(n // 2 + 1), np.arange(1, (n + 1) // 2)
    order = np.argsort(np.concatenate([whole, both, both]), kind="stable")

    def three(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> Tensor:
        rows = np.concatenate([first, second[both], third[both]])[order]
        return torch.from_numpy(rows).to(taps)

    a, b, c, d = window.real, window.imag, kernel.real, kernel.imag
    synthesis = three((real + imaginary).T, imaginary.T, -real.T)
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
