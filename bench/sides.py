"""The sides of a comparison: graphopt and its peers, each opened in its best configuration for a given number of threads.

onnxruntime and OpenVINO read the case's ONNX file and run on buffers bound once; Inductor takes the PyTorch module and
freezes it, which packs its weights (torch 2.13 on resnet50: half of the time without).
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import Case, tensors

PEERS = ("onnxruntime", "openvino", "inductor")
OURS = "graphopt"
_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "inductor": "torch"}


@dataclass(frozen=True)
class Side:
    """`call` runs once on the case's inputs; `outputs` gives what a call made, in the order of the model's outputs."""

    call: Callable[[], Any]
    outputs: Callable[[Any], list[np.ndarray]]
    model: Any


def missing(peer: str) -> str:
    """Why a peer cannot run here, and what to install; empty where it can."""
    package = _PACKAGES[peer]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed: pip install 'graphopt[bench]'" if package != "torch" else \
            "torch is not installed: pip install 'graphopt[torch]'"
    if peer == "inductor" and not any(shutil.which(c) for c in ("g++", "clang++", "c++")):
        return "there is no C++ compiler, which Inductor needs: install g++"
    return ""


def load_packages(name: str, compiling: bool) -> None:
    """Import what a side needs, so that its compile time does not count the import. `compiling`: nothing is in its cache, and
    graphopt will need TVM, which it does not import where its programs are there."""
    if name == OURS:
        import graphopt.compiler
        if compiling:
            import graphopt.codegen.x86.build  # noqa: F401
    elif name == "inductor":
        import torch._inductor.compile_fx  # noqa: F401
    else:
        importlib.import_module(name)


def open_side(name: str, case: Case, threads: int, cache: Path | None) -> Side:
    """Compile the case for one side. `cache` is a folder of compiled code for the side that is told of it when it is opened;
    the others read $GRAPHOPT_CACHE and $TORCHINDUCTOR_CACHE_DIR."""
    opening: dict[str, Callable[[Case, int, Path | None], Side]] = {
        OURS: _graphopt, "onnxruntime": _onnxruntime, "openvino": _openvino, "inductor": _inductor}
    return opening[name](case, threads, cache)


def _graphopt(case: Case, threads: int, cache: Path | None) -> Side:
    import graphopt

    model = graphopt.compile(str(case.onnx), threads=threads)
    given = case.inputs()
    arrays = [given[s.name] for s in model.inputs]
    return Side(lambda: model(*arrays), lambda result: list(result) if isinstance(result, tuple) else [result], model)


def _onnxruntime(case: Case, threads: int, cache: Path | None) -> Side:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(case.onnx), options, providers=["CPUExecutionProvider"])
    given = case.inputs()
    made = session.run(None, given)
    bound = session.io_binding()
    for name, x in given.items():
        bound.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    places = [onnxruntime.OrtValue.ortvalue_from_numpy(y) for y in made]
    for o, place in zip(session.get_outputs(), places):
        bound.bind_ortvalue_output(o.name, place)
    return Side(lambda: session.run_with_iobinding(bound), lambda _: [p.numpy() for p in places], session)


def _openvino(case: Case, threads: int, cache: Path | None) -> Side:
    import openvino

    core = openvino.Core()
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if cache is not None:
        config["CACHE_DIR"] = str(cache)
    model = core.compile_model(str(case.onnx), "CPU", config)
    request = model.create_infer_request()
    given = case.inputs()
    held = [openvino.Tensor(given[p.get_any_name()], shared_memory=True) for p in model.inputs]
    for p, tensor in zip(model.inputs, held):
        request.set_tensor(p, tensor)
    read = lambda _: [request.get_tensor(p).data.copy() for p in model.outputs]
    return Side(lambda: request.infer(share_outputs=True), read, (model, held))


def _inductor(case: Case, threads: int, cache: Path | None) -> Side:
    import torch
    import torch._inductor.config as config

    from bench.models import build

    if not case.model:
        raise ValueError("takes PyTorch modules, not ONNX files")
    torch.set_num_threads(threads)
    config.freezing = True
    torch.set_grad_enabled(False)
    module, args, kwargs = build(case.model, case.batch)
    compiled = torch.compile(module, dynamic=False)
    return Side(lambda: compiled(*args, **kwargs), lambda result: [t.numpy() for t in tensors(result)], compiled)


def check(case: Case, side: Side) -> tuple[bool, str]:
    """One call, compared with the case's reference: (equal, the largest error relative to the largest element)."""
    return case.check(side.outputs(side.call()))
