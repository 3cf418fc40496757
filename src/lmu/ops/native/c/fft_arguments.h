/* The arguments of the kernels that convolve by Fourier transforms. */
#ifndef LMU_FFT_ARGUMENTS_H
#define LMU_FFT_ARGUMENTS_H

#include "fft_ends.h"

/* y[s] = f(sum_q u[s, q] * K[q] + x W_x + bias) for each sequence s, * being the convolution.
 *
 * Rows of K lie in groups of as many as a vector has lanes, the last of which may be filled up. */
typedef struct {
    int64_t n;         /* of the transforms, at least `length` */
    int64_t sequences, length, rows;
    int64_t width;     /* rows filled up to a whole number of vectors of any length */
    int64_t signals;   /* q of a sequence */
    int64_t channels;  /* signals of a time step of u: those of one sequence or of several */
    int64_t inputs, kind;
    int64_t group_parts, sequence_parts; /* their product is the number of parts */
    const real *factors;
    const real *u; /* (batch, length, channels) */
    const real *K; /* (signals, length, rows) */
    real *U;       /* (sequences, n, signals, 2), divided by n */
    real *KF;      /* (groups, n, signals, 2, lanes) */
    const real *x; /* (sequences, length, inputs) */
    const real *W_x;  /* (rows, inputs); NULL if there are neither inputs nor a bias */
    const real *bias; /* (rows,), NULL for zeros */
    real *y;       /* (batch, length, channels / signals, rows) */
    const real *dy;
    real *dU;  /* (group_parts, sequences, n, signals, 2) */
    real *dKF; /* (sequence_parts, groups, n, signals, 2, lanes) */
    real *dW;  /* (sequence_parts, inputs + 1, width), zeros at first; NULL if not needed */
    real *dx;  /* (group_parts, sequences, length, inputs), zeros at first; NULL if not needed */
    real *du, *dK;
} fft_arguments;

INLINE int64_t groups_of(const fft_arguments *a) { return (a->rows + LANES - 1) / LANES; }

/* [W_x, bias] transposed (inputs + 1, width), filled up with zeros. */
INLINE void pack_weights(const fft_arguments *a, real *W) {
    memset(W, 0, (size_t)((a->inputs + 1) * a->width) * sizeof(real));
    for (int64_t i = 0; i < a->inputs; i++)
        for (int64_t r = 0; r < a->rows; r++) W[i * a->width + r] = a->W_x[r * a->inputs + i];
    if (a->bias) memcpy(W + a->inputs * a->width, a->bias, (size_t)a->rows * sizeof(real));
}

/* Rows of a group within y; W are the packed weights, or NULL. */
INLINE fft_rows rows_of(const fft_arguments *a, int64_t group, const real *W) {
    int64_t rest = a->rows - group * LANES;
    return (fft_rows){
        .length = a->length,
        .step = a->rows * (a->channels / a->signals),
        .y_step = a->rows * (a->channels / a->signals),
        .rows = rest < LANES ? (int)rest : LANES,
        .kind = (int)a->kind,
        .inputs = a->inputs,
        .W_row = a->width,
        .W = W ? W + group * LANES : NULL,
    };
}

/* Start of a sequence in y. */
INLINE int64_t start_of(const fft_arguments *a, int64_t sequence) {
    int64_t inner = a->channels / a->signals;
    return ((sequence / inner) * a->length * inner + sequence % inner) * a->rows;
}

/* Sequences are multiplied four, two or one at a time, always the same ones together. */
INLINE int64_t block_of(int64_t sequence, int64_t sequences, int64_t *count) {
    int64_t first = sequence / 4 * 4, rest = sequences - first;
    *count = rest >= 4 ? 4 : rest >= 2 && sequence < first + 2 ? 2 : 1;
    return *count == 1 && rest == 3 ? first + 2 : first;
}

#endif
