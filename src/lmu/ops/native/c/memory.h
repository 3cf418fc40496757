/* The linear memory over steps of time, by its dense matrix: m_t = m_{t-1} + E m_{t-1} + B u_t.
 *
 * Channels lie in groups that are advanced as one system: as many as fill a vector, or one. The
 * states of a sequence at one step are a row of `row` numbers, `padded` of them a group; a tile
 * has the rows of several sequences, step after step. Another way to advance the memory needs the
 * two functions at the end alone.
 */
#ifndef LMU_MEMORY_H
#define LMU_MEMORY_H

#include "gemm.h"

typedef struct {
    int64_t groups, inputs; /* groups, and channels of each */
    int64_t width, padded;  /* states of a group, without and with its padding */
    int64_t own;            /* whether each group has matrices of its own */
    const real *E_T;        /* (groups or 1, width, padded): row j has the increments by state j */
    const real *E;          /* likewise its transpose, for the adjoint */
    const real *B;          /* (groups or 1, inputs, padded) */
} memory_dynamics;

/* after = before + (before E + u B), and what was there already with `add`. */
typedef struct {
    int64_t width, padded, inputs, row, u_row;
    const real *before, *E, *u, *B;
    real *after;
    int add;
} advance;

/* Increments are summed first: they are far smaller than the state, and lose fewer digits so. */
INLINE void advance_tile(const int rows, const int vectors, const advance *o, int64_t column) {
    vec sum[TILE_ROWS][8];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) sum[i][j] = (vec){0};
    for (int64_t p = -o->inputs; p < o->width; p++) {
        int of_u = p < 0; /* inputs first, then states */
        const real *a = of_u ? o->u + p + o->inputs : o->before + p;
        const real *b = (of_u ? o->B + (p + o->inputs) * o->padded : o->E + p * o->padded) + column;
        int64_t a_row = of_u ? o->u_row : o->row;
        vec of_b[8];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) of_b[j] = load(b + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            vec of_a = fill(a[i * a_row]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) sum[i][j] += of_a * of_b[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) {
            int64_t at = i * o->row + column + j * LANES;
            vec total = load(o->before + at) + sum[i][j];
            store(o->after + at, o->add ? total + load(o->after + at) : total);
        }
}

INLINE void advance_columns(const int rows, const advance *o) {
    const int wide = rows == 1 ? 8 : rows == 2 ? 6 : 3;
    int64_t j = 0;
    for (; j + wide * LANES <= o->padded; j += wide * LANES) advance_tile(rows, wide, o, j);
    if (wide > 4)
        for (; j + 4 * LANES <= o->padded; j += 4 * LANES) advance_tile(rows, 4, o, j);
    for (; j + 2 * LANES <= o->padded; j += 2 * LANES) advance_tile(rows, 2, o, j);
    for (; j < o->padded; j += LANES) advance_tile(rows, 1, o, j);
}

static void advance_rows(int64_t rows, advance o) {
    while (rows > 0) {
        int64_t some = rows < TILE_ROWS ? rows : TILE_ROWS;
        switch (some) {
#define SOME(n)                    \
    case n:                        \
        advance_columns(n, &o);    \
        break
            SOME(1);
            SOME(2);
            SOME(3);
            SOME(4);
#if VECTOR_BYTES == 64 || defined(__aarch64__)
            SOME(5);
            SOME(6);
            SOME(7);
            SOME(8);
#endif
#undef SOME
        }
        o.before += some * o.row;
        o.after += some * o.row;
        o.u += some * o.u_row;
        rows -= some;
    }
}

/* One step of some sequences. Rows of the products are sequences, or the groups of one if these
 * are more and all alike. */
static void memory_step(const memory_dynamics *m, int64_t sequences, int64_t row, advance o) {
    o.width = m->width;
    o.padded = m->padded;
    int64_t u_row = m->groups * o.inputs, own = m->own ? m->padded : 0;
    if (!m->own && m->groups > sequences) {
        o.row = m->padded;
        o.u_row = o.inputs;
        for (int64_t i = 0; i < sequences; i++) {
            advance_rows(m->groups, o);
            o.before += row;
            o.after += row;
            o.u += u_row;
        }
        return;
    }
    o.row = row;
    o.u_row = u_row;
    for (int64_t g = 0; g < m->groups; g++) {
        advance_rows(sequences, o);
        o.before += m->padded;
        o.after += m->padded;
        o.u += o.inputs;
        o.E += own * m->width;
        o.B += own * o.inputs;
    }
}

/* States of some steps, (steps + 1, sequences, row) of which the first are there already; u (steps,
 * sequences, groups * inputs). */
static void memory_forward(const memory_dynamics *m, int64_t steps, int64_t sequences, int64_t row,
                           const real *u, real *states) {
    int64_t size = sequences * row;
    for (int64_t t = 0; t < steps; t++, states += size) {
        advance o = {.inputs = m->inputs, .before = states, .after = states + size};
        o.E = m->E_T;
        o.B = m->B;
        o.u = u + t * sequences * m->groups * m->inputs;
        memory_step(m, sequences, row, o);
    }
}

/* Adjoint states l_t = g_t + l_{t+1} + E^T l_{t+1} of some steps, in place of the gradients g of
 * the states, (steps + 1, sequences, row) of which the last is l already. */
static void memory_adjoint(const memory_dynamics *m, int64_t steps, int64_t sequences, int64_t row,
                           real *gradients) {
    int64_t size = sequences * row;
    for (int64_t t = steps - 1; t >= 0; t--) {
        advance o = {.before = gradients + (t + 1) * size, .after = gradients + t * size, .add = 1};
        o.E = m->E;
        o.B = m->B;
        o.u = m->B; /* not read */
        memory_step(m, sequences, row, o);
    }
}

#endif
