/* The pooled channel gate: mean over space -> bottleneck -> one score a channel -> mask, and meta-ACON's switch beside it. */
#include "rows.h"

/* Two small products: hidden = x first + first_bias, out = hidden second + second_bias. */
struct bottleneck {
    int64_t width, padded;            /* padded to 16 */
    const float *first, *first_bias;  /* [C][padded], [padded] */
    const float *second, *second_bias; /* [width][units padded to 16], [units padded] */
};

struct channel_gate {
    int64_t units, units_padded, inputs, pixels, channels_last, switched;
    struct bottleneck score, beta;
};

/* One entry a sample; k_max: at most that many channels. */
struct channel_choice {
    const float *thresholds;
    const int64_t *k_max;
    int64_t *counts, *hits;
    uint8_t *mask; /* [samples][units] */
};

/* out[0..n) = bias + sum of x[i] * rows[i], n a multiple of 16. */
static void combine(const float *x, int64_t count, const float *rows, const float *bias, int64_t n, float *out) {
    for (int64_t j = 0; j < n; j += VL) {
        vf even = load(bias + j), odd = {0};
        int64_t i = 0;
        for (; i + 1 < count; i += 2) {
            even += load(rows + i * n + j) * x[i];
            odd += load(rows + (i + 1) * n + j) * x[i + 1];
        }
        if (i < count) even += load(rows + i * n + j) * x[i];
        store(out + j, even + odd);
    }
}

/* Means over space. x [pixels][C] or [C][pixels]. */
static void pool(const struct channel_gate *g, const float *x, float *mean) {
    int64_t C = g->inputs;
    float share = 1.0f / (float)g->pixels;
    memset(mean, 0, C * sizeof(float));
    if (g->channels_last)
        for (int64_t p = 0; p < g->pixels; p++)
            for (int64_t c = 0; c < C; c++) mean[c] += x[p * C + c];
    else
        for (int64_t c = 0; c < C; c++) {
            vf sum = {0};
            int64_t p = 0;
            for (; p + VL <= g->pixels; p += VL) sum += load(x + c * g->pixels + p);
            for (int i = 0; i < VL; i++) mean[c] += sum[i];
            for (; p < g->pixels; p++) mean[c] += x[c * g->pixels + p];
        }
    for (int64_t c = 0; c < C; c++) mean[c] *= share;
}

static int all_finite(const float *v, int64_t n) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) sum += v[i] * 0.0f;
    return sum == 0.0f;
}

/* x [samples, C, H, W] or channels last -> choice; beta [samples][units] where the gate has a switch.
   Returns 0, -1 for a score that is not finite, -2 without memory. */
API int64_t swan_channel_gate(const struct channel_gate *g, const float *x, int64_t samples, struct channel_choice *choice,
                          float *beta) {
    int64_t wide = g->score.padded > g->beta.padded ? g->score.padded : g->beta.padded, U = g->units_padded;
    float *mean = swan_scratch((g->inputs + wide + 2 * U + 64) * sizeof(float));
    if (!mean) return -2;
    float *hidden = mean + (g->inputs + 15) / 16 * 16, *scores = hidden + wide, *copy = scores + U;
    for (int64_t s = 0; s < samples; s++) {
        pool(g, x + s * g->inputs * g->pixels, mean);
        combine(mean, g->inputs, g->score.first, g->score.first_bias, g->score.padded, hidden);
        for (int64_t i = 0; i < g->score.width; i++) hidden[i] = hidden[i] < 0.0f ? 0.0f : hidden[i];
        combine(hidden, g->score.width, g->score.second, g->score.second_bias, U, scores);
        if (!all_finite(scores, g->units)) return -1;
        struct selection one = {choice->k_max[s], 0, choice->thresholds + s, choice->counts + s,
                                choice->mask + s * g->units};
        choice->hits[s] = swan_select(&one, 0, scores, g->units, copy);
        if (!g->switched) continue;
        combine(mean, g->inputs, g->beta.first, g->beta.first_bias, g->beta.padded, hidden);
        combine(hidden, g->beta.width, g->beta.second, g->beta.second_bias, U, scores);
        for (int64_t j = 0; j < U; j += VL) store(scores + j, 1.0f / (vexp(-load(scores + j)) + 1.0f));
        memcpy(beta + s * g->units, scores, g->units * sizeof(float));
    }
    return 0;
}
