import subprocess
import sys

import pytest


def pages_given_back(before):
    """Of a 256 MiB block that is freed: whether the process shrank by most of it."""
    script = (
        f"{before}\n"
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "block = libc.malloc(2**28)\n"
        "ctypes.memset(block, 1, 2**28)\n"
        "full = resident()\n"
        "libc.free(block)\n"
        "print(full - resident() > 2**27)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return result.stdout.strip() == "True"


def test_freed_memory_is_kept():
    if not sys.platform.startswith("linux"):
        pytest.skip("glibc's malloc is Linux's")
    assert pages_given_back("")  # what the C library does by itself
    assert not pages_given_back("from ttrl_repro.startup import keep_freed_memory; keep_freed_memory()")
    kept = "import os; os.environ['MALLOC_MMAP_THRESHOLD_'] = '4096'\n"
    assert pages_given_back(f"{kept}from ttrl_repro.startup import keep_freed_memory; keep_freed_memory()")
