/* The low-rank gate, scores = (x p) q_t + bias, and the whole gated block: x -> scores -> active units -> y in one call. */
#include "panels.h"

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

/* scores [units_padded] of one row. */
static void scores_of(const struct gate *g, const float *z, float *scores) {
    for (int64_t j = 0; j < g->units_padded; j += WIDE * VL) {
        vf acc[SCORED][WIDE];
        tile_scores(g, z, j, 1, acc);
        for (int i = 0; i < WIDE; i++) store(scores + j + i * VL, acc[0][i]);
    }
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
    vi total = {0};
    int64_t count = 0, j = 0;
    for (; j + VL <= units; j += VL) total += put_mask(mask + j, load(scores + j) > threshold);
    for (; j < units; j++) count += mask[j] = scores[j] > threshold;
    for (int i = 0; i < VL; i++) count += total[i];
    s->counts[row] = count < s->k_max ? count : s->k_max;
    if (count <= s->k_max) return 0;
    memset(mask, 0, units);
    if (s->k_max == 0) return 1;
    memcpy(copy, scores, units * sizeof(float));
    float limit = kth_largest(copy, units, s->k_max);
    int64_t above = 0;
    for (j = 0; j < units; j++) above += scores[j] > limit;
    j = 0;
    for (int64_t ties = s->k_max - above; j < units; j++) {
        int tie = scores[j] == limit && ties > 0;
        ties -= tie;
        mask[j] = scores[j] > limit || tie;
    }
    return 1;
}

static size_t gate_bytes(const struct gate *g) {
    return (GROUP * g->rank_padded + 2 * g->units_padded) * sizeof(float);
}

/* Masks of WIDE * VL units from unit j on for `rows` (a constant) rows from row r on; scores never leave the registers.
   total [rows]: active units by lane. Returns what is NaN if a score is not finite. */
INLINE vf masks_of(const struct gate *g, const float *z, int64_t j, const int rows, const struct selection *s, int64_t r,
                   vi *total) {
    vf odd = {0}, acc[SCORED][WIDE];
    tile_scores(g, z, j, rows, acc);
    int whole = j + WIDE * VL <= g->units;
#pragma GCC unroll 4
    for (int k = 0; k < rows; k++) {
        uint8_t some[WIDE * VL], *mask = s->mask + (r + k) * g->units + j;
        vf threshold = all(s->thresholds[r + k]);
#pragma GCC unroll 4
        for (int i = 0; i < WIDE; i++) {
            odd += acc[k][i] * 0.0f;
            vi active = acc[k][i] > threshold;
            if (!whole) active &= lane_numbers() + (int32_t)(j + i * VL) < (int32_t)g->units;
            total[k] += put_mask((whole ? mask : some) + i * VL, active);
        }
        if (!whole && j < g->units) memcpy(mask, some, g->units - j);
    }
    return odd;
}

/* Masks of up to GROUP rows; memory: gate_bytes. Returns cap hits, or -1 for a score that is not finite. Units outside, rows
   inside: a tile of q stays in the first-level cache. */
static int gate_group(const struct gate *g, const float *x, int rows, struct selection s, float *memory) {
    float *z = memory, *scores = z + GROUP * g->rank_padded;
    vf odd = {0};
    vi total[GROUP] = {{0}};
    int hits = 0;
    project(g, x, rows, z);
    for (int64_t j = 0; j < g->units_padded; j += WIDE * VL) {
        int r = 0;
        for (; r + SCORED <= rows; r += SCORED) odd += masks_of(g, z + r * g->rank_padded, j, SCORED, &s, r, total + r);
        for (; r < rows; r++) odd += masks_of(g, z + r * g->rank_padded, j, 1, &s, r, total + r);
    }
    float sum = 0.0f;
    for (int i = 0; i < VL; i++) sum += odd[i];
    if (sum != 0.0f) return -1;
    for (int r = 0; r < rows; r++) {
        int64_t count = 0;
        for (int i = 0; i < VL; i++) count += total[r][i];
        s.counts[r] = count;
        if (count <= s.k_max) continue;
        scores_of(g, z + r * g->rank_padded, scores); /* the rare way: which scores are the top ones */
        hits += swan_select(&s, r, scores, g->units, scores + g->units_padded);
    }
    return hits;
}

int swan_all_open(const struct selection *s, int64_t rows, int64_t units) {
    for (int64_t r = 0; r < rows; r++)
        if (s->thresholds[r] != -INFINITY) return 0;
    if (s->k_max < units) return 0;
    memset(s->mask, 1, rows * units);
    for (int64_t r = 0; r < rows; r++) s->counts[r] = units;
    return 1;
}

int swan_too_dense(const struct selection *s, int64_t rows) {
    int64_t active = 0;
    for (int64_t r = 0; r < rows; r++) active += s->counts[r];
    return active > s->most_active;
}

static int64_t gate_rows(const struct gate *g, const float *x, int64_t rows, const struct selection *s, float *memory) {
    int64_t hits = 0;
    if (swan_all_open(s, rows, g->units)) return 0;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        struct selection part = {s->k_max, 0, s->thresholds + r, s->counts + r, s->mask + r * g->units};
        int more = gate_group(g, x + r * g->inputs, n, part, memory);
        if (more < 0) return more;
        hits += more;
    }
    return hits;
}

/* x [rows, D] -> mask, counts and y [rows, O]. b == NULL: gate and mask only. thresholds .. mask: see struct selection.
   Returns the number of rows that the cap cut down; -1 for a score that is not finite, -2 without memory; -3 - cap hits if
   more than most_active units are active: mask and counts are there, y is not. */
API int64_t swan_gated(const struct gate *g, const struct block *b, const float *x, int64_t rows, const float *thresholds,
                       int64_t k_max, int64_t most_active, int64_t *counts, uint8_t *mask, float *y) {
    struct selection s = {k_max, most_active, thresholds, counts, mask};
    struct work w;
    if (swan_take_work(g->units, gate_bytes(g), &w)) return -2;
    int64_t hits = gate_rows(g, x, rows, &s, w.extra);
    if (hits < 0 || !b) return hits;
    if (swan_too_dense(&s, rows)) return -3 - hits;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        swan_masked(b, x + r * b->inputs, n, mask + r * b->units, &w, y + r * b->outputs);
    }
    return hits;
}

/* scores [rows, F] of x [rows, D]. Returns 0, or -2 without memory. */
API int64_t swan_scores(const struct gate *g, const float *x, int64_t rows, float *scores) {
    float *z = swan_scratch((g->rank_padded + g->units_padded) * sizeof(float));
    if (!z) return -2;
    for (int64_t r = 0; r < rows; r++) {
        project(g, x + r * g->inputs, 1, z);
        scores_of(g, z, z + g->rank_padded);
        memcpy(scores + r * g->units, z + g->rank_padded, g->units * sizeof(float));
    }
    return 0;
}

static void mean_row(const float *x, int64_t rows, int64_t D, float *mean) {
    memset(mean, 0, D * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < D; d++) mean[d] += x[r * D + d];
    for (int64_t d = 0; d < D; d++) mean[d] /= rows > 1 ? (float)rows : 1.0f;
}

/* Requests whose rows share a mask, see swan_shared, with the gate of each request's mean row: thresholds, caps, counts, hits
   [requests]. Returns 0, -1 for a score that is not finite, or -2 without memory. */
API int64_t swan_shared_gated(const struct gate *g, const struct block *b, const float *x, const int64_t *offsets,
                              int64_t requests, const float *thresholds, const int64_t *caps, int64_t *counts, int64_t *hits,
                              uint8_t *mask, float *y) {
    float *mean = swan_scratch(gate_bytes(g) + vectors(g->inputs) * sizeof(float));
    if (!mean) return -2;
    for (int64_t i = 0; i < requests; i++) {
        struct selection s = {caps[i], 0, thresholds + i, counts + i, mask + i * g->units};
        mean_row(x + offsets[i] * g->inputs, offsets[i + 1] - offsets[i], g->inputs, mean);
        hits[i] = gate_rows(g, mean, 1, &s, mean + vectors(g->inputs));
        if (hits[i] < 0) return hits[i];
    }
    return swan_shared(b, x, offsets, requests, mask, y);
}
