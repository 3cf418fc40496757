/* Activations of vectors, and their slopes from their results. */
#ifndef LMU_ACTIVATIONS_H
#define LMU_ACTIVATIONS_H

#include "lmu.h"

enum { TANH, RELU, SIGMOID, IDENTITY }; /* as numbered in ops/native */

#if defined(REAL_IS_DOUBLE)
typedef int64_t whole_number;
#define TERMS 13
#define MANTISSA 52
#define BIAS 1023
#define MAGIC 6755399441055744.0 /* 1.5 * 2^52: added, it rounds to a whole number */
#define LN2_HIGH 0x1.62e42fefa0000p-1
#define LN2_LOW 0x1.cf79abc9e3b39p-40
#define EXP_LEAST -708.0
#else
typedef int32_t whole_number;
#define TERMS 7
#define MANTISSA 23
#define BIAS 127
#define MAGIC 12582912.0f
#define LN2_HIGH 0x1.62e400p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_LEAST -87.0f
#endif
typedef whole_number mask __attribute__((vector_size(VECTOR_BYTES)));

INLINE vec choose(mask where, vec yes, vec no) {
    return (vec)(((mask)yes & where) | ((mask)no & ~where));
}

/* 2^n and exp(r) - 1 where x = n ln 2 + r, for EXP_LEAST <= x <= 0; NaN stays. */
INLINE void exp_parts(vec x, vec *power, vec *rest) {
    vec shifted = x * (real)1.4426950408889634 + (real)MAGIC;
    vec n = shifted - (real)MAGIC;
    vec r = x - n * (real)LN2_HIGH - n * (real)LN2_LOW;
    real inverse = 1;
    real coefficient[TERMS + 1];
#pragma GCC unroll 16
    for (int i = 1; i <= TERMS; i++) {
        inverse /= (real)i;
        coefficient[i] = inverse;
    }
    vec sum = fill(coefficient[TERMS]);
#pragma GCC unroll 16
    for (int i = TERMS - 1; i >= 1; i--) sum = sum * r + coefficient[i];
    *rest = sum * r;
    *power = (vec)(((mask)shifted + BIAS) << MANTISSA);
}

INLINE vec absolute(vec x) { return choose(x < 0, -x, x); }

/* tanh |x| = -e / (2 + e), e = exp(-2 |x|) - 1. */
INLINE vec tanh_of(vec x) {
    vec y = -2 * absolute(x), power, rest;
    y = choose(y < (real)EXP_LEAST, fill((real)EXP_LEAST), y);
    exp_parts(y, &power, &rest);
    vec e = power * rest + (power - 1);
    vec t = -e / (2 + e);
    return choose(x < 0, -t, choose(x == 0, x, t));
}

INLINE vec sigmoid_of(vec x) {
    vec y = -absolute(x), power, rest;
    mask tiny = y < (real)EXP_LEAST;
    exp_parts(choose(tiny, fill((real)EXP_LEAST), y), &power, &rest);
    vec e = choose(tiny, (vec){0}, power * (rest + 1)); /* power * rest may be denormal */
    return choose(x < 0, e, fill(1)) / (1 + e);
}

INLINE vec relu_of(vec x) { return choose(x <= 0, (vec){0}, x); } /* NaN stays */

INLINE vec activate_vector(const int kind, vec x) {
    return kind == TANH ? tanh_of(x) : kind == RELU ? relu_of(x) : kind == SIGMOID ? sigmoid_of(x) : x;
}

/* The slope at the argument whose result is y. */
INLINE vec slope_vector(const int kind, vec y) {
    return kind == TANH      ? 1 - y * y
           : kind == RELU    ? choose(y > 0, fill(1), (vec){0})
           : kind == SIGMOID ? y * (1 - y)
                             : fill(1);
}

#define FOR_EACH_KIND(kind, CALL) \
    switch (kind) {               \
        case TANH: CALL(TANH); break;         \
        case RELU: CALL(RELU); break;         \
        case SIGMOID: CALL(SIGMOID); break;   \
        default: CALL(IDENTITY);              \
    }

/* In place on n numbers; what follows them up to a whole vector is overwritten, too. */
static void activate(int kind, real *x, int64_t n) {
#define ALL(KIND) \
    for (int64_t i = 0; i < n; i += LANES) store(x + i, activate_vector(KIND, load(x + i)))
    FOR_EACH_KIND(kind, ALL)
#undef ALL
}

/* g *= slope at y, on n numbers, and likewise beyond. */
static void times_slope(int kind, real *g, const real *y, int64_t n) {
#define ALL(KIND) \
    for (int64_t i = 0; i < n; i += LANES) store(g + i, load(g + i) * slope_vector(KIND, load(y + i)))
    FOR_EACH_KIND(kind, ALL)
#undef ALL
}

#endif
