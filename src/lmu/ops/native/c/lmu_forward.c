/* Forward of the nonlinear LMU; a part takes its rows of the batch through all steps. */
#include "lmu_steps.h"
#include "pages.h"

typedef struct {
    lmu_sizes sizes;
    lmu_weights weights;
    const real *x, *h; /* (batch, steps, inputs), (batch, hidden) */
    real *y, *m;       /* (batch, steps, hidden); all memories (batch, steps, states), or NULL */
    double *total;     /* (batch, states): the memory before the first step, and after the last */
} forward_arguments;

/* Weights with padded rows, transposed where they multiply from the right. */
typedef struct {
    real *W_z, *W_m, *E, *B, *e_z, *e_m;
} packed_weights;

static real *pack_weights(const lmu_sizes *o, const lmu_weights *w, packed_weights *p) {
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, d = o->order, c = o->channels, states = o->blocks * d;
    real *all = zeros((n + k + states) * v.h + states * v.block + c * (v.block + v.z + v.m));
    if (!all) return NULL;
    p->W_z = all;
    p->W_m = p->W_z + (n + k) * v.h;
    p->E = p->W_m + states * v.h;
    p->B = p->E + states * v.block;
    p->e_z = p->B + c * v.block;
    p->e_m = p->e_z + c * v.z;
    pack_transposed(n, n, w->W_h, n, p->W_z, v.h);
    pack_transposed(n, k, w->W_x, k, p->W_z + n * v.h, v.h);
    pack_transposed(n, states, w->W_m, states, p->W_m, v.h);
    for (int64_t i = 0; i < o->blocks; i++)
        pack_transposed(d, d, w->E + i * d * d, d, p->E + i * d * v.block, v.block);
    copy_rows(c, d, w->B, d, p->B, v.block);
    copy_rows(c, n, w->e_h, n, p->e_z, v.z);
    copy_rows(c, k, w->e_x, k, p->e_z + n, v.z);
    spread(o, c, w->e_m, states, p->e_m, v.m);
    return all;
}

/* m advances by E m + B u. */
static void advance(const lmu_sizes *o, const packed_weights *p, int64_t rows, const real *z,
                    lmu_sum *m) {
    lmu_widths v = lmu_widths_of(o);
    for (int64_t i = 0; i < o->blocks; i++)
        gemm(rows, v.block, o->order, m->now + i * v.block, v.m, 1,
             p->E + i * o->order * v.block, v.block, m->delta + i * v.block, v.m, 1);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < o->channels; c++) {
            real u = row_dot(z + r * v.z, p->e_z + c * v.z, v.z) +
                     row_dot(m->now + r * v.m, p->e_m + c * v.m, v.m);
            add_multiple(m->delta + r * v.m + block_of(o, c) * v.block, u, p->B + c * v.block,
                         v.block);
        }
    lmu_add_up(m, rows * v.m);
}

static void run_rows(const forward_arguments *a, const packed_weights *p, int64_t first,
                     int64_t rows, real *buffer) {
    const lmu_sizes *o = &a->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, states = o->blocks * o->order;
    real *z = buffer, *h = z + rows * v.z, *m = h + rows * v.h;
    lmu_sum sum = {a->total + first * states, m, m + rows * v.m, m + 2 * rows * v.m};
    memset(buffer, 0, (size_t)(rows * (v.z + v.h + 3 * v.m)) * sizeof(real));
    copy_rows(rows, n, a->h + first * n, n, z, v.z);
    lmu_fold(o, rows, &sum);
    for (int64_t t = 0; t < o->steps; t++) {
        copy_rows(rows, k, a->x + (first * o->steps + t) * k, o->steps * k, z + n, v.z);
        advance(o, p, rows, z, &sum);
        gemm(rows, v.h, n + k, z, v.z, 1, p->W_z, v.h, h, v.h, 0);
        for (int64_t i = 0; i < o->blocks; i++)
            gemm(rows, v.h, o->order, sum.now + i * v.block, v.m, 1, p->W_m + i * o->order * v.h,
                 v.h, h, v.h, 1);
        activate((int)o->activation, h, rows * v.h);
        copy_rows(rows, n, h, v.h, z, v.z);
        copy_rows(rows, n, h, v.h, a->y + (first * o->steps + t) * n, o->steps * n);
        if (a->m)
            gather(o, rows, sum.now, v.m, a->m + (first * o->steps + t) * states,
                   o->steps * states);
        if ((t + 1) % LMU_STRETCH == 0) lmu_fold(o, rows, &sum);
    }
    lmu_fold(o, rows, &sum);
}

enum { ROWS = 64 }; /* of the batch at once, so that their states stay in the cache */

LMU_EXPORT int NAME(lmu_forward)(const void *arguments, int64_t part, int64_t parts) {
    const forward_arguments *a = arguments;
    const lmu_sizes *o = &a->sizes;
    int64_t first = share(o->batch, part, parts), last = share(o->batch, part + 1, parts);
    if (first == last) return 0;
    ask_for_large_pages(a->y, o->batch * o->steps * o->hidden * (int64_t)sizeof(real));
    lmu_widths v = lmu_widths_of(o);
    int64_t tiles = (last - first + ROWS - 1) / ROWS, most = (last - first + tiles - 1) / tiles;
    packed_weights p = {0};
    real *weights = pack_weights(o, &a->weights, &p);
    real *buffer = zeros(most * (v.z + v.h + 3 * v.m));
    int status = weights && buffer ? 0 : LMU_NO_MEMORY;
    if (!status)
        for (int64_t i = 0; i < tiles; i++) {
            int64_t start = first + share(last - first, i, tiles);
            run_rows(a, &p, start, first + share(last - first, i + 1, tiles) - start, buffer);
        }
    free(weights);
    free(buffer);
    return status;
}
