"""What is measured on, and with what: the machine, the versions, and where the bench keeps its files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.runtime.host.machine import caches

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PACKAGES = ("graphopt", "numpy", "apache-tvm", "onnx", "onnxruntime", "openvino", "torch", "torchvision", "transformers")


def cache_folder() -> Path:
    """Where exported models and compiled peers are kept: $GRAPHOPT_BENCH_CACHE, else ~/.cache/graphopt-bench."""
    setting = os.environ.get("GRAPHOPT_BENCH_CACHE")
    return Path(setting) if setting else Path.home() / ".cache" / "graphopt-bench"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, Any]:
    """The machine and the software, for the head of every result."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    compiler = shutil.which("cc")
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines() if compiler else []
    return {"cpu": cpu_name(), "cores": cores(), "caches": caches(),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(), "versions": versions,
            "cc": said[0] if said else "none", "commit": commit(), "compiler": compiler_digest(), "date": now()}


@cache
def cpu_name() -> str:
    """The model name with family, model and stepping: virtual machines give many CPUs the same name."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    wide = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if f in facts.get("flags", "").split()]
    return (f"{facts.get('model name', 'unknown')}, family {facts.get('cpu family', '?')} model {facts.get('model', '?')} "
            f"stepping {facts.get('stepping', '?')}, {' '.join(wide) or 'no avx2'}")


def summary(machine: dict[str, Any]) -> str:
    """The description in a few lines."""
    sizes = ", ".join(f"{k.upper()} {v >> 10} KiB" for k, v in machine["caches"].items())
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if k != "graphopt")
    return (f"{machine['cpu']}; {machine['cores']} cores; {sizes}; {machine['memory'] / 2**30:.0f} GiB\n"
            f"{machine['system']}, Python {machine['python']}, {machine['cc']}\n{versions}\n"
            f"graphopt at {machine['commit']}, compiler {machine['compiler']}; {machine['date']}")


def commit() -> str:
    """The checked-out commit, `+` where tracked files differ from it; `unknown` outside of a checkout."""
    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)

    try:
        head = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except FileNotFoundError:
        return "unknown"
    return "unknown" if head.returncode else head.stdout.strip() + ("+" if changed else "")


@cache
def compiler_digest() -> str:
    """Names the compiler that was measured: a hash of graphopt's sources."""
    return digest(*sorted((ROOT / "graphopt").rglob("*.py")))


def digest(*paths: Path, text: str = "") -> str:
    """Twelve digits that name the contents of files and a text."""
    h = hashlib.sha256(text.encode())
    for path in paths:
        with path.open("rb") as f:
            h.update(hashlib.file_digest(f, "sha256").digest())
    return h.hexdigest()[:12]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def write_json(path: Path, value: Any) -> None:
    """Written beside and renamed: never half."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as f:
        f.write(text)
    os.chmod(f.name, 0o644)
    os.replace(f.name, path)
