/* The two dense products of rows that share their active units; weight rows are read in place.
   A hidden unit lies in a row, h = W x^T: x is turned once and kept in panels of 64 rows, so that a weight is one broadcast for
   four vectors of rows, and nobody copies or turns a weight. Hidden values and the weights at work stay in the first-level
   cache, panels and results in the second; the next weights are fetched ahead. */
#include "panels.h"

INLINE void swap_lanes(vf *a, vf *b, vi low, vi high) {
    vf first = __builtin_shuffle(*a, *b, low);
    *b = __builtin_shuffle(*a, *b, high);
    *a = first;
}

void swan_turn_square(vf *a) {
#pragma GCC unroll 16
    for (int i = 0; i < VL; i += 2) swap_lanes(a + i, a + i + 1, (vi)L1A, (vi)L1B);
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        if (!(i & 2)) swap_lanes(a + i, a + i + 2, (vi)L2A, (vi)L2B);
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        if (!(i & 4)) swap_lanes(a + i, a + i + 4, (vi)L3A, (vi)L3B);
#if VL == 16
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) swap_lanes(a + i, a + i + 8, (vi)L4A, (vi)L4B);
#endif
}

void swan_turn(const float *x, int rows, int64_t D, int n, float *to) {
    for (int v = 0; v < n; v++)
        for (int64_t d = 0; d < D; d += VL) {
            vf a[VL];
            int left = D - d < VL ? (int)(D - d) : VL;
            for (int i = 0; i < VL; i++) {
                const float *from = x + (v * VL + i) * D + d;
                a[i] = v * VL + i >= rows ? (vf){0} : left == VL ? load(from) : load_part(from, left);
            }
            swan_turn_square(a);
            for (int i = 0; i < left; i++) store(to + ((d + i) * n + v) * VL, a[i]);
        }
}

/* Some units' weight rows, columns from .. from + length; the same of `next` is fetched ahead. */
struct strip {
    const float *matrix;
    const int32_t *unit, *next;
    int64_t D, from, length, next_from;
};

/* h [units][n * VL] += (or = if first) W x^T over the strip's columns. */
INLINE void up_tile(const struct strip *s, const float *x, int first, float *h, const int units, const int n) {
    vf acc[NARROW_UNITS][VECS];
    const float *w[NARROW_UNITS], *next[NARROW_UNITS];
#pragma GCC unroll 8
    for (int u = 0; u < units; u++) {
        w[u] = s->matrix + s->unit[u] * s->D + s->from;
        next[u] = s->matrix + s->next[u] * s->D + s->next_from;
#pragma GCC unroll 4
        for (int v = 0; v < n; v++) acc[u][v] = first ? (vf){0} : load(h + (u * n + v) * VL);
    }
    for (int64_t d = 0; d < s->length;) {
        int64_t end = d + 16 < s->length ? d + 16 : s->length;
#pragma GCC unroll 8
        for (int u = 0; u < units; u++) __builtin_prefetch(next[u] + d);
        for (; d < end; d++) {
            vf rows[VECS];
#pragma GCC unroll 4
            for (int v = 0; v < n; v++) rows[v] = load(x + (d * n + v) * VL);
#pragma GCC unroll 8
            for (int u = 0; u < units; u++) {
                vf weight = all(w[u][d]);
#pragma GCC unroll 4
                for (int v = 0; v < n; v++) acc[u][v] += weight * rows[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int u = 0; u < units; u++)
#pragma GCC unroll 4
        for (int v = 0; v < n; v++) store(h + (u * n + v) * VL, acc[u][v]);
}

INLINE void up_panel(const float *matrix, int64_t D, const struct units *u, const struct panel *p, float *h, const int n) {
    const int units = n == VECS ? WIDE_UNITS : NARROW_UNITS;
    for (int64_t from = 0; from < D; from += DEPTH) {
        int64_t length = D - from < DEPTH ? D - from : DEPTH;
        for (int k = 0; k < u->count; k += units) {
            /* Next come the block's other units, then its other columns, then the next block. */
            int same = k + units < u->count, again = !same && from + DEPTH < D;
            const int32_t *next = same ? u->index + k + units : again ? u->index : u->index + (u->more ? BLOCK : 0);
            struct strip s = {matrix, u->index + k, next, D, from, length, same ? from : again ? from + DEPTH : 0};
            up_tile(&s, p->x + from * n * VL, from == 0, h + k * n * VL, units, n);
        }
    }
}

void swan_up_panel(const float *matrix, int64_t D, const struct units *u, const struct panel *p, float *h) {
    switch (p->n) {
    case 1: up_panel(matrix, D, u, p, h, 1); break;
    case 2: up_panel(matrix, D, u, p, h, 2); break;
#if VL == 16
    case 3: up_panel(matrix, D, u, p, h, 3); break;
    default: up_panel(matrix, D, u, p, h, 4); break;
#endif
    }
}

/* A part of a block's units in the down product: their rows of one column panel, and what to fetch ahead. */
struct columns {
    const float *tile, *next;
    const int32_t *index, *next_index;
    int count;
    int64_t stride, y_stride;
};

/* y[rows][vecs * VL] += h^T x weight rows; line `ahead` of each next row is fetched. */
INLINE void down_tile_of(const struct columns *c, const float *h, int ahead, float *y, const int rows, const int vecs) {
    vf acc[DOWN_ROWS][VECS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) acc[r][v] = load(y + r * c->y_stride + v * VL);
    for (int k = 0; k < c->count; k++) {
        const float *w = c->tile + (int64_t)c->index[k] * TILE;
        vf column[VECS];
        __builtin_prefetch(c->next + (int64_t)c->next_index[k] * TILE + ahead);
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) column[v] = load(w + v * VL);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vf value = all(h[k * c->stride + r]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) acc[r][v] += value * column[v];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) store(y + r * c->y_stride + v * VL, acc[r][v]);
}

INLINE void down_columns(const struct columns *c, const float *h, int rows, float *y, const int vecs) {
    int r = 0, t = 0;
    for (; r + DOWN_ROWS <= rows; r += DOWN_ROWS, t++)
        down_tile_of(c, h + r, t % VECS * VL, y + r * c->y_stride, DOWN_ROWS, vecs);
    for (; r + 2 <= rows; r += 2, t++) down_tile_of(c, h + r, t % VECS * VL, y + r * c->y_stride, 2, vecs);
    if (r < rows) down_tile_of(c, h + r, t % VECS * VL, y + r * c->y_stride, 1, vecs);
}

void swan_down_panel(const float *tiled, int64_t F, const struct units *u, const struct panel *p, const float *h) {
    for (int k = 0; k < u->count; k += PART) {
        int part = u->count - k < PART ? u->count - k : PART, last = k + PART >= u->count && !u->more;
        const float *from = h + k * p->n * VL;
        for (int64_t o = 0; o < p->y_stride; o += PANEL) {
            /* Next come the other columns, then the next units. */
            int64_t later = o + PANEL < p->y_stride ? o + PANEL : 0, vecs = (p->y_stride - o) / VL;
            struct columns c = {tiled + o / TILE * F * TILE + o % TILE, tiled + later / TILE * F * TILE + later % TILE,
                                u->index + k, u->index + k + (later || last ? 0 : PART), part, p->n * VL, p->y_stride};
            if (vecs >= VECS) down_columns(&c, from, p->rows, p->y + o, VECS);
            else
                for (int64_t v = 0; v < vecs; v++, c.tile += VL) down_columns(&c, from, p->rows, p->y + o + v * VL, 1);
        }
    }
}
