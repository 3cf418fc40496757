/* Backward of the nonlinear LMU over a single sequence, see lmu_shared.h.
 *
 * With a_t the gradient of f's argument, and l_t that of m_t by what comes later:
 *   u = B^T l_t + k^T a_t
 *   l_{t-1} = l_t + E^T l_t + K^T a_t + e_m^T u
 *   a_{t-1} = (dy_{t-1} + W_h^T a_t + e_h^T u) f'(y_{t-1})
 */
#include "lmu_shared.h"

typedef struct {
    shared_head head;
    const real *x, *h, *y, *m; /* as of forward; m all memories */
    const real *m_0;           /* (states), before the first step */
    const real *dy;            /* (steps, hidden) */
    real *dx, *dh;
    double *dm; /* (states): of the last memory, and then of the first */
    real *sums; /* of e_x, e_h, e_m, W_x, W_h, W_m, one after the other */
} backward_arguments;

typedef struct {
    lmu_rounds rounds;
    /* Weights with padded rows: W_h, W_x^T, K and k, E and B, and e_h, e_m. */
    real *W_h, *W_x, *K, *k, *E, *B, *e_h, *e_m;
    real *l[2], *base, *delta; /* after and before a step, by turns */
    real *z, *m;               /* of a stretch: [h; x] before each step, and m, also after the last */
    real *a, *u;               /* of two stretches, as its first step makes an a of the one before */
    real *own, *y;             /* u of each chunk; hidden units of a step */
    real *dW_z, *dW_m, *de_z, *de_m;
} shared;

enum { STRETCH = 256 }; /* steps, after which the gradients of the weights are added up */

/* First the weights; then stretches from the last to the first, each its steps and then their
 * products; and the results. */
INLINE int64_t rounds_of(const lmu_sizes *o) {
    return 1 + o->steps + (o->steps + STRETCH - 1) / STRETCH + 1;
}

LMU_EXPORT int NAME(lmu_shared_backward_begin)(const void *arguments, int64_t part, int64_t parts) {
    shared_head *a = (shared_head *)arguments;
    const lmu_sizes *o = &a->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, c = o->channels, states = o->blocks * o->order, c_row = padded(c);
    shared *s = begin(a, rounds_of(o), sizeof(shared));
    (void)part, (void)parts;
    if (!s) return LMU_NO_MEMORY;
    const array all[] = {
        {&s->W_h, n * v.h}, {&s->W_x, o->inputs * v.h}, {&s->K, n * v.m},
        {&s->k, c * v.h}, {&s->E, states * v.block}, {&s->B, c * v.block}, {&s->e_h, c * v.h},
        {&s->e_m, c * v.m}, {&s->l[0], v.m}, {&s->l[1], v.m}, {&s->base, v.m}, {&s->delta, v.m},
        {&s->z, STRETCH * v.z}, {&s->m, (STRETCH + 1) * v.m}, {&s->a, 2 * STRETCH * v.h},
        {&s->u, 2 * STRETCH * c_row}, {&s->own, LMU_CHUNKS * apart(c_row)}, {&s->y, v.h},
        {&s->dW_z, n * v.z}, {&s->dW_m, n * v.m}, {&s->de_z, c * v.z}, {&s->de_m, c * v.m},
    };
    return make_arrays(all, sizeof(all) / sizeof(*all));
}

LMU_EXPORT int NAME(lmu_shared_backward_end)(const void *arguments, int64_t part, int64_t parts) {
    shared *s = ((const shared_head *)arguments)->room;
    (void)part, (void)parts;
    if (s) free(s->W_h);
    free(s);
    return 0;
}

static real *a_of(const lmu_sizes *o, const shared *s, int64_t t) {
    return s->a + t % (2 * STRETCH) * padded(o->hidden);
}
static real *u_of(const lmu_sizes *o, const shared *s, int64_t t) {
    return s->u + t % (2 * STRETCH) * padded(o->channels);
}

/* Some columns of a_t, from those of W_h^T a_{t+1} + e_h^T u that are in its place. */
static void through_slope(const backward_arguments *b, const shared *s, int64_t t, columns h) {
    const lmu_sizes *o = &b->head.sizes;
    int64_t n = o->hidden, f = h.first, units = f + h.width < n ? h.width : n - f;
    real *a = a_of(o, s, t) + f;
    for (int64_t i = 0; i < units; i++) a[i] += b->dy[t * n + f + i];
    memcpy(s->y + f, b->y + t * n + f, (size_t)units * sizeof(real));
    times_slope((int)o->activation, a, s->y + f, h.width);
}

/* Some columns of the weights, and of what comes after the last step. */
static void prepare(const backward_arguments *b, const shared *s, int64_t chunk, columns h,
                    columns m) {
    const lmu_sizes *o = &b->head.sizes;
    const lmu_weights *w = &b->head.weights;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, d = o->order, states = o->blocks * d, c = o->channels, f = h.first;
    int64_t units = f + h.width < n ? h.width : n - f;
    copy_rows(n, units, w->W_h + f, n, s->W_h + f, v.h);
    for (int64_t i = 0; i < c; i++)
        for (int64_t r = f; r < f + units; r++)
            for (int64_t j = 0; j < d; j++)
                s->k[i * v.h + r] += w->B[i * d + j] * w->W_m[r * states + block_of(o, i) * d + j];
    for (int64_t i = 0; i < o->blocks; i++) {
        columns some = within(o, i, m, d), all = within(o, i, m, v.block);
        int64_t from = some.first - i * v.block;
        if (!all.width) continue;
        copy_rows(n, some.width, w->W_m + i * d + from, states, s->K + some.first, v.m);
        copy_rows(d, some.width, w->E + i * d * d + from, d, s->E + i * d * v.block + from, v.block);
        multiply(n, all.width, d, w->W_m + i * d, states, 1, s->E + i * d * v.block + from, v.block,
                 s->K + all.first, v.m, 1);
    }
    fold_columns(o, m, b->dm, s->base, s->delta, s->l[o->steps % 2]);
    through_slope(b, s, o->steps - 1, h);
    if (chunk) return;
    pack_transposed(n, o->inputs, w->W_x, o->inputs, s->W_x, v.h);
    copy_rows(c, d, w->B, d, s->B, v.block);
    copy_rows(c, n, w->e_h, n, s->e_h, v.h);
    spread(o, c, w->e_m, states, s->e_m, v.m);
}

/* From the gradients at step t to those at the step before. */
static void go_back(const backward_arguments *b, const shared *s, int64_t t, int64_t chunk,
                    columns h, columns m) {
    const lmu_sizes *o = &b->head.sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, f = h.first, c_row = padded(o->channels);
    const real *a = a_of(o, s, t), *l = s->l[(t + 1) % 2];
    real *u = s->own + chunk * apart(c_row), *next = s->l[t % 2];
    real *g = t ? a_of(o, s, t - 1) : s->y; /* before the first step there is no f */
    for (int64_t c = 0; c < o->channels; c++)
        u[c] = row_dot(a, s->k + c * v.h, v.h) +
               row_dot(l + block_of(o, c) * v.block, s->B + c * v.block, v.block);
    if (chunk == 0) memcpy(u_of(o, s, t), u, (size_t)o->channels * sizeof(real));
    gemm(1, h.width, n, a, 0, 1, s->W_h + f, v.h, g + f, 0, 0);
    gemm(1, m.width, n, a, 0, 1, s->K + m.first, v.m, s->delta + m.first, 0, 1);
    add_dynamics(o, m, l, s->E, s->delta);
    for (int64_t c = 0; c < o->channels; c++) {
        add_multiple(g + f, u[c], s->e_h + c * v.h + f, h.width);
        add_multiple(s->delta + m.first, u[c], s->e_m + c * v.m + m.first, m.width);
    }
    for (int64_t i = m.first; i < m.first + m.width; i += LANES)
        store(next + i, load(s->base + i) + load(s->delta + i));
    if (t % LMU_STRETCH == 0) fold_columns(o, m, b->dm, s->base, s->delta, next);
    if (t) {
        through_slope(b, s, t - 1, h);
        return;
    }
    int64_t units = f + h.width < n ? h.width : n - f;
    memcpy(b->dh + f, g + f, (size_t)units * sizeof(real));
}

/* Some columns of [h; x] and m of the steps start <= t < stop. */
static void load_stretch(const backward_arguments *b, const shared *s, int64_t start, int64_t stop,
                         columns z, columns m) {
    const lmu_sizes *o = &b->head.sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, states = o->blocks * o->order, end = z.first + z.width;
    for (int64_t t = start; t < stop; t++) {
        real *row = s->z + (t - start) * v.z;
        const real *h = t ? b->y + (t - 1) * n : b->h;
        for (int64_t j = z.first; j < end && j < n; j++) row[j] = h[j];
        for (int64_t j = z.first > n ? z.first : n; j < end && j < n + k; j++)
            row[j] = b->x[t * k + j - n];
    }
    for (int64_t t = start; t <= stop; t++)
        spread_columns(o, m, t ? b->m + (t - 1) * states : b->m_0, s->m + (t - start) * v.m);
}

/* Gradients of the weights, some columns of them, and of the inputs of some of the steps. */
static void add_products(const backward_arguments *b, const shared *s, int64_t start, int64_t stop,
                         int64_t chunk, columns m) {
    const lmu_sizes *o = &b->head.sizes;
    lmu_widths v = lmu_widths_of(o);
    columns z = columns_of_chunk(v.z, chunk, b->head.chunks);
    int64_t n = o->hidden, k = o->inputs, c = o->channels, c_row = padded(c), q = stop - start;
    const real *a = a_of(o, s, start), *u = u_of(o, s, start);
    load_stretch(b, s, start, stop, z, m);
    gemm(n, z.width, q, a, 1, v.h, s->z + z.first, v.z, s->dW_z + z.first, v.z, 1);
    gemm(c, z.width, q, u, 1, c_row, s->z + z.first, v.z, s->de_z + z.first, v.z, 1);
    gemm(n, m.width, q, a, 1, v.h, s->m + v.m + m.first, v.m, s->dW_m + m.first, v.m, 1);
    gemm(c, m.width, q, u, 1, c_row, s->m + m.first, v.m, s->de_m + m.first, v.m, 1);
    int64_t end = start + share(q, chunk + 1, b->head.chunks);
    for (int64_t t = start + share(q, chunk, b->head.chunks); t < end; t++)
        for (int64_t i = 0; i < k; i++) {
            real sum = row_dot(a_of(o, s, t), s->W_x + i * v.h, v.h);
            for (int64_t j = 0; j < c; j++) sum += u_of(o, s, t)[j] * b->head.weights.e_x[j * k + i];
            b->dx[t * k + i] = sum;
        }
}

static void write_sums(const backward_arguments *b, const shared *s) {
    const lmu_sizes *o = &b->head.sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, c = o->channels, states = o->blocks * o->order;
    real *to = b->sums;
    copy_rows(c, k, s->de_z + n, v.z, to, k);
    copy_rows(c, n, s->de_z, v.z, to += c * k, n);
    gather(o, c, s->de_m, v.m, to += c * n, states);
    copy_rows(n, k, s->dW_z + n, v.z, to += c * states, k);
    copy_rows(n, n, s->dW_z, v.z, to += n * k, n);
    gather(o, n, s->dW_m, v.m, to += n * n, states);
}

static void work(void *context, int64_t round, int64_t chunk) {
    const backward_arguments *b = context;
    const lmu_sizes *o = &b->head.sizes;
    const shared *s = b->head.room;
    lmu_widths v = lmu_widths_of(o);
    columns h = columns_of_chunk(v.h, chunk, b->head.chunks);
    columns m = columns_of_chunk(v.m, chunk, b->head.chunks);
    int64_t stretch = (o->steps - 1) / STRETCH, start = stretch * STRETCH, steps = o->steps - start;
    if (round == 0) {
        prepare(b, s, chunk, h, m);
        return;
    }
    if (round == s->rounds.rounds - 1) {
        if (chunk == 0) write_sums(b, s);
        return;
    }
    int64_t place = round - 1;
    if (place > steps) { /* beyond the last stretch, which may be short */
        place -= steps + 1;
        start -= (place / (STRETCH + 1) + 1) * STRETCH;
        place %= STRETCH + 1;
        steps = STRETCH;
    }
    if (place < steps)
        go_back(b, s, start + steps - 1 - place, chunk, h, m);
    else
        add_products(b, s, start, start + steps, chunk, m);
}

LMU_EXPORT int NAME(lmu_shared_backward)(const void *arguments, int64_t part, int64_t parts) {
    const backward_arguments *b = arguments;
    (void)parts;
    lmu_take_part(b->head.room, work, (void *)arguments, part);
    return 0;
}
