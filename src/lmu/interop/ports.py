"""Import of optimizer states of other PyTorch ports with other names, shapes and orders."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_RENAMED = {
    "A": "memory.Ad",
    "B": "memory.Bd",
    **{name: f"memory.{name}" for name in ("Ad", "Bd", "log_theta")},  # of the first edition
}


def translate_optimizer(
    state_dict: Mapping[str, Any],
    names: Iterable[str],
    model: nn.Module,
    optimizer: Optimizer,
) -> dict[str, Any]:
    """Turn the state of a port's optimizer into one that ``optimizer.load_state_dict`` takes.

    Moments follow their parameters by name: those of ``cell.A`` (d, d) and ``cell.B`` (d, 1) go to
    ``memory.Ad`` (d, d) and ``memory.Bd`` (d,), whatever the order of the parameters in either
    model. Steps, learning rates and other options are kept. Tensors are copied.

    Args:
        state_dict: ``state_dict()`` of the port's optimizer, of any kind that keeps a number or a
            tensor of the parameter's shape for each parameter: SGD, Adam, AdamW, RMSprop, ...
        names: Names of the port's parameters in the order in which its optimizer got them, such as
            ``[name for name, _ in model.named_parameters()]``. If it got ``model.parameters()``,
            the keys of the port's ``state_dict()`` work too: names that are not parameters of
            ``model`` are ignored.
        model: The layer, or the model with it, whose training continues.
        optimizer: Its optimizer, with the port's parameter groups: as many, of the same
            parameters; their order within a group is free.

    Returns:
        A state_dict for ``optimizer``, which itself is not changed.

    Raises:
        ValueError: A parameter has no counterpart, a shape does not fit, or groups differ.
    """
    groups = state_dict["param_groups"]
    own = dict(model.named_parameters())
    own_groups = _named_groups(own, optimizer)
    matches = _match(names, [index for group in groups for index in group["params"]], own)
    state: dict[str, dict[str, Any]] = {}
    for index, (name, own_name) in matches.items():
        entries = state_dict["state"].get(index, {})
        if own_name is not None:
            state[own_name] = {key: _fit(key, v, name, own[own_name]) for key, v in entries.items()}
        elif entries:  # a frozen parameter has none, and needs no counterpart
            raise ValueError(
                f"the model has no parameter for {name}: build the layer with the port's "
                "arguments, learn_a=True for A and learn_b=True for B"
            )
    _check_groups(groups, matches, own_groups)
    order = {name: i for i, name in enumerate(name for group in own_groups for name in group)}
    return {
        "state": {order[name]: entries for name, entries in state.items() if entries},
        "param_groups": [
            _with_parameters(group, own_names, order)
            for group, own_names in zip(groups, own_groups, strict=True)
        ],
    }


def _named_groups(own: Mapping[str, nn.Parameter], optimizer: Optimizer) -> list[list[str]]:
    """Return names of the optimizer's parameters, group by group."""
    names = {id(parameter): name for name, parameter in own.items()}
    groups = [group["params"] for group in optimizer.param_groups]
    if any(id(parameter) not in names for group in groups for parameter in group):
        raise ValueError("optimizer has parameters that are not of model: pass the model it trains")
    return [[names[id(parameter)] for parameter in group] for group in groups]


def _match(
    names: Iterable[str], indices: list[int], own: Mapping[str, nn.Parameter]
) -> dict[int, tuple[str, str | None]]:
    """Map each index of the port's optimizer to its name there and, if there is one, here."""
    pairs = [(name, _counterpart(name, own)) for name in names]
    if len(pairs) != len(indices):  # buffers are among the names
        unknown = [name for name, own_name in pairs if own_name is None]
        pairs = [pair for pair in pairs if pair[1] is not None]
        if len(pairs) != len(indices):
            raise ValueError(
                f"the state_dict is of {len(indices)} parameters, but {len(pairs)} of the names "
                f"have a counterpart in the model ({', '.join(n for n, _ in pairs)}), and not "
                f"{', '.join(unknown) or 'more'}: build the layer with the port's learn_a and "
                "learn_b, or name the parameters that its optimizer was given, and no others"
            )
    counts = Counter(own_name for _, own_name in pairs if own_name)
    twice = {own_name for own_name, count in counts.items() if count > 1}
    if twice:
        raise ValueError(f"several names lead to {', '.join(sorted(twice))}: give each name once")
    return dict(zip(indices, pairs, strict=True))


def _counterpart(name: str, own: Mapping[str, nn.Parameter]) -> str | None:
    """Return the name of a port's parameter here, or None."""
    *path, leaf = name.split(".")
    leaf = _RENAMED.get(leaf, leaf)
    outer = path[:-1] if path and path[-1] == "cell" else path
    candidates = (name, ".".join([*path, leaf]), ".".join([*outer, leaf]))
    return next((candidate for candidate in candidates if candidate in own), None)


def _fit(key: str, value: Any, name: str, parameter: nn.Parameter) -> Any:
    """Copy an entry of the state, in the shape of the model's parameter."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0 or value.shape == parameter.shape:
        return value.clone()
    if [n for n in value.shape if n != 1] != [n for n in parameter.shape if n != 1]:
        raise ValueError(
            f"{key} of {name} has the shape {tuple(value.shape)}, ours is "
            f"{tuple(parameter.shape)}: build the layer with the sizes of the port's, and give "
            "the names in the order in which its optimizer was given the parameters"
        )
    return value.reshape(parameter.shape).clone()


def _check_groups(
    groups: list[dict[str, Any]],
    matches: Mapping[int, tuple[str, str | None]],
    own_groups: list[list[str]],
) -> None:
    if len(groups) != len(own_groups):
        raise ValueError(
            f"the state_dict has {len(groups)} parameter groups, optimizer {len(own_groups)}: "
            "build it with the groups of the port's"
        )
    for i, (group, own_names) in enumerate(zip(groups, own_groups, strict=True)):
        pairs = [matches[index] for index in group["params"]]
        missing = sorted(set(own_names) - {own_name for _, own_name in pairs})
        if missing:
            raise ValueError(
                f"group {i} of the state_dict has nothing for {', '.join(missing)}: build the "
                "layer and the groups of optimizer as the port's"
            )
        extra = [name for name, own in pairs if own is not None and own not in own_names]
        if extra:
            raise ValueError(f"group {i} of optimizer lacks {', '.join(extra)}: add them")


def _with_parameters(
    group: Mapping[str, Any], names: list[str], order: Mapping[str, int]
) -> dict[str, Any]:
    """Return the options of a group, with the model's parameters."""
    options = {**group, "params": [order[name] for name in names]}
    return options | {"param_names": list(names)} if "param_names" in group else options
