#ifndef SWAN_CONV_H
#define SWAN_CONV_H
#include "vec.h"

/* Keeps a value that several sums use in a register: GCC would load it again for each, and loads are the bottleneck. */
INLINE vf held(vf value) {
#if VL == 16
    __asm__("" : "+v"(value));
#else
    __asm__("" : "+x"(value));
#endif
    return value;
}

/* What is added behind the second convolution: nothing, the block's input, or a strided 1x1 convolution of it. */
enum { BARE = 0, IDENTICAL = 1, PROJECTED = 2 };

/* A residual block around gated middle channels. */
struct conv {
    int64_t units, inputs, outputs, height, width, channels_last; /* of x */
    int64_t kernel_h, kernel_w, stride, padding;                  /* first convolution */
    int64_t down_h, down_w, down_padding;                         /* second one, stride 1 */
    int64_t activation, tail, shortcut_stride, relu;
    const float *up, *up_bias; /* [K][kh][kw * C], a row of kw * C rounded up to 16 where C is not a multiple; [K] */
    const float *down;         /* [ceil(O/32)][K][kh'][kw'][32] */
    const float *mean;         /* [K] */
    const float *p1, *p2;      /* ACON, [K] or NULL */
    const float *fold;         /* [H'', W'', O]: the sum with every channel off, biases included */
    const float *shortcut;     /* [ceil(O/32)][C][32] or NULL */
};

#endif
