/* Backward of the nonlinear LMU in blocks; a part takes its rows of the batch back in time. */
#include "lmu_blocks.h"

typedef struct {
    block_sizes sizes;
    const real *x, *h, *y, *history, *memories; /* as of forward */
    const real *X;                              /* (width, whole(inputs)), transposed */
    const real *M;                              /* (width, width), transposed */
    const real *R;                              /* (length, width, whole(states)) */
    const real *E; /* (2, states, whole(states)): increments over a block and over the last one */
    const real *H; /* (states, whole(length * channels)), transposed */
    const real *dy;
    real *dx, *dh;
    double *dm; /* (batch, states): of the last memory, and then of the first */
    /* Sums over the rows of each part: X (inputs, width), M (width, width), R (length, width,
     * whole(states)); H (length * channels, whole(states)) and E (2, states, whole(states)),
     * the latter two if they are learned, else NULL. */
    real *dX, *dM, *dR, *dH, *dE;
} backward_arguments;

enum {
    GATHERED = 64, /* rows at least of products that give gradients of weights */
    AT_ONCE = 128, /* block states of such a product, so that they stay in the cache */
};

/* Buffers of a group of blocks: gradients and predecessors of block states, and memories. */
typedef struct {
    int64_t first, rows, capacity;
    real *grads, *before; /* (capacity, rows, length, width) */
    real *m;              /* (capacity, rows, whole(states)) */
    real *dx;             /* (length, whole(inputs)) of a sequence */
    real *dh, *past;      /* (rows, width), (rows, whole(length * channels)) */
    lmu_sum sum;
} workspace;

static real *make_workspace(const block_sizes *o, int64_t rows, workspace *s) {
    int64_t m_row = whole(o->states), block = rows * o->length * o->width;
    int64_t dx = o->length * whole(o->inputs), past = rows * whole(o->length * o->channels);
    s->rows = rows;
    s->capacity = (GATHERED + rows - 1) / rows;
    if (s->capacity > blocks_of(o)) s->capacity = blocks_of(o);
    real *all = zeros(2 * s->capacity * block + (s->capacity + 3) * rows * m_row + dx +
                      rows * o->width + past);
    if (!all) return NULL;
    s->grads = all;
    s->before = s->grads + s->capacity * block;
    s->m = s->before + s->capacity * block;
    s->dx = s->m + s->capacity * rows * m_row;
    s->dh = s->dx + dx;
    s->past = s->dh + rows * o->width;
    s->sum.base = s->past + past;
    s->sum.delta = s->sum.base + rows * m_row;
    s->sum.now = s->sum.delta + rows * m_row;
    return all;
}

/* The block states before each step, and the memory before the block. */
static void load_block(const backward_arguments *b, int64_t number, int64_t size, real *before,
                       real *m, const workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t n = o->hidden, c = o->channels, w = o->width, all = o->length * c;
    for (int64_t r = 0; r < s->rows; r++) {
        int64_t sequence = s->first + r, start = number * o->length;
        const real *history = b->history + (number * o->batch + sequence) * all;
        for (int64_t t = 0; t < size; t++) {
            real *state = before + (r * o->length + t) * w;
            const real *h = start + t ? b->y + (sequence * o->steps + start + t - 1) * n
                                      : b->h + sequence * n;
            memcpy(state, h, (size_t)n * sizeof(real));
            /* The newest of t past inputs first; none is older than the block. */
            memcpy(state + n, history + (size - t) * c, (size_t)(t * c) * sizeof(real));
            memset(state + n + t * c, 0, (size_t)(w - n - t * c) * sizeof(real));
        }
    }
    copy_rows(s->rows, o->states, b->memories + (number * o->batch + s->first) * o->states,
              o->states, m, whole(o->states));
}

/* Gradients of a block's states, step by step, from those of what comes after it. */
static void go_back(const backward_arguments *b, int64_t number, int64_t size, real *grads,
                    workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t n = o->hidden, w = o->width, row = o->length * w, m_row = whole(o->states);
    int64_t start = number * o->length, held = size * o->channels;
    int64_t past_row = whole(o->length * o->channels);
    gemm(s->rows, past_row, o->states, s->sum.now, m_row, 1, b->H, past_row, s->past, past_row, 0);
    for (int64_t t = size - 1; t >= 0; t--) {
        real *now = grads + t * w;
        for (int64_t r = 0; r < s->rows; r++) {
            real *g = now + r * row;
            memcpy(g, b->dy + ((s->first + r) * o->steps + start + t) * n, (size_t)n * sizeof(real));
            memset(g + n, 0, (size_t)(w - n) * sizeof(real));
            if (t < size - 1) continue;
            memcpy(g + n, s->past + r * past_row, (size_t)held * sizeof(real));
            for (int64_t i = 0; i < n; i++) g[i] += s->dh[r * w + i];
        }
        if (t < size - 1) gemm(s->rows, w, w, now + w, row, 1, b->M, w, now, row, 1);
        for (int64_t r = 0; r < s->rows; r++) {
            real *g = now + r * row, rest[LANES], slope[LANES] = {0};
            const real *y = b->y + ((s->first + r) * o->steps + start + t) * n;
            int64_t even = n / LANES * LANES;
            times_slope((int)o->activation, g, y, even);
            if (even == n) continue;
            memcpy(rest, g + even, sizeof rest);
            memcpy(slope, y + even, (size_t)(n - even) * sizeof(real));
            times_slope((int)o->activation, rest, slope, LANES);
            memcpy(g + even, rest, (size_t)(n - even) * sizeof(real));
        }
    }
    gemm(s->rows, w, w, grads, row, 1, b->M, w, s->dh, w, 0);
}

/* The gradient of the memory before a block. */
static void go_back_in_memory(const backward_arguments *b, int64_t number, int64_t size,
                              const real *grads, const real *m, workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t w = o->width, row = o->length * w, d = o->states, m_row = whole(d);
    int64_t last = size < o->length, all = o->length * o->channels;
    if (b->dE) {
        gemm(d, m_row, s->rows, s->sum.now, 1, m_row, m, m_row, b->dE + last * d * m_row, m_row, 1);
        gemm(size * o->channels, m_row, s->rows,
             b->history + (number * o->batch + s->first) * all, 1, all, s->sum.now, m_row, b->dH,
             m_row, 1);
    }
    gemm(s->rows, m_row, d, s->sum.now, m_row, 1, b->E + last * d * m_row, m_row, s->sum.delta, m_row,
         1);
    for (int64_t t = 0; t < size; t++)
        gemm(s->rows, m_row, w, grads + t * w, row, 1, b->R + t * w * m_row, m_row, s->sum.delta,
             m_row, 1);
    lmu_add_up(&s->sum, s->rows * m_row);
}

/* Gradients of the matrices from a group of blocks of equal size. */
static void add_products(const backward_arguments *b, int64_t start, int64_t number, int64_t size,
                         workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t w = o->width, m_row = whole(o->states), q = number * s->rows, k = o->inputs;
    int64_t x_row = whole(k), row = o->length * w;
    for (int64_t i = 0; size == o->length && i < q * size; i += AT_ONCE) {
        int64_t some = q * size - i < AT_ONCE ? q * size - i : AT_ONCE;
        gemm(w, w, some, s->before + i * w, 1, w, s->grads + i * w, w, b->dM, w, 1);
    }
    for (int64_t i = 0; i < q; i++) {
        const real *g = s->grads + i * row;
        int64_t at = (s->first + i % s->rows) * o->steps + (start + i / s->rows) * o->length;
        if (size < o->length)
            gemm(w, w, size, s->before + i * row, 1, w, g, w, b->dM, w, 1);
        gemm(k, w, size, b->x + at * k, 1, k, g, w, b->dX, w, 1);
        gemm(size, x_row, w, g, w, 1, b->X, x_row, s->dx, x_row, 0);
        copy_rows(size, k, s->dx, x_row, b->dx + at * k, k);
    }
    for (int64_t t = 0; t < size; t++)
        gemm(w, m_row, q, s->grads + t * w, 1, row, s->m, m_row, b->dR + t * w * m_row, m_row, 1);
}

static void run_rows(const backward_arguments *b, workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t block = s->rows * o->length * o->width, m_row = whole(o->states), age = 0;
    s->sum.total = b->dm + s->first * o->states;
    memset(s->sum.delta, 0, (size_t)(s->rows * m_row) * sizeof(real));
    memset(s->dh, 0, (size_t)(s->rows * o->width) * sizeof(real));
    fold_rows(s->rows, o->states, &s->sum);
    for (int64_t stop = blocks_of(o); stop > 0;) {
        int64_t rest = o->steps - (stop - 1) * o->length;
        int64_t size = rest < o->length ? rest : o->length;
        int64_t start = size < o->length ? stop - 1 : stop > s->capacity ? stop - s->capacity : 0;
        for (int64_t i = stop - 1; i >= start; i--) {
            real *grads = s->grads + (i - start) * block, *m = s->m + (i - start) * s->rows * m_row;
            load_block(b, i, size, s->before + (i - start) * block, m, s);
            go_back(b, i, size, grads, s);
            go_back_in_memory(b, i, size, grads, m, s);
            if (++age % FOLD == 0) fold_rows(s->rows, o->states, &s->sum);
        }
        add_products(b, start, stop - start, size, s);
        stop = start;
    }
    fold_rows(s->rows, o->states, &s->sum);
    copy_rows(s->rows, o->hidden, s->dh, o->width, b->dh + s->first * o->hidden, o->hidden);
}

LMU_EXPORT int NAME(lmu_blocks_backward)(const void *arguments, int64_t part, int64_t parts) {
    backward_arguments b = *(const backward_arguments *)arguments;
    const block_sizes *o = &b.sizes;
    int64_t first = share(o->batch, part, parts), rows = share(o->batch, part + 1, parts) - first;
    int64_t w = o->width, m_row = whole(o->states);
    b.dX += part * o->inputs * w;
    b.dM += part * w * w;
    b.dR += part * o->length * w * m_row;
    if (b.dE) {
        b.dH += part * o->length * o->channels * m_row;
        b.dE += part * 2 * o->states * m_row;
    }
    if (!rows) return 0;
    int64_t tiles = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, most = (rows + tiles - 1) / tiles;
    workspace s = {0};
    real *buffer = make_workspace(o, most, &s);
    if (!buffer) return LMU_NO_MEMORY;
    for (int64_t i = 0; i < tiles; i++) {
        s.first = first + share(rows, i, tiles);
        s.rows = first + share(rows, i + 1, tiles) - s.first;
        run_rows(&b, &s);
    }
    free(buffer);
    return 0;
}
