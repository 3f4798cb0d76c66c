# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ONNX models that hold functions and If, against onnx's own evaluator."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_models import compile_model, refuse, run_package  # noqa: E402

DOMAIN = "com.example"
X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def make_function(name, inputs, outputs, nodes, opset=21, **more):
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, inputs, outputs, nodes, opsets, **more)


def call(name, inputs, outputs, **attributes):
    return helper.make_node(
        name, inputs, outputs, name=f"call_{outputs[0]}", domain=DOMAIN, **attributes
    )


def make_model(nodes, functions=(), inputs=(), weights=(), outputs=("y",), opset=21):
    """y, and other outputs, of x [2, 3]; more inputs as value infos."""

    def describe(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])

    graph = helper.make_graph(
        nodes, "g", [describe("x"), *inputs], [describe(name) for name in outputs],
        list(weights),
    )  # fmt: skip
    return helper.make_model(
        graph, functions=list(functions), ir_version=10,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)],
    )  # fmt: skip


def agree(folder, model, **inputs):
    """The package's outputs equal those of onnx's evaluator; returns them."""
    onnx.checker.check_model(model)
    names = [info.name for info in model.graph.output]
    expected = ReferenceEvaluator(model).run(None, {"x": X, **inputs})
    got = run_package(compile_model(folder, model), x=X, **inputs)
    for name, value in zip(names, expected):
        np.testing.assert_allclose(got[name], value, rtol=1e-6)
    return got


def branch(name, nodes, result):
    info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [info])


def make_if(condition, result, then_nodes, else_nodes, inner="inner"):
    return helper.make_node(
        "If", [condition], [result], name=f"if_{result}",
        then_branch=branch("then", then_nodes, inner),
        else_branch=branch("else", else_nodes, inner),
    )  # fmt: skip


SQUARE = make_function("Square", ["a"], ["b"], [helper.make_node("Mul", ["a", "a"], ["b"])])


def test_each_call_has_names_of_its_own(tmp_path):
    twice = make_function(
        "Fourth", ["a"], ["c"],
        [call("Square", ["a"], ["b"]), call("Square", ["b"], ["c"])],
    )  # fmt: skip
    # "b" and "a" mean something else in the graph.
    nodes = [
        helper.make_node("Neg", ["x"], ["b"]),
        call("Fourth", ["b"], ["a"]),
        call("Fourth", ["x"], ["c"]),
        helper.make_node("Sub", ["a", "b"], ["d"]),
        helper.make_node("Add", ["d", "c"], ["y"]),
    ]
    got = agree(tmp_path, make_model(nodes, [SQUARE, twice]))
    np.testing.assert_allclose(got["y"], 2 * X**4 + X, rtol=1e-5)


def test_attributes_of_a_call_reach_its_body_or_their_default(tmp_path):
    def refer(node, name, attribute, kind):
        node.attribute.append(
            onnx.AttributeProto(name=name, ref_attr_name=attribute, type=kind)
        )
        return node

    body = [
        refer(helper.make_node("LeakyRelu", ["a"], ["t"]), "alpha", "slope",
              onnx.AttributeProto.FLOAT),
        # Not given in any call: Elu's own default.
        refer(helper.make_node("Elu", ["t"], ["b"]), "alpha", "none",
              onnx.AttributeProto.FLOAT),
    ]  # fmt: skip
    inner = make_function(
        "Leak", ["a"], ["b"], body, attributes=["none"],
        attribute_protos=[helper.make_attribute("slope", 0.25)],
    )  # fmt: skip
    passed = refer(call("Leak", ["a"], ["b"]), "slope", "outer", onnx.AttributeProto.FLOAT)
    outer = make_function("Pass", ["a"], ["b"], [passed], attributes=["outer"])
    nodes = [
        call("Leak", ["x"], ["p"]),
        call("Leak", ["x"], ["q"], slope=0.5),
        call("Pass", ["x"], ["r"], outer=0.75),
        helper.make_node("Sum", ["p", "q", "r"], ["y"]),
    ]
    got = run_package(
        compile_model(tmp_path, make_model(nodes, [inner, outer])), x=X
    )["y"]
    wide = X.astype(np.float64)
    expected = sum(np.where(wide > 0, wide, np.expm1(np.minimum(s * wide, 0)))
                   for s in (0.25, 0.5, 0.75))  # fmt: skip
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_outputs_may_be_inputs_stand_twice_or_be_unused(tmp_path):
    function = make_function(
        "Many", ["a", "b"], ["a", "c", "c", "d"],
        [helper.make_node("Neg", ["a"], ["c"]), helper.make_node("Abs", ["b"], ["d"])],
    )  # fmt: skip
    nodes = [
        call("Many", ["x", "x"], ["p", "q", "r"]),
        helper.make_node("Sum", ["p", "q", "r"], ["y"]),
    ]
    got = run_package(compile_model(tmp_path, make_model(nodes, [function])), x=X)
    np.testing.assert_array_equal(got["y"], -X)


def test_an_absent_input_of_a_call_is_absent_in_the_body(tmp_path):
    clip = make_function(
        "Within", ["a", "low", "high"], ["b"],
        [helper.make_node("Clip", ["a", "low", "high"], ["b"])],
    )  # fmt: skip
    low = numpy_helper.from_array(np.float32(-1), "low")
    high = numpy_helper.from_array(np.float32(1), "high")
    nodes = [
        call("Within", ["x", "low"], ["p"]),
        call("Within", ["x", "", "high"], ["q"]),
        helper.make_node("Sub", ["p", "q"], ["y"]),
    ]
    model = make_model(nodes, [clip], weights=[low, high])
    got = run_package(compile_model(tmp_path, model), x=X)
    np.testing.assert_array_equal(got["y"], np.maximum(X, -1) - np.minimum(X, 1))


def test_if_with_a_constant_condition_is_its_branch(tmp_path):
    flag = numpy_helper.from_array(np.array(False), "flag")
    shape = helper.make_node("Shape", ["x"], ["shape"])
    rank = helper.make_node("Size", ["shape"], ["rank"])
    two = numpy_helper.from_array(np.int64(2), "two")
    nodes = [
        # Only the branch that is taken must be one that is handled.
        make_if("flag", "a", [helper.make_node("Frobnicate", ["x"], ["inner"])],
                [helper.make_node("Neg", ["x"], ["local"]),
                 helper.make_node("Exp", ["local"], ["inner"])]),
        # Computed from a shape, as exporters write Squeeze.
        shape, rank, helper.make_node("Equal", ["rank", "two"], ["is_two"]),
        make_if("is_two", "b", [helper.make_node("Abs", ["a"], ["inner"])],
                [helper.make_node("Frobnicate", ["x"], ["inner"])]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]  # fmt: skip
    model = make_model(nodes, weights=[flag, two])
    got = run_package(compile_model(tmp_path, model), x=X)
    np.testing.assert_allclose(got["y"], 2 * np.exp(-X), rtol=1e-6)


def test_a_branch_has_weights_and_calls_and_captures_names(tmp_path):
    flag = numpy_helper.from_array(np.array([True]), "flag")
    weight = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    then = branch("then", [helper.make_node("MatMul", ["x", "w"], ["t"]),
                           call("Square", ["t"], ["inner"])], "inner")  # fmt: skip
    then.initializer.append(numpy_helper.from_array(weight, "w"))
    node = helper.make_node(
        "If", ["flag"], ["y"], then_branch=then,
        else_branch=branch("else", [helper.make_node("Neg", ["x"], ["inner"])], "inner"),
    )  # fmt: skip
    agree(tmp_path, make_model([node], [SQUARE], weights=[flag]))


def test_if_in_a_function_and_the_function_twice(tmp_path):
    choose = make_function(
        "Choose", ["a", "flag"], ["b"],
        [helper.make_node("Add", ["a", "a"], ["local"]),
         make_if("flag", "b", [helper.make_node("Mul", ["local", "a"], ["inner"])],
                 [helper.make_node("Neg", ["local"], ["inner"])])],
    )  # fmt: skip
    weights = [
        numpy_helper.from_array(np.array(value), name)
        for name, value in (("yes", True), ("no", False))
    ]
    nodes = [
        call("Choose", ["x", "yes"], ["p"]),
        call("Choose", ["x", "no"], ["q"]),
        helper.make_node("Sub", ["p", "q"], ["y"]),
    ]
    agree(tmp_path, make_model(nodes, [choose], weights=weights))


def test_what_is_refused_is_listed_once_and_for_all(tmp_path):
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    odd = make_function("Odd", ["a"], ["b"],
                        [helper.make_node("Frob", ["a"], ["b"], name="deep")])  # fmt: skip
    loop = helper.make_node("Loop", ["", "c", "x"], ["u"], name="round",
                            body=branch("body", [], "inner"))  # fmt: skip
    nodes = [
        call("Odd", ["x"], ["p"]),
        loop,
        make_if("c", "y", [helper.make_node("Neg", ["p"], ["inner"])],
                [helper.make_node("Abs", ["p"], ["inner"])]),
    ]  # fmt: skip
    model = make_model(nodes, [odd], inputs=[condition])
    text = refuse(tmp_path, model)
    assert (
        "operators that are not handled: node 'call_p#1/deep' (Frob), node 'round' "
        "(Loop), node 'if_y' (If): input 0 ('c') must be known when the graph is "
        "compiled" in text
    )
    # Fixed, it is a constant.
    nodes[:2] = [helper.make_node("Identity", ["x"], ["p"])]
    np.save(tmp_path / "c.npy", np.array(True))
    package = compile_model(
        tmp_path, make_model(nodes, inputs=[condition]), "--fix", f"c={tmp_path}/c.npy"
    )
    np.testing.assert_array_equal(run_package(package, x=X)["y"], -X)


def test_a_condition_that_open_sizes_decide_on_is_refused_by_its_node(tmp_path):
    model = make_model([
        helper.make_node("Size", ["x"], ["s"]),
        helper.make_node("Greater", ["s", "one"], ["c"]),
        make_if("c", "y", [helper.make_node("Neg", ["x"], ["inner"])],
                [helper.make_node("Abs", ["x"], ["inner"])]),
    ], weights=[numpy_helper.from_array(np.int64(1), "one")])  # fmt: skip
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    assert "node 'if_y' (If): input 0 ('c') must be known" in refuse(tmp_path, model)


def test_names_of_a_branch_are_not_seen_outside(tmp_path):
    flag = numpy_helper.from_array(np.array(True), "flag")
    nodes = [
        make_if("flag", "a", [helper.make_node("Neg", ["x"], ["inner"])],
                [helper.make_node("Abs", ["x"], ["inner"])]),
        helper.make_node("Add", ["a", "inner"], ["y"], name="after"),
    ]  # fmt: skip
    text = refuse(tmp_path, make_model(nodes, weights=[flag]))
    assert "node 'after' (Add): no value is called 'inner'" in text


@pytest.mark.parametrize(
    "functions, message",
    [
        ([make_function("F", ["a"], ["b"], [call("F", ["a"], ["b"])])],
         "(com.example.F): the function calls itself"),
        ([make_function("F", ["a"], ["b"], [call("G", ["a"], ["b"])]),
          make_function("G", ["a"], ["b"], [call("F", ["a"], ["b"])])],
         "(com.example.F): the function calls itself"),
        ([SQUARE, SQUARE, make_function("F", ["a"], ["b"], [])],
         "two functions have the name 'com.example.Square'"),
        ([make_function("F", [], ["b"], [])],
         "node 'call_y' (com.example.F): the function has 0 inputs and 1 outputs, "
         "got 1 and 1"),
        ([make_function("F", ["a", "a"], ["b"], [])],
         "two inputs of the function have the name 'a'"),
        ([make_function("F", ["a"], ["b"], [])], "output 'y' is never computed"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_written_out_are_refused(tmp_path, functions, message):
    model = make_model([call("F", ["x"], ["y"])], functions)
    assert message in refuse(tmp_path, model)


def test_a_function_that_calls_itself_in_a_branch_is_refused(tmp_path):
    body = [make_if("flag", "b", [call("F", ["a", "flag"], ["inner"])],
                    [helper.make_node("Neg", ["a"], ["inner"])])]  # fmt: skip
    flag = numpy_helper.from_array(np.array(True), "flag")
    model = make_model([call("F", ["x", "flag"], ["y"])],
                       [make_function("F", ["a", "flag"], ["b"], body)],
                       weights=[flag])  # fmt: skip
    assert "the function calls itself" in refuse(tmp_path, model)


@pytest.mark.parametrize("body", [1, 0])
def test_functions_that_grow_exponentially_are_refused(tmp_path, body):
    """Forty functions, each calling the one below twice; the last has nodes or none."""
    last = [helper.make_node("Neg", ["a"], ["b"])] * body
    functions = [make_function("F0", ["a"], ["b"], last)]
    for i in range(1, 41):
        nodes = [call(f"F{i - 1}", ["a"], ["t"]), call(f"F{i - 1}", ["t"], ["b"])]
        functions.append(make_function(f"F{i}", ["a"], ["b"], nodes))
    text = refuse(tmp_path, make_model([call("F40", ["x"], ["y"])], functions))
    assert "the model's functions are too large to write out" in text


def test_functions_whose_names_grow_are_refused(tmp_path):
    """A body that writes a long name of its caller many times."""
    wide = make_function(
        "Wide", ["a"], ["b"], [helper.make_node("Sum", ["a"] * 3000, ["b"])]
    )
    long = "n" * 1_000_000
    nodes = [helper.make_node("Neg", ["x"], [long]), call("Wide", [long], ["y"])]
    text = refuse(tmp_path, make_model(nodes, [wide]))
    assert "the model's functions are too large to write out" in text


def test_deep_chains_of_functions_are_refused(tmp_path):
    functions = [make_function("F0", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])])]
    for i in range(1, 301):
        functions.append(
            make_function(f"F{i}", ["a"], ["b"], [call(f"F{i - 1}", ["a"], ["b"])])
        )
    # Ninety are fine.
    model = make_model([call("F90", ["x"], ["y"])], functions)
    np.testing.assert_array_equal(run_package(compile_model(tmp_path, model), x=X)["y"], -X)
    text = refuse(tmp_path, make_model([call("F300", ["x"], ["y"])], functions))
    assert "functions are nested over 100 deep" in text


def test_a_function_has_its_own_opset(tmp_path):
    old = make_function(
        "Old", ["a"], ["b"], [helper.make_node("Softmax", ["a"], ["b"])], opset=11
    )
    text = refuse(tmp_path, make_model([call("Old", ["x"], ["y"])], [old]))
    assert "a function of the model uses opset 11" in text
