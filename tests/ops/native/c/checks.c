/* Kernels that hand the functions of gemm.h, activations.h and lmu.h to the tests. */
#include "activations.h"
#include "gemm.h"

typedef struct {
    int64_t m, n, k;
    const real *a;
    int64_t a_row, a_column;
    const real *b;
    int64_t b_row;
    real *c;
    int64_t c_row, add;
} product;

LMU_EXPORT int NAME(gemm)(const void *arguments, int64_t part, int64_t parts) {
    const product *p = arguments;
    int64_t first = share(p->m, part, parts), rows = share(p->m, part + 1, parts) - first;
    gemm(rows, p->n, p->k, p->a + first * p->a_row, p->a_row, p->a_column, p->b, p->b_row,
         p->c + first * p->c_row, p->c_row, (int)p->add);
    return 0;
}

typedef struct {
    int64_t rows, columns;
    const real *a;
    int64_t a_row, a_column;
    real *packed;
} packing;

LMU_EXPORT int NAME(pack)(const void *arguments, int64_t part, int64_t parts) {
    const packing *p = arguments;
    (void)part, (void)parts;
    pack(p->rows, p->columns, p->a, p->a_row, p->a_column, p->packed);
    return 0;
}

typedef struct {
    int64_t kind, slopes, n;
    real *x;
    const real *y;
} activation;

LMU_EXPORT int NAME(activate)(const void *arguments, int64_t part, int64_t parts) {
    const activation *p = arguments;
    (void)part, (void)parts;
    if (p->slopes)
        times_slope((int)p->kind, p->x, p->y, p->n);
    else
        activate((int)p->kind, p->x, p->n);
    return 0;
}

/* The sum of a buffer of zeros(n), to which each of its elements was added. */
typedef struct {
    int64_t n;
    real *sum;
} buffer;

LMU_EXPORT int NAME(zeros)(const void *arguments, int64_t part, int64_t parts) {
    const buffer *p = arguments;
    (void)part, (void)parts;
    real *x = zeros(p->n);
    if (!x) return LMU_NO_MEMORY;
    for (int64_t i = 0; i < p->n; i++) *p->sum += (x[i] += 1);
    free(x);
    return 0;
}
