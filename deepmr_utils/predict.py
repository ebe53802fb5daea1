"""Predictions with members: an ensemble, or MC-dropout masks of one network."""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from tqdm import tqdm

from . import _members
from ._checks import check_number
from ._members import Features, Heads, declared_names, find_features
from ._memory import bytes_per_sequence, free_memory
from ._model_errors import refusal, wrong_output
from .sequences import check_one_hot

__all__ = ["MCDropout", "predict"]


class MCDropout:
    """MC-dropout members of one network: draws of its dropout masks (Gal and Ghahramani, 2016).

    A draw is one fixed mask for every dropout layer, shared by all sequences, so that a reference
    and its mutants see the same sub-network. Everything else is in evaluation mode. The same seed
    gives the same masks on every device.

    Parameters
    ----------
    module : nn.Module
        A network with at least one dropout layer of positive probability.
    n_draws : int
        Number of members.
    seed : int
    """

    def __init__(self, module: nn.Module, n_draws: int = 50, seed: int = 0) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"MC-dropout needs an nn.Module; got {type(module).__name__}")
        self.module = _members.as_module(module)
        self.n_draws = check_number("n_draws", n_draws, 1, whole=True)
        self.seed = check_number("seed", seed, 0, whole=True)
        if not _dropout_layers(self.module):
            raise ValueError(
                "MC-dropout needs a module with dropout layers of positive probability; "
                f"{type(self.module).__name__} has none: use an ensemble instead"
            )

    def members(self) -> list[nn.Module]:
        """The draws, each a module in its own right."""
        return [_Draw(self.module, self.seed, draw) for draw in range(self.n_draws)]


def _dropout_layers(module: nn.Module) -> list[_DropoutNd]:
    return [m for m in module.modules() if isinstance(m, _DropoutNd) and m.p > 0]


class _Draw(nn.Module):
    """One draw of dropout masks: `module` with the masks applied by forward hooks."""

    def __init__(self, module: nn.Module, seed: int, draw: int) -> None:
        super().__init__()
        self.module, self.seed, self.draw = module, seed, draw
        self.feature_names = declared_names(module)
        self._masks: dict[int, torch.Tensor] = {}

    def _mask(self, layer: int, dropout: _DropoutNd, x: torch.Tensor) -> torch.Tensor:
        # Dropout1d, 2d and 3d drop whole channels; plain dropout single units
        plain = isinstance(dropout, nn.Dropout | nn.AlphaDropout)
        shape = (1, *x.shape[1:]) if plain else (1, x.shape[1], *(1,) * (x.ndim - 2))
        mask = self._masks.get(layer)
        if mask is None or mask.shape != shape or mask.device != x.device or mask.dtype != x.dtype:
            entropy = np.random.SeedSequence([self.seed, self.draw, layer]).generate_state(1)
            generator = torch.Generator().manual_seed(int(entropy[0]))
            keep = torch.rand(shape, generator=generator, dtype=torch.float64) >= dropout.p
            mask = (keep / (1 - dropout.p)).to(x)
            self._masks[layer] = mask
        return mask

    def _masked(self, i: int, layer: _DropoutNd, inputs: tuple, output: Any) -> torch.Tensor:
        return inputs[0] * self._mask(i, layer, inputs[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with ExitStack() as stack:
            for i, layer in enumerate(_dropout_layers(self.module)):
                stack.callback(layer.register_forward_hook(partial(self._masked, i)).remove)
            return self.module(x)


Members = nn.Module | Sequence[nn.Module] | MCDropout


def as_members(members: Members) -> list[nn.Module]:
    """The members of a module, a list of modules or an MC-dropout wrapper, as a list."""
    if isinstance(members, MCDropout):
        return members.members()
    alone = isinstance(members, nn.Module) and not isinstance(members, nn.ModuleList)
    listing = [members] if alone else members
    several = isinstance(listing, Iterable) and not isinstance(listing, str | Mapping)
    listing = list(listing) if several else []
    if not listing or not all(isinstance(member, nn.Module) for member in listing):
        functions = any(inspect.isroutine(member) for member in (members, *listing))
        raise TypeError(
            "members must be an nn.Module, a list of nn.Modules or MCDropout; got "
            f"{' '.join(short(members).split())} ({type(members).__name__})"
            + ": deepmr_utils.adapters.adapt makes a module of a function of arrays"
            * functions
        )
    return [_members.as_module(member) for member in listing]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a device; ``"auto"`` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device if isinstance(device, str | torch.device) else "none")
    except RuntimeError:
        resolved = torch.device("meta")  # which holds no numbers
    if resolved.type == "meta":
        raise ValueError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        raise ValueError(f"device {device!r} is not there ({count} CUDA devices): use auto or cpu")
    return resolved


@contextmanager
def evaluating(members: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Hold members in evaluation mode on a device, without gradients; then put them back.

    Buffers that a member changes come back, too. Products of float32 matrices keep full precision
    on a GPU.
    """
    with _members.left_as_they_were(members), _members.float32_products(device, tf32=False):
        for member in members:
            with suppress(NotImplementedError):  # a graph of torch.export has no modes
                member.eval()
            member.to(device)
        # not inference mode: a tensor that a model makes in it and keeps could not be trained with
        with torch.no_grad():
            yield


def member_dtype(members: Sequence[nn.Module], default: torch.dtype) -> torch.dtype:
    """The type that members compute in: that of their weights, float32 for narrower ones.

    The default where they have none.
    """
    dtypes = {p.dtype for m in members for p in m.parameters() if p.is_floating_point()}
    dtypes = {d if d == torch.float64 else torch.float32 for d in dtypes}
    if len(dtypes) > 1:
        raise ValueError(
            f"all members must have one dtype; got {sorted(map(str, dtypes))}: convert them with "
            ".float() or .double()"
        )
    return dtypes.pop() if dtypes else default


def forward(member: nn.Module, x: torch.Tensor) -> Heads:
    """Outputs of a member, or a clear error where the input or output does not fit.

    A model gives one tensor (N, K) or (N,), or several heads: a dict, list, tuple or NamedTuple of
    them, which may be nested. The columns of a head are called ``head:0``, ``head:1``, ... after
    its key, field or number, or ``head`` where it has one; a head within another is
    ``outer:inner``. An output with `logits`, as those of Hugging Face, is these. Last axes of 1 are
    dropped. Heads of another shape, (N, T, positions) for instance, are left out, and features must
    be named where there are any; `deepmr_utils.adapters.adapt` reduces them. The model gets a copy
    of `x`, which it may change.
    """
    try:
        output = member(x.clone())
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        reason = refusal(member, x.shape, error)
        if reason is None:
            raise
        raise ValueError(reason) from error
    heads = _members.heads_of(output)
    names, parts, left_out = [], [], {}
    for key, head in heads.items():
        head = _as_table(head, len(x))
        wrong = wrong_output(head, len(x), f" in head {key!r}" if key else "")
        if wrong:
            left_out[key] = wrong
            continue
        width = head.shape[1]
        names += [key] if width == 1 else [f"{key}:{i}" for i in range(width)]
        parts.append(head.to(x.dtype))
    if not parts:
        raise ValueError(next(iter(left_out.values())))
    return Heads(parts, None if "" in heads else names, left_out)


def _as_table(head: Any, n: int) -> Any:
    """A head (n,) or (n, K, 1) as (n, 1) or (n, K); any other as it is."""
    if isinstance(head, torch.Tensor):
        if head.shape == (n,):
            return head[:, None]
        if head.ndim > 2 and head.shape[2:].numel() == 1:
            return head.flatten(1)
    return head


def differs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Which columns of predictions (P, K) differ, bool (K,), each on its own scale.

    The limit is a share of the largest value: 1e-9 in float64, 1e-4 in float32, 0.1 in half
    precision. A column of values near 0 may reach it by rounding, see `in_float64`.
    """
    limit = {torch.float64: 1e-9, torch.float32: 1e-4}.get(a.dtype, 0.1)
    return ((a - b).abs() > limit * torch.maximum(a.abs(), b.abs()).amax(0)).any(0)


def in_float64(member: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """Predictions in float64, which tell rounding from error; None if they cannot be repeated."""
    try:
        member, x = _members.copied(member).double(), x.double()
        outputs, alone = forward(member, x).values, forward(member, x[:1]).values
    except (RuntimeError, TypeError, ValueError):  # of a type within, or a module without copies
        return None
    return None if differs(torch.cat([alone, outputs[1:]]), outputs).any() else outputs


def check_repeatable(
    member: nn.Module, x: torch.Tensor, outputs: torch.Tensor, columns: list[int]
) -> None:
    """Refuse a model that predicts the first of sequences in another way when it is alone.

    Parameters
    ----------
    member : nn.Module
        In evaluation mode.
    x : Tensor (N, 4, L)
    outputs : Tensor (N, K)
        What the member gave for `x`.
    columns : list of int
        Those that are wanted.

    Raises
    ------
    ValueError
        If predictions are random, or depend on what else is in a batch.
    """
    outputs, name = outputs[:, columns], type(member).__name__
    once = forward(member, x[:1]).values[:, columns]
    wrong = differs(torch.cat([once, outputs[1:]]), outputs)
    if not wrong.any():
        return
    again = forward(member, x[:1]).values[:, columns]
    random = differs(once, again)
    if random.any():
        wrong, outputs = random, again
        what = "gives different predictions for the same sequence in evaluation mode"
        advice = (
            "effects would be noise. Dropout without `training=self.training`, or sampling, is the "
            "usual reason: switch it off, or wrap a model with dropout layers in MCDropout"
        )
    elif outputs.dtype != torch.float64 and in_float64(member, x) is not None:
        return  # values near 0, and rounding
    else:
        what = "predicts a sequence differently alone and beside others"
        advice = (
            "effects would depend on the batch. Statistics of the batch are the usual reason: use "
            "running statistics, or none"
        )
    column = int(wrong.nonzero()[0])
    values = f"{once[0, column]:.6g} and {outputs[0, column]:.6g} in column {columns[column]}"
    raise ValueError(f"{name} {what}, {values}: {advice}")


def predict(
    members: Members,
    one_hot: np.ndarray | torch.Tensor,
    *,
    features: Features = None,
    batch_size: int = 2048,
    device: str | torch.device = "auto",
) -> np.ndarray:
    """Predict with every member, in evaluation mode.

    Parameters
    ----------
    members : nn.Module, list of nn.Module or MCDropout
        Each maps (N, 4, L) to (N, K), or to several heads, see `forward`; others go through
        `deepmr_utils.adapters.adapt`.
    one_hot : array or tensor (N, 4, L)
    features : optional
        Outputs to keep: a list of names, a list of columns, or a mapping of name to column.
    batch_size : int
        Sequences at a time, at most: fewer where a GPU has not the memory for them. It does not
        change the result.
    device : str

    Returns
    -------
    np.ndarray (M, N, K)
        In the floating-point type of the members, at least float32: weights of a narrower one are
        taken as they are and computed with in float32.
    """
    one_hot = check_one_hot(one_hot)
    members = as_members(members)
    device = resolve_device(device)
    size = check_number("batch_size", batch_size, 1, whole=True)
    dtype = member_dtype(members, one_hot.dtype)
    members = _members.of_dtype(members, dtype)
    parts: list[torch.Tensor] = []
    columns, start = None, 0
    with evaluating(members, device):
        if (free := free_memory(device)) < np.inf:
            each = (partial(forward, member) for member in members)
            one = one_hot[0].to(device, dtype)
            size = int(max(1, min(size, free / max(bytes_per_sequence(f, one) for f in each))))
        while start < len(one_hot):
            batch = one_hot[start : start + size].to(device, dtype)
            heads, full = [], False
            try:
                heads = [forward(member, batch) for member in members]
                if columns is None:
                    _, found = find_features(members, heads, features)
                    for member, outputs, wanted in zip(members, heads, found, strict=True):
                        check_repeatable(member, batch, outputs.values, wanted)
                    columns = found
            except RuntimeError as error:
                full = _members.is_out_of_memory(error) and len(batch) > 1
                if not full:
                    raise
            if full:  # only here, when the error no longer holds what was computed
                heads, size = [], len(batch) // 2
                torch.cuda.empty_cache()
                continue
            chosen = [h.values[:, wanted] for h, wanted in zip(heads, columns, strict=True)]
            parts.append(torch.stack(chosen).cpu())
            start += len(batch)
    return torch.cat(parts, dim=1).numpy()


def model_hash(members: Sequence[nn.Module]) -> str:
    """SHA-256 of the members' weights and buffers, in order: names, shapes and values.

    Of draws of one module the weights are read once.
    """
    digest, drawn = hashlib.sha256(), None
    for member in members:
        again, drawn = drawn, member.module if isinstance(member, _Draw) else None
        for name, value in () if again is drawn is not None else _members.state_of(member).items():
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(_members.bytes_of(value))
        if isinstance(member, _Draw):
            digest.update(f"dropout {member.seed} {member.draw}".encode())
    return digest.hexdigest()


def progress_bar(items: Iterable, shown: bool, **options: Any) -> Iterable:
    """Iterate with a progress bar where one is asked for and TQDM_DISABLE does not forbid it."""
    return tqdm(items, **options) if shown else items
