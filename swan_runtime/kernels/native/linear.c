/* A plain linear layer for many rows, by panels. */
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
