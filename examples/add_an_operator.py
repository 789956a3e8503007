"""An operator of one's own, from outside of graphopt: what it is, how PyTorch and ONNX spell it, and how it becomes a kernel.

The operator is `shifted_softplus(x; beta)` = log(1 + exp(beta x)) / beta - log(2) / beta, the activation of SchNet.
"""

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import nn

import graphopt
from graphopt.capture.onnx.table import entry
from graphopt.capture.torch.table import aten
from graphopt.codegen.kernel.expr import call, maximum
from graphopt.codegen.lower.registry import compute
from graphopt.ir.table import Trait, op

LOG2 = float(np.log(2.0))


# 1. What the operator is: signature, shape, traits and reference semantics, once. Operands come before `;`, attributes after.
#    An elementwise op is fused with its neighbours by its trait alone; nothing else has to be told about it.
@op("shifted_softplus(x: T; beta: float = 1.0) -> T", T="float", shape=lambda o: o.x.shape, traits=Trait.ELEMENTWISE)
def shifted_softplus(x, beta):
    """log(1 + exp(beta x)) / beta - log(2) / beta, without overflow; 0 at 0."""
    z = beta * x
    return ((np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))) - LOG2) / beta).astype(x.dtype)


# 2. How it becomes code: one element of the result as an expression over one element of the operand. Every target prints it.
@compute("shifted_softplus")
def _(o, *index):
    z = o.x(*index) * o.beta
    return (maximum(z, 0) + call("log1p", call("exp", -call("abs", z))) - LOG2) * (1 / o.beta)


# 3. How ONNX spells it: a node of a domain of its own. `b` builds ops, `n` is the node.
@entry("ShiftedSoftplus", domain="com.example")
def _(b, n):
    return b.shifted_softplus(n[0], beta=n.attr("beta", 1.0))


# 4. How PyTorch spells it: a custom operator. Parameters bear the schema's names; `c.b` builds ops.
@torch.library.custom_op("example::shifted_softplus", mutates_args=())
def torch_shifted_softplus(x: torch.Tensor, beta: float) -> torch.Tensor:
    return nn.functional.softplus(x, beta) - LOG2 / beta


@torch_shifted_softplus.register_fake
def _(x, beta):
    return torch.empty_like(x)


@aten("example.shifted_softplus.default")
def _(c, x, beta):
    return c.b.shifted_softplus(x, beta=beta)


class Interaction(nn.Module):
    """A layer that uses the operator between two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 33), nn.Linear(33, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch_shifted_softplus(self.first(x), 2.0))


def onnx_model() -> bytes:
    """y = ShiftedSoftplus(x, beta=2) of any batch."""
    tensor = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 9])
    node = helper.make_node("ShiftedSoftplus", ["x"], ["y"], domain="com.example", beta=2.0)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph([node], "net", [tensor("x")], [tensor("y")]), opset_imports=opsets, ir_version=10)
    return model.SerializeToString()


def main() -> None:
    torch.manual_seed(0)
    net, x = Interaction().eval(), torch.randn(5, 20)
    model = graphopt.compile(net, (x,))
    with torch.no_grad():
        expected = net(x)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    kernels = [(o.name, [i.name for i in o.regions[0].ops] if o.regions else []) for o in model.graph.ops if o.name != "const"]
    print(f"PyTorch: largest difference from eager {(model(x) - expected).abs().max():.1e}; host ops: {len(model.host_ops)}")
    print("kernels:", kernels)

    extremes = np.array([[-np.inf, -1e4, -30, -1e-3, 0, 1e-3, 30, 1e4, np.nan]], np.float32)
    got = graphopt.compile(onnx_model())(extremes)
    with np.errstate(invalid="ignore"):  # of the NaN
        exact = np.logaddexp(0, 2 * extremes.astype(np.float64)) / 2 - np.log(2) / 2
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)
    print("ONNX:", got[0])

    assert "log1pf" in graphopt.compile(net, (x,), target="cuda:sm_90").source("cuda")
    print("CUDA: the same rule, in the kernel's text")


if __name__ == "__main__":
    main()
