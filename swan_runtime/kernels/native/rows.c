/* Several vector rows, each with its own mask.
   Up product: unit by unit, up to 8 rows a pass over one weight row. Down product: row by row over 128-column tiles whose
   sums stay in registers, 64 units at a time so that the tile stays in the first-level cache. */
#include "rows.h"
#include <pthread.h>

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static _Thread_local void *scratch;
static _Thread_local size_t scratch_bytes;

static void make_key(void) { pthread_key_create(&scratch_key, free); }

void *swan_scratch(size_t bytes) {
    if (bytes <= scratch_bytes) return scratch;
    pthread_once(&scratch_once, make_key);
    free(scratch);
    bytes = (bytes + 63) & ~(size_t)63;
    scratch = aligned_alloc(64, bytes);
    scratch_bytes = scratch ? bytes : 0;
    pthread_setspecific(scratch_key, scratch);
    return scratch;
}

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

int swan_take_work(int64_t units, size_t extra_bytes, struct work *w) {
    w->stride = units + 48;
    size_t bits = aligned((units + TILE) * 8), list = aligned((size_t)GROUP * w->stride * 4);
    size_t segment = aligned((size_t)(units / SPAN + 2) * GROUP * 4);
    char *m = swan_scratch(bits + 2 * list + segment + GROUP * TILE * 4 + extra_bytes);
    if (!m) return -2;
    w->bits = (uint64_t *)m;
    w->index = (int32_t *)(m += bits);
    w->value = (float *)(m += list);
    w->segment = (int32_t *)(m += list);
    w->y = (float *)(m += segment);
    w->extra = w->y + GROUP * TILE;
    return 0;
}

/* One pass: a unit and the n <= 8 rows that it serves together. */
struct pass {
    uint64_t rows;
    int64_t unit;
};
struct passes {
    int count[PASS + 1];
    struct pass of[PASS + 1][SPAN * (GROUP / PASS)];
};

/* Sort the span's work by pass size: loops of a known size, and no mispredicted branch per unit. */
static void plan(const uint64_t *bits, int64_t first, int64_t last, struct passes *p) {
    memset(p->count, 0, sizeof p->count);
    for (int64_t j = first; j < last; j++) {
        uint64_t rows = bits[j];
        int left = __builtin_popcountll(rows);
        while (left > PASS) {
            int n = left > 2 * PASS ? PASS : (left + 1) / 2;
            uint64_t rest = rows;
            for (int i = 0; i < n; i++) rest &= rest - 1;
            p->of[n][p->count[n]++] = (struct pass){rows ^ rest, j};
            rows = rest;
            left -= n;
        }
        p->of[left][p->count[left]] = (struct pass){rows, j};
        p->count[left] += left > 0;
    }
}

INLINE void append(struct work *w, int row, int32_t unit, float value) {
    /* Branch-free: a value of 0 (ReLU) is overwritten by the next one and costs the down product nothing. */
    int64_t at = row * w->stride + w->count[row];
    w->index[at] = unit;
    w->value[at] = value;
    w->count[row] += value != 0.0f;
}

INLINE void run_passes(const struct block *b, const float *x0, const struct passes *p, struct work *w, const int n) {
    const struct pass *pass = p->of[n];
    for (int k = 0; k < p->count[n]; k++) {
        int64_t j = pass[k].unit, next = k + 1 < p->count[n] ? pass[k + 1].unit : j, D = b->inputs;
        const float *x[PASS];
        int id[PASS];
        uint64_t rows = pass[k].rows;
#pragma GCC unroll 8
        for (int i = 0; i < n; i++, rows &= rows - 1) {
            id[i] = __builtin_ctzll(rows);
            x[i] = x0 + id[i] * D;
        }
        vf acc[PASS] = {{0}}, linear[PASS] = {{0}};
        dots(x, b->up + j * D, b->up + next * D, D, n, acc);
        vf h = activate(sums(acc, n) + b->up_bias[j], (int)b->activation);
        if (b->linear) {
            dots(x, b->linear + j * D, b->linear + next * D, D, n, linear);
            h *= sums(linear, n) + b->linear_bias[j];
        }
        float value[VL];
        store(value, h - b->mean[j]);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) append(w, id[i], (int32_t)j, value[i]);
    }
}

static void up_product(const struct block *b, const float *x, struct work *w) {
    struct passes p;
    memset(w->count, 0, sizeof w->count);
    memset(w->segment, 0, sizeof w->count);
    for (int64_t first = 0, span = 1; first < b->units; first += SPAN, span++) {
        plan(w->bits, first, first + SPAN < b->units ? first + SPAN : b->units, &p);
        run_passes(b, x, &p, w, 8);
        run_passes(b, x, &p, w, 7);
        run_passes(b, x, &p, w, 6);
        run_passes(b, x, &p, w, 5);
        run_passes(b, x, &p, w, 4);
        run_passes(b, x, &p, w, 3);
        run_passes(b, x, &p, w, 2);
        run_passes(b, x, &p, w, 1);
        memcpy(w->segment + span * GROUP, w->count, sizeof w->count);
    }
}

/* Keep a unit's bits only if a row still needs it: ReLU zeros need no weights, so nothing should fetch them. */
static void drop_zeros(const struct block *b, int rows, struct work *w) {
    memset(w->bits, 0, b->units * 8);
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < w->count[r]; k++) w->bits[w->index[r * w->stride + k]] = 1;
}

static void prefetch_span(const float *tile, const uint64_t *bits, int64_t first, int64_t units) {
    int64_t last = first + SPAN < units ? first + SPAN : units;
    for (int64_t j = first; j < last; j++)
        if (bits[j])
            for (int i = 0; i < TILE; i += 16) __builtin_prefetch(tile + j * TILE + i, 0, 2);
}

enum { SPANS = 8, HALF = 32 };

/* Loop order: tile, then 8 spans (256 KiB, second-level cache), then 32 rows (16 KiB of y), then span, then row. */
static void down_product(const struct block *b, const struct work *w, int rows, float *y) {
    int64_t spans = (b->units + SPAN - 1) / SPAN;
    for (int64_t t = 0; t * TILE < b->outputs; t++) {
        int64_t width = b->outputs - t * TILE < TILE ? b->outputs - t * TILE : TILE;
        const float *tile = b->down_tiled + t * b->units * TILE;
        memset(w->y, 0, TILE * sizeof(float));
        memcpy(w->y, b->down_bias + t * TILE, width * sizeof(float));
        for (int r = 1; r < rows; r++) memcpy(w->y + r * TILE, w->y, TILE * sizeof(float));
        for (int64_t s = 0; s < spans; s += SPANS)
            for (int h = 0; h < rows; h += HALF)
                for (int64_t k = s; k < s + SPANS && k < spans; k++) {
                    if (h == 0) prefetch_span(tile, w->bits, (k + 1) * SPAN, b->units);
                    const int32_t *from = w->segment + k * GROUP, *to = from + GROUP;
                    for (int r = h; r < h + HALF && r < rows; r++) {
                        int64_t at = r * w->stride + from[r];
                        down_tile(tile, w->index + at, w->value + at, to[r] - from[r], 0, w->y + r * TILE);
                    }
                }
        for (int r = 0; r < rows; r++) memcpy(y + r * b->outputs + t * TILE, w->y + r * TILE, width * sizeof(float));
    }
}

static void group(const struct block *b, const float *x, int rows, struct work *w, float *y) {
    up_product(b, x, w);
    if (rows <= 16 && b->activation == RELU) drop_zeros(b, rows, w);
    down_product(b, w, rows, y);
}

static void mask_bits(const uint8_t *mask, int rows, int64_t units, uint64_t *bits) {
    memset(bits, 0, units * 8);
    for (int r = 0; r < rows; r++)
        for (int64_t j = 0; j < units; j++) bits[j] |= (uint64_t)(mask[r * units + j] != 0) << r;
}

static int mask_index(const uint8_t *mask, int64_t units, int32_t *index) {
    int active = 0;
    for (int64_t j = 0; j < units; j++) {
        index[active] = (int32_t)j;
        active += mask[j] != 0;
    }
    return active;
}

/* x [rows, D], mask bytes [rows, F], y [rows, O]. Returns 0, or -2 without memory. */
API int swan_rows(const struct block *b, const float *x, int64_t rows, const uint8_t *mask, float *y) {
    struct work w;
    if (swan_take_work(b->units, 0, &w)) return -2;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        swan_masked(b, x + r * b->inputs, n, mask + r * b->units, &w, y + r * b->outputs);
    }
    return 0;
}

void swan_masked(const struct block *b, const float *x, int rows, const uint8_t *mask, struct work *w, float *y) {
    if (rows == 1) {
        swan_single(b, x, mask_index(mask, b->units, w->index), w, y);
    } else {
        mask_bits(mask, rows, b->units, w->bits);
        group(b, x, rows, w, y);
    }
}
