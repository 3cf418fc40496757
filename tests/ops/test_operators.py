"""The custom operators, in types that the oldest PyTorch understands too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lmu
import lmu.distributed
import lmu.ops

PACKAGE = Path(lmu.__file__).parent

BLOCKS = "Tensor x, Tensor h_0, Tensor m_0, Tensor X, Tensor M, Tensor W, Tensor D, Tensor H"
CHUNKS = "Tensor sources, Tensor R, Tensor x1, Tensor W1"
CONVOLUTION = "Tensor u, Tensor K, Tensor x, Tensor W_x, Tensor bias"
LINE = "Tensor Ad, Tensor steps, str group, str algorithm"
SCHEMAS = {
    "blocks": f"(str engine, str activation, {BLOCKS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "blocks_backward": "(Tensor[] saved, Tensor[] inputs, Tensor dy, Tensor dm, bool[] needed, "
    "str engine, str activation) -> Tensor[]",
    "steps": "(Tensor x, Tensor h, Tensor m, Tensor[] weights, str activation) "
    "-> (Tensor, Tensor, Tensor)",
    "steps_backward": "(Tensor[] inputs, Tensor y, Tensor memories, Tensor dy, Tensor dm, "
    "bool[] needed, str activation) -> Tensor[]",
    "block_dynamics": "(Tensor Ad, Tensor Bd, SymInt channels, SymInt steps, Tensor like) "
    "-> (Tensor, Tensor)",
    "final": "(Tensor u, Tensor Ad, Tensor Bd, Tensor? m_0) -> Tensor",
    "final_backward": "(Tensor dm, Tensor Ad, Tensor Bd, SymInt length, bool with_m_0) "
    "-> (Tensor, Tensor)",
    "convolution": f"({CONVOLUTION}, str activation) -> Tensor",
    "convolution_backward": f"(Tensor dy, Tensor y, {CONVOLUTION}, str activation) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "responses": "(Tensor u, Tensor K) -> Tensor",
    "responses_backward": "(Tensor dm, Tensor u, Tensor K) -> (Tensor, Tensor)",
    "recurrence": "(Tensor a, Tensor h, Tensor W, str activation) -> Tensor",
    "recurrence_backward": "(Tensor dy, Tensor y, Tensor h, Tensor W, str activation) -> "
    "(Tensor, Tensor, Tensor)",
    "readout_chunks": f"({CHUNKS}, bool relu) -> Tensor",
    "readout_chunks_backward": f"(Tensor dy, Tensor y, {CHUNKS}, bool relu) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    "agree": "(Tensor like, SymInt steps, str group) -> Tensor",
    "from_last": "(Tensor value, str group) -> Tensor",
    "to_last": "(Tensor grad, str group) -> Tensor",
    "carry": f"(Tensor values, {LINE}, bool reverse) -> Tensor",
    "hand_over": f"(Tensor ends, Tensor starts, Tensor first, {LINE}) -> Tensor",
}

# PyTorch 2.6 infers a schema from these and from tuples of tensors. It knows List and Sequence of
# the module typing alone, so an operator that takes or returns lists writes its schema out.
INFERRED = {"Tensor", "int", "float", "bool", "str"}


def operators() -> Iterator[tuple[str, ast.Call, ast.FunctionDef]]:
    """The name, the decorator and the function of every custom operator of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("custom_op"):
                    name = ast.literal_eval(call.args[0])
                    yield name.removeprefix("lmu::"), call, node


def test_every_operator_is_here():
    assert {name for name, _, _ in operators()} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name):
    assert str(getattr(torch.ops.lmu, name).default._schema) == f"lmu::{name}{SCHEMAS[name]}"


@pytest.mark.parametrize(
    ("call", "function"), [pytest.param(*rest, id=name) for name, *rest in operators()]
)
def test_oldest_pytorch_can_read_the_schema(call, function):
    if any(keyword.arg == "schema" for keyword in call.keywords):
        return
    types = {ast.unparse(a.annotation) for a in function.args.args if a.annotation}
    returned = ast.unparse(function.returns).removeprefix("tuple[").removesuffix("]")
    assert types | set(returned.split(", ")) <= INFERRED, "pass schema= to custom_op"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_isinstance_takes_tuples(path):
    """The compiler of PyTorch 2.6 cannot trace ``isinstance(x, A | B)``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            assert not isinstance(node.args[1], ast.BinOp), f"line {node.lineno}: pass a tuple"
