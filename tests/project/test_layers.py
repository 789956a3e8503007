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

# The rooms from the lowest up: each may import those above it in this list, late imports counted. What stands in braces has rooms
# that know nothing of each other.
ROOMS = [
    {"errors", "version", "moved"},
    {"cache"},
    {"runtime"},
    {"ir"},
    {"capture", "targets"},
    {"rewrite", "quantize", "codegen.kernel"},
    {"codegen.lower", "codegen.c"},
    {"codegen.program"},
    {"codegen.x86", "codegen.cuda", "codegen.hls"},
    {"ship"},
    {"measure"},
    {"backends"},
    {"compiler"},
    {"diagnose", "interop"},
    {"cli"},
]
LEVEL = {room: k for k, rooms in enumerate(ROOMS) for room in rooms}
# Who may import the frameworks, anywhere in a file. interop is the interfaces of torch itself (torch.compile, nn.Module) and of
# onnx on top of the compiler; nothing imports it but a user, or torch through its entry point.
FRAMEWORKS = {"torch": ("capture", "interop"), "torchvision": (), "transformers": (), "onnx": ("capture", "interop"),
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


def room(module: str) -> str | None:
    """The room that a module stands in, None for the package itself and for what is not ours."""
    parts = module.split(".")
    if parts[0] != "graphopt" or len(parts) == 1:
        return None
    return ".".join(parts[1:3]) if parts[1] == "codegen" else parts[1]


def test_imports_go_one_way():
    wrong = []
    for name, file in MODULES.items():
        own = room(name)
        if own is None or own == "codegen":
            continue
        for module, line, _ in imports(file):
            of = room(module)
            if of is not None and of != own and LEVEL[of] >= LEVEL[own]:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_the_public_face_imports_what_is_cheap_only():
    assert {module for module, _, _ in imports(ROOT / "graphopt" / "__init__.py") if room(module)} == \
        {"graphopt.errors", "graphopt.moved", "graphopt.version"}


def test_frameworks_are_imported_by_captures_and_backends_only():
    wrong = [f"{file.relative_to(ROOT)}:{line} imports {module}" for file in FILES for module, line, _ in imports(file)
             if part(file) not in FRAMEWORKS.get(module.split(".")[0], (part(file),))]
    assert not wrong, "\n".join(wrong)


def test_no_two_files_import_each_other_however_late():
    import networkx

    graph = networkx.DiGraph()
    for name, file in MODULES.items():
        graph.add_edges_from((name, module) for module, _, _ in imports(file) if module in MODULES and module != name)
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
