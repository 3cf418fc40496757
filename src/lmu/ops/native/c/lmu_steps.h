/* The nonlinear LMU step by step: what forward and backward share.
 *
 *   u_t = e_z [h_{t-1}; x_t] + e_m m_{t-1}
 *   m_t = m_{t-1} + E m_{t-1} + B u_t
 *   h_t = f(W_z [h_{t-1}; x_t] + W_m m_t)
 *
 * Memories are `blocks` systems of `order` states. Either each channel has its own, or there is a
 * single one, which all channels feed. In buffers each block, and [h; x], takes whole vectors.
 */
#ifndef LMU_STEPS_H
#define LMU_STEPS_H

#include "activations.h"
#include "gemm.h"
#include "lmu.h"

typedef struct {
    int64_t batch, steps, inputs, hidden, channels, blocks, order, activation;
} lmu_sizes;

/* Contiguous: e_x (channels, inputs), e_h (channels, hidden), e_m (channels, blocks * order),
 * W_x (hidden, inputs), W_h (hidden, hidden), W_m (hidden, blocks * order), E (blocks, order,
 * order), B (channels, order). */
typedef struct {
    const real *e_x, *e_h, *e_m, *W_x, *W_h, *W_m, *E, *B;
} lmu_weights;

/* Widths of rows in buffers. */
typedef struct {
    int64_t h, z, block, m; /* of h, of [h; x], of a block, and of all of them */
} lmu_widths;

enum { LMU_STRETCH = 64 }; /* steps whose increments add up before they go to float64 */

INLINE lmu_widths lmu_widths_of(const lmu_sizes *o) {
    int64_t block = padded(o->order);
    lmu_widths w = {padded(o->hidden), padded(o->hidden + o->inputs), block, block * o->blocks};
    return w;
}

/* The block that a channel feeds. */
INLINE int64_t block_of(const lmu_sizes *o, int64_t channel) { return o->blocks == 1 ? 0 : channel; }

/* The sum of products of two rows of whole vectors. */
INLINE real row_dot(const real *a, const real *b, int64_t n) {
    vec sum[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[j] += load(a + i + j * LANES) * load(b + i + j * LANES);
    for (; i < n; i += LANES) sum[0] += load(a + i) * load(b + i);
    vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    real total = 0;
    for (int j = 0; j < LANES; j++) total += all[j];
    return total;
}

/* y += factor x, for rows of whole vectors. */
INLINE void add_multiple(real *y, real factor, const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store(y + i, load(y + i) + fill(factor) * load(x + i));
}

/* Rows of `size` numbers, which lie `from_row` apart, to rows that lie `to_row` apart. */
INLINE void copy_rows(int64_t rows, int64_t size, const real *from, int64_t from_row, real *to,
                      int64_t to_row) {
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * to_row, from + i * from_row, (size_t)size * sizeof(real));
}

/* Rows of all blocks without padding to rows with it, and back. */
INLINE void spread(const lmu_sizes *o, int64_t rows, const real *from, int64_t from_row, real *to,
                   int64_t to_row) {
    int64_t width = padded(o->order);
    for (int64_t i = 0; i < o->blocks; i++)
        copy_rows(rows, o->order, from + i * o->order, from_row, to + i * width, to_row);
}

INLINE void gather(const lmu_sizes *o, int64_t rows, const real *from, int64_t from_row, real *to,
                   int64_t to_row) {
    int64_t width = padded(o->order);
    for (int64_t i = 0; i < o->blocks; i++)
        copy_rows(rows, o->order, from + i * width, from_row, to + i * o->order, to_row);
}

/* The transpose of a (rows, columns), tile by tile so that both stay in the cache. */
static void pack_transposed(int64_t rows, int64_t columns, const real *a, int64_t a_row,
                            real *packed, int64_t packed_row) {
    enum { TILE = 16 };
    for (int64_t i = 0; i < columns; i += TILE)
        for (int64_t j = 0; j < rows; j += TILE)
            for (int64_t p = i; p < i + TILE && p < columns; p++)
                for (int64_t q = j; q < j + TILE && q < rows; q++)
                    packed[p * packed_row + q] = a[q * a_row + p];
}

/* A memory, or a gradient of one, whose increments add up in `delta` and then in float64. */
typedef struct {
    double *total; /* (rows, blocks * order), of the caller */
    real *base, *delta, *now;
} lmu_sum;

/* total += delta, of which base and now become the narrow copy. */
static void lmu_fold(const lmu_sizes *o, int64_t rows, lmu_sum *s) {
    int64_t width = padded(o->order), states = o->blocks * o->order;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < o->blocks; i++) {
            double *total = s->total + r * states + i * o->order;
            int64_t at = (r * o->blocks + i) * width;
            for (int64_t j = 0; j < o->order; j++) {
                total[j] += s->delta[at + j];
                s->delta[at + j] = 0;
                s->now[at + j] = s->base[at + j] = (real)total[j];
            }
        }
}

INLINE void lmu_add_up(lmu_sum *s, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store(s->now + i, load(s->base + i) + load(s->delta + i));
}

#endif
