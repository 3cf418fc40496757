/* The last output alone of the layer without feedback: y = f(W [m; x_T; 1]), m = sum_t H[T-1-t] u_t,
 * and its gradients. Rows of the batch never meet; a part takes its own, some at a time.
 */
#include "encoder.h"
#include "multiply.h"

typedef struct {
    int64_t batch, length, channels, order;
    int64_t inputs;              /* features of x */
    int64_t features;            /* of these, those that the hidden units read: all or none */
    int64_t rows, activation;
    int64_t H_channel, H_T_channel, H_T_row; /* numbers to the next channel (or 0), and row */
    int64_t finished;            /* parts of the backward pass */
    const real *H;               /* (length, wide(order)), backward in time */
    const real *H_T;             /* (order, H_T_row), likewise; rows may be read beyond their end */
    const real *W, *bias;        /* (rows, channels * order + features), (rows) */
    const real *x;               /* (batch, length, inputs) */
    real *u;                     /* (batch, length, channels) */
    real *m, *y;                 /* (batch, channels * order), (batch, rows) */
    /* Backward. */
    const real *dy, *dm;         /* as y, and as m or NULL */
    real *dx, *dW, *dbias;       /* as x or NULL, and as the weights */
    real *sums;                  /* of each part, (parts, rows, row_of()) */
    encoder encoder;
} last_arguments;

enum {
    LAST_ROWS = 64, /* of the batch at once */
    FEW = 5
};

/* Columns of W, and a row of what they multiply: states, input and a one. What is written in whole
 * vectors may reach one vector further. */
INLINE int64_t columns_of(const last_arguments *o) { return o->channels * o->order + o->features; }
INLINE int64_t row_of(const last_arguments *o) {
    return apart(wide(columns_of(o) + 1) + 64 / (int64_t)sizeof(real));
}

/* Rows of W from which whole vectors can be read: those of the last rows may end beyond it. */
INLINE int64_t readable(const last_arguments *o) {
    int64_t columns = columns_of(o), over = padded(columns) - columns;
    int64_t last = (over + columns - 1) / columns;
    return o->rows > last ? o->rows - last : 0;
}

/* One channel of some rows of u, for its product with H. */
static const real *channel_of(const last_arguments *o, int64_t first, int64_t rows, int64_t c,
                              real *buffer) {
    const real *u = o->u + first * o->length * o->channels + c;
    if (o->channels == 1) return u;
    for (int64_t i = 0; i < rows * o->length; i++) buffer[i] = u[i * o->channels];
    return buffer;
}

/* [m; x_T; 1] of some rows. A channel's padding is overwritten by the next one. */
static void remember(const last_arguments *o, int64_t first, int64_t rows, real *joined,
                     real *buffer) {
    int64_t row = row_of(o), states = o->channels * o->order;
    for (int64_t c = 0; c < o->channels; c++)
        multiply(rows, padded(o->order), o->length, channel_of(o, first, rows, c, buffer),
                 o->length, 1, o->H + c * o->H_channel, wide(o->order), joined + c * o->order, row,
                 0);
    for (int64_t i = 0; i < rows; i++, joined += row) {
        copy(o->m + (first + i) * states, joined, states);
        copy(joined + states, o->x + ((first + i + 1) * o->length - 1) * o->inputs, o->features);
        joined[states + o->features] = 1;
    }
}

/* The transpose of [W bias], by squares that stay in the cache. */
static void pack_weights(const last_arguments *o, int64_t width, real *W_T) {
    enum { SIDE = 16 };
    int64_t columns = columns_of(o);
    for (int64_t i = 0; i < o->rows; i += SIDE)
        for (int64_t k = 0; k < columns; k += SIDE)
            for (int64_t r = i; r < i + SIDE && r < o->rows; r++)
                for (int64_t j = k; j < k + SIDE && j < columns; j++)
                    W_T[j * width + r] = o->W[r * columns + j];
    copy(W_T + columns * width, o->bias, o->rows);
}

/* z of a few rows, for which a transpose of W would take longer than the products. */
static void read_few(const last_arguments *o, int64_t rows, const real *joined, real *z,
                     int64_t width) {
    int64_t columns = columns_of(o);
    for (int64_t r = 0; r < o->rows; r++)
        for (int64_t i = 0; i < rows; i++)
            z[i * width + r] = o->bias[r] + dot(columns, o->W + r * columns, joined + i * row_of(o));
}

static void free_all(real **buffers, int number) {
    for (int i = 0; i < number; i++) free(buffers[i]);
}

static int any_missing(real **buffers, int number) {
    for (int i = 0; i < number; i++)
        if (!buffers[i]) return 1;
    return 0;
}

/* Numbers of the buffer of a channel's inputs. */
INLINE int64_t channel_size(const last_arguments *o) {
    return o->channels > 1 ? LAST_ROWS * o->length : 0;
}

LMU_EXPORT int NAME(last)(const void *arguments, int64_t part, int64_t parts) {
    const last_arguments *o = arguments;
    int64_t row = row_of(o), width = apart(wide(o->rows)), end = share(o->batch, part + 1, parts);
    enum { W_T, JOINED, Z, CHANNEL, NUMBER };
    int few = end - share(o->batch, part, parts) < FEW;
    real *b[NUMBER] = {zeros(few ? 0 : (columns_of(o) + 1) * width), zeros(LAST_ROWS * row + LANES),
                       zeros(LAST_ROWS * width), zeros(channel_size(o))};
    encoder_buffers e = {0};
    int status = any_missing(b, NUMBER) ? LMU_NO_MEMORY : encoder_begin(&o->encoder, &e, 0);
    if (!status && !few) pack_weights(o, width, b[W_T]);
    for (int64_t i = share(o->batch, part, parts); !status && i < end; i += LAST_ROWS) {
        int64_t rows = end - i < LAST_ROWS ? end - i : LAST_ROWS;
        encode(&o->encoder, &e, i * o->length, rows * o->length);
        remember(o, i, rows, b[JOINED], b[CHANNEL]);
        if (few)
            read_few(o, rows, b[JOINED], b[Z], width);
        else
            multiply(rows, padded(o->rows), columns_of(o) + 1, b[JOINED], row, 1, b[W_T], width,
                     b[Z], width, 0);
        activate((int)o->activation, b[Z], rows * width);
        for (int64_t r = 0; r < rows; r++) copy(o->y + (i + r) * o->rows, b[Z] + r * width, o->rows);
    }
    encoder_end(&e);
    free_all(b, NUMBER);
    return status;
}

enum { JOINED, DZ, Y, DJOINED, DU, DCHANNEL, LAST_W, NUMBER };

/* Gradients of z, of the weights, and of [m; x_T]. */
static void read_out_backward(const last_arguments *o, int64_t first, int64_t rows, real **b,
                              real *sums, int add) {
    int64_t row = row_of(o), width = apart(wide(o->rows)), columns = columns_of(o);
    int64_t states = o->channels * o->order;
    for (int64_t i = 0; i < rows; i++) {
        real *joined = b[JOINED] + i * row;
        copy(b[DZ] + i * width, o->dy + (first + i) * o->rows, o->rows);
        copy(b[Y] + i * width, o->y + (first + i) * o->rows, o->rows);
        copy(joined, o->m + (first + i) * states, states);
        copy(joined + states, o->x + ((first + i + 1) * o->length - 1) * o->inputs, o->features);
        joined[columns] = 1;
    }
    times_slope((int)o->activation, b[DZ], b[Y], rows * width);
    multiply(o->rows, padded(columns + 1), rows, b[DZ], 1, width, b[JOINED], row, sums, row, add);
    int64_t most = readable(o);
    if (most)
        multiply(rows, padded(columns), most, b[DZ], width, 1, o->W, columns, b[DJOINED], row, 0);
    if (most < o->rows)
        multiply(rows, padded(columns), o->rows - most, b[DZ] + most, width, 1, b[LAST_W], row,
                 b[DJOINED], row, most > 0);
    for (int64_t i = 0; o->dm && i < rows; i++)
        for (int64_t k = 0; k < states; k++)
            b[DJOINED][i * row + k] += o->dm[(first + i) * states + k];
}

/* Gradients of u of some rows (rows, length, channels), and of what the encoder reads. */
static void forget_backward(const last_arguments *o, int64_t first, int64_t rows, real **b,
                            const encoder_buffers *e, int64_t part) {
    int64_t row = row_of(o), T = o->length, C = o->channels, width = padded(T);
    for (int64_t c = 0; c < C; c++) {
        multiply(rows, width, o->order, b[DJOINED] + c * o->order, row, 1,
                 o->H_T + c * o->H_T_channel, o->H_T_row, b[DCHANNEL], width, 0);
        for (int64_t i = 0; i < rows; i++)
            if (C == 1)
                copy(b[DU] + i * T, b[DCHANNEL] + i * width, T);
            else
                for (int64_t t = 0; t < T; t++)
                    b[DU][(i * T + t) * C + c] = b[DCHANNEL][i * width + t];
    }
    if (o->dx) {
        memset(o->dx + first * T * o->inputs, 0, rows * T * o->inputs * sizeof(real));
        for (int64_t i = 0; i < rows; i++)
            copy(o->dx + ((first + i + 1) * T - 1) * o->inputs, b[DJOINED] + i * row + C * o->order,
                 o->features);
    }
    encode_backward(&o->encoder, e, part, b[DU] - first * T * C, first * T, rows * T);
}

/* The sums of all parts, in one order whoever is the last. */
static void finish(const last_arguments *o, int64_t parts) {
    int64_t row = row_of(o), columns = columns_of(o), size = o->rows * row;
    for (int64_t p = 1; p < parts; p++)
        for (int64_t i = 0; i < size; i++) o->sums[i] += o->sums[p * size + i];
    for (int64_t i = 0; i < o->rows; i++) {
        copy(o->dW + i * columns, o->sums + i * row, columns);
        o->dbias[i] = o->sums[i * row + columns];
    }
    encoder_finish(&o->encoder, parts);
}

LMU_EXPORT int NAME(last_backward)(const void *arguments, int64_t part, int64_t parts) {
    const last_arguments *o = arguments;
    int64_t row = row_of(o), width = apart(wide(o->rows)), T = o->length;
    int64_t columns = columns_of(o), size = o->rows * row;
    real *b[NUMBER] = {zeros(LAST_ROWS * row), zeros(LAST_ROWS * width), zeros(LAST_ROWS * width),
                       zeros(LAST_ROWS * row), zeros(LAST_ROWS * T * o->channels),
                       zeros(LAST_ROWS * padded(T)), zeros((o->rows - readable(o)) * row)};
    encoder_buffers e = {0};
    int status = any_missing(b, NUMBER) ? LMU_NO_MEMORY : encoder_begin(&o->encoder, &e, 1);
    if (!status) {
        for (int64_t i = readable(o); i < o->rows; i++)
            copy(b[LAST_W] + (i - readable(o)) * row, o->W + i * columns, columns);
        encoder_clear(&o->encoder, part);
    }
    int64_t begin = share(o->batch, part, parts), end = share(o->batch, part + 1, parts);
    for (int64_t i = begin; !status && i < end; i += LAST_ROWS) {
        int64_t rows = end - i < LAST_ROWS ? end - i : LAST_ROWS;
        read_out_backward(o, i, rows, b, o->sums + part * size, i > begin);
        forget_backward(o, i, rows, b, &e, part);
    }
    if (!status && is_last((int64_t *)&o->finished, parts)) finish(o, parts);
    encoder_end(&e);
    free_all(b, NUMBER);
    return status;
}
