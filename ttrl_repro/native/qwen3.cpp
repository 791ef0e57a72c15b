// Sampling and log-probabilities (with gradients) of small Qwen3-architecture models on a CPU, in fp32.
//
// What it does that a general library does not: a row (a completion being sampled, a token being trained)
// stays in one core's cache for a whole layer; prompts are computed once and shared by their completions;
// nothing is padded; the place of a finished completion is taken by the next one at once.
//
// Every row's arithmetic has one order, whatever other rows are computed beside it and on however many
// threads: samples do not depend on the batch. Threads are the caller's (each call works on its own data).
//
// Matrices are row-major. All widths come padded to multiples of panel_width(), pads being zero. A weight
// W (out, in) is stored as panels (out / NR, in, NR) for x @ W.T, and as (in / NR, out, NR) for y @ W.
// Norm weights are folded into the matrix behind them by the caller.

#include "logprobs.h"
#include "sampling.h"

extern "C" {

int64_t panel_width() { return NR; }
int64_t vector_width() { return W; }
int64_t prompt_cache_floats(const Model* m, int64_t positions) { return cache_size(*m, positions); }
int64_t sampler_floats(const Model* m, int64_t slots, int64_t limit, int64_t positions) {
  return slots * cache_size(*m, limit) + scratch_floats(*m, slots, positions + m->vocab);
}

int64_t row_bytes() { return sizeof(Row); }

void read_prompts_of(const Model* m, const Prompts* prompts, int64_t first, int64_t last, int64_t longest, float* memory,
                     Row* rows) {
  read_prompts(*m, *prompts, first, last, longest, memory, rows);
}

// Several threads may share one Sampler, each with its own memory, rows and of_row.
void sample_rows(const Model* m, const Prompts* prompts, const Sampler* sampler, float* memory, Row* rows,
                 int64_t* of_row, int64_t longest) {
  sample(*m, *prompts, *sampler, memory, rows, of_row, longest);
}

int64_t memory_floats(const Model* m, int64_t tokens, int64_t rows) {
  return m->layers * kept_floats(*m, tokens) + rows * (m->hidden + W + m->vocab + 1);
}

int64_t scratch_floats_of(const Model* model, int64_t tokens, int64_t longest) {
  const Model& m = *model;
  const Strides s = strides(m);
  return tokens * (s.H + s.Q + s.A + 1) + BLOCK * (s.I + s.G + s.H + m.vocab) + 4 * longest + 8 * W +
         2 * transposed_floats(m, longest);
}

void logprobs_forward(const Model* m, const Batch* b) { forward(*m, *b); }

void logprobs_backward(const Model* m, const Batch* b, const float* gradient, const Gradients* g) {
  backward(*m, *b, gradient, *g);
}

}  // extern "C"
