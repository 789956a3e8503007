"""graphopt-dump: what it prints, where it writes, how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.cli.dump import main
from graphopt.ir import Builder, Graph, evaluate, parse_graph, print_graph, serial, tensor

ROOT = Path(__file__).parents[2]
TEXT = """graph @net(%x: f32[N, 8]) -> f32[N, 8] {
  %w = const @w : f32[8, 8]  # loc("fc.weight")
  %one = const 1.0 : f32[]
  %y = matmul(%x, %w) : f32[N, 8]  # loc("fc")
  %same = mul(%y, %one) : f32[N, 8]  # loc("fc.bias")
  %z = relu(%same) : f32[N, 8]  # loc("act")
  return %z
}
"""


@pytest.fixture
def net(tmp_path):
    """A saved graph with something to simplify."""
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    graph = parse_graph(TEXT, {"w": weight})
    graph.input_names, graph.output_names = ["x"], ["z"]
    serial.save(graph, tmp_path / "net.gir")
    return str(tmp_path / "net.gir")


@pytest.fixture
def dump(capsys):
    """Run the command: (exit code, stdout, stderr)."""
    def run(*argv):
        try:
            code = main([str(a) for a in argv])
        except SystemExit as e:  # argparse's own way out
            code = e.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_as_captured_is_the_graph_itself(dump, net):
    assert dump(net, "--after", "capture") == (0, TEXT, "")


def test_the_final_graph_parses_and_computes_the_same(dump, net):
    code, out, _ = dump(net)
    assert code == 0 and " mul(" not in out
    weight = {t.attrs["value"].name: t.attrs["value"].numpy() for t in serial.load(net).ops if t.name == "const"}
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(evaluate(parse_graph(out, weight), [x])[0], np.maximum(x @ weight["w"], 0), rtol=1e-5, atol=1e-6)


def test_a_text_file_is_a_model_too(dump, tmp_path):
    (tmp_path / "net.ir").write_text(TEXT)
    assert dump(tmp_path / "net.ir", "--after", "capture")[:2] == (0, TEXT)


def test_passes_are_listed_with_times(dump, net):
    code, out, _ = dump(net, "--passes")
    assert code == 0 and out.startswith("pass") and "seconds" in out and "unchanged" in out


def pass_that_removes_the_multiplication(dump, net):
    _, table, _ = dump(net, "--passes")
    for name in (line.split()[0] for line in table.splitlines()[1:]):
        code, diff, _ = dump(net, "--diff", name)
        assert code == 0
        if any(line.startswith("-") and " mul(" in line for line in diff.splitlines()):
            return name
    raise AssertionError("no pass removed the multiplication by one")


def test_a_diff_shows_what_one_pass_did(dump, net):
    name = pass_that_removes_the_multiplication(dump, net)
    _, diff, _ = dump(net, "--diff", name)
    assert diff.startswith(f"--- before {name} (run 1)\n+++ after {name} (run 1)\n")
    _, after, _ = dump(net, "--after", name)
    assert " mul(" not in after


def test_after_the_first_run_of_a_pass_is_before_its_last(dump, net):
    _, table, _ = dump(net, "--passes")
    names = [line.split()[0] for line in table.splitlines()[1:]]
    twice = next(n for n in names if names.count(n) > 1)
    _, first, _ = dump(net, "--after", f"{twice}:1", "--passes")
    _, last, _ = dump(net, "--after", twice, "--passes")
    assert len(first.splitlines()) == names.index(twice) + 2
    assert len(last.splitlines()) == len(names) - names[::-1].index(twice) + 1
    code, _, err = dump(net, "--after", f"{twice}:99")
    assert code == 2 and "time(s)" in err


def test_a_diff_between_two_passes_is_all_that_was_done_from_one_to_the_other(dump, net):
    _, whole, _ = dump(net, "--diff", "capture..")
    assert whole.startswith("--- after capture\n+++ after ")
    assert any(s.startswith("-") and " mul(" in s for s in whole.splitlines())
    assert dump(net, "--diff", "..")[1] == whole
    name = pass_that_removes_the_multiplication(dump, net)
    _, rest, _ = dump(net, "--diff", f"{name}..")
    assert " mul(" not in rest
    _, until, _ = dump(net, "--diff", f"..{name}", "--after", name)
    assert any(s.startswith("-") and " mul(" in s for s in until.splitlines())


def test_a_diff_applies_as_a_patch(dump, net, tmp_path):
    """What is shown between two points is exactly the difference of their texts (all values of this net have names)."""
    _, before, _ = dump(net, "--after", "capture")
    _, after, _ = dump(net, "--after", "dce:1")
    _, diff, _ = dump(net, "--diff", "capture..dce:1")
    (tmp_path / "graph.txt").write_text(before)
    subprocess.run(["patch", "-s", str(tmp_path / "graph.txt")], input=diff, text=True, check=True)
    assert (tmp_path / "graph.txt").read_text() == after


def test_numbers_of_other_values_do_not_change_in_a_diff(dump, tmp_path):
    lines = ["%0 = neg(%x) : f32[8]", "%1 = neg(%0) : f32[8]", "%2 = tanh(%1) : f32[8]", "%3 = sin(%2) : f32[8]",
             "%4 = cos(%3) : f32[8]"]
    (tmp_path / "net.ir").write_text("graph @g(%x: f32[8]) -> f32[8] {\n  " + "\n  ".join(lines) + "\n  return %4\n}\n")
    _, diff, _ = dump(tmp_path / "net.ir", "--diff", "capture..dce:1")
    assert {s[0] for s in diff.splitlines() if "sin" in s or "cos" in s} == {" "}


@pytest.mark.parametrize("diff, says", [("fuse..fold", "fuse does not come before fold"), ("capture", "capture..PASS"),
                                        ("fold..fold", "does not come before"), ("..fus", "Did you mean 'fuse'?"),
                                        ("fold:9", "time(s)")])
def test_a_diff_between_what_does_not_follow_is_refused(dump, net, diff, says):
    code, out, err = dump(net, "--diff", diff)
    assert (code, out) == (2, "") and says in err


def test_a_diff_beyond_the_last_pass_shown_is_refused(dump, net):
    code, _, err = dump(net, "--diff", "layout", "--after", "fold")
    assert code == 2 and "comes later" in err


def test_a_pass_that_changed_nothing_says_so(dump, net):
    _, table, _ = dump(net, "--passes")
    lines = [line.split() for line in table.splitlines()[1:]]
    idle = next(line[0] for line in lines if all(other[-1] == "unchanged" for other in lines if other[0] == line[0]))
    assert dump(net, "--diff", idle)[:2] == (0, f"{idle} changed nothing\n")


def test_why_tells_where_a_value_came_from_and_what_was_decided(dump, net):
    code, out, _ = dump(net, "--why", "%same")
    assert code == 0
    assert "as captured:\n  %same: f32[N, 8] = mul(%y, %one), from fc.bias; used by %z (relu)" in out
    assert "because:\n  [" in out


def test_why_names_the_kernel_where_shapes_are_known(dump, net):
    _, out, _ = dump(net, "--why", "act", "--shape", "x=2x8")
    assert "computed by:\n  step 1 of 1, kernel k0_fused, made by matmul: matmul 2x8 * 8x8 -> 2x8, and 1 more; "\
        "result in output 0" in out
    _, out, _ = dump(net, "--why", "act")
    assert "computed by" not in out


def test_why_finds_values_by_source_location(dump, net):
    code, out, _ = dump(net, "--why", "act")
    assert code == 0 and "= relu(" in out


def test_why_of_an_unknown_value_suggests(dump, net):
    code, out, err = dump(net, "--why", "%sam")
    assert (code, out) == (2, "") and "did you mean same" in err


def test_validation_passes_on_a_sound_pipeline(dump, net):
    code, out, _ = dump(net, "--validate")
    assert code == 0 and out.startswith("validated:")


def test_validation_takes_inputs_from_a_file(dump, net, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.full((7, 8), np.inf, np.float32))
    code, out, _ = dump(net, "--validate", "--inputs", tmp_path / "in.npz")
    assert code == 0 and out.startswith("validated:")
    np.savez(tmp_path / "in.npz", other=np.zeros(3))
    code, _, err = dump(net, "--validate", "--inputs", tmp_path / "in.npz")
    assert code == 2 and "no array for x; it has other" in err
    (tmp_path / "in.npz").write_bytes(b"no archive")
    code, _, err = dump(net, "--validate", "--inputs", tmp_path / "in.npz")
    assert code == 2 and "not an .npz file" in err
    assert dump(net, "--inputs", "in.npz")[0] == 2


def test_a_model_that_refuses_random_inputs_asks_for_others(dump, tmp_path):
    (tmp_path / "net.ir").write_text("graph @g(%x: f32[3], %i: i64[1]) -> f32[1] {\n"
                                     "  %far = const 100 : i64[]\n  %at = add(%i, %far) : i64[1]\n"
                                     "  %y = gather(%x, %at) {axis=0} : f32[1]\n  return %y\n}\n")
    code, _, err = dump(tmp_path / "net.ir", "--validate")
    assert code == 1 and "cannot be evaluated before any pass: gather %y" in err and "Give --inputs" in err


def test_json_describes_every_op(dump, net):
    code, out, _ = dump(net, "--emit", "json", "--after", "capture")
    data = json.loads(out)
    assert code == 0 and data["input_names"] == ["x"]
    assert [op["op"] for op in data["ops"]] == ["const", "const", "matmul", "mul", "relu"]
    assert data["inputs"] == [{"name": "x", "dtype": "f32", "shape": ["N", 8]}]
    assert data["ops"][2]["operands"] == ["x", "w"] and data["ops"][2]["loc"] == ["fc"]
    assert data["ops"][0]["attrs"]["value"] == {"name": "w", "bytes": 256}


def test_json_is_strict_where_attributes_are_infinite(dump, tmp_path):
    (tmp_path / "net.ir").write_text('graph @g(%x: f32[3]) -> f32[3] {\n'
                                     '  %0 = softplus(%x) {beta=1.0, threshold=inf} : f32[3]\n  return %0\n}\n')
    _, out, _ = dump(tmp_path / "net.ir", "--emit", "json", "--after", "capture")
    strict = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert strict["ops"][0]["attrs"]["threshold"] == "inf"


def test_dot_is_a_graph_of_ops(dump, net):
    code, out, _ = dump(net, "--emit", "dot", "--after", "capture")
    assert code == 0 and out.startswith("digraph {") and out.count("{") == out.count("}")
    for label in ("matmul", "relu", "f32[N, 8]", "%x"):
        assert label in out
    assert out.count(" -> ") == 4  # x to matmul to mul to relu to return; weights are no edges


def test_statistics_count_what_is_there(dump, net):
    code, out, _ = dump(net, "--stats", "--after", "capture", "--shape", "x=5x8")
    numbers = dict(line.split(":", 1) for line in out.splitlines())
    assert code == 0
    assert numbers["ops"].strip() == "3" and numbers["parameters"].strip() == "65"
    assert numbers["operations"].strip() == str(5 * 8 * 8 * 2 + 40 + 40)


def test_statistics_of_free_dims_are_formulas(dump, net):
    _, out, _ = dump(net, "--stats", "--after", "capture")
    assert "144*N" in out


def test_shapes_of_inputs_can_be_fixed(dump, net):
    code, out, _ = dump(net, "--shape", "x=5x8")
    assert code == 0 and "f32[5, 8]" in out and "N" not in out.split("{", 1)[1]


@pytest.mark.parametrize("shape, says", [("y=5x8", "the inputs are x"), ("x=5x9", "the input is f32[N, 8]"),
                                         ("x=5", "the input is"), ("x", "write INPUT="), ("x=axb", "x=axb: write INPUT=")])
def test_shapes_that_do_not_fit_are_refused(dump, net, shape, says):
    code, out, err = dump(net, "--shape", shape)
    assert (code, out) == (2, "") and says in err


def test_output_goes_to_a_file(dump, net, tmp_path):
    assert dump(net, "--after", "capture", "-o", tmp_path / "out.txt") == (0, "", "")
    assert (tmp_path / "out.txt").read_text() == TEXT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.gir", "out.txt"]


def test_a_graph_is_saved_and_read_again(dump, net, tmp_path):
    assert dump(net, "-o", tmp_path / "final.gir")[0] == 0
    final = serial.load(tmp_path / "final.gir")
    assert final.input_names == ["x"]
    assert dump(tmp_path / "final.gir", "--after", "capture")[1] == print_graph(final)


def test_output_into_a_missing_folder_is_an_error(dump, net, tmp_path):
    code, _, err = dump(net, "-o", tmp_path / "nowhere" / "x.txt")
    assert code == 1 and "nowhere/x.txt: there is no such folder" in err


def test_output_in_the_place_of_a_folder_is_an_error(dump, net, tmp_path):
    code, _, err = dump(net, "-o", tmp_path)
    assert code == 1 and f"-o {tmp_path}: that is a folder; give the name of a file" in err


@pytest.mark.parametrize("option", ["--after", "--diff"])
def test_a_typo_in_a_pass_suggests_the_nearest(dump, net, option):
    _, table, _ = dump(net, "--passes")
    name = table.splitlines()[1].split()[0]
    code, out, err = dump(net, option, name[:-1] + "z")
    assert (code, out) == (2, "") and f"Did you mean {name!r}?" in err and "In order:" in err


@pytest.mark.parametrize("argv, says", [
    ([], "MODEL"),
    (["net.tflite"], "is not a model"),
    (["net.gir", "--emit", "wasm"], "invalid choice"),
    (["net.gir", "--target", "riscv"], "unknown target 'riscv'"),
    (["net.gir", "--emit", "asm", "--after", "capture"], "give one of them"),
    (["net.gir", "--stats", "-o", "x.gir"], "alone or with --after"),
    (["net.gir", "--emit", "hls", "--target", "cuda:sm_90"], "--emit hls is for --target fpga, not cuda:sm_90"),
])
def test_a_wrong_command_line_is_code_2(dump, argv, says):
    code, out, err = dump(*argv)
    assert (code, out) == (2, "") and says in err


@pytest.mark.parametrize("name, contents, says", [
    ("missing.onnx", None, "no such file"),
    ("broken.onnx", b"\x08\x07garbage", "broken.onnx"),
    ("broken.gir", b"garbage", "not a saved graph"),
    ("broken.ir", b"graph @g() -> () {\n  oops\n", "line 2"),
])
def test_a_model_that_cannot_be_read_is_code_1(dump, tmp_path, name, contents, says):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    code, out, err = dump(tmp_path / name)
    assert (code, out) == (1, "") and says in err and "Traceback" not in err


def test_a_broken_exported_program_is_code_1(dump, tmp_path):
    pytest.importorskip("torch", reason="reads a .pt2 file")
    (tmp_path / "net.pt2").write_bytes(b"garbage")
    code, out, err = dump(tmp_path / "net.pt2")
    assert (code, out) == (1, "") and "net.pt2: torch cannot read it" in err


def test_an_exported_program_is_read(dump, tmp_path):
    torch = pytest.importorskip("torch", reason="writes a .pt2 file")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.randn(3, 8),)), tmp_path / "net.pt2")
    code, out, _ = dump(tmp_path / "net.pt2", "--after", "capture")
    assert code == 0 and "f32[3, 8]" in out and "relu(" in out


def test_a_function_gives_a_model(dump, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the function returns a PyTorch module")
    (tmp_path / "my_nets_for_dump.py").write_text("import torch\n\ndef small():\n"
                                                  "    return torch.nn.Tanh(), (torch.zeros(2, 3),)\n")
    monkeypatch.chdir(tmp_path)
    code, out, _ = dump("my_nets_for_dump:small", "--after", "capture")
    assert code == 0 and "tanh(" in out
    code, _, err = dump("my_nets_for_dump:big", "--after", "capture")
    assert code == 1 and "no function 'big'" in err
    code, _, err = dump("no_such_module:f")
    assert code == 1 and "cannot import no_such_module" in err


def test_the_demos_network_through_the_whole_command(dump):
    code, out, _ = dump(ROOT / "demo" / "digits.onnx", "--stats", "--shape", "images=1x1x8x8")
    assert code == 0
    assert "parameters:       7,510" in out or "parameters:" in out
    assert "arena" in out


def test_the_demos_network_at_any_batch_size(dump):
    code, out, err = dump(ROOT / "demo" / "digits.onnx")
    assert code == 0 and out.startswith("graph @main_graph(%images: f32[batch, 1, 8, 8])") and "give --shape" in err


def test_generated_code_is_printed(dump, net):
    code, out, _ = dump(net, "--shape", "x=5x8", "--emit", "tir")
    assert code == 0 and "def main" in out
    code, out, _ = dump(net, "--shape", "x=5x8", "--emit", "asm")
    assert code == 0 and ".text" in out


@pytest.mark.parametrize("target, form, has", [("cuda:sm_90", "cuda", "__global__"), ("fpga:xc7z020", "hls", "#pragma HLS")])
def test_source_for_other_machines_is_printed(dump, target, form, has):
    code, out, _ = dump(ROOT / "demo" / "digits.onnx", "--shape", "images=1x1x8x8", "--target", target, "--emit", form)
    assert code == 0 and has in out


def test_code_for_free_dims_asks_for_shapes(dump, net):
    code, out, err = dump(net, "--emit", "asm")
    assert (code, out) == (2, "") and "N is free, give --shape x=1x8" in err


def test_free_dims_are_mentioned_beside_the_graph(dump, net):
    code, out, err = dump(net)
    assert code == 0 and out.startswith("graph @net") and "give --shape x=1x8" in err


def test_a_value_that_shapes_the_program_is_asked_for_and_bound(dump, tmp_path):
    from onnx import TensorProto, helper, save

    tensor = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Tile", ["x", "times"], ["y"], name="repeat")], "g",
                              [tensor("x", TensorProto.FLOAT, [3]), tensor("times", TensorProto.INT64, [1])],
                              [tensor("y", TensorProto.FLOAT, ["n"])])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "net.onnx")
    code, _, err = dump(tmp_path / "net.onnx", "--emit", "tir")
    assert code == 2 and "the value of times shapes it, give --value times=..." in err
    code, out, err = dump(tmp_path / "net.onnx", "--value", "times=2,")
    assert (code, err) == (0, "") and "f32[6]" in out
    for wrong in ("x=1", "times", "times=a"):
        assert dump(tmp_path / "net.onnx", "--value", wrong)[0] == 2


def test_code_of_another_target_is_refused(dump, net):
    code, out, err = dump(net, "--shape", "x=5x8", "--emit", "cuda")
    assert (code, out) == (2, "") and "--emit cuda is for --target cuda, not x86:" in err


def test_a_reader_that_leaves_early_is_no_error(net):
    command = f"{sys.executable} -m graphopt.cli.dump {net} --emit json --after capture | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == "{\n" and done.stderr == ""


def test_help_shows_examples_without_importing_anything_heavy():
    code = ("import sys; from graphopt.cli.dump import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
            "print('numpy' in sys.modules, 'torch' in sys.modules, 'tvm' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "examples:" in done.stdout and "exit codes" in done.stdout
    assert done.stdout.splitlines()[-1] == "False False False"


def test_tune_measures_and_says_what_was_chosen(dump, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_TUNING", str(tmp_path / "records.json"))
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 40, 64), "x")
    y = b.matmul(x, b.const(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)))
    y.name = "y"
    graph.outputs = [y]
    serial.save(graph, tmp_path / "product.gir")
    code, out, err = dump(tmp_path / "product.gir", "--tune", "fast")
    assert (code, err) == (0, "") and "measured (fast)" in out
    code, out, _ = dump(tmp_path / "product.gir", "--why", "%y")
    assert code == 0 and "[tuning]" in out and "measured (fast)" in out


def test_tune_refuses_what_has_no_shape_yet_or_no_parameters(dump, net):
    for options, said in ((("--tune", "fast"), "N is free"), (("--tune", "slow"), "invalid choice"),
                          (("--tune", "fast", "--after", "fold"), "leave out --after"),
                          (("--tune", "fast", "--shape", "x=2x8", "--target", "cuda:sm_90"), "no parameters to tune")):
        code, _, err = dump(net, *options)
        assert code == 2 and said in err
