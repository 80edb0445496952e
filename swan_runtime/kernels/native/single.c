/* One vector row: 8 active units share each load of x, then their rows of the down matrix are added up. Both products are
   bound by memory, so many weight rows are in flight at once. */
#include "rows.h"

static vf units_dots(const float *matrix, const float *x, const int32_t *unit, int64_t D) {
    const float *row[PASS];
    vf acc[PASS] = {{0}};
    for (int i = 0; i < PASS; i++) row[i] = matrix + unit[i] * D;
    dots(row, x, x, D, PASS, acc);
    return sums(acc, PASS);
}

static vf gather(const float *from, const int32_t *unit) {
    vf v = {0};
    for (int i = 0; i < PASS; i++) v[i] = from[unit[i]];
    return v;
}

void swan_single(const struct block *b, const float *x, int active, struct work *w, float *y) {
    int32_t *index = w->index;
    int kept = 0;
    /* Repeats of the last unit fill the last pass; their values are not kept. */
    for (int i = 0; i < 2 * PASS; i++) index[active + i] = active ? index[active - 1] : 0;
    for (int k = 0; k < active; k += PASS) {
        int32_t unit[PASS];
        memcpy(unit, index + k, sizeof unit);
        vf h = activate(units_dots(b->up, x, unit, b->inputs) + gather(b->up_bias, unit), (int)b->activation);
        if (b->linear) h *= units_dots(b->linear, x, unit, b->inputs) + gather(b->linear_bias, unit);
        float value[VL];
        store(value, h - gather(b->mean, unit));
        for (int i = 0; i < PASS && k + i < active; i++) {
            index[kept] = unit[i];
            w->value[kept] = value[i];
            kept += value[i] != 0.0f;
        }
    }
    for (int i = 0; i < PASS; i++) index[kept + i] = kept ? index[kept - 1] : 0;
    for (int64_t t = 0; t * TILE < b->outputs; t++) {
        int64_t width = b->outputs - t * TILE < TILE ? b->outputs - t * TILE : TILE;
        memset(w->y, 0, TILE * sizeof(float));
        memcpy(w->y, b->down_bias + t * TILE, width * sizeof(float));
        down_tile(b->down_tiled + t * b->units * TILE, index, w->value, kept, PASS, w->y);
        memcpy(y + t * TILE, w->y, width * sizeof(float));
    }
}
