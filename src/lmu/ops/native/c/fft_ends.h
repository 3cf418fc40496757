/* The first pass of a transform, which reads real signals, and the last pass, which writes them. */
#ifndef LMU_FFT_ENDS_H
#define LMU_FFT_ENDS_H

#include "fft.h"
#include "gelu.h"
#include "lanes.h"

#define GELU 4 /* after those of activations.h; its slope follows from its argument, not its result */

#define FOR_EACH_ACTIVATION(kind, CALL) \
    switch (kind) {                     \
        case TANH: CALL(TANH); break;           \
        case RELU: CALL(RELU); break;           \
        case SIGMOID: CALL(SIGMOID); break;     \
        case GELU: CALL(GELU); break;           \
        default: CALL(IDENTITY);                \
    }

INLINE vec activated(const int kind, vec z) {
    return kind == GELU ? gelu_of(z) : activate_vector(kind, z);
}
INLINE vec slope_at(const int kind, vec y) {
    return kind == GELU ? gelu_slope(y) : slope_vector(kind, y);
}

/* Rows of a matrix (time, rows) as many as a vector has lanes, and what belongs to them. */
typedef struct {
    int64_t length, step, y_step; /* numbers from one time step to the next, in dy and in y */
    int rows;             /* at most LANES */
    int kind;             /* of the activation */
    int64_t inputs, W_row;
    const real *x; /* (length, inputs) */
    const real *W; /* (inputs + 1, W_row): W_x transposed, and the bias; NULL if there is none */
} fft_rows;

INLINE vec load_rows(const fft_rows *r, const real *p) {
    return r->rows == LANES ? load(p) : load_some(p, r->rows);
}
INLINE void store_rows(const fft_rows *r, real *p, vec v) {
    if (r->rows == LANES)
        store(p, v);
    else
        store_some(p, v, r->rows);
}

/* Steps of time from reading a row to asking for another. Rows are too far apart for a processor to
 * foresee them: without this, passes take twice as long. */
enum { AHEAD = 8 };

/* Asks for the numbers of a vector `AHEAD` rows on, in the second cache: they may be in two lines. */
#define ASK_FOR(p, r, write)                                       \
    do {                                                           \
        __builtin_prefetch((p) + AHEAD * (r)->step, write, 2);     \
        __builtin_prefetch((p) + AHEAD * (r)->step + LANES - 1, write, 2); \
    } while (0)

/* y = f(z + W_x x + bias) at times t, t + size, ..., where they lie within the sequence. */
INLINE void write_steps(const int radix, const fft_rows *r, int64_t t, int64_t size, vec *z,
                        real *y) {
    if (r->W) {
        vec bias = load(r->W + r->inputs * r->W_row);
#pragma GCC unroll 8
        for (int k = 0; k < radix; k++) z[k] += bias;
        for (int64_t i = 0; i < r->inputs; i++) {
            vec w = load(r->W + i * r->W_row);
#pragma GCC unroll 8
            for (int k = 0; k < radix; k++)
                if (t + k * size < r->length) z[k] += w * r->x[(t + k * size) * r->inputs + i];
        }
    }
#define CALL(KIND)                                                            \
    _Pragma("GCC unroll 8") for (int k = 0; k < radix; k++) {                 \
        real *at = y + (t + k * size) * r->step;                              \
        if (t + k * size >= r->length) continue;                              \
        ASK_FOR(at, r, 1);                                                    \
        store_rows(r, at, activated(KIND, z[k]));                             \
    }
    FOR_EACH_ACTIVATION(r->kind, CALL)
#undef CALL
}

/* dz = dy f'(z) at times t, t + size, ...; zero beyond the sequence. For gelu y is z. */
INLINE void read_steps(const int radix, const fft_rows *r, int64_t t, int64_t size,
                       const real *dy, const real *y, vec *dz) {
#define CALL(KIND)                                                              \
    _Pragma("GCC unroll 8") for (int k = 0; k < radix; k++) {                   \
        const real *of_dy = dy + (t + k * size) * r->step;                      \
        dz[k] = (vec){0};                                                       \
        if (t + k * size >= r->length) continue;                                \
        ASK_FOR(of_dy, r, 0);                                                   \
        dz[k] = load_rows(r, of_dy);                                            \
        if (KIND == IDENTITY) continue;                                         \
        const real *of_y = y + (t + k * size) * r->y_step;                      \
        if (KIND != GELU) ASK_FOR(of_y, r, 0);                                  \
        dz[k] *= slope_at(KIND, load_rows(r, of_y));                            \
    }
    FOR_EACH_ACTIVATION(r->kind, CALL)
#undef CALL
}

/* Adds the gradients of W, and of x if dx is not NULL, from dz at times t, t + size, ... */
INLINE void add_gradients(const int radix, const fft_rows *r, int64_t t, int64_t size,
                          const vec *dz, real *dW, real *dx) {
    vec sum = load(dW + r->inputs * r->W_row);
#pragma GCC unroll 8
    for (int k = 0; k < radix; k++) sum += dz[k];
    store(dW + r->inputs * r->W_row, sum);
    for (int64_t i = 0; i < r->inputs; i++) {
        sum = load(dW + i * r->W_row);
#pragma GCC unroll 8
        for (int k = 0; k < radix; k++)
            if (t + k * size < r->length) sum += dz[k] * r->x[(t + k * size) * r->inputs + i];
        store(dW + i * r->W_row, sum);
    }
    for (int64_t i = 0; dx && i < r->inputs; i++) {
        vec w = load(r->W + i * r->W_row), products[8] = {0};
        real sums[8];
#pragma GCC unroll 8
        for (int k = 0; k < radix; k++) products[k] = dz[k] * w;
        sum_lanes(8, products, sums);
        for (int k = 0; k < radix; k++)
            if (t + k * size < r->length) dx[(t + k * size) * r->inputs + i] += sums[k];
    }
}

/* The first pass over dz, from dy and y, into `work`. */
static void read_rows(const fft_plan *p, const fft_rows *r, const real *dy, const real *y,
                      real *work, real *dW, real *dx) {
    int64_t size = p->size[1];
    const real *w = p->factors[0];
#define CALL(radix)                                                                    \
    for (int64_t l = 0; l < size; l++) {                                               \
        vec re[8], im[8];                                                              \
        read_steps(radix, r, l, size, dy, y, re);                                      \
        if (dW) add_gradients(radix, r, l, size, re, dW, dx);                          \
        im[0] = (vec){0};                                                              \
        _Pragma("GCC unroll 8") for (int k = 1; k < radix; k++)                        \
            im[k] = re[k] * w[2 * k - 1], re[k] = re[k] * w[2 * k - 2];                \
        dft(radix, re, im);                                                            \
        _Pragma("GCC unroll 8") for (int k = 0; k < radix; k++) {                      \
            real *at = work + (k * size + l) * PAIR;                                   \
            store(at, re[k]), store(at + LANES, im[k]);                                \
        }                                                                              \
    }
    FOR_RADIX(p->radix[0], CALL)
#undef CALL
}

/* The last pass, whose real parts are written. */
static void write_rows(const fft_plan *p, const fft_rows *r, const real *work, real *y) {
    int64_t size = p->size[1];
    const real *w = p->factors[0];
#define CALL(radix)                                                                    \
    for (int64_t l = 0; l < size; l++) {                                               \
        vec re[8], im[8];                                                              \
        _Pragma("GCC unroll 8") for (int k = 0; k < radix; k++) {                      \
            const real *at = work + (k * size + l) * PAIR;                             \
            re[k] = load(at), im[k] = load(at + LANES);                                \
        }                                                                              \
        dft(radix, im, re);                                                            \
        _Pragma("GCC unroll 8") for (int k = 1; k < radix; k++)                        \
            re[k] = re[k] * w[2 * k - 2] + im[k] * w[2 * k - 1];                       \
        write_steps(radix, r, l, size, re, y);                                         \
    }
    FOR_RADIX(p->radix[0], CALL)
#undef CALL
}

#endif
