/* One time step of an LMU, in blocks of `length` steps; see ops/native/block_steps.py.
 *
 * With z = [a | u], the argument of the activation and the memory's input, m the memory before the
 * block, and "past" and "now" the inputs of the block before and of this one, newest first:
 *   z_s = N [h | x 1] + V Ad^s m + sum_i K_i now_i        K_i = V Ad^i Bd
 * An LMU without feedback, `open`, has u from x alone: u comes first, and z is a alone.
 * What m adds is prepared during the block before, from the memory then: that takes as long as all
 * else, and is spread over the steps. `past` is added to GROUP steps at once.
 */
#include "activations.h"
#include "gemm.h"
#include "lmu.h"

typedef struct {
    const real *x;        /* (streams, inputs) */
    real *out;            /* (streams, hidden) */
    real *read;           /* (streams, read_row): [h | x 1] */
    double *memory;       /* (streams, order): before the block */
    real *start;          /* (streams, order_row): the same */
    real *powers;         /* (streams, length / stride, order_row): Ad^(length + i stride) m */
    real *change;         /* (streams, order_row): Ad^length m - m */
    real *bases;          /* (2, streams, length, width): those of this block and of the next */
    real *past;           /* (streams, GROUP + length + GROUP, channels), zero at both ends */
    real *now;            /* (streams, length, channels), filled from its end */
    const real *N;        /* (hidden + inputs + 1, width); open: (inputs + 1, width) */
    const real *K;        /* (2 length, channels, width) */
    const real *H;        /* (length, channels, order_row): Ad^i Bd */
    const real *doubling; /* (stages, order, order_row): Ad^p - I, p = length, stride, 2 stride ... */
    const real *reading;  /* (stride, order, width): V Ad^i */
    const real *encoder;  /* open: (channels, inputs + 1); NULL: u is x */
    int64_t streams, at, turn, warm; /* warm: the memory has been advanced by its own steps */
    int64_t length, stride, stages, width, read_row, order_row;
    int64_t hidden, channels, order, inputs, open, encoder_activation, activation;
} arguments_of_blocks;

enum { GROUP = 8, WIDE = 8, TILE = 3 }; /* steps; vectors of a piece of one row, and of several */

/* A product of vectors `from` to `to` of the columns. */
static void columns(int64_t m, int64_t k, int64_t from, int64_t to, const real *a, int64_t a_row,
                    const real *b, int64_t b_row, real *c, int64_t c_row) {
    gemm(m, (to - from) * LANES, k, a, a_row, 1, b + from * LANES, b_row, c + from * LANES, c_row,
         0);
}

static void add_to(const real *a, int64_t from, int64_t to, real *c) {
    for (int64_t j = from; j < to; j++) store(c + j * LANES, load(c + j * LANES) + load(a + j * LANES));
}

/* Ad^length m - m of some streams. */
static void first_power(const arguments_of_blocks *o, int64_t first, int64_t rows, int64_t from,
                        int64_t to) {
    int64_t w = o->order_row, number = o->length / o->stride;
    real *start = o->start + first * w, *change = o->change + first * w;
    columns(rows, o->order, from, to, start, w, o->doubling, w, change, w);
    for (int64_t i = 0; i < rows; i++) {
        real *power = o->powers + (first + i) * number * w;
        memcpy(power + from * LANES, change + i * w + from * LANES,
               (size_t)((to - from) * LANES) * sizeof(real));
        add_to(start + i * w, from, to, power);
    }
}

/* From `known` powers as many more. */
static void more_powers(const arguments_of_blocks *o, int64_t first, int64_t rows, int64_t stage,
                        int64_t from, int64_t to) {
    int64_t w = o->order_row, number = o->length / o->stride, known = 1 << (stage - 1);
    const real *D = o->doubling + stage * o->order * w;
    real *powers = o->powers + first * number * w;
    if (rows > known)
        for (int64_t i = 0; i < known; i++)
            columns(rows, o->order, from, to, powers + i * w, number * w, D, w,
                    powers + (known + i) * w, number * w);
    else
        for (int64_t i = 0; i < rows; i++)
            columns(known, o->order, from, to, powers + i * number * w, w, D, w,
                    powers + (i * number + known) * w, w);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t p = 0; p < known; p++)
            add_to(powers + (i * number + p) * w, from, to, powers + (i * number + known + p) * w);
}

/* What the memory adds to steps `phase`, phase + stride, ... of the next block. */
static void read_powers(const arguments_of_blocks *o, int64_t first, int64_t rows, int64_t phase,
                        int64_t from, int64_t to) {
    int64_t w = o->order_row, number = o->length / o->stride, block = o->length * o->width;
    const real *powers = o->powers + first * number * w;
    const real *reading = o->reading + phase * o->order * o->width;
    real *next = o->bases + ((1 - o->turn) * o->streams + first) * block + phase * o->width;
    if (rows > number)
        for (int64_t i = 0; i < number; i++)
            columns(rows, o->order, from, to, powers + i * w, number * w, reading, o->width,
                    next + i * o->stride * o->width, block);
    else
        for (int64_t i = 0; i < rows; i++)
            columns(number, o->order, from, to, powers + i * number * w, w, reading, o->width,
                    next + i * block, o->stride * o->width);
}

/* The share of step `at` in the preparation of the next block. A piece is some columns of one of
 * its products; products of several rows take longer, for which they count twice. */
static void prepare(const arguments_of_blocks *o, int64_t first, int64_t rows) {
    int64_t of_order = o->order_row / LANES, of_read = o->width / LANES;
    int64_t total = o->stages * of_order + 2 * o->stride * of_read;
    int64_t turns = o->length - o->length / GROUP, turn = o->at - o->at / GROUP - 1;
    int64_t begin = total * turn / turns, end = total * (turn + 1) / turns, at = 0;
    for (int64_t stage = 0; stage < o->stages + o->stride; stage++) {
        int reads = stage >= o->stages;
        int64_t piece = reads ? TILE : WIDE, all = reads ? of_read : of_order;
        for (int64_t from = 0; from < all; from += piece) {
            int64_t to = from + piece < all ? from + piece : all;
            if (at >= begin && at < end) {
                if (reads)
                    read_powers(o, first, rows, stage - o->stages, from, to);
                else if (stage)
                    more_powers(o, first, rows, stage, from, to);
                else
                    first_power(o, first, rows, from, to);
            }
            at += (to - from) * (reads ? 2 : 1);
        }
    }
}

/* The memory after the block that ends here, and its inputs. */
static void begin_block(const arguments_of_blocks *o, int64_t first, int64_t rows) {
    int64_t d = o->order, w = o->order_row, inputs = o->length * o->channels;
    if (!o->warm)
        gemm(rows, w, inputs, o->now + first * inputs, inputs, 1, o->H, w, o->change + first * w, w,
             1);
    for (int64_t i = first; i < first + rows; i++) {
        double *m = o->memory + i * d;
        const real *change = o->change + i * w;
        for (int64_t j = 0; j < d; j++) {
            if (!o->warm) m[j] += (double)change[j];
            o->start[i * w + j] = (real)m[j];
        }
        memcpy(o->past + i * (inputs + 2 * GROUP * o->channels) + GROUP * o->channels,
               o->now + i * inputs, (size_t)inputs * sizeof(real));
    }
}

/* Adds what the inputs of the block before add to GROUP steps: row r of them reads `past` from r
 * places before, where it is zero. */
static void add_past(const arguments_of_blocks *o, int64_t first, int64_t rows) {
    int64_t c = o->channels, all = o->length + 2 * GROUP, block = o->length * o->width;
    for (int64_t i = first; i < first + rows; i++)
        gemm(GROUP, o->width, (o->length + GROUP - 1) * c, o->past + (i * all + GROUP) * c, -c, 1,
             o->K + (o->at + o->open) * c * o->width, o->width,
             o->bases + (o->turn * o->streams + i) * block + o->at * o->width, o->width, 1);
}

/* The memory's inputs, of one stream without feedback. */
static void encode(const arguments_of_blocks *o, const real *x, real *u) {
    int64_t k = o->inputs + 1;
    for (int64_t i = 0; i < o->channels; i++) {
        real sum = o->encoder ? 0 : x[i];
        for (int64_t j = 0; o->encoder && j < k; j++) sum += o->encoder[i * k + j] * x[j];
        u[i] = sum;
    }
    for (int64_t i = 0; i < o->channels; i += LANES) {
        real some[LANES] = {0};
        size_t size = (size_t)(o->channels - i < LANES ? o->channels - i : LANES) * sizeof(real);
        memcpy(some, u + i, size);
        activate((int)o->encoder_activation, some, LANES);
        memcpy(u + i, some, size);
    }
}

LMU_EXPORT int NAME(step_blocks)(const void *arguments, int64_t part, int64_t parts) {
    const arguments_of_blocks *o = arguments;
    int64_t first = share(o->streams, part, parts);
    int64_t rows = share(o->streams, part + 1, parts) - first;
    int64_t n = o->hidden, c = o->channels, w = o->width, k = o->inputs, row = o->read_row;
    int64_t inputs = o->length * c, place = (o->length - o->at) * c;
    if (!o->at) begin_block(o, first, rows);
    if (o->at % GROUP)
        prepare(o, first, rows);
    else if (o->out)
        add_past(o, first, rows);
    if (!o->out) return 0; /* the first block is only prepared for */
    for (int64_t i = first; i < first + rows; i++) {
        memcpy(o->read + i * row + n, o->x + i * k, (size_t)k * sizeof(real));
        if (o->open) encode(o, o->read + i * row + n, o->now + i * inputs + place - c);
    }
    int64_t skipped = o->open ? n : 0, known = (o->at + o->open) * c;
    real *z = o->bases + (o->turn * o->streams + first) * o->length * w + o->at * w;
    gemm(rows, w, n + k + 1 - skipped, o->read + first * row + skipped, row, 1, o->N, w, z,
         o->length * w, 1);
    gemm(rows, w, known, o->now + (first + 1) * inputs - o->at * c - o->open * c, inputs, 1, o->K, w,
         z, o->length * w, 1);
    for (int64_t i = first; i < first + rows; i++, z += o->length * w) {
        if (!o->open) memcpy(o->now + i * inputs + place - c, z + n, (size_t)c * sizeof(real));
        activate((int)o->activation, z, n);
        memcpy(o->read + i * row, z, (size_t)n * sizeof(real));
        memcpy(o->out + i * n, z, (size_t)n * sizeof(real));
    }
    return 0;
}
