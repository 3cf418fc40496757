/* Arguments of the kernels of memory states and their read-out; see ops/native/states.py.
 *
 * Time is cut into chunks of equal length, of which only the first may be shorter. States within a
 * chunk follow from the one before it, so that chunks are sequences like those of the batch: one of
 * `batch * chunks`.
 */
#ifndef LMU_STATES_H
#define LMU_STATES_H

#include "encoder.h"
#include "memory.h"
#include "multiply.h"

typedef struct {
    int64_t batch, length, channels, order;
    int64_t chunk, chunks;    /* steps of a chunk, and their number */
    int64_t tile;             /* sequences that are advanced together */
    int64_t features, rows;   /* of the input and the hidden units; rows = 0 for the memory alone */
    int64_t activation;
    int64_t groups, inputs, width, padded, own;
    int64_t W_m_row, W_x_row; /* numbers from a row of these weights to the next */
    int64_t dW_row;           /* likewise of their gradients */
    int64_t finished;         /* parts of the backward pass */
    const real *E_T, *E, *B;  /* as of memory_dynamics */
    const real *u;            /* (batch, length, channels) */
    const real *x;            /* (batch, length, features) */
    const real *starts;       /* states before the chunks (batch, chunks, channels, order), or NULL */
    const real *W_m, *W_x, *bias; /* (rows, channels * order), (rows, features), (rows) */
    real *y;                  /* (batch, length, rows), or all states (.., channels, order) */
    real *last;               /* states after the last step (batch, channels, order), or NULL */
    /* Backward. */
    const real *dy;           /* as y */
    const real *ends;         /* gradients of states after chunks, likewise as starts, or NULL */
    const real *dlast;        /* gradients of `last`, or NULL */
    real *du, *dx;            /* as u and x, or NULL for dx */
    real *dstarts;            /* gradients of states before chunks, as starts */
    real *dW_m, *dW_x, *dbias; /* as the weights, or NULL */
    real *sums;               /* of these, of each part, (parts, row_length(), output_length()) */
    double *dE, *dB;          /* of each part, (parts, channels or 1, order, order or 1), or NULL */
    /* The impulse response of the chunk, backward in time, (channels or 1, chunk, padded) and
     * (channels or 1, order, wide(chunk)); NULL where the memory is advanced step by step. */
    const real *H, *H_T;
    encoder encoder;          /* where there is one chunk, and so no scan, it runs here */
} states_arguments;

/* A row of z, its gradient and the weights. */
INLINE int64_t output_length(const states_arguments *o) { return apart(wide(o->rows)); }

/* A row of a tile: the states of all groups, the input, and a one for the bias. */
INLINE int64_t row_length(const states_arguments *o) {
    int64_t states = o->groups * o->padded;
    return o->rows ? apart(wide(states + o->features + 1)) : states;
}

INLINE memory_dynamics dynamics_of(const states_arguments *o) {
    return (memory_dynamics){o->groups, o->inputs, o->width, o->padded,
                             o->own,    o->E_T,    o->E,     o->B};
}

/* Whether states are sums of responses to inputs: a short sequence that starts from zero. */
INLINE int is_direct(const states_arguments *o) { return o->H && !o->starts; }

/* Where channel c lies in a row. */
INLINE int64_t place_of(const states_arguments *o, int64_t c) {
    return c / o->inputs * o->padded + c % o->inputs * o->order;
}

/* The step of the whole sequence at which chunk number `chunk` begins; negative for a short one. */
INLINE int64_t begin_of(const states_arguments *o, int64_t chunk) {
    return o->length - (o->chunks - chunk) * o->chunk;
}

/* States of all channels from a row, and into one. */
INLINE void take_states(const states_arguments *o, const real *row, real *states) {
    for (int64_t c = 0; c < o->channels; c++)
        copy(states + c * o->order, row + place_of(o, c), o->order);
}

INLINE void put_states(const states_arguments *o, const real *states, real *row) {
    for (int64_t c = 0; c < o->channels; c++)
        copy(row + place_of(o, c), states + c * o->order, o->order);
}

#endif
