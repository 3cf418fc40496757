/* Backward of states.c, tile by tile: states are computed again, from those before the chunk. */
#include "states_response.h"

typedef struct {
    real *W_T, *rows, *gradients, *dz, *y, *u, *product, *response;
    encoder_buffers encoder;
} buffers;

/* Gradients of what the activation is applied to (steps, sequences, padded rows); zero beyond the
 * sequence. */
static void read_output_gradients(const tile *a, int64_t t, int64_t steps, const buffers *b) {
    const states_arguments *o = a->o;
    int64_t width = output_length(o);
    real *dz = b->dz, *y = b->y;
    for (int64_t i = 0; i < steps; i++)
        for (int64_t s = 0; s < a->sequences; s++, dz += width, y += width) {
            int64_t step = step_of(a, s, t + i);
            if (step < 0) {
                memset(dz, 0, o->rows * sizeof(real));
                continue;
            }
            copy(dz, o->dy + step * o->rows, o->rows);
            copy(y, o->y + step * o->rows, o->rows);
        }
    times_slope((int)o->activation, b->dz, b->y, steps * a->sequences * width);
}

/* Gradients of the states of some steps from t on, of the weights, and of the input. */
static void read_out_backward(const tile *a, int64_t t, int64_t steps, const buffers *b, real *dW) {
    const states_arguments *o = a->o;
    int64_t width = output_length(o), number = steps * a->sequences, at = t * a->sequences * a->row;
    real *gradients = b->gradients + at;
    read_output_gradients(a, t, steps, b);
    if (dW)
        multiply(a->states + o->features + 1, padded(o->rows), number,
                 b->rows + at + a->sequences * a->row, 1, a->row, b->dz, width, dW, width, 1);
    multiply(number, o->dx ? a->row : a->states, o->rows, b->dz, width, 1, b->W_T, a->row,
             gradients, a->row, 0);
    for (int64_t i = 0; o->dx && i < steps; i++)
        for (int64_t s = 0; s < a->sequences; s++, gradients += a->row) {
            int64_t step = step_of(a, s, t + i);
            if (step >= 0)
                copy(o->dx + step * o->features, gradients + a->states, o->features);
        }
}

static void read_state_gradients(const tile *a, real *gradients) {
    const states_arguments *o = a->o;
    for (int64_t t = 0; t < o->chunk; t++)
        for (int64_t s = 0; s < a->sequences; s++, gradients += a->row) {
            int64_t step = step_of(a, s, t);
            if (step < 0)
                memset(gradients, 0, a->row * sizeof(real));
            else
                put_states(o, o->dy + step * o->channels * o->order, gradients);
        }
}

/* Add the gradients of the states after the chunk, which come from later ones. */
static void add_ends(const tile *a, real *last, real *one) {
    const states_arguments *o = a->o;
    int64_t states = o->channels * o->order;
    for (int64_t s = 0; s < a->sequences; s++) {
        int64_t sequence = a->first + s, at_end = sequence % o->chunks == o->chunks - 1;
        const real *from = at_end ? o->dlast : o->ends;
        if (!from) continue;
        memset(one, 0, a->states * sizeof(real));
        put_states(o, from + (at_end ? sequence / o->chunks : sequence) * states, one);
        for (int64_t i = 0; i < a->states; i++) last[s * a->row + i] += one[i];
    }
}

/* B of channel c. */
INLINE const real *B_of(const states_arguments *o, int64_t c) {
    int64_t in_group = c % o->inputs, first = o->own ? c / o->inputs * o->inputs : 0;
    return o->B + (first + in_group) * o->padded + in_group * o->order;
}

static void write_input_gradients(const tile *a, const real *adjoint) {
    const states_arguments *o = a->o;
    for (int64_t t = 0; t < o->chunk; t++)
        for (int64_t s = 0; s < a->sequences; s++, adjoint += a->row) {
            int64_t step = step_of(a, s, t);
            if (step < 0) continue;
            for (int64_t c = 0; c < o->channels; c++)
                o->du[step * o->channels + c] = dot(o->order, B_of(o, c), adjoint + place_of(o, c));
        }
}

/* One more adjoint step without input gives the gradients of the states before the chunk. */
static void write_start_gradients(const tile *a, const real *adjoint, real *before) {
    const states_arguments *o = a->o;
    for (int64_t s = 0; s < a->sequences; s++) {
        const real *from = adjoint + (a->lead[s] * a->sequences + s) * a->row;
        memcpy(before + a->row, from, a->states * sizeof(real));
        memset(before, 0, a->states * sizeof(real));
        memory_adjoint(&a->memory, 1, 1, a->row, before);
        take_states(o, before, o->dstarts + (a->first + s) * o->channels * o->order);
    }
}

/* dE += sum of adjoint states times the states before, dB += those times inputs, of one channel. */
static void add_channel_gradients(const tile *a, const buffers *b, int64_t c, double *dE,
                                  double *dB) {
    const states_arguments *o = a->o;
    int64_t d = o->order, at = place_of(o, c), width = padded(d), number = o->chunk * a->sequences;
    gemm(d, width, number, b->gradients + at, 1, a->row, b->rows + at, a->row, b->product, width, 0);
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < d; j++) dE[i * d + j] += b->product[i * width + j];
    for (int64_t i = 0; i < d; i++) {
        double sum = 0;
        for (int64_t r = 0; r < number; r++)
            sum += b->gradients[r * a->row + at + i] * b->u[r * o->groups * o->inputs + c];
        dB[i] += sum;
    }
}

/* What a part adds to. */
typedef struct {
    int64_t part;
    real *dW;
    double *dE, *dB;
} sums;

static void run_tile(const tile *a, const buffers *b, sums to) {
    const states_arguments *o = a->o;
    int64_t size = a->sequences * a->row, d = o->order;
    memset(b->rows, 0, size * sizeof(real));
    if (is_direct(o))
        respond(a, 0, o->chunk, b->rows + size, b->response);
    else
        run_states(a, 0, o->chunk, b->rows, b->u);
    if (o->rows) {
        read_features(a, 0, o->chunk, b->rows + size);
        for (int64_t t = 0; t < o->chunk; t += a->block)
            read_out_backward(a, t, o->chunk - t < a->block ? o->chunk - t : a->block, b, to.dW);
    } else {
        read_state_gradients(a, b->gradients);
    }
    add_ends(a, b->gradients + (o->chunk - 1) * size, b->product);
    if (is_direct(o) && o->du && !o->dstarts && !to.dE) {
        respond_backward(a, b->gradients, b->response);
    } else {
        memset(b->gradients + o->chunk * size, 0, size * sizeof(real));
        memory_adjoint(&a->memory, o->chunk, a->sequences, a->row, b->gradients);
        if (o->du) write_input_gradients(a, b->gradients);
    }
    if (o->dstarts) write_start_gradients(a, b->gradients, b->product);
    for (int64_t c = 0; to.dE && c < o->channels; c++)
        add_channel_gradients(a, b, c, to.dE + (o->own ? c : 0) * d * d,
                              to.dB + (o->own ? c : 0) * d);
    if (o->chunks == 1 && o->encoder.W)
        encode_backward(&o->encoder, &b->encoder, to.part, o->du, a->first * o->length,
                        a->sequences * o->length);
}

/* The sums of all parts, in one order whoever is the last, and in the order of the weights. */
static void finish(const states_arguments *o, int64_t parts) {
    int64_t width = output_length(o), size = row_length(o) * width, states = o->groups * o->padded;
    if (!o->sums) return;
    for (int64_t p = 1; p < parts; p++)
        for (int64_t i = 0; i < size; i++) o->sums[i] += o->sums[p * size + i];
    for (int64_t i = 0; i < o->rows; i++) {
        for (int64_t c = 0; c < o->channels; c++) {
            const real *from = o->sums + place_of(o, c) * width + i;
            real *to = o->dW_m + i * o->dW_row + c * o->order;
            for (int64_t k = 0; k < o->order; k++) to[k] = from[k * width];
        }
        for (int64_t k = 0; k < o->features; k++)
            o->dW_x[i * o->dW_row + k] = o->sums[(states + k) * width + i];
        o->dbias[i] = o->sums[(states + o->features) * width + i];
    }
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

LMU_EXPORT int NAME(states_backward)(const void *arguments, int64_t part, int64_t parts) {
    const states_arguments *o = arguments;
    tile a = tile_at(o, 0);
    int64_t width = output_length(o), number = o->chunk * a.sequences, d = o->order;
    int64_t block = a.block * a.sequences * width, own = o->own ? o->channels : 1;
    buffers b = {
        .W_T = zeros(o->rows * a.row),
        .rows = zeros((number + a.sequences) * a.row + LANES), /* the last vector may begin late */
        .gradients = zeros((number + a.sequences) * a.row),
        .dz = zeros(block),
        .y = zeros(block),
        .u = zeros(number * o->groups * o->inputs),
        .product = zeros(larger(2 * a.row, o->dE ? d * padded(d) : 0)),
        .response = zeros(response_size(o)),
    };
    int status = b.W_T && b.rows && b.gradients && b.dz && b.y && b.u && b.product && b.response
                     ? 0
                     : LMU_NO_MEMORY;
    if (!status) status = encoder_begin(&o->encoder, &b.encoder, 1);
    if (!status) {
        if (o->rows) pack_transpose(o, b.W_T);
        sums to = {part, o->sums ? o->sums + part * a.row * width : NULL,
                   o->dE ? o->dE + part * own * d * d : NULL, o->dB ? o->dB + part * own * d : NULL};
        if (to.dW) memset(to.dW, 0, a.row * width * sizeof(real));
        if (o->chunks == 1) encoder_clear(&o->encoder, part);
        int64_t tiles = tiles_of(o), end = share(tiles, part + 1, parts);
        for (int64_t i = share(tiles, part, parts); i < end; i++) {
            a = tile_at(o, i);
            run_tile(&a, &b, to);
        }
        if (is_last((int64_t *)&o->finished, parts)) {
            finish(o, parts);
            if (o->chunks == 1) encoder_finish(&o->encoder, parts);
        }
    }
    free(b.W_T);
    free(b.rows);
    free(b.gradients);
    free(b.dz);
    free(b.y);
    free(b.u);
    free(b.product);
    free(b.response);
    encoder_end(&b.encoder);
    return status;
}
