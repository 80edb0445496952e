#ifndef SWAN_PANELS_H
#define SWAN_PANELS_H
#include "rows.h"

/* Rows are taken in panels of PANEL (64, or 16 with AVX2); units BLOCK at a time. DOWN_ROWS x VECS, WIDE_UNITS x VECS and
   NARROW_UNITS x fewer sums stay in registers. Columns of x are taken DEPTH at a time: with a panel's rows, 32 KiB. */
#if VL == 16
enum { VECS = 4, WIDE_UNITS = 6, NARROW_UNITS = 8, DOWN_ROWS = 6 };
#else
enum { VECS = 2, WIDE_UNITS = 6, NARROW_UNITS = 8, DOWN_ROWS = 6 };
#endif
enum { PANEL = VECS * VL, BLOCK = 96, PART = 48, DEPTH = 128, UNITS_MORE = BLOCK + NARROW_UNITS };

/* A panel at work: up to PANEL rows, n vectors wide. */
struct panel {
    const float *x; /* [D][n * VL], turned */
    float *y;       /* [rows][y_stride] */
    int64_t y_stride; /* a multiple of VL */
    int rows, n;
};

/* count <= BLOCK units at work; those that follow are more of the same list, if `more`. The list goes on for UNITS_MORE. */
struct units {
    const int32_t *index;
    int count, more;
};

INLINE int64_t vectors(int64_t n) { return (n + VL - 1) / VL * VL; } /* rounded up */

/* In place: lane i of a[j] and lane j of a[i] change places. */
void swan_turn_square(vf *a);
/* to[d][n * VL] = x[rows][D], for d < D; zero beyond the rows. */
void swan_turn(const float *x, int rows, int64_t D, int n, float *to);
/* h [count rounded up to NARROW_UNITS][n * VL] = W x^T; W [F, D]. */
void swan_up_panel(const float *matrix, int64_t D, const struct units *u, const struct panel *p, float *h);
/* y += h^T x rows of `tiled` [ceil(O/128)][F][128]. */
void swan_down_panel(const float *tiled, int64_t F, const struct units *u, const struct panel *p, const float *h);
/* See shared.c. */
int64_t swan_shared(const struct block *b, const float *x, const int64_t *offsets, int64_t requests, const uint8_t *mask,
                    float *y);
#endif
