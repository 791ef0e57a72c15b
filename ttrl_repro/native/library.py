"""Compiling and loading the native code: once per machine, kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("qwen3.cpp")
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = (
    "-O3",
    "-march=native",
    "-std=gnu++17",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-ffp-contract=fast",
    "-fPIC",
    "-shared",
)
PATIENCE = 300  # seconds for the compiler, which needs about 3

pointer = ctypes.c_void_p
integer = ctypes.c_int64


class CLayer(ctypes.Structure):
    """Weights of one block; see `weights.pack`."""

    _fields_ = [
        (name, pointer)
        for name in ("qkv", "out", "gate_up", "down", "qkv_t", "out_t", "gate_up_t", "down_t", "q_norm", "k_norm")
    ]


class CModel(ctypes.Structure):
    """A model's sizes and weights."""

    _fields_ = [
        *(
            (name, integer)
            for name in (
                *("hidden", "hidden_real", "layers", "heads", "kv_heads", "dim"),
                *("qkv", "inner", "vocab", "vocab_real"),
            )
        ),
        ("layer", ctypes.POINTER(CLayer)),
        *((name, pointer) for name in ("embedding", "head", "head_t", "cosines", "sines")),
        ("eps", ctypes.c_float),
    ]


class CPrompts(ctypes.Structure):
    """Prompts, and the memory of what was computed for them."""

    _fields_ = [
        ("count", integer),
        *((name, pointer) for name in ("tokens", "starts", "cache", "cache_starts", "logits")),
    ]


class CSampler(ctypes.Structure):
    """A request for samples, and where they go."""

    _fields_ = [
        ("uniforms", pointer),
        *((name, integer) for name in ("uniforms_stride", "rows", "samples", "limit", "slots")),
        ("top_p", ctypes.c_double),
        ("temperature", ctypes.c_float),
        ("eos_count", integer),
        *(
            (name, pointer)
            for name in ("eos", "tokens", "logprobs", "entropies", "lengths", "finished", "next", "done", "stop")
        ),
    ]


class CBatch(ctypes.Structure):
    """One thread's part of the rows whose log-probabilities are wanted; see `logprobs`."""

    _fields_ = [
        *((name, integer) for name in ("tokens", "sequences", "rows", "targets")),
        *((name, pointer) for name in ("token", "position", "start", "length", "prompt", "row", "of_target", "target")),
        ("temperature", ctypes.c_float),
        *((name, pointer) for name in ("logprobs", "entropies", "memory", "scratch")),
        ("longest", integer),
    ]


class CLayerGradients(ctypes.Structure):
    """Where the gradients of one block's folded weights are added."""

    _fields_ = [(name, pointer) for name in ("qkv", "out", "gate_up", "down", "q_norm", "k_norm")]


class CGradients(ctypes.Structure):
    """Where the gradients of a model's folded weights are added."""

    _fields_ = [("layer", ctypes.POINTER(CLayerGradients)), ("embedding", pointer), ("head", pointer)]


def compiler() -> str | None:
    """The C++ compiler: $CXX, or c++ or g++ on the path; None if there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++"):
        if name and shutil.which(name):
            return name
    return None


def _cpu() -> str:
    """What -march=native depends on: code for one processor may be illegal on another that shares the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # not Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def cache_folder() -> Path:
    """Where compiled code is kept: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ttrl-repro" / "native"


@cache
def load() -> ctypes.CDLL | str:
    """The library, or why there is none on this machine."""
    if os.environ.get("TTRL_NATIVE") == "0":
        return "TTRL_NATIVE=0 is set"
    command = compiler()
    if command is None:
        return "no C++ compiler (c++, g++ or $CXX) was found"
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    source = b"".join(path.read_bytes() for path in (SOURCE, *HEADERS))
    flags = (*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")))
    names = (platform.machine(), _cpu(), version, *flags)
    key = hashlib.sha256(source + "\0".join(names).encode()).hexdigest()[:16]
    path = cache_folder() / f"qwen3-{key}.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = Path(folder) / path.name
            result = subprocess.run(
                [command, *flags, str(SOURCE), "-o", str(partial)],
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
            if result.returncode:
                first = (result.stderr.strip().splitlines() or ["no message"])[0]
                return f"{command} could not compile it: {first}"
            partial.replace(path)  # at once: several processes may be here
    library = ctypes.CDLL(str(path))
    for name, count in (
        ("panel_width", 0),
        ("vector_width", 0),
        ("row_bytes", 0),
        ("prompt_cache_floats", 2),
        ("sampler_floats", 4),
        ("memory_floats", 3),
        ("scratch_floats_of", 3),
    ):
        function = getattr(library, name)
        function.restype = integer
        function.argtypes = [ctypes.POINTER(CModel), *[integer] * (count - 1)] if count else []
    return library
