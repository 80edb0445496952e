/* 9 to 64 vector rows, each with its own mask.
   Up product: 16 units stay in the first-level cache while the rows pass by; a row's active units of the 16 share each load
   of its inputs. Down product: row by row over 128-column tiles whose sums stay in registers, 64 units at a time. Rows are
   taken in the order of their number of active units, so that a loop's length hardly ever surprises the CPU. */
#include "rows.h"

enum { BLOCK = 16, MOST = VL == 16 ? 12 : 8, PIECE = 512 };

/* A row and its active units of a block, at most MOST of them. */
struct item {
    uint8_t row;
    uint16_t units;
};
/* The items of a block by their number of units. */
struct items {
    int count[MOST + 1];
    struct item of[MOST + 1][2 * GROUP];
};

/* Fetch what the next block or span needs, a fixed number of lines with each row: choosing only the units that some row wants
   costs more in mispredicted branches than it saves. Into the second level: the first one is full. */
INLINE void fetch_lines(const char **next, int lines) {
    for (int i = 0; i < lines; i++, *next += 64) __builtin_prefetch(*next, 0, 2);
}

static void sort_items(const struct work *w, int64_t block, int rows, struct items *s) {
    memset(s->count, 0, sizeof s->count);
    for (int r = 0; r < rows; r++) {
        uint32_t units = w->chosen[r * w->blocks + block];
        int n = __builtin_popcount(units);
        if (n > MOST) {
            uint32_t rest = units;
            for (int i = 0; i < n / 2; i++) rest &= rest - 1;
            s->of[n / 2][s->count[n / 2]++] = (struct item){(uint8_t)r, (uint16_t)(units ^ rest)};
            units = rest;
            n -= n / 2;
        }
        s->of[n][s->count[n]] = (struct item){(uint8_t)r, (uint16_t)units};
        s->count[n] += n > 0;
    }
}

/* A block's units and a piece of their inputs: columns from .. from + length. */
struct piece {
    const float *x;
    int64_t unit, from, length;
    int first, last;
};

/* Lane i of the result: dot product of x with the i-th of n chosen weight rows. */
INLINE vf chosen_dots(const struct block *b, const void *matrix, const struct piece *c, const float *x, uint32_t units,
                      const int n, const int half) {
    const int unroll = n == 1 ? 4 : n <= 5 ? 2 : 1;
    int64_t at[MOST], d = 0;
    vf acc[MOST] = {{0}}, more[MOST] = {{0}};
#pragma GCC unroll 12
    for (int i = 0; i < n; i++, units &= units - 1) at[i] = (c->unit + __builtin_ctz(units)) * b->inputs + c->from;
    for (; d + unroll * VL <= c->length; d += unroll * VL) {
#pragma GCC unroll 4
        for (int u = 0; u < unroll; u++) {
            vf value = load(x + d + u * VL);
#pragma GCC unroll 12
            for (int i = 0; i < n; i++) {
                vf row = weights(matrix, at[i] + d + u * VL, half);
                if (u == 0) acc[i] += value * row;
                else more[i + (u - 1) * n] += value * row;
            }
        }
    }
#pragma GCC unroll 4
    for (int u = 1; u < unroll; u++)
#pragma GCC unroll 5
        for (int i = 0; i < n; i++) acc[i] += more[i + (u - 1) * n];
    for (; d + VL <= c->length; d += VL) {
        vf value = load(x + d);
#pragma GCC unroll 12
        for (int i = 0; i < n; i++) acc[i] += value * weights(matrix, at[i] + d, half);
    }
    if (d < c->length) {
        int rest = (int)(c->length - d);
        vf value = load_part(x + d, rest);
#pragma GCC unroll 12
        for (int i = 0; i < n; i++) acc[i] += value * weights_part(matrix, at[i] + d, rest, half);
    }
    return n > 8 ? many_sums(acc, n) : sums(acc, n);
}

/* Adds the values of one row's active units to its lists. ReLU's zeros are left out: the down product costs nothing. */
INLINE void list(const struct block *b, const struct piece *c, struct work *w, int row, uint32_t units, vf h, vf linear,
                 const int n) {
    h = activate(h + squeezed(b->up_bias + c->unit, units), (int)b->activation);
    if (b->linear) h *= linear + squeezed(b->linear_bias + c->unit, units);
    if (w->scale) h *= squeezed(w->scale + row * b->units + c->unit, units);
    h -= squeezed(b->mean + c->unit, units);
    int64_t at = row * w->stride + w->count[row];
    uint32_t live = lanes_set(h != 0.0f) & ((1u << n) - 1), kept = _pdep_u32(live, units);
    squeeze(w->value + at, h, live);
    squeeze_numbers(w->index + at, (int32_t)c->unit, kept);
    w->count[row] += __builtin_popcount(live);
}

INLINE float *run_items(const struct block *b, const struct piece *c, const struct items *s, struct work *w, float *part,
                        const char **next, int lines, const int n, const int half) {
    for (int k = 0; k < s->count[n]; k++, part += VL) {
        int row = s->of[n][k].row;
        uint32_t units = s->of[n][k].units;
        const float *x = c->x + row * b->inputs + c->from;
        vf h = chosen_dots(b, b->up, c, x, units, n, half), linear = {0};
        if (b->linear) linear = chosen_dots(b, b->linear, c, x, units, n, half);
        if (!c->first) h += load(part), linear += load(part + PART_FLOATS);
        if (c->last) list(b, c, w, row, units, h, linear, n);
        else store(part, h), store(part + PART_FLOATS, linear);
        fetch_lines(next, lines);
    }
    return part;
}

INLINE void run_block(const struct block *b, const struct piece *c, const struct items *s, struct work *w, const char **next,
                      int lines, const int half) {
    float *part = w->part;
#define RUN(n) part = run_items(b, c, s, w, part, next, lines, n, half);
    RUN(1) RUN(2) RUN(3) RUN(4) RUN(5) RUN(6) RUN(7) RUN(8)
#if VL == 16
    RUN(9) RUN(10) RUN(11) RUN(12)
#endif
}

/* Columns a piece may have so that a block's weights stay in the first-level cache (32 of 48 KiB, two matrices for a GLU). */
static int64_t piece_length(const struct block *b) {
    int64_t most = b->linear ? PIECE / 2 : PIECE, pieces = (b->inputs + most - 1) / most;
    return ((b->inputs + pieces - 1) / pieces + 15) / 16 * 16;
}

static void up_product(const struct block *b, const float *x, int rows, struct work *w) {
    struct items sorted;
    int64_t length = piece_length(b), pieces = (b->inputs + length - 1) / length;
    memset(w->count, 0, sizeof w->count);
    memset(w->segment, 0, sizeof w->count);
    for (int64_t k = 0; k < w->blocks; k++) {
        sort_items(w, k, rows, &sorted);
        int64_t bytes = BLOCK * b->inputs * (b->half ? 2 : 4);
        const char *next = (const char *)b->up + (k + 1 < w->blocks ? k + 1 : 0) * bytes;
        int each = (int)((bytes / 64 + rows * pieces - 1) / (rows * pieces));
        for (int64_t from = 0; from < b->inputs; from += length) {
            int64_t left = b->inputs - from;
            struct piece c = {x, k * BLOCK, from, left < length ? left : length, from == 0, left <= length};
            if (b->half) run_block(b, &c, &sorted, w, &next, each, 1);
            else run_block(b, &c, &sorted, w, &next, each, 0);
        }
        if ((k + 1) % (SPAN / BLOCK) == 0 || k + 1 == w->blocks)
            memcpy(w->segment + (k / (SPAN / BLOCK) + 1) * GROUP, w->count, sizeof w->count);
    }
}

/* Rows of each span by their number of live units. */
static void sort_rows(const struct work *w, int rows, int64_t spans) {
    for (int64_t s = 0; s < spans; s++) {
        const int32_t *from = w->segment + s * GROUP, *to = from + GROUP;
        int start[SPAN + 2] = {0};
        for (int r = 0; r < rows; r++) start[to[r] - from[r] + 1]++;
        for (int i = 1; i < SPAN + 2; i++) start[i] += start[i - 1];
        for (int r = 0; r < rows; r++) w->order[s * GROUP + start[to[r] - from[r]]++] = (uint8_t)r;
    }
}

/* One span of one tile for all rows: the span's weights (32 KiB) stay in the first-level cache. */
INLINE void down_span(const struct block *b, const struct work *w, int rows, int64_t tile, int64_t s, const int half) {
    const int32_t *from = w->segment + s * GROUP, *to = from + GROUP;
    const char *next = (const char *)b->down_tiled + (tile / TILE + (s + 1) * SPAN) * TILE * (half ? 2 : 4);
    int lines = (SPAN * TILE * (half ? 2 : 4) / 64 + rows - 1) / rows;
    for (int k = 0; k < rows; k++) {
        int r = w->order[s * GROUP + k];
        int64_t at = r * w->stride + from[r];
        down_tile(b->down_tiled, tile, w->index + at, w->value + at, to[r] - from[r], 0, half, w->y + r * TILE);
        fetch_lines(&next, lines);
    }
}

void swan_down_lists(const struct block *b, const struct work *w, int rows, float *y) {
    int64_t spans = (b->units + SPAN - 1) / SPAN;
    sort_rows(w, rows, spans);
    for (int64_t t = 0; t * TILE < b->outputs; t++) {
        int64_t width = b->outputs - t * TILE < TILE ? b->outputs - t * TILE : TILE;
        int64_t tile = t * b->units * TILE;
        memset(w->y, 0, TILE * sizeof(float));
        memcpy(w->y, b->down_bias + t * TILE, width * sizeof(float));
        for (int r = 1; r < rows; r++) memcpy(w->y + r * TILE, w->y, TILE * sizeof(float));
        for (int64_t s = 0; s < spans; s++) {
            if (b->half) down_span(b, w, rows, tile, s, 1);
            else down_span(b, w, rows, tile, s, 0);
        }
        for (int r = 0; r < rows; r++) memcpy(y + r * b->outputs + t * TILE, w->y + r * TILE, width * sizeof(float));
    }
}

/* w->chosen from mask bytes. */
static void choose(const uint8_t *mask, int rows, int64_t units, struct work *w) {
    for (int r = 0; r < rows; r++)
        for (int64_t k = 0; k < w->blocks; k++) {
            const uint8_t *from = mask + r * units + k * BLOCK;
            int64_t left = units - k * BLOCK;
            w->chosen[r * w->blocks + k] = (uint16_t)(left >= BLOCK ? bytes_set(from) : bytes_set_part(from, (int)left));
        }
}

void swan_many(const struct block *b, const float *x, int rows, const uint8_t *mask, struct work *w, float *y) {
    choose(mask, rows, b->units, w);
    up_product(b, x, rows, w);
    swan_down_lists(b, w, rows, y);
}

/* The lists of up_product, from values that are there already. */
void swan_many_values(const struct block *b, const float *x, int rows, const uint8_t *mask, float *dropped, struct work *w,
                      float *y) {
    memset(w->count, 0, sizeof w->count);
    memset(w->segment, 0, sizeof w->count);
    for (int64_t first = 0, span = 1; first < b->units; first += SPAN, span++) {
        int64_t last = first + SPAN < b->units ? first + SPAN : b->units;
        for (int r = 0; r < rows; r++)
            for (int64_t j = first; j < last; j++) {
                int64_t at = r * b->units + j;
                float value = x[at] - b->mean[j];
                swan_append(w, r, (int32_t)j, mask[at] ? value : 0.0f);
                if (dropped) dropped[at] = mask[at] ? 0.0f : value;
            }
        memcpy(w->segment + span * GROUP, w->count, sizeof w->count);
    }
    if (rows > 1) swan_down_lists(b, w, rows, y);
}
