/* Dense products by panels: requests whose rows share a mask, and rows with masks of their own where most units are wanted. */
#include "panels.h"

enum { GROUP_FLOATS = 1 << 18 }; /* turned rows and results of a group: half of a second-level cache of 2 MiB */

/* What one call works with. mask, scale: NULL, or [rows, F], with all units in order: 0 where a byte is 0, and a factor. */
struct job {
    const struct block *b;
    const uint8_t *mask;
    const float *scale;
    int32_t *unit; /* [F + UNITS_MORE] */
    int count;
    float *h, *linear, *turned, *out; /* [BLOCK][PANEL] twice, [rows of a group][D], [rows of a group][O rounded up] */
};

static int64_t group_rows(const struct block *b) {
    int64_t rows = GROUP_FLOATS / (b->inputs + b->outputs) / PANEL * PANEL;
    return rows < PANEL ? PANEL : rows;
}

static int take(const struct block *b, int64_t rows, struct job *j) {
    int64_t most = group_rows(b), group = rows < most ? (rows + PANEL - 1) / PANEL * PANEL : most;
    float *m = swan_scratch((2 * BLOCK * PANEL + group * (b->inputs + vectors(b->outputs)) + b->units + UNITS_MORE) * 4);
    *j = (struct job){b, NULL, NULL, NULL, 0, m, m + BLOCK * PANEL, m + 2 * BLOCK * PANEL, NULL};
    j->out = j->turned + group * b->inputs;
    j->unit = (int32_t *)(j->out + group * vectors(b->outputs));
    return m ? 0 : -2;
}

/* The list goes on with repeats of its last unit. */
static void extend(struct job *j) {
    for (int i = 0; i < UNITS_MORE; i++) j->unit[j->count + i] = j->count ? j->unit[j->count - 1] : 0;
}

static void choose_all(struct job *j) {
    j->count = (int)j->b->units;
    for (int i = 0; i < j->count; i++) j->unit[i] = i;
    extend(j);
}

/* In place: act(h + bias) [* (linear + bias)] - mean; mean NULL: zero. */
static void finish(const struct block *b, const struct units *u, int n, const float *linear, const float *mean, float *h) {
    for (int k = 0; k < u->count; k++) {
        int64_t j = u->index[k];
        for (int v = 0; v < n; v++) {
            float *at = h + (k * n + v) * VL;
            vf value = activate(load(at) + b->up_bias[j], (int)b->activation);
            if (linear) value *= load(linear + (k * n + v) * VL) + b->linear_bias[j];
            store(at, mean ? value - mean[j] : value);
        }
    }
}

/* Bit i of lane r: whether row r of a square of mask bytes wants unit i. */
INLINE vi wanted_bits(const uint8_t *mask, int64_t F, int rows, int units) {
    vi bits = {0};
    for (int r = 0; r < rows; r++)
        bits[r] = (int32_t)(units == 16 ? bytes_set(mask + r * F) : bytes_set_part(mask + r * F, units));
    return bits;
}

/* In place: 0 where the mask [rows of the panel][F] says so. Masks lie the other way round: squares of them are turned. */
static void apply_mask(const struct job *j, const struct units *u, const uint8_t *mask, const struct panel *p, float *h) {
    for (int v = 0; v < p->n; v++)
        for (int k = 0; k < u->count; k += 16) {
            int left = u->count - k < 16 ? u->count - k : 16, rows = p->rows - v * VL < VL ? p->rows - v * VL : VL;
            vi bits = wanted_bits(mask + v * VL * j->b->units + u->index[k], j->b->units, rows, left);
#pragma GCC unroll 4
            for (int i = 0; i < left; i++) {
                float *at = h + ((k + i) * p->n + v) * VL;
                store(at, pick((bits & (1 << i)) != 0, load(at), (vf){0}));
            }
        }
}

/* In place: h * factor - mean; factors [rows of the panel][F] lie the other way round. */
static void apply_scale(const struct job *j, const struct units *u, const float *scale, const struct panel *p, float *h) {
    for (int v = 0; v < p->n; v++)
        for (int k = 0; k < u->count; k += VL) {
            vf factor[VL] = {{0}};
            int left = u->count - k < VL ? u->count - k : VL, rows = p->rows - v * VL < VL ? p->rows - v * VL : VL;
            const float *from = scale + v * VL * j->b->units + u->index[k], *mean = j->b->mean + u->index[k];
            for (int i = 0; i < rows; i++, from += j->b->units) factor[i] = left == VL ? load(from) : load_part(from, left);
            swan_turn_square(factor);
            for (int i = 0; i < left; i++) {
                float *at = h + ((k + i) * p->n + v) * VL;
                store(at, load(at) * factor[i] - mean[i]);
            }
        }
}

static void run_panel(const struct job *j, const struct units *u, int64_t row, const struct panel *p) {
    const struct block *b = j->b;
    swan_up_panel(b->up, b->inputs, u, p, j->h);
    if (b->linear) swan_up_panel(b->linear, b->inputs, u, p, j->linear);
    finish(b, u, p->n, b->linear ? j->linear : NULL, j->scale ? NULL : b->mean, j->h);
    if (j->scale) apply_scale(j, u, j->scale + row * b->units, p, j->h);
    if (j->mask) apply_mask(j, u, j->mask + row * b->units, p, j->h);
    swan_down_panel(b->down_tiled, b->units, u, p, j->h);
}

/* The panel of rows first .. of a group whose rows are `turned` and whose results go to y. */
static struct panel panel_of(const struct job *j, int64_t first, int64_t rows, float *y, int64_t y_stride) {
    int left = rows - first < PANEL ? (int)(rows - first) : PANEL;
    return (struct panel){j->turned + first * j->b->inputs, y + first * y_stride, y_stride, left, (left + VL - 1) / VL};
}

/* row: of the first one, in mask and scale. */
static void run_group(const struct job *j, const float *x, int64_t row, int64_t rows, float *y) {
    const struct block *b = j->b;
    int64_t O = b->outputs, stride = vectors(O);
    float *out = stride == O ? y : j->out;
    for (int64_t r = 0; r < rows; r++) memcpy(out + r * stride, b->down_bias, O * sizeof(float));
    for (int64_t r = 0; r < rows; r += PANEL) {
        struct panel p = panel_of(j, r, rows, out, stride);
        swan_turn(x + r * b->inputs, p.rows, b->inputs, p.n, (float *)p.x);
    }
    for (int k = 0; k < j->count; k += BLOCK) {
        struct units u = {j->unit + k, j->count - k < BLOCK ? j->count - k : BLOCK, k + BLOCK < j->count};
        for (int64_t r = 0; r < rows; r += PANEL) {
            struct panel p = panel_of(j, r, rows, out, stride);
            run_panel(j, &u, row + r, &p);
        }
    }
    if (out != y)
        for (int64_t r = 0; r < rows; r++) memcpy(y + r * O, out + r * stride, O * sizeof(float));
}

static void run(const struct job *j, const float *x, int64_t rows, float *y) {
    int64_t most = group_rows(j->b);
    for (int64_t r = 0; r < rows; r += most)
        run_group(j, x + r * j->b->inputs, r, rows - r < most ? rows - r : most, y + r * j->b->outputs);
}

/* Request i owns rows offsets[i] .. offsets[i + 1] of x [T, D] and y [T, O]; mask bytes [requests, F].
   Returns 0, or -2 without memory. */
API int64_t swan_shared(const struct block *b, const float *x, const int64_t *offsets, int64_t requests, const uint8_t *mask,
                        float *y) {
    int64_t most = 0;
    struct job j;
    for (int64_t i = 0; i < requests; i++)
        if (offsets[i + 1] - offsets[i] > most) most = offsets[i + 1] - offsets[i];
    if (take(b, most, &j)) return -2;
    for (int64_t i = 0; i < requests; i++) {
        j.count = swan_mask_index(mask + i * b->units, b->units, j.unit);
        extend(&j);
        run(&j, x + offsets[i] * b->inputs, offsets[i + 1] - offsets[i], y + offsets[i] * b->outputs);
    }
    return 0;
}

/* Every unit for every row: x [rows, D] -> y [rows, O]. mask bytes [rows, F] or NULL: all are active; scale: NULL, or [rows, F],
   see struct work. Returns 0, or -2 without memory. */
API int64_t swan_dense(const struct block *b, const float *x, int64_t rows, const uint8_t *mask, const float *scale, float *y) {
    struct job j;
    if (take(b, rows, &j)) return -2;
    j.mask = mask;
    j.scale = scale;
    choose_all(&j);
    run(&j, x, rows, y);
    return 0;
}
