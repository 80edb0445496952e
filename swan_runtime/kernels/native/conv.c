/* Two convolutions around gated middle channels, one sample at a time, each with its own mask. Direct convolution over
   flattened, padded planes: 4 channels x 6 vectors of positions stay in registers, nothing is gathered or unrolled. */
#include "rows.h"

struct conv {
    int64_t units, inputs, outputs, height, width; /* of x */
    int64_t kernel_h, kernel_w, stride, padding;   /* first convolution */
    int64_t down_h, down_w, down_padding;          /* second one, stride 1 */
    int64_t activation;
    const float *up, *up_bias, *down_t, *mean; /* [K, C, kh, kw], [K], [K, kh', kw', O], [K] */
    const float *p1, *p2;                      /* ACON, [K] or NULL */
    const float *fold;                         /* [O, H'', W'']: the result with every channel off */
};

enum { QUAD = 4, VECS = VL == 16 ? 6 : 3 };

struct plan {
    int taps;
    const int32_t *in, *weight; /* [taps]: offsets into the input planes and into a channel's weights */
};

/* out[q][0 .. v * VL) = sum over taps of weight x shifted input, for 4 channels. */
INLINE void quad(const struct plan *p, const float *in, const float *const *w, float *const *out, const int v) {
    vf acc[QUAD][VECS] = {{{0}}};
    for (int t = 0; t < p->taps; t++) {
        const float *x = in + p->in[t];
        int64_t at = p->weight[t];
        vf row[VECS];
#pragma GCC unroll 6
        for (int i = 0; i < v; i++) row[i] = load(x + i * VL);
#pragma GCC unroll 4
        for (int q = 0; q < QUAD; q++) {
            vf a = all(w[q][at]);
#pragma GCC unroll 6
            for (int i = 0; i < v; i++) acc[q][i] += a * row[i];
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < QUAD; q++)
#pragma GCC unroll 6
        for (int i = 0; i < v; i++) store(out[q] + i * VL, acc[q][i]);
}

/* out [channels][stride] for `positions` flattened positions. Channel c's weights start at base + start[c]. */
static void planes(const struct plan *p, const float *in, const float *base, const int32_t *start, int channels,
                   int64_t positions, float *out, int64_t stride) {
    int64_t vectors = (positions + VL - 1) / VL, blocks = (vectors + VECS - 1) / VECS;
    int64_t each = (vectors + blocks - 1) / blocks;
    for (int64_t first = 0; first < vectors; first += each) {
        int64_t v = vectors - first < each ? vectors - first : each;
        for (int c = 0; c < channels; c += QUAD) {
            const float *w[QUAD];
            float *o[QUAD];
            for (int q = 0; q < QUAD; q++) {
                int k = c + q < channels ? c + q : channels - 1; /* the last one again: same values, same place */
                w[q] = base + start[k];
                o[q] = out + k * stride + first * VL;
            }
            switch (v) {
            case 1: quad(p, in + first * VL, w, o, 1); break;
            case 2: quad(p, in + first * VL, w, o, 2); break;
#if VL == 16
            case 3: quad(p, in + first * VL, w, o, 3); break;
            case 4: quad(p, in + first * VL, w, o, 4); break;
            case 5: quad(p, in + first * VL, w, o, 5); break;
#endif
            default: quad(p, in + first * VL, w, o, VECS);
            }
        }
    }
}

struct sizes {
    int64_t mid_h, mid_w, out_h, out_w;
    int64_t phase_h, phase_w, phase; /* one of stride^2 interleaved parts of a padded input plane */
    int64_t pad_h, pad_w, pad;       /* padded middle plane */
    int64_t raw;                     /* flattened positions of one result plane, with room for the last vectors */
};

static struct sizes measure(const struct conv *c) {
    struct sizes z;
    z.mid_h = (c->height + 2 * c->padding - c->kernel_h) / c->stride + 1;
    z.mid_w = (c->width + 2 * c->padding - c->kernel_w) / c->stride + 1;
    z.phase_h = (c->height + 2 * c->padding + c->stride - 1) / c->stride;
    z.phase_w = (c->width + 2 * c->padding + c->stride - 1) / c->stride;
    z.phase = z.phase_h * z.phase_w;
    z.pad_h = z.mid_h + 2 * c->down_padding;
    z.pad_w = z.mid_w + 2 * c->down_padding;
    z.pad = z.pad_h * z.pad_w;
    z.out_h = z.pad_h - c->down_h + 1;
    z.out_w = z.pad_w - c->down_w + 1;
    int64_t up = z.mid_h * z.phase_w, down = z.out_h * z.pad_w;
    z.raw = ((up > down ? up : down) + VECS * VL + 15) / 16 * 16;
    return z;
}

/* x [C, H, W] -> padded planes, split into stride^2 phases so that a strided tap is a shift as well. */
static void spread(const struct conv *c, const struct sizes *z, const float *x, float *to) {
    int64_t s = c->stride;
    memset(to, 0, c->inputs * s * s * z->phase * sizeof(float));
    for (int64_t ch = 0; ch < c->inputs; ch++)
        for (int64_t h = 0; h < c->height; h++) {
            const float *from = x + (ch * c->height + h) * c->width;
            int64_t row = h + c->padding;
            float *plane = to + (ch * s * s + row % s * s) * z->phase + row / s * z->phase_w;
            if (s == 1) memcpy(plane + c->padding, from, c->width * sizeof(float));
            else
                for (int64_t w = 0; w < c->width; w++) {
                    int64_t column = w + c->padding;
                    plane[column % s * z->phase + column / s] = from[w];
                }
        }
}

static void up_plan(const struct conv *c, const struct sizes *z, int32_t *in, int32_t *weight) {
    int64_t s = c->stride, t = 0;
    for (int64_t ch = 0; ch < c->inputs; ch++)
        for (int64_t i = 0; i < c->kernel_h; i++)
            for (int64_t j = 0; j < c->kernel_w; j++, t++) {
                in[t] = (int32_t)((ch * s * s + i % s * s + j % s) * z->phase + i / s * z->phase_w + j / s);
                weight[t] = (int32_t)t;
            }
}

static int down_plan(const struct conv *c, const struct sizes *z, const int32_t *active, int n, int32_t *in, int32_t *weight) {
    int t = 0;
    for (int a = 0; a < n; a++)
        for (int64_t i = 0; i < c->down_h; i++)
            for (int64_t j = 0; j < c->down_w; j++, t++) {
                in[t] = (int32_t)(a * z->pad + i * z->pad_w + j);
                weight[t] = (int32_t)(((active[a] * c->down_h + i) * c->down_w + j) * c->outputs);
            }
    return t;
}

/* raw [n][z.raw] sums -> act(. + bias) - mean, cropped into padded middle planes. */
static void finish(const struct conv *c, const struct sizes *z, const int32_t *active, int n, const float *beta, float *raw,
                   float *mid) {
    int64_t positions = z->mid_h * z->phase_w;
    memset(mid, 0, n * z->pad * sizeof(float));
    for (int a = 0; a < n; a++) {
        int k = active[a];
        float *p = raw + a * z->raw;
        for (int64_t i = 0; i < positions; i += VL) {
            vf v = load(p + i) + c->up_bias[k];
            v = c->p1 ? vacon(v, c->p1[k] - c->p2[k], c->p2[k], beta[k]) : activate(v, (int)c->activation);
            store(p + i, v - c->mean[k]);
        }
        float *to = mid + a * z->pad + c->down_padding * (z->pad_w + 1);
        for (int64_t h = 0; h < z->mid_h; h++) memcpy(to + h * z->pad_w, p + h * z->phase_w, z->mid_w * sizeof(float));
    }
}

struct buffers {
    float *x, *mid, *raw;
    int32_t *in, *weight, *active, *start, *down_in, *down_weight;
};

static int take(const struct conv *c, const struct sizes *z, struct buffers *m) {
    int64_t most = c->units > c->outputs ? c->units : c->outputs, slack = VECS * VL + 16;
    int64_t taps = c->inputs * c->kernel_h * c->kernel_w, down = c->units * c->down_h * c->down_w;
    int64_t x = c->inputs * c->stride * c->stride * z->phase + z->phase_w * c->kernel_h + slack;
    int64_t mid = c->units * z->pad + z->pad_w * c->down_h + slack;
    float *p = swan_scratch((x + mid + most * z->raw + 2 * (taps + down) + c->units + most + 64) * 4);
    if (!p) return -2;
    m->x = p;
    m->mid = (p += x);
    m->raw = (p += mid);
    m->in = (int32_t *)(p += most * z->raw);
    m->weight = m->in + taps;
    m->down_in = m->weight + taps;
    m->down_weight = m->down_in + down;
    m->active = m->down_weight + down;
    m->start = m->active + c->units;
    /* Read past the last plane by the last vectors; must not be NaN. */
    memset(m->x, 0, x * 4);
    memset(m->mid, 0, mid * 4);
    return 0;
}

static void sample(const struct conv *c, const struct sizes *z, const float *x, const uint8_t *mask, const float *beta,
                   struct buffers *m, float *y) {
    int n = 0;
    for (int64_t k = 0; k < c->units; k++) {
        m->active[n] = (int32_t)k;
        n += mask[k] != 0;
    }
    memcpy(y, c->fold, c->outputs * z->out_h * z->out_w * sizeof(float));
    if (n == 0) return;
    int taps = (int)(c->inputs * c->kernel_h * c->kernel_w);
    for (int a = 0; a < n; a++) m->start[a] = m->active[a] * taps;
    spread(c, z, x, m->x);
    struct plan up = {taps, m->in, m->weight};
    planes(&up, m->x, c->up, m->start, n, z->mid_h * z->phase_w, m->raw, z->raw);
    finish(c, z, m->active, n, beta, m->raw, m->mid);
    struct plan down = {down_plan(c, z, m->active, n, m->down_in, m->down_weight), m->down_in, m->down_weight};
    for (int o = 0; o < c->outputs; o++) m->start[o] = o;
    planes(&down, m->mid, c->down_t, m->start, (int)c->outputs, z->out_h * z->pad_w, m->raw, z->raw);
    for (int64_t o = 0; o < c->outputs; o++)
        for (int64_t h = 0; h < z->out_h; h++) {
            float *to = y + (o * z->out_h + h) * z->out_w;
            const float *from = m->raw + o * z->raw + h * z->pad_w;
            for (int64_t w = 0; w < z->out_w; w++) to[w] += from[w];
        }
}

/* x [samples, C, H, W], mask bytes [samples, K], y [samples, O, H'', W'']; beta [K] or [samples, K] (ACON) or NULL.
   Returns 0, or -2 without memory. */
API int swan_conv(const struct conv *c, const float *x, int64_t samples, const uint8_t *mask, const float *beta,
                  int64_t beta_stride, float *y) {
    struct sizes z = measure(c);
    struct buffers m;
    if (take(c, &z, &m)) return -2;
    up_plan(c, &z, m.in, m.weight);
    for (int64_t s = 0; s < samples; s++)
        sample(c, &z, x + s * c->inputs * c->height * c->width, mask + s * c->units, beta ? beta + s * beta_stride : NULL,
               &m, y + s * c->outputs * z.out_h * z.out_w);
    return 0;
}
