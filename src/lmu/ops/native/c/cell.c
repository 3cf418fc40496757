/* One step of a layer, from its weights as PyTorch has them and from a state to a new one.
 *
 *   u = f_e(e_x x + e_h h + e_m m + b_u), or x
 *   m_i += E_i m_i + Bd_i u_i
 *   h = f(W_x x + W_h h + W_m m + b_h)
 * Rows of matrices are read where they lie; steps that come again and again are those of step.c.
 */
#include "activations.h"
#include "lmu.h"

typedef struct {
    const real *p; /* (outputs, inputs); NULL: zero */
    int64_t row;   /* from one row to the next */
} matrix;

typedef struct {
    const real *x, *h; /* (batch, inputs), (batch, hidden) */
    const void *m;     /* (batch, channels, order), double if `wide` */
    real *h_n;
    void *m_n;
    matrix e_x, e_h, e_m, W_x, W_h, W_m;
    const real *b_u, *b_h;
    const real *E, *Bd; /* (channels or 1, order, order), (channels or 1, order) */
    int64_t batch, inputs, hidden, channels, order;
    int64_t encoded, wide, own; /* own: each channel has dynamics of its own */
    int64_t encoder_activation, activation;
} cell_arguments;

enum { TILE_A = 4, TILE_B = 4, ROWS = 16 }; /* rows of the batch that go together */

INLINE real sum_of(vec v) {
    enum { QUARTER = 16 / sizeof(real) };
    typedef real quarter __attribute__((vector_size(16)));
    union {
        vec all;
        quarter parts[VECTOR_BYTES / 16];
    } u = {v};
    quarter sum = u.parts[0];
    for (int i = 1; i < VECTOR_BYTES / 16; i++) sum += u.parts[i];
    real total = 0;
    for (int i = 0; i < QUARTER; i++) total += sum[i];
    return total;
}

/* C += A B^T for a few rows of A and B; both numbers are constants where this is inlined. */
INLINE void dots(const int rows, const int columns, int64_t k, const real *a, int64_t a_row,
                 const real *b, int64_t b_row, real *c, int64_t c_row) {
    vec sum[TILE_A][TILE_B];
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) sum[i][j] = (vec){0};
    int64_t p = 0;
    for (; p + LANES <= k; p += LANES) {
        vec of_a[TILE_A];
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) of_a[i] = load(a + i * a_row + p);
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) {
            vec of_b = load(b + j * b_row + p);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++) sum[i][j] += of_a[i] * of_b;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) {
            real total = sum_of(sum[i][j]);
            for (int64_t q = p; q < k; q++) total += a[i * a_row + q] * b[j * b_row + q];
            c[i * c_row + j] += total;
        }
}

/* C += A B^T, for C (m, n), A (m, k) and B (n, k). */
static void add_product(int64_t m, int64_t n, int64_t k, const real *a, int64_t a_row, matrix b,
                        real *c, int64_t c_row) {
    if (!b.p) return;
    int64_t j = 0;
    for (; j + TILE_B <= n; j += TILE_B) {
        const real *rows = b.p + j * b.row;
        int64_t i = 0;
        for (; i + TILE_A <= m; i += TILE_A)
            dots(TILE_A, TILE_B, k, a + i * a_row, a_row, rows, b.row, c + i * c_row + j, c_row);
        for (; i < m; i++)
            dots(1, TILE_B, k, a + i * a_row, a_row, rows, b.row, c + i * c_row + j, c_row);
    }
    for (; j < n; j++)
        for (int64_t i = 0; i < m; i++)
            dots(1, 1, k, a + i * a_row, a_row, b.p + j * b.row, b.row, c + i * c_row + j, c_row);
}

static void fill_rows(int64_t m, int64_t n, const real *bias, real *c) {
    for (int64_t i = 0; i < m; i++) {
        if (bias)
            memcpy(c + i * n, bias, (size_t)n * sizeof(real));
        else
            memset(c + i * n, 0, (size_t)n * sizeof(real));
    }
}

/* The last vector goes by way of a copy, as what follows x is not ours. */
static void activate_exactly(int kind, real *x, int64_t n) {
    int64_t whole = n / LANES * LANES;
    activate(kind, x, whole);
    if (whole == n) return;
    real rest[LANES] = {0};
    memcpy(rest, x + whole, (size_t)(n - whole) * sizeof(real));
    activate(kind, rest, LANES);
    memcpy(x + whole, rest, (size_t)(n - whole) * sizeof(real));
}

/* Numbers that are about to become denormal are zero, as lmu.theory.rounding.flush has it. */
INLINE double flushed(double x, double least) { return x > -least && x < least ? 0 : x; }

#if defined(REAL_IS_DOUBLE)
#define REAL_LEAST (0x1p-1022 * 0x1p26)
#else
#define REAL_LEAST (0x1p-126 * 0x1p26)
#endif

static double number(const cell_arguments *o, int64_t i) {
    return o->wide ? ((const double *)o->m)[i] : (double)((const real *)o->m)[i];
}

static void keep(const cell_arguments *o, int64_t i, double value) {
    if (o->wide)
        ((double *)o->m_n)[i] = flushed(value, 0x1p-1022 * 0x1p26);
    else
        ((real *)o->m_n)[i] = (real)flushed(value, REAL_LEAST);
}

static void step_rows(const cell_arguments *o, int64_t first, int64_t rows, real *u, real *m,
                      real *change) {
    int64_t k = o->inputs, n = o->hidden, c = o->channels, d = o->order, size = c * d;
    const real *x = o->x + first * k, *h = o->h + first * n;
    for (int64_t i = 0; i < rows * size; i++)
        m[i] = (real)flushed(number(o, first * size + i), REAL_LEAST);
    if (o->encoded) {
        fill_rows(rows, c, o->b_u, u);
        add_product(rows, c, k, x, k, o->e_x, u, c);
        add_product(rows, c, n, h, n, o->e_h, u, c);
        add_product(rows, c, size, m, size, o->e_m, u, c);
    } else {
        memcpy(u, x, (size_t)(rows * c) * sizeof(real));
    }
    activate_exactly((int)o->encoder_activation, u, rows * c);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < c; j++)
            for (int64_t p = 0; p < d; p++)
                change[i * size + j * d + p] = o->Bd[(o->own ? j * d : 0) + p] * u[i * c + j];
    if (o->own)
        for (int64_t j = 0; j < c; j++)
            add_product(rows, d, d, m + j * d, size, (matrix){o->E + j * d * d, d}, change + j * d,
                        size);
    else
        add_product(rows * c, d, d, m, d, (matrix){o->E, d}, change, d);
    for (int64_t i = 0; i < rows * size; i++) {
        double sum = number(o, first * size + i) + (double)change[i];
        keep(o, first * size + i, sum);
        m[i] = (real)flushed(sum, REAL_LEAST);
    }
    if (!n) return;
    real *h_n = o->h_n + first * n;
    fill_rows(rows, n, o->b_h, h_n);
    add_product(rows, n, k, x, k, o->W_x, h_n, n);
    add_product(rows, n, n, h, n, o->W_h, h_n, n);
    add_product(rows, n, size, m, size, o->W_m, h_n, n);
    activate_exactly((int)o->activation, h_n, rows * n);
    for (int64_t i = 0; i < rows * n; i++) h_n[i] = (real)flushed((double)h_n[i], REAL_LEAST);
}

LMU_EXPORT int NAME(cell)(const void *arguments, int64_t part, int64_t parts) {
    const cell_arguments *o = arguments;
    int64_t at = share(o->batch, part, parts), end = share(o->batch, part + 1, parts);
    int64_t size = o->channels * o->order;
    real *work = zeros(ROWS * (o->channels + 2 * size));
    if (!work) return LMU_NO_MEMORY;
    real *m = work + ROWS * o->channels, *change = m + ROWS * size;
    for (; at < end; at += ROWS)
        step_rows(o, at, end - at < ROWS ? end - at : ROWS, work, m, change);
    free(work);
    return 0;
}
