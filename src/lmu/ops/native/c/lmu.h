/* Types and helpers of all kernels.
 *
 * A kernel's file is compiled once for each instruction set and precision, with
 *   -DREAL=float|double -DSUFFIX=f32_avx512 -DVECTOR_BYTES=16|32|64
 * and exports NAME(kernel), such as lmu_blocks_f32_avx512. Vectors are those of gcc and clang.
 */
#ifndef LMU_H
#define LMU_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"

#define LMU_JOIN(a, b, c, d) a##b##c##d
#define LMU_NAME(name, suffix) LMU_JOIN(lmu_, name, _, suffix)
#define NAME(name) LMU_NAME(name, SUFFIX)

typedef REAL real;
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
/* The same in memory: of any alignment, and of any type that memory has. */
typedef real loose __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

enum { LANES = VECTOR_BYTES / sizeof(real) };

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const real *p) { return *(const loose *)p; }
INLINE void store(real *p, vec v) { *(loose *)p = v; }
INLINE vec fill(real x) { return x - (vec){0}; }

/* n rounded up to whole vectors: the length of rows in a kernel's own buffers. */
INLINE int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* The first row of a part of several, of which each has about as many rows. */
INLINE int64_t share(int64_t rows, int64_t part, int64_t parts) { return rows * part / parts; }

/* Room for n numbers, aligned to vectors but on Windows; NULL if there is no memory. Freed by
 * free(). */
INLINE real *room(int64_t n) {
    size_t size = (n > 0 ? (size_t)n : 1) * sizeof(real);
#if defined(_WIN32) /* whose aligned memory needs a function of its own to free it */
    return malloc(size);
#else
    void *p;
    return posix_memalign(&p, 64, size) ? NULL : p;
#endif
}

/* The same, filled with zeros. */
INLINE real *zeros(int64_t n) {
    real *p = room(n);
    return p ? memset(p, 0, (n > 0 ? (size_t)n : 1) * sizeof(real)) : NULL;
}

#endif
