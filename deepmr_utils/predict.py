"""Predictions with members: an ensemble, or MC-dropout masks of one network."""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from tqdm import tqdm

from .sequences import check_one_hot

Features = Sequence[str] | Sequence[int] | Mapping[str, int] | None


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
        if n_draws < 1:
            raise ValueError(f"n_draws must be at least 1; got {n_draws}")
        self.module, self.n_draws, self.seed = module, n_draws, seed
        if not _dropout_layers(module):
            raise ValueError(
                "MC-dropout needs a module with dropout layers of positive probability; "
                f"{type(module).__name__} has none: use an ensemble instead"
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
        self.feature_names = getattr(module, "feature_names", None)
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        handles = [
            layer.register_forward_hook(
                lambda module, inputs, output, i=i: inputs[0] * self._mask(i, module, inputs[0])
            )
            for i, layer in enumerate(_dropout_layers(self.module))
        ]
        try:
            return self.module(x)
        finally:
            for handle in handles:
                handle.remove()


Members = nn.Module | Sequence[nn.Module] | MCDropout


def as_members(members: Members) -> list[nn.Module]:
    """The members of a module, a list of modules or an MC-dropout wrapper, as a list."""
    if isinstance(members, MCDropout):
        return members.members()
    members = [members] if isinstance(members, nn.Module) else list(members)
    wrong = [type(m).__name__ for m in members if not isinstance(m, nn.Module)]
    if wrong or not members:
        raise TypeError(
            "members must be an nn.Module, a list of nn.Modules or MCDropout; got "
            + (f"a list with {wrong[0]}" if wrong else "an empty list")
        )
    return members


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a device; ``"auto"`` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        raise ValueError(f"device {device!r} is not there ({count} CUDA devices): use auto or cpu")
    return resolved


@contextmanager
def evaluating(
    members: Sequence[nn.Module], device: torch.device, tf32: bool = False
) -> Iterator[None]:
    """Hold members in evaluation mode on a device, without gradients; then put them back.

    Products of float32 matrices keep full precision on a GPU, unless `tf32` is asked for.
    """
    modules = [module for member in members for module in member.modules()]
    modes = [module.training for module in modules]
    homes = [next(member.parameters(), torch.empty(0)).device for member in members]
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    allowed = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = tf32
        for member in members:
            member.eval().to(device)
        # not inference mode: a tensor that a model makes in it and keeps could not be trained with
        with torch.no_grad():
            yield
    finally:
        for switch, value in zip(switches, allowed, strict=True):
            switch.allow_tf32 = value
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for member, home in zip(members, homes, strict=True):
            member.to(home)


def member_dtype(members: Sequence[nn.Module], default: torch.dtype) -> torch.dtype:
    """The floating-point type of the members' weights, or the default where they have none."""
    dtypes = {p.dtype for m in members for p in m.parameters() if p.is_floating_point()}
    if len(dtypes) > 1:
        raise ValueError(f"all members must have one dtype; got {sorted(map(str, dtypes))}")
    return dtypes.pop() if dtypes else default


def resolve_features(
    members: Sequence[nn.Module],
    features: Features,
    n_outputs: int,
    names: Sequence[str] | None = None,
) -> tuple[list[str], list[int]]:
    """Names and output columns of the requested features.

    ``features`` is None (all outputs), a mapping of name to column, a list of columns, or a list of
    names. Names are looked up in the members' ``feature_names``, else in ``names``, those of the
    heads; where there are none, a list of names must name all outputs in order.
    """
    declared = getattr(members[0], "feature_names", None)
    declared = names if declared is None else declared
    names = [str(n) for n in declared] if declared is not None else None
    if names is not None and len(names) != n_outputs:
        raise ValueError(f"the model names {len(names)} features but gives {n_outputs} outputs")
    if isinstance(features, Mapping):
        chosen, columns = [str(n) for n in features], list(features.values())
    elif features is None:
        columns = list(range(n_outputs))
        chosen = names or [str(c) for c in columns]
    elif isinstance(features, str):
        raise TypeError(f"features must be a list of names; got the single string {features!r}")
    elif all(isinstance(f, int | np.integer) for f in features):
        columns = [int(f) for f in features]
        chosen = [names[c] if names and 0 <= c < n_outputs else str(c) for c in columns]
    elif names is not None:
        unknown = [f for f in features if f not in names]
        if unknown:
            raise ValueError(f"unknown feature {unknown[0]!r}: the model has {', '.join(names)}")
        chosen = list(features)
        columns = [names.index(f) for f in features]
    else:
        chosen, columns = list(features), list(range(n_outputs))
        if len(chosen) != n_outputs:
            raise ValueError(
                f"unknown features {chosen}: the model has {n_outputs} unnamed outputs; name all "
                "of them, or give a mapping of name to output column"
            )
    beyond = [c for c in columns if not 0 <= c < n_outputs]
    if beyond:
        raise ValueError(f"unknown feature column {beyond[0]}: the model has {n_outputs} outputs")
    if len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(f"features must be distinct and at least one; got {chosen}")
    return chosen, columns


class Heads(NamedTuple):
    """Outputs of a model: a list of (N, K), and names of all columns where it has several heads."""

    parts: list[torch.Tensor]
    names: list[str] | None

    @property
    def values(self) -> torch.Tensor:
        """All columns side by side, (N, K)."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)


def forward(member: nn.Module, x: torch.Tensor) -> Heads:
    """Outputs of a member, or a clear error where the input or output does not fit.

    A model gives one tensor (N, K), or a dict, list or tuple of heads, each (N, K) or (N,). The
    columns of a head are called ``head:0``, ``head:1``, ... after its key or number, or ``head``
    where it has one. The model gets a copy of `x`, which it may change.
    """
    try:
        output = member(x.clone())
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"the model refused sequences of shape {tuple(x.shape)} (N, 4, L): {error}. Sequences "
            "shorter than its receptive field, or of a length its dense layers do not expect, are "
            "the usual reason"
        ) from error
    heads = output
    if isinstance(output, list | tuple):
        heads = dict(enumerate(output))
    several = isinstance(heads, Mapping) and len(heads) > 0
    names, parts = [], []
    for key, head in (heads if several else {"": output}).items():
        if isinstance(head, torch.Tensor) and several and head.ndim == 1:
            head = head[:, None]
        if not isinstance(head, torch.Tensor) or head.ndim != 2 or len(head) != len(x):
            got = tuple(head.shape) if isinstance(head, torch.Tensor) else type(head).__name__
            where = f" in head {key!r}" if several else ""
            raise ValueError(
                f"a model must map ({len(x)}, 4, L) to ({len(x)}, K), or to a dict or tuple of "
                f"such heads; got {got}{where}: wrap the model in a module that reduces it, or "
                "leaves it out"
            )
        width = head.shape[1]
        names += [str(key)] if width == 1 else [f"{key}:{i}" for i in range(width)]
        parts.append(head)
    return Heads(parts, names if several else None)


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
        member, x = copy.deepcopy(member).double(), x.double()
        outputs, alone = forward(member, x).values, forward(member, x[:1]).values
    except (RuntimeError, TypeError, ValueError):  # of a type within, or a module without copies
        return None
    return None if differs(torch.cat([alone, outputs[1:]]), outputs).any() else outputs


def check_repeatable(member: nn.Module, x: torch.Tensor, outputs: torch.Tensor) -> None:
    """Refuse a model that predicts the first of sequences in another way when it is alone.

    Parameters
    ----------
    member : nn.Module
        In evaluation mode.
    x : Tensor (N, 4, L)
    outputs : Tensor (N, K)
        What the member gave for `x`.

    Raises
    ------
    ValueError
        If predictions are random, or depend on what else is in a batch.
    """
    once, name = forward(member, x[:1]).values, type(member).__name__
    wrong = differs(torch.cat([once, outputs[1:]]), outputs)
    if not wrong.any():
        return
    again = forward(member, x[:1]).values
    random = differs(once, again)
    column = int((random if random.any() else wrong).nonzero()[0])
    values = f"{once[0, column]:.6g} and {(again if random.any() else outputs)[0, column]:.6g}"
    if random.any():
        raise ValueError(
            f"{name} gives different predictions for the same sequence in evaluation mode, "
            f"{values} in column {column}: effects would be noise. Dropout without "
            "`training=self.training`, or sampling, is the usual reason: switch it off, or wrap a "
            "model with dropout layers in MCDropout"
        )
    if outputs.dtype != torch.float64 and in_float64(member, x) is not None:
        return  # values near 0, and rounding
    raise ValueError(
        f"{name} predicts a sequence differently alone and beside others, {values} in column "
        f"{column}: effects would depend on the batch. Statistics of the batch are the usual "
        "reason: use running statistics, or none"
    )


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
        Each maps (N, 4, L) to (N, K), or to several heads, see `forward`.
    one_hot : array or tensor (N, 4, L)
    features : optional
        Names or columns of the outputs to keep, see `resolve_features`.
    batch_size : int
        Sequences at a time; bounds the memory and does not change the result.
    device : str

    Returns
    -------
    np.ndarray (M, N, K)
        In the floating-point type of the members.
    """
    one_hot = check_one_hot(one_hot)
    members = as_members(members)
    device = resolve_device(device)
    dtype = member_dtype(members, one_hot.dtype)
    parts: list[list[torch.Tensor]] = [[] for _ in members]
    columns = None
    with evaluating(members, device):
        for batch in one_hot.split(batch_size):
            batch = batch.to(device, dtype)
            for part, member in zip(parts, members, strict=True):
                heads = forward(member, batch)
                output = heads.values
                if not part:
                    check_repeatable(member, batch, output)
                if columns is None:
                    _, columns = resolve_features(members, features, output.shape[1], heads.names)
                part.append(output[:, columns].cpu())
    return torch.stack([torch.cat(part) for part in parts]).numpy()


def model_hash(members: Sequence[nn.Module]) -> str:
    """SHA-256 of the members' weights and buffers, in order: names, shapes and values."""
    digest = hashlib.sha256()
    for member in members:
        state: dict[str, Any] = member.state_dict()
        for name, value in state.items():
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        if isinstance(member, _Draw):
            digest.update(f"dropout {member.seed} {member.draw}".encode())
    return digest.hexdigest()


def progress_bar(items: Iterable, shown: bool, **options: Any) -> Iterable:
    """Iterate with a progress bar where one is asked for and TQDM_DISABLE does not forbid it."""
    return tqdm(items, **options) if shown else items
