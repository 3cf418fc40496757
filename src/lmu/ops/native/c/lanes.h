/* Vectors with fewer numbers than lanes, and sums over the lanes of several vectors at once. */
#ifndef LMU_LANES_H
#define LMU_LANES_H

#include "lmu.h"

#if defined(__AVX512F__) && VECTOR_BYTES == 64
#include <immintrin.h>
#if defined(REAL_IS_DOUBLE)
INLINE vec load_some(const real *p, int count) {
    return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << count) - 1), p);
}
INLINE void store_some(real *p, vec v, int count) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << count) - 1), (__m512d)v);
}
#else
INLINE vec load_some(const real *p, int count) {
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}
INLINE void store_some(real *p, vec v, int count) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
}
#endif
#else
/* The first `count` numbers at p, and zeros. */
INLINE vec load_some(const real *p, int count) {
    vec v = {0};
    if (count == LANES) return load(p);
    for (int i = 0; i < count; i++) v[i] = p[i];
    return v;
}
INLINE void store_some(real *p, vec v, int count) {
    if (count == LANES)
        store(p, v);
    else
        for (int i = 0; i < count; i++) p[i] = v[i];
}
#endif

/* Lists of a lane for each number of a vector, as shuffles want them. */
#if defined(REAL_IS_DOUBLE)
#define LANE_COUNT (VECTOR_BYTES / 8)
#else
#define LANE_COUNT (VECTOR_BYTES / 4)
#endif
#if LANE_COUNT == 16
#define LIST(f, s) f(0, s), f(1, s), f(2, s), f(3, s), f(4, s), f(5, s), f(6, s), f(7, s), f(8, s), \
    f(9, s), f(10, s), f(11, s), f(12, s), f(13, s), f(14, s), f(15, s)
#elif LANE_COUNT == 8
#define LIST(f, s) f(0, s), f(1, s), f(2, s), f(3, s), f(4, s), f(5, s), f(6, s), f(7, s)
#elif LANE_COUNT == 4
#define LIST(f, s) f(0, s), f(1, s), f(2, s), f(3, s)
#else
#define LIST(f, s) f(0, s), f(1, s)
#endif
/* Modulo, as strides of more than the lanes are compiled, too, but never used. */
#define OF_TWO(i) ((i) % (2 * LANE_COUNT))
#define LOWER(k, s) OF_TWO((k) & (s) ? LANE_COUNT + (k) - (s) : (k))
#define UPPER(k, s) OF_TWO((k) & (s) ? LANE_COUNT + (k) : (k) + (s))
#define ACROSS(k, s) (((k) ^ (s)) % LANE_COUNT)

/* Adds lanes k and k + stride of a where k lacks the bit `stride`; where it has it, k - stride and
 * k of b. */
INLINE vec merge_lanes(const int stride, vec a, vec b) {
#define MERGE(s)                                    \
    __builtin_shufflevector(a, b, LIST(LOWER, s)) + \
        __builtin_shufflevector(a, b, LIST(UPPER, s))
    return stride == 1 ? MERGE(1) : stride == 2 ? MERGE(2) : MERGE(4);
#undef MERGE
}

/* Adds lanes k and k ^ stride. */
INLINE vec fold_lanes(const int stride, vec a) {
#define FOLD(s) a + __builtin_shufflevector(a, a, LIST(ACROSS, s))
    return stride == 1   ? FOLD(1)
           : stride == 2 ? FOLD(2)
           : stride == 4 ? FOLD(4)
                         : FOLD(8);
#undef FOLD
}

/* The sums over all lanes of 2, 4 or 8 vectors, which are overwritten. */
INLINE void sum_lanes(const int count, vec v[8], real sums[8]) {
    const int width = count < LANES ? count : LANES;
#pragma GCC unroll 4
    for (int first = 0; first < count; first += width) {
        vec *part = v + first;
#pragma GCC unroll 3
        for (int stride = 1; stride < width; stride *= 2)
#pragma GCC unroll 4
            for (int i = 0; i < width / (2 * stride); i++)
                part[i] = merge_lanes(stride, part[2 * i], part[2 * i + 1]);
#pragma GCC unroll 4
        for (int stride = width; stride < LANES; stride *= 2)
            part[0] = fold_lanes(stride, part[0]);
        memcpy(sums + first, &part[0], (size_t)width * sizeof(real));
    }
}

#endif
