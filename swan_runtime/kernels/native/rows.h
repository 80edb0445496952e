#ifndef SWAN_ROWS_H
#define SWAN_ROWS_H
#include "vec.h"

/* A two-matrix block. linear != NULL makes it a GLU: act(up.x + up_bias) * (linear.x + linear_bias).
   The matrices are floats, or bfloat16 if `half`; sums and everything else are floats. */
struct block {
    int64_t units, inputs, outputs, activation, half;
    const void *up, *linear, *down, *down_tiled; /* [F, D], [F, D] or NULL, [F, O], [ceil(O/128)][F][128] */
    const float *up_bias, *linear_bias;          /* [F], [F] or NULL */
    const float *down_bias, *mean;               /* [O], [F] */
};

/* GROUP rows are worked on together, SPAN units at a time; up to PASS rows share one pass over a weight row. */
enum { GROUP = 64, SPAN = 64, TILE = 128, PASS = 8, PART_FLOATS = 2 * GROUP * VL };

/* What one group of up to GROUP rows works with. */
struct work {
    int64_t stride;    /* of one row's list; not a multiple of 1024, or 64 write streams would share one cache set */
    int64_t blocks;    /* of 16 units */
    uint64_t *bits;    /* [F + TILE]: the rows that want a unit, one bit a row */
    uint16_t *chosen;  /* [GROUP][blocks]: a row's active units, one bit a unit */
    int32_t *index;    /* [GROUP][stride]: active units of a row, ascending by span */
    float *value;      /* [GROUP][stride]: their values, act(...) - mean */
    int32_t *segment;  /* [spans + 1][GROUP]: where a span's units begin in each row's list */
    uint8_t *order;    /* [spans][GROUP]: rows by the number of their units in that span */
    float *y;          /* [GROUP][TILE] */
    float *part;       /* [2][PART_FLOATS]: unfinished dot products of one block */
    float *extra;      /* `extra_bytes` for the caller */
    const float *scale; /* NULL, or [rows, F]: multiplies the units' values before their means are taken off */
    int32_t count[GROUP];
};

/* What to run, and what was chosen: counts [rows], mask bytes [rows, F]. */
struct selection {
    int64_t k_max;           /* most active units a row; the top scores stay, the lower index wins among equals */
    int64_t most_active;     /* stop before the block if more units are active in all rows together: dense is faster */
    const float *thresholds; /* [rows] */
    int64_t *counts;
    uint8_t *mask;
};

/* Mask and count of one row from its scores [F]; copy: room for as many. Returns 1 if the cap cut it down, else 0. */
int swan_select(struct selection *s, int64_t row, const float *scores, int64_t units, float *copy);
/* Whether every threshold is -inf: everything runs, no score is needed (nor checked). Mask and counts then say so. */
int swan_all_open(const struct selection *s, int64_t rows, int64_t units);
/* Whether more units are active than most_active. */
int swan_too_dense(const struct selection *s, int64_t rows);
/* Returns 0, or -2 without memory. */
int swan_take_work(int64_t units, size_t extra_bytes, struct work *w);
/* x [rows <= GROUP, D], mask bytes [rows, F] -> y [rows, O]. */
void swan_masked(const struct block *b, const float *x, int rows, const uint8_t *mask, struct work *w, float *y);
/* 2 to PASS rows, w->bits set; and more rows. */
void swan_few(const struct block *b, const float *x, int rows, struct work *w, float *y);
void swan_many(const struct block *b, const float *x, int rows, const uint8_t *mask, struct work *w, float *y);
/* The same for x [rows, F] that holds the units' values: see swan_inputs. Many: of one row only its list is made. */
void swan_few_values(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w,
                     float *y);
void swan_many_values(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w,
                      float *y);
/* x [D], w->index[0..active) set -> y [O]. */
void swan_single(const struct block *b, const float *x, int active, struct work *w, float *y);
/* x [rows <= GROUP, F] are the units' values themselves: see swan_inputs. */
void swan_sparse_down(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w,
                      float *y);
/* w->index[0..kept) and w->value of units -> y [O]. */
void swan_single_down(const struct block *b, int kept, struct work *w, float *y);

/* The active units of one row's mask, ascending; returns their number. `index`: room for `units`. */
int swan_mask_index(const uint8_t *mask, int64_t units, int32_t *index);

INLINE void swan_append(struct work *w, int row, int32_t unit, float value) {
    /* Branch-free: a value of 0 is overwritten by the next one and costs the down product nothing. */
    int64_t at = row * w->stride + w->count[row];
    w->index[at] = unit;
    w->value[at] = value;
    w->count[row] += value != 0.0f;
}

/* acc[i] += dot(weights at..at + D, x[i]) for i < n; the unroll hides the FMA latency when n is small. What lies at `next`
   is fetched ahead. */
INLINE void dots(const float *const *x, const void *w, int64_t at, int64_t next, int64_t D, const int n, const int half,
                 vf *acc) {
    const int unroll = n == 1 ? 4 : n <= 3 ? 2 : 1;
    vf more[PASS] = {{0}};
    int64_t d = 0;
    for (; d + unroll * VL <= D; d += unroll * VL) {
#pragma GCC unroll 4
        for (int u = 0; u < unroll; u++) {
            vf row = weights(w, at + d + u * VL, half);
            fetch_ahead(w, next + d + u * VL, half);
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
        vf row = weights(w, at + d, half);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) acc[i] += row * load(x[i] + d);
    }
    if (d < D) {
        vf row = weights_part(w, at + d, (int)(D - d), half);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) acc[i] += row * load_part(x[i] + d, (int)(D - d));
    }
}

/* y[0:128] += values x rows of the tile at `tile`; VL = 8 needs two parts of 64 columns. `ahead` units are fetched early. */
INLINE void down_tile(const void *matrix, int64_t tile, const int32_t *index, const float *value, int count,
                      const int ahead, const int half, float *y) {
    for (int part = 0; part < TILE; part += PASS * VL) {
        vf acc[PASS];
#pragma GCC unroll 8
        for (int i = 0; i < PASS; i++) acc[i] = load(y + part + i * VL);
        for (int k = 0; k < count; k++) {
            int64_t at = tile + (int64_t)index[k] * TILE + part;
            int64_t later = tile + (int64_t)index[k + ahead] * TILE + part;
            vf h = all(value[k]);
#pragma GCC unroll 8
            for (int i = 0; i < PASS; i++) {
                acc[i] += h * weights(matrix, at + i * VL, half);
                if (ahead && (!half || i % 2 == 0)) fetch_ahead(matrix, later + i * VL, half);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < PASS; i++) store(y + part + i * VL, acc[i]);
    }
}

#endif
