"""Training of BPNets on streams of windows, and how well they predict profiles and counts."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepmr_utils.models.bpnet import BPNet, Control, bpnet_loss
from deepmr_utils.predict import evaluating, resolve_device

from ..training import Ensemble, descend, fit_members, one_thread
from .tracks import Batch, control_inputs

MIN_READS = 10  # of a strand of a window that counts for the profile
Epoch = Callable[[int | None], Iterable[Batch]]  # of a seed; without one in order, as they are


def fit_bpnet(
    model: BPNet, epoch: Epoch, *, seed: int, epochs: int = 12, peak_lr: float = 0.02,
    weight_decay: float = 0.01, counts_weight: float = 100.0, counts_speed: float = 10.0,
    device: str | torch.device = "cpu",
) -> BPNet:  # fmt: skip
    """Fit a BPNet in place, by AdamW on a one-cycle learning rate.

    Parameters
    ----------
    model : BPNet
        With ``control_tracks=(4, 2)`` it is given the control reads, with (0, 0) it is not.
    epoch : callable
        Gives the batches of one epoch for a seed, as many each time: for data that fit in memory
        ``lambda seed: stream_held(held, length=..., seed=seed)``, else the same of `stream`.
    seed : int
        Of the epochs, in turn.
    epochs, peak_lr, weight_decay
        The schedule, short as in `experiments.training.train`; the authors' is Adam at 0.004,
        until the validation loss stops falling.
    counts_weight : float
        See `deepmr_utils.models.bpnet.bpnet_loss`. 10 in the paper, where training is longer and
        data are a hundred times as many; on the demo genome profiles are learnt first.
    counts_speed : float
        How much faster the counts head learns: it sees means over all positions of what is bright
        at few, so that its weights must become larger than the others.
    device : str

    Returns
    -------
    BPNet
        The model, on the CPU, in evaluation mode.

    Notes
    -----
    The counts head begins at the mean log count of the first epoch: a bias that grows from 0 to 4
    would take most of a short schedule.
    """
    device = resolve_device(device)
    seeds = np.random.SeedSequence(seed).generate_state(epochs).tolist()
    logs, steps = [], 0
    for batch in epoch(None):
        logs.append(batch.reads.sum(-1).log1p())
        steps += 1
    if not steps:
        raise ValueError("an epoch must have at least one batch; got none")
    with torch.no_grad():
        model.counts.bias.copy_(torch.cat(logs).mean(0).flatten())
    model.to(device).train()

    def losses() -> Iterator[Tensor]:
        for number in seeds:
            for batch in epoch(number):
                heads = model.heads(batch.one_hot.to(device), _control(model, batch, device))
                yield bpnet_loss(heads, batch.reads.to(device), counts_weight)

    rates = {"": peak_lr, "counts.": counts_speed * peak_lr}
    # the loss is a sum over reads: hundreds, and so are its gradients, in the beginning
    return descend(model, losses(), epochs * steps, rates, weight_decay, 50.0)


def fit_ensemble(
    make_model: Callable[[], BPNet], epoch: Epoch, validation: Epoch, *, n_members: int = 5,
    seed: int = 0, workers: int = 1, device: str | torch.device = "cpu", **schedule: float,
) -> Ensemble:  # fmt: skip
    """Train BPNets that differ by their seed: initial weights, order and cuts of the windows.

    Parameters
    ----------
    make_model : callable
        Makes an untrained BPNet; called under the member's seed.
    epoch, validation : callable
        Batches that are trained on, and that are not; see `fit_bpnet`.
    n_members, seed : int
        Each member has a stream derived from the seed.
    workers : int
        Members trained at the same time, one thread each. The result does not depend on it.
    device : str
        Where they are trained.
    **schedule
        Passed on to `fit_bpnet`.

    Returns
    -------
    Ensemble
        Its report has, a member, ``member, seed, seconds`` and by task the validation mean squared
        error of log(1 + reads), ``mse_<task>``.

    Raises
    ------
    RuntimeError
        If the predictions of a member are not finite.
    """
    seeds = np.random.SeedSequence(seed).generate_state(n_members).tolist()
    fit = partial(_fit_member, make_model, epoch, validation, schedule)
    results = fit_members(fit, [(one,) for one in seeds], workers, resolve_device(device))
    members, errors, seconds = zip(*results, strict=True)
    errors = np.array(errors)
    if not np.isfinite(errors).all():
        bad = np.flatnonzero(~np.isfinite(errors).all(1)).tolist()
        raise RuntimeError(f"members {bad} diverged: train at a lower peak_lr")
    report = pd.DataFrame({"member": range(n_members), "seed": seeds, "seconds": seconds})
    for name, column in zip(members[0].feature_names, errors.T, strict=True):
        report[f"mse_{name}"] = column
    return Ensemble(list(members), report)


def _fit_member(
    make_model: Callable[[], BPNet], epoch: Epoch, validation: Epoch, schedule: dict, seed: int,
    device: torch.device,
) -> tuple[BPNet, list[float], float]:  # fmt: skip
    """Train one member: the model, its validation error by task, the seconds."""
    start = time.perf_counter()
    with one_thread(seed, device):
        model = fit_bpnet(make_model(), epoch, seed=seed, device=device, **schedule)
        counts, reads, _, _ = _predict([model], validation(None), device)
    error = (counts - reads).square().mean(0).tolist()
    return model, error, time.perf_counter() - start


def evaluate(
    members: Sequence[BPNet], epoch: Epoch, *, device: str | torch.device = "cpu"
) -> pd.DataFrame:
    """How well an ensemble predicts counts and profiles.

    Parameters
    ----------
    members : sequence of BPNet
        Their log counts and their profiles are averaged.
    epoch : callable
        Batches that were not trained on.
    device : str

    Returns
    -------
    pd.DataFrame
        A row a task: ``pearson, spearman`` of log(1 + reads), mean of both strands; ``jsd``, mean
        Jensen-Shannon divergence (natural logarithm, 0 to 0.69) of observed from predicted
        profiles, between ``jsd_lower``, that of reads drawn from the prediction, which is what
        remains of a right one, and ``jsd_upper``, that of the task's average profile, for which no
        sequence is needed; ``profile``, the share of the way from upper to lower;
        ``windows`` and ``strands``, how many were compared.
    """
    tasks = members[0].feature_names
    device = resolve_device(device)
    counts, observed, _, profile = _predict(members, epoch(None), device)
    generator = np.random.default_rng(0)
    sums: dict[str, Tensor] = {}
    for batch in epoch(None):
        _, _, predicted, _ = _predict(members, [batch], device)
        n = batch.reads.sum(-1)
        drawn = generator.multinomial(n.numpy().astype(np.int64), predicted.double().numpy())
        average = (profile / profile.sum(-1, keepdim=True)).expand_as(predicted)
        used = (n >= MIN_READS).double()
        for name, p, q in (
            ("jsd", batch.reads, predicted), ("jsd_upper", batch.reads, average),
            ("jsd_lower", torch.from_numpy(drawn), predicted),
        ):  # fmt: skip
            found = (_divergence(p, q) * used).sum((0, 2))
            sums[name] = sums.get(name, 0) + found
        sums["strands"] = sums.get("strands", 0) + used.sum((0, 2))
    table = pd.DataFrame({"task": tasks})
    pairs = [(pd.Series(a), pd.Series(b)) for a, b in zip(counts.T, observed.T, strict=True)]
    for method in ("pearson", "spearman"):
        table[method] = [a.corr(b, method) for a, b in pairs]
    for name in ("jsd", "jsd_lower", "jsd_upper"):
        table[name] = (sums[name] / sums["strands"]).numpy()
    table["profile"] = (table["jsd_upper"] - table["jsd"]) / (
        table["jsd_upper"] - table["jsd_lower"]
    )
    return table.assign(windows=len(counts), strands=sums["strands"].numpy().astype(np.int64))


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence along the last axis of (..., L), of what need not sum to 1."""
    p, q = (x.double() / x.double().sum(-1, keepdim=True).clamp_min(1e-300) for x in (p, q))
    middle = (p + q) / 2
    parts = (torch.xlogy(x, x) - torch.xlogy(x, middle) for x in (p, q))
    return sum(part.sum(-1) for part in parts) / 2


@torch.inference_mode()
def _predict(
    members: Sequence[BPNet], batches: Iterable[Batch], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predicted and observed log counts (N, T), the last batch's profiles, and summed reads.

    Profiles (N, T, 2, L) of the last batch only; reads (T, 2, L) are summed over all windows.
    """
    predicted, observed, total, profile = [], [], 0, torch.empty(0)
    with evaluating(members, device):
        for batch in batches:
            x = batch.one_hot.to(device)
            heads = [member.heads(x, _control(member, batch, device)) for member in members]
            predicted.append((sum(h.counts for h in heads).mean(2) / len(heads)).cpu())
            profile = (sum(h.profile.double().softmax(-1) for h in heads) / len(heads)).cpu()
            observed.append(batch.reads.sum(-1).log1p().mean(2))
            total = total + batch.reads.double().sum(0)
    return torch.cat(predicted), torch.cat(observed), profile, total


def _control(model: BPNet, batch: Batch, device: torch.device) -> Control | None:
    if not model.control_profile.shape[1]:
        return None
    if batch.control is None:
        raise ValueError("the model takes control reads, and the data have none")
    return Control(*(part.to(device) for part in control_inputs(batch.control)))
