"""Training of networks and ensembles of them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from torch import nn

from deepmr_utils._members import seeded
from deepmr_utils.predict import predict, resolve_device

MAX_ATTEMPTS = 3
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Ensemble(NamedTuple):
    """Trained members and how each was trained.

    ``report`` has one row a member: ``member, seed, attempts, seconds`` and, a feature, the
    validation mean squared error ``mse_<feature>``.
    """

    members: list[nn.Module]
    report: pd.DataFrame


def train(
    model: nn.Module, one_hot: torch.Tensor, labels: torch.Tensor, *, seed: int, epochs: int = 12,
    batch_size: int = 250, peak_lr: float = 0.05, weight_decay: float = 0.1,
    loss: Loss | None = None, device: str | torch.device = "cpu",
) -> nn.Module:  # fmt: skip
    """Fit a network in place, by AdamW on a one-cycle learning rate.

    Parameters
    ----------
    model : nn.Module
        Maps (N, 4, L) to (N, K).
    one_hot : torch.Tensor (N, 4, L)
    labels : torch.Tensor (N, K)
        Without a ``loss``, each feature's error is divided by the sd of its labels, so that none
        rules it.
    seed : int
        Order of the sequences.
    epochs, batch_size, peak_lr, weight_decay
        The schedule. Large steps with strong decay and clipped gradients train this network about
        as far as a hundred epochs at a tenth of the rate (measured in the simulation chapter).
    loss : callable, optional
        Maps outputs and labels, both (n, K), to a number; the mean squared error by default. For
        a classifier that gives logits, ``torch.nn.functional.binary_cross_entropy_with_logits``.
    device : str

    Returns
    -------
    nn.Module
        The model, on the CPU, in evaluation mode.
    """
    if len(one_hot) != len(labels) or len(labels) < 2:
        raise ValueError(
            f"training needs one label row a sequence, at least 2; got {len(one_hot)} sequences "
            f"and {len(labels)} labels"
        )
    device = resolve_device(device)
    model.to(device).train()
    one_hot, labels = one_hot.to(device), labels.to(device, one_hot.dtype)
    scale = labels.std(0).clamp_min(1e-6)
    batches = max(len(one_hot) // batch_size, 1)
    generator = torch.Generator().manual_seed(seed)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(epochs):
            order = torch.randperm(len(one_hot), generator=generator).to(device)
            for rows in order.tensor_split(batches):
                if loss is None:
                    yield (((model(one_hot[rows]) - labels[rows]) / scale) ** 2).mean()
                else:
                    yield loss(model(one_hot[rows]), labels[rows])

    return descend(model, losses(), epochs * batches, {"": peak_lr}, weight_decay, 1.0)


def descend(
    model: nn.Module, losses: Iterable[torch.Tensor], steps: int, rates: Mapping[str, float],
    weight_decay: float, largest: float,
) -> nn.Module:  # fmt: skip
    """Take a step of AdamW, on a one-cycle learning rate, down each of so many losses.

    Parameters
    ----------
    model : nn.Module
    losses : iterable of torch.Tensor
        Each is computed after the step before.
    steps : int
    rates : mapping of str to float
        Peak learning rates, by what names of parameters begin with; "" for the others.
    weight_decay : float
    largest : float
        Norm to which gradients are clipped.

    Returns
    -------
    nn.Module
        The model, on the CPU, in evaluation mode.
    """
    groups: dict[str, list[nn.Parameter]] = {start: [] for start in rates}
    for name, parameter in model.named_parameters():
        groups[max((start for start in rates if name.startswith(start)), key=len)].append(parameter)
    # betas: the second moment must follow a rate that rises and falls within some hundred steps
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in groups.values()], weight_decay=weight_decay,
        betas=(0.9, 0.99),
    )  # fmt: skip
    peaks = list(rates.values())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps)
    # on a GPU: full precision as on the CPU, and the same result twice
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for loss in losses:
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), largest)
            optimizer.step()
            schedule.step()
    return model.cpu().eval()


@contextmanager
def one_thread(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw from a seed, in one thread: the order of sums, hence the result, depends on threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with seeded(seed, resolve_device(device)):
            yield
    finally:
        torch.set_num_threads(threads)


def fit_members(
    fit: Callable[..., tuple], jobs: Sequence[tuple], workers: int, device: torch.device
) -> list[tuple]:
    """Results of a function for several members at a time; one after the other on a GPU."""
    calls = (joblib.delayed(fit)(*job, device) for job in jobs)
    return joblib.Parallel(n_jobs=workers if device.type == "cpu" else 1)(calls)


def train_ensemble(
    make_model: Callable[[], nn.Module], one_hot: torch.Tensor, labels: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor], *, n_members: int = 5, seed: int = 0,
    noise_floor: np.ndarray | None = None, max_excess: float = 0.1, workers: int = 1,
    device: str | torch.device = "cpu", **schedule: float,
) -> Ensemble:  # fmt: skip
    """Train members that differ by their seed: initial weights and order of the sequences.

    A member that did not converge (see `unconverged`) is trained again from a new seed.

    Parameters
    ----------
    make_model : callable
        Makes an untrained network; called under the member's seed.
    one_hot, labels : torch.Tensor (N, 4, L), (N, K)
    validation : tuple of torch.Tensor
        One-hot sequences and labels that are not trained on.
    n_members : int
    seed : int
        Each attempt of each member has a stream derived from it.
    noise_floor : array (K,), optional
        Smallest error any model can reach, a feature; where it is not known, the smallest of the
        members takes its place.
    max_excess : float
        See `unconverged`.
    workers : int
        Processes that train members at the same time, one thread each. The result does not depend
        on it.
    device : str
        On a GPU members are trained one after the other.
    **schedule
        Passed on to `train`.

    Raises
    ------
    RuntimeError
        If a member has not converged after three attempts.
    """
    device = resolve_device(device)
    spread = validation[1].double().var(0).numpy()
    fit = partial(_fit_member, make_model, (one_hot, labels), validation, schedule)
    fits: dict[int, tuple] = {}
    attempts = dict.fromkeys(range(n_members), 0)
    todo = list(attempts)
    for _ in range(MAX_ATTEMPTS):
        keys = [((seed, member, attempts[member]),) for member in todo]
        results = fit_members(fit, keys, workers, device)
        for member, result in zip(todo, results, strict=True):
            fits[member] = result
            attempts[member] += 1
        errors = np.array([fits[member][1] for member in range(n_members)])
        floor = errors.min(0) if noise_floor is None else np.asarray(noise_floor)
        todo = np.flatnonzero(unconverged(errors, floor, spread, max_excess)).tolist()
        if not todo:
            break
    else:
        raise RuntimeError(
            f"members {todo} did not converge in {MAX_ATTEMPTS} attempts: validation MSE "
            f"{errors[todo].round(2).tolist()}, noise floor {floor.round(2).tolist()}, variance of "
            f"the labels {spread.round(2).tolist()}: train longer, on more sequences, or at a "
            "lower peak_lr"
        )
    members, _, seeds, seconds = zip(*(fits[member] for member in range(n_members)), strict=True)
    report = pd.DataFrame({
        "member": range(n_members), "seed": seeds, "attempts": attempts.values(),
        "seconds": seconds,
    })  # fmt: skip
    names = getattr(members[0], "feature_names", None) or range(labels.shape[1])
    for k, name in enumerate(names):
        report[f"mse_{name}"] = errors[:, k]
    return Ensemble(list(members), report)


def unconverged(
    errors: np.ndarray, noise_floor: np.ndarray, spread: np.ndarray, max_excess: float = 0.1
) -> np.ndarray:
    """Which members did not converge.

    Parameters
    ----------
    errors : np.ndarray (M, K)
        Validation mean squared error of each member and feature; NaN where training diverged.
    noise_floor : np.ndarray (K,)
        Smallest error that any model can reach.
    spread : np.ndarray (K,)
        Variance of the validation labels: the error of a constant.
    max_excess : float
        Largest excess over the floor, as a share of the labels' variance. A quarter of the floor is
        allowed besides: noisy labels are overfitted a little and validation sets are small.

    Returns
    -------
    np.ndarray of bool (M,)
    """
    limit = 1.25 * noise_floor + max_excess * spread
    return ~(errors <= limit).all(1)


def _fit_member(
    make_model: Callable[[], nn.Module],
    data: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    schedule: dict,
    key: tuple[int, int, int],
    device: torch.device,
) -> tuple[nn.Module, np.ndarray, int, float]:
    """Train one attempt of one member: the model, its validation error, its seed, the seconds."""
    start = time.perf_counter()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    with one_thread(seed, device):
        model = make_model()
        if hasattr(model, "set_output_scale"):
            model.set_output_scale(data[1])
        train(model, *data, seed=seed, device=device, **schedule)
        prediction = predict(model, validation[0], device=device)[0]
    error = ((prediction - validation[1].numpy()) ** 2).mean(0)
    return model, error, seed, time.perf_counter() - start
