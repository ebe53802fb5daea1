"""Models as their authors left them: other layouts and inputs, outputs with positions, files."""

import importlib
import importlib.util
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ._checks import check_choice, check_file, did_you_mean, listed
from ._members import as_module, declared_names, heads_of
from .sequences import ALPHABET, UNKNOWN

__all__ = ["adapt", "load_model"]

Layout = Literal["NCL", "NLC"]
Reduction = Literal["mean", "sum", "center"] | Callable[[Tensor], Tensor]
_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda head: head.mean(-1),
    "sum": lambda head: head.sum(-1),
    "center": lambda head: head[..., head.shape[-1] // 2],
}


def adapt(
    model: nn.Module | Callable[..., Any],
    *,
    layout: Layout = "NCL",
    alphabet: str = ALPHABET,
    tokens: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | Sequence[Any] = (),
    reduce: Reduction | Mapping[str, Reduction] | None = None,
) -> nn.Module:
    """Put a model that takes or gives something else into the form that the library takes.

    Parameters
    ----------
    model : nn.Module or callable
        A model of Keras on torch is an nn.Module. A function of NumPy arrays, of a model of Keras,
        TensorFlow or JAX for instance, becomes one: it is predicted in full for every mutant.
    layout : {"NCL", "NLC"}
        Of what the model takes, (N, 4, L) or (N, L, 4), and of heads with positions that it gives,
        (N, T, P) or (N, P, T).
    alphabet : str
        Order of its bases, ``"AGCT"`` for instance.
    tokens : mapping of str to int, optional
        Codes of A, C, G, T, and of N where sequences have unknown bases: the model takes whole
        numbers (N, L) in place of columns.
    constants : mapping or sequence
        Further inputs, such as control tracks: arrays and tensors are those of one sequence,
        without the axis N, and the same for all; anything else is given as it is. A mapping gives
        them by keyword, a sequence in order behind the sequences. They are given as they are on the
        reverse complement, too.
    reduce : {"mean", "sum", "center"}, callable or mapping, optional
        What becomes of positions P of heads (N, T, P): their mean, their sum, the one in the
        middle, P // 2, or what a function makes of the head, (N, T). A head (N, P) is reduced to
        (N,) where it is the only one, or named: a mapping of names of heads to reductions leaves
        other heads as they are.

    Returns
    -------
    nn.Module
        Maps (N, 4, L) to heads, see `deepmr_utils.predict.forward`.

    Raises
    ------
    ValueError, TypeError
        If an option does not fit.
    """
    if isinstance(model, type) or not callable(model):
        raise TypeError(
            f"model must be an nn.Module or a function of arrays; got {model!r}"
            + ": make one of this class first" * isinstance(model, type)
        )
    check_choice("layout", layout, ("NCL", "NLC"))
    if not isinstance(alphabet, str) or sorted(alphabet) != sorted(ALPHABET):
        raise ValueError(f"alphabet must hold A, C, G and T, each once; got {alphabet!r}")
    if tokens is not None:
        _check_tokens(tokens)
        if alphabet != ALPHABET:
            raise ValueError("tokens say what each base is: leave out alphabet")
    if isinstance(constants, str | Tensor | np.ndarray) or not hasattr(constants, "__iter__"):
        raise TypeError(
            "constants must be a mapping of keywords or a list of further inputs; got "
            f"{type(constants).__name__}: put it into a list"
        )
    for how in reduce.values() if isinstance(reduce, Mapping) else [reduce]:
        if how is not None and not callable(how):
            check_choice("reduce", how, tuple(_REDUCTIONS))
    module = as_module(model) if isinstance(model, nn.Module) else FromFunction(model)
    return _Adapted(module, layout, alphabet, tokens, constants, reduce)


def _check_tokens(tokens: Any) -> None:
    letters = set(tokens) if isinstance(tokens, Mapping) else set()
    codes = list(tokens.values()) if letters else []
    whole = all(isinstance(c, int | np.integer) and not isinstance(c, bool) for c in codes)
    if letters - {"N"} != set(ALPHABET) or not whole or min(codes) < 0:
        raise ValueError(
            "tokens must give whole numbers to A, C, G, T, and to N where bases are unknown; got "
            f"{tokens!r}"
        )


class FromFunction(nn.Module):
    """A function of NumPy arrays as a module.

    Parameters
    ----------
    function : callable
        Maps an array (N, 4, L), and constants, to heads as `deepmr_utils.predict.forward` takes
        them, of arrays.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def __deepcopy__(self, memo: dict) -> "FromFunction":
        return FromFunction(self.function)  # what it holds may not be copied

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives, as tensors."""
        device = args[0].device
        output = self.function(
            *map(_as_array, args), **{name: _as_array(value) for name, value in kwargs.items()}
        )
        heads = {name: _as_tensor(head, device) for name, head in heads_of(output).items()}
        return heads.get("", heads)


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _as_tensor(head: Any, device: torch.device) -> Any:
    if isinstance(head, Tensor) or not hasattr(head, "__array__"):
        return head
    array = np.array(head)  # others' arrays may be read-only
    known = array.dtype.newbyteorder("=") if array.dtype.kind in "fiubc" else np.float32
    return torch.from_numpy(array.astype(known, copy=False)).to(device)


class _Adapted(nn.Module):
    """A module, what it is given, and what is made of what it gives: see `adapt`."""

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        alphabet: str,
        tokens: Mapping[str, int] | None,
        constants: Mapping[str, Any] | Sequence[Any],
        reduce: Reduction | Mapping[str, Reduction] | None,
    ) -> None:
        super().__init__()
        self.module, self.layout, self.reduce = module, layout, reduce
        self.feature_names = declared_names(module)
        self.unknown = tokens is None or "N" in tokens
        self.order = None if alphabet == ALPHABET else [ALPHABET.index(base) for base in alphabet]
        codes = None if tokens is None else [tokens.get(base, 0) for base in (*ALPHABET, "N")]
        self.register_buffer("codes", None if codes is None else torch.tensor(codes))
        named = isinstance(constants, Mapping)
        self.supplied = list(constants) if named else list(range(1, 1 + len(constants)))
        values = list(constants.values()) if named else list(constants)
        self.values = [None if isinstance(v, Tensor | np.ndarray) else v for v in values]
        for i, value in enumerate(values):
            if isinstance(value, Tensor | np.ndarray):
                self.register_buffer(f"constant_{i}", torch.as_tensor(value).detach().clone())

    def _taken(self, x: Tensor) -> Tensor:
        """Sequences in the form that the module takes."""
        if self.codes is not None:
            # a column of no base has less than one half everywhere
            codes = torch.cat([x, x.new_full((len(x), 1, x.shape[2]), 0.5)], 1).argmax(1)
            if not self.unknown and (codes == UNKNOWN).any():
                raise ValueError("sequences have unknown bases: give N a number in tokens, too")
            return self.codes[codes]
        x = x if self.order is None else x[:, self.order]
        return x if self.layout == "NCL" else x.transpose(1, 2).contiguous()

    def _constant(self, i: int, x: Tensor) -> Any:
        held = getattr(self, f"constant_{i}", None)
        if held is None:
            return self.values[i]
        held = held.to(x.dtype) if held.is_floating_point() else held
        return held.expand(len(x), *held.shape)

    def _reduced(self, name: str, head: Any) -> Any:
        if not isinstance(head, Tensor):
            return head
        if self.layout == "NLC" and head.ndim == 3:
            head = head.transpose(1, 2)
        by_name = isinstance(self.reduce, Mapping)
        how = self.reduce.get(name) if by_name else self.reduce
        if how is None or (head.ndim < 3 and name and not by_name):
            return head  # (N, K) beside other heads
        return how(head) if callable(how) else _REDUCTIONS[how](head)

    def forward(self, x: Tensor) -> Any:
        inputs = [self._constant(i, x) for i in range(len(self.values))]
        if self.supplied and isinstance(self.supplied[0], str):
            output = self.module(self._taken(x), **dict(zip(self.supplied, inputs, strict=True)))
        else:
            output = self.module(self._taken(x), *inputs)
        heads = heads_of(output)
        absent = set(self.reduce) - set(heads) if isinstance(self.reduce, Mapping) else ()
        if absent:
            raise ValueError(
                f"reduce names the head {min(absent)!r}; the model gives "
                f"{listed(list(heads)) if '' not in heads else 'one, without a name'}"
            )
        heads = {name: self._reduced(name, head) for name, head in heads.items()}
        return heads.get("", heads)


# files

_KERAS = (".keras", ".h5", ".hdf5")
_WITHIN = ("state_dict", "model_state_dict", "model")  # where a checkpoint keeps its weights


def load_model(
    path: str | Path, network: nn.Module | Callable[..., nn.Module] | str | None = None
) -> nn.Module:
    """Read a model from a file, without running code of the file's.

    Parameters
    ----------
    path : path
        TorchScript, a program of `torch.export` (.pt2), or weights: a state dict, alone or in a
        checkpoint of Lightning.
    network : nn.Module, callable or str, optional
        For weights: the network that takes them, a function or class that makes it, or the name of
        one, ``"package.module:Class"`` or ``"file.py:function"``. A class is given the
        hyperparameters that the checkpoint holds.

    Returns
    -------
    nn.Module
        On the CPU, in evaluation mode; a program of `torch.export` is in the mode in which it was
        exported.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError, TypeError
        If the file holds something else, or the weights do not fit the network.
    """
    path = check_file(path)
    if path.suffix in _KERAS:
        raise ValueError(
            f"{path} is a file of Keras: read it with keras.saving.load_model, with the "
            "environment variable KERAS_BACKEND=torch, and adapt(model, layout='NLC')"
        )
    read = network_reader(path)
    if read is not None:
        if network is not None:
            raise ValueError(f"{path} holds a network of its own: leave out network")
        model = read(path)
        with suppress(NotImplementedError):  # a graph of torch.export has no modes
            model.eval()
        return model
    state, hyperparameters = _weights(path)
    module = _made(network, hyperparameters, path)
    _fill(module, state, path)
    return module.eval()


def network_reader(path: Path) -> Callable[[Path], nn.Module] | None:
    """What reads a file that holds a network, and not weights alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None
    if any(re.search(r"(^|/)code/.*\.py$", name) for name in names):
        return lambda path: torch.jit.load(path, map_location="cpu")
    if any(re.search(r"(^|/)(archive_format|serialized_exported_program)", n) for n in names):
        return lambda path: torch.export.load(path).module()
    return None


def _weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by name, and hyperparameters, of a file."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        code = isinstance(error, pickle.UnpicklingError)
        kind = re.search(r"GLOBAL (\S+)", str(error)) if code else None
        if kind is None:
            raise ValueError(
                f"{path} is no whole file of PyTorch ({type(error).__name__}): get it again"
            ) from error
        raise ValueError(
            f"{path} holds an object of {kind[1]}, and reading that would run code: where the file "
            "was made, save the weights alone, torch.save(model.state_dict(), path), and give "
            "load_model the network"
        ) from error
    hyperparameters = found.get("hyper_parameters", {}) if isinstance(found, Mapping) else {}
    state = found
    if isinstance(found, Mapping):
        state = next((found[k] for k in _WITHIN if isinstance(found.get(k), Mapping)), found)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        what = listed(list(map(str, state))) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"{path} must hold tensors by name; got {what}")
    return dict(state), dict(hyperparameters)


def _made(network: Any, hyperparameters: dict[str, Any], path: Path) -> nn.Module:
    """The network that takes weights."""
    if network is None:
        raise ValueError(f"{path} holds weights alone: give the network that takes them")
    if isinstance(network, nn.Module):
        return network
    if isinstance(network, str):
        place, _, name = network.rpartition(":")
        if not place or not name:
            raise ValueError(
                f"network must be 'package.module:Class' or 'file.py:function'; got {network!r}"
            )
        network = find_named(place, name)
    if not callable(network):
        raise TypeError(f"network must be an nn.Module, or make one; got {network!r}")
    try:
        made = network(**hyperparameters) if isinstance(network, type) else network()
    except TypeError as error:
        raise ValueError(
            f"{getattr(network, '__name__', network)} cannot be made of the hyperparameters "
            f"{listed(list(hyperparameters)) or 'of the file, which has none'}: {error}. Give a "
            "function that makes it"
        ) from error
    if not isinstance(made, nn.Module):
        raise TypeError(f"network must make an nn.Module; got {type(made).__name__}")
    return made


def find_named(place: str, name: str) -> Any:
    """What a Python file, or a module that can be imported, calls by a name."""
    if place.endswith(".py"):
        path = check_file(Path(place).expanduser().resolve())
        sys.path.insert(0, str(path.parent))  # what stands beside it can be imported from it
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # so that its classes can be pickled
        run = spec.loader.exec_module
    else:
        module, run = None, None
    try:
        if run is None:
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
        else:
            run(module)
    except Exception as error:
        raise ValueError(
            f"{place} must be Python that can be imported; it raised {type(error).__name__}: "
            f"{error}"
        ) from error
    if not callable(getattr(module, name, None)):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ValueError(
            f"{place} has no function {name!r}; it has {', '.join(names) or 'none'}"
            f"{did_you_mean(name, names)}"
        )
    return getattr(module, name)


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights, from behind the wrapper in which they were saved."""
    own = set(nn.Module.state_dict(module))
    if set(state) != own:
        first = next(iter(state), "").partition(".")[0] + "."  # "module.", "model.", "_orig_mod."
        inner = {name.removeprefix(first): value for name, value in state.items()}
        state = inner if set(inner) == own and len(inner) == len(state) else state
    missing, foreign = sorted(own - set(state)), sorted(set(state) - own)
    if missing or foreign:
        raise ValueError(
            f"{path} does not fit {type(module).__name__}: it lacks "
            f"{listed(missing, most=3) or 'nothing'}, and holds beside it "
            f"{listed(foreign, most=3) or 'nothing'}"
        )
    try:
        nn.Module.load_state_dict(module, state)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip()
        raise ValueError(f"{path} does not fit {type(module).__name__}: {reason}") from error
