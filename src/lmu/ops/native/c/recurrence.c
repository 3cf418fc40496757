/* y_t = f(a_t + W y_{t-1}) and its gradients; a part takes its rows of the batch through all steps.
 *
 * Tensors are contiguous: a, y, dy, da (batch, steps, size); h, dh (batch, size); W (size, size).
 */
#include "activations.h"
#include "gemm.h"
#include "lmu.h"

typedef struct {
    const real *a, *h, *W;
    real *y;
    int64_t batch, steps, size, activation;
} forward_arguments;

typedef struct {
    const real *dy, *y, *h, *W;
    real *da, *dh;
    real *dW; /* (parts, size, size): the sum over the rows of each part */
    int64_t batch, steps, size, activation;
} backward_arguments;

enum { GATHERED = 128 }; /* rows whose outer products are added up at once */

/* The transpose of a square matrix with padded rows, tile by tile so that both stay in the cache. */
static void pack_transposed(int64_t size, const real *a, real *packed) {
    enum { TILE = 16 };
    int64_t width = padded(size);
    for (int64_t i = 0; i < size; i += TILE)
        for (int64_t j = 0; j < size; j += TILE)
            for (int64_t p = i; p < i + TILE && p < size; p++)
                for (int64_t q = j; q < j + TILE && q < size; q++)
                    packed[p * width + q] = a[q * size + p];
}

/* Rows that lie `from_row` apart to rows that lie `to_row` apart. */
static void copy_rows(int64_t rows, int64_t size, const real *from, int64_t from_row, real *to,
                      int64_t to_row) {
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * to_row, from + i * from_row, (size_t)size * sizeof(real));
}

LMU_EXPORT int NAME(recurrence)(const void *arguments, int64_t part, int64_t parts) {
    const forward_arguments *o = arguments;
    int64_t first = share(o->batch, part, parts), rows = share(o->batch, part + 1, parts) - first;
    int64_t size = o->size, width = padded(size), row = o->steps * size;
    real *to_next = zeros(size * width), *states = zeros(2 * rows * width);
    int status = to_next && states ? 0 : LMU_NO_MEMORY;
    if (!status) {
        pack_transposed(size, o->W, to_next);
        real *before = states, *now = states + rows * width;
        copy_rows(rows, size, o->h + first * size, size, before, width);
        for (int64_t t = 0; t < o->steps; t++) {
            int64_t at = first * row + t * size;
            copy_rows(rows, size, o->a + at, row, now, width);
            gemm(rows, width, size, before, width, 1, to_next, width, now, width, 1);
            activate((int)o->activation, now, rows * width);
            copy_rows(rows, size, now, width, o->y + at, row);
            real *swap = before;
            before = now;
            now = swap;
        }
    }
    free(to_next);
    free(states);
    return status;
}

/* What backward keeps of a part: the gradients of some steps, and the states before these steps. */
typedef struct {
    int64_t rows, width, capacity, held;
    real *gradients, *before; /* (capacity + 1, rows, width), the newest gradient first */
    real *W, *dW;             /* (size, width) */
} backward_state;

static void add_outer_products(backward_state *s, int64_t size) {
    if (s->held)
        gemm(size, s->width, s->held * s->rows, s->gradients, 1, s->width, s->before, s->width,
             s->dW, s->width, 1);
    s->held = 0;
}

/* Goes back through all steps; returns the gradient of the first step's argument. */
static const real *go_back(const backward_arguments *o, int64_t first, backward_state *s) {
    int64_t size = o->size, width = s->width, row = o->steps * size, block = s->rows * width;
    const real *later = NULL;
    for (int64_t t = o->steps - 1; t >= 0; t--) {
        int64_t at = first * row + t * size;
        if (s->held == s->capacity) {
            add_outer_products(s, size);
            memcpy(s->gradients + s->capacity * block, later, (size_t)block * sizeof(real));
            later = s->gradients + s->capacity * block;
        }
        real *g = s->gradients + s->held * block, *before = s->before + s->held * block;
        copy_rows(s->rows, size, o->dy + at, row, g, width);
        if (later) gemm(s->rows, width, size, later, width, 1, s->W, width, g, width, 1);
        /* The place of the state before takes that of this step for a moment. */
        copy_rows(s->rows, size, o->y + at, row, before, width);
        times_slope((int)o->activation, g, before, block);
        copy_rows(s->rows, size, g, width, o->da + at, row);
        if (t)
            copy_rows(s->rows, size, o->y + at - size, row, before, width);
        else
            copy_rows(s->rows, size, o->h + first * size, size, before, width);
        later = g;
        s->held++;
    }
    return later;
}

LMU_EXPORT int NAME(recurrence_backward)(const void *arguments, int64_t part, int64_t parts) {
    const backward_arguments *o = arguments;
    int64_t first = share(o->batch, part, parts), rows = share(o->batch, part + 1, parts) - first;
    int64_t size = o->size, width = padded(size);
    int64_t capacity = rows > 0 && rows < GATHERED ? GATHERED / rows : 1;
    if (capacity > o->steps) capacity = o->steps;
    int64_t block = (capacity + 1) * rows * width;
    backward_state s = {rows, width, capacity, 0, zeros(block), zeros(block),
                        zeros(size * width), zeros(size * width)};
    int status = s.gradients && s.before && s.W && s.dW ? 0 : LMU_NO_MEMORY;
    if (!status) {
        copy_rows(size, size, o->W, size, s.W, width);
        const real *g = go_back(o, first, &s);
        add_outer_products(&s, size);
        copy_rows(size, size, s.dW, width, o->dW + part * size * size, size);
        /* The rows of `before` are free now: the gradient of the state before the first step. */
        gemm(rows, width, size, g, width, 1, s.W, width, s.before, width, 0);
        copy_rows(rows, size, s.before, width, o->dh + first * size, size);
    }
    free(s.gradients);
    free(s.before);
    free(s.W);
    free(s.dW);
    return status;
}
