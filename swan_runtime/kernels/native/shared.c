/* Rows of one request that share a mask: two dense products over the active units only, their weight rows read in place.
   Up product: 4 rows x 6 units of dot products in registers. Down product: 6 rows x 4 vectors of columns. */
#include "rows.h"

#if VL == 16
enum { ROWS = 4, UNITS = 6, DOWN_ROWS = 6, DOWN_VECS = 4 };
#else
enum { ROWS = 2, UNITS = 4, DOWN_ROWS = 4, DOWN_VECS = 2 };
#endif
enum { BATCH = 96 }; /* rows at once: their hidden values stay in the second-level cache; a multiple of both row counts */

/* Lane u of out[r] = dot(x[r], weight row of unit[u]). */
INLINE void block_dots(const float *matrix, const int32_t *unit, const float *const *x, int64_t D, vf *out) {
    vf acc[ROWS][PASS] = {{{0}}};
    const float *w[UNITS];
    for (int u = 0; u < UNITS; u++) w[u] = matrix + unit[u] * D;
    int64_t d = 0;
    for (; d + VL <= D; d += VL) {
        vf a[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) a[r] = load(x[r] + d);
#pragma GCC unroll 6
        for (int u = 0; u < UNITS; u++) {
            vf b = load(w[u] + d);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) acc[r][u] += a[r] * b;
        }
    }
    if (d < D)
        for (int u = 0; u < UNITS; u++)
            for (int r = 0; r < ROWS; r++)
                acc[r][u] += load_part(x[r] + d, (int)(D - d)) * load_part(w[u] + d, (int)(D - d));
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) out[r] = sums(acc[r], UNITS);
}

/* The active units, padded with repeats, and their constants side by side. */
struct active {
    int count;
    int32_t *index;
    float *bias, *linear_bias, *mean;
};

static void pack(const struct block *b, const uint8_t *mask, struct active *a) {
    a->count = 0;
    for (int64_t j = 0; j < b->units; j++) {
        a->index[a->count] = (int32_t)j;
        a->count += mask[j] != 0;
    }
    for (int i = 0; i < VL; i++) a->index[a->count + i] = a->count ? a->index[a->count - 1] : 0;
    for (int i = 0; i < a->count + VL; i++) {
        a->bias[i] = b->up_bias[a->index[i]];
        a->mean[i] = b->mean[a->index[i]];
        if (b->linear) a->linear_bias[i] = b->linear_bias[a->index[i]];
    }
}

/* Fetch part `step` of `steps` of the next units' weight rows while the present ones are at work. */
INLINE void fetch(const float *matrix, const int32_t *unit, int64_t D, int step, int steps) {
    int64_t from = D * step / steps / 16 * 16, to = step + 1 == steps ? D : D * (step + 1) / steps / 16 * 16;
    for (int u = 0; u < UNITS; u++)
        for (int64_t d = from; d < to; d += 16) __builtin_prefetch(matrix + unit[u] * D + d);
}

/* h [rows rounded up][stride] = act(...) - mean of the active units. Units outside, rows inside: 6 weight rows stay in the
   first-level cache while x passes by. */
static void up_product(const struct block *b, const struct active *a, const float *x, int rows, float *h, int64_t stride) {
    int steps = (rows + ROWS - 1) / ROWS;
    for (int k = 0; k < a->count; k += UNITS)
        for (int s = 0; s < steps; s++) {
            const float *row[ROWS];
            for (int i = 0; i < ROWS; i++) row[i] = x + (s * ROWS + i < rows ? s * ROWS + i : rows - 1) * b->inputs;
            if (k + UNITS < a->count) fetch(b->up, a->index + k + UNITS, b->inputs, s, steps);
            vf up[ROWS], linear[ROWS] = {{0}};
            block_dots(b->up, a->index + k, row, b->inputs, up);
            if (b->linear) block_dots(b->linear, a->index + k, row, b->inputs, linear);
#pragma GCC unroll 4
            for (int i = 0; i < ROWS; i++) {
                vf v = activate(up[i] + load(a->bias + k), (int)b->activation);
                if (b->linear) v *= linear[i] + load(a->linear_bias + k);
                store(h + (s * ROWS + i) * stride + k, v - load(a->mean + k)); /* lanes past UNITS: overwritten next */
            }
        }
}

/* y[r][0 .. DOWN_VECS * VL) += h[r][0 .. count) x rows of the tile. */
INLINE void down_block(const float *tile, const int32_t *index, int count, const float *h, int64_t stride, float *y) {
    const int width = DOWN_VECS * VL;
    vf acc[DOWN_ROWS][DOWN_VECS];
#pragma GCC unroll 6
    for (int r = 0; r < DOWN_ROWS; r++)
#pragma GCC unroll 4
        for (int i = 0; i < DOWN_VECS; i++) acc[r][i] = load(y + r * width + i * VL);
    for (int k = 0; k < count; k++) {
        const float *w = tile + (int64_t)index[k] * TILE;
        vf column[DOWN_VECS];
#pragma GCC unroll 4
        for (int i = 0; i < DOWN_VECS; i++) column[i] = load(w + i * VL);
#pragma GCC unroll 6
        for (int r = 0; r < DOWN_ROWS; r++) {
            vf v = all(h[r * stride + k]);
#pragma GCC unroll 4
            for (int i = 0; i < DOWN_VECS; i++) acc[r][i] += v * column[i];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < DOWN_ROWS; r++)
#pragma GCC unroll 4
        for (int i = 0; i < DOWN_VECS; i++) store(y + r * width + i * VL, acc[r][i]);
}

/* 64 columns, then 96 units (24 KiB of weights, first-level cache), then 6 rows at a time. */
static void down_product(const struct block *b, const struct active *a, const float *h, int64_t stride, int rows, float *y) {
    enum { WIDTH = DOWN_VECS * VL, PART = 96 };
    float out[BATCH * WIDTH];
    for (int64_t c = 0; c < b->outputs; c += WIDTH) {
        int used = b->outputs - c < WIDTH ? (int)(b->outputs - c) : WIDTH;
        const float *tile = (const float *)b->down_tiled + c / TILE * b->units * TILE + c % TILE;
        memset(out, 0, sizeof out);
        for (int r = 0; r < rows; r++) memcpy(out + r * WIDTH, b->down_bias + c, used * sizeof(float));
        for (int k = 0; k < a->count; k += PART) {
            int count = a->count - k < PART ? a->count - k : PART;
            for (int i = k + PART; i < k + 2 * PART && i < a->count; i++)
                for (int v = 0; v < WIDTH; v += 16) __builtin_prefetch(tile + (int64_t)a->index[i] * TILE + v);
            for (int r = 0; r < rows; r += DOWN_ROWS)
                down_block(tile, a->index + k, count, h + r * stride + k, stride, out + r * WIDTH);
        }
        for (int r = 0; r < rows; r++) memcpy(y + r * b->outputs + c, out + r * WIDTH, used * sizeof(float));
    }
}

/* Request i owns rows offsets[i] .. offsets[i + 1] of x [T, D] and y [T, O]; mask bytes [requests, F].
   Returns 0, or -2 without memory. */
API int64_t swan_shared(const struct block *b, const float *x, const int64_t *offsets, int64_t requests, const uint8_t *mask,
                    float *y) {
    int64_t stride = b->units + 2 * VL + 16;
    float *m = swan_scratch((4 + BATCH + DOWN_ROWS) * stride * sizeof(float));
    if (!m) return -2;
    struct active a = {0, (int32_t *)m, m + stride, m + 2 * stride, m + 3 * stride};
    float *h = m + 4 * stride;
    for (int64_t i = 0; i < requests; i++) {
        pack(b, mask + i * b->units, &a);
        for (int64_t r = offsets[i]; r < offsets[i + 1]; r += BATCH) {
            int rows = offsets[i + 1] - r < BATCH ? (int)(offsets[i + 1] - r) : BATCH;
            up_product(b, &a, x + r * b->inputs, rows, h, stride);
            down_product(b, &a, h, stride, rows, y + r * b->outputs);
        }
    }
    return 0;
}

/* Fetches a weight row that is copied soon: the rows are apart, so the CPU does not foresee them. */
INLINE void fetch_row(const void *matrix, int64_t row, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) __builtin_prefetch((const float *)matrix + row * n + i);
}

/* Copies the active units' rows, side by side, for MKL: up, linear [count, D], down [count, O]; constants [3][F]: biases of
   up and linear, and means. Returns count. */
API int64_t swan_gather(const struct block *b, const uint8_t *mask, float *up, float *linear, float *down, float *constants) {
    int64_t D = b->inputs, O = b->outputs, F = b->units, count = 0, next = 0;
    while (next < F && !mask[next]) next++;
    for (int64_t j = next; j < F; j = next, count++) {
        for (next = j + 1; next < F && !mask[next];) next++;
        if (next < F) {
            fetch_row(b->up, next, D);
            if (b->linear) fetch_row(b->linear, next, D);
            fetch_row(b->down, next, O);
        }
        memcpy(up + count * D, (const float *)b->up + j * D, D * sizeof(float));
        if (b->linear) memcpy(linear + count * D, (const float *)b->linear + j * D, D * sizeof(float));
        memcpy(down + count * O, (const float *)b->down + j * O, O * sizeof(float));
        constants[count] = b->up_bias[j];
        constants[F + count] = b->linear ? b->linear_bias[j] : 0.0f;
        constants[2 * F + count] = b->mean[j];
    }
    return count;
}

/* In place on h [count, rows], a unit in each row: act(h + bias) [* (linear + bias)] - mean. linear [count, rows] or NULL. */
API int64_t swan_finish_turned(const struct block *b, int64_t count, int64_t rows, const float *constants, const float *linear,
                               float *h) {
    for (int64_t j = 0; j < count; j++) {
        float bias = constants[j], other = constants[b->units + j], mean = constants[2 * b->units + j];
        for (int64_t r = 0; r < rows; r += VL) {
            int n = rows - r < VL ? (int)(rows - r) : VL;
            int64_t at = j * rows + r;
            vf v = activate((n == VL ? load(h + at) : load_part(h + at, n)) + bias, (int)b->activation);
            if (linear) v *= (n == VL ? load(linear + at) : load_part(linear + at, n)) + other;
            v -= mean;
            if (n == VL) store(h + at, v);
            else memcpy(h + at, &v, n * sizeof(float));
        }
    }
    return 0;
}
