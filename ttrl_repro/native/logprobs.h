// Log-probabilities of given completions, and their gradient.
#pragma once

#include "model.h"

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
