/* The low-rank gate, scores = (x p) q_t + bias, and the whole gated block: x -> scores -> active units -> y in one call. */
#include "rows.h"

/* p [D][rank_padded], q_t [rank][units_padded], bias [units_padded]; padded with zeros to multiples of 16 and 128.
   center, norm [units_padded] or NULL: with them a score is |activation(z) - center| * norm instead of z. */
struct gate {
    int64_t units, inputs, rank, rank_padded, units_padded, activation;
    const float *p, *q_t, *bias, *center, *norm;
};

/* What to run, and what was chosen: counts [rows], mask bytes [rows, F]. */
struct selection {
    int64_t k_max;           /* most active units a row; the top scores stay, the lower index wins among equals */
    int64_t most_active;     /* stop before the block if more units are active in all rows together: dense is faster */
    int64_t cap_hits;        /* out: rows that the cap cut down */
    const float *thresholds; /* [rows] */
    int64_t *counts;
    uint8_t *mask;
};

/* z[rows][rank_padded] = x p: up to 8 rows, or 8 inputs of one row, share a pass. */
static void project(const struct gate *g, const float *x, int rows, float *z) {
    int64_t D = g->inputs, R = g->rank_padded;
    for (int64_t k = 0; k < R; k += VL) {
        int r = 0;
        for (; r + PASS <= rows; r += PASS) {
            vf acc[PASS] = {{0}};
            for (int64_t d = 0; d < D; d++) {
                vf p = load(g->p + d * R + k);
#pragma GCC unroll 8
                for (int i = 0; i < PASS; i++) acc[i] += p * x[(r + i) * D + d];
            }
#pragma GCC unroll 8
            for (int i = 0; i < PASS; i++) store(z + (r + i) * R + k, acc[i]);
        }
        for (; r < rows; r++) {
            vf acc[PASS] = {{0}};
            int64_t d = 0;
            for (; d + PASS <= D; d += PASS)
#pragma GCC unroll 8
                for (int i = 0; i < PASS; i++) acc[i] += load(g->p + (d + i) * R + k) * x[r * D + d + i];
            for (; d < D; d++) acc[0] += load(g->p + d * R + k) * x[r * D + d];
#pragma GCC unroll 8
            for (int i = 1; i < PASS; i++) acc[0] += acc[i];
            store(z + r * R + k, acc[0]);
        }
    }
}

/* One row's scores of PASS * VL units. */
INLINE void tile_scores(const struct gate *g, const float *z, int64_t j, vf *acc) {
#pragma GCC unroll 8
    for (int i = 0; i < PASS; i++) acc[i] = load(g->bias + j + i * VL);
    for (int64_t k = 0; k < g->rank; k++) {
        vf a = all(z[k]);
        const float *q = g->q_t + k * g->units_padded + j;
#pragma GCC unroll 8
        for (int i = 0; i < PASS; i++) acc[i] += a * load(q + i * VL);
    }
    if (!g->center) return;
    for (int i = 0; i < PASS; i++) {
        vf off = activate(acc[i], (int)g->activation) - load(g->center + j + i * VL);
        acc[i] = pick(off < 0.0f, -off, off) * load(g->norm + j + i * VL);
    }
}

/* scores [units_padded] of one row; returns 0, or -1 if one is not finite (s * 0 is NaN exactly then). */
static int row_scores(const struct gate *g, const float *z, float *scores) {
    vf odd = {0};
    for (int64_t j = 0; j < g->units_padded; j += PASS * VL) {
        vf acc[PASS];
        tile_scores(g, z, j, acc);
#pragma GCC unroll 8
        for (int i = 0; i < PASS; i++) {
            odd += acc[i] * 0.0f;
            store(scores + j + i * VL, acc[i]);
        }
    }
    float total = 0.0f;
    for (int i = 0; i < VL; i++) total += odd[i];
    return total == 0.0f ? 0 : -1;
}

/* The k-th largest of n values (k >= 1), by quickselect in place. */
static float kth_largest(float *v, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1, want = k - 1;
    while (low < high) {
        float pivot = v[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i <= j) {
                float t = v[i];
                v[i++] = v[j];
                v[j--] = t;
            }
        }
        if (want <= j) high = j;
        else if (want >= i) low = i;
        else break;
    }
    return v[want];
}

/* Mask bytes of one row; returns the number of active units and sets *hit if the cap cut it down. */
static int64_t select_row(const float *scores, int64_t units, float threshold, int64_t k_max, uint8_t *mask, float *copy,
                          int *hit) {
    int64_t count = 0;
    for (int64_t j = 0; j < units; j++) {
        mask[j] = scores[j] > threshold;
        count += mask[j];
    }
    *hit = count > k_max;
    if (!*hit) return count;
    memset(mask, 0, units);
    if (k_max == 0) return 0;
    memcpy(copy, scores, units * sizeof(float));
    float limit = kth_largest(copy, units, k_max);
    int64_t above = 0;
    for (int64_t j = 0; j < units; j++) above += scores[j] > limit;
    for (int64_t j = 0, ties = k_max - above; j < units; j++) {
        int tie = scores[j] == limit && ties > 0;
        ties -= tie;
        mask[j] = scores[j] > limit || tie;
    }
    return k_max;
}

static size_t gate_bytes(const struct gate *g) {
    return (GROUP * g->rank_padded + 2 * g->units_padded) * sizeof(float);
}

/* Scores and masks of up to GROUP rows; memory: gate_bytes. Returns cap hits, or -1 for a score that is not finite. */
static int gate_group(const struct gate *g, const float *x, int rows, struct selection s, float *memory) {
    float *z = memory, *scores = z + GROUP * g->rank_padded, *copy = scores + g->units_padded;
    int hits = 0, hit;
    project(g, x, rows, z);
    for (int r = 0; r < rows; r++) {
        if (row_scores(g, z + r * g->rank_padded, scores)) return -1;
        s.counts[r] = select_row(scores, g->units, s.thresholds[r], s.k_max, s.mask + r * g->units, copy, &hit);
        hits += hit;
    }
    return hits;
}

/* Every threshold is -inf: everything runs, no score is needed (nor checked). */
static int all_open(const struct selection *s, int64_t rows, int64_t units) {
    for (int64_t r = 0; r < rows; r++)
        if (s->thresholds[r] != -INFINITY) return 0;
    if (s->k_max < units) return 0;
    memset(s->mask, 1, rows * units);
    for (int64_t r = 0; r < rows; r++) s->counts[r] = units;
    return 1;
}

static int gate_rows(const struct gate *g, const float *x, int64_t rows, struct selection *s, float *memory) {
    s->cap_hits = 0;
    if (all_open(s, rows, g->units)) return 0;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        struct selection part = {s->k_max, 0, 0, s->thresholds + r, s->counts + r, s->mask + r * g->units};
        int hits = gate_group(g, x + r * g->inputs, n, part, memory);
        if (hits < 0) return hits;
        s->cap_hits += hits;
    }
    return 0;
}

/* b == NULL: gate and mask only. Returns 0, -1 for a score that is not finite, -2 without memory, -3 if more than
   s->most_active units are active: mask and counts are there, y is not. */
API int swan_gated(const struct gate *g, const struct block *b, const float *x, int64_t rows, struct selection *s, float *y) {
    struct work w;
    if (swan_take_work(g->units, gate_bytes(g), &w)) return -2;
    int code = gate_rows(g, x, rows, s, w.extra);
    if (code < 0 || !b) return code;
    int64_t active = 0;
    for (int64_t r = 0; r < rows; r++) active += s->counts[r];
    if (active > s->most_active) return -3;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        swan_masked(b, x + r * b->inputs, n, s->mask + r * b->units, &w, y + r * b->outputs);
    }
    return 0;
}

/* scores [rows, F] of x [rows, D]. Returns 0, or -2 without memory. */
API int swan_scores(const struct gate *g, const float *x, int64_t rows, float *scores) {
    float *z = swan_scratch((g->rank_padded + g->units_padded) * sizeof(float));
    if (!z) return -2;
    for (int64_t r = 0; r < rows; r++) {
        project(g, x + r * g->inputs, 1, z);
        row_scores(g, z, z + g->rank_padded);
        memcpy(scores + r * g->units, z + g->rank_padded, g->units * sizeof(float));
    }
    return 0;
}

/* In place, for the dense path: h [rows, F] -> (act(h) [* linear] - mean) * mask. linear [rows, F] or NULL. */
API int swan_finish(const struct block *b, int64_t rows, const uint8_t *mask, const float *linear, float *h) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = r * b->units, j = 0;
        for (; j < b->units; j += VL) {
            int n = b->units - j < VL ? (int)(b->units - j) : VL;
            float *p = h + at + j;
            vf v = activate(n == VL ? load(p) : load_part(p, n), (int)b->activation);
            if (linear) v *= n == VL ? load(linear + at + j) : load_part(linear + at + j, n);
            v -= n == VL ? load(b->mean + j) : load_part(b->mean + j, n);
            vf keep = {0};
            for (int i = 0; i < n; i++) keep[i] = mask[at + j + i];
            v *= keep;
            if (n == VL) store(p, v);
            else
                for (int i = 0; i < n; i++) p[i] = v[i];
        }
    }
    return 0;
}
