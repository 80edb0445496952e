#ifndef SWAN_ROWS_H
#define SWAN_ROWS_H
#include "vec.h"

/* A two-matrix block. linear != NULL makes it a GLU: act(up.x + up_bias) * (linear.x + linear_bias). */
struct block {
    int64_t units, inputs, outputs, activation;
    const float *up, *up_bias;         /* [F, D], [F] */
    const float *linear, *linear_bias; /* [F, D], [F] or NULL */
    const float *down_tiled;           /* [ceil(O/128)][F][128] */
    const float *down_bias, *mean;     /* [O], [F] */
};

/* GROUP rows are worked on together, SPAN units at a time; PASS rows share one pass over a weight row. */
enum { GROUP = 64, SPAN = 64, TILE = 128, PASS = 8 };

/* What one group of up to GROUP rows works with. */
struct work {
    int64_t stride;   /* of one row's list; not a multiple of 1024, or 64 write streams would share one cache set */
    uint64_t *bits;   /* [F + TILE]: the rows that want a unit, one bit a row */
    int32_t *index;   /* [GROUP][stride]: active units of a row, ascending by span */
    float *value;     /* [GROUP][stride]: their values, act(...) - mean */
    int32_t *segment; /* [spans + 1][GROUP]: where a span's units begin in each row's list */
    float *y;         /* [GROUP][TILE] */
    float *extra;     /* `extra_bytes` for the caller */
    int32_t count[GROUP];
};

/* Scratch memory of the calling thread, at least `bytes`, 64-byte aligned, kept between calls; NULL if there is none. */
void *swan_scratch(size_t bytes);
/* Returns 0, or -2 without memory. */
int swan_take_work(int64_t units, size_t extra_bytes, struct work *w);
/* x [rows <= GROUP, D], mask bytes [rows, F] -> y [rows, O]. */
void swan_masked(const struct block *b, const float *x, int rows, const uint8_t *mask, struct work *w, float *y);
/* x [D], w->index[0..active) set -> y [O]. */
void swan_single(const struct block *b, const float *x, int active, struct work *w, float *y);

/* acc[i] += dot(w, x[i]) for i < n; the unroll hides the FMA latency when n is small. `next` is fetched ahead. */
INLINE void dots(const float *const *x, const float *w, const float *next, int64_t D, const int n, vf *acc) {
    const int unroll = n == 1 ? 4 : n <= 3 ? 2 : 1;
    vf more[PASS] = {{0}};
    int64_t d = 0;
    for (; d + unroll * VL <= D; d += unroll * VL) {
#pragma GCC unroll 4
        for (int u = 0; u < unroll; u++) {
            vf row = load(w + d + u * VL);
            __builtin_prefetch(next + d + u * VL);
#pragma GCC unroll 8
            for (int i = 0; i < n; i++) {
                if (u == 0) acc[i] += row * load(x[i] + d + u * VL);
                else more[i + (u - 1) * n] += row * load(x[i] + d + u * VL);
            }
        }
    }
#pragma GCC unroll 4
    for (int u = 1; u < unroll; u++)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) acc[i] += more[i + (u - 1) * n];
    for (; d + VL <= D; d += VL) {
        vf row = load(w + d);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) acc[i] += row * load(x[i] + d);
    }
    if (d < D) {
        vf row = load_part(w + d, (int)(D - d));
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) acc[i] += row * load_part(x[i] + d, (int)(D - d));
    }
}

/* y[0:128] += values x rows of the tile; VL = 8 needs two parts of 64 columns. `ahead` units are fetched early. */
INLINE void down_tile(const float *tile, const int32_t *index, const float *value, int count, const int ahead, float *y) {
    for (int part = 0; part < TILE; part += PASS * VL) {
        vf acc[PASS];
#pragma GCC unroll 8
        for (int i = 0; i < PASS; i++) acc[i] = load(y + part + i * VL);
        for (int k = 0; k < count; k++) {
            const float *w = tile + (int64_t)index[k] * TILE + part;
            const float *later = tile + (int64_t)index[k + ahead] * TILE + part;
            vf h = all(value[k]);
#pragma GCC unroll 8
            for (int i = 0; i < PASS; i++) {
                acc[i] += h * load(w + i * VL);
                if (ahead) __builtin_prefetch(later + i * VL);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < PASS; i++) store(y + part + i * VL, acc[i]);
    }
}

#endif
