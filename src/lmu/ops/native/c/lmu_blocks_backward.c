/* Backward of the nonlinear LMU in blocks; a part takes its rows of the batch back in time. */
#include "lmu_blocks.h"

typedef struct {
    block_sizes sizes;
    const real *x, *h, *y, *history, *memories; /* as of forward */
    const real *X, *X_T;                        /* (inputs, width), (width, whole(inputs)) */
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
    GATHERED = 256, /* rows, at least, of products that give gradients of weights */
    AT_ONCE = 128, /* block states of such a product, so that they stay in the cache */
    FEW = 8,       /* inputs whose gradients are sums over rows, not products of matrices */
};

/* Buffers of a group of blocks, step after step, so that all products read dense rows: at each step
 * are the `rows` sequences of each of `number` blocks. */
typedef struct {
    int64_t first, rows, capacity, number;
    real *grads;     /* (length, number, rows, width): gradients of block states */
    real *before;    /* (length + 1, number, rows, width): the block state before each step, and h
                        after the last */
    real *m;         /* (number, rows, whole(states)): memories before the blocks */
    real *dx;        /* (rows, whole(inputs)) */
    real *dh, *past; /* (rows, width), (rows, whole(length * channels)) */
    lmu_sum sum;
} workspace;

static real *make_workspace(const block_sizes *o, int64_t rows, workspace *s) {
    int64_t m_row = whole(o->states), w = o->width, past = rows * whole(o->length * o->channels);
    s->rows = rows;
    s->capacity = (GATHERED + rows - 1) / rows;
    if (s->capacity > blocks_of(o)) s->capacity = blocks_of(o);
    int64_t step = s->capacity * rows * w, dx = rows * whole(o->inputs);
    real *all = zeros((2 * o->length + 1) * step + (s->capacity + 3) * rows * m_row + dx + rows * w +
                      past);
    if (!all) return NULL;
    s->grads = all;
    s->before = s->grads + o->length * step;
    s->m = s->before + (o->length + 1) * step;
    s->dx = s->m + s->capacity * rows * m_row;
    s->dh = s->dx + dx;
    s->past = s->dh + rows * w;
    s->sum.base = s->past + past;
    s->sum.delta = s->sum.base + rows * m_row;
    s->sum.now = s->sum.delta + rows * m_row;
    return all;
}

/* Numbers from a step to the next in the buffers. */
INLINE int64_t step_of(const block_sizes *o, const workspace *s) {
    return s->number * s->rows * o->width;
}

/* The block states before each step, and the memory before the block. */
static void load_block(const backward_arguments *b, int64_t block, int64_t size, int64_t place,
                       workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t n = o->hidden, c = o->channels, w = o->width, all = o->length * c;
    for (int64_t r = 0; r < s->rows; r++) {
        int64_t sequence = s->first + r, start = block * o->length;
        const real *history = b->history + (block * o->batch + sequence) * all;
        real *state = s->before + (place * s->rows + r) * w;
        for (int64_t t = 0; t <= size; t++, state += step_of(o, s)) {
            const real *h = start + t ? b->y + (sequence * o->steps + start + t - 1) * n
                                      : b->h + sequence * n;
            memcpy(state, h, (size_t)n * sizeof(real));
            /* The newest of t past inputs first; none is older than the block. */
            int64_t held = n + t * c < w ? t * c : w - n;
            memcpy(state + n, history + (size - t) * c, (size_t)held * sizeof(real));
            memset(state + n + held, 0, (size_t)(w - n - held) * sizeof(real));
        }
    }
    copy_rows(s->rows, o->states, b->memories + (block * o->batch + s->first) * o->states, o->states,
              s->m + place * s->rows * whole(o->states), whole(o->states));
}

/* Gradients of the states at a step that come from the output, and zero for the history. */
static void load_gradients(const backward_arguments *b, int64_t at, real *g, const workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t n = o->hidden, w = o->width;
    for (int64_t r = 0; r < s->rows; r++, g += w) {
        memcpy(g, b->dy + ((s->first + r) * o->steps + at) * n, (size_t)n * sizeof(real));
        memset(g + n, 0, (size_t)(w - n) * sizeof(real));
    }
}

/* The gradients at the last step of a block also come from what is after it. */
static void add_later(const block_sizes *o, int64_t size, real *g, const workspace *s) {
    int64_t past_row = whole(o->length * o->channels), w = o->width;
    copy_rows(s->rows, size * o->channels, s->past, past_row, g + o->hidden, w);
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t i = 0; i < o->hidden; i++) g[r * w + i] += s->dh[r * w + i];
}

/* Through f on the hidden units; the history beside them stays. */
static void times_slopes(const block_sizes *o, real *g, const real *y, int64_t rows) {
    int64_t n = o->hidden, w = o->width, beside = padded(n) - n;
    real kept[LANES];
    for (int64_t r = 0; r < rows; r++, g += w, y += w) {
        memcpy(kept, g + n, (size_t)beside * sizeof(real));
        times_slope((int)o->activation, g, y, n);
        memcpy(g + n, kept, (size_t)beside * sizeof(real));
    }
}

/* Gradients of a block's states, step by step, from those of what comes after it, and what they add
 * to that of the memory before it, while they are in the cache. */
static void go_back(const backward_arguments *b, int64_t block, int64_t size, int64_t place,
                    workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t w = o->width, m_row = whole(o->states), step = step_of(o, s);
    int64_t past_row = whole(o->length * o->channels), rows = s->rows;
    real *grads = s->grads + place * rows * w, *before = s->before + place * rows * w;
    gemm(rows, past_row, o->states, s->sum.now, m_row, 1, b->H, past_row, s->past, past_row, 0);
    for (int64_t t = size - 1; t >= 0; t--) {
        real *now = grads + t * step;
        load_gradients(b, block * o->length + t, now, s);
        if (t == size - 1)
            add_later(o, size, now, s);
        else
            gemm(rows, w, reached(o, t + 2), now + step, w, 1, b->M, w, now, w, 1);
        times_slopes(o, now, before + (t + 1) * step, rows);
        gemm(rows, m_row, reading(o), now, w, 1, b->R + t * w * m_row, m_row, s->sum.delta, m_row, 1);
    }
    gemm(rows, w, reached(o, 1), grads, w, 1, b->M, w, s->dh, w, 0);
}

/* The gradient of the memory before a block from that of the memory after it. */
static void go_back_in_memory(const backward_arguments *b, int64_t block, int64_t size,
                              int64_t place, workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t d = o->states, m_row = whole(d), rows = s->rows;
    int64_t last = size < o->length, all = o->length * o->channels;
    const real *later = s->sum.now;
    if (b->dE) {
        gemm(d, m_row, rows, later, 1, m_row, s->m + place * rows * m_row, m_row,
             b->dE + last * d * m_row, m_row, 1);
        gemm(size * o->channels, m_row, rows, b->history + (block * o->batch + s->first) * all, 1,
             all, later, m_row, b->dH, m_row, 1);
    }
    gemm(rows, m_row, d, later, m_row, 1, b->E + last * d * m_row, m_row, s->sum.delta, m_row, 1);
    lmu_add_up(&s->sum, rows * m_row);
}

/* Gradients of the input, and of its matrix, at a step of a block. */
static void add_inputs(const backward_arguments *b, int64_t at, const real *g, const workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t k = o->inputs, w = o->width, x_row = whole(k), apart = o->steps * k;
    real *dx = b->dx + s->first * apart + at * k;
    gemm(k, w, s->rows, b->x + s->first * apart + at * k, 1, apart, g, w, b->dX, w, 1);
    if (k < FEW) {
        for (int64_t r = 0; r < s->rows; r++)
            for (int64_t i = 0; i < k; i++) dx[r * apart + i] = row_dot(g + r * w, b->X + i * w, w);
        return;
    }
    gemm(s->rows, x_row, w, g, w, 1, b->X_T, x_row, s->dx, x_row, 0);
    copy_rows(s->rows, k, s->dx, x_row, dx, apart);
}

/* Gradients of the matrices from a group of blocks of equal size. */
static void add_products(const backward_arguments *b, int64_t start, int64_t size, workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t w = o->width, m_row = whole(o->states), q = s->number * s->rows;
    for (int64_t i = 0; i < q * size; i += AT_ONCE) {
        int64_t some = q * size - i < AT_ONCE ? q * size - i : AT_ONCE;
        gemm(w, w, some, s->before + i * w, 1, w, s->grads + i * w, w, b->dM, w, 1);
    }
    for (int64_t t = 0; t < size; t++) {
        const real *g = s->grads + t * step_of(o, s);
        gemm(reading(o), m_row, q, g, 1, w, s->m, m_row, b->dR + t * w * m_row, m_row, 1);
        for (int64_t i = 0; i < s->number; i++)
            add_inputs(b, (start + i) * o->length + t, g + i * s->rows * w, s);
    }
}

static void run_rows(const backward_arguments *b, workspace *s) {
    const block_sizes *o = &b->sizes;
    int64_t m_row = whole(o->states), age = 0;
    s->sum.total = b->dm + s->first * o->states;
    memset(s->sum.delta, 0, (size_t)(s->rows * m_row) * sizeof(real));
    memset(s->dh, 0, (size_t)(s->rows * o->width) * sizeof(real));
    fold_rows(s->rows, o->states, &s->sum);
    for (int64_t stop = blocks_of(o); stop > 0;) {
        int64_t rest = o->steps - (stop - 1) * o->length;
        int64_t size = rest < o->length ? rest : o->length;
        int64_t start = size < o->length ? stop - 1 : stop > s->capacity ? stop - s->capacity : 0;
        s->number = stop - start;
        for (int64_t i = stop - 1; i >= start; i--) {
            load_block(b, i, size, i - start, s);
            go_back(b, i, size, i - start, s);
            go_back_in_memory(b, i, size, i - start, s);
            if (++age % FOLD == 0) fold_rows(s->rows, o->states, &s->sum);
        }
        add_products(b, start, size, s);
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
