/* Two convolutions around gated middle channels, each sample with its own mask: direct, channels last, nothing unrolled.
   Up: a channel is a dot product over contiguous input channels, 3 channels x 7 positions in registers. Down: a channel
   is added to 32 outputs of 14 positions in registers. Taps that fall into the zero padding are skipped, not multiplied. */
#include "conv.h"

enum {
    PANEL = 32,                   /* outputs that lie together in the packed second convolution */
    CHUNK = 24,                   /* middle channels between the two convolutions: their planes stay in the first cache */
    GROUP_SAMPLES = 16,           /* samples that share one pass over the weights where those exceed the second cache */
    CACHED = 1 << 17,             /* floats of weights that a pass over these samples keeps in the second cache */
    WIDE = VL == 16 ? 2 : 1,      /* vectors of outputs held at once */
    FEW = VL == 16 ? 3 : 2,       /* channels x 7 positions held at once */
    MANY = VL == 16 ? 6 : 3,      /* channels x 4 positions */
    SLACK = 16 * VL,
};

struct sizes {
    int64_t mid_h, mid_w, out_h, out_w;
    int64_t columns, length;     /* of a kernel row of the first convolution: runs and floats per run */
    int64_t x_row, x;            /* padded input */
    int64_t mid_step, mid_cover; /* positions per tile of a middle row, and of all tiles: >= mid_w */
    int64_t raw;                 /* floats of one channel before cropping */
    int64_t pad_h, pad_w, plane; /* padded middle plane */
    int64_t out_step, out_cover;
    int64_t taps, panels, sums;  /* sums: floats of one sample's result in panels */
    int64_t unit;                /* floats of one channel's weights */
};

/* Positions per tile: as few positions as possible computed in vain, then as wide as possible. */
static int64_t tile_width(int64_t width, const int *steps, int n, int64_t *covered) {
    int64_t best = steps[0];
    for (int i = 0; i < n; i++) {
        int64_t cover = (width + steps[i] - 1) / steps[i] * steps[i];
        if (i == 0 || cover < *covered) {
            best = steps[i];
            *covered = cover;
        }
    }
    return best;
}

static struct sizes measure(const struct conv *c) {
    static const int up_steps[] = {7, 4}, down_steps[] = {14, 7, 4};
    struct sizes z;
    z.mid_h = (c->height + 2 * c->padding - c->kernel_h) / c->stride + 1;
    z.mid_w = (c->width + 2 * c->padding - c->kernel_w) / c->stride + 1;
    int whole = c->inputs % 16 == 0; /* else a kernel row's columns are one run, rounded up with zero weights */
    z.columns = whole ? c->kernel_w : 1;
    z.length = whole ? c->inputs : (c->kernel_w * c->inputs + 15) / 16 * 16;
    z.x_row = (c->width + 2 * c->padding) * c->inputs;
    z.mid_step = tile_width(z.mid_w, up_steps, 2, &z.mid_cover);
    z.x = (c->height + 2 * c->padding) * z.x_row + (z.mid_cover - z.mid_w) * c->stride * c->inputs + SLACK;
    z.raw = z.mid_h * z.mid_cover + VL;
    z.pad_h = z.mid_h + 2 * c->down_padding;
    z.pad_w = z.mid_w + 2 * c->down_padding;
    z.plane = z.pad_h * z.pad_w;
    z.out_h = z.pad_h - c->down_h + 1;
    z.out_w = z.pad_w - c->down_w + 1;
    z.out_step = tile_width(z.out_w, down_steps, 3, &z.out_cover);
    z.taps = c->down_h * c->down_w;
    z.panels = (c->outputs + PANEL - 1) / PANEL;
    z.sums = z.panels * z.out_h * z.out_cover * PANEL;
    z.unit = c->kernel_h * z.columns * z.length + z.panels * z.taps * PANEL;
    return z;
}

/* ---- first convolution ---- */

struct up {
    int64_t columns, length, x_row, x_column, step; /* step: floats between the inputs of neighbouring positions */
};

/* acc[u][s] += one run of weights . the inputs of position s, for positions [first, end). */
INLINE void run_of(vf (*acc)[7], const struct up *p, const float *x, const float *const *w, int64_t at, const int units,
                   const int first, const int end) {
    for (int64_t c = 0; c < p->length; c += VL) {
        vf weight[MANY];
#pragma GCC unroll 6
        for (int u = 0; u < units; u++) weight[u] = load(w[u] + at + c);
#pragma GCC unroll 7
        for (int s = first; s < end; s++) {
            vf value = held(load(x + s * p->step + c));
#pragma GCC unroll 6
            for (int u = 0; u < units; u++) acc[u][s] += value * weight[u];
        }
    }
}

/* Which taps touch the image at a tile: kernel rows [top, bottom); the first position needs columns >= left, the last
   one columns < right. */
struct inside {
    int64_t top, bottom, left, right;
};

static struct inside clip(int64_t row, int64_t column, int64_t last, int64_t padding, int64_t kernel_h, int64_t height,
                          int64_t width) {
    struct inside in = {padding - row, height + padding - row, padding - column, width + padding - last};
    if (in.top < 0) in.top = 0;
    if (in.bottom > kernel_h) in.bottom = kernel_h;
    return in;
}

/* out[u][0..steps) of `units` channels at `steps` positions of one row. */
INLINE void dots_tile(const struct up *p, const float *x, const float *const *w, float *const *out, struct inside in,
                      const int units, const int steps) {
    vf acc[MANY][7] = {{{0}}};
    for (int64_t i = in.top; i < in.bottom; i++)
        for (int64_t j = 0; j < p->columns; j++) {
            const float *from = x + i * p->x_row + j * p->x_column;
            int64_t at = (i * p->columns + j) * p->length;
            if (j < in.left) run_of(acc, p, from, w, at, units, 1, steps);
            else if (j >= in.right) run_of(acc, p, from, w, at, units, 0, steps - 1);
            else run_of(acc, p, from, w, at, units, 0, steps);
        }
#pragma GCC unroll 6
    for (int u = 0; u < units; u++) store(out[u], sums(acc[u], steps));
}

/* x padded -> raw [n][z->raw], for the channels active[0..n). Stores run over into what is stored next. */
static void up_conv(const struct conv *c, const struct sizes *z, const float *x, const int32_t *active, int n, float *raw) {
    struct up p = {z->columns, z->length, z->x_row, c->inputs, c->stride * c->inputs};
    int each = z->mid_step == 7 ? FEW : MANY;
    int64_t weights = c->kernel_h * z->columns * z->length;
    for (int first = 0; first < n; first += each) {
        const float *w[MANY];
        float *out[MANY];
        for (int u = 0; u < each; u++) {
            int k = first + u < n ? first + u : n - 1; /* the last one again: same values, same place */
            w[u] = c->up + active[k] * weights;
            out[u] = raw + k * z->raw;
        }
        for (int64_t h = 0; h < z->mid_h; h++)
            for (int64_t v = 0; v < z->mid_cover; v += z->mid_step) {
                int64_t row = h * c->stride, column = v * c->stride, last = column + (z->mid_step - 1) * c->stride;
                struct inside in = clip(row, column, last, c->padding, c->kernel_h, c->height, c->width);
                if (z->columns != c->kernel_w) in.left = 0, in.right = 1;
                const float *from = x + row * z->x_row + column * c->inputs;
                if (z->mid_step == 7) dots_tile(&p, from, w, out, in, FEW, 7);
                else dots_tile(&p, from, w, out, in, MANY, 4);
                for (int u = 0; u < each; u++) out[u] += z->mid_step;
            }
    }
}

/* raw sums -> act(. + bias) - mean, cropped into padded planes. */
static void finish(const struct conv *c, const struct sizes *z, const int32_t *active, int n, const float *beta, float *raw,
                   float *mid) {
    int64_t border = c->down_padding * (z->pad_w + 1), gap = 2 * c->down_padding, positions = z->mid_h * z->mid_cover;
    for (int a = 0; a < n; a++) {
        int k = active[a];
        float *p = raw + a * z->raw, *plane = mid + a * z->plane;
        for (int64_t i = 0; i < positions; i += VL) {
            vf v = load(p + i) + c->up_bias[k];
            v = c->p1 ? vacon(v, c->p1[k] - c->p2[k], c->p2[k], beta[k]) : activate(v, (int)c->activation);
            store(p + i, v - c->mean[k]);
        }
        for (int64_t i = 0; i < border; i++) plane[i] = 0.0f;
        plane += border;
        for (int64_t h = 0; h < z->mid_h; h++, p += z->mid_cover, plane += z->pad_w) {
            /* Whole vectors, beyond the row: the gap is cleared next, what follows it is written after. */
            for (int64_t i = 0; i < z->mid_w; i += VL) store(plane + i, load(p + i));
            for (int64_t i = 0; i < gap; i++) plane[z->mid_w + i] = 0.0f;
        }
        for (int64_t i = gap; i < border; i++) plane[i - gap] = 0.0f;
    }
}

/* ---- second convolution ---- */

struct down {
    int64_t height, width, kernel_h, kernel_w, padding, row, plane, cover; /* of the planes; cover: of a result row */
    const int32_t *at;                                                     /* [n]: where a channel's weights begin */
    int n;
};

/* One tap of all channels for rows [r0, r1) and columns [c0, c1) of a tile. */
INLINE void tap(vf (*acc)[WIDE], const struct down *d, const float *x, const float *w, const int steps, const int wide,
                const int r0, const int r1, const int c0, const int c1) {
    for (int k = 0; k < d->n; k++, x += d->plane) {
        vf weight[WIDE];
        for (int v = 0; v < wide; v++) weight[v] = load(w + d->at[k] + v * VL);
#pragma GCC unroll 2
        for (int r = r0; r < r1; r++)
#pragma GCC unroll 14
            for (int s = c0; s < c1; s++) {
                vf value = all(x[r * d->row + s]);
                for (int v = 0; v < wide; v++) acc[r * steps + s][v] += value * weight[v];
            }
    }
}

/* y[rows x steps positions][wide vectors] += all taps of all channels. row, column: of the tile's first result. */
INLINE void add_tile(const struct down *d, const float *x, const float *w, float *y, int64_t row, int64_t column,
                     const int rows, const int steps, const int wide) {
    vf acc[14][WIDE];
#pragma GCC unroll 14
    for (int i = 0; i < rows * steps; i++)
        for (int v = 0; v < wide; v++) acc[i][v] = load(y + (i / steps * d->cover + i % steps) * PANEL + v * VL);
    struct inside in = clip(row, column, column + steps - 1, d->padding, d->kernel_h, d->height, d->width);
    int64_t bottom = d->height + d->padding - row - (rows - 1); /* the tile's last row needs kernel rows < bottom */
    for (int64_t i = 0; i < d->kernel_h; i++) {
        int top_off = i < in.top, bottom_off = i >= bottom;
        if (rows == 1 && (top_off || bottom_off)) continue;
        for (int64_t j = 0; j < d->kernel_w; j++) {
            const float *from = x + i * d->row + j, *weight = w + (i * d->kernel_w + j) * PANEL;
#define COLUMNS(r0, r1)                                                                 \
    if (j < in.left) tap(acc, d, from, weight, steps, wide, r0, r1, 1, steps);          \
    else if (j >= in.right) tap(acc, d, from, weight, steps, wide, r0, r1, 0, steps - 1); \
    else tap(acc, d, from, weight, steps, wide, r0, r1, 0, steps)
            if (rows == 2 && top_off) { COLUMNS(1, 2); }
            else if (rows == 2 && bottom_off) { COLUMNS(0, 1); }
            else { COLUMNS(0, rows); }
#undef COLUMNS
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows * steps; i++)
        for (int v = 0; v < wide; v++) store(y + (i / steps * d->cover + i % steps) * PANEL + v * VL, acc[i][v]);
}

static void row_14(const struct down *d, const float *x, const float *w, float *y, int64_t h, int64_t v, int wide) {
    if (wide == WIDE) add_tile(d, x, w, y, h, v, 1, 14, WIDE);
    else add_tile(d, x, w, y, h, v, 1, 14, 1);
}

static void rows_7(const struct down *d, const float *x, const float *w, float *y, int64_t h, int64_t v, int rows, int wide) {
    if (rows == 2) {
        if (wide == WIDE) add_tile(d, x, w, y, h, v, 2, 7, WIDE);
        else add_tile(d, x, w, y, h, v, 2, 7, 1);
    } else if (wide == WIDE) add_tile(d, x, w, y, h, v, 1, 7, WIDE);
    else add_tile(d, x, w, y, h, v, 1, 7, 1);
}

static void rows_4(const struct down *d, const float *x, const float *w, float *y, int64_t h, int64_t v, int rows, int wide) {
    if (rows == 2) {
        if (wide == WIDE) add_tile(d, x, w, y, h, v, 2, 4, WIDE);
        else add_tile(d, x, w, y, h, v, 2, 4, 1);
    } else if (wide == WIDE) add_tile(d, x, w, y, h, v, 1, 4, WIDE);
    else add_tile(d, x, w, y, h, v, 1, 4, 1);
}

/* y [panels][out_h][out_cover][PANEL] += the channels' planes x. panel: floats of one panel's weights. */
static void down_conv(const struct conv *c, const struct sizes *z, const struct down *d, const float *x, const float *weights,
                      int64_t panel, float *y) {
    int64_t most = z->out_step == 14 ? 1 : 2;
    for (int64_t o = 0; o < c->outputs; o += WIDE * VL) {
        int wide = c->outputs - o <= VL ? 1 : WIDE;
        const float *w = weights + o / PANEL * panel + o % PANEL;
        float *to = y + o / PANEL * z->out_h * z->out_cover * PANEL + o % PANEL;
        for (int64_t h = 0; h < z->out_h; h += most)
            for (int64_t v = 0; v < z->out_cover; v += z->out_step) {
                int rows = h + most <= z->out_h ? (int)most : 1;
                const float *from = x + h * d->row + v;
                float *at = to + (h * z->out_cover + v) * PANEL;
                if (z->out_step == 14) row_14(d, from, w, at, h, v, wide);
                else if (z->out_step == 7) rows_7(d, from, w, at, h, v, rows, wide);
                else rows_4(d, from, w, at, h, v, rows, wide);
            }
    }
}

/* ---- one sample ---- */

/* x [C, H, W], or [H, W, C] if channels come last -> padded, channels last. */
static void spread(const struct conv *c, const struct sizes *z, const float *x, float *to) {
    int64_t C = c->inputs, W = c->width;
    memset(to, 0, z->x * sizeof(float));
    to += c->padding * (z->x_row + C);
    for (int64_t h = 0; h < c->height; h++, to += z->x_row) {
        if (c->channels_last) memcpy(to, x + h * W * C, W * C * sizeof(float));
        else
            for (int64_t ch = 0; ch < C; ch++) {
                const float *from = x + (ch * c->height + h) * W;
                for (int64_t w = 0; w < W; w++) to[w * C + ch] = from[w];
            }
    }
}

struct buffers {
    float *x, *raw, *mid, *sums;
    int32_t *active, *at; /* [GROUP_SAMPLES][units], [max(units, inputs)] */
    int count[GROUP_SAMPLES], done[GROUP_SAMPLES];
};

static int take(const struct conv *c, const struct sizes *z, int64_t samples, struct buffers *m) {
    int64_t rest = z->pad_w * c->down_h + z->out_cover + SLACK, kept = c->units < CHUNK ? c->units : CHUNK;
    int64_t raw = kept * z->raw + SLACK, mid = kept * z->plane + rest;
    int64_t copy = c->tail == PROJECTED ? c->inputs * z->out_h * z->out_cover + SLACK : 0;
    if (mid < copy) mid = copy;
    int64_t longest = c->units > c->inputs ? c->units : c->inputs;
    int64_t x = (z->x + 15) / 16 * 16;
    float *p = swan_scratch((x + raw + mid + samples * (z->sums + c->units) + longest + 64) * sizeof(float));
    if (!p) return -2;
    m->x = p;
    m->sums = (p += x);
    m->raw = (p += samples * z->sums);
    m->mid = (p += raw);
    m->active = (int32_t *)(p += mid);
    m->at = m->active + samples * c->units;
    memset(m->raw, 0, (raw + mid) * sizeof(float)); /* read past the last plane: must not be NaN */
    return 0;
}

/* Adds the channels active[0..n) of one sample to its sums. */
static void channels(const struct conv *c, const struct sizes *z, struct buffers *m, const int32_t *active, int n,
                     const float *beta, float *sum) {
    struct down d = {z->mid_h, z->mid_w, c->down_h, c->down_w, c->down_padding, z->pad_w, z->plane, z->out_cover, m->at, 0};
    for (int first = 0; first < n; first += CHUNK) {
        d.n = n - first < CHUNK ? n - first : CHUNK;
        up_conv(c, z, m->x, active + first, d.n, m->raw);
        finish(c, z, active + first, d.n, beta, m->raw, m->mid);
        for (int k = 0; k < d.n; k++) m->at[k] = (int32_t)(active[first + k] * z->taps * PANEL);
        down_conv(c, z, &d, m->mid, c->down, c->units * z->taps * PANEL, sum);
    }
}

/* Adds the 1x1 convolution of the input with the shortcut's stride. */
static void project(const struct conv *c, const struct sizes *z, struct buffers *m, float *sum) {
    struct down d = {z->out_h, z->out_cover, 1, 1, 0, z->out_cover, z->out_h * z->out_cover, z->out_cover, m->at, (int)c->inputs};
    const float *x = m->x + c->padding * (z->x_row + c->inputs);
    for (int64_t ch = 0; ch < c->inputs; ch++) {
        m->at[ch] = (int32_t)(ch * PANEL);
        for (int64_t h = 0; h < z->out_h; h++)
            for (int64_t w = 0; w < z->out_w; w++)
                m->mid[ch * d.plane + h * z->out_cover + w] = x[c->shortcut_stride * (h * z->x_row + w * c->inputs) + ch];
    }
    down_conv(c, z, &d, m->mid, c->shortcut, c->inputs * PANEL, sum);
}

/* sums + what the block yields with every channel off + identity -> y [H'', W'', O], ReLU where wanted. */
static void answer(const struct conv *c, const struct sizes *z, const float *x, const float *sum, float *y) {
    int64_t O = c->outputs;
    for (int64_t h = 0; h < z->out_h; h++)
        for (int64_t w = 0; w < z->out_w; w++) {
            int64_t at = (h * z->out_w + w) * O;
            const float *shortcut = x + (h + c->padding) * z->x_row + (w + c->padding) * c->inputs;
            for (int64_t p = 0; p < z->panels; p++) {
                const float *from = sum + ((p * z->out_h + h) * z->out_cover + w) * PANEL;
                int64_t n = O - p * PANEL < PANEL ? O - p * PANEL : PANEL, o = p * PANEL, end = o + n;
                for (; o + VL <= end; o += VL, from += VL) {
                    vf v = load(from) + load(c->fold + at + o);
                    if (c->tail == IDENTICAL) v += load(shortcut + o);
                    store(y + at + o, c->relu ? pick(v < 0.0f, all(0.0f), v) : v);
                }
                for (; o < end; o++, from++) {
                    float v = *from + c->fold[at + o];
                    if (c->tail == IDENTICAL) v += shortcut[o];
                    y[at + o] = c->relu && v < 0.0f ? 0.0f : v;
                }
            }
        }
}

/* Units whose weights a group of samples uses before the next ones are read: all of them where weights are few or a
   map is large enough to use each weight often. */
static int64_t range(const struct conv *c, const struct sizes *z, int64_t samples) {
    if (samples == 1 || c->units * z->unit <= 2 * CACHED || z->mid_h * z->mid_w > 100) return c->units;
    int64_t units = CACHED / z->unit;
    return units < CHUNK ? CHUNK : units;
}

static void group(const struct conv *c, const struct sizes *z, struct buffers *m, const float *x, int64_t samples,
                  const uint8_t *mask, const float *beta, int64_t beta_stride, int64_t each, float *y) {
    int64_t image = c->inputs * c->height * c->width;
    memset(m->sums, 0, samples * z->sums * sizeof(float));
    for (int64_t s = 0; s < samples; s++) {
        int n = 0;
        for (int64_t k = 0; k < c->units; k++) {
            m->active[s * c->units + n] = (int32_t)k;
            n += mask[s * c->units + k] != 0;
        }
        m->count[s] = n;
        m->done[s] = 0;
    }
    for (int64_t start = 0; start < c->units; start += each)
        for (int64_t s = 0; s < samples; s++) {
            const int32_t *active = m->active + s * c->units + m->done[s];
            int n = 0, left = m->count[s] - m->done[s];
            while (n < left && active[n] < start + each) n++;
            m->done[s] += n;
            spread(c, z, x + s * image, m->x);
            float *sum = m->sums + s * z->sums;
            channels(c, z, m, active, n, beta ? beta + s * beta_stride : NULL, sum);
            if (start + each < c->units) continue;
            if (c->tail == PROJECTED) project(c, z, m, sum);
            answer(c, z, m->x, sum, y + s * c->outputs * z->out_h * z->out_w);
        }
}

/* x [samples, C, H, W] or, channels last, [samples, H, W, C]; mask bytes [samples, K]; y [samples, H'', W'', O];
   beta [K] or [samples, K] (ACON) or NULL. Returns 0, or -2 without memory. */
API int64_t swan_conv(const struct conv *c, const float *x, int64_t samples, const uint8_t *mask, const float *beta,
                  int64_t beta_stride, float *y) {
    struct sizes z = measure(c);
    struct buffers m;
    int64_t each = range(c, &z, samples), most = each < c->units ? GROUP_SAMPLES : 1;
    if (most > samples) most = samples;
    if (most == 0) return 0;
    if (take(c, &z, most, &m)) return -2;
    for (int64_t s = 0; s < samples; s += most) {
        int64_t n = samples - s < most ? samples - s : most;
        group(c, &z, &m, x + s * c->inputs * c->height * c->width, n, mask + s * c->units,
              beta ? beta + s * beta_stride : NULL, beta_stride, each, y + s * c->outputs * z.out_h * z.out_w);
    }
    return 0;
}
