/* Vector rows, each with its own mask: which way serves how many of them, and the memory that all ways work in. */
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
    int64_t spans = units / SPAN + 2;
    w->stride = units + 48;
    w->blocks = (units + 15) / 16;
    w->scale = NULL;
    size_t bits = aligned((units + TILE) * 8), list = aligned((size_t)GROUP * w->stride * 4);
    size_t segment = aligned((size_t)spans * GROUP * 4), part = 2 * PART_FLOATS * 4, order = aligned((size_t)spans * GROUP);
    size_t chosen = aligned((size_t)GROUP * w->blocks * 2);
    char *m = swan_scratch(bits + 2 * list + segment + part + order + chosen + GROUP * TILE * 4 + extra_bytes);
    if (!m) return -2;
    w->bits = (uint64_t *)m;
    w->index = (int32_t *)(m += bits);
    w->value = (float *)(m += list);
    w->segment = (int32_t *)(m += list);
    w->part = (float *)(m += segment);
    w->order = (uint8_t *)(m += part);
    w->chosen = (uint16_t *)(m += order);
    w->y = (float *)(m += chosen);
    w->extra = w->y + GROUP * TILE;
    return 0;
}

static void mask_bits(const uint8_t *mask, int rows, int64_t units, uint64_t *bits) {
    memset(bits, 0, units * 8);
    for (int r = 0; r < rows; r++)
        for (int64_t j = 0; j < units; j++) bits[j] |= (uint64_t)(mask[r * units + j] != 0) << r;
}

int swan_mask_index(const uint8_t *mask, int64_t units, int32_t *index) {
    int active = 0;
    for (int64_t j = 0; j < units; j++) {
        index[active] = (int32_t)j;
        active += mask[j] != 0;
    }
    return active;
}

/* x [rows, D], mask bytes [rows, F], y [rows, O]; scale: NULL, or [rows, F], see struct work.
   Returns 0, or -2 without memory. */
API int64_t swan_rows(const struct block *b, const float *x, int64_t rows, const uint8_t *mask, const float *scale, float *y) {
    struct work w;
    if (swan_take_work(b->units, 0, &w)) return -2;
    for (int64_t r = 0; r < rows; r += GROUP) {
        int n = rows - r < GROUP ? (int)(rows - r) : GROUP;
        w.scale = scale ? scale + r * b->units : NULL;
        swan_masked(b, x + r * b->inputs, n, mask + r * b->units, &w, y + r * b->outputs);
    }
    return 0;
}

void swan_masked(const struct block *b, const float *x, int rows, const uint8_t *mask, struct work *w, float *y) {
    if (rows == 1) {
        swan_single(b, x, swan_mask_index(mask, b->units, w->index), w, y);
    } else if (rows <= PASS) {
        mask_bits(mask, rows, b->units, w->bits);
        swan_few(b, x, rows, w, y);
    } else {
        swan_many(b, x, rows, mask, w, y);
    }
}

void swan_sparse_down(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w,
                      float *y) {
    if (rows > 1 && rows <= PASS) {
        swan_few_values(b, x, rows, mask, dropped, w, y);
        return;
    }
    swan_many_values(b, x, rows, mask, dropped, w, y);
    if (rows == 1) swan_single_down(b, w->count[0], w, y);
}
