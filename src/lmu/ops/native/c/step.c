/* One time step of a Legendre memory, of an encoder before it and of hidden units that read it.
 *
 * A stream's state is a row [h | u_1 m_1 | ... | u_c m_c | x 1], so that products read neighbours:
 *   u = f_e(e [...])         from all of the row, or from [x 1] alone
 *   m_i += G_i [u_i | m_i]   with G_i = [Bd | Ad - I], added up in float64
 *   h = f(W [...])           from all of the row, or from what follows h
 */
#include "activations.h"
#include "gemm.h"
#include "lmu.h"

typedef struct {
    const real *x;       /* (count, inputs) */
    real *out;           /* (count, hidden), or without hidden units (count, channels, order) */
    const int64_t *rows; /* (count,): the streams that step; NULL for the first ones */
    real *state;         /* (streams, state_row) */
    double *memory;      /* (streams, channels, order), of which the state has a narrow copy */
    const real *encoder; /* (channels, state_row - encoder_start); NULL: u is x */
    const real *dynamics; /* (channels or 1, 1 + order, order_row): transposes of G */
    const real *read_out; /* (state columns - read_out_start, hidden_row): the transpose of W */
    real *work; /* (parts, tile, state_row + channels * order_row + hidden_row) */
    int64_t count;
    int64_t state_row, order_row, hidden_row; /* padded to whole vectors */
    int64_t hidden, channels, order, inputs, columns;
    int64_t encoder_start, read_out_start, dynamics_step;
    int64_t tile; /* streams whose work stays in the cache */
    int64_t encoder_activation, activation;
} step_arguments;

static real dot(const real *a, const real *b, int64_t n) {
    vec sums[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; j++) sums[j] += load(a + i + j * LANES) * load(b + i + j * LANES);
    for (; i + LANES <= n; i += LANES) sums[0] += load(a + i) * load(b + i);
    vec all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    real sum = 0;
    for (int j = 0; j < LANES; j++) sum += all[j];
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One activation of numbers that lie `step` apart. */
static void activate_apart(int kind, real *x, int64_t step, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        real some[LANES] = {0};
        int64_t size = n - i < LANES ? n - i : LANES;
        for (int64_t j = 0; j < size; j++) some[j] = x[(i + j) * step];
        activate(kind, some, LANES);
        for (int64_t j = 0; j < size; j++) x[(i + j) * step] = some[j];
    }
}

/* The memory's inputs of one stream, from its input. */
static void encode(const step_arguments *o, const real *x, real *state) {
    int64_t length = o->columns - o->encoder_start, apart = 1 + o->order;
    real *u = state + o->hidden;
    memcpy(u + o->channels * apart, x, (size_t)o->inputs * sizeof(real));
    for (int64_t i = 0; i < o->channels; i++)
        u[i * apart] = o->encoder ? dot(o->encoder + i * length, state + o->encoder_start, length)
                                  : x[i];
    activate_apart((int)o->encoder_activation, u, apart, o->channels);
}

/* G_i [u_i | m_i] of all channels: of some streams at once, or of some channels if these are alike
 * and more. */
static void increments(const step_arguments *o, int64_t count, const real *states, real *result) {
    int64_t c = o->channels, apart = 1 + o->order, width = o->order_row;
    if (!o->dynamics_step && c > count) {
        for (int64_t i = 0; i < count; i++)
            gemm(c, width, apart, states + i * o->state_row + o->hidden, apart, 1, o->dynamics,
                 width, result + i * c * width, width, 0);
        return;
    }
    for (int64_t i = 0; i < c; i++)
        gemm(count, width, apart, states + o->hidden + i * apart, o->state_row, 1,
             o->dynamics + i * o->dynamics_step, width, result + i * width, c * width, 0);
}

/* Adds the increments of one stream to its memory. */
static void advance(const step_arguments *o, const real *increments, double *memory, real *state) {
    for (int64_t i = 0; i < o->channels; i++) {
        const real *restrict increment = increments + i * o->order_row;
        double *restrict m = memory + i * o->order;
        real *restrict narrow = state + o->hidden + i * (1 + o->order) + 1;
        for (int64_t j = 0; j < o->order; j++) {
            m[j] += (double)increment[j];
            narrow[j] = (real)m[j];
        }
    }
}

static void write_memory(const step_arguments *o, const real *state, real *out) {
    for (int64_t i = 0; i < o->channels; i++)
        memcpy(out + i * o->order, state + o->hidden + i * (1 + o->order) + 1,
               (size_t)o->order * sizeof(real));
}

/* `count` streams from number `first` of those that step. */
static void step_some(const step_arguments *o, int64_t first, int64_t count, real *work) {
    int64_t row = o->state_row, memory = o->channels * o->order, n = o->hidden;
    real *changes = work + o->tile * row, *units = changes + o->tile * o->channels * o->order_row;
    real *states = o->rows ? work : o->state + first * row;
    for (int64_t i = 0; i < count; i++) {
        if (o->rows)
            memcpy(work + i * row, o->state + o->rows[first + i] * row, (size_t)row * sizeof(real));
        encode(o, o->x + (first + i) * o->inputs, states + i * row);
    }
    increments(o, count, states, changes);
    for (int64_t i = 0; i < count; i++) {
        int64_t stream = o->rows ? o->rows[first + i] : first + i;
        advance(o, changes + i * o->channels * o->order_row, o->memory + stream * memory,
                states + i * row);
    }
    if (n) {
        gemm(count, o->hidden_row, o->columns - o->read_out_start, states + o->read_out_start, row,
             1, o->read_out, o->hidden_row, units, o->hidden_row, 0);
        activate((int)o->activation, units, count * o->hidden_row);
    }
    for (int64_t i = 0; i < count; i++) {
        real *out = o->out + (first + i) * (n ? n : memory);
        if (n) {
            memcpy(out, units + i * o->hidden_row, (size_t)n * sizeof(real));
            memcpy(states + i * row, out, (size_t)n * sizeof(real));
        } else {
            write_memory(o, states + i * row, out);
        }
        if (o->rows)
            memcpy(o->state + o->rows[first + i] * row, work + i * row, (size_t)row * sizeof(real));
    }
}

LMU_EXPORT int NAME(step)(const void *arguments, int64_t part, int64_t parts) {
    const step_arguments *o = arguments;
    int64_t at = share(o->count, part, parts), end = share(o->count, part + 1, parts);
    real *work = o->work +
                 part * o->tile * (o->state_row + o->channels * o->order_row + o->hidden_row);
    for (; at < end; at += o->tile)
        step_some(o, at, end - at < o->tile ? end - at : o->tile, work);
    return 0;
}
