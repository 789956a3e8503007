"""The house's rules about who imports whom, read off the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "graphopt").rglob("*.py"))
MODULES = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}

# What each part may import of graphopt, besides itself and errors.
MAY_IMPORT = {
    "ir": set(),
    "targets": {"ir", "runtime"},
    "rewrite": {"ir", "targets"},
    "quantize": {"ir", "targets", "rewrite"},
    "codegen": {"ir", "targets"},
    "capture": {"ir", "runtime"},
    "runtime": set(),
}
# Who may import the frameworks, anywhere in a file. torch_backend is torch's own interfaces (torch.compile, nn.Module) on top of
# the compiler, as onnx_backend is onnx's; nothing imports it but a user, or torch through its entry point.
FRAMEWORKS = {"torch": ("capture", "torch_backend"), "torchvision": (), "transformers": (), "onnx": ("capture", "onnx_backend"),
              "onnxruntime": (), "openvino": ()}


def imports(file: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, at module level) of every import that runs; those for the type checker alone are left out."""
    tree = ast.parse(file.read_text())
    typing_only = {inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                   for inner in ast.walk(node)}
    top = set(tree.body)
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node in top
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) - node.level + 1]) + "." if node.level else ""
            for alias in node.names:  # what is imported may be a module of that package, or a name in it
                inner = f"{base}{node.module or ''}.{alias.name}".replace("..", ".")
                yield inner if inner in MODULES else base + (node.module or ""), node.lineno, node in top


def part(file: Path) -> str:
    return file.relative_to(ROOT / "graphopt").with_suffix("").parts[0]


BASE = {"bounds", "errors", "ownership", "replacing", "store"}  # what every part may import


def test_imports_go_one_way():
    wrong = []
    for file in FILES:
        allowed = MAY_IMPORT.get(part(file))
        if allowed is None:
            continue
        for module, line, _ in imports(file):
            of = module.split(".")
            if of[0] == "graphopt" and len(of) > 1 and of[1] not in allowed | BASE | {part(file)}:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_frameworks_are_imported_by_captures_and_backends_only():
    wrong = [f"{file.relative_to(ROOT)}:{line} imports {module}" for file in FILES for module, line, _ in imports(file)
             if part(file) not in FRAMEWORKS.get(module.split(".")[0], (part(file),))]
    assert not wrong, "\n".join(wrong)


def test_no_two_files_import_each_other():
    import networkx

    graph = networkx.DiGraph()
    for name, file in MODULES.items():
        graph.add_edges_from((name, module) for module, _, top in imports(file)
                             if top and module in MODULES and module != name)
    loops = [c for c in networkx.strongly_connected_components(graph) if len(c) > 1]
    assert not loops, f"import cycles: {loops}"


@pytest.mark.parametrize("module, without", [
    ("graphopt", ("torch", "onnx", "tvm", "tvm_ffi", "networkx", "scipy")),
    ("graphopt.compiler", ("torch", "onnx", "tvm", "tvm_ffi", "networkx", "scipy", "graphopt.ir", "graphopt.codegen")),
    ("graphopt.cli.dump", ("torch", "onnx", "tvm", "tvm_ffi", "networkx", "scipy")),
    ("graphopt.ir", ("torch", "onnx", "tvm", "tvm_ffi", "networkx", "scipy")),
    ("graphopt.runtime", ("torch", "onnx", "tvm", "networkx", "scipy", "graphopt.ir", "graphopt.codegen")),
])
def test_importing_is_cheap(module, without):
    code = f"import sys, {module}; print(*[m for m in {without!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == [], f"import {module} imports {done.stdout}"
