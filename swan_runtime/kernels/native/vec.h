/* Float vectors by GCC/Clang vector extensions, intrinsics only where those have no word for it: one source for AVX-512 and
   AVX2 (VECTOR_BYTES). */
#ifndef SWAN_VEC_H
#define SWAN_VEC_H
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef VECTOR_BYTES
#define VECTOR_BYTES 32
#endif
#define VL (VECTOR_BYTES / 4)
#define INLINE static inline __attribute__((always_inline))
#define API __attribute__((visibility("default")))

typedef float vf __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(VECTOR_BYTES)));
typedef float vf_any __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t vi_any __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint8_t vb_any __attribute__((vector_size(VL), aligned(1), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));

INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf v) { *(vf_any *)p = v; }
/* Not {0} + a: without -ffast-math that is an addition and a shuffle on the ports that multiply. */
#if VL == 16
INLINE vf all(float a) { return (vf)_mm512_set1_ps(a); }
#else
INLINE vf all(float a) { return (vf)_mm256_set1_ps(a); }
#endif
INLINE vf pick(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }
INLINE vf vmax(vf a, vf b) { return pick(a > b, a, b); }
INLINE vf vmin(vf a, vf b) { return pick(a < b, a, b); }

/* The first n < VL floats, zeros after them. */
INLINE vf load_part(const float *p, int n) {
    vf v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}

/* A bfloat16 is the upper half of a float. */
INLINE vf widen(const uint16_t *p) { return (vf)(__builtin_convertvector(*(const vh_any *)p, vi) << 16); }
INLINE float widen_one(uint16_t h) {
    union {
        uint32_t bits;
        float value;
    } u = {(uint32_t)h << 16};
    return u.value;
}

/* VL weights from element `at` of a matrix of floats, or of bfloat16 if `half` (a constant where this is inlined). */
INLINE vf weights(const void *matrix, int64_t at, const int half) {
    return half ? widen((const uint16_t *)matrix + at) : load((const float *)matrix + at);
}
INLINE vf weights_part(const void *matrix, int64_t at, int n, const int half) {
    if (!half) return load_part((const float *)matrix + at, n);
    vf v = {0};
    for (int i = 0; i < n; i++) v[i] = widen_one(((const uint16_t *)matrix)[at + i]);
    return v;
}
/* Fetch the cache line of element `at`. Always into the first level: on Sapphire Rapids prefetcht1 reaches 17 GB/s and
   prefetcht0 24.5, as much as plain loads do. */
INLINE void fetch_ahead(const void *matrix, int64_t at, const int half) {
    __builtin_prefetch((const char *)matrix + (half ? 2 : 4) * at);
}

/* e^x: Cody-Waite reduction, degree-6 polynomial, error about 1 ulp in the clamped range. */
INLINE vf vexp(vf x) {
    x = vmin(vmax(x, all(-87.0f)), all(88.0f));
    vf n = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: rounds to nearest */
    vi bits = (vi)n << 23;
    n = n - 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vf)((vi)p + bits);
}

/* erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7: what torch's own vector code uses. */
INLINE vf verf(vf x) {
    vi sign = (vi)x & (int32_t)0x80000000;
    vf a = (vf)((vi)x & 0x7fffffff);
    vf t = 1.0f / (a * 0.3275911f + 1.0f);
    vf p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf y = 1.0f - p * t * vexp(-a * a);
    return (vf)((vi)y ^ sign);
}

enum { IDENTITY = 0, RELU = 1, GELU = 2, SILU = 3, ACON = 4 };

INLINE vf activate(vf x, int code) {
    switch (code) {
    case RELU: return pick(x < 0.0f, all(0.0f), x);
    case GELU: return x * 0.5f * (verf(x * 0.70710678118654752f) + 1.0f);
    case SILU: return x / (vexp(-x) + 1.0f);
    default: return x;
    }
}

/* ACON-C with d = p1 - p2. */
INLINE vf vacon(vf x, float d, float p2, float beta) {
    vf u = x * d;
    return u / (vexp(-u * beta) + 1.0f) + x * p2;
}

#if VL == 16
#define L1A {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}
#define L1B {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31}
#define L2A {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29}
#define L2B {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31}
#define L3A {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27}
#define L3B {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31}
#define SWAP {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}
#elif VL == 8
#define L1A {0, 8, 2, 10, 4, 12, 6, 14}
#define L1B {1, 9, 3, 11, 5, 13, 7, 15}
#define L2A {0, 1, 8, 9, 4, 5, 12, 13}
#define L2B {2, 3, 10, 11, 6, 7, 14, 15}
#define L3A {0, 1, 2, 3, 8, 9, 10, 11}
#define L3B {4, 5, 6, 7, 12, 13, 14, 15}
#else
#error "VECTOR_BYTES must be 32 or 64"
#endif

INLINE vf fold1(vf a, vf b) { return __builtin_shuffle(a, b, (vi)L1A) + __builtin_shuffle(a, b, (vi)L1B); }
INLINE vf fold2(vf a, vf b) { return __builtin_shuffle(a, b, (vi)L2A) + __builtin_shuffle(a, b, (vi)L2B); }
INLINE vf fold4(vf a, vf b) { return __builtin_shuffle(a, b, (vi)L3A) + __builtin_shuffle(a, b, (vi)L3B); }

/* Lane i of the result is the sum of a[i], i < n <= 8: three shuffles a row instead of one horizontal sum each. */
INLINE vf sums(const vf *a, int n) {
    vf z = {0};
    vf s01 = fold1(a[0], n > 1 ? a[1] : z), s23 = n > 2 ? fold1(a[2], n > 3 ? a[3] : z) : z;
    vf s0123 = fold2(s01, s23), s4567 = z;
    if (n > 4) {
        vf s45 = fold1(a[4], n > 5 ? a[5] : z), s67 = n > 6 ? fold1(a[6], n > 7 ? a[7] : z) : z;
        s4567 = fold2(s45, s67);
    }
    vf s = fold4(s0123, s4567);
#if VL == 16
    s = s + __builtin_shuffle(s, (vi)SWAP);
#endif
    return s;
}

#if VL == 16
#define L4A {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}
#define L4B {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}
INLINE vf fold_two(const vf *a, int n) { return n > 1 ? fold1(a[0], a[1]) : n > 0 ? fold1(a[0], (vf){0}) : (vf){0}; }
INLINE vf fold_eight(const vf *a, int n) {
    return fold4(fold2(fold_two(a, n), fold_two(a + 2, n - 2)), fold2(fold_two(a + 4, n - 4), fold_two(a + 6, n - 6)));
}
/* As sums, for 8 < n <= 16. */
INLINE vf many_sums(const vf *a, int n) {
    vf low = fold_eight(a, 8), high = fold_eight(a + 8, n - 8);
    return __builtin_shuffle(low, high, (vi)L4A) + __builtin_shuffle(low, high, (vi)L4B);
}

/* One bit for each lane of a comparison's result that is set. */
INLINE uint32_t lanes_set(vi compared) { return _mm512_movepi32_mask((__m512i)compared); }
/* The floats of from[0..16) whose bit is set, side by side, zeros after them; no other float is read. */
INLINE vf squeezed(const float *from, uint32_t bits) {
    return (vf)_mm512_maskz_compress_ps((__mmask16)bits, _mm512_maskz_loadu_ps((__mmask16)bits, from));
}
/* The lanes whose bit is set, side by side; VL floats are written. */
INLINE void squeeze(float *to, vf v, uint32_t bits) { store(to, (vf)_mm512_maskz_compress_ps((__mmask16)bits, (__m512)v)); }
/* first + i for each bit i < 16 that is set; 16 numbers are written. */
INLINE void squeeze_numbers(int32_t *to, int32_t first, uint32_t bits) {
    vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    *(vi_any *)to = (vi)_mm512_maskz_compress_epi32((__mmask16)bits, (__m512i)(lane + first));
}
#else
INLINE vf many_sums(const vf *a, int n) { return sums(a, n); } /* never more than 8 */
INLINE uint32_t lanes_set(vi compared) { return (uint32_t)_mm256_movemask_ps((__m256)compared); }
INLINE vf squeezed(const float *from, uint32_t bits) {
    vf v = {0};
    for (int i = 0; bits && i < VL; i++, bits &= bits - 1) v[i] = from[__builtin_ctz(bits)];
    return v;
}
INLINE void squeeze(float *to, vf v, uint32_t bits) {
    float lane[VL];
    store(lane, v);
    for (; bits; bits &= bits - 1) *to++ = lane[__builtin_ctz(bits)];
}
INLINE void squeeze_numbers(int32_t *to, int32_t first, uint32_t bits) {
    for (; bits; bits &= bits - 1) *to++ = first + __builtin_ctz(bits);
}
#endif

INLINE vi lane_numbers(void) {
    vi number;
    for (int i = 0; i < VL; i++) number[i] = i;
    return number;
}
/* Writes a comparison's result as VL bytes of 0 or 1 and returns it as numbers of 0 or 1. */
INLINE vi put_mask(uint8_t *to, vi compared) {
    vi one = compared & 1;
    *(vb_any *)to = __builtin_convertvector(one, vb_any);
    return one;
}

/* VL bytes (or the first n, zeros after them) as numbers. */
INLINE vi bytes(const uint8_t *p) { return __builtin_convertvector(*(const vb_any *)p, vi); }
INLINE vi bytes_part(const uint8_t *p, int n) {
    vi v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}

/* One bit for each of 16 bytes (or the first n) that is not 0. */
INLINE uint32_t bytes_set(const uint8_t *p) {
    __m128i zero = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), _mm_setzero_si128());
    return (uint32_t)_mm_movemask_epi8(zero) ^ 0xffff;
}
INLINE uint32_t bytes_set_part(const uint8_t *p, int n) {
    uint32_t bits = 0;
    for (int i = 0; i < n; i++) bits |= (uint32_t)(p[i] != 0) << i;
    return bits;
}

/* Scratch memory of the calling thread, at least `bytes`, 64-byte aligned, kept between calls; NULL if there is none. */
void *swan_scratch(size_t bytes);

#endif
