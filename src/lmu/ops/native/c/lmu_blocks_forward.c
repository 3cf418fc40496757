/* Forward of the nonlinear LMU in blocks; a part takes its rows of the batch through all steps. */
#include "lmu_blocks.h"
#include "pages.h"

typedef struct {
    block_sizes sizes;
    const real *x, *h; /* (batch, steps, inputs), (batch, hidden) */
    const real *X, *M; /* (inputs, width), (width, width) */
    const real *R;     /* (length, states, width): from the memory before a block to its steps */
    const real *E;     /* (2, states, whole(states)): transposed increments of the memory over a
                          block and over the last one */
    const real *H;     /* (length * channels, whole(states)) */
    real *y;           /* (batch, steps, hidden) */
    real *history;     /* (blocks, batch, length * channels): u, the newest first */
    real *memories;    /* (blocks, batch, states): before each block */
    double *total;     /* (batch, states): the memory before the first step, and after the last */
} forward_arguments;

/* In place on the first n numbers of a row, and on no others. */
INLINE void activate_row(int kind, real *row, int64_t n) {
    int64_t even = n / LANES * LANES;
    activate(kind, row, even);
    if (even == n) return;
    real rest[LANES] = {0};
    memcpy(rest, row + even, (size_t)(n - even) * sizeof(real));
    activate(kind, rest, LANES);
    memcpy(row + even, rest, (size_t)(n - even) * sizeof(real));
}

typedef struct {
    int64_t first, rows;
    real *states, *h; /* (rows, length, width), (rows, hidden): the block, and h before it */
    lmu_sum m;
} block;

/* The steps of a block, from the memory before it. */
static void run_steps(const forward_arguments *a, int64_t start, int64_t size, block *s) {
    const block_sizes *o = &a->sizes;
    int64_t w = o->width, row = o->length * w, n = o->hidden, k = o->inputs;
    int64_t m_row = whole(o->states);
    for (int64_t r = 0; r < s->rows; r++)
        gemm(size, w, k, a->x + ((s->first + r) * o->steps + start) * k, k, 1, a->X, w,
             s->states + r * row, w, 0);
    for (int64_t t = 0; t < size; t++) {
        real *now = s->states + t * w;
        gemm(s->rows, padded(reading(o)), o->states, s->m.now, m_row, 1, a->R + t * o->states * w, w,
             now, row, 1);
        if (t)
            gemm(s->rows, w, reached(o, t), now - w, row, 1, a->M, w, now, row, 1);
        else
            gemm(s->rows, w, n, s->h, n, 1, a->M, w, now, row, 1);
        for (int64_t r = 0; r < s->rows; r++) {
            activate_row((int)o->activation, now + r * row, n);
            memcpy(a->y + ((s->first + r) * o->steps + start + t) * n, now + r * row,
                   (size_t)n * sizeof(real));
        }
    }
}

/* The memory after a block, from its inputs. */
static void advance(const forward_arguments *a, int64_t number, int64_t size, block *s) {
    const block_sizes *o = &a->sizes;
    int64_t m_row = whole(o->states), held = size * o->channels, row = o->length * o->width;
    const real *last = s->states + (size - 1) * o->width;
    const real *E = a->E + (size < o->length ? o->states * m_row : 0);
    gemm(s->rows, m_row, o->states, s->m.now, m_row, 1, E, m_row, s->m.delta, m_row, 1);
    gemm(s->rows, m_row, held, last + o->hidden, row, 1, a->H, m_row, s->m.delta, m_row, 1);
    lmu_add_up(&s->m, s->rows * m_row);
    copy_rows(s->rows, o->hidden, last, row, s->h, o->hidden);
    int64_t all = o->length * o->channels;
    copy_rows(s->rows, held, last + o->hidden, row,
              a->history + (number * o->batch + s->first) * all, all);
}

static void run_rows(const forward_arguments *a, block *s) {
    const block_sizes *o = &a->sizes;
    int64_t states = o->states, m_row = whole(states);
    s->m.total = a->total + s->first * states;
    memset(s->m.delta, 0, (size_t)(s->rows * m_row) * sizeof(real));
    fold_rows(s->rows, states, &s->m);
    copy_rows(s->rows, o->hidden, a->h + s->first * o->hidden, o->hidden, s->h, o->hidden);
    for (int64_t i = 0; i < blocks_of(o); i++) {
        int64_t start = i * o->length, left = o->steps - start;
        int64_t size = left < o->length ? left : o->length;
        copy_rows(s->rows, states, s->m.now, m_row, a->memories + (i * o->batch + s->first) * states,
                  states);
        run_steps(a, start, size, s);
        advance(a, i, size, s);
        if ((i + 1) % FOLD == 0) fold_rows(s->rows, states, &s->m);
    }
    fold_rows(s->rows, states, &s->m);
}

LMU_EXPORT int NAME(lmu_blocks_forward)(const void *arguments, int64_t part, int64_t parts) {
    const forward_arguments *a = arguments;
    const block_sizes *o = &a->sizes;
    int64_t first = share(o->batch, part, parts), rows = share(o->batch, part + 1, parts) - first;
    if (!rows) return 0;
    ask_for_large_pages(a->y, o->batch * o->steps * o->hidden * (int64_t)sizeof(real));
    int64_t tiles = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, most = (rows + tiles - 1) / tiles;
    int64_t m_row = whole(o->states), states = most * o->length * o->width;
    real *buffer = zeros(states + 3 * most * m_row + most * o->hidden);
    if (!buffer) return LMU_NO_MEMORY;
    real *m = buffer + states;
    block s = {0, 0, buffer, m + 3 * most * m_row, {NULL, m, m + most * m_row, m + 2 * most * m_row}};
    for (int64_t i = 0; i < tiles; i++) {
        s.first = first + share(rows, i, tiles);
        s.rows = first + share(rows, i + 1, tiles) - s.first;
        run_rows(a, &s);
    }
    free(buffer);
    return 0;
}
