/* The nonlinear LMU over a single sequence, whose units and states several threads share.
 *
 * A step reads all weights, so that a core is as fast as its cache; more cores have more of it. They
 * meet once a step, as nothing of a step needs another part of it: with K = W_m (1 + E) and
 * k = W_m B, which are made once,
 *   u_t = e_z [h_{t-1}; x_t] + e_m m_{t-1}
 *   m_t = m_{t-1} + E m_{t-1} + B u_t
 *   h_t = f(W_z [h_{t-1}; x_t] + K m_{t-1} + k u_t)
 * A chunk is some columns of h and of m; u is computed in each.
 */
#ifndef LMU_SHARED_H
#define LMU_SHARED_H

#include "lmu_steps.h"
#include "multiply.h"

/* What the arguments of both passes begin with. */
typedef struct {
    lmu_sizes sizes; /* of a batch of one */
    lmu_weights weights;
    int64_t chunks;
    void *room; /* for what the threads share, from `begin` to `end` */
} shared_head;

/* An array of what is shared. */
typedef struct {
    real **place;
    int64_t size;
} array;

/* Zeros for a struct of some bytes, which begins with lmu_rounds; its arrays lie behind it. */
static void *begin(shared_head *a, int64_t rounds, size_t bytes) {
    lmu_rounds *r = a->room = calloc(1, bytes);
    if (r) r->rounds = rounds, r->chunks = a->chunks;
    return r;
}

/* All arrays in one piece of memory, which the first one owns. */
static int make_arrays(const array *all, int number) {
    int64_t size = 0;
    for (int i = 0; i < number; i++) size += all[i].size;
    real *at = zeros(size);
    for (int i = 0; i < number; i++) {
        *all[i].place = at;
        if (at) at += all[i].size;
    }
    return at ? 0 : LMU_NO_MEMORY;
}

/* Columns, in whole vectors, of a chunk. */
typedef struct {
    int64_t first, width;
} columns;

INLINE columns columns_of_chunk(int64_t all, int64_t chunk, int64_t chunks) {
    int64_t first = share(all / LANES, chunk, chunks) * LANES;
    columns c = {first, share(all / LANES, chunk + 1, chunks) * LANES - first};
    return c;
}

/* The part of a block's states, by their places in a padded row, that is among some columns. */
INLINE columns within(const lmu_sizes *o, int64_t block, columns c, int64_t size) {
    int64_t start = block * padded(o->order), first = c.first > start ? c.first : start;
    int64_t end = c.first + c.width < start + size ? c.first + c.width : start + size;
    columns some = {first, end > first ? end - first : 0};
    return some;
}

/* Some columns of a row without padding from one with it, or the other way round. */
INLINE void gather_columns(const lmu_sizes *o, columns c, const real *from, real *to) {
    for (int64_t i = 0; i < o->blocks; i++) {
        columns s = within(o, i, c, o->order);
        memcpy(to + s.first - i * (padded(o->order) - o->order), from + s.first,
               (size_t)s.width * sizeof(real));
    }
}

INLINE void spread_columns(const lmu_sizes *o, columns c, const real *from, real *to) {
    for (int64_t i = 0; i < o->blocks; i++) {
        columns s = within(o, i, c, o->order);
        memcpy(to + s.first, from + s.first - i * (padded(o->order) - o->order),
               (size_t)s.width * sizeof(real));
    }
}

/* total += delta, of which base and the next memory become the narrow copy. */
static void fold_columns(const lmu_sizes *o, columns c, double *total, real *base, real *delta,
                         real *next) {
    for (int64_t i = 0; i < o->blocks; i++) {
        columns s = within(o, i, c, o->order);
        double *sum = total - i * (padded(o->order) - o->order);
        for (int64_t j = s.first; j < s.first + s.width; j++) {
            sum[j] += delta[j];
            delta[j] = 0;
            next[j] = base[j] = (real)sum[j];
        }
    }
}

/* Some columns of m_{t-1} E_T, added to those of a row. */
static void add_dynamics(const lmu_sizes *o, columns c, const real *m, const real *E, real *to) {
    int64_t block = padded(o->order);
    for (int64_t i = 0; i < o->blocks; i++) {
        columns s = within(o, i, c, block);
        if (s.width)
            gemm(1, s.width, o->order, m + i * block, 0, 1,
                 E + i * o->order * block + s.first - i * block, block, to + s.first, 0, 1);
    }
}

#endif
