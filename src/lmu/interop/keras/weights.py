"""Loading of the weights in a file into layers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import nn

from lmu.interop.keras._files import FilePath, LayerArrays, read_weights
from lmu.interop.keras._plans import Plan, assign, plan_of
from lmu.layers import LMU, LMUFFT, LMUCell

Pairs = list[tuple[nn.Module, Plan, LayerArrays]]

_KIND_OF_GROUP = {  # by the class in Keras
    "lmu": "LMU",
    "lmu_feedforward": "LMU",
    "rnn": "LMU",
    "dense": "Dense",
    "layer_normalization": "LayerNormalization",
}
_KIND_OF_MODULE: dict[type[nn.Module], str] = {
    LMU: "LMU",
    LMUFFT: "LMU",
    LMUCell: "LMU",
    nn.Linear: "Dense",
    nn.LayerNorm: "LayerNormalization",
}


def load_weights(
    target: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module], path: FilePath
) -> None:
    """Fill modules with the weights of a KerasLMU model.

    The file holds arrays, but not the arguments of the layers: the modules must have been built
    with the same ones, among them ``theta``, ``discretizer`` and activations, which cannot be
    checked by the file. Nothing is written unless everything fits.

    Args:
        target: Modules in the order of the model, or one that contains them. The first LMU layer
            among them is filled with the first of the file, the first ``nn.Linear`` with the first
            Dense, likewise ``nn.LayerNorm``; none may be left over on either side. Or a mapping
            from names to modules, to fill some only: the names of the layers in Keras, or of
            their groups in the file, such as ``"lmu"``, ``"lmu_1"``, ``"dense"``.
        path: A ``.weights.h5`` or ``.keras`` file of Keras 3.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: h5py is missing.
        TypeError: A module with parameters has no known counterpart in Keras.
        ValueError: It is another kind of file, layers are left over, their order is not in the
            file, or a shape does not fit.

    Example:
        >>> layers = [LMU(1, 212, 256, 784, hidden_bias=True), nn.Linear(212, 10)]
        >>> load_weights(layers, "model.weights.h5")  # doctest: +SKIP
        >>> load_weights({"lmu": layers[0]}, "model.weights.h5")  # doctest: +SKIP
    """
    groups = read_weights(path)
    pairs = _by_name(target, groups) if isinstance(target, Mapping) else _by_order(target, groups)
    matched = [(m, plan, plan.match(a.own, a.hidden, str(a))) for m, plan, a in pairs]
    for module, plan, arrays in matched:
        assign(module, plan, arrays)


def _by_name(target: Mapping[str, nn.Module], groups: list[LayerArrays]) -> Pairs:
    names = [group.name for group in groups]
    twice = [name for name in target if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"the file has {names.count(twice[0])} layers of the name {twice[0]!r}: pass their "
            f"groups, in brackets, in its stead ({_list(groups)})"
        )
    # The name of a layer may be the key of another's group: names come first.
    known = {group.key: group for group in groups} | {group.name: group for group in groups}
    unknown = [name for name in target if name not in known]
    if unknown:
        raise ValueError(
            f"no weights of a layer {unknown[0]!r} in the file, which has {_list(groups)}"
        )
    return [(module, plan_of(module), known[name]) for name, module in target.items()]


def _by_order(target: nn.Module | Sequence[nn.Module], groups: list[LayerArrays]) -> Pairs:
    roots = [target] if isinstance(target, nn.Module) else target
    modules = list(_modules(roots))
    pairs: Pairs = []
    for kind in dict.fromkeys(_KIND_OF_GROUP.values()):
        layers = [(m, plan) for m, plan, k in modules if k == kind and plan.shapes]
        sources = [group for group in groups if _KIND_OF_GROUP.get(group.kind) == kind]
        if len(layers) != len(sources):
            names = ", ".join(type(m).__name__ for m, _ in layers)
            raise ValueError(
                f"of {kind} layers with weights there are {len(layers)} in the target ({names}) "
                f"but {len(sources)} in the file ({_list(sources)}). To fill some only, pass a "
                "mapping from names to modules"
            )
        classes = {group.kind for group in sources}
        if len(classes) > 1:
            raise ValueError(
                f"the file does not tell the order of its layers {_list(sources)}, which are of "
                "different classes: pass a mapping from names to modules"
            )
        pairs += [(m, plan, group) for (m, plan), group in zip(layers, sources, strict=True)]
    rest = [group for group in groups if group.kind not in _KIND_OF_GROUP]
    if rest:
        raise ValueError(
            f"the file has weights of {_list(rest)}, whose class is not known here: pass a mapping "
            "from names to modules, of those that are"
        )
    return pairs


def _modules(roots: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, Plan, str]]:
    """Iterate over layers within modules that Keras counts as layers, in order, and their kinds."""
    for module in roots:
        kind = next((k for c, k in _KIND_OF_MODULE.items() if isinstance(module, c)), None)
        if kind is not None:
            yield module, plan_of(module), kind
        elif next(module.parameters(recurse=False), None) is not None:
            plan_of(module)  # raises a more specific error
            raise TypeError(f"{type(module).__name__} is no layer, but a hidden cell of one")
        else:
            yield from _modules(module.children())


def _list(groups: list[LayerArrays]) -> str:
    return ", ".join(str(group) for group in groups) or "none"
