/* The read-out of a linear memory at all steps, and its gradients, in the frequency domain. */
#include "fft_arguments.h"
#include "pages.h"

/* Bytes of a block of some sequences that is transformed and multiplied while it is in the cache. */
enum { BLOCK_BYTES = 24576, TOGETHER = 4 };

/* A group of rows of some sequences. */
typedef struct {
    const fft_arguments *a;
    const fft_plan *plan;
    int count;             /* of sequences */
    int replace;           /* sums over sequences, and sums over groups, begin here */
    int replace_dU;
    const real *U, *KF;    /* of the sequences, and of the group */
    real *dU, *dKF;
    const real *W;         /* packed weights, or NULL */
    real *work[TOGETHER];  /* (n, 2, lanes) of each sequence */
    real *z;               /* (length, lanes), where arguments of an activation are needed again */
} batch_of_rows;

/* S = sum_q U_q K_q at frequencies [first, first + number). */
INLINE void multiply_some(const int count, const batch_of_rows *o, int64_t first, int64_t number) {
    int64_t Q = o->a->signals, row = o->a->n * Q * 2;
    for (int64_t f = first; f < first + number; f++) {
        vec re[TOGETHER] = {{0}}, im[TOGETHER] = {{0}};
        for (int64_t q = f * Q; q < (f + 1) * Q; q++) {
            vec c = load(o->KF + q * PAIR), d = load(o->KF + q * PAIR + LANES);
#pragma GCC unroll 4
            for (int b = 0; b < count; b++) {
                real s = o->U[b * row + 2 * q], t = o->U[b * row + 2 * q + 1];
                re[b] += s * c, re[b] -= t * d;
                im[b] += s * d, im[b] += t * c;
            }
        }
#pragma GCC unroll 4
        for (int b = 0; b < count; b++)
            store(o->work[b] + f * PAIR, re[b]), store(o->work[b] + f * PAIR + LANES, im[b]);
    }
}

/* dK_q += sum over sequences of conj(U_q) S, and dU_q += sum over rows of S conj(K_q). */
INLINE void differentiate_some(const int count, const batch_of_rows *o, int64_t first,
                               int64_t number) {
    int64_t Q = o->a->signals, row = o->a->n * Q * 2;
    for (int64_t f = first; f < first + number; f++) {
        vec re[TOGETHER], im[TOGETHER];
#pragma GCC unroll 4
        for (int b = 0; b < count; b++)
            re[b] = load(o->work[b] + f * PAIR), im[b] = load(o->work[b] + f * PAIR + LANES);
        for (int64_t q = f * Q; q < (f + 1) * Q; q++) {
            if (o->dKF) {
                real *to = o->dKF + q * PAIR;
                vec c = o->replace ? (vec){0} : load(to);
                vec d = o->replace ? (vec){0} : load(to + LANES);
#pragma GCC unroll 4
                for (int b = 0; b < count; b++) {
                    real s = o->U[b * row + 2 * q], t = o->U[b * row + 2 * q + 1];
                    c += s * re[b], c += t * im[b];
                    d += s * im[b], d -= t * re[b];
                }
                store(to, c), store(to + LANES, d);
            }
            if (o->dU) {
                vec c = load(o->KF + q * PAIR), d = load(o->KF + q * PAIR + LANES), products[8];
#pragma GCC unroll 4
                for (int b = 0; b < count; b++) {
                    products[2 * b] = re[b] * c + im[b] * d;
                    products[2 * b + 1] = im[b] * c - re[b] * d;
                }
                real sums[8], *to = o->dU + q * 2 * count;
                sum_lanes(2 * count, products, sums);
                for (int i = 0; i < 2 * count; i++) to[i] = o->replace_dU ? sums[i] : to[i] + sums[i];
            }
        }
    }
}

#define FOR_COUNT(count, CALL) \
    switch (count) {           \
        case 4: CALL(4); break;    \
        case 2: CALL(2); break;    \
        default: CALL(1);          \
    }

static void multiply(const batch_of_rows *o, int64_t first, int64_t number) {
#define CALL(count) multiply_some(count, o, first, number)
    FOR_COUNT(o->count, CALL)
#undef CALL
}

static void differentiate(const batch_of_rows *o, int64_t first, int64_t number) {
#define CALL(count) differentiate_some(count, o, first, number)
    FOR_COUNT(o->count, CALL)
#undef CALL
}

static int is_small(const batch_of_rows *o, int level) {
    const fft_plan *p = o->plan;
    return level == p->levels ||
           p->size[level] * o->count * PAIR * (int64_t)sizeof(real) <= BLOCK_BYTES;
}

/* Products at all frequencies of a block of a level, and their transforms back. */
static void synthesize(const batch_of_rows *o, int level, int64_t block) {
    const fft_plan *p = o->plan;
    int64_t size = p->size[level];
    if (is_small(o, level)) {
        multiply(o, block * size, size);
        for (int b = 0; b < o->count; b++)
            for (int l = p->levels - 1; l >= level; l--)
                restore_blocks(p, l, block * size / p->size[l], size / p->size[l],
                               o->work[b] + block * size * PAIR);
        return;
    }
    for (int j = 0; j < p->radix[level]; j++) synthesize(o, level + 1, block * p->radix[level] + j);
    for (int b = 0; b < o->count; b++)
        restore_blocks(p, level, block, 1, o->work[b] + block * size * PAIR);
}

/* Transforms of a block of a level, and what the gradients owe to its frequencies. */
static void analyse(const batch_of_rows *o, int level, int64_t block) {
    const fft_plan *p = o->plan;
    int64_t size = p->size[level];
    if (is_small(o, level)) {
        for (int b = 0; b < o->count; b++)
            for (int l = level; l < p->levels; l++)
                reduce_blocks(p, l, block * size / p->size[l], size / p->size[l],
                              o->work[b] + block * size * PAIR);
        differentiate(o, block * size, size);
        return;
    }
    for (int b = 0; b < o->count; b++)
        reduce_blocks(p, level, block, 1, o->work[b] + block * size * PAIR);
    for (int j = 0; j < p->radix[level]; j++) analyse(o, level + 1, block * p->radix[level] + j);
}

/* Outputs of a group of rows. */
static void forward_group(batch_of_rows *o, int64_t group, int64_t sequence) {
    const fft_arguments *a = o->a;
    fft_rows rows = rows_of(a, group, o->W);
    o->U = a->U + sequence * a->n * a->signals * 2;
    o->KF = a->KF + group * a->n * a->signals * PAIR;
    for (int j = 0; j < o->plan->radix[0]; j++) synthesize(o, 1, j);
    for (int b = 0; b < o->count; b++) {
        rows.x = a->x + (sequence + b) * a->length * a->inputs;
        write_rows(o->plan, &rows, o->work[b], a->y + start_of(a, sequence + b) + group * LANES);
    }
}

/* Gradients that a group of rows gives. */
static void backward_group(batch_of_rows *o, int64_t group, int64_t sequence, int64_t groups_part,
                           int64_t sequences_part) {
    const fft_arguments *a = o->a;
    fft_rows rows = rows_of(a, group, o->W);
    int64_t spectrum = a->n * a->signals;
    o->U = a->U + sequence * spectrum * 2;
    o->KF = a->KF + group * spectrum * PAIR;
    o->dU = a->dU ? a->dU + (groups_part * a->sequences + sequence) * spectrum * 2 : NULL;
    o->dKF = a->dKF ? a->dKF + (sequences_part * groups_of(a) + group) * spectrum * PAIR : NULL;
    real *dW = a->dW ? a->dW + sequences_part * (a->inputs + 1) * a->width + group * LANES : NULL;
    if (rows.kind == GELU) /* z once more, in the cache, rather than written and read */
        for (int j = 0; j < o->plan->radix[0]; j++) synthesize(o, 1, j);
    for (int b = 0; b < o->count; b++) {
        int64_t start = start_of(a, sequence + b) + group * LANES;
        rows.x = a->x + (sequence + b) * a->length * a->inputs;
        real *dx = a->dx ? a->dx + (groups_part * a->sequences + sequence + b) * a->length * a->inputs
                         : NULL;
        if (rows.kind == GELU) {
            fft_rows again = rows;
            again.kind = IDENTITY, again.step = LANES, again.rows = LANES, rows.y_step = LANES;
            write_rows(o->plan, &again, o->work[b], o->z);
        }
        const real *y = rows.kind == GELU ? o->z : a->y ? a->y + start : NULL;
        read_rows(o->plan, &rows, a->dy + start, y, o->work[b], dW, dx);
    }
    for (int j = 0; j < o->plan->radix[0]; j++) analyse(o, 1, j);
}

/* All groups and sequences of a part, in blocks of sequences that all groups pass through before
 * the next one: parts of lines of y that two groups share are still in the cache. */
static int run_part(const void *arguments, int64_t part, const int backward) {
    const fft_arguments *a = arguments;
    const fft_plan plan = plan_fft(a->n, a->factors);
    int64_t groups_part = part % a->group_parts, sequences_part = part / a->group_parts;
    int64_t first_group = share(groups_of(a), groups_part, a->group_parts);
    int64_t end_group = share(groups_of(a), groups_part + 1, a->group_parts);
    int64_t quads = (a->sequences + TOGETHER - 1) / TOGETHER;
    int64_t first = share(quads, sequences_part, a->sequence_parts) * TOGETHER;
    int64_t end = share(quads, sequences_part + 1, a->sequence_parts) * TOGETHER;
    if (end > a->sequences) end = a->sequences;
    int64_t size = a->n * PAIR + 64;
    real *work = room(TOGETHER * size + a->length * LANES + (a->inputs + 1) * a->width);
    if (!work) return LMU_NO_MEMORY;
    real *W = work + TOGETHER * size + a->length * LANES;
    if (a->W_x) pack_weights(a, W);
    batch_of_rows o = {.a = a, .plan = &plan, .z = work + TOGETHER * size};
    o.W = a->W_x ? W : NULL;
    for (int b = 0; b < TOGETHER; b++) o.work[b] = work + b * size;
    for (int64_t s = first; s < end; s += o.count) {
        int64_t count;
        block_of(s, a->sequences, &count);
        o.count = (int)count;
        o.replace = s == first;
        for (int64_t g = first_group; g < end_group; g++) {
            o.replace_dU = g == first_group;
            if (backward)
                backward_group(&o, g, s, groups_part, sequences_part);
            else
                forward_group(&o, g, s);
        }
    }
    free(work);
    return 0;
}

LMU_EXPORT int NAME(fft_forward)(const void *arguments, int64_t part, int64_t parts) {
    const fft_arguments *a = arguments;
    (void)parts;
    ask_for_large_pages(a->y, a->sequences * a->length * a->rows * (int64_t)sizeof(real));
    return run_part(a, part, 0);
}

LMU_EXPORT int NAME(fft_backward)(const void *arguments, int64_t part, int64_t parts) {
    (void)parts;
    return run_part(arguments, part, 1);
}
