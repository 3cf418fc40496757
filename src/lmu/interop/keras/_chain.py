"""Order of the layers in the config of a model."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lmu.interop.keras._arguments import check_form, name_of, short

Config = Mapping[str, Any]

_AGAIN = "the config of the model is damaged: save the model again with Keras 3"

_MOST = 1000  # layers


def check_layers(config: Config) -> list[Config]:
    """Return all layers in a model's config, with inputs; each has a known form and a unique name.

    Raises:
        ValueError: It is not of a Sequential or functional model, or two layers share a name.
    """
    kind, inner = str(config.get("class_name")), config.get("config")
    if kind not in ("Functional", "Sequential"):
        raise ValueError(
            f"the model is a {short(kind)[1:-1]}; Sequential and functional models can be "
            "imported, of others the weights, by load_weights"
        )
    listed = inner.get("layers") if isinstance(inner, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError(f"no list of layers where one is expected, got {short(listed)}; {_AGAIN}")
    if len(listed) > _MOST:
        raise ValueError(f"the model has {len(listed):,} layers; at most {_MOST:,} are imported")
    layers = [check_form(layer, f"layer {i} of the model") for i, layer in enumerate(listed)]
    names = Counter(name_of(layer) for layer in layers)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(
            f"the model has {names[twice[0]]} layers of the name {twice[0]!r}, and weights go by "
            "names: give each layer its own in Keras, and save the model again"
        )
    return layers


def chain_of(config: Config) -> list[Config]:
    """Return the layers after the input, in the order of computation.

    Raises:
        ValueError: They are not a chain, or some are not in it.
    """
    layers = check_layers(config)
    behind = [layer for layer in layers if layer["class_name"] != "InputLayer"]
    if config["class_name"] == "Sequential":
        return behind
    by_name = {name_of(layer): layer for layer in layers}
    follower = _followers(behind)
    inputs = [name for name, layer in by_name.items() if layer["class_name"] == "InputLayer"]
    if len(inputs) != 1:
        raise ValueError(f"the model has {len(inputs)} inputs {inputs}: only a chain is imported")
    path, name = [], inputs[0]
    while name in follower:  # it ends, as no layer follows two
        name = follower[name]
        path.append(by_name[name])
    ends = _outputs(config)
    if ends != [name]:
        raise ValueError(f"the outputs of the model, {ends}, are not just its last layer {name!r}")
    if len(path) != len(behind):
        names = sorted(set(by_name) - {name_of(layer) for layer in path} - set(inputs))
        raise ValueError(f"nothing leads from the input to {', '.join(names[:5])}; {_AGAIN}")
    return path


def _followers(layers: list[Config]) -> dict[str, str]:
    """Map the name of each layer to that of the one that it feeds."""
    follower: dict[str, str] = {}
    for layer in layers:
        name, nodes = name_of(layer), layer.get("inbound_nodes")
        if not isinstance(nodes, list):
            raise ValueError(f"layer {name!r} has no list of inbound_nodes; {_AGAIN}")
        sources = [source for node in nodes for source in _sources(node, name)]
        if len(nodes) != 1 or len(sources) != 1:
            raise ValueError(
                f"layer {name!r} has {len(sources)} inputs: only a chain can be imported"
            )
        if sources[0] in follower:
            raise ValueError(
                f"layer {sources[0]!r} feeds both {follower[sources[0]]!r} and {name!r}: only a "
                "chain can be imported"
            )
        follower[sources[0]] = name
    return follower


def _sources(value: Any, where: str) -> Iterator[str]:
    """Iterate over names of layers whose outputs are anywhere in the arguments of a call."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            inner = value.get("config")
            history = inner.get("keras_history") if isinstance(inner, Mapping) else None
            if not isinstance(history, list) or not history or not isinstance(history[0], str):
                raise ValueError(f"layer {where!r} has an input from nowhere; {_AGAIN}")
            yield history[0]
            return
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _sources(item, where)


def _outputs(config: Config) -> list[str]:
    """Return names of the layers that a functional model returns."""
    listed = config["config"].get("output_layers")  # a single one may be listed without a list
    if isinstance(listed, list) and listed and isinstance(listed[0], str):
        return listed[:1]
    if not isinstance(listed, list) or not all(isinstance(o, list) and o for o in listed):
        raise ValueError(f"output_layers lists no layers, got {short(listed)}; {_AGAIN}")
    return [output[0] for output in listed]
