/* Forward of the nonlinear LMU over a single sequence, see lmu_shared.h. */
#include "lmu_shared.h"

typedef struct {
    shared_head head;
    const real *x, *h; /* (steps, inputs), (hidden) */
    real *y, *m;       /* (steps, hidden); all memories (steps, states), or NULL */
    double *total;     /* (states): the memory before the first step, and after the last */
} forward_arguments;

typedef struct {
    lmu_rounds rounds;
    /* Transposed weights with padded rows: W_h, W_x, K and k of h; E and B of m; and e_h, e_m. */
    real *W_h, *W_x, *W_m, *K, *k, *E, *B, *e_h, *e_m;
    real *h[2], *m[2]; /* before and after a step, by turns */
    real *base, *delta, *u;
} shared;

LMU_EXPORT int NAME(lmu_shared_forward_begin)(const void *arguments, int64_t part, int64_t parts) {
    shared_head *a = (shared_head *)arguments;
    const lmu_sizes *o = &a->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, c = o->channels, states = o->blocks * o->order;
    shared *s = begin(a, o->steps + 1, sizeof(shared));
    (void)part, (void)parts;
    if (!s) return LMU_NO_MEMORY;
    const array all[] = {
        {&s->W_h, n * v.h}, {&s->W_x, o->inputs * v.h}, {&s->W_m, states * v.h},
        {&s->K, states * v.h}, {&s->k, c * v.h}, {&s->E, states * v.block}, {&s->B, c * v.block},
        {&s->e_h, c * v.h}, {&s->e_m, c * v.m}, {&s->h[0], v.h}, {&s->h[1], v.h}, {&s->m[0], v.m},
        {&s->m[1], v.m}, {&s->base, v.m}, {&s->delta, v.m}, {&s->u, LMU_CHUNKS * apart(padded(c))},
    };
    return make_arrays(all, sizeof(all) / sizeof(*all));
}

LMU_EXPORT int NAME(lmu_shared_forward_end)(const void *arguments, int64_t part, int64_t parts) {
    shared *s = ((const shared_head *)arguments)->room;
    (void)part, (void)parts;
    if (s) free(s->W_h);
    free(s);
    return 0;
}

/* Some columns of the weights, and of what is before the first step. */
static void prepare(const forward_arguments *a, const shared *s, int64_t chunk, columns h,
                    columns m) {
    const lmu_sizes *o = &a->head.sizes;
    const lmu_weights *w = &a->head.weights;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, d = o->order, states = o->blocks * d, c = o->channels, f = h.first;
    int64_t units = f + h.width < n ? h.width : n - f; /* of the chunk, without padding */
    pack_transposed(units, n, w->W_h + f * n, n, s->W_h + f, v.h);
    pack_transposed(units, o->inputs, w->W_x + f * o->inputs, o->inputs, s->W_x + f, v.h);
    pack_transposed(units, states, w->W_m + f * states, states, s->W_m + f, v.h);
    copy_rows(states, h.width, s->W_m + f, v.h, s->K + f, v.h);
    for (int64_t i = 0; i < o->blocks; i++)
        multiply(d, h.width, d, w->E + i * d * d, 1, d, s->W_m + i * d * v.h + f, v.h,
                 s->K + i * d * v.h + f, v.h, 1);
    for (int64_t i = 0; i < c; i++)
        gemm(1, h.width, d, w->B + i * d, 0, 1, s->W_m + block_of(o, i) * d * v.h + f, v.h,
             s->k + i * v.h + f, v.h, 0);
    for (int64_t i = 0; i < o->blocks; i++) {
        columns some = within(o, i, m, d);
        int64_t from = some.first - i * v.block;
        if (some.width)
            pack_transposed(some.width, d, w->E + (i * d + from) * d, d,
                            s->E + i * d * v.block + from, v.block);
    }
    fold_columns(o, m, a->total, s->base, s->delta, s->m[0]);
    if (chunk) return;
    copy_rows(c, d, w->B, d, s->B, v.block);
    copy_rows(c, n, w->e_h, n, s->e_h, v.h);
    spread(o, c, w->e_m, states, s->e_m, v.m);
    copy_rows(1, n, a->h, n, s->h[0], n);
}

/* Inputs of the memory at step t. */
static const real *encode(const forward_arguments *a, const shared *s, int64_t t, int64_t chunk) {
    const lmu_sizes *o = &a->head.sizes;
    lmu_widths v = lmu_widths_of(o);
    real *u = s->u + chunk * apart(padded(o->channels));
    for (int64_t c = 0; c < o->channels; c++) {
        u[c] = row_dot(s->h[t % 2], s->e_h + c * v.h, v.h) +
               row_dot(s->m[t % 2], s->e_m + c * v.m, v.m);
        for (int64_t i = 0; i < o->inputs; i++)
            u[c] += a->head.weights.e_x[c * o->inputs + i] * a->x[t * o->inputs + i];
    }
    return u;
}

static void run_step(const forward_arguments *a, const shared *s, int64_t t, int64_t chunk,
                     columns h, columns m) {
    const lmu_sizes *o = &a->head.sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, d = o->order, states = o->blocks * d, f = h.first;
    const real *u = encode(a, s, t, chunk), *past = s->m[t % 2];
    real *z = s->h[(t + 1) % 2] + f, *next = s->m[(t + 1) % 2];
    gemm(1, h.width, n, s->h[t % 2], 0, 1, s->W_h + f, v.h, z, 0, 0);
    gemm(1, h.width, o->inputs, a->x + t * o->inputs, 0, 1, s->W_x + f, v.h, z, 0, 1);
    for (int64_t i = 0; i < o->blocks; i++)
        gemm(1, h.width, d, past + i * v.block, 0, 1, s->K + i * d * v.h + f, v.h, z, 0, 1);
    for (int64_t c = 0; c < o->channels; c++) add_multiple(z, u[c], s->k + c * v.h + f, h.width);
    activate((int)o->activation, z, h.width);
    int64_t units = f + h.width < n ? h.width : n - f;
    memcpy(a->y + t * n + f, z, (size_t)units * sizeof(real));
    memset(z + units, 0, (size_t)(h.width - units) * sizeof(real));
    add_dynamics(o, m, past, s->E, s->delta);
    for (int64_t c = 0; c < o->channels; c++) {
        int64_t block = block_of(o, c);
        columns some = within(o, block, m, v.block);
        add_multiple(s->delta + some.first, u[c], s->B + c * v.block + some.first - block * v.block,
                     some.width);
    }
    for (int64_t i = m.first; i < m.first + m.width; i += LANES)
        store(next + i, load(s->base + i) + load(s->delta + i));
    if (a->m) gather_columns(o, m, next, a->m + t * states);
    if ((t + 1) % LMU_STRETCH == 0 || t + 1 == o->steps)
        fold_columns(o, m, a->total, s->base, s->delta, next);
}

static void work(void *context, int64_t round, int64_t chunk) {
    const forward_arguments *a = context;
    const shared *s = a->head.room;
    lmu_widths v = lmu_widths_of(&a->head.sizes);
    columns h = columns_of_chunk(v.h, chunk, a->head.chunks);
    columns m = columns_of_chunk(v.m, chunk, a->head.chunks);
    if (round == 0)
        prepare(a, s, chunk, h, m);
    else
        run_step(a, s, round - 1, chunk, h, m);
}

LMU_EXPORT int NAME(lmu_shared_forward)(const void *arguments, int64_t part, int64_t parts) {
    const forward_arguments *a = arguments;
    (void)parts;
    lmu_take_part(a->head.room, work, (void *)arguments, part);
    return 0;
}
