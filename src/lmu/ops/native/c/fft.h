/* Fourier transforms of as many signals as a vector has lanes.
 *
 * A signal of up to n steps is a polynomial; a product of two of them, of up to 2 n terms, is a
 * convolution. Modulo X^n - i its terms from n on come back as imaginary parts of the first n, so
 * that n complex points hold all of it and nothing need be padded. The transform is the values at
 * the n roots of i.
 *
 * X^n - s is the product of the r polynomials X^(n/r) - s_j, s_j the r-th roots of s. A pass reduces
 * a block, a polynomial modulo X^size - s, to r blocks side by side. All numbers of a block have
 * the same factors, and a block that lies in the cache stays there until its spectrum is complete.
 * The order of the spectrum is that of the digits in reverse; products do not care.
 *
 * A complex number of all lanes is two vectors, the real and the imaginary one.
 */
#ifndef LMU_FFT_H
#define LMU_FFT_H

#include <math.h>

#include "lmu.h"

/* Radix 8 takes more registers than instruction sets with 16 have. */
#if VECTOR_BYTES == 64 || defined(__aarch64__)
enum { LARGEST_RADIX = 8 };
#else
enum { LARGEST_RADIX = 4 };
#endif

enum { PAIR = 2 * LANES, MOST_LEVELS = 64 };

typedef struct {
    int64_t n;
    int levels;
    int radix[MOST_LEVELS];
    int64_t size[MOST_LEVELS + 1];        /* of the blocks that a level divides; at the end 1 */
    const real *factors[MOST_LEVELS]; /* radix - 1 complex ones for each block */
} fft_plan;

static void add_level(fft_plan *p, int radix, const real **factors) {
    int level = p->levels++;
    p->radix[level] = radix;
    p->factors[level] = *factors;
    p->size[level + 1] = p->size[level] / radix;
    *factors += 2 * (radix - 1) * (p->n / p->size[level]);
}

/* The passes for n = 2^a 3^b 5^c, n > 1; `factors` are those of fft_factors. */
static fft_plan plan_fft(int64_t n, const real *factors) {
    fft_plan p = {.n = n, .size = {n}};
    int twos = 0;
    int64_t rest = n;
    for (; rest % 2 == 0; rest /= 2) twos++;
    if (LARGEST_RADIX == 8)
        for (; twos == 3 || twos > 4; twos -= 3) add_level(&p, 8, &factors);
    for (; twos > 1; twos -= 2) add_level(&p, 4, &factors);
    for (; rest % 5 == 0; rest /= 5) add_level(&p, 5, &factors);
    for (; rest % 3 == 0; rest /= 3) add_level(&p, 3, &factors);
    if (twos) add_level(&p, 2, &factors);
    return p;
}

/* Computes the factors of a plan: less than 2 n complex numbers. */
static void fft_factors(int64_t n, real *factors) {
    fft_plan p = plan_fft(n, factors);
    for (int level = 0; level < p.levels; level++)
        for (int64_t block = 0; block < n / p.size[level]; block++) {
            /* The block's root is exp(2 pi i turns / whole). */
            int64_t turns = 1, whole = 4, digits = block;
            for (int above = 0; above < level; above++) {
                int64_t blocks = p.size[above + 1] / p.size[level];
                turns += whole * (digits / blocks);
                whole *= p.radix[above];
                digits %= blocks;
            }
            whole *= p.radix[level];
            for (int64_t k = 1; k < p.radix[level]; k++) {
                double angle = 6.283185307179586477 * (double)(turns * k % whole) / (double)whole;
                *factors++ = (real)cos(angle);
                *factors++ = (real)sin(angle);
            }
        }
}

INLINE void dft_4(vec re[4], vec im[4]) {
    vec a = re[0] + re[2], b = im[0] + im[2], c = re[0] - re[2], d = im[0] - im[2];
    vec e = re[1] + re[3], f = im[1] + im[3], g = re[1] - re[3], h = im[1] - im[3];
    re[0] = a + e, im[0] = b + f, re[2] = a - e, im[2] = b - f;
    re[1] = c - h, im[1] = d + g, re[3] = c + h, im[3] = d - g;
}

INLINE void dft_3(vec re[3], vec im[3]) {
    const real sine = (real)0.86602540378443864676;
    vec s = re[1] + re[2], t = im[1] + im[2];
    vec c = sine * (re[1] - re[2]), d = sine * (im[1] - im[2]);
    vec e = re[0] - (real)0.5 * s, f = im[0] - (real)0.5 * t;
    re[0] += s, im[0] += t;
    re[1] = e - d, im[1] = f + c, re[2] = e + d, im[2] = f - c;
}

INLINE void dft_5(vec re[5], vec im[5]) {
    const real c1 = (real)0.30901699437494742410, c2 = (real)-0.80901699437494742410;
    const real s1 = (real)0.95105651629515357212, s2 = (real)0.58778525229247312917;
    vec a = re[1] + re[4], b = im[1] + im[4], c = re[1] - re[4], d = im[1] - im[4];
    vec e = re[2] + re[3], f = im[2] + im[3], g = re[2] - re[3], h = im[2] - im[3];
    vec p = re[0] + c1 * a + c2 * e, q = im[0] + c1 * b + c2 * f;
    vec s = re[0] + c2 * a + c1 * e, t = im[0] + c2 * b + c1 * f;
    vec u = s1 * c + s2 * g, v = s1 * d + s2 * h, w = s2 * c - s1 * g, x = s2 * d - s1 * h;
    re[0] += a + e, im[0] += b + f;
    re[1] = p - v, im[1] = q + u, re[4] = p + v, im[4] = q - u;
    re[2] = s - x, im[2] = t + w, re[3] = s + x, im[3] = t - w;
}

INLINE void dft_8(vec re[8], vec im[8]) {
    const real half = (real)0.70710678118654752440;
    vec a[4], b[4], c[4], d[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        a[j] = re[2 * j], b[j] = im[2 * j], c[j] = re[2 * j + 1], d[j] = im[2 * j + 1];
    dft_4(a, b);
    dft_4(c, d);
    vec e = half * (c[1] - d[1]), f = half * (c[1] + d[1]);
    vec g = half * (c[3] + d[3]), h = half * (c[3] - d[3]);
    re[0] = a[0] + c[0], im[0] = b[0] + d[0], re[4] = a[0] - c[0], im[4] = b[0] - d[0];
    re[1] = a[1] + e, im[1] = b[1] + f, re[5] = a[1] - e, im[5] = b[1] - f;
    re[2] = a[2] - d[2], im[2] = b[2] + c[2], re[6] = a[2] + d[2], im[6] = b[2] - c[2];
    re[3] = a[3] - g, im[3] = b[3] + h, re[7] = a[3] + g, im[7] = b[3] - h;
}

/* X_j = sum_k x_k exp(2 pi i j k / radix), in place. With real and imaginary parts exchanged it is
 * the inverse, times the radix. */
INLINE void dft(const int radix, vec *re, vec *im) {
    if (radix == 8) dft_8(re, im);
    if (radix == 5) dft_5(re, im);
    if (radix == 4) dft_4(re, im);
    if (radix == 3) dft_3(re, im);
    if (radix == 2) {
        vec a = re[1], b = im[1];
        re[1] = re[0] - a, im[1] = im[0] - b, re[0] += a, im[0] += b;
    }
}

/* Reduces a block of radix * size numbers; w are its factors. */
INLINE void reduce_block(const int radix, int64_t size, real *x, const real *w) {
    for (int64_t l = 0; l < size; l++) {
        vec re[8], im[8];
#pragma GCC unroll 8
        for (int k = 0; k < radix; k++) {
            real *at = x + (k * size + l) * PAIR;
            vec a = load(at), b = load(at + LANES);
            real c = k ? w[2 * k - 2] : 0, s = k ? w[2 * k - 1] : 0;
            re[k] = k ? a * c - b * s : a;
            im[k] = k ? a * s + b * c : b;
        }
        dft(radix, re, im);
#pragma GCC unroll 8
        for (int k = 0; k < radix; k++) {
            real *at = x + (k * size + l) * PAIR;
            store(at, re[k]), store(at + LANES, im[k]);
        }
    }
}

/* The inverse of reduce_block, times the radix. */
INLINE void restore_block(const int radix, int64_t size, real *x, const real *w) {
    for (int64_t l = 0; l < size; l++) {
        vec re[8], im[8];
#pragma GCC unroll 8
        for (int k = 0; k < radix; k++) {
            real *at = x + (k * size + l) * PAIR;
            re[k] = load(at), im[k] = load(at + LANES);
        }
        dft(radix, im, re);
#pragma GCC unroll 8
        for (int k = 0; k < radix; k++) {
            real *at = x + (k * size + l) * PAIR;
            real c = k ? w[2 * k - 2] : 0, s = k ? w[2 * k - 1] : 0;
            store(at, k ? re[k] * c + im[k] * s : re[k]);
            store(at + LANES, k ? im[k] * c - re[k] * s : im[k]);
        }
    }
}

#define FOR_RADIX(radix, CALL) \
    switch (radix) {           \
        case 8: CALL(8); break;    \
        case 5: CALL(5); break;    \
        case 4: CALL(4); break;    \
        case 3: CALL(3); break;    \
        default: CALL(2);          \
    }

/* Reduces some blocks of a level, the first of which is x. */
static void reduce_blocks(const fft_plan *p, int level, int64_t first, int64_t blocks, real *x) {
    int64_t size = p->size[level + 1];
#define CALL(radix)                                                   \
    for (int64_t i = 0; i < blocks; i++)                              \
    reduce_block(radix, size, x + i * radix * size * PAIR,            \
                 p->factors[level] + 2 * (radix - 1) * (first + i))
    FOR_RADIX(p->radix[level], CALL)
#undef CALL
}

static void restore_blocks(const fft_plan *p, int level, int64_t first, int64_t blocks, real *x) {
    int64_t size = p->size[level + 1];
#define CALL(radix)                                                   \
    for (int64_t i = 0; i < blocks; i++)                              \
    restore_block(radix, size, x + i * radix * size * PAIR,           \
                  p->factors[level] + 2 * (radix - 1) * (first + i))
    FOR_RADIX(p->radix[level], CALL)
#undef CALL
}

#endif
