/* All states of a memory, or hidden units that read them: f(W_m m_t + W_x x_t + b). */
#include "states_response.h"

typedef struct {
    real *W, *rows, *z, *u, *response;
    encoder_buffers encoder;
} buffers;

static void write_outputs(const tile *a, int64_t t, int64_t steps, const real *rows, real *z,
                          const real *W) {
    const states_arguments *o = a->o;
    int64_t width = o->rows ? output_length(o) : 0, number = steps * a->sequences;
    if (o->rows) {
        multiply(number, padded(o->rows), a->states + o->features + 1, rows, a->row, 1, W, width, z,
                 width, 0);
        activate((int)o->activation, z, number * width);
    }
    for (int64_t i = 0; i < steps; i++)
        for (int64_t s = 0; s < a->sequences; s++, rows += a->row, z += width) {
            int64_t step = step_of(a, s, t + i);
            if (step < 0) continue;
            if (o->rows)
                copy(o->y + step * o->rows, z, o->rows);
            else
                take_states(o, rows, o->y + step * o->channels * o->order);
        }
}

static void write_last(const tile *a, const real *rows) {
    const states_arguments *o = a->o;
    for (int64_t s = 0; s < a->sequences; s++) {
        int64_t row = (a->first + s) / o->chunks;
        if ((a->first + s) % o->chunks == o->chunks - 1)
            take_states(o, rows + s * a->row, o->last + row * o->channels * o->order);
    }
}

static void run_tile(const tile *a, const buffers *b) {
    const states_arguments *o = a->o;
    int64_t size = a->sequences * a->row;
    memset(b->rows, 0, size * sizeof(real));
    if (o->chunks == 1) encode(&o->encoder, &b->encoder, a->first * o->length, a->sequences * o->length);
    for (int64_t t = 0; t < o->chunk; t += a->block) {
        int64_t steps = o->chunk - t < a->block ? o->chunk - t : a->block;
        if (is_direct(o))
            respond(a, t, steps, b->rows + size, b->response);
        else
            run_states(a, t, steps, b->rows, b->u);
        if (o->rows) read_features(a, t, steps, b->rows + size);
        write_outputs(a, t, steps, b->rows + size, b->z, b->W);
        memcpy(b->rows, b->rows + steps * size, size * sizeof(real));
    }
    if (o->last) write_last(a, b->rows);
}

LMU_EXPORT int NAME(states)(const void *arguments, int64_t part, int64_t parts) {
    const states_arguments *o = arguments;
    tile a = tile_at(o, 0);
    int64_t width = output_length(o), rows = a.block * a.sequences;
    buffers b = {zeros(o->rows ? a.row * width : 0), zeros((rows + a.sequences) * a.row),
                 zeros(rows * width), zeros(rows * o->groups * o->inputs),
                 zeros(response_size(o)), {0}};
    int status = b.W && b.rows && b.z && b.u && b.response ? 0 : LMU_NO_MEMORY;
    if (!status) status = encoder_begin(&o->encoder, &b.encoder, 0);
    if (!status) {
        if (o->rows) pack_weights(o, b.W);
        int64_t tiles = tiles_of(o), end = share(tiles, part + 1, parts);
        for (int64_t i = share(tiles, part, parts); i < end; i++) {
            a = tile_at(o, i);
            run_tile(&a, &b);
        }
    }
    free(b.W);
    free(b.rows);
    free(b.z);
    free(b.u);
    free(b.response);
    encoder_end(&b.encoder);
    return status;
}
