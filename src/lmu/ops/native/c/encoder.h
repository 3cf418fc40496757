/* The memory's input from that of a layer, u = f(W_u x + b_u), and its gradients. */
#ifndef LMU_ENCODER_H
#define LMU_ENCODER_H

#include "activations.h"
#include "gemm.h"

/* n rounded up to the longest vectors, as Python knows not which are in use. */
INLINE int64_t wide(int64_t n) {
    int64_t longest = 64 / (int64_t)sizeof(real);
    return (n + longest - 1) / longest * longest;
}

typedef struct {
    int64_t features, channels, activation;
    const real *W, *bias; /* (channels, features), (channels); no encoder if W is NULL */
    const real *x;        /* (steps, features) */
    real *u;              /* (steps, channels) */
    real *dx, *dW, *dbias; /* as x, to which it is added, or NULL; as W and bias */
    real *sums;           /* gradients of each part, (parts, features + 1, wide(channels)) */
} encoder;

enum { ENCODER_ROWS = 64 }; /* steps at once */

/* Buffers of a part: the weights and their transpose in whole vectors, and rows of both widths. */
typedef struct {
    real *W_T, *W, *rows, *y, *wide_rows;
} encoder_buffers;

static int encoder_begin(const encoder *e, encoder_buffers *b, int backward) {
    memset(b, 0, sizeof *b);
    if (!e->W) return 0;
    int64_t width = wide(e->channels), other = backward ? wide(e->features) : 0;
    b->W_T = zeros(e->features * width);
    b->rows = zeros(ENCODER_ROWS * width);
    b->y = zeros(ENCODER_ROWS * width);
    b->W = zeros(e->channels * other);
    b->wide_rows = zeros(ENCODER_ROWS * other);
    if (!b->W_T || !b->rows || !b->y || !b->W || !b->wide_rows) return LMU_NO_MEMORY;
    for (int64_t c = 0; c < e->channels; c++)
        for (int64_t k = 0; k < e->features; k++) {
            b->W_T[k * width + c] = e->W[c * e->features + k];
            if (backward) b->W[c * other + k] = e->W[c * e->features + k];
        }
    return 0;
}

static void encoder_end(encoder_buffers *b) {
    free(b->W_T);
    free(b->rows);
    free(b->y);
    free(b->W);
    free(b->wide_rows);
}

/* One input and one channel: steps lie side by side, and fill vectors of their own. */
static void encode_single(const encoder *e, int64_t first, int64_t steps) {
    vec w = fill(*e->W), bias = fill(*e->bias);
    const real *x = e->x + first;
    real *u = e->u + first;
#define ALL(KIND)                                                            \
    for (; i + LANES <= steps; i += LANES)                                   \
        store(u + i, activate_vector(KIND, w * load(x + i) + bias));         \
    for (; i < steps; i++) u[i] = activate_vector(KIND, w * fill(x[i]) + bias)[0]
    int64_t i = 0;
    FOR_EACH_KIND(e->activation, ALL)
#undef ALL
}

/* Likewise its gradients; dW and dbias of the part. */
static void encode_single_backward(const encoder *e, const real *du, int64_t first, int64_t steps,
                                   real *dW, real *dbias) {
    const real *x = e->x + first, *u = e->u + first;
    real *dx = e->dx ? e->dx + first : NULL;
    vec of_W = {0}, of_bias = {0}, w = fill(*e->W);
    real rest_W = 0, rest_bias = 0;
    du += first;
#define ALL(KIND)                                                            \
    for (; i + LANES <= steps; i += LANES) {                                 \
        vec g = load(du + i) * slope_vector(KIND, load(u + i));              \
        of_W += g * load(x + i);                                             \
        of_bias += g;                                                        \
        if (dx) store(dx + i, load(dx + i) + g * w);                         \
    }                                                                        \
    for (; i < steps; i++) {                                                 \
        real g = du[i] * slope_vector(KIND, fill(u[i]))[0];                  \
        rest_W += g * x[i];                                                  \
        rest_bias += g;                                                      \
        if (dx) dx[i] += g * w[0];                                           \
    }
    int64_t i = 0;
    FOR_EACH_KIND(e->activation, ALL)
#undef ALL
    for (int j = 0; j < LANES; j++) rest_W += of_W[j], rest_bias += of_bias[j];
    *dW += rest_W;
    *dbias += rest_bias;
}

/* u of some steps. */
static void encode(const encoder *e, const encoder_buffers *b, int64_t first, int64_t steps) {
    int64_t width = wide(e->channels), features = e->features;
    if (e->W && e->channels == 1 && features == 1) {
        encode_single(e, first, steps);
        return;
    }
    for (int64_t i = first; e->W && i < first + steps; i += ENCODER_ROWS) {
        int64_t n = first + steps - i < ENCODER_ROWS ? first + steps - i : ENCODER_ROWS;
        for (int64_t s = 0; s < n; s++)
            for (int64_t c = 0; c < e->channels; c++) b->rows[s * width + c] = e->bias[c];
        gemm(n, width, features, e->x + i * features, features, 1, b->W_T, width, b->rows, width, 1);
        activate((int)e->activation, b->rows, n * width);
        for (int64_t s = 0; s < n; s++)
            for (int64_t c = 0; c < e->channels; c++)
                e->u[(i + s) * e->channels + c] = b->rows[s * width + c];
    }
}

/* Set the sums of a part to zero. */
static void encoder_clear(const encoder *e, int64_t part) {
    int64_t size = (e->features + 1) * wide(e->channels);
    if (e->W && e->sums) memset(e->sums + part * size, 0, size * sizeof(real));
}

/* Gradients by those of u of some steps, added to the sums of a part. */
static void encode_backward(const encoder *e, const encoder_buffers *b, int64_t part,
                            const real *du, int64_t first, int64_t steps) {
    int64_t width = wide(e->channels), other = wide(e->features), features = e->features;
    real *sums = e->sums + part * (features + 1) * width, *dbias = sums + features * width;
    if (e->W && e->channels == 1 && features == 1) {
        encode_single_backward(e, du, first, steps, sums, dbias);
        return;
    }
    for (int64_t i = first; e->W && i < first + steps; i += ENCODER_ROWS) {
        int64_t n = first + steps - i < ENCODER_ROWS ? first + steps - i : ENCODER_ROWS;
        for (int64_t s = 0; s < n; s++) {
            real *g = b->rows + s * width;
            const real *from = du + (i + s) * e->channels, *y = e->u + (i + s) * e->channels;
            for (int64_t c = 0; c < e->channels; c++) g[c] = from[c], b->y[s * width + c] = y[c];
        }
        times_slope((int)e->activation, b->rows, b->y, n * width);
        for (int64_t s = 0; s < n; s++)
            for (int64_t c = 0; c < width; c += LANES)
                store(dbias + c, load(dbias + c) + load(b->rows + s * width + c));
        gemm(features, width, n, e->x + i * features, 1, features, b->rows, width, sums, width, 1);
        if (!e->dx) continue;
        gemm(n, other, e->channels, b->rows, width, 1, b->W, other, b->wide_rows, other, 0);
        for (int64_t s = 0; s < n; s++)
            for (int64_t k = 0; k < features; k++)
                e->dx[(i + s) * features + k] += b->wide_rows[s * other + k];
    }
}

/* The sums of all parts, in one order whoever is the last. */
static void encoder_finish(const encoder *e, int64_t parts) {
    int64_t width = wide(e->channels), size = (e->features + 1) * width;
    if (!e->W || !e->sums) return;
    for (int64_t p = 1; p < parts; p++)
        for (int64_t i = 0; i < size; i++) e->sums[i] += e->sums[p * size + i];
    for (int64_t c = 0; c < e->channels; c++)
        for (int64_t k = 0; k < e->features; k++)
            e->dW[c * e->features + k] = e->sums[k * width + c];
    memcpy(e->dbias, e->sums + e->features * width, e->channels * sizeof(real));
}

/* True for the part that comes last; what the others have written is there for it. */
static int is_last(int64_t *finished, int64_t parts) {
    return __atomic_add_fetch(finished, 1, __ATOMIC_ACQ_REL) == parts;
}

#endif
