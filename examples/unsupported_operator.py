"""A model that graphopt cannot take is refused at once, with every operator that is in the way and where it stands."""

from onnx import TensorProto, helper

import graphopt


def model_with_own_operators() -> bytes:
    """An ONNX model with three nodes of a domain that nobody else knows."""
    tensor = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8])
    graph = helper.make_graph([
        helper.make_node("Relu", ["x"], ["a"], name="block1/relu"),
        helper.make_node("Sparkle", ["a"], ["b"], name="block1/sparkle", domain="com.example"),
        helper.make_node("Sparkle", ["b"], ["c"], name="block2/sparkle", domain="com.example"),
        helper.make_node("Twist", ["c"], ["y"], name="block2/twist", domain="com.example"),
    ], "net", [tensor("x")], [tensor("y")])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def main() -> None:
    try:
        graphopt.compile(model_with_own_operators())
    except graphopt.UnsupportedOperators as error:
        print(error)
        print("as data:", error.operators)


if __name__ == "__main__":
    main()
