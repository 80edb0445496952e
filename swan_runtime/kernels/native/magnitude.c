/* Magnitude gates (CATS, TEAL, R-Sparse): a unit's own value is its score. And the elementwise half of the dense path. */
#include "rows.h"

/* values [rows, F] -> act(values) in place; a score is |value| * weight. Returns cap hits, -1 for a score that is not finite,
   or -2 without memory. */
static int64_t select_rows(float *values, int64_t rows, int64_t units, int64_t activation, const float *weight,
                           struct selection *s, float *scores) {
    int64_t hits = 0;
    int open = swan_all_open(s, rows, units);
    if (open && activation == IDENTITY) return 0;
    for (int64_t r = 0; r < rows; r++) {
        float *row = values + r * units;
        vf odd = {0};
        for (int64_t j = 0; j < units; j += VL) {
            int n = units - j < VL ? (int)(units - j) : VL;
            vf v = n == VL ? load(row + j) : load_part(row + j, n);
            if (activation != IDENTITY) v = activate(v, (int)activation);
            vf score = pick(v < 0.0f, -v, v) * (n == VL ? load(weight + j) : load_part(weight + j, n));
            odd += score * 0.0f;
            store(scores + j, score);
            if (activation == IDENTITY) continue;
            if (n == VL) store(row + j, v);
            else memcpy(row + j, &v, n * sizeof(float));
        }
        float total = 0.0f;
        for (int i = 0; i < VL; i++) total += odd[i];
        if (total != 0.0f) return -1;
        if (open) continue;
        hits += swan_select(s, r, scores, units, scores + units + VL);
    }
    return hits;
}

static size_t score_bytes(int64_t units) { return 2 * (units + VL) * sizeof(float); }

/* thresholds .. mask: see struct selection. Returns as select_rows does. */
API int64_t swan_magnitude(float *values, int64_t rows, int64_t units, int64_t activation, const float *weight,
                           const float *thresholds, int64_t k_max, int64_t *counts, uint8_t *mask) {
    struct selection s = {k_max, 0, thresholds, counts, mask};
    float *scores = swan_scratch(score_bytes(units));
    return scores ? select_rows(values, rows, units, activation, weight, &s, scores) : -2;
}

/* The two skipping products of a CATS block in one call with its mask. branch [rows, F]: the dense branch, activated in
   place; x [rows, D], y [rows, O]. Returns as swan_gated does. */
API int64_t swan_cats(const struct block *b, float *branch, int64_t activation, const float *weight, const float *x,
                      int64_t rows, const float *thresholds, int64_t k_max, int64_t most_active, int64_t *counts,
                      uint8_t *mask, float *y) {
    struct selection s = {k_max, most_active, thresholds, counts, mask};
    struct work w;
    if (swan_take_work(b->units, score_bytes(b->units), &w)) return -2;
    int64_t hits = select_rows(branch, rows, b->units, activation, weight, &s, w.extra);
    if (hits < 0) return hits;
    if (swan_too_dense(&s, rows)) return -3 - hits;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        w.scale = branch + r * b->units;
        swan_masked(b, x + r * b->inputs, n, mask + r * b->units, &w, y + r * b->outputs);
    }
    return hits;
}

static void sparse_rows(const struct block *b, const float *x, int64_t rows, const uint8_t *mask, float *dropped,
                        struct work *w, float *y) {
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        int64_t at = r * b->units;
        swan_sparse_down(b, x + at, n, mask + at, dropped ? dropped + at : NULL, w, y + r * b->outputs);
    }
}

/* y [rows, O] = down_bias + sum over active inputs of (x - mean) * weight row. dropped [rows, F] or NULL: x - mean where an
   input is not active, else 0. Returns 0, or -2 without memory. */
API int64_t swan_inputs(const struct block *b, const float *x, int64_t rows, const uint8_t *mask, float *dropped, float *y) {
    struct work w;
    if (swan_take_work(b->units, 0, &w)) return -2;
    sparse_rows(b, x, rows, mask, dropped, &w, y);
    return 0;
}

/* As swan_inputs, in one call with its mask: an input's score is |x| * weight. Returns as swan_gated does. */
API int64_t swan_sparse(const struct block *b, const float *x, const float *weight, int64_t rows, const float *thresholds,
                        int64_t k_max, int64_t most_active, int64_t *counts, uint8_t *mask, float *dropped, float *y) {
    struct selection s = {k_max, most_active, thresholds, counts, mask};
    struct work w;
    if (swan_take_work(b->units, score_bytes(b->units), &w)) return -2;
    int64_t hits = select_rows((float *)x, rows, b->units, IDENTITY, weight, &s, w.extra); /* the identity writes nothing */
    if (hits < 0) return hits;
    if (swan_too_dense(&s, rows)) return -3 - hits;
    sparse_rows(b, x, rows, mask, dropped, &w, y);
    return hits;
}

/* In place, for the dense path: h [rows, F] -> (act(h) [* linear] - mean) * mask. linear [rows, F] or NULL; mask NULL: all
   units of all rows are active. */
API int64_t swan_finish(const struct block *b, int64_t rows, const uint8_t *mask, const float *linear, float *h) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = r * b->units, j = 0;
        for (; j < b->units; j += VL) {
            int n = b->units - j < VL ? (int)(b->units - j) : VL;
            float *p = h + at + j;
            vf v = activate(n == VL ? load(p) : load_part(p, n), (int)b->activation);
            if (linear) v *= n == VL ? load(linear + at + j) : load_part(linear + at + j, n);
            v -= n == VL ? load(b->mean + j) : load_part(b->mean + j, n);
            if (n == VL) {
                if (mask) v = pick(__builtin_convertvector(*(const vb_any *)(mask + at + j), vi) != 0, v, all(0.0f));
                store(p, v);
            } else
                for (int i = 0; i < n; i++) p[i] = !mask || mask[at + j + i] ? v[i] : 0.0f;
        }
    }
    return 0;
}
