/* States of short sequences as sums of responses, m_t = sum_k H_k u_{t-k}, and their gradients.
 *
 * In place of steps by the dense matrix, whose order is then larger than the number of steps. There
 * is one chunk, each group is a channel, and all sequences begin at zero.
 */
#ifndef LMU_STATES_RESPONSE_H
#define LMU_STATES_RESPONSE_H

#include "states_tile.h"

/* Numbers of the buffer of both passes. */
INLINE int64_t response_size(const states_arguments *o) {
    return o->H ? 3 * o->chunk + TILE_ROWS * wide(o->chunk) : 0;
}

/* States of some steps from t on; rows are those of step t. */
static void respond(const tile *a, int64_t t, int64_t steps, real *rows, real *buffer) {
    const states_arguments *o = a->o;
    real *u = buffer + o->chunk; /* behind zeros, which are the inputs before */
    for (int64_t s = 0; s < a->sequences; s++)
        for (int64_t c = 0; c < o->channels; c++) {
            const real *H = o->H + ((o->own ? c : 0) * o->chunk + o->chunk - 1) * o->padded;
            for (int64_t i = 0; i < t + steps; i++)
                u[i] = o->u[(a->begin[s] + i) * o->channels + c];
            for (int64_t i = t; i < t + steps; i += TILE_ROWS) {
                int64_t some = t + steps - i < TILE_ROWS ? t + steps - i : TILE_ROWS;
                gemm(some, o->padded, i + some, u + i, 1, -1, H, -o->padded,
                     rows + ((i - t) * a->sequences + s) * a->row + c * o->padded,
                     a->sequences * a->row, 0);
            }
        }
}

/* Gradients of the inputs from those of all states. */
static void respond_backward(const tile *a, const real *gradients, real *buffer) {
    const states_arguments *o = a->o;
    int64_t width = wide(o->chunk);
    real *du = buffer + o->chunk, *product = buffer + 2 * o->chunk;
    for (int64_t s = 0; s < a->sequences; s++)
        for (int64_t c = 0; c < o->channels; c++) {
            const real *H_T = o->H_T + (o->own ? c : 0) * o->order * width;
            memset(du, 0, (size_t)o->chunk * sizeof(real));
            for (int64_t i = 0; i < o->chunk; i += TILE_ROWS) {
                int64_t some = o->chunk - i < TILE_ROWS ? o->chunk - i : TILE_ROWS;
                gemm(some, padded(o->chunk), o->order,
                     gradients + (i * a->sequences + s) * a->row + c * o->padded,
                     a->sequences * a->row, 1, H_T, width, product, width, 0);
                for (int64_t r = 0; r < some; r++) {
                    const real *late = product + r * width + o->chunk - 1 - (i + r);
                    for (int64_t k = 0; k <= i + r; k++) du[k] += late[k];
                }
            }
            for (int64_t i = 0; i < o->chunk; i++)
                o->du[(a->begin[s] + i) * o->channels + c] = du[i];
        }
}

#endif
