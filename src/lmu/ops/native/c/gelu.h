/* The activation gelu, z Phi(z) with the normal distribution Phi, and its slope. */
#ifndef LMU_GELU_H
#define LMU_GELU_H

#include "activations.h"

/* Of Mills' ratio R(a) = (1 - Phi(a)) / phi(a), the polynomial R(a) (a + 4) in (a - 4) / (a + 4),
 * highest power first: interpolated at Chebyshev's points, relative errors 6e-8 and 2e-16. */
static const real MILLS[] = {
#if defined(REAL_IS_DOUBLE)
    -4.4461081001745359634e-9, -3.2199692790143124363e-9, 4.1449717384848586994e-8,
    4.9150817309232731661e-8, -2.0027585806454338543e-7, -4.0687383809357882825e-7,
    6.6734663876804807604e-7, 2.5745450687200353077e-6, -1.5696678628944616686e-6,
    -0.000014846708706118606005, 1.7929254081847195669e-6, 0.000088097066448957992292,
    -4.7824148557878042791e-6, -0.00057926963909453182355, 0.00033424448962780211016,
    0.004087855732516908303, -0.008722295263838521845, -0.018900450866100365125,
    0.15139176231205376322, -0.46754096299815848368, 0.97040955486759240668, -1.5237709108199854867,
    1.893219063308485365
#else
    -0.0004076186547f, 0.0003242076095f, 0.00394982472f, -0.008713532335f, -0.01885299177f,
    0.1513886003f, -0.4675467943f, 0.9704099528f, -1.523770795f, 1.893219055f
#endif
};
enum { MILLS_TERMS = sizeof(MILLS) / sizeof(real) };

/* The normal density phi at z, and Phi(-|z|), with small relative errors also where it is small. */
INLINE void normal_parts(vec z, vec *density, vec *tail) {
    vec a = absolute(z), square = a * (real)-0.5 * a, power, rest;
    mask far = square < (real)EXP_LEAST;
    exp_parts(choose(far, fill((real)EXP_LEAST), square), &power, &rest);
    vec inverse = 1 / (a + 4), s = 1 - 8 * inverse, sum = fill(MILLS[0]);
#pragma GCC unroll 32
    for (int i = 1; i < MILLS_TERMS; i++) sum = sum * s + MILLS[i];
    *density = choose(far, (vec){0}, (power * rest + power) * (real)0.39894228040143267794);
    *tail = *density * sum * inverse;
}

INLINE vec gelu_of(vec z) {
    vec density, tail;
    normal_parts(z, &density, &tail);
    return z * choose(z < 0, tail, 1 - tail);
}

INLINE vec gelu_slope(vec z) {
    vec density, tail;
    normal_parts(z, &density, &tail);
    return choose(z < 0, tail, 1 - tail) + z * density;
}

#endif
