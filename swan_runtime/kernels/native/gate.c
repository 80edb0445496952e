/* The low-rank gate, scores = (x p) q_t + bias, and the whole gated block: x -> scores -> active units -> y in one call. */
#include "rows.h"

/* p [D][rank_padded], q_t [rank][units_padded], bias [units_padded]; padded with zeros to multiples of 16 and 128.
   center, norm [units_padded] or NULL: with them a score is |activation(z) - center| * norm instead of z. */
struct gate {
    int64_t units, inputs, rank, rank_padded, units_padded, activation;
    const float *p, *q_t, *bias, *center, *norm;
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

enum { SCORED = 4, WIDE = 4 }; /* rows and vectors of units that are scored together: 16 sums stay in registers */

/* Scores of WIDE * VL units from unit j on, for `rows` (a constant) rows with z [rows][rank_padded]. */
INLINE void tile_scores(const struct gate *g, const float *z, int64_t j, const int rows, vf acc[SCORED][WIDE]) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < WIDE; i++) acc[r][i] = load(g->bias + j + i * VL);
    for (int64_t k = 0; k < g->rank; k++) {
        const float *from = g->q_t + k * g->units_padded + j;
        vf q[WIDE];
#pragma GCC unroll 4
        for (int i = 0; i < WIDE; i++) q[i] = load(from + i * VL);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            vf a = all(z[r * g->rank_padded + k]);
#pragma GCC unroll 4
            for (int i = 0; i < WIDE; i++) acc[r][i] += a * q[i];
        }
    }
    if (!g->center) return;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < WIDE; i++) {
            vf off = activate(acc[r][i], (int)g->activation) - load(g->center + j + i * VL);
            acc[r][i] = pick(off < 0.0f, -off, off) * load(g->norm + j + i * VL);
        }
}

/* scores [rows][units_padded]; returns 0, or -1 if one is not finite (s * 0 is NaN exactly then). */
INLINE int scores_of(const struct gate *g, const float *z, const int rows, float *scores) {
    vf odd = {0};
    for (int64_t j = 0; j < g->units_padded; j += WIDE * VL) {
        vf acc[SCORED][WIDE];
        tile_scores(g, z, j, rows, acc);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int i = 0; i < WIDE; i++) {
                odd += acc[r][i] * 0.0f;
                store(scores + r * g->units_padded + j + i * VL, acc[r][i]);
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

int swan_select(struct selection *s, int64_t row, const float *scores, int64_t units, float *copy) {
    uint8_t *mask = s->mask + row * units;
    float threshold = s->thresholds[row];
    int64_t count = 0;
    for (int64_t j = 0; j < units; j++) {
        mask[j] = scores[j] > threshold;
        count += mask[j];
    }
    s->counts[row] = count < s->k_max ? count : s->k_max;
    if (count <= s->k_max) return 0;
    memset(mask, 0, units);
    if (s->k_max == 0) return 1;
    memcpy(copy, scores, units * sizeof(float));
    float limit = kth_largest(copy, units, s->k_max);
    int64_t above = 0;
    for (int64_t j = 0; j < units; j++) above += scores[j] > limit;
    for (int64_t j = 0, ties = s->k_max - above; j < units; j++) {
        int tie = scores[j] == limit && ties > 0;
        ties -= tie;
        mask[j] = scores[j] > limit || tie;
    }
    return 1;
}

static size_t gate_bytes(const struct gate *g) {
    return (GROUP * g->rank_padded + (SCORED + 1) * g->units_padded) * sizeof(float);
}

/* Scores and masks of up to GROUP rows; memory: gate_bytes. Returns cap hits, or -1 for a score that is not finite. */
static int gate_group(const struct gate *g, const float *x, int rows, struct selection s, float *memory) {
    float *z = memory, *scores = z + GROUP * g->rank_padded, *copy = scores + SCORED * g->units_padded;
    int hits = 0;
    project(g, x, rows, z);
    for (int r = 0; r < rows;) {
        const float *first = z + r * g->rank_padded;
        int together = rows - r >= SCORED ? SCORED : 1;
        if (together == SCORED ? scores_of(g, first, SCORED, scores) : scores_of(g, first, 1, scores)) return -1;
        for (int i = 0; i < together; i++, r++) hits += swan_select(&s, r, scores + i * g->units_padded, g->units, copy);
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
    if (swan_take_work(g->units, g->inputs, gate_bytes(g), &w)) return -2;
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
        scores_of(g, z, 1, z + g->rank_padded);
        memcpy(scores + r * g->units, z + g->rank_padded, g->units * sizeof(float));
    }
    return 0;
}
