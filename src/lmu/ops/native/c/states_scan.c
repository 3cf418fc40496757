/* From chunk to chunk: states before each, and gradients of the states after each; see states.h.
 *
 * With the response H to an input and E = Ad^L - I of chunks of L steps,
 *   m_{j+1} = m_j + E m_j + sum_s H[L-1-s] u_{jL+s},  g_j = d_j + g_{j+1} + E^T g_{j+1},
 * where d_j is what the chunk itself says of the state before it. The states are float64, so that
 * rounding does not add up over a long sequence.
 */
#include "states.h"

typedef struct {
    int64_t batch, length, channels, order;
    int64_t chunk, chunks, own;
    int64_t finished;    /* parts of the backward pass */
    const real *H;       /* (channels or 1, chunk, wide order) backward in time, or with ends ... */
    const real *H_T;     /* ... (channels or 1, order, wide chunk) */
    const double *E_T, *E; /* (channels or 1, order, wide order) */
    const real *u;       /* (batch, length, channels) */
    const real *m_0;     /* (batch, channels, order), or NULL */
    const double *free;  /* what is left of m_0 after the first chunk, likewise, or NULL */
    real *starts;        /* (batch, chunks, channels, order) */
    double *last;        /* (batch, channels, order), or NULL */
    const real *dstarts; /* as starts */
    real *ends;          /* gradients of the states after chunks but the last, or NULL */
    real *du;            /* as u: the response to these is added; or NULL */
    double *first;       /* gradient of the state after the first chunk (batch, channels, order) */
    encoder encoder;
} scan_arguments;

enum { SEQUENCES = 8 }; /* of the batch at once: the rows of a product */

typedef struct {
    const scan_arguments *o;
    int64_t first, sequences, width; /* of the batch, and the wide order */
    double *total, *after;           /* (sequences, channels, width) */
    real *rounded, *increment;
} scan;

enum { DOUBLES = VECTOR_BYTES / sizeof(double) };
typedef double doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef double loose_doubles
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(double)), may_alias));

/* Some rows and vectors of total + total E. */
INLINE void carry_tile(const int rows, const int vectors, int64_t order, int64_t width,
                       int64_t row, const double *total, const double *E, int64_t column,
                       double *after) {
    doubles sum[4][2];
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = (doubles){0};
    for (int64_t p = 0; p < order; p++, E += width)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            doubles of_E = *(const loose_doubles *)(E + column + j * DOUBLES);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++) sum[i][j] += total[i * row + p] * of_E;
        }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            int64_t at = i * row + column + j * DOUBLES;
            *(loose_doubles *)(after + at) = *(const loose_doubles *)(total + at) + sum[i][j];
        }
}

INLINE void carry_rows(const int rows, int64_t order, int64_t width, int64_t row,
                       const double *total, const double *E, double *after) {
    int64_t j = 0;
    for (; j + 2 * DOUBLES <= width; j += 2 * DOUBLES)
        carry_tile(rows, 2, order, width, row, total, E, j, after);
    for (; j < width; j += DOUBLES)
        carry_tile(rows, 1, order, width, row, total, E, j, after);
}

/* after = total + total E of all rows, by vectors of float64: what is lost here adds up. */
static void carry_over(scan *a, const double *E) {
    const scan_arguments *o = a->o;
    int64_t width = a->width, d = o->order, rows = a->sequences * o->channels;
    int64_t row = o->own ? o->channels * width : width;
    for (int64_t c = 0; c < (o->own ? o->channels : 1); c++, E += d * width) {
        const double *total = a->total + c * width;
        double *after = a->after + c * width;
        for (int64_t i = 0, n = o->own ? a->sequences : rows; i < n;) {
            int64_t some = n - i < 4 ? 1 : 4;
            if (some == 4)
                carry_rows(4, d, width, row, total + i * row, E, after + i * row);
            else
                carry_rows(1, d, width, row, total + i * row, E, after + i * row);
            i += some;
        }
    }
    double *before = a->total;
    a->total = a->after;
    a->after = before;
}

/* What the inputs of chunk j leave behind, into the increment (sequences, channels, width). */
static void respond(const scan *a, int64_t j) {
    const scan_arguments *o = a->o;
    int64_t begin = o->length - (o->chunks - j) * o->chunk, skip = begin < 0 ? -begin : 0;
    for (int64_t c = 0; c < o->channels; c++) {
        const real *u = o->u + (a->first * o->length + begin + skip) * o->channels + c;
        const real *H = o->H + ((o->own ? c : 0) * o->chunk + skip) * a->width;
        gemm(a->sequences, a->width, o->chunk - skip, u, o->length * o->channels, o->channels, H,
             a->width, a->increment + c * a->width, o->channels * a->width, 0);
    }
}

static void scan_states(scan *a) {
    const scan_arguments *o = a->o;
    int64_t d = o->order, rows = a->sequences * o->channels, states = o->channels * d;
    int64_t chunks = o->last ? o->chunks : o->chunks - 1;
    const double *from = o->free ? o->free + a->first * states : NULL;
    for (int64_t s = 0; s < a->sequences; s++) {
        real *start = o->starts + (a->first + s) * o->chunks * states;
        if (o->m_0)
            memcpy(start, o->m_0 + (a->first + s) * states, states * sizeof(real));
        else
            memset(start, 0, states * sizeof(real));
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < a->width; i++)
            a->total[r * a->width + i] = from && i < d ? from[r * d + i] : 0;
    for (int64_t j = 0; j < chunks; j++) {
        if (j) carry_over(a, o->E_T);
        respond(a, j);
        for (int64_t i = 0; i < rows * a->width; i++) a->total[i] += a->increment[i];
        for (int64_t r = 0; j + 1 < o->chunks && r < rows; r++) {
            int64_t s = r / o->channels, c = r % o->channels;
            real *to = o->starts + ((a->first + s) * o->chunks + j + 1) * states + c * d;
            for (int64_t i = 0; i < d; i++) to[i] = (real)a->total[r * a->width + i];
        }
    }
    for (int64_t r = 0; o->last && r < rows; r++)
        for (int64_t i = 0; i < d; i++)
            o->last[(a->first * o->channels + r) * d + i] = a->total[r * a->width + i];
}

/* The gradients of inputs of chunk j by that of the state after it; response (rows, chunk). */
static void respond_backward(const scan *a, int64_t j, real *response) {
    const scan_arguments *o = a->o;
    int64_t begin = o->length - (o->chunks - j) * o->chunk, skip = begin < 0 ? -begin : 0;
    int64_t width = wide(o->chunk), row = o->channels * a->width, to_row = o->channels * width;
    for (int64_t c = 0; c < o->channels; c++)
        gemm(a->sequences, width, o->order, a->rounded + c * a->width, row, 1,
             o->H_T + (o->own ? c : 0) * o->order * width, width, response + c * width, to_row, 0);
    for (int64_t s = 0; s < a->sequences; s++)
        for (int64_t t = skip; t < o->chunk; t++)
            for (int64_t c = 0; c < o->channels; c++)
                o->du[((a->first + s) * o->length + begin + t) * o->channels + c] +=
                    response[s * to_row + c * width + t];
}

static void scan_gradients(scan *a, real *response) {
    const scan_arguments *o = a->o;
    int64_t d = o->order, rows = a->sequences * o->channels, states = o->channels * d;
    memset(a->total, 0, rows * a->width * sizeof(double));
    for (int64_t j = o->chunks - 1; j > 0; j--) {
        if (j < o->chunks - 1) carry_over(a, o->E);
        for (int64_t r = 0; r < rows; r++) {
            int64_t s = r / o->channels, c = r % o->channels;
            int64_t at = ((a->first + s) * o->chunks + j) * states + c * d;
            for (int64_t i = 0; i < d; i++) {
                double *total = a->total + r * a->width + i;
                *total += o->dstarts[at + i];
                a->rounded[r * a->width + i] = (real)*total;
                if (o->ends) o->ends[at - states + i] = (real)*total;
            }
        }
        if (o->du) respond_backward(a, j - 1, response);
    }
    for (int64_t r = 0; o->first && r < rows; r++)
        for (int64_t i = 0; i < d; i++)
            o->first[(a->first * o->channels + r) * d + i] = a->total[r * a->width + i];
}

static int run(const scan_arguments *o, int64_t part, int64_t parts, int backward) {
    int64_t width = wide(o->order), rows = SEQUENCES * o->channels;
    scan a = {.o = o, .width = width};
    int64_t doubles = rows * width * (int64_t)(sizeof(double) / sizeof(real));
    double *first = a.total = (double *)zeros(doubles), *second = a.after = (double *)zeros(doubles);
    a.rounded = zeros(rows * width);
    a.increment = zeros(rows * width);
    real *response = zeros(backward ? rows * wide(o->chunk) : 0);
    int status = a.total && a.after && a.rounded && a.increment && response ? 0 : LMU_NO_MEMORY;
    int64_t end = share(o->batch, part + 1, parts);
    encoder_buffers b = {0};
    if (!status) status = encoder_begin(&o->encoder, &b, backward);
    if (!status && backward) encoder_clear(&o->encoder, part);
    for (a.first = share(o->batch, part, parts); !status && a.first < end; a.first += a.sequences) {
        a.sequences = end - a.first < SEQUENCES ? end - a.first : SEQUENCES;
        int64_t step = a.first * o->length, steps = a.sequences * o->length;
        if (backward) {
            scan_gradients(&a, response);
            if (o->encoder.W) encode_backward(&o->encoder, &b, part, o->du, step, steps);
        } else {
            encode(&o->encoder, &b, step, steps);
            scan_states(&a);
        }
    }
    if (!status && backward && is_last((int64_t *)&o->finished, parts))
        encoder_finish(&o->encoder, parts);
    encoder_end(&b);
    free(first);
    free(second);
    free(a.rounded);
    free(a.increment);
    free(response);
    return status;
}

LMU_EXPORT int NAME(states_scan)(const void *arguments, int64_t part, int64_t parts) {
    return run(arguments, part, parts, 0);
}

LMU_EXPORT int NAME(states_scan_backward)(const void *arguments, int64_t part, int64_t parts) {
    return run(arguments, part, parts, 1);
}
