/* Spectra of inputs and kernels, and the way back of their gradients. */
#include "fft_arguments.h"

/* Reduces a polynomial, whose first pass has been done, to its spectrum, block after block. */
static void reduce_all(const fft_plan *p, int level, int64_t block, real *x) {
    if (level == p->levels) return;
    if (level) reduce_blocks(p, level, block, 1, x + block * p->size[level] * PAIR);
    for (int j = 0; j < p->radix[level]; j++) reduce_all(p, level + 1, block * p->radix[level] + j, x);
}

/* The inverse of reduce_all, times n, but for the last pass. */
static void restore_all(const fft_plan *p, int level, int64_t block, real *x) {
    if (level == p->levels) return;
    for (int j = 0; j < p->radix[level]; j++) restore_all(p, level + 1, block * p->radix[level] + j, x);
    if (level) restore_blocks(p, level, block, 1, x + block * p->size[level] * PAIR);
}

static fft_rows plain_rows(int64_t length, int64_t step, int64_t rest) {
    int rows = rest < LANES ? (int)rest : LANES;
    return (fft_rows){.length = length, .step = step, .rows = rows, .kind = IDENTITY};
}

static void kernel_spectrum(const fft_arguments *a, const fft_plan *p, int64_t q, int64_t group,
                            real *work) {
    fft_rows rows = plain_rows(a->length, a->rows, a->rows - group * LANES);
    read_rows(p, &rows, a->K + q * a->length * a->rows + group * LANES, NULL, work, NULL, NULL);
    reduce_all(p, 0, 0, work);
    real *to = a->KF + (group * a->n * a->signals + q) * PAIR;
    for (int64_t f = 0; f < a->n; f++)
        memcpy(to + f * a->signals * PAIR, work + f * PAIR, PAIR * sizeof(real));
}

/* Where signal i begins in u, and its spectrum in U. */
INLINE int64_t signal_start(const fft_arguments *a, int64_t i) {
    return i / a->channels * a->length * a->channels + i % a->channels;
}
INLINE int64_t spectrum_start(const fft_arguments *a, int64_t i) {
    return (i / a->signals * a->n * a->signals + i % a->signals) * 2;
}

static void input_spectra(const fft_arguments *a, const fft_plan *p, int64_t first, real *work,
                          real *panel) {
    int64_t number = a->sequences * a->signals - first;
    fft_rows rows = plain_rows(a->length, LANES, LANES);
    if (number > LANES) number = LANES;
    memset(panel, 0, (size_t)(a->length * LANES) * sizeof(real));
    for (int64_t i = 0; i < number; i++) {
        const real *u = a->u + signal_start(a, first + i);
        for (int64_t t = 0; t < a->length; t++) panel[t * LANES + i] = u[t * a->channels];
    }
    read_rows(p, &rows, panel, NULL, work, NULL, NULL);
    reduce_all(p, 0, 0, work);
    real scale = 1 / (real)a->n;
    for (int64_t i = 0; i < number; i++) {
        real *U = a->U + spectrum_start(a, first + i);
        for (int64_t f = 0; f < a->n; f++) {
            U[f * a->signals * 2] = scale * work[f * PAIR + i];
            U[f * a->signals * 2 + 1] = scale * work[f * PAIR + LANES + i];
        }
    }
}

static void kernel_gradient(const fft_arguments *a, const fft_plan *p, int64_t q, int64_t group,
                            real *work) {
    fft_rows rows = plain_rows(a->length, a->rows, a->rows - group * LANES);
    int64_t spectrum = a->n * a->signals * PAIR;
    for (int64_t f = 0; f < a->n; f++) {
        const real *dKF = a->dKF + group * spectrum + (f * a->signals + q) * PAIR;
        vec re = load(dKF), im = load(dKF + LANES);
        for (int64_t part = 1; part < a->sequence_parts; part++) {
            dKF += groups_of(a) * spectrum;
            re += load(dKF), im += load(dKF + LANES);
        }
        store(work + f * PAIR, re), store(work + f * PAIR + LANES, im);
    }
    restore_all(p, 0, 0, work);
    write_rows(p, &rows, work, a->dK + q * a->length * a->rows + group * LANES);
}

static void input_gradient(const fft_arguments *a, const fft_plan *p, int64_t first, real *work,
                           real *panel) {
    int64_t number = a->sequences * a->signals - first, spectrum = a->n * a->signals * 2;
    fft_rows rows = plain_rows(a->length, LANES, LANES);
    if (number > LANES) number = LANES;
    real scale = 1 / (real)a->n;
    for (int64_t i = 0; i < number; i++) {
        int64_t sequence = (first + i) / a->signals, q = (first + i) % a->signals, count;
        int64_t block = block_of(sequence, a->sequences, &count);
        const real *dU = a->dU + block * spectrum + (q * count + sequence - block) * 2;
        for (int64_t f = 0; f < a->n; f++, dU += a->signals * count * 2) {
            real re = 0, im = 0;
            for (int64_t part = 0; part < a->group_parts; part++) {
                re += dU[part * a->sequences * spectrum];
                im += dU[part * a->sequences * spectrum + 1];
            }
            work[f * PAIR + i] = scale * re;
            work[f * PAIR + LANES + i] = scale * im;
        }
    }
    restore_all(p, 0, 0, work);
    write_rows(p, &rows, work, panel);
    for (int64_t i = 0; i < number; i++) {
        real *du = a->du + signal_start(a, first + i);
        for (int64_t t = 0; t < a->length; t++) du[t * a->channels] = panel[t * LANES + i];
    }
}

/* Each part does some of the tasks: a channel of a group of rows, or as many signals as lanes. */
static int run_tasks(const fft_arguments *a, int64_t part, int64_t parts, int kernels, int inputs,
                     const int backward) {
    const fft_plan plan = plan_fft(a->n, a->factors);
    int64_t of_kernels = kernels ? groups_of(a) * a->signals : 0;
    int64_t of_inputs = inputs ? (a->sequences * a->signals + LANES - 1) / LANES : 0;
    real *work = room(a->n * PAIR + a->length * LANES), *panel = work + a->n * PAIR;
    if (!work) return LMU_NO_MEMORY;
    int64_t end = share(of_kernels + of_inputs, part + 1, parts);
    for (int64_t i = share(of_kernels + of_inputs, part, parts); i < end; i++) {
        int64_t q = i / groups_of(a), group = i % groups_of(a);
        if (i < of_kernels && backward)
            kernel_gradient(a, &plan, q, group, work);
        else if (i < of_kernels)
            kernel_spectrum(a, &plan, q, group, work);
        else if (backward)
            input_gradient(a, &plan, (i - of_kernels) * LANES, work, panel);
        else
            input_spectra(a, &plan, (i - of_kernels) * LANES, work, panel);
    }
    free(work);
    return 0;
}

LMU_EXPORT int NAME(fft_spectra)(const void *arguments, int64_t part, int64_t parts) {
    return run_tasks(arguments, part, parts, 1, 1, 0);
}

LMU_EXPORT int NAME(fft_gradients)(const void *arguments, int64_t part, int64_t parts) {
    const fft_arguments *a = arguments;
    return run_tasks(a, part, parts, a->dK != NULL, a->du != NULL, 1);
}

LMU_EXPORT int NAME(fft_factors)(const void *arguments, int64_t part, int64_t parts) {
    const fft_arguments *a = arguments;
    (void)part, (void)parts;
    fft_factors(a->n, (real *)a->factors);
    return 0;
}
