"""Native code for small Qwen3-architecture models on a CPU: sampling, log-probabilities and their gradient.

qwen3.cpp and its headers hold the arithmetic, for GCC or Clang; library.py compiles it at first use and loads
it; weights.py lays a model's weights out for it; logprobs.py and rollouts/native_decoder.py call it. Where there
is no compiler everything works without it, several times slower (`support`).
"""
