// Sampling: rows decoded together, each with a cache of its own behind its prompt's.
#pragma once

#include "model.h"

struct Prompts {
  const int64_t *tokens, *starts;  // concatenated; (count + 1,)
  float* cache;                    // keys and values of every prompt
  const int64_t* cache_starts;     // (count,), in floats
  float* logits;                   // (count, vocab) after each prompt
};

struct Sampler {
  const double* uniforms;  // (rows, uniforms_stride), the row of sample i of question q is q * samples + i
  int64_t uniforms_stride, rows, samples, limit, slots;
  double top_p;
  float temperature;  // 0: greedy
  int64_t eos_count;
  const int64_t* eos;
  int64_t* tokens;                            // (rows, limit)
  float *logprobs, *entropies, *certainties;  // (rows, limit)
  int64_t* lengths;                           // (rows,)
  uint8_t* finished;                          // (rows,)
  int64_t *next, *done, *stop;  // shared by the threads: next row to start, rows done, whether to give up
};

// Floats that one (layer, key/value head) of `positions` takes: keys, then values.
static inline int64_t keys_size(const Model& m, int64_t positions) { return blocks(positions) * W * m.dim; }
static inline int64_t head_size(const Model& m, int64_t positions) { return keys_size(m, positions) + positions * m.dim; }
static inline int64_t cache_size(const Model& m, int64_t positions) {
  return m.layers * m.kv_heads * head_size(m, positions);
}

struct Row {
  int64_t token, position, own;  // own: tokens in its own cache
  const float* prompt;           // the prompt's cache, or null while the prompt is read
  int64_t prompt_length, cache_positions;
  float* cache;
};

struct Scratch {
  float *x, *h, *qkv, *attended, *gate_up, *acted, *logits, *scores, *sorted;
};

static int64_t scratch_floats(const Model& m, int64_t rows, int64_t positions) {
  return rows * (2 * m.hidden + m.qkv + m.heads * m.dim + 3 * m.inner + m.vocab + 7 * W) + positions + 4 * W +
         2 * m.vocab + NR;
}

static Scratch carve(const Model& m, int64_t rows, int64_t positions, float* at) {
  Scratch s;
  s.x = at, at += rows * (m.hidden + W);
  s.h = at, at += rows * (m.hidden + W);
  s.qkv = at, at += rows * (m.qkv + W);
  s.attended = at, at += rows * (m.heads * m.dim + W);
  s.gate_up = at, at += rows * (2 * m.inner + W);
  s.acted = at, at += rows * (m.inner + W);
  s.logits = at, at += rows * m.vocab;
  s.scores = at, at += positions + 4 * W;
  s.sorted = at;
  return s;
}

// Logits of one more token per row, whose keys and values join the row's cache.
static void decode(const Model& m, Row* rows, int64_t n, Scratch& s) {
  const int64_t H = m.hidden + W, Q = m.qkv + W, A = m.heads * m.dim + W, G = 2 * m.inner + W, I = m.inner + W;
  const int64_t group = m.heads / m.kv_heads;
  for (int64_t i = 0; i < n; i++) memcpy(s.x + i * H, m.embedding + rows[i].token * m.hidden, 4 * m.hidden);
  for (int64_t l = 0; l < m.layers; l++) {
    const Layer& layer = m.layer[l];
    for (int64_t i = 0; i < n; i++) normed(m, s.x + i * H, s.h + i * H);
    product(n, m.qkv, m.hidden, s.h, H, layer.qkv, s.qkv, Q, false);
    for (int64_t i = 0; i < n; i++) {
      Row& row = rows[i];
      float *q = s.qkv + i * Q, *k = q + m.heads * m.dim, *v = k + m.kv_heads * m.dim;
      float turned[1024];
      for (int64_t g = 0; g < m.kv_heads; g++) {
        float* own = row.cache + (l * m.kv_heads + g) * head_size(m, row.cache_positions);
        float* own_values = own + keys_size(m, row.cache_positions);
        rotated(m, k + g * m.dim, layer.k_norm, row.position, turned);
        put_transposed(m.dim, turned, row.own, own);
        memcpy(own_values + row.own * m.dim, v + g * m.dim, 4 * m.dim);
        Span spans[2];
        int count = 0;
        if (row.prompt) {
          const float* shared = row.prompt + (l * m.kv_heads + g) * head_size(m, row.prompt_length);
          spans[count++] = {shared, shared + keys_size(m, row.prompt_length), row.prompt_length, m.dim};
        }
        spans[count++] = {own, own_values, row.own + 1, m.dim};
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
          rotated(m, q + h * m.dim, layer.q_norm, row.position, turned);
          attend(m.dim, turned, spans, count, s.scores, s.attended + i * A + h * m.dim);
        }
      }
    }
    product(n, m.hidden, m.heads * m.dim, s.attended, A, layer.out, s.x, H, true);
    for (int64_t i = 0; i < n; i++) normed(m, s.x + i * H, s.h + i * H);
    product(n, 2 * m.inner, m.hidden, s.h, H, layer.gate_up, s.gate_up, G, false);
    for (int64_t i = 0; i < n; i++) gated(m.inner, s.gate_up + i * G, s.acted + i * I);
    product(n, m.hidden, m.inner, s.acted, I, layer.down, s.x, H, true);
  }
  for (int64_t i = 0; i < n; i++) normed(m, s.x + i * H, s.h + i * H);
  product(n, m.vocab, m.hidden, s.h, H, m.head, s.logits, m.vocab, false);
}

// The index at which the cumulative mass of p (in this order) first exceeds u times the total.
static int64_t inverted(const float* p, int64_t n, double u) {
  double total = 0, at = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; i++) {
    total += p[i];
    if (p[i] > 0) last = i;
  }
  for (int64_t i = 0; i < last; i++) {
    at += p[i];
    if (at > u * total) return i;
  }
  return last;
}

static inline bool before(const float* p, int64_t a, int64_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

static void sift(const float* p, int32_t* heap, int64_t at, int64_t n) {
  for (;;) {
    int64_t child = 2 * at + 1;
    if (child >= n) return;
    if (child + 1 < n && before(p, heap[child + 1], heap[child])) child++;
    if (!before(p, heap[child], heap[at])) return;
    const int32_t moved = heap[at];
    heap[at] = heap[child];
    heap[child] = moved;
    at = child;
  }
}

// A token of the nucleus: the most probable tokens, until their mass reaches top_p.
static int64_t nucleus(const float* p, int64_t n, double top_p, double u, int32_t* heap, float* kept) {
  for (int64_t i = 0; i < n; i++) heap[i] = (int32_t)i;
  for (int64_t i = n / 2; i-- > 0;) sift(p, heap, i, n);
  // The heap shrinks from its front; the taken ids go behind it.
  double mass = 0;
  int64_t taken = 0;
  while (taken < n && mass < top_p) {
    const int32_t best = heap[0];
    const int64_t end = n - 1 - taken;
    heap[0] = heap[end];
    heap[end] = best;
    kept[taken++] = p[best];
    mass += p[best];
    sift(p, heap, 0, end);
  }
  return heap[n - 1 - inverted(kept, taken, u)];
}

// KL(uniform || p) in nats, from log p.
static float certainty_of(const Model& m, const float* logp) {
  vec total{};
  int64_t i = 0;
  for (; i + W <= m.vocab_real; i += W) total += load(logp + i);
  float rest = 0;  // the pads behind it are -inf
  for (; i < m.vocab_real; i++) rest += logp[i];
  return -logf((float)m.vocab_real) - (sum(total) + rest) / m.vocab_real;
}

// Picks a token as `rollouts.base.pick` does; overwrites the logits.
static int64_t picked(const Model& m, const Sampler& s, float* logits, double u, Scratch& scratch, float* logprob,
                      float* entropy, float* certainty) {
  float *logp = scratch.sorted, *p = scratch.sorted + m.vocab;
  *entropy = log_softmax(m, logits, s.temperature > 0 ? s.temperature : 1.0f, logp);
  *certainty = certainty_of(m, logp);
  int64_t token = 0;
  if (s.temperature == 0) {
    for (int64_t i = 1; i < m.vocab_real; i++)
      if (logits[i] > logits[token]) token = i;
  } else {
    for (int64_t i = 0; i < m.vocab; i += W) store(p + i, exp_v(load(logp + i)));
    if (s.top_p < 1) {
      token = nucleus(p, m.vocab_real, s.top_p, u, (int32_t*)logits, scratch.scores);
    } else {
      token = inverted(p, m.vocab_real, u);
    }
  }
  *logprob = logp[token];
  return token;
}

static bool ends(const Sampler& s, int64_t token) {
  for (int64_t i = 0; i < s.eos_count; i++)
    if (s.eos[i] == token) return true;
  return false;
}

// Keys, values and logits of prompts first .. last - 1.
static void read_prompts(const Model& m, const Prompts& prompts, int64_t first, int64_t last, int64_t longest,
                         float* memory, Row* rows) {
  Scratch s = carve(m, last - first, longest + m.vocab, memory);
  for (int64_t t = 0; t < longest; t++) {
    int64_t n = 0;
    for (int64_t q = first; q < last; q++) {
      const int64_t length = prompts.starts[q + 1] - prompts.starts[q];
      if (t < length)
        rows[n++] = {prompts.tokens[prompts.starts[q] + t], t, t, nullptr, 0, length,
                     prompts.cache + prompts.cache_starts[q]};
    }
    decode(m, rows, n, s);
    n = 0;
    for (int64_t q = first; q < last; q++) {
      const int64_t length = prompts.starts[q + 1] - prompts.starts[q];
      if (t < length) {
        if (t + 1 == length) memcpy(prompts.logits + q * m.vocab, s.logits + n * m.vocab, 4 * m.vocab);
        n++;
      }
    }
  }
}

// Samples rows until none is left; several threads may share one Sampler.
static void sample(const Model& m, const Prompts& prompts, const Sampler& s, float* memory, Row* rows,
                   int64_t* of_row, int64_t longest) {
  const int64_t cache = cache_size(m, s.limit);
  float* caches = memory;
  Scratch scratch = carve(m, s.slots, longest + s.limit + m.vocab, memory + s.slots * cache);
  int64_t n = 0;
  bool more = true;
  // Takes one token for the sample in slot i from `logits`; false when that ends the sample.
  auto advance = [&](int64_t i, const float* logits) {
    const int64_t r = of_row[i], t = rows[i].own + 1;  // own is -1 before the first token
    float* at_logits = scratch.logits + i * m.vocab;
    if (logits != at_logits) memcpy(at_logits, logits, 4 * m.vocab);
    const int64_t at = r * s.limit + t;
    const int64_t token = picked(m, s, at_logits, s.uniforms[r * s.uniforms_stride + t], scratch, s.logprobs + at,
                                 s.entropies + at, s.certainties + at);
    s.tokens[at] = token;
    rows[i].token = token;
    rows[i].own = t;
    rows[i].position = rows[i].prompt_length + t;
    const bool ended = ends(s, token);
    if (!ended && t + 1 < s.limit) return true;
    s.lengths[r] = t + 1;
    s.finished[r] = ended;
    __atomic_fetch_add(s.done, 1, __ATOMIC_RELAXED);
    return false;
  };
  // Puts new samples into slot i until one lives beyond its first token; false when there is none left.
  auto refill = [&](int64_t i, float* own) {
    while (more && !__atomic_load_n(s.stop, __ATOMIC_RELAXED)) {
      const int64_t r = __atomic_fetch_add(s.next, 1, __ATOMIC_RELAXED);
      if (r >= s.rows) {
        more = false;
        break;
      }
      const int64_t q = r / s.samples;
      of_row[i] = r;
      rows[i] = {0, 0, -1, prompts.cache + prompts.cache_starts[q], prompts.starts[q + 1] - prompts.starts[q],
                 s.limit, own};
      if (advance(i, prompts.logits + q * m.vocab)) return true;
    }
    return false;
  };
  while (n < s.slots && refill(n, caches + n * cache)) n++;
  while (n > 0 && !__atomic_load_n(s.stop, __ATOMIC_RELAXED)) {
    decode(m, rows, n, scratch);
    // From the back, so that what the last row leaves behind is never needed again.
    for (int64_t i = n; i-- > 0;) {
      if (advance(i, scratch.logits + i * m.vocab) || refill(i, rows[i].cache)) continue;
      n--;
      rows[i] = rows[n];
      of_row[i] = of_row[n];
    }
  }
}
