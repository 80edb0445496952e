/* One matrix for many rows, by panels: a plain linear layer, and inputs masked row by row where most are wanted. */
#include "panels.h"

enum { GROUP_ROWS = 4 * PANEL };

static struct panel panel_at(const float *turned, int64_t D, int64_t first, int64_t rows) {
    int left = rows - first < PANEL ? (int)(rows - first) : PANEL;
    return (struct panel){turned + first * D, NULL, 0, left, (left + VL - 1) / VL};
}

static struct units units_at(const int32_t *index, int64_t count, int64_t k) {
    return (struct units){index + k, count - k < BLOCK ? (int)(count - k) : BLOCK, k + BLOCK < count};
}

static void all_units(int32_t *index, int64_t count) {
    for (int i = 0; i < count + UNITS_MORE; i++) index[i] = i < count ? i : (int32_t)count - 1;
}

/* y [rows][units], columns from unit u->index[0] on = h turned back + bias. */
static void turn_back(const struct block *b, const struct units *u, const struct panel *p, const float *h, float *y) {
    for (int v = 0; v < p->n; v++)
        for (int k = 0; k < u->count; k += VL) {
            vf a[VL];
            int left = u->count - k < VL ? u->count - k : VL, rows = p->rows - v * VL < VL ? p->rows - v * VL : VL;
            for (int i = 0; i < VL; i++) a[i] = i < left ? load(h + ((k + i) * p->n + v) * VL) : (vf){0};
            swan_turn_square(a);
            const float *bias = b->up_bias + u->index[0] + k;
            vf add = left == VL ? load(bias) : load_part(bias, left);
            for (int i = 0; i < rows; i++) {
                float *to = y + (v * VL + i) * b->units + u->index[0] + k;
                vf value = a[i] + add;
                if (left == VL) store(to, value);
                else memcpy(to, &value, left * sizeof(float));
            }
        }
}

/* y [rows, units] = x [rows, D] W^T + bias, with up and up_bias of a block. Returns 0, or -2 without memory. */
API int64_t swan_linear(const struct block *b, const float *x, int64_t rows, float *y) {
    int64_t D = b->inputs, F = b->units;
    float *h = swan_scratch((BLOCK * PANEL + GROUP_ROWS * D + F + UNITS_MORE) * sizeof(float));
    if (!h) return -2;
    float *turned = h + BLOCK * PANEL;
    int32_t *index = (int32_t *)(turned + GROUP_ROWS * D);
    all_units(index, F);
    for (int64_t first = 0; first < rows; first += GROUP_ROWS, x += GROUP_ROWS * D, y += GROUP_ROWS * F) {
        int64_t some = rows - first < GROUP_ROWS ? rows - first : GROUP_ROWS;
        for (int64_t r = 0; r < some; r += PANEL) {
            struct panel p = panel_at(turned, D, r, some);
            swan_turn(x + r * D, p.rows, D, p.n, turned + r * D);
        }
        for (int64_t k = 0; k < F; k += BLOCK)
            for (int64_t r = 0; r < some; r += PANEL) {
                struct panel p = panel_at(turned, D, r, some);
                struct units u = units_at(index, F, k);
                swan_up_panel(b->up, D, &u, &p, h);
                turn_back(b, &u, &p, h, y + r * F);
            }
    }
    return 0;
}

/* h [units][n * VL] of a panel's x, mask and dropped [rows, F], from unit u->index[0] on: x - mean where it is active, else 0. */
static void turn_values(const struct block *b, const struct units *u, const struct panel *p, const float *x, const uint8_t *mask,
                        float *dropped, float *h) {
    for (int v = 0; v < p->n; v++)
        for (int k = 0; k < u->count; k += VL) {
            vf a[VL] = {{0}};
            int left = u->count - k < VL ? u->count - k : VL, rows = p->rows - v * VL < VL ? p->rows - v * VL : VL;
            int64_t first = u->index[0] + k;
            vf mean = left == VL ? load(b->mean + first) : load_part(b->mean + first, left);
            for (int i = 0; i < rows; i++) {
                int64_t at = (v * VL + i) * b->units + first;
                vf value = (left == VL ? load(x + at) : load_part(x + at, left)) - mean;
                vi off = mask ? (left == VL ? bytes(mask + at) : bytes_part(mask + at, left)) == 0 : (vi){0};
                vf lost = pick(off, value, (vf){0});
                if (dropped && left == VL) store(dropped + at, lost);
                else if (dropped) memcpy(dropped + at, &lost, left * sizeof(float));
                a[i] = pick(off, (vf){0}, value);
            }
            swan_turn_square(a);
            for (int i = 0; i < left; i++) store(h + ((k + i) * p->n + v) * VL, a[i]);
        }
}

/* As swan_inputs, but no input is skipped; mask NULL: all are active. Floats only. */
API int64_t swan_dense_inputs(const struct block *b, const float *x, int64_t rows, const uint8_t *mask, float *dropped, float *y) {
    int64_t F = b->units, O = b->outputs, stride = vectors(O);
    float *h = swan_scratch((BLOCK * PANEL + PANEL * stride + F + UNITS_MORE) * sizeof(float));
    if (!h) return -2;
    float *out = h + BLOCK * PANEL;
    int32_t *index = (int32_t *)(out + PANEL * stride);
    all_units(index, F);
    for (int64_t r = 0; r < rows; r += PANEL) {
        struct panel p = panel_at(NULL, 0, r, rows);
        p.y = stride == O ? y + r * O : out;
        p.y_stride = stride;
        for (int i = 0; i < p.rows; i++) memcpy(p.y + i * stride, b->down_bias, O * sizeof(float));
        for (int64_t k = 0; k < F; k += BLOCK) {
            struct units u = units_at(index, F, k);
            turn_values(b, &u, &p, x + r * F, mask ? mask + r * F : NULL, dropped ? dropped + r * F : NULL, h);
            swan_down_panel(b->down_tiled, F, &u, &p, h);
        }
        if (stride != O)
            for (int i = 0; i < p.rows; i++) memcpy(y + (r + i) * O, out + i * stride, O * sizeof(float));
    }
    return 0;
}
