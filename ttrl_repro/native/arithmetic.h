// Vectors of the processor at hand, e^x, and matrix products.
#pragma once

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
