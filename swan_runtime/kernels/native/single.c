/* One vector row: 8 active units share each load of x, then their rows of the down matrix are added up. Both products are
   bound by memory, so many weight rows are in flight at once. */
#include "rows.h"

INLINE vf units_dots(const void *matrix, const float *x, const int32_t *unit, int64_t D, const int half) {
    vf acc[PASS] = {{0}};
    int64_t d = 0;
    for (; d + VL <= D; d += VL) {
        vf value = load(x + d);
#pragma GCC unroll 8
        for (int i = 0; i < PASS; i++) acc[i] += value * weights(matrix, unit[i] * D + d, half);
    }
    if (d < D) {
        vf value = load_part(x + d, (int)(D - d));
        for (int i = 0; i < PASS; i++) acc[i] += value * weights_part(matrix, unit[i] * D + d, (int)(D - d), half);
    }
    return sums(acc, PASS);
}

static vf gather(const float *from, const int32_t *unit) {
    vf v = {0};
    for (int i = 0; i < PASS; i++) v[i] = from[unit[i]];
    return v;
}

INLINE void single(const struct block *b, const float *x, int active, const int half, struct work *w, float *y) {
    int32_t *index = w->index;
    int kept = 0;
    /* Repeats of the last unit fill the last pass; their values are not kept. */
    for (int i = 0; i < 2 * PASS; i++) index[active + i] = active ? index[active - 1] : 0;
    for (int k = 0; k < active; k += PASS) {
        int32_t unit[PASS];
        memcpy(unit, index + k, sizeof unit);
        vf h = activate(units_dots(b->up, x, unit, b->inputs, half) + gather(b->up_bias, unit), (int)b->activation);
        if (b->linear) h *= units_dots(b->linear, x, unit, b->inputs, half) + gather(b->linear_bias, unit);
        if (w->scale) h *= gather(w->scale, unit);
        float value[VL];
        store(value, h - gather(b->mean, unit));
        for (int i = 0; i < PASS && k + i < active; i++) {
            index[kept] = unit[i];
            w->value[kept] = value[i];
            kept += value[i] != 0.0f;
        }
    }
    swan_single_down(b, kept, w, y);
}

void swan_single_down(const struct block *b, int kept, struct work *w, float *y) {
    int32_t *index = w->index;
    for (int i = 0; i < PASS; i++) index[kept + i] = kept ? index[kept - 1] : 0;
    for (int64_t t = 0; t * TILE < b->outputs; t++) {
        int64_t width = b->outputs - t * TILE < TILE ? b->outputs - t * TILE : TILE, tile = t * b->units * TILE;
        memset(w->y, 0, TILE * sizeof(float));
        memcpy(w->y, b->down_bias + t * TILE, width * sizeof(float));
        if (b->half) down_tile(b->down_tiled, tile, index, w->value, kept, PASS, 1, w->y);
        else down_tile(b->down_tiled, tile, index, w->value, kept, PASS, 0, w->y);
        memcpy(y + t * TILE, w->y, width * sizeof(float));
    }
}

void swan_single(const struct block *b, const float *x, int active, struct work *w, float *y) {
    if (b->half) single(b, x, active, 1, w, y);
    else single(b, x, active, 0, w, y);
}
