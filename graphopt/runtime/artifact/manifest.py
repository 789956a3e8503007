"""What an artifact's manifest says, checked field by field: types, ranges, and that its parts agree with each other."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# Bytes of an element by numpy's and ml_dtypes' names.
ITEMSIZES = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
             "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16, "int4": 1, "uint4": 1,
             "int2": 1, "uint2": 1, "float4_e2m1fn": 1, "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1,
             "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1}
MOST_BYTES = 1 << 46  # of anything: what an address can reach
MOST_DIMS = 64
MOST_THREADS = 4096
DEEPEST = 64  # nesting of a call's structure
PROJECT = "graphopt-project"  # the format of a folder of sources for another kind of target

Shapes = tuple[tuple[int, ...], ...]


class Damaged(ValueError):
    """A field that is not what it should be; the text begins with its name."""


class Program(NamedTuple):
    """A program of an artifact: where it is, how it is entered, and what it takes and gives."""

    target: str
    features: tuple[str, ...]  # that it needs, by LLVM's names
    code: str
    weights: str
    entry: str
    threads: int
    arena: int
    inputs: Shapes
    outputs: tuple[tuple[tuple[int, ...], str], ...]  # shape, and numpy's or ml_dtypes' name of the dtype
    values: Mapping[str, bytes]  # of the inputs whose values shape it: the elements, row-major and little-endian
    said: Mapping[str, Any]  # of it in the manifest: stats, decisions, tuning


def parse(text: bytes) -> dict[str, Any]:
    """The object that the text is, in UTF-8 and without a key twice. Damaged where it is none."""
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number)
    except (UnicodeDecodeError, RecursionError, ValueError) as e:
        raise Damaged(str(e)) from e
    return _dict(found, "it")


def format_of(m: Mapping[str, Any]) -> tuple[int, int]:
    """Major and minor number."""
    pair = _list(_of(m, "format"), "format")
    if len(pair) != 2:
        raise Damaged("format is not a pair of numbers")
    return _count(pair[0], "format[0]"), _count(pair[1], "format[1]")


def files_of(m: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Size and digest of every file by its name, which is not checked here."""
    found = {}
    for name, said in _dict(_of(m, "files"), "files").items():
        where = f"files[{name!r}]"
        digest = _text(_of(_dict(said, where), "sha256", where), f"{where}.sha256")
        if re.fullmatch("[0-9a-f]{64}", digest) is None:
            raise Damaged(f"{where}.sha256 is no SHA-256")
        found[name] = _count(_of(said, "bytes", where), f"{where}.bytes"), digest
    return found


def programs_of(m: Mapping[str, Any]) -> list[Program]:
    """All programs, once the whole manifest is found to agree with itself."""
    _text(_of(m, "runtime"), "runtime")
    inputs, outputs = _tensors(m, "inputs"), _tensors(m, "outputs")
    control = [_text(n, f"control_inputs[{k}]") for k, n in enumerate(_list(m.get("control_inputs", []), "control_inputs"))]
    for name in control:
        if control.count(name) > 1 or name not in [s["name"] for s in inputs]:
            raise Damaged(f"control_inputs: {name!r} is given twice, or is no input")
    _check_ranges(m.get("ranges", {}))
    if "call" in m:
        _check_call(m["call"], len(inputs), len(outputs))
    listed = _list(_of(m, "programs"), "programs")
    if not listed:
        raise Damaged("programs: there is none")
    return [_program(m, p, f"programs[{k}]", inputs, outputs, control) for k, p in enumerate(listed)]


def check_digests(m: Mapping[str, Any], programs: Sequence[Program]) -> None:
    """What is said of each of these programs is what was saved. All files must be listed."""
    for p in programs:
        if "digest" in p.said and p.said["digest"] != program_digest(m, p.said):
            raise Damaged(f"programs[{m['programs'].index(p.said)}].digest is not that of what is said of the program: it was "
                          "changed since it was saved")


def program_digest(m: Mapping[str, Any], p: Mapping[str, Any]) -> str:
    """SHA-256 of what must be just so for a program's code to run in its own memory. model.c takes it, too."""
    dims = lambda shape: "".join(f" {n}" for n in shape)
    values = p.get("values", {})
    lines = [f"target {p['target']}", f"features{''.join(f' {f}' for f in p['features'])}", f"entry {p['entry']}",
             f"threads {p['threads']}", f"arena {p['arena']}",
             *(f"{k} {m['files'][p[k]]['sha256']}" for k in ("code", "weights")),
             *(f"input {s['numpy']}{dims(shape)}" for s, shape in zip(m["inputs"], p["inputs"])),
             *(f"output {o['numpy']}{dims(o['shape'])}" for o in p["outputs"]),
             *(f"value {values[s['name']]}" for s in m["inputs"] if s["name"] in values)]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


# Parts ------------------------------------------------------------------------------------------
def _tensors(m: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    found = _list(_of(m, kind), kind)
    names = set()
    for k, s in enumerate(found):
        where = f"{kind}[{k}]"
        name = _text(_of(_dict(s, where), "name", where), f"{where}.name")
        if name in names:
            raise Damaged(f"{where}.name: {name!r} is there twice")
        names.add(name)
        _text(_of(s, "dtype", where), f"{where}.dtype")
        _dtype(_of(s, "numpy", where), f"{where}.numpy")
        for i, d in enumerate(_dims(_of(s, "shape", where), f"{where}.shape")):
            if not isinstance(d, str):
                _count(d, f"{where}.shape[{i}]")
            else:
                _text(d, f"{where}.shape[{i}]")
    return found


def _dims(shape: Any, where: str) -> list[Any]:
    dims = [] if shape is None else _list(shape, where)
    if len(dims) > MOST_DIMS:
        raise Damaged(f"{where} has {len(dims)} dims")
    return dims


def _check_ranges(ranges: Any) -> None:
    for name, pair in _dict(ranges, "ranges").items():
        where = f"ranges[{name!r}]"
        if len(_list(pair, where)) != 2:
            raise Damaged(f"{where} is not a pair")
        low, high = (None if n is None else _count(n, where) for n in pair)
        if low is not None and high is not None and low > high:
            raise Damaged(f"{where} is empty: {low} to {high}")


def _program(m: Mapping[str, Any], p: Any, where: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]],
             control: Sequence[str]) -> Program:
    _dict(p, where)
    target, code, weights, entry = (_text(_of(p, k, where), f"{where}.{k}") for k in ("target", "code", "weights", "entry"))
    if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", entry) is None:
        raise Damaged(f"{where}.entry: {entry!r} is no function")
    listed = _list(_of(p, "features", where), f"{where}.features")
    features = tuple(_text(f, f"{where}.features[{k}]") for k, f in enumerate(listed))
    threads = _count(_of(p, "threads", where), f"{where}.threads", MOST_THREADS)
    arena = _count(_of(p, "arena", where), f"{where}.arena")
    if threads < 1:
        raise Damaged(f"{where}.threads is 0")
    taken = _list(_of(p, "inputs", where), f"{where}.inputs")
    given = _list(_of(p, "outputs", where), f"{where}.outputs")
    if (len(taken), len(given)) != (len(inputs), len(outputs)):
        raise Damaged(f"{where} has {len(taken)} inputs and {len(given)} outputs, and the model {len(inputs)} and {len(outputs)}")
    shapes = tuple(_shape(s, d["numpy"], f"{where}.inputs[{k}]") for k, (s, d) in enumerate(zip(taken, inputs)))
    _check_case(shapes, inputs, where)
    results = []
    for k, (o, declared) in enumerate(zip(given, outputs)):
        at = f"{where}.outputs[{k}]"
        dtype = _dtype(_of(_dict(o, at), "numpy", at), f"{at}.numpy")
        if dtype != declared["numpy"]:
            raise Damaged(f"{at}.numpy is {dtype}, and outputs[{k}].numpy {declared['numpy']}")
        results.append((_shape(_of(o, "shape", at), dtype, f"{at}.shape"), dtype))
    values = _values(p.get("values", {}), where, inputs, shapes, control)
    stats = _dict(p.get("stats", {}), f"{where}.stats")
    if stats.get("arena_bytes", arena) != arena:
        raise Damaged(f"{where}.arena is {arena}, and {where}.stats.arena_bytes {stats['arena_bytes']!r}")
    return Program(target, features, code, weights, entry, threads, arena, shapes, tuple(results), values, p)


def _check_case(shapes: Shapes, inputs: Sequence[Mapping[str, Any]], where: str) -> None:
    """A program's inputs are such as the model declares, and each named dim has one size."""
    sizes: dict[str, int] = {}
    for k, (shape, s) in enumerate(zip(shapes, inputs)):
        dims = shape if s["shape"] is None else s["shape"]
        if len(dims) != len(shape) or any(isinstance(d, int) and d != n for d, n in zip(dims, shape)):
            raise Damaged(f"{where}.inputs[{k}] is {list(shape)}, and inputs[{k}].shape {list(dims)}")
        for d, n in zip(dims, shape):
            if isinstance(d, str) and d.isidentifier() and sizes.setdefault(d, n) != n:
                raise Damaged(f"{where}.inputs[{k}] is {list(shape)}, but dim {d} is {sizes[d]}")


def _values(given: Any, where: str, inputs: Sequence[Mapping[str, Any]], shapes: Shapes,
            control: Sequence[str]) -> dict[str, bytes]:
    values = {}
    for name, data in _dict(given, f"{where}.values").items():
        at = f"{where}.values[{name!r}]"
        if name not in control:
            raise Damaged(f"{at}: control_inputs does not name it")
        if re.fullmatch("([0-9a-f]{2})*", _text(data, at, empty=True)) is None:
            raise Damaged(f"{at} is not hexadecimal")
        values[name] = bytes.fromhex(data)
    for s, shape in zip(inputs, shapes):
        if s["name"] in control and len(values.get(s["name"], b"")) != math.prod(shape) * ITEMSIZES[s["numpy"]]:
            raise Damaged(f"{where}.values does not say for which value of {s['name']} it is")
    return values


def _check_call(call: Any, inputs: int, outputs: int) -> None:
    """The structure of arguments and results has a place for every input and output."""
    _dict(call, "call")
    leaves, names = 0, set()
    for k, pair in enumerate(_list(_of(call, "arguments", "call"), "call.arguments")):
        where = f"call.arguments[{k}]"
        if len(_list(pair, where)) != 2 or _text(pair[0], f"{where}[0]") in names:
            raise Damaged(f"{where} is no pair, or its name is there twice")
        names.add(pair[0])
        leaves += sum(1 for _ in _leaves(pair[1], f"{where}[1]"))
    for k, name in enumerate(_list(_of(call, "parameters", "call"), "call.parameters")):
        _text(name, f"call.parameters[{k}]")
    results = sum(1 for _ in _leaves(_of(call, "result", "call"), "call.result"))
    if (leaves, results) != (inputs, outputs):
        raise Damaged(f"call has {leaves} inputs and {results} outputs, and the model {inputs} and {outputs}")


def _leaves(node: Any, where: str, depth: int = 0) -> Iterator[str]:
    """The tensors and numbers of a structure."""
    if depth > DEEPEST:
        raise Damaged(f"{where} is nested too deep")
    if isinstance(node, str):
        if node not in ("tensor", "number"):
            raise Damaged(f"{where} is {node!r}")
        yield node
    elif "constant" in _dict(node, where):
        if not isinstance(node["constant"], (type(None), bool, int, float, str)):
            raise Damaged(f"{where}.constant is no plain value")
    else:
        kind = _of(node, "kind", where)
        if kind not in ("tuple", "list", "dict", "object"):
            raise Damaged(f"{where}.kind is {kind!r}")
        children = _list(_of(node, "children", where), f"{where}.children")
        keys = _list(_of(node, "keys", where) if kind in ("dict", "object") else node.get("keys", []), f"{where}.keys")
        plain = (str,) if kind == "object" else (str, int, float, bool, type(None))
        if not all(isinstance(k, plain) for k in keys) or (keys and len(keys) != len(children)) or len(set(keys)) != len(keys):
            raise Damaged(f"{where}.keys do not name its children")
        if kind in ("dict", "object") and len(keys) != len(children):
            raise Damaged(f"{where}.keys do not name its children")
        if kind == "object":
            _text(_of(node, "name", where), f"{where}.name")
        for k, child in enumerate(children):
            yield from _leaves(child, f"{where}.children[{k}]", depth + 1)


# Fields -----------------------------------------------------------------------------------------
def _of(m: Mapping[str, Any], key: str, where: str = "") -> Any:
    if key not in m:
        raise Damaged(f"{where}{'.' if where else ''}{key} is missing")
    return m[key]


def _dict(x: Any, where: str) -> dict[str, Any]:
    if not isinstance(x, dict):
        raise Damaged(f"{where} is no object")
    return x


def _list(x: Any, where: str) -> list[Any]:
    if not isinstance(x, list):
        raise Damaged(f"{where} is no list")
    return x


def _text(x: Any, where: str, empty: bool = False) -> str:
    if not isinstance(x, str) or not (x or empty) or "\0" in x:
        raise Damaged(f"{where} is no text")
    return x


def _count(x: Any, where: str, most: int = MOST_BYTES) -> int:
    if not isinstance(x, int) or isinstance(x, bool) or not 0 <= x <= most:
        shown = repr(x) if not isinstance(x, (dict, list)) else "no number"
        raise Damaged(f"{where} is {shown[:40]}, not a count from 0 to {most}")
    return x


def _dtype(name: Any, where: str) -> str:
    if not isinstance(name, str) or name not in ITEMSIZES:
        raise Damaged(f"{where}: {str(name)[:40]!r} is no dtype")
    return name


def _shape(given: Any, dtype: str, where: str) -> tuple[int, ...]:
    """Sizes that an address can reach."""
    shape = tuple(_count(n, f"{where}[{k}]") for k, n in enumerate(_dims(_list(given, where), where)))
    if math.prod(n for n in shape if n) * ITEMSIZES[dtype] > MOST_BYTES:
        raise Damaged(f"{where} is too large: {list(shape)}")
    return shape


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    for key in made:
        key.encode()  # half of a surrogate pair is no text
    return {k: _encodable(v) for k, v in made.items()}


def _encodable(x: Any) -> Any:
    if isinstance(x, str):
        x.encode()
    elif isinstance(x, list):
        for inner in x:
            _encodable(inner)
    return x


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


__all__ = ["ITEMSIZES", "MOST_THREADS", "PROJECT", "Damaged", "Program", "Shapes", "check_digests", "files_of", "format_of",
           "parse", "program_digest", "programs_of"]
