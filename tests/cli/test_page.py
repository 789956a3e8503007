"""graphopt-dump --emit html: what the page holds, and that a browser shows it."""

import base64
import importlib.util
import json
import re
import sys
import zlib
from pathlib import Path

import browser
import numpy as np
import pytest

from graphopt.cli.dump import main
from graphopt.cli.page import SCRIPTS
from graphopt.cli.page.assembly import hot_loop, listing, loops
from graphopt.cli.page.modules import Modules, common, path_of
from graphopt.cli.page.snapshots import Snapshots
from graphopt.ir import parse_graph
from graphopt.rewrite import default_passes

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "demo" / "digits.onnx"
FIXED = ("--shape", "images=1x1x8x8")
HOSTILE = "</script><img src=x onerror=\"window.broken=1\"><!--<script>"


def write(path, *argv):
    """The page of a model, written to `path` by the command."""
    assert main([*map(str, argv), "--emit", "html", "-o", str(path)]) == 0
    return path


def held(path, element="data"):
    """What lies packed in an element of the page."""
    text = re.search(rf'<script type="application/octet-stream" id="{element}">([^<]*)</script>', path.read_text())[1]
    return json.loads(zlib.decompress(base64.b64decode(text)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "digits.html", DIGITS, *FIXED)


# What the page holds ----------------------------------------------------------------------------
def test_the_page_has_every_pass_and_every_step(digits):
    data = held(digits)
    assert [p["name"] for p in data["passes"]] == [p.name for p in default_passes()]
    final = {data["records"][r][0] for r in data["snapshots"][-1]["ops"]}
    assert data["steps"] and all(s["op"] in final for s in data["steps"])
    assert len(data["profile"]["rows"]) == len(data["steps"])
    assert all(r["seconds"] > 0 for r in data["profile"]["rows"])


def test_blocks_of_the_arena_never_overlap_in_time_and_place(digits):
    blocks = held(digits)["memory"]["blocks"]
    for k, (first, last, offset, size, _, _) in enumerate(blocks):
        for other in blocks[:k]:
            apart = last < other[0] or other[1] < first or offset + size <= other[2] or other[2] + other[3] <= offset
            assert apart, (blocks[k], other)


def test_every_kernel_has_its_tir_and_assembly_with_a_loop_of_arithmetic(digits):
    data, code = held(digits), held(digits, "code")
    assert len(code) == len(data["kernels"])
    for kernel, texts in zip(data["kernels"], code):
        tir, assembly = texts
        assert (tir["language"], assembly["language"]) == ("TIR", "assembly")
        assert any(f"def {kernel['name']}(" in line for line in tir["lines"])
        assert f"{kernel['name']}:" in assembly["lines"]
    hot = [t[1]["lines"][slice(t[1]["hot"][0], t[1]["hot"][1] + 1)] for t in code if "hot" in t[1]]
    assert any("vfmadd" in line for lines in hot for line in lines)


def test_nothing_is_loaded_from_elsewhere_and_no_weight_is_in_it(digits):
    text = digits.read_text()
    outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)[^"']+|@import|url\(""", text)
    assert not outside
    weights = np.frombuffer(zlib.decompress(base64.b64decode(re.search(r'id="data">([^<]*)<', text)[1])), np.uint8).tobytes()
    assert b"features.0.weight" in weights and len(text) < 400_000


def test_other_targets_have_their_source_and_no_times(tmp_path):
    for target, language, has in (("cuda:sm_90", "cuda", "__global__"), ("fpga:xc7z020", "hls", "#pragma HLS")):
        page = write(tmp_path / "page.html", DIGITS, *FIXED, "--target", target)
        data, code = held(page), held(page, "code")
        assert data["profile"] is None and "does not run on the machine" in data["notes"][0]
        assert all(texts[0]["language"] == language for texts in code)
        assert any(has in line for texts in code for line in texts[0]["lines"])
        final = {data["records"][r][0] for r in data["snapshots"][-1]["ops"]}
        assert all(s["op"] in final for s in data["steps"])


def test_code_for_another_cpu_is_shown_without_times(tmp_path):
    data = held(write(tmp_path / "page.html", DIGITS, *FIXED, "--target", "x86:diamondrapids"))
    assert data["profile"] is None and "code for x86:diamondrapids does not run" in data["notes"][0]


def save_onnx(path, nodes, inputs, outputs):
    from onnx import TensorProto, helper, save

    tensors = [[helper.make_tensor_value_info(n, getattr(TensorProto, t), shape) for n, t, shape in some]
               for some in (inputs, outputs)]
    graph = helper.make_graph([helper.make_node(op, ins, outs, name=name) for op, ins, outs, name in nodes], "g", *tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def partly_hosted(tmp_path):
    """A model whose second op runs on the reference evaluator."""
    return save_onnx(tmp_path / "net.onnx", [("Relu", ["x"], ["y"], "first"), ("NonZero", ["y"], ["z"], "second")],
                     [("x", "FLOAT", [2, 3])], [("z", "INT64", [2, "n"])])


def test_an_op_on_the_evaluator_says_why(partly_hosted, tmp_path):
    data = held(write(tmp_path / "page.html", partly_hosted))
    host = [s for s in data["steps"] if "why" in s]
    assert [s["name"] for s in host] == ["nonzero"] and host[0]["why"]
    assert data["profile"]["rows"][-1]["floor"] is None


def test_inputs_that_the_model_refuses_leave_the_page_without_times(partly_hosted, tmp_path, monkeypatch):
    from graphopt.errors import EvaluationError
    from graphopt.measure import profiling

    def refuse(*_):
        raise EvaluationError("no such row", where="gather %y")

    monkeypatch.setattr(profiling, "profile", refuse)
    data = held(write(tmp_path / "page.html", partly_hosted))
    assert data["profile"] is None and "gather %y: no such row" in data["notes"][0] and "--inputs" in data["notes"][0]
    assert data["steps"]


def test_it_runs_on_the_inputs_that_are_given(partly_hosted, tmp_path, monkeypatch):
    from graphopt.measure import profiling

    seen, real = [], profiling.profile
    monkeypatch.setattr(profiling, "profile", lambda c, target, arrays: seen.extend(arrays) or real(c, target, arrays))
    np.savez(tmp_path / "in.npz", x=np.full((2, 3), 7, np.float32))
    write(tmp_path / "page.html", partly_hosted, "--inputs", tmp_path / "in.npz")
    assert [x.tolist() for x in seen] == [[[7.0] * 3] * 2]


def test_free_dims_and_contradictions_are_refused(capsys, tmp_path):
    out = str(tmp_path / "page.html")
    assert main([str(DIGITS), "--emit", "html", "-o", out]) == 2
    assert "batch is free, give --shape images=1x1x8x8" in capsys.readouterr().err
    for extra in (["--passes"], ["--after", "fuse"], ["--why", "relu"], ["--tune", "fast"]):
        assert main([str(DIGITS), *FIXED, "--emit", "html", "-o", out, *extra]) == 2
        assert "has every pass, number and reason in it" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


# Its parts --------------------------------------------------------------------------------------
def test_modules_come_from_paths():
    assert path_of("layer1.0.conv1") == "layer1.0.conv1"
    assert path_of("/layer1/layer1.0/conv1/Conv") == "layer1.layer1.0.conv1"
    assert path_of("Conv_17") == ""
    assert common(["a.b.c", "a.b.d"]) == "a.b" and common(["a.bc", "a.bd"]) == "a" and common([]) == ""


def test_modules_come_from_weights_where_locations_are_flat():
    graph = parse_graph("""graph @g(%x: f32[4, 4]) -> f32[4, 4] {
  %block.0.fc.weight = const @w : f32[4, 4]
  %block.1.fc.weight = const @v : f32[4, 4]
  %a = matmul(%x, %block.0.fc.weight) : f32[4, 4]  # loc("MatMul_0")
  %b = relu(%a) : f32[4, 4]  # loc("Relu_1")
  %c = matmul(%b, %block.1.fc.weight) : f32[4, 4]  # loc("MatMul_2")
  return %c
}
""", {"w": np.zeros((4, 4), np.float32), "v": np.zeros((4, 4), np.float32)})
    modules = Modules(graph)
    assert [modules(op) for op in graph.ops if op.name != "const"] == ["block.0.fc", "block.0", "block.1.fc"]


def test_modules_come_from_what_the_exporter_noted():
    from onnx import TensorProto, helper

    from graphopt.capture import capture

    tensor = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["x"], ["y"], name="node_relu")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'layer1', 'layer1.0', 'layer1.0.act', 'relu']")
    graph = helper.make_graph([node], "g", [tensor("x", TensorProto.FLOAT, [3])], [tensor("y", TensorProto.FLOAT, [3])])
    captured = capture(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    assert captured.metadata["modules"] == {"node_relu": "layer1.0.act"}
    assert [Modules(captured)(op) for op in captured.ops] == ["layer1.0.act"]


def test_a_pass_is_told_by_what_it_added_removed_and_altered():
    graph = parse_graph("graph @g(%x: f32[4]) -> f32[4] {\n  %a = relu(%x) : f32[4]\n  %b = exp(%a) : f32[4]\n"
                        "  %c = tanh(%b) : f32[4]\n  return %c\n}\n")
    found = Snapshots(Modules(graph))
    found.before("first", graph)
    a, b, c = graph.ops
    keep = [found.number(op) for op in (a, b, c)]
    found.after("first", graph)
    made = graph.add("neg", [a.result])  # beside the others
    graph.outputs = [made.result]
    c.erase()
    found.after("second", graph)
    graph.outputs = [b.result]
    made.erase()
    taking = graph.add("sqrt", [graph.inputs[0]])
    b.replace_with(taking.result)  # keeps the name %b
    found.after("third", graph)
    first, second, third = found.passes
    assert "diff" not in first and first["snapshot"] == 0
    assert (second["added"], second["removed"], second["altered"]) == ([found.number(made)], [keep[2]], [])
    assert "+  %0 = neg(%a) : f32[4]" in second["diff"]
    assert third["removed"] == [found.number(made)] and third["added"] == []
    assert [n for n, _ in third["altered"]] == [found.number(taking)]
    assert found.records[third["altered"][0][1]][1] == "exp"


ASSEMBLY = """\t.file\t"TVMMod"
\t.text
\t.type\tkernel,@function
kernel:
\t.cfi_startproc
\txorl\t%eax, %eax
.LBB0_1:
\tvaddps\t(%rdi), %zmm1, %zmm1
\tvaddps\t(%rsi), %zmm2, %zmm2
\tvaddps\t64(%rsi), %zmm2, %zmm2
\tincl\t%eax
\tjne\t.LBB0_1
.LBB0_2:
\txorl\t%ecx, %ecx
.LBB0_3:
\tvfmadd231ps\t(%rdi), %zmm1, %zmm2
\tvfmadd231ps\t64(%rdi), %zmm1, %zmm3
\taddq\t$4, %rcx
\tjne\t.LBB0_3
\tvmovups\t%zmm2, (%rdx)
\tdecl\t%eax
\tjne\t.LBB0_2
.LBB0_9:
\tretq
\t.type\t__truncsfhf2,@function
__truncsfhf2:
\tretq
"""


def test_the_hot_loop_is_the_innermost_with_the_most_arithmetic_by_nest():
    lines = listing(ASSEMBLY)
    assert "kernel:" in lines and "__truncsfhf2:" not in lines and not any("cfi" in line or "LBB0_9" in line for line in lines)
    found = hot_loop(lines)
    assert lines[found.first] == ".LBB0_3:" and lines[found.last].split() == ["jne", ".LBB0_3"]
    assert (found.depth, found.arithmetic, found.multiply_adds) == (1, 2, 2)
    assert [p.depth for p in loops(lines)] == [0, 0, 1]


def test_code_without_vector_arithmetic_has_no_hot_loop():
    assert hot_loop(["kernel:", ".LBB0_1:", "    incl         %eax", "    jne          .LBB0_1"]) is None


def test_all_parts_of_the_page_are_packaged():
    import tomllib

    from setuptools.discovery import PackageFinder

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["graphopt.cli.page"]
    folder = ROOT / "graphopt" / "cli" / "page"
    packaged = {p for pattern in patterns for p in folder.glob(pattern)}
    assert packaged == set((folder / "assets").iterdir())
    assert {p.name for p in packaged} == {*SCRIPTS, "page.html", "page.css"}
    assert "graphopt.cli.page" in PackageFinder.find(str(ROOT), include=["graphopt*"])


# In a browser -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def chromium():
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    started = browser.Browser(program)
    yield started
    started.close()


@pytest.fixture
def view(chromium):
    """Open a page at 1280 by 800 and say that nothing went wrong at the end."""
    chromium.complaints.clear()
    chromium.shape(1280, 800)

    def open_page(path, address=""):
        took = chromium.open(path.as_uri() + address)
        assert took < 10_000
        return chromium

    yield open_page
    assert chromium.complaints == []
    assert [r for r in chromium.requests if not r.startswith(("file:", "data:"))] == []


def text_of(page, selector):
    return page.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")


def test_passes_are_switched_and_their_changes_marked(view, digits):
    page = view(digits)
    assert page.evaluate("document.querySelectorAll('.row.op').length") > 3
    page.click("[data-pass='fuse:1']")
    page.wait("location.hash.includes('pass=fuse')")
    assert page.evaluate("document.querySelectorAll('.row.altered').length") > 0
    assert page.evaluate("document.querySelectorAll('.row.ghost').length") > 0
    page.evaluate("[...document.querySelectorAll('.toolbar button')].find((b) => b.textContent === 'text diff').click()")
    assert page.evaluate("document.querySelectorAll('.d-plus').length") > 0
    page.evaluate("history.back()")
    page.wait("!location.hash.includes('diff')")
    page.wait("document.querySelectorAll('.row.altered').length > 0")


def test_search_by_keyboard_goes_from_one_op_to_the_next(view, digits):
    page = view(digits)
    page.key("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.type("conv")
    page.wait("document.querySelector('#found').textContent.includes('op')")
    hits = page.evaluate("search.order.length")
    assert hits >= 2  # the network has two convolutions, and ops made for them
    chosen = []
    for _ in range(hits + 1):
        page.key("Enter")
        page.wait("document.querySelector('.row.selected')")
        chosen.append(page.evaluate("app.state.node"))
        assert "conv" in text_of(page, "#details").lower()
    assert len(set(chosen)) == hits and chosen[0] == chosen[-1]
    page.key("Escape")
    assert page.evaluate("[search.order.length, document.querySelector('#query').value]") == [0, ""]


def test_an_op_shows_all_that_is_known_of_it(view, digits):
    data = held(digits)
    conv = next(s["op"] for s in data["steps"] if s["name"] == "fused")
    page = view(digits, f"#tab=graph&node={conv}")
    page.wait("document.querySelector('#details .code .hot')")
    shown = text_of(page, "#details")
    for expected in ("f32[1, 16, 8, 8]", "node_Conv_37", "Why", "fused", "measured", "GFLOP/s", "hot loop", "vfmadd"):
        assert expected in shown, expected
    inside = page.evaluate("(() => { const c = document.querySelector('#details .kernel .code'), h = c.querySelector('.hot');"
                           " const a = c.getBoundingClientRect(), b = h.getBoundingClientRect();"
                           " return b.top >= a.top && b.top < a.bottom; })()")
    assert inside
    page.evaluate("[...document.querySelectorAll('#details button')].find((b) => b.textContent === 'TIR').click()")
    page.wait("document.querySelector('#details .kernel .code').innerText.includes('prim_func')")
    page.key("Escape")
    assert page.evaluate("document.querySelector('#details').hidden")


def test_every_view_draws_what_was_measured(view, digits):
    steps = len(held(digits)["steps"])
    page = view(digits, "#tab=kernels")
    assert page.evaluate("document.querySelectorAll('.kernels tbody tr').length") == steps
    page.click("#tab-timeline")
    assert page.evaluate("document.querySelectorAll('.timeline .span').length") == steps
    page.click("#tab-memory")
    assert page.evaluate("document.querySelectorAll('.memory .block').length") == len(held(digits)["memory"]["blocks"])
    page.click("#tab-roofline")
    assert 0 < page.evaluate("document.querySelectorAll('.roofline .point').length") <= steps
    page.evaluate("document.querySelector('.roofline .point').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert "GFLOP/s" in text_of(page, "#details")


def test_the_table_sorts(view, digits):
    page = view(digits, "#tab=kernels")
    order = "[...document.querySelectorAll('.kernels tbody tr')].map((r) => Number(r.dataset.step))"
    seconds = [r["seconds"] for r in held(digits)["profile"]["rows"]]
    assert page.evaluate(order) == sorted(range(len(seconds)), key=lambda k: -seconds[k])
    page.click(".kernels th:first-child button")
    assert page.evaluate(order) == list(range(len(seconds)))


LUMINANCE = """((name) => {
  const c = document.createElement("canvas").getContext("2d");
  c.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
  c.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...c.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
})"""


@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_on_a_desk_and_a_phone_in_light_and_dark(view, digits, chromium, width, height, dark):
    chromium.shape(width, height, dark)
    conv = next(s["op"] for s in held(digits)["steps"] if s["name"] == "fused")
    for address in ("", f"#node={conv}", "#pass=fuse%3A1", "#tab=kernels", "#tab=timeline", "#tab=memory", "#tab=roofline"):
        page = view(digits, address)
        chromium.shape(width, height, dark)
        page.wait(f"innerWidth === {width}")
        assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth && document.body.scrollHeight <= innerHeight")
        small = page.evaluate("[...document.querySelectorAll('body *')].filter((e) => e.innerText && e.checkVisibility() && "
                              "parseFloat(getComputedStyle(e).fontSize) < 10.5).length")
        assert small == 0
    # WCAG 2.2, 1.4.3: a contrast of 4.5 for text
    paper = [page.evaluate(f"{LUMINANCE}('{name}')") for name in ("--bg", "--panel")]
    for ink in ("--ink", "--muted", "--accent", "--added", "--removed", "--altered", "--contraction", "--reduction",
                "--elementwise", "--movement", "--control", "--composite"):
        light = page.evaluate(f"{LUMINANCE}('{ink}')")
        for p in paper:
            assert (max(light, p) + 0.05) / (min(light, p) + 0.05) >= 4.5, ink


def test_text_of_a_model_never_runs(view, tmp_path):
    import onnx

    name = save_onnx(tmp_path / "<img src=x onerror=window.broken=1>.onnx",
                     [("Relu", ["x"], [HOSTILE], HOSTILE), ("Exp", [HOSTILE], ["y"], f"a.{HOSTILE}/b")],
                     [("x", "FLOAT", [3])], [("y", "FLOAT", [3])])
    model = onnx.load(name)
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{HOSTILE}', 'relu']")
    onnx.save(model, name)
    page = view(write(tmp_path / "page.html", name))
    for address in ("#pass=capture", "#pass=fuse%3A1", "#pass=fuse%3A1&diff=1", "#tab=kernels", "#tab=timeline", "#tab=memory",
                    f"#node=0&pass={HOSTILE}&tab=</script>", "#pass=capture&node=0"):
        page.open((tmp_path / "page.html").as_uri() + address)
        page.key("/")
        page.type("onerror")
        page.key("Enter")
        assert page.evaluate("[window.broken === undefined, document.images.length, document.scripts.length]") == [True, 0, 3]
    page.evaluate("app.go({tab: 'graph', pass: 0, node: model.view(0).ops[0].number})")
    assert HOSTILE in text_of(page, "#details")
    assert "<img src=x" in page.evaluate("document.title")


def zoo_page(name, folder, patch):
    """The page of a model of the zoo, at the zoo's size."""
    if importlib.util.find_spec("torchvision" if name == "resnet50" else "transformers") is None:
        pytest.skip("the package that builds the model is not installed")
    (folder / "zoo_for_page.py").write_text(f"import torch\nfrom bench import zoo\n\ndef net():\n"
                                            f"    return torch.export.export(*zoo.build({name!r}))\n")
    patch.chdir(folder)
    patch.syspath_prepend(str(ROOT))
    patch.delitem(sys.modules, "zoo_for_page", raising=False)
    return write(folder / f"{name}.html", "zoo_for_page:net")


@pytest.mark.parametrize("name, module", [("resnet50", "layer3.5"), ("bert", "encoder.layer.1.attention")])
def test_a_whole_network_opens_and_is_searched(view, tmp_path, monkeypatch, name, module):
    page = view(zoo_page(name, tmp_path, monkeypatch))
    assert page.evaluate("document.querySelectorAll('.row.group').length") > 2
    page.key("/")
    page.type(module)
    page.key("Enter")
    page.wait("document.querySelector('.row.selected')")
    assert module in text_of(page, "#details")
    rows = page.evaluate("graphView.layout.rows.length")
    page.evaluate("graphView.fold(false)")
    assert page.evaluate("graphView.layout.rows.length") < rows
    for pass_name in ("capture", "fuse:1"):
        page.click(f"[data-pass='{pass_name}']")
        page.wait(f"app.pass().id === '{pass_name}'")
        assert page.evaluate("graphView.layout.rows.length") > 5
    for width in (1280, 390):
        page.shape(width, 844)
        for tab in ("kernels", "timeline", "memory", "roofline", "graph"):
            page.click(f"#tab-{tab}")
            page.wait(f"document.body.dataset.tab === '{tab}'")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
