/* Backward of the nonlinear LMU; a part takes its rows of the batch back through all steps.
 *
 * With g = dL/dh_t, l = dL/dm_t of what comes later:
 *   a = (dy_t + g) f'(y_t);  l += W_m^T a;  u = B^T l            (gradients of f's argument and of u)
 *   [g; dx_t] = W_z^T a + e_z^T u;  l += E^T l + e_m^T u          (those of the step before)
 */
#include "lmu_steps.h"

typedef struct {
    lmu_sizes sizes;
    lmu_weights weights;
    const real *x, *h, *y, *m; /* as of forward; m all memories */
    const real *m_0;           /* (batch, states), before the first step */
    const real *dy;            /* (batch, steps, hidden) */
    real *dx, *dh;
    double *dm; /* (batch, states): of the last memory, and then of the first */
    /* Sums over the rows of each part, of `size` numbers: e_x, e_h, e_m, W_x, W_h, W_m one after
     * the other, and then E and B if they are learned. */
    real *sums;
    int64_t size, learned;
} backward_arguments;

/* Weights, or their gradients, with padded rows; [W_h W_x] and [e_h e_x] beside each other. */
typedef struct {
    real *W_z, *W_m, *E, *B, *e_z, *e_m;
} packed_weights;

static real *make_weights(const lmu_sizes *o, packed_weights *p) {
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, c = o->channels, states = o->blocks * o->order;
    p->W_z = zeros(n * (v.z + v.m) + states * v.block + c * (v.block + v.z + v.m));
    if (!p->W_z) return NULL;
    p->W_m = p->W_z + n * v.z;
    p->E = p->W_m + n * v.m;
    p->B = p->E + states * v.block;
    p->e_z = p->B + c * v.block;
    p->e_m = p->e_z + c * v.z;
    return p->W_z;
}

static void pack_weights(const lmu_sizes *o, const lmu_weights *w, const packed_weights *p) {
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, d = o->order, c = o->channels, states = o->blocks * d;
    copy_rows(n, n, w->W_h, n, p->W_z, v.z);
    copy_rows(n, k, w->W_x, k, p->W_z + n, v.z);
    spread(o, n, w->W_m, states, p->W_m, v.m);
    copy_rows(states, d, w->E, d, p->E, v.block);
    copy_rows(c, d, w->B, d, p->B, v.block);
    copy_rows(c, n, w->e_h, n, p->e_z, v.z);
    copy_rows(c, k, w->e_x, k, p->e_z + n, v.z);
    spread(o, c, w->e_m, states, p->e_m, v.m);
}

static void write_sums(const backward_arguments *b, const packed_weights *p, real *to) {
    const lmu_sizes *o = &b->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, d = o->order, c = o->channels, states = o->blocks * d;
    copy_rows(c, k, p->e_z + n, v.z, to, k);
    copy_rows(c, n, p->e_z, v.z, to += c * k, n);
    gather(o, c, p->e_m, v.m, to += c * n, states);
    copy_rows(n, k, p->W_z + n, v.z, to += c * states, k);
    copy_rows(n, n, p->W_z, v.z, to += n * k, n);
    gather(o, n, p->W_m, v.m, to += n * n, states);
    if (!b->learned) return;
    copy_rows(states, d, p->E, v.block, to += n * states, d);
    copy_rows(c, d, p->B, v.block, to += states * d, d);
}

enum {
    ROWS = 32,      /* of the batch at once, so that their states stay in the cache */
    GATHERED = 256, /* rows of steps and sequences whose outer products are added up at once */
};

/* Buffers of a stretch of steps, step after step. */
typedef struct {
    int64_t rows, capacity;
    real *z, *m;     /* (capacity + 1, rows, .): [h; x] and m before each step and after the last */
    real *a, *l, *u; /* (capacity, rows, .): gradients of f's argument, of m_t and of u_t */
    real *g;         /* (rows, .): gradient of [h; x] */
    lmu_sum sum;     /* that of m */
} workspace;

static int64_t channels_width(const lmu_sizes *o) { return padded(o->channels); }

static real *make_workspace(const lmu_sizes *o, int64_t rows, workspace *s) {
    lmu_widths v = lmu_widths_of(o);
    int64_t q = GATHERED / rows > 0 ? GATHERED / rows : 1;
    if (q > o->steps) q = o->steps;
    int64_t before = (q + 1) * rows, during = q * rows;
    real *all = zeros(before * (v.z + v.m) + during * (v.h + v.m + channels_width(o)) +
                      rows * (v.z + 3 * v.m));
    if (!all) return NULL;
    s->rows = rows;
    s->capacity = q;
    s->z = all;
    s->m = s->z + before * v.z;
    s->a = s->m + before * v.m;
    s->l = s->a + during * v.h;
    s->u = s->l + during * v.m;
    s->g = s->u + during * channels_width(o);
    s->sum.base = s->g + rows * v.z;
    s->sum.delta = s->sum.base + rows * v.m;
    s->sum.now = s->sum.delta + rows * v.m;
    return all;
}

/* [h_{t-1}; x_t] and m_{t-1} of steps start <= t <= stop, the last without its x. */
static void load_stretch(const backward_arguments *b, int64_t first, int64_t start, int64_t stop,
                         workspace *s) {
    const lmu_sizes *o = &b->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, states = o->blocks * o->order, rows = s->rows;
    for (int64_t t = start; t <= stop; t++) {
        real *z = s->z + (t - start) * rows * v.z, *m = s->m + (t - start) * rows * v.m;
        int64_t before = first * o->steps + t - 1;
        if (t == 0) {
            copy_rows(rows, n, b->h + first * n, n, z, v.z);
            spread(o, rows, b->m_0 + first * states, states, m, v.m);
        } else {
            copy_rows(rows, n, b->y + before * n, o->steps * n, z, v.z);
            spread(o, rows, b->m + before * states, o->steps * states, m, v.m);
        }
        if (t < stop) copy_rows(rows, k, b->x + (before + 1) * k, o->steps * k, z + n, v.z);
    }
}

/* One step back; i is its number in the stretch. */
static void go_back(const backward_arguments *b, const packed_weights *p, int64_t first, int64_t t,
                    int64_t i, workspace *s) {
    const lmu_sizes *o = &b->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, k = o->inputs, d = o->order, rows = s->rows, c_row = channels_width(o);
    real *a = s->a + i * rows * v.h, *l = s->l + i * rows * v.m, *u = s->u + i * rows * c_row;
    const real *after = s->z + (i + 1) * rows * v.z;
    for (int64_t r = 0; r < rows; r++) {
        const real *dy = b->dy + ((first + r) * o->steps + t) * n;
        for (int64_t j = 0; j < n; j++) a[r * v.h + j] = dy[j] + s->g[r * v.z + j];
        times_slope((int)o->activation, a + r * v.h, after + r * v.z, n);
        for (int64_t j = n; j < v.h; j++) a[r * v.h + j] = 0;
    }
    gemm(rows, v.m, n, a, v.h, 1, p->W_m, v.m, s->sum.delta, v.m, 1);
    lmu_add_up(&s->sum, rows * v.m);
    memcpy(l, s->sum.now, (size_t)(rows * v.m) * sizeof(real));
    gemm(rows, v.z, n, a, v.h, 1, p->W_z, v.z, s->g, v.z, 0);
    for (int64_t j = 0; j < o->blocks; j++)
        gemm(rows, v.block, d, l + j * v.block, v.m, 1, p->E + j * d * v.block, v.block,
             s->sum.delta + j * v.block, v.m, 1);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < o->channels; c++) {
            real du = row_dot(l + r * v.m + block_of(o, c) * v.block, p->B + c * v.block, v.block);
            u[r * c_row + c] = du;
            add_multiple(s->g + r * v.z, du, p->e_z + c * v.z, v.z);
            add_multiple(s->sum.delta + r * v.m, du, p->e_m + c * v.m, v.m);
        }
    copy_rows(rows, k, s->g + n, v.z, b->dx + (first * o->steps + t) * k, o->steps * k);
}

/* Gradients of the weights from `steps` steps of a stretch. */
static void add_outer_products(const backward_arguments *b, const packed_weights *p,
                               const packed_weights *sums, int64_t steps, const workspace *s) {
    const lmu_sizes *o = &b->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t n = o->hidden, c = o->channels, d = o->order, q = steps * s->rows;
    int64_t c_row = channels_width(o);
    const real *m_after = s->m + s->rows * v.m;
    gemm(n, v.z, q, s->a, 1, v.h, s->z, v.z, sums->W_z, v.z, 1);
    gemm(n, v.m, q, s->a, 1, v.h, m_after, v.m, sums->W_m, v.m, 1);
    gemm(c, v.z, q, s->u, 1, c_row, s->z, v.z, sums->e_z, v.z, 1);
    gemm(c, v.m, q, s->u, 1, c_row, s->m, v.m, sums->e_m, v.m, 1);
    if (!b->learned) return;
    for (int64_t j = 0; j < o->blocks; j++)
        gemm(d, v.block, q, s->l + j * v.block, 1, v.m, s->m + j * v.block, v.m,
             sums->E + j * d * v.block, v.block, 1);
    for (int64_t i = 0; i < q; i++)
        for (int64_t j = 0; j < c; j++) {
            real u = row_dot(s->z + i * v.z, p->e_z + j * v.z, v.z) +
                     row_dot(s->m + i * v.m, p->e_m + j * v.m, v.m);
            add_multiple(sums->B + j * v.block, u, s->l + i * v.m + block_of(o, j) * v.block,
                         v.block);
        }
}

static void run_rows(const backward_arguments *b, const packed_weights *p,
                     const packed_weights *sums, int64_t first, workspace *s) {
    const lmu_sizes *o = &b->sizes;
    lmu_widths v = lmu_widths_of(o);
    int64_t rows = s->rows, age = 0;
    s->sum.total = b->dm + first * o->blocks * o->order;
    memset(s->g, 0, (size_t)(rows * (v.z + 3 * v.m)) * sizeof(real)); /* and the sums after it */
    lmu_fold(o, rows, &s->sum);
    for (int64_t stop = o->steps; stop > 0;) {
        int64_t start = stop > s->capacity ? stop - s->capacity : 0;
        load_stretch(b, first, start, stop, s);
        for (int64_t t = stop - 1; t >= start; t--) {
            go_back(b, p, first, t, t - start, s);
            if (++age % LMU_STRETCH == 0) lmu_fold(o, rows, &s->sum);
        }
        add_outer_products(b, p, sums, stop - start, s);
        stop = start;
    }
    lmu_fold(o, rows, &s->sum);
    copy_rows(rows, o->hidden, s->g, v.z, b->dh + first * o->hidden, o->hidden);
}

LMU_EXPORT int NAME(lmu_backward)(const void *arguments, int64_t part, int64_t parts) {
    const backward_arguments *b = arguments;
    const lmu_sizes *o = &b->sizes;
    int64_t first = share(o->batch, part, parts), last = share(o->batch, part + 1, parts);
    real *sums_of_part = b->sums + part * b->size;
    if (first == last) {
        memset(sums_of_part, 0, (size_t)b->size * sizeof(real));
        return 0;
    }
    int64_t tiles = (last - first + ROWS - 1) / ROWS, most = (last - first + tiles - 1) / tiles;
    packed_weights p = {0}, sums = {0};
    workspace s = {0};
    real *buffer = make_workspace(o, most, &s);
    int status = make_weights(o, &p) && make_weights(o, &sums) && buffer ? 0 : LMU_NO_MEMORY;
    if (!status) {
        pack_weights(o, &b->weights, &p);
        for (int64_t i = 0; i < tiles; i++) {
            int64_t start = first + share(last - first, i, tiles);
            s.rows = first + share(last - first, i + 1, tiles) - start;
            run_rows(b, &p, &sums, start, &s);
        }
        write_sums(b, &sums, sums_of_part);
    }
    free(p.W_z);
    free(sums.W_z);
    free(buffer);
    return status;
}
