/* Facts about this build and the processor that runs it, which the loader asks for. */
#include <string.h>

#include "parallel.h"

/* Names of the variants, best first, separated by blanks. */
LMU_EXPORT const char *lmu_variants(void) { return LMU_VARIANTS; }

/* Digest of the sources that this library was built from. */
LMU_EXPORT const char *lmu_sources(void) { return LMU_SOURCES; }

/* 1 if the processor, and the system in saving its registers, support a variant. */
LMU_EXPORT int lmu_supports(const char *variant) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(variant, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
    if (!strcmp(variant, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    (void)variant;
#endif
    return 1;
}
