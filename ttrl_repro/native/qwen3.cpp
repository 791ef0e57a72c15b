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

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
constexpr int W = 16, MR = 12;  // floats in a vector; rows in a register tile
#elif defined(__aarch64__)
constexpr int W = 4, MR = 12;
#elif defined(__AVX__)
constexpr int W = 8, MR = 6;
#else
constexpr int W = 4, MR = 6;
#endif
constexpr int NR = 2 * W;       // columns in a register tile
constexpr int64_t BLOCK = 192;  // rows of a matrix product whose inputs and outputs stay in the cache

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
typedef float uvec __attribute__((vector_size(4 * W), aligned(4), may_alias));

static inline vec load(const float* p) { return *(const uvec*)p; }
static inline void store(float* p, vec v) { *(uvec*)p = v; }
static inline vec all(float x) { return vec{} + x; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline float sum(vec v) {
  float total = 0;
  for (int i = 0; i < W; i++) total += v[i];
  return total;
}

static inline float dot(int64_t n, const float* a, const float* b) {
  vec s{};
  for (int64_t i = 0; i < n; i += W) s += load(a + i) * load(b + i);
  return sum(s);
}

// e^x to about 1 ulp (Cephes' polynomial); below -87 it is 0.
static inline vec exp_v(vec x) {
  const vec magic = all(12582912.0f), low = all(-87.0f), high = all(88.0f);
  const ivec small = x < low;
  x = small ? low : x;
  x = x > high ? high : x;
  vec t = x * 1.44269504088896341f + magic;
  ivec n = (ivec)t - (ivec)magic;
  t -= magic;
  vec r = x - t * 0.693359375f - t * -2.12194440e-4f;
  vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  vec y = p * (r * r) + r + 1.0f;
  vec e = y * (vec)((n + 127) << 23);
  return small ? vec{} : e;
}

// -- matrix products --------------------------------------------------------------------------------

// c (m, NR) = or += a (m, k) @ panel (k, NR). `ai`, `ap`: strides of a in m and k; `bp`: of the panel in k.
template <int m>
static inline __attribute__((always_inline)) void tile(const float* a, int64_t ai, int64_t ap, const float* b,
                                                       int64_t bp, int64_t k, float* c, int64_t ldc, bool add) {
  vec acc[m][2];
  for (int i = 0; i < m; i++) {
    acc[i][0] = add ? load(c + i * ldc) : vec{};
    acc[i][1] = add ? load(c + i * ldc + W) : vec{};
  }
  for (int64_t p = 0; p < k; p++) {
    const vec b0 = load(b + p * bp), b1 = load(b + p * bp + W);
    for (int i = 0; i < m; i++) {
      const float s = a[i * ai + p * ap];
      acc[i][0] += s * b0;
      acc[i][1] += s * b1;
    }
  }
  for (int i = 0; i < m; i++) {
    store(c + i * ldc, acc[i][0]);
    store(c + i * ldc + W, acc[i][1]);
  }
}

static void any_tile(int64_t m, const float* a, int64_t ai, int64_t ap, const float* b, int64_t bp, int64_t k,
                     float* c, int64_t ldc, bool add) {
  switch (m) {
#define CASE(n) \
  case n:       \
    return tile<n>(a, ai, ap, b, bp, k, c, ldc, add);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if defined(__AVX512F__) || defined(__aarch64__)
    CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
  }
}

// y (rows, n) = or += x (rows, k) @ w, w in panels (n / NR, k, NR).
static void product(int64_t rows, int64_t n, int64_t k, const float* x, int64_t ldx, const float* w, float* y,
                    int64_t ldy, bool add) {
  for (int64_t j = 0; j < n; j += NR)
    for (int64_t i = 0; i < rows; i += MR)
      any_tile(least(MR, rows - i), x + i * ldx, ldx, 1, w + j * k, NR, k, y + i * ldy + j, ldy, add);
}

// g (n, k) += y.T (n, rows) @ x (rows, k): the gradient of a weight.
static void outer(int64_t rows, int64_t n, int64_t k, const float* y, int64_t ldy, const float* x, int64_t ldx,
                  float* g) {
  for (int64_t j = 0; j < k; j += NR)
    for (int64_t i = 0; i < n; i += MR)
      any_tile(least(MR, n - i), y + i, 1, ldy, x + j, ldx, rows, g + i * k + j, k, true);
}

// -- the model ----------------------------------------------------------------------------------------

struct Layer {
  const float *qkv, *out, *gate_up, *down;              // panels for x @ W.T
  const float *qkv_t, *out_t, *gate_up_t, *down_t;      // panels for y @ W; null for sampling
  const float *q_norm, *k_norm;                         // (dim,); q_norm carries the softmax scale
};

struct Model {
  int64_t hidden, hidden_real, layers, heads, kv_heads, dim, qkv, inner, vocab, vocab_real;
  const Layer* layer;
  const float *embedding, *head, *head_t;  // (vocab_real, hidden), panels, panels
  const float *cosines, *sines;            // (positions, dim / 2)
  float eps;
};

// y = x / rms(x); returns 1 / rms(x).
static inline float normed(const Model& m, const float* x, float* y) {
  const float r = 1.0f / sqrtf(dot(m.hidden, x, x) / m.hidden_real + m.eps);
  for (int64_t i = 0; i < m.hidden; i += W) store(y + i, load(x + i) * r);
  return r;
}

// dx += the gradient through y = x * r, given dy. Pads of y are zero, and so stay those of dx.
static inline void normed_back(const Model& m, const float* dy, const float* y, float r, float* dx) {
  const float mean = dot(m.hidden, dy, y) / m.hidden_real;
  for (int64_t i = 0; i < m.hidden; i += W) store(dx + i, load(dx + i) + r * (load(dy + i) - load(y + i) * mean));
}

// One head's vector, normed, times `gain`, rotated to its position.
static inline void rotated(const Model& m, const float* __restrict x, const float* __restrict gain, int64_t position,
                           float* __restrict y) {
  const int64_t half = m.dim / 2;
  const float *__restrict c = m.cosines + position * half, *__restrict s = m.sines + position * half;
  const float r = 1.0f / sqrtf(dot(m.dim, x, x) / m.dim + m.eps);
  for (int64_t d = 0; d < half; d++) {
    const float a = x[d] * r * gain[d], b = x[d + half] * r * gain[d + half];
    y[d] = a * c[d] - b * s[d];
    y[d + half] = b * c[d] + a * s[d];
  }
}

// dx and dgain (+=) of `rotated`, given dy.
static inline void rotated_back(const Model& m, const float* __restrict x, const float* __restrict gain, int64_t position,
                                const float* __restrict dy, float* __restrict dx, float* __restrict dgain) {
  const int64_t half = m.dim / 2;
  const float *__restrict c = m.cosines + position * half, *__restrict s = m.sines + position * half;
  const float r = 1.0f / sqrtf(dot(m.dim, x, x) / m.dim + m.eps);
  for (int64_t d = 0; d < half; d++) {
    const float a = dy[d] * c[d] + dy[d + half] * s[d], b = dy[d + half] * c[d] - dy[d] * s[d];
    dgain[d] += a * x[d] * r;
    dgain[d + half] += b * x[d + half] * r;
    dx[d] = a * gain[d];
    dx[d + half] = b * gain[d + half];
  }
  const float mean = dot(m.dim, dx, x) * r * r / m.dim;
  for (int64_t d = 0; d < m.dim; d++) dx[d] = r * (dx[d] - x[d] * mean);
}

static inline void gated(int64_t n, const float* gate_up, float* y) {
  for (int64_t i = 0; i < n; i += W) {
    const vec g = load(gate_up + i);
    store(y + i, g / (1.0f + exp_v(-g)) * load(gate_up + n + i));
  }
}

// -- attention ----------------------------------------------------------------------------------------

// Keys of one key/value head: `keys` as (n / W, dim, W), so that scores of W positions are one vector.
struct Span {
  const float *keys, *values;  // values: (n, dim), rows `stride` apart
  int64_t n, stride;
};

static inline int64_t blocks(int64_t n) { return (n + W - 1) / W; }

// Writes position j of a (n / W, dim, W) array.
static inline void put_transposed(int64_t dim, const float* x, int64_t j, float* to) {
  to += j / W * dim * W + j % W;
  for (int64_t d = 0; d < dim; d++) to[d * W] = x[d];
}

// Products of q with the vectors of a transposed array; entries beyond n are `beyond`.
static inline void dots(int64_t dim, const float* q, const float* transposed, int64_t n, float beyond, float* to) {
  for (int64_t b = 0; b < blocks(n); b++) {
    const float* k = transposed + b * dim * W;
    vec even{}, odd{};
    for (int64_t d = 0; d < dim; d += 2) {
      even += q[d] * load(k + d * W);
      odd += q[d + 1] * load(k + (d + 1) * W);
    }
    store(to + b * W, even + odd);
  }
  for (int64_t j = n; j < blocks(n) * W; j++) to[j] = beyond;
}

// y (dim) = sum over j of p[j] * rows[j], dim in steps of V vectors.
template <int V>
static inline void weighted(int64_t dim, const float* p, const Span* spans, int count, float* y) {
  for (int64_t d = 0; d < dim; d += V * W) {
    vec acc[V] = {};
    const float* weight = p;
    for (int s = 0; s < count; s++) {
      for (int64_t j = 0; j < spans[s].n; j++)
        for (int v = 0; v < V; v++) acc[v] += weight[j] * load(spans[s].values + j * spans[s].stride + d + v * W);
      weight += blocks(spans[s].n) * W;
    }
    for (int v = 0; v < V; v++) store(y + d + v * W, acc[v]);
  }
}

// Attention of one query over the spans: y (dim) and, in `p`, the probabilities (a span starts at a block).
static inline void attend(int64_t dim, const float* q, const Span* spans, int count, float* p, float* y) {
  int64_t width = 0;
  for (int s = 0; s < count; s++) {
    dots(dim, q, spans[s].keys, spans[s].n, -INFINITY, p + width);
    width += blocks(spans[s].n) * W;
  }
  vec top = load(p);
  for (int64_t j = W; j < width; j += W) {
    const vec x = load(p + j);
    top = x > top ? x : top;
  }
  float highest = top[0];
  for (int i = 1; i < W; i++) highest = top[i] > highest ? top[i] : highest;
  vec total{};
  for (int64_t j = 0; j < width; j += W) {
    const vec e = exp_v(load(p + j) - highest);
    store(p + j, e);
    total += e;
  }
  const float scale = 1.0f / sum(total);
  for (int64_t j = 0; j < width; j += W) store(p + j, load(p + j) * scale);
  if (dim % (2 * W) == 0)
    weighted<2>(dim, p, spans, count, y);
  else
    weighted<1>(dim, p, spans, count, y);
}

// -- sampling -------------------------------------------------------------------------------------------

struct Prompts {
  int64_t count;
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
  int64_t* tokens;              // (rows, limit)
  float *logprobs, *entropies;  // (rows, limit)
  int64_t* lengths;             // (rows,)
  uint8_t* finished;            // (rows,)
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

// Log-softmax of logits / temperature into `out`; returns the entropy. Pads become -inf.
static float log_softmax(const Model& m, const float* logits, float temperature, float* out) {
  for (int64_t i = m.vocab_real; i < m.vocab; i++) out[i] = -INFINITY;
  float highest = -INFINITY;
  for (int64_t i = 0; i < m.vocab_real; i++) {
    out[i] = logits[i] / temperature;
    highest = out[i] > highest ? out[i] : highest;
  }
  vec total{};
  for (int64_t i = 0; i < m.vocab; i += W) total += exp_v(load(out + i) - highest);
  const float lse = highest + logf(sum(total));
  vec entropy{};
  const vec least_finite = all(-3.4028234663852886e38f);
  for (int64_t i = 0; i < m.vocab; i += W) {
    const vec logp = load(out + i) - lse;
    store(out + i, logp);
    entropy -= exp_v(logp) * (logp < least_finite ? least_finite : logp);
  }
  return sum(entropy);
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

// Picks a token as `rollouts.base.pick` does; overwrites the logits.
static int64_t picked(const Model& m, const Sampler& s, float* logits, double u, Scratch& scratch, float* logprob,
                      float* entropy) {
  float *logp = scratch.sorted, *p = scratch.sorted + m.vocab;
  *entropy = log_softmax(m, logits, s.temperature > 0 ? s.temperature : 1.0f, logp);
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

extern "C" {

int64_t panel_width() { return NR; }
int64_t vector_width() { return W; }
int64_t prompt_cache_floats(const Model* m, int64_t positions) { return cache_size(*m, positions); }
int64_t sampler_floats(const Model* m, int64_t slots, int64_t limit, int64_t positions) {
  return slots * cache_size(*m, limit) + scratch_floats(*m, slots, positions + m->vocab);
}

// Keys, values and logits of prompts first .. last - 1.
void read_prompts(const Model* model, const Prompts* prompts, int64_t first, int64_t last, int64_t longest,
                  float* memory, Row* rows) {
  const Model& m = *model;
  Scratch s = carve(m, last - first, longest + m.vocab, memory);
  for (int64_t t = 0; t < longest; t++) {
    int64_t n = 0;
    for (int64_t q = first; q < last; q++) {
      const int64_t length = prompts->starts[q + 1] - prompts->starts[q];
      if (t < length)
        rows[n++] = {prompts->tokens[prompts->starts[q] + t], t, t, nullptr, 0, length,
                     prompts->cache + prompts->cache_starts[q]};
    }
    decode(m, rows, n, s);
    n = 0;
    for (int64_t q = first; q < last; q++) {
      const int64_t length = prompts->starts[q + 1] - prompts->starts[q];
      if (t < length) {
        if (t + 1 == length) memcpy(prompts->logits + q * m.vocab, s.logits + n * m.vocab, 4 * m.vocab);
        n++;
      }
    }
  }
}

int64_t row_bytes() { return sizeof(Row); }

// Samples rows until none is left; several threads may share one Sampler.
void sample(const Model* model, const Prompts* prompts, const Sampler* sampler, float* memory, Row* rows,
            int64_t* of_row, int64_t longest) {
  const Model& m = *model;
  const Sampler& s = *sampler;
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
                                 s.entropies + at);
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
    while (more) {
      const int64_t r = __atomic_fetch_add(s.next, 1, __ATOMIC_RELAXED);
      if (r >= s.rows) {
        more = false;
        break;
      }
      const int64_t q = r / s.samples;
      of_row[i] = r;
      rows[i] = {0, 0, -1, prompts->cache + prompts->cache_starts[q], prompts->starts[q + 1] - prompts->starts[q],
                 s.limit, own};
      if (advance(i, prompts->logits + q * m.vocab)) return true;
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

}  // extern "C"

// -- log-probabilities and their gradient -----------------------------------------------------------------

// One thread's part of a batch. A sequence is a prompt, or what follows one: it sees its prompt and itself.
struct Batch {
  int64_t tokens, sequences, rows, targets;
  const int64_t *token, *position;         // (tokens,) sequences one after the other
  const int64_t *start, *length, *prompt;  // (sequences,); prompt: its sequence, or -1 for a prompt itself
  const int64_t* row;                      // (rows,) the tokens whose next token matters
  const int64_t *of_target, *target;       // (targets,) an index into row, and the next token
  float temperature;
  float *logprobs, *entropies;  // (targets,)
  float *memory, *scratch;      // memory lives from forward to backward
  int64_t longest;              // sequence
};

struct LayerGradients {
  float *qkv, *out, *gate_up, *down, *q_norm, *k_norm;
};

struct Gradients {
  const LayerGradients* layer;
  float *embedding, *head;
};

// What forward leaves for backward, per layer: the inputs of every matrix product.
struct Kept {
  float *h1, *qkv, *turned, *attended, *h2, *gate_up, *r1, *r2;
};

struct Strides {
  int64_t H, Q, T, A, G, I;
};

static Strides strides(const Model& m) {
  // Not multiples of a page, or columns of a matrix would compete for the same lines of the cache.
  return {m.hidden + W,  m.qkv + W, (m.heads + m.kv_heads) * m.dim + W, m.heads * m.dim + W, 2 * m.inner + W,
          m.inner + W};
}

static int64_t kept_floats(const Model& m, int64_t tokens) {
  const Strides s = strides(m);
  return tokens * (2 * s.H + s.Q + s.T + s.A + s.G) + 2 * blocks(tokens) * W;
}

static Kept kept(const Model& m, const Batch& b, int64_t layer) {
  const Strides s = strides(m);
  const int64_t n = b.tokens;
  float* at = b.memory + layer * kept_floats(m, n);
  Kept k;
  k.h1 = at, at += n * s.H;
  k.qkv = at, at += n * s.Q;
  k.turned = at, at += n * s.T;
  k.attended = at, at += n * s.A;
  k.h2 = at, at += n * s.H;
  k.gate_up = at, at += n * s.G;
  k.r1 = at, at += blocks(n) * W;
  k.r2 = at;
  return k;
}

// What the last norm and the head leave: (rows, H), (rows, vocab) probabilities, (rows,).
struct KeptHead {
  float *h, *p, *r;
};

static KeptHead kept_head(const Model& m, const Batch& b) {
  float* at = b.memory + m.layers * kept_floats(m, b.tokens);
  KeptHead k;
  k.h = at, at += b.rows * (m.hidden + W);
  k.p = at, at += b.rows * m.vocab;
  k.r = at;
  return k;
}

// Keys and values of one sequence, transposed, of every key/value head.
struct Transposed {
  float *keys, *values;
};

static int64_t transposed_floats(const Model& m, int64_t longest) {
  return 2 * m.kv_heads * blocks(longest) * W * m.dim;
}

static Transposed transpose(const Model& m, const Batch& b, const Kept& k, int64_t sequence, float* at, bool values) {
  const Strides s = strides(m);
  const int64_t start = b.start[sequence], n = b.length[sequence], size = blocks(n) * W * m.dim;
  Transposed t = {at, at + m.kv_heads * size};
  for (int64_t j = 0; j < n; j++)
    for (int64_t g = 0; g < m.kv_heads; g++) {
      put_transposed(m.dim, k.turned + (start + j) * s.T + (m.heads + g) * m.dim, j, t.keys + g * size);
      if (values)
        put_transposed(m.dim, k.qkv + (start + j) * s.Q + (m.heads + m.kv_heads + g) * m.dim, j, t.values + g * size);
    }
  return t;
}

// Calls f(token, head, spans, count, starts, transposed values) for every query of every sequence.
template <class F>
static void for_queries(const Model& m, const Batch& b, const Kept& k, float* scratch, bool values, F f) {
  const Strides s = strides(m);
  const int64_t group = m.heads / m.kv_heads, v_at = (m.heads + m.kv_heads) * m.dim;
  float* own_at = scratch + transposed_floats(m, b.longest);
  int64_t held = -1;
  Transposed shared{};
  for (int64_t q = 0; q < b.sequences; q++) {
    const int64_t prompt = b.prompt[q];
    if (prompt >= 0 && prompt != held) {
      shared = transpose(m, b, k, prompt, scratch, values);
      held = prompt;
    }
    const Transposed own = transpose(m, b, k, q, own_at, values);
    const int64_t own_size = blocks(b.length[q]) * W * m.dim;
    const int64_t shared_size = prompt < 0 ? 0 : blocks(b.length[prompt]) * W * m.dim;
    for (int64_t i = 0; i < b.length[q]; i++)
      for (int64_t h = 0; h < m.heads; h++) {
        const int64_t g = h / group;
        Span spans[2];
        const float* transposed_values[2];
        int64_t starts[2];
        int count = 0;
        if (prompt >= 0) {
          starts[count] = b.start[prompt];
          transposed_values[count] = shared.values + g * shared_size;
          spans[count++] = {shared.keys + g * shared_size, k.qkv + b.start[prompt] * s.Q + v_at + g * m.dim,
                            b.length[prompt], s.Q};
        }
        starts[count] = b.start[q];
        transposed_values[count] = own.values + g * own_size;
        spans[count++] = {own.keys + g * own_size, k.qkv + b.start[q] * s.Q + v_at + g * m.dim, i + 1, s.Q};
        f(b.start[q] + i, h, spans, count, starts, transposed_values);
      }
  }
}

static void forward(const Model& m, const Batch& b) {
  const Strides s = strides(m);
  const int64_t M = b.tokens;
  float *x = b.scratch, *acted = x + M * s.H, *scores = acted + BLOCK * s.I, *keys = scores + 2 * b.longest + 4 * W;
  for (int64_t i = 0; i < M; i++) memcpy(x + i * s.H, m.embedding + b.token[i] * m.hidden, 4 * m.hidden);
  for (int64_t l = 0; l < m.layers; l++) {
    const Layer& layer = m.layer[l];
    const Kept k = kept(m, b, l);
    for (int64_t at = 0; at < M; at += BLOCK) {
      const int64_t n = least(BLOCK, M - at);
      for (int64_t i = at; i < at + n; i++) k.r1[i] = normed(m, x + i * s.H, k.h1 + i * s.H);
      product(n, m.qkv, m.hidden, k.h1 + at * s.H, s.H, layer.qkv, k.qkv + at * s.Q, s.Q, false);
      for (int64_t i = at; i < at + n; i++)
        for (int64_t h = 0; h < m.heads + m.kv_heads; h++)
          rotated(m, k.qkv + i * s.Q + h * m.dim, h < m.heads ? layer.q_norm : layer.k_norm, b.position[i],
                  k.turned + i * s.T + h * m.dim);
    }
    for_queries(m, b, k, keys, false,
                [&](int64_t i, int64_t h, const Span* spans, int count, const int64_t*, const float**) {
                  attend(m.dim, k.turned + i * s.T + h * m.dim, spans, count, scores,
                         k.attended + i * s.A + h * m.dim);
                });
    for (int64_t at = 0; at < M; at += BLOCK) {
      const int64_t n = least(BLOCK, M - at);
      product(n, m.hidden, m.heads * m.dim, k.attended + at * s.A, s.A, layer.out, x + at * s.H, s.H, true);
      for (int64_t i = at; i < at + n; i++) k.r2[i] = normed(m, x + i * s.H, k.h2 + i * s.H);
      product(n, 2 * m.inner, m.hidden, k.h2 + at * s.H, s.H, layer.gate_up, k.gate_up + at * s.G, s.G, false);
      for (int64_t i = 0; i < n; i++) gated(m.inner, k.gate_up + (at + i) * s.G, acted + i * s.I);
      product(n, m.hidden, m.inner, acted, s.I, layer.down, x + at * s.H, s.H, true);
    }
  }
  const KeptHead k = kept_head(m, b);
  for (int64_t i = 0; i < b.rows; i++) k.r[i] = normed(m, x + b.row[i] * s.H, k.h + i * s.H);
  for (int64_t at = 0; at < b.rows; at += BLOCK)
    product(least(BLOCK, b.rows - at), m.vocab, m.hidden, k.h + at * s.H, s.H, m.head, k.p + at * m.vocab, m.vocab,
            false);
  float* entropies = scores;  // one per row at most; a row is a token
  for (int64_t i = 0; i < b.rows; i++) entropies[i] = log_softmax(m, k.p + i * m.vocab, b.temperature, k.p + i * m.vocab);
  for (int64_t i = 0; i < b.targets; i++) {
    b.logprobs[i] = k.p[b.of_target[i] * m.vocab + b.target[i]];
    b.entropies[i] = entropies[b.of_target[i]];
  }
  for (int64_t i = 0; i < b.rows * m.vocab; i += W) store(k.p + i, exp_v(load(k.p + i)));
}

static void backward(const Model& m, const Batch& b, const float* gradient, const Gradients& g) {
  const Strides s = strides(m);
  const int64_t M = b.tokens, v_at = (m.heads + m.kv_heads) * m.dim, group = m.heads / m.kv_heads;
  float* at = b.scratch;
  float *dx = at, *dqkv = at += M * s.H, *dattended = at += M * s.Q, *acted = at += M * s.A,
        *dgate_up = at += BLOCK * s.I, *dh = at += BLOCK * s.G, *dlogits = at += BLOCK * s.H,
        *p = at += BLOCK * m.vocab, *dp = at += 2 * b.longest + 4 * W, *keys = at += 2 * b.longest + 4 * W;
  memset(dx, 0, 4 * M * s.H);

  const KeptHead head = kept_head(m, b);
  for (int64_t first = 0, t = 0; first < b.rows; first += BLOCK) {
    const int64_t n = least(BLOCK, b.rows - first);
    memset(dlogits, 0, 4 * n * m.vocab);
    // Targets come in the order of their rows.
    for (int64_t i = 0; i < n; i++) {
      float *row = dlogits + i * m.vocab, total = 0;
      for (; t < b.targets && b.of_target[t] == first + i; t++) {
        row[b.target[t]] += gradient[t];
        total += gradient[t];
      }
      const float* probability = head.p + (first + i) * m.vocab;
      for (int64_t j = 0; j < m.vocab; j += W)
        store(row + j, (load(row + j) - total * load(probability + j)) / b.temperature);
    }
    outer(n, m.vocab, m.hidden, dlogits, m.vocab, head.h + first * s.H, s.H, g.head);
    product(n, m.hidden, m.vocab, dlogits, m.vocab, m.head_t, dh, s.H, false);
    for (int64_t i = 0; i < n; i++)
      normed_back(m, dh + i * s.H, head.h + (first + i) * s.H, head.r[first + i], dx + b.row[first + i] * s.H);
  }

  for (int64_t l = m.layers; l-- > 0;) {
    const Layer& layer = m.layer[l];
    const LayerGradients& to = g.layer[l];
    const Kept k = kept(m, b, l);
    for (int64_t first = 0; first < M; first += BLOCK) {
      const int64_t n = least(BLOCK, M - first);
      float *dy = dx + first * s.H, *h2 = k.h2 + first * s.H;
      // The gradient of `acted` goes to the first half of dgate_up's rows, and is overwritten there.
      product(n, m.inner, m.hidden, dy, s.H, layer.down_t, dgate_up, s.G, false);
      for (int64_t i = 0; i < n; i++) {
        const float* gate = k.gate_up + (first + i) * s.G;
        float *d = dgate_up + i * s.G, *a = acted + i * s.I;
        for (int64_t j = 0; j < m.inner; j += W) {
          const vec z = load(gate + j), up = load(gate + m.inner + j), da = load(d + j);
          const vec sigmoid = 1.0f / (1.0f + exp_v(-z)), silu = z * sigmoid;
          store(a + j, silu * up);
          store(d + j, da * up * (sigmoid + silu * (1.0f - sigmoid)));
          store(d + m.inner + j, da * silu);
        }
      }
      outer(n, m.hidden, m.inner, dy, s.H, acted, s.I, to.down);
      outer(n, 2 * m.inner, m.hidden, dgate_up, s.G, h2, s.H, to.gate_up);
      product(n, m.hidden, 2 * m.inner, dgate_up, s.G, layer.gate_up_t, dh, s.H, false);
      for (int64_t i = 0; i < n; i++) normed_back(m, dh + i * s.H, h2 + i * s.H, k.r2[first + i], dy + i * s.H);
      outer(n, m.hidden, m.heads * m.dim, dy, s.H, k.attended + first * s.A, s.A, to.out);
      product(n, m.heads * m.dim, m.hidden, dy, s.H, layer.out_t, dattended + first * s.A, s.A, false);
    }
    // First the gradients of rotated queries and keys, and of values; then, in place, through the rotation.
    memset(dqkv, 0, 4 * M * s.Q);
    for_queries(m, b, k, keys, true,
                [&](int64_t i, int64_t h, const Span* spans, int count, const int64_t* starts,
                    const float** transposed_values) {
                  const int64_t kv = h / group;
                  const float *q = k.turned + i * s.T + h * m.dim, *dy = dattended + i * s.A + h * m.dim;
                  float again[1024];
                  attend(m.dim, q, spans, count, p, again);
                  const float delta = dot(m.dim, dy, again);
                  Span keys_of[2];
                  int64_t width = 0;
                  for (int c = 0; c < count; c++) {
                    const int64_t n = spans[c].n;
                    dots(m.dim, dy, transposed_values[c], n, 0.0f, dp + width);
                    for (int64_t j = 0; j < n; j += W)
                      store(dp + width + j, load(p + width + j) * (load(dp + width + j) - delta));
                    keys_of[c] = {nullptr, k.turned + starts[c] * s.T + (m.heads + kv) * m.dim, n, s.T};
                    for (int64_t j = 0; j < n; j++) {
                      float *dk = dqkv + (starts[c] + j) * s.Q + (m.heads + kv) * m.dim;
                      float* dv = dqkv + (starts[c] + j) * s.Q + v_at + kv * m.dim;
                      const float pj = p[width + j], dsj = dp[width + j];
                      for (int64_t d = 0; d < m.dim; d += W) {
                        store(dk + d, load(dk + d) + dsj * load(q + d));
                        store(dv + d, load(dv + d) + pj * load(dy + d));
                      }
                    }
                    width += blocks(n) * W;
                  }
                  float* dq = dqkv + i * s.Q + h * m.dim;
                  if (m.dim % (2 * W) == 0)
                    weighted<2>(m.dim, dp, keys_of, count, dq);
                  else
                    weighted<1>(m.dim, dp, keys_of, count, dq);
                });
    for (int64_t first = 0; first < M; first += BLOCK) {
      const int64_t n = least(BLOCK, M - first);
      for (int64_t i = first; i < first + n; i++)
        for (int64_t h = 0; h < m.heads + m.kv_heads; h++) {
          float turned[1024], *d = dqkv + i * s.Q + h * m.dim;
          memcpy(turned, d, 4 * m.dim);
          rotated_back(m, k.qkv + i * s.Q + h * m.dim, h < m.heads ? layer.q_norm : layer.k_norm, b.position[i], turned,
                       d, h < m.heads ? to.q_norm : to.k_norm);
        }
      outer(n, m.qkv, m.hidden, dqkv + first * s.Q, s.Q, k.h1 + first * s.H, s.H, to.qkv);
      product(n, m.hidden, m.qkv, dqkv + first * s.Q, s.Q, layer.qkv_t, dh, s.H, false);
      for (int64_t i = 0; i < n; i++)
        normed_back(m, dh + i * s.H, k.h1 + (first + i) * s.H, k.r1[first + i], dx + (first + i) * s.H);
    }
  }
  for (int64_t i = 0; i < M; i++) {
    float* to = g.embedding + b.token[i] * m.hidden;
    for (int64_t d = 0; d < m.hidden; d += W) store(to + d, load(to + d) + load(dx + i * s.H + d));
  }
}

extern "C" {

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
