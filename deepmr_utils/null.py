"""Models and sequences in which there is nothing to find, to see what Deep MR makes of them.

A null model does not give null effects. Its features share all layers but the last, so that a
substitution which moves one feature moves the other, in a ratio that the last weights set; and the
pooled rule standardises effects, so that it finds instruments however small they are. Over networks
the estimates scatter symmetrically around 0, within one they do not: compare the size and spread of
your estimates with those of several null models, and do not read significance as something learnt.

The size of the variant effects tells these models from trained ones where the causal effects do
not. Shuffled sequences ask another question: what the background gives. A short motif occurs by
chance, so its effects stay, while what needs two motifs or a long one goes. The notebook
``splicing`` shows all of this on a published network.
"""

import itertools
import math
import re
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from ._checks import check_number
from ._members import as_module, copied, seeded
from .sequences import check_letters

__all__ = ["dinucleotide_shuffle", "shuffled_weights", "untrained"]


def shuffled_weights(module: nn.Module, seed: int) -> nn.Module:
    """Copy a network and permute the entries of every parameter tensor.

    Parameters
    ----------
    module : nn.Module
        Stays as it is.
    seed : int
        The same permutations on every device.

    Returns
    -------
    nn.Module
        Every tensor keeps its distribution of weights and loses what was learnt. Buffers stay as
        they are: batch norm keeps its running statistics, so that variances stay positive, though
        they no longer are those of its input.
    """
    module, parameters = _copied(module)
    generator = torch.Generator().manual_seed(check_number("seed", seed, low=0, whole=True))
    with torch.no_grad():
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.reshape(-1)[order].view_as(parameter))
    return module


def untrained(module: nn.Module, seed: int) -> nn.Module:
    """Copy a network and draw its weights anew, by the ``reset_parameters`` of its layers.

    Parameters
    ----------
    module : nn.Module
        Stays as it is.
    seed : int
        The same weights on every device.

    Returns
    -------
    nn.Module
        On the same device. Batch norm starts from mean 0 and variance 1; other buffers (an output
        scale, say) stay as they are.

    Raises
    ------
    ValueError
        If a layer has parameters but no ``reset_parameters``, or one that does not draw all of
        them, as under `torch.nn.utils.weight_norm`.
    """
    module, parameters = _copied(module)
    seed = check_number("seed", seed, low=0, whole=True)
    lacking = [
        f"{name or 'the module itself'} ({type(layer).__name__})"
        for name, layer in module.named_modules()
        if list(layer.parameters(recurse=False)) and not hasattr(layer, "reset_parameters")
    ]
    if lacking:
        raise ValueError(
            "layers are drawn anew by their reset_parameters, which is missing: "
            f"{', '.join(lacking)}. Define it, or use shuffled_weights"
        )
    device = parameters[0].device
    module.cpu()
    with torch.no_grad():
        for parameter in module.parameters():  # what is not drawn anew is seen by this mark
            parameter.fill_(torch.nan if parameter.is_floating_point() else 0)
    with seeded(seed):
        for layer in reversed(list(module.modules())):  # a parent's own rule has the last word
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    kept = [name for name, p in module.named_parameters() if p.isnan().any()]
    if kept:
        raise ValueError(
            f"reset_parameters of its layers leaves parameters as they are: {', '.join(kept)}. "
            "Define one that draws them, or use shuffled_weights"
        )
    return module.to(device)


def _copied(module: nn.Module) -> tuple[nn.Module, list[nn.Parameter]]:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"a null model is made of one nn.Module; got {type(module).__name__}: call this for "
            "each member"
        )
    module = copied(as_module(module))
    parameters = list(module.parameters())
    if not parameters:
        raise ValueError(f"{type(module).__name__} has no parameters: nothing in it was learnt")
    return module, parameters


def dinucleotide_shuffle(sequences: Iterable[str], seed: int) -> list[str]:
    """Shuffle sequences, keeping how often each dinucleotide occurs.

    Parameters
    ----------
    sequences : iterable of str (N,)
        A, C, G, T and N in either case, of any lengths.
    seed : int
        A sequence's shuffle depends on this, its place and itself.

    Returns
    -------
    list of str (N,)
        Upper case; each with the dinucleotide counts, the first and the last base of its sequence.
        Unknown bases stay where they are: what is between them is shuffled piece by piece.

    Raises
    ------
    TypeError
        If it is given a single string.
    ValueError
        If a sequence holds another letter.

    Notes
    -----
    Uniform over all such sequences (Altschul and Erickson, 1985): a random Euler tour of the graph
    with an edge a dinucleotide. The last edges out of each base form a tree towards the last base,
    which is drawn from the list of all such trees; the order of the other edges is free.
    """
    return [
        "".join(
            piece if len(piece) < 4 or piece[0] == "N" else _shuffle(piece, rng)
            for piece in re.split("(N+)", sequence)
        )
        for i, sequence in enumerate(check_letters(sequences))
        for rng in [np.random.default_rng([seed, i])]
    ]


def _shuffle(sequence: str, rng: np.random.Generator) -> str:
    """An Euler tour of the dinucleotides of a sequence of at least two bases."""
    edges: dict[str, list[str]] = {base: [] for base in sequence}
    for base, following in itertools.pairwise(sequence):
        edges[base].append(following)
    root = sequence[-1]
    bases = [base for base in edges if base != root]
    trees, weights = [], []
    for choice in itertools.product(*(sorted(set(edges[base])) for base in bases)):
        tree = dict(zip(bases, choice, strict=True))
        if all(_reaches(base, root, tree) for base in bases):
            trees.append(tree)
            weights.append(math.prod(float(edges[base].count(tree[base])) for base in bases))
    tree = trees[rng.choice(len(trees), p=np.array(weights) / np.sum(weights))]
    tour = {}
    for base, following in edges.items():
        if base in tree:
            following.remove(tree[base])
        rest = [following[i] for i in rng.permutation(len(following))]
        tour[base] = iter([*rest, tree[base]] if base in tree else rest)
    shuffled = [sequence[0]]
    for _ in range(len(sequence) - 1):
        shuffled.append(next(tour[shuffled[-1]]))
    return "".join(shuffled)


def _reaches(base: str, root: str, tree: dict[str, str]) -> bool:
    """Whether the edges of a tree lead from a base to the root."""
    for _ in tree:
        base = tree.get(base, root)
    return base == root
