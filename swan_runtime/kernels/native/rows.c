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

int swan_take_work(int64_t units, int64_t inputs, size_t extra_bytes, struct work *w) {
    w->stride = units + 48;
    w->scale = NULL;
    size_t bits = aligned((units + TILE) * 8), list = aligned((size_t)GROUP * w->stride * 4);
    size_t segment = aligned((size_t)(units / SPAN + 2) * GROUP * 4), part = 2 * PASSES * PASS * 4;
    size_t x = GROUP * aligned(inputs * 4 + 512);
    char *m = swan_scratch(bits + 2 * list + segment + part + x + GROUP * TILE * 4 + extra_bytes);
    if (!m) return -2;
    w->bits = (uint64_t *)m;
    w->index = (int32_t *)(m += bits);
    w->value = (float *)(m += list);
    w->segment = (int32_t *)(m += list);
    w->part = (float *)(m += segment);
    w->x = (float *)(m += part);
    w->y = (float *)(m += x);
    w->extra = w->y + GROUP * TILE;
    return 0;
}

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

/* A piece of all rows: columns from .. from + length of row r lie at x + r * stride. */
struct piece {
    const float *x;
    int64_t stride, from, length;
    int first, last;
};

INLINE vf add_part(vf v, float *part, const struct piece *c) {
    vf before = {0};
    if (!c->first) memcpy(&before, part, PASS * sizeof(float));
    v += before;
    if (!c->last) memcpy(part, &v, PASS * sizeof(float));
    return v;
}

/* The values of the passes of n rows each, over one piece of the inputs; the last piece finishes them: `few` keeps them by
   unit and row for axpys and leaves in w->bits the rows whose value is not 0, else they go to the rows' lists. */
INLINE float *run_passes(const struct block *b, const struct piece *c, const struct passes *p, struct work *w, float *part,
                         const int n, const int half, const int few) {
    const struct pass *pass = p->of[n];
    for (int k = 0; k < p->count[n]; k++, part += PASS) {
        int64_t j = pass[k].unit, next = k + 1 < p->count[n] ? pass[k + 1].unit : j;
        const float *x[PASS];
        int id[PASS];
        uint64_t rows = pass[k].rows;
#pragma GCC unroll 8
        for (int i = 0; i < n; i++, rows &= rows - 1) {
            id[i] = __builtin_ctzll(rows);
            x[i] = c->x + id[i] * c->stride;
        }
        int64_t at = j * b->inputs + c->from, ahead = next * b->inputs + c->from;
        vf acc[PASS] = {{0}}, other[PASS] = {{0}};
        dots(x, b->up, at, ahead, c->length, n, half, acc);
        vf h = add_part(sums(acc, n), part, c), linear = {0};
        if (b->linear) {
            dots(x, b->linear, at, ahead, c->length, n, half, other);
            linear = add_part(sums(other, n), part + PASSES * PASS, c);
        }
        if (!c->last) continue;
        h = activate(h + b->up_bias[j], (int)b->activation);
        if (b->linear) h *= linear + b->linear_bias[j];
        if (w->scale) {
            vf scale = {0};
            for (int i = 0; i < n; i++) scale[i] = w->scale[id[i] * b->units + j];
            h *= scale;
        }
        float value[VL];
        store(value, h - b->mean[j]);
        uint64_t live = 0;
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            if (!few) append(w, id[i], (int32_t)j, value[i]);
            else {
                w->value[j % SPAN * PASS + id[i]] = value[i];
                live |= (uint64_t)(value[i] != 0.0f) << id[i];
            }
        }
        if (few) w->bits[j] = live;
    }
    return part;
}

INLINE void run_all(const struct block *b, const struct piece *c, const struct passes *p, struct work *w, const int half,
                    const int few) {
    float *part = run_passes(b, c, p, w, w->part, 8, half, few);
    part = run_passes(b, c, p, w, part, 7, half, few);
    part = run_passes(b, c, p, w, part, 6, half, few);
    part = run_passes(b, c, p, w, part, 5, half, few);
    part = run_passes(b, c, p, w, part, 4, half, few);
    part = run_passes(b, c, p, w, part, 3, half, few);
    part = run_passes(b, c, p, w, part, 2, half, few);
    run_passes(b, c, p, w, part, 1, half, few);
}

static void run_span(const struct block *b, const struct piece *c, const struct passes *p, struct work *w, const int few) {
    if (few && b->half) run_all(b, c, p, w, 1, 1);
    else if (few) run_all(b, c, p, w, 0, 1);
    else if (b->half) run_all(b, c, p, w, 1, 0);
    else run_all(b, c, p, w, 0, 0);
}

/* Columns a piece of the rows may have so that all of them stay in the first-level cache (32 of 48 KiB). */
static int64_t piece_length(int64_t inputs, int rows) {
    int64_t most = PIECE_FLOATS / (rows > 32 ? 64 : rows > 16 ? 32 : 16), pieces = (inputs + most - 1) / most;
    return ((inputs + pieces - 1) / pieces + 15) / 16 * 16;
}

/* Side by side, [piece][row][length]: as rows of x they could lie a power of two apart and share a few cache sets. */
static void cut(const float *x, int64_t inputs, int rows, int64_t length, float *to) {
    for (int64_t from = 0; from < inputs; from += length) {
        int64_t used = inputs - from < length ? inputs - from : length;
        for (int r = 0; r < rows; r++, to += length) memcpy(to, x + r * inputs + from, used * sizeof(float));
    }
}

static void up_product(const struct block *b, const float *x, int rows, struct work *w) {
    struct passes p;
    int64_t length = piece_length(b->inputs, rows);
    cut(x, b->inputs, rows, length, w->x);
    memset(w->count, 0, sizeof w->count);
    memset(w->segment, 0, sizeof w->count);
    for (int64_t first = 0, span = 1; first < b->units; first += SPAN, span++) {
        plan(w->bits, first, first + SPAN < b->units ? first + SPAN : b->units, &p);
        for (int64_t from = 0; from < b->inputs; from += length) {
            int64_t left = b->inputs - from;
            struct piece c = {w->x + from * rows, length, from, left < length ? left : length, from == 0, left <= length};
            run_span(b, &c, &p, w, 0);
        }
        memcpy(w->segment + span * GROUP, w->count, sizeof w->count);
    }
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

/* Up to 8 rows: bound by the stream of weights, so each weight row is read once, whole and in order, and x and y stay in
   the first-level cache. Span by span, so that ReLU's zeros are known before their rows of the down matrix are touched. */
static void few(const struct block *b, const float *x, int rows, struct work *w, float *y) {
    struct passes p;
    struct piece c = {x, b->inputs, 0, b->inputs, 1, 1};
    for (int r = 0; r < rows; r++) memcpy(y + r * b->outputs, b->down_bias, b->outputs * sizeof(float));
    for (int64_t first = 0; first < b->units; first += SPAN) {
        int64_t last = first + SPAN < b->units ? first + SPAN : b->units;
        plan(w->bits, first, last, &p);
        run_span(b, &c, &p, w, 1);
        plan(w->bits, first, last, &p);
        if (b->half) all_axpys(b, &p, w, y, 1);
        else all_axpys(b, &p, w, y, 0);
    }
}

/* Keep a unit's bits only if a row still needs it: ReLU zeros need no weights, so nothing should fetch them. */
static void drop_zeros(const struct block *b, int rows, struct work *w) {
    memset(w->bits, 0, b->units * 8);
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < w->count[r]; k++) w->bits[w->index[r * w->stride + k]] = 1;
}

static void prefetch_span(const struct block *b, int64_t tile, const uint64_t *bits, int64_t first) {
    int64_t last = first + SPAN < b->units ? first + SPAN : b->units;
    int step = b->half ? 32 : 16;
    for (int64_t j = first; j < last; j++)
        if (bits[j])
            for (int i = 0; i < TILE; i += step) fetch_ahead(b->down_tiled, tile + j * TILE + i, (int)b->half);
}

enum { SPANS = 8, HALF = 32 };

/* Loop order: tile, then 8 spans (256 KiB, second-level cache), then 32 rows (16 KiB of y), then span, then row. */
static void down_product(const struct block *b, const struct work *w, int rows, float *y) {
    int64_t spans = (b->units + SPAN - 1) / SPAN;
    for (int64_t t = 0; t * TILE < b->outputs; t++) {
        int64_t width = b->outputs - t * TILE < TILE ? b->outputs - t * TILE : TILE;
        int64_t tile = t * b->units * TILE;
        memset(w->y, 0, TILE * sizeof(float));
        memcpy(w->y, b->down_bias + t * TILE, width * sizeof(float));
        for (int r = 1; r < rows; r++) memcpy(w->y + r * TILE, w->y, TILE * sizeof(float));
        for (int64_t s = 0; s < spans; s += SPANS)
            for (int h = 0; h < rows; h += HALF)
                for (int64_t k = s; k < s + SPANS && k < spans; k++) {
                    if (h == 0) prefetch_span(b, tile, w->bits, (k + 1) * SPAN);
                    const int32_t *from = w->segment + k * GROUP, *to = from + GROUP;
                    for (int r = h; r < h + HALF && r < rows; r++) {
                        int64_t at = r * w->stride + from[r];
                        const int32_t *index = w->index + at;
                        int count = to[r] - from[r];
                        if (b->half) down_tile(b->down_tiled, tile, index, w->value + at, count, 0, 1, w->y + r * TILE);
                        else down_tile(b->down_tiled, tile, index, w->value + at, count, 0, 0, w->y + r * TILE);
                    }
                }
        for (int r = 0; r < rows; r++) memcpy(y + r * b->outputs + t * TILE, w->y + r * TILE, width * sizeof(float));
    }
}

static void group(const struct block *b, const float *x, int rows, struct work *w, float *y) {
    if (rows <= PASS) {
        few(b, x, rows, w, y);
        return;
    }
    up_product(b, x, rows, w);
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

/* x [rows, D], mask bytes [rows, F], y [rows, O]; scale: NULL, or [rows, F], see struct work.
   Returns 0, or -2 without memory. */
API int swan_rows(const struct block *b, const float *x, int64_t rows, const uint8_t *mask, const float *scale, float *y) {
    struct work w;
    if (swan_take_work(b->units, b->inputs, 0, &w)) return -2;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        w.scale = scale ? scale + r * b->units : NULL;
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

/* The lists of up_product, from values that are there already. */
static void list_values(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w) {
    memset(w->count, 0, sizeof w->count);
    memset(w->segment, 0, sizeof w->count);
    for (int64_t first = 0, span = 1; first < b->units; first += SPAN, span++) {
        int64_t last = first + SPAN < b->units ? first + SPAN : b->units;
        for (int r = 0; r < rows; r++)
            for (int64_t j = first; j < last; j++) {
                int64_t at = r * b->units + j;
                float value = x[at] - b->mean[j];
                append(w, r, (int32_t)j, mask[at] ? value : 0.0f);
                if (dropped) dropped[at] = mask[at] ? 0.0f : value;
            }
        memcpy(w->segment + span * GROUP, w->count, sizeof w->count);
    }
}

/* As few(), for values that are there already; w->count and the lists are not used. */
static void few_values(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w,
                       float *y) {
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

void swan_sparse_down(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w,
                      float *y) {
    if (rows > 1 && rows <= PASS) {
        few_values(b, x, rows, mask, dropped, w, y);
        return;
    }
    list_values(b, x, rows, mask, dropped, w);
    if (rows == 1) {
        swan_single_down(b, w->count[0], w, y);
        return;
    }
    mask_bits(mask, rows, b->units, w->bits);
    down_product(b, w, rows, y);
}
