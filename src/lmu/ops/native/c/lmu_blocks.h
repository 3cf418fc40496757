/* The nonlinear LMU in blocks of time, see lmu/ops/lmu/blocks.py: what both passes share.
 *
 * A block state is [h_s | u_s u_{s-1} ... | 0]; `width` is a multiple of 16. A block has `length`
 * steps, the last one of a sequence may have fewer.
 */
#ifndef LMU_BLOCKS_H
#define LMU_BLOCKS_H

#include "lmu_steps.h"

typedef struct {
    int64_t batch, steps, inputs, hidden, channels, states, activation, length, width;
} block_sizes;

INLINE int64_t blocks_of(const block_sizes *o) { return (o->steps + o->length - 1) / o->length; }

/* Rows of the batch at once: their block and the powers of the memory share the cache. */
enum { BLOCK_ROWS = 32 };

/* n rounded up to 16: the length of rows that Python makes, the same for all instructions. */
INLINE int64_t whole(int64_t n) { return (n + 15) / 16 * 16; }

/* total += delta of memories (rows, whole(states)), of which base and now become the copy. */
static void fold_rows(int64_t rows, int64_t states, lmu_sum *s) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < states; i++) {
            int64_t at = r * whole(states) + i;
            double total = s->total[r * states + i] += s->delta[at];
            s->delta[at] = 0;
            s->now[at] = s->base[at] = (real)total;
        }
}

enum { FOLD = 8 }; /* blocks whose increments add up before they go to float64 */

#endif
