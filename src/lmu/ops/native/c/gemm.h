/* Products of matrices that lie in the cache, by tiles that stay in registers. */
#ifndef LMU_GEMM_H
#define LMU_GEMM_H

#include "lmu.h"

/* Rows of a tile: with as many registers as there are, three vectors of each row. */
#if VECTOR_BYTES == 64 || defined(__aarch64__)
enum { TILE_ROWS = 8 };
#else
enum { TILE_ROWS = 4 };
#endif

/* `rows` x `vectors` of C; both are constants where this is inlined. */
INLINE void gemm_tile(const int rows, const int vectors, int64_t k, const real *a, int64_t a_row,
                      int64_t a_column, const real *b, int64_t b_row, real *c, int64_t c_row,
                      int add) {
    vec sum[TILE_ROWS][8]; /* of constant size, so that it goes into registers */
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int j = 0; j < vectors; j++)
            sum[i][j] = add ? load(c + i * c_row + j * LANES) : (vec){0};
    for (int64_t p = 0; p < k; p++) {
        vec of_b[8];
#pragma GCC unroll 16
        for (int j = 0; j < vectors; j++) of_b[j] = load(b + p * b_row + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            vec of_a = fill(a[i * a_row + p * a_column]);
#pragma GCC unroll 16
            for (int j = 0; j < vectors; j++) sum[i][j] += of_a * of_b[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int j = 0; j < vectors; j++) store(c + i * c_row + j * LANES, sum[i][j]);
}

/* All columns of a few rows. A single row has many vectors at once, to hide latencies. */
INLINE void gemm_rows(const int rows, int64_t n, int64_t k, const real *a, int64_t a_row,
                      int64_t a_column, const real *b, int64_t b_row, real *c, int64_t c_row,
                      int add) {
    const int wide = rows == 1 ? 8 : rows == 2 ? 6 : 3;
    /* Two tiles of two vectors, not one of three and one of one, which would wait for its sums. */
    int64_t j = 0, end = wide == 3 && n / LANES % 3 == 1 && n > LANES ? n - 4 * LANES : n;
    for (; j + wide * LANES <= end; j += wide * LANES)
        gemm_tile(rows, wide, k, a, a_row, a_column, b + j, b_row, c + j, c_row, add);
    if (wide > 4)
        for (; j + 4 * LANES <= n; j += 4 * LANES)
            gemm_tile(rows, 4, k, a, a_row, a_column, b + j, b_row, c + j, c_row, add);
    for (; j + 2 * LANES <= n; j += 2 * LANES)
        gemm_tile(rows, 2, k, a, a_row, a_column, b + j, b_row, c + j, c_row, add);
    for (; j < n; j += LANES)
        gemm_tile(rows, 1, k, a, a_row, a_column, b + j, b_row, c + j, c_row, add);
}

/* C = A B, or C += A B with `add`; C (m, n), A (m, k), B (k, n).
 *
 * Element (i, p) of A is a[i * a_row + p * a_column], so that A may be transposed. Columns are
 * whole vectors: n is a multiple of LANES, see padded().
 */
static void gemm(int64_t m, int64_t n, int64_t k, const real *a, int64_t a_row, int64_t a_column,
                 const real *b, int64_t b_row, real *c, int64_t c_row, int add) {
    int64_t i = 0;
    for (; i + TILE_ROWS <= m; i += TILE_ROWS)
        gemm_rows(TILE_ROWS, n, k, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row,
                  add);
    a += i * a_row;
    c += i * c_row;
    switch (m - i) {
#define REST(rows)                                                            \
    case rows:                                                                \
        gemm_rows(rows, n, k, a, a_row, a_column, b, b_row, c, c_row, add);   \
        break
        REST(1);
        REST(2);
        REST(3);
#if VECTOR_BYTES == 64 || defined(__aarch64__)
        REST(4);
        REST(5);
        REST(6);
        REST(7);
#endif
#undef REST
    }
}

/* A copy of a matrix (rows, columns) with padded rows, or of its transpose. */
static void pack(int64_t rows, int64_t columns, const real *a, int64_t a_row, int64_t a_column,
                 real *packed) {
    int64_t width = padded(columns);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) packed[i * width + j] = a[i * a_row + j * a_column];
}

#endif
