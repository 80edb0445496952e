/* 2 to 8 vector rows, each with its own mask: bound by the stream of weights, so each weight row is read once, whole and in
   order, and x and y stay in the first-level cache. Unit by unit, all its rows in one pass. */
#include "rows.h"

/* One unit and the rows that want it. */
struct pass {
    uint64_t rows;
    int64_t unit;
};
/* The passes of a span by their number of rows. */
struct passes {
    int count[PASS + 1];
    struct pass of[PASS + 1][SPAN];
};

/* Sort the span's work by pass size: loops of a known size, and no mispredicted branch per unit. */
static void plan(const uint64_t *bits, int64_t first, int64_t last, struct passes *p) {
    memset(p->count, 0, sizeof p->count);
    for (int64_t j = first; j < last; j++) {
        int n = __builtin_popcountll(bits[j]);
        p->of[n][p->count[n]] = (struct pass){bits[j], j};
        p->count[n] += n > 0;
    }
}

/* The values of the passes of n rows each; w->bits keeps the rows whose value is not 0. */
INLINE void run_passes(const struct block *b, const float *rows_of_x, const struct passes *p, struct work *w, const int n,
                       const int half) {
    const struct pass *pass = p->of[n];
    int64_t D = b->inputs;
    for (int k = 0; k < p->count[n]; k++) {
        int64_t j = pass[k].unit, next = k + 1 < p->count[n] ? pass[k + 1].unit : j;
        const float *x[PASS];
        int id[PASS];
        uint64_t rows = pass[k].rows, live = 0;
#pragma GCC unroll 8
        for (int i = 0; i < n; i++, rows &= rows - 1) {
            id[i] = __builtin_ctzll(rows);
            x[i] = rows_of_x + id[i] * D;
        }
        vf acc[PASS] = {{0}}, other[PASS] = {{0}};
        dots(x, b->up, j * D, next * D, D, n, half, acc);
        vf h = activate(sums(acc, n) + b->up_bias[j], (int)b->activation);
        if (b->linear) {
            dots(x, b->linear, j * D, next * D, D, n, half, other);
            h *= sums(other, n) + b->linear_bias[j];
        }
        if (w->scale) {
            vf scale = {0};
            for (int i = 0; i < n; i++) scale[i] = w->scale[id[i] * b->units + j];
            h *= scale;
        }
        float value[VL];
        store(value, h - b->mean[j]);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            w->value[j % SPAN * PASS + id[i]] = value[i];
            live |= (uint64_t)(value[i] != 0.0f) << id[i];
        }
        w->bits[j] = live;
    }
}

INLINE void run_all(const struct block *b, const float *x, const struct passes *p, struct work *w, const int half) {
    run_passes(b, x, p, w, 8, half);
    run_passes(b, x, p, w, 7, half);
    run_passes(b, x, p, w, 6, half);
    run_passes(b, x, p, w, 5, half);
    run_passes(b, x, p, w, 4, half);
    run_passes(b, x, p, w, 3, half);
    run_passes(b, x, p, w, 2, half);
    run_passes(b, x, p, w, 1, half);
}

/* y rows of n chosen ones += values x weight row. */
INLINE void axpys(const struct block *b, const struct passes *p, const struct work *w, float *y, const int n, const int half) {
    const struct pass *pass = p->of[n];
    int64_t O = b->outputs;
    for (int k = 0; k < p->count[n]; k++) {
        int64_t j = pass[k].unit, at = j * O, ahead = (k + 1 < p->count[n] ? pass[k + 1].unit : j) * O, o = 0;
        float *out[PASS];
        vf value[PASS];
        uint64_t rows = pass[k].rows;
#pragma GCC unroll 8
        for (int i = 0; i < n; i++, rows &= rows - 1) {
            int id = __builtin_ctzll(rows);
            out[i] = y + id * O;
            value[i] = all(w->value[j % SPAN * PASS + id]);
        }
        for (; o + VL <= O; o += VL) {
            vf row = weights(b->down, at + o, half);
            fetch_ahead(b->down, ahead + o, half);
#pragma GCC unroll 8
            for (int i = 0; i < n; i++) store(out[i] + o, load(out[i] + o) + value[i] * row);
        }
        for (; o < O; o++) {
            float weight = half ? widen_one(((const uint16_t *)b->down)[at + o]) : ((const float *)b->down)[at + o];
            for (int i = 0; i < n; i++) out[i][o] += value[i][0] * weight;
        }
    }
}

INLINE void all_axpys(const struct block *b, const struct passes *p, const struct work *w, float *y, const int half) {
    axpys(b, p, w, y, 8, half);
    axpys(b, p, w, y, 7, half);
    axpys(b, p, w, y, 6, half);
    axpys(b, p, w, y, 5, half);
    axpys(b, p, w, y, 4, half);
    axpys(b, p, w, y, 3, half);
    axpys(b, p, w, y, 2, half);
    axpys(b, p, w, y, 1, half);
}

/* Span by span, so that ReLU's zeros are known before their rows of the down matrix are touched. */
void swan_few(const struct block *b, const float *x, int rows, struct work *w, float *y) {
    struct passes p;
    for (int r = 0; r < rows; r++) memcpy(y + r * b->outputs, b->down_bias, b->outputs * sizeof(float));
    for (int64_t first = 0; first < b->units; first += SPAN) {
        int64_t last = first + SPAN < b->units ? first + SPAN : b->units;
        plan(w->bits, first, last, &p);
        if (b->half) run_all(b, x, &p, w, 1);
        else run_all(b, x, &p, w, 0);
        plan(w->bits, first, last, &p);
        if (b->half) all_axpys(b, &p, w, y, 1);
        else all_axpys(b, &p, w, y, 0);
    }
}

/* As swan_few, for values that are there already. */
void swan_few_values(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped,
                     struct work *w, float *y) {
    struct passes p;
    for (int r = 0; r < rows; r++) memcpy(y + r * b->outputs, b->down_bias, b->outputs * sizeof(float));
    for (int64_t first = 0; first < b->units; first += SPAN) {
        int64_t last = first + SPAN < b->units ? first + SPAN : b->units;
        memset(w->bits + first, 0, (last - first) * sizeof *w->bits);
        for (int r = 0; r < rows; r++)
            for (int64_t j = first; j < last; j++) {
                int64_t at = r * b->units + j;
                float value = x[at] - b->mean[j];
                w->value[j % SPAN * PASS + r] = value;
                w->bits[j] |= (uint64_t)(mask[at] && value != 0.0f) << r;
                if (dropped) dropped[at] = mask[at] ? 0.0f : value;
            }
        plan(w->bits, first, last, &p);
        if (b->half) all_axpys(b, &p, w, y, 1);
        else all_axpys(b, &p, w, y, 0);
    }
}
