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
            sum[i][j] = (vec){0}; /* and C at the end: sums of like sizes lose fewer digits */
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
        for (int j = 0; j < vectors; j++) {
            real *to = c + i * c_row + j * LANES;
            store(to, add ? load(to) + sum[i][j] : sum[i][j]);
        }
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
    /* Tiles of about equal rows: a last one of a single row would take as long as one of three. */
    int64_t tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t i = 0; i < tiles; i++) {
        int64_t first = share(m, i, tiles);
        const real *a_tile = a + first * a_row;
        real *c_tile = c + first * c_row;
        switch (share(m, i + 1, tiles) - first) {
#define ROWS(rows)                                                                              \
    case rows:                                                                                  \
        gemm_rows(rows, n, k, a_tile, a_row, a_column, b, b_row, c_tile, c_row, add);           \
        break
            ROWS(1);
            ROWS(2);
            ROWS(3);
            ROWS(4);
#if VECTOR_BYTES == 64 || defined(__aarch64__)
            ROWS(5);
            ROWS(6);
            ROWS(7);
            ROWS(8);
#endif
#undef ROWS
        }
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
