/* Products whose matrices do not all lie in the smallest cache. */
#ifndef LMU_MULTIPLY_H
#define LMU_MULTIPLY_H

#include "gemm.h"

/* C = A B, or C += A B with `add`, by blocks of B that stay in the smallest cache. */
static void multiply(int64_t m, int64_t n, int64_t k, const real *a, int64_t a_row,
                     int64_t a_column, const real *b, int64_t b_row, real *c, int64_t c_row,
                     int add) {
    if (m < TILE_ROWS / 2) { /* a few rows have many vectors at once instead */
        gemm(m, n, k, a, a_row, a_column, b, b_row, c, c_row, add);
        return;
    }
    enum { DEEP = 512 / (int)sizeof(real), ACROSS = 3 * LANES };
    for (int64_t p = 0; p < k; p += DEEP)
        for (int64_t j = 0; j < n; j += ACROSS)
            gemm(m, n - j < ACROSS ? n - j : ACROSS, k - p < DEEP ? k - p : DEEP, a + p * a_column,
                 a_row, a_column, b + p * b_row + j, b_row, c + j, c_row, add || p > 0);
}

/* Row lengths such that a column does not fall into few sets of the cache. */
INLINE int64_t apart(int64_t n) {
    int64_t line = 64 / (int64_t)sizeof(real);
    return n / line % 4 ? n : n + line;
}

/* In place of memcpy(), whose call takes longer than the few numbers of a row. */
INLINE void copy(real *to, const real *from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(to + i, load(from + i));
        __asm__(""); /* or compilers call memcpy() after all */
    }
    for (; i < n; i++) {
        to[i] = from[i];
        __asm__("");
    }
}

INLINE real dot(int64_t n, const real *a, const real *b) {
    vec sum = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sum += load(a + i) * load(b + i);
    real total = 0;
    for (int j = 0; j < LANES; j++) total += sum[j];
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

#endif
