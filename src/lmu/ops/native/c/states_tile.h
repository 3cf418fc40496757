/* A tile: some sequences, through the steps of a chunk. Its rows are (steps, sequences, row). */
#ifndef LMU_STATES_TILE_H
#define LMU_STATES_TILE_H

#include "multiply.h"
#include "states.h"

enum {
    BLOCK_ROWS = 128, /* rows of products, so many that weights are read for many of them */
    LARGEST_TILE = 16
};

typedef struct {
    const states_arguments *o;
    memory_dynamics memory;
    int64_t first, sequences; /* of batch * chunks */
    int64_t row, states;      /* numbers of a row, and those of its states */
    int64_t block;            /* steps of a block */
    /* Of each sequence, the step of the batch where its chunk begins, and the first of its steps
     * that there is: a short chunk begins late. */
    int64_t begin[LARGEST_TILE], lead[LARGEST_TILE];
} tile;

/* The tiles of all sequences, of which a part takes a share. */
INLINE int64_t tiles_of(const states_arguments *o) {
    return (o->batch * o->chunks + o->tile - 1) / o->tile;
}

static tile tile_at(const states_arguments *o, int64_t index) {
    tile t = {.o = o, .memory = dynamics_of(o), .first = index * o->tile, .row = row_length(o)};
    int64_t rest = o->batch * o->chunks - t.first;
    t.sequences = rest < o->tile ? rest : o->tile;
    t.states = o->groups * o->padded;
    t.block = BLOCK_ROWS / o->tile;
    if (t.block > o->chunk) t.block = o->chunk;
    if (t.block < 1) t.block = 1;
    for (int64_t s = 0; s < t.sequences; s++) {
        int64_t row = (t.first + s) / o->chunks, begin = begin_of(o, (t.first + s) % o->chunks);
        t.begin[s] = row * o->length + begin;
        t.lead[s] = begin < 0 ? -begin : 0;
    }
    return t;
}

/* The step of the batch (batch * length) of a tile's sequence s at step t; -1 if it is none. */
INLINE int64_t step_of(const tile *a, int64_t s, int64_t t) {
    return t < a->lead[s] ? -1 : a->begin[s] + t;
}

/* Inputs of some steps from t on (steps, sequences, groups * inputs); zero where there are none. */
static void read_inputs(const tile *a, int64_t t, int64_t steps, real *u) {
    const states_arguments *o = a->o;
    int64_t size = o->groups * o->inputs;
    for (int64_t i = 0; i < steps; i++)
        for (int64_t s = 0; s < a->sequences; s++, u += size) {
            int64_t step = step_of(a, s, t + i);
            int64_t known = step < 0 ? 0 : o->channels;
            copy(u, o->u + (step < 0 ? 0 : step * o->channels), known);
            for (int64_t c = known; c < size; c++) u[c] = 0;
        }
}

/* The input and a one behind the states of rows of some steps from t on. */
static void read_features(const tile *a, int64_t t, int64_t steps, real *rows) {
    const states_arguments *o = a->o;
    for (int64_t i = 0; i < steps; i++)
        for (int64_t s = 0; s < a->sequences; s++, rows += a->row) {
            int64_t step = step_of(a, s, t + i);
            if (step >= 0) copy(rows + a->states, o->x + step * o->features, o->features);
            rows[a->states + o->features] = 1;
        }
}

/* Set the states before step t where a chunk begins there. */
static void start_chunks(const tile *a, int64_t t, real *before) {
    const states_arguments *o = a->o;
    for (int64_t s = 0; s < a->sequences; s++) {
        if (o->starts && t == a->lead[s])
            put_states(o, o->starts + (a->first + s) * o->channels * o->order, before + s * a->row);
    }
}

/* All states of some steps from t on, behind those before them. */
static void run_states(const tile *a, int64_t t, int64_t steps, real *rows, real *u) {
    const states_arguments *o = a->o;
    read_inputs(a, t, steps, u);
    int64_t size = a->sequences * a->row, split = -begin_of(o, 0) - t;
    int64_t u_size = a->sequences * o->groups * o->inputs;
    if (t == 0) start_chunks(a, 0, rows);
    if (split > 0 && split < steps) { /* a short chunk begins among them */
        memory_forward(&a->memory, split, a->sequences, a->row, u, rows);
        rows += split * size;
        start_chunks(a, t + split, rows);
        u += split * u_size;
        steps -= split;
    } else if (split == 0 && t > 0) {
        start_chunks(a, t, rows);
    }
    memory_forward(&a->memory, steps, a->sequences, a->row, u, rows);
}

/* W (row_length(), output_length()): the weights of a row's states and input, and the bias. */
static void pack_weights(const states_arguments *o, real *W) {
    int64_t states = o->groups * o->padded, width = output_length(o);
    for (int64_t i = 0; i < o->rows; i++) {
        for (int64_t c = 0; c < o->channels; c++) {
            real *to = W + place_of(o, c) * width + i;
            const real *from = o->W_m + i * o->W_m_row + c * o->order;
            for (int64_t k = 0; k < o->order; k++) to[k * width] = from[k];
        }
        for (int64_t k = 0; k < o->features; k++)
            W[(states + k) * width + i] = o->W_x[i * o->W_x_row + k];
        W[(states + o->features) * width + i] = o->bias[i];
    }
}

/* Its transpose (rows, row_length()), without the bias. */
static void pack_transpose(const states_arguments *o, real *W_T) {
    int64_t states = o->groups * o->padded, row = row_length(o);
    for (int64_t i = 0; i < o->rows; i++, W_T += row) {
        put_states(o, o->W_m + i * o->W_m_row, W_T);
        memcpy(W_T + states, o->W_x + i * o->W_x_row, o->features * sizeof(real));
    }
}

#endif
