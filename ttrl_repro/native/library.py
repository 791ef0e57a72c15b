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
# The arithmetic is written for strict rules, and its functions are looked up by name.
LAST_FLAGS = ("-fno-fast-math", "-ffp-contract=fast", "-fvisibility=default")
PATIENCE = 60  # seconds for the compiler, which needs about 3

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

    _fields_ = [(name, pointer) for name in ("tokens", "starts", "cache", "cache_starts", "logits")]


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
            for name in (
                *("eos", "tokens", "logprobs", "entropies", "certainties"),
                *("lengths", "finished", "next", "done", "stop"),
            )
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


def compiler() -> list[str] | str:
    """The command of a C++ compiler: $CXX (arguments allowed), else c++ or g++ of the path; or what is missing."""
    asked = shlex.split(os.environ.get("CXX", ""))
    if asked:
        return asked if shutil.which(asked[0]) else f"$CXX names {asked[0]}, which is not on the path"
    for name in ("c++", "g++"):
        if shutil.which(name):
            return [name]
    return "no C++ compiler (c++, g++ or $CXX) was found"


def _cpu() -> str:
    """What -march=native depends on: code for one processor may be illegal on another that shares the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # not Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def cache_folder() -> Path:
    """Where compiled code is kept: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttrl-repro" / "native"


def _compiled(command: list[str], flags: tuple[str, ...], path: Path) -> str | None:
    """Compile to `path`; the compiler's complaint, if it has one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        result = subprocess.run(
            [*command, *flags, str(SOURCE), "-o", str(partial)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        if result.returncode:
            return (result.stderr.strip().splitlines() or ["no message"])[0]
        partial.replace(path)  # at once: several processes may be here
    return None


def _opened(path: Path) -> ctypes.CDLL:
    """The library at `path`, its functions declared. Raises OSError or AttributeError if it is not one of ours."""
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


def _built() -> ctypes.CDLL | str:
    command = compiler()
    if isinstance(command, str):
        return command
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    source = b"".join(path.read_bytes() for path in (SOURCE, *HEADERS))
    flags = (*FLAGS, *shlex.split(os.environ.get("TTRL_CXXFLAGS", "")), *LAST_FLAGS)
    names = (platform.machine(), _cpu(), version.stdout, *flags)
    path = cache_folder() / f"qwen3-{hashlib.sha256(source + chr(0).join(names).encode()).hexdigest()[:16]}.so"
    if path.is_file():
        try:
            return _opened(path)
        except (OSError, AttributeError):
            path.unlink()  # cut off by a full disk, say: it is made again
    try:
        complaint = _compiled(command, flags, path)
    except (PermissionError, FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        if isinstance(error, FileNotFoundError) and error.filename == command[0]:
            raise
        # The cache cannot be written: for this process alone, then.
        path = Path(tempfile.mkdtemp(prefix="ttrl-native-")) / path.name
        complaint = _compiled(command, flags, path)
    return f"{command[0]} could not compile it: {complaint}" if complaint else _opened(path)


@cache
def load() -> ctypes.CDLL | str:
    """The library, or why there is none on this machine."""
    if os.environ.get("TTRL_NATIVE") == "0":
        return "TTRL_NATIVE=0 is set"
    try:
        return _built()
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        return f"the native code could not be built ({type(error).__name__}: {error})"
