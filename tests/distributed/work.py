"""What the processes of the tests do; it must be possible to import it in them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from lmu import LMU, LMUFFT, LMUStack
from lmu.distributed import sequence_parallel, split
from lmu.distributed.carry import carry
from lmu.models import SequenceClassifier
from lmu.ops.system import system_of
from tests import variants

Build = Callable[..., nn.Module]
Arrays = dict[str, Any]


def numbers(values: Any) -> Any:
    """Tensors as lists of float64, which travel between processes."""
    if isinstance(values, Tensor):
        return values.detach().double().tolist()
    if isinstance(values, tuple | list):
        return [numbers(value) for value in values]
    return values


def single(name: str = "LMUFFT", **kwargs: Any) -> LMUFFT:
    """A layer with the same weights in every process."""
    sizes = {"input_size": 2, "hidden_size": 4, "memory_size": 5, "theta": 9.0}
    return variants.build(name, **sizes | {"seq_len": None, "dtype": torch.float64} | kwargs)


def stack(**kwargs: Any) -> LMUStack:
    """Two layers, or the second with its last step alone."""
    first = single(hidden_size=3, theta=7.0)
    return LMUStack([first, single(input_size=3, hidden_size=3, **kwargs)]).double()


BUILDS: dict[str, Build] = {"layer": single, "stack": stack}


def task(
    kind: str, kwargs: dict[str, Any], length: int, *, state: bool
) -> tuple[nn.Module, Tensor, Any, list[Tensor]]:
    """A model, its input and state, and gradients to be given to its outputs."""
    model: Any = BUILDS[kind](**kwargs)
    torch.manual_seed(1)
    dtype = next(model.parameters()).dtype
    x = torch.randn(3, length, 2, dtype=dtype, requires_grad=True)
    before = None
    if state:
        c = model.memory_channels * model.memory_size
        before = tuple(torch.randn(3, n, dtype=dtype) for n in (model.hidden_size, c))
        before[1].requires_grad_()
    weights = [torch.randn(3, length, model.hidden_size, dtype=dtype)]
    weights += [torch.randn(3, 64, dtype=dtype) for _ in range(3)]
    return model, x, before, weights


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors in a state."""
    return [state] if isinstance(state, Tensor) else [t for s in state for t in tensors_of(s)]


def run_model(model: nn.Module, x: Tensor, before: Any) -> tuple[Tensor, list[Tensor]]:
    """Outputs of all steps or the last, and the tensors of the state afterwards."""
    kwargs = {"return_state": True} if isinstance(model, LMUFFT) else {}
    y, after = model(x, before, **kwargs)
    return y, tensors_of(after)


def loss_of(y: Tensor, after: list[Tensor], weights: list[Tensor], share: float) -> Tensor:
    """A loss that reads all outputs and the state afterwards, of which each process has a share."""
    read = (
        (y * weights[0]).sum() if y.ndim == 3 else share * (y * weights[1][:, : y.shape[1]]).sum()
    )
    for state, weight in zip(after, weights[1:] * len(after), strict=False):
        read = read + share * (state * weight[:, : state.shape[1]]).sum()
    return read


def whole(kind: str, kwargs: dict[str, Any], length: int, *, state: bool) -> Arrays:
    """What one process gets."""
    model, x, before, weights = task(kind, kwargs, length, state=state)
    y, after = run_model(model, x, before)
    loss_of(y, after, weights, 1.0).backward()
    grads = [p.grad for p in model.parameters()]
    return {
        "y": numbers(y), "after": numbers(after), "x": numbers(x.grad), "weights": numbers(grads),
        "before": numbers(before[1].grad) if before else None,
    }  # fmt: skip


def sharded(
    group: Any, kind: str, kwargs: dict[str, Any], steps: Sequence[int], options: dict[str, Any],
    *, state: bool,
) -> Arrays:  # fmt: skip
    """The same, of this process' steps; the gradients of weights are summed over the group."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    model, x, before, weights = task(kind, kwargs, sum(steps), state=state)
    sequence_parallel(model, group, **options)
    here = slice(sum(steps[:rank]), sum(steps[: rank + 1]))
    weights = [weights[0][:, here], *weights[1:]]
    y, after = run_model(model, x[:, here], before)
    loss_of(y, after, weights, 1 / size).backward()
    assert x.grad is not None
    grads = [p.grad for p in model.parameters()]
    before_grad = None
    if before:
        grad = before[1].grad
        before_grad = torch.zeros_like(before[1]) if grad is None else grad
    for grad in [*grads, *([] if before_grad is None else [before_grad])]:
        dist.all_reduce(grad, group=group)
    return {
        "y": numbers(y), "after": numbers(after), "x": numbers(x.grad[:, here]),
        "weights": numbers(grads), "before": None if before_grad is None else numbers(before_grad),
    }  # fmt: skip


def refused(group: Any, kind: str) -> str:
    """The message of an error that all processes raise."""
    rank = dist.get_rank(group)
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    calls: dict[str, Callable[[], Any]] = {
        "batch": lambda: sequence_parallel(single(), group)(x[: 1 + rank]),
        "steps": lambda: sequence_parallel(single(), group, steps=[4, 4])(x),
        "count": lambda: sequence_parallel(single(), group, steps=[4]),
        "none": lambda: sequence_parallel(single(), group, steps=[4, 0]),
        "algorithm": lambda: sequence_parallel(single(), group, algorithm="walk"),
        "lengths": lambda: sequence_parallel(single(), group)(x, lengths=[5, 3]),
        "recurrent": lambda: sequence_parallel(nn.Sequential(single(), LMU(4, 4, 4, 9.0)), group),
        "nothing": lambda: sequence_parallel(nn.Linear(2, 2), group),
        "short": lambda: split(x[:, :1], group),
        "group": lambda: sequence_parallel(single(), "all"),
    }
    try:
        calls[kind]()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def undone(group: Any) -> float:
    """How far a layer is from what it was, after it was spread and put together again."""
    layer = single()
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    before = layer(x)[0]
    sequence_parallel(layer, group)
    sequence_parallel(layer, dist.new_subgroups(1)[0])
    return (layer(x, lengths=None)[0] - before).abs().max().item()


def resumed(group: Any, lengths: Sequence[int]) -> list[Any]:
    """This process' outputs of some sequences, each of which goes on where the last one ended."""
    layer = sequence_parallel(single(), group)
    x, state, outputs = sequence_of(lengths), None, []
    for part in x.split(list(lengths), dim=1):
        y, state = layer(split(part, group), state, return_state=True)
        outputs.append(numbers(y))
    return outputs


def sequence_of(lengths: Sequence[int]) -> Tensor:
    """Input of so many steps in all."""
    torch.manual_seed(2)
    return torch.randn(2, sum(lengths), 2, dtype=torch.float64)


def compiled(group: Any, steps: Sequence[int], kind: str, kwargs: dict[str, Any]) -> list[Any]:
    """Outputs and the gradients of input and weights, compiled and not."""
    rank = dist.get_rank(group)
    torch.manual_seed(rank)
    x = torch.randn(2, steps[rank], 2, dtype=torch.float64)
    results = []
    for compile in (False, True):
        model: Any = sequence_parallel(BUILDS[kind](**kwargs), group)
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compile else model
        given = x.clone().requires_grad_()
        y, state = run(given)
        (y.square().sum() + tensors_of(state)[0].sum()).backward()
        results.append(numbers([y, given.grad, *(p.grad for p in model.parameters())]))
    return results


def uneven_under_ddp(group: Any, steps: Sequence[int]) -> list[Any]:
    """Gradients of a mean over all steps, by losses that are weighted by steps."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    model = DistributedDataParallel(sequence_parallel(single(), group), process_group=group)
    here = sequence_of(steps).split(list(steps), dim=1)[rank]
    loss = model(here)[0].square().mean() * steps[rank] * size / sum(steps)
    loss.backward()
    return numbers([p.grad for p in model.parameters()])


def narrowed(group: Any, length: int) -> list[float]:
    """Errors of outputs and gradients in float32, and of outputs under autocast to bfloat16."""
    layer = sequence_parallel(single(), group)
    torch.manual_seed(3)
    x = torch.randn(2, length, 2, dtype=torch.float64)
    exact = x.clone().requires_grad_()
    y = layer(exact)[0]
    y.sum().backward()
    layer.float()
    given = x.float().requires_grad_()
    y32, (h, m) = layer(given, return_state=True)
    y32.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        y16, (h16, m16) = layer(x.float(), return_state=True)
    assert (h.dtype, m.dtype) == (torch.float32, torch.float32)
    assert (h16.dtype, m16.dtype) == (torch.bfloat16, torch.float32)
    assert exact.grad is not None
    assert given.grad is not None
    pairs = [(y32, y), (given.grad, exact.grad), (y16, y)]
    return [((a.double() - b).norm() / b.norm()).item() for a, b in pairs]


def mesh_gradients(group: Any) -> list[Any]:
    """Gradients by DistributedDataParallel over data x sequence, of a mean over all steps."""
    del group
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "sequence"))
    model = DistributedDataParallel(sequence_parallel(classifier(), mesh["sequence"]))
    x, labels = digits()
    rows = slice(2 * mesh.get_local_rank("data"), 2 * mesh.get_local_rank("data") + 2)
    logits = model(split(x[rows], mesh["sequence"]))
    nn.functional.cross_entropy(logits, labels[rows]).backward()
    return numbers([p.grad for p in model.parameters()])


def classifier() -> nn.Module:
    """A classifier of sequences by their last step."""
    backbone = stack()
    return SequenceClassifier(backbone, 3).double()


def digits() -> tuple[Tensor, Tensor]:
    """Four sequences and their labels."""
    torch.manual_seed(4)
    return torch.randn(4, 9, 2, dtype=torch.float64), torch.tensor([0, 2, 1, 2])


def large(group: Any, algorithm: str) -> float:
    """Largest error of the states that are carried of so many rows that they go in pieces."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    torch.manual_seed(5)
    Ad = 0.9 * torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0]
    values = torch.randn(size, 300, 1, 64, dtype=torch.float64)
    steps = torch.tensor([3, 5, 2])[:size]
    state = torch.zeros_like(values[0])
    for before in range(rank):
        power = torch.linalg.matrix_power(Ad, int(steps[before]))
        state = values[before] + state @ power.mT
    name = group.group_name
    return (carry(values[rank], Ad, steps, name, algorithm, False) - state).abs().max().item()


def second_derivative(group: Any) -> str:
    """The error of a derivative of gradients."""
    layer = sequence_parallel(single(encoder_activation=torch.tanh), group)
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    try:
        grad.sum().backward()
    except RuntimeError as error:
        return str(error)
    return "nothing was raised"


def kept(group: Any) -> tuple[int, int, bool]:
    """Powers kept after the first and second call, and whether a changed matrix is noticed."""
    layer = sequence_parallel(single(), group)
    x = torch.randn(2, 8, 2, dtype=torch.float64)
    counts = []
    for _ in range(2):
        layer(x)
        kept = system_of(layer.memory.Ad)._kept.get("squares")
        counts.append(0 if kept is None else len(kept[1]))
    before = system_of(layer.memory.Ad).squares(2)[1]
    layer.memory.Ad.mul_(0.5)
    after = system_of(layer.memory.Ad).squares(2)[1]
    return counts[0], counts[1], torch.allclose(after, before / 4)


def frozen(group: Any) -> list[float]:
    """Largest entry of the gradient of a state that alone needs one, on each process."""
    layer = sequence_parallel(single(), group).requires_grad_(False)
    torch.manual_seed(6)
    m_0 = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 6, 2, dtype=torch.float64)
    y, _ = layer(x, (torch.zeros(2, 4, dtype=torch.float64), m_0), return_state=True)
    y.sum().backward()
    assert m_0.grad is not None
    return [m_0.grad.abs().max().item()]


def inference_first(group: Any) -> bool:
    """Whether a layer trains after it was used for inference."""
    layer = sequence_parallel(single(return_sequences=False), group)
    x = torch.randn(2, 8, 2, dtype=torch.float64)
    with torch.inference_mode():
        before = layer(x)[0].clone()
    y = layer(x)[0]
    y.sum().backward()
    assert layer.W_u is not None
    return bool((y == before).all()) and layer.W_u.weight.grad is not None


def checkpointed(group: Any) -> float:
    """Difference of gradients with and without recomputation in backward."""
    x = torch.randn(2, 6, 2, dtype=torch.float64)
    grads = []
    for again in (False, True):
        layer = sequence_parallel(single(), group)
        y = checkpoint(lambda z, f=layer: f(z)[0], x, use_reentrant=False) if again else layer(x)[0]
        assert isinstance(y, Tensor)
        y.sum().backward()
        assert layer.W_u is not None
        grads.append(layer.W_u.weight.grad)
    return (grads[0] - grads[1]).abs().max().item()
