// The model's weights, and its layers for one row at a time.
#pragma once

#include "arithmetic.h"

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
