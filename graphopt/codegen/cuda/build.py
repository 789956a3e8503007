"""CUDA C++ to a cubin, without a GPU: by nvcc where it is installed, else by NVRTC.

Neither may contract a product and a sum into one rounding (`fmad`): where that is meant, the source says fmaf.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import shutil
import tempfile
from pathlib import Path

from graphopt.codegen.c.host import run
from graphopt.errors import CodegenError, TargetError

log = logging.getLogger("graphopt")
NVRTC = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def cubin(source: str, arch: str) -> bytes:
    """Machine code for `arch`. TargetError where neither nvcc nor NVRTC is found, CodegenError where they refuse the code."""
    if shutil.which("nvcc"):
        return _nvcc(source, arch)
    library = _nvrtc_library()
    if library is None:
        raise TargetError("neither nvcc nor NVRTC was found, so no machine code can be made",
                          hint="Install the CUDA toolkit, or the nvidia-cuda-nvrtc package; the source needs neither")
    return _nvrtc(library, source, arch)


def available() -> bool:
    """Whether `cubin` can work here."""
    return shutil.which("nvcc") is not None or _nvrtc_library() is not None


def _nvcc(source: str, arch: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        folder = Path(scratch)
        (folder / "kernels.cu").write_text(source, encoding="utf-8")
        flags = ["-std=c++17", "-O3", "-fmad=false", f"-arch={arch}", "-cubin"]
        run(["nvcc", *flags, "-o", "kernels.cubin", "kernels.cu"], folder, "nvcc")
        return (folder / "kernels.cubin").read_bytes()


def _nvrtc_library() -> ctypes.CDLL | None:
    """NVRTC from the loader's path, or from NVIDIA's Python packages."""
    import importlib.util

    names = [*NVRTC, ctypes.util.find_library("nvrtc")]
    for package in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for root in (spec.submodule_search_locations or ()) if spec else ():
            names += sorted(str(p) for p in Path(root, "lib").glob("libnvrtc.so.*"))
    for name in filter(None, names):
        try:
            return ctypes.CDLL(name)
        except OSError as e:
            log.debug("%s: %s", name, e)
    return None


def _nvrtc(library: ctypes.CDLL, source: str, arch: str, what: str = "CUBIN") -> bytes:
    """What NVRTC makes of the source: a CUBIN or PTX."""
    library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(status: int, what: str) -> None:
        if status:
            raise CodegenError(f"{what}: {library.nvrtcGetErrorString(status).decode()}", where="NVRTC")

    program = ctypes.c_void_p()
    text = source.encode()
    check(library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None), "creating the program")
    try:
        options = (ctypes.c_char_p * 3)(f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--fmad=false")
        if library.nvrtcCompileProgram(program, len(options), options):
            size = ctypes.c_size_t()
            check(library.nvrtcGetProgramLogSize(program, ctypes.byref(size)), "reading the log")
            said = ctypes.create_string_buffer(size.value)
            check(library.nvrtcGetProgramLog(program, said), "reading the log")
            raise CodegenError(f"the kernels do not compile:\n{said.value.decode(errors='replace')}", where="NVRTC")
        size = ctypes.c_size_t()
        check(getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), "reading the code")
        code = ctypes.create_string_buffer(size.value)
        check(getattr(library, f"nvrtcGet{what}")(program, code), "reading the code")
        return code.raw[:size.value]
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


__all__ = ["available", "cubin"]
