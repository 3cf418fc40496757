/* Facts about this build and the processor that runs it, which the loader asks for. */
#include <string.h>

#include "parallel.h"

#if defined(_WIN32)
#include <intrin.h>
#include <windows.h>
#endif

/* Names of the variants, best first, separated by blanks. */
LMU_EXPORT const char *lmu_variants(void) { return LMU_VARIANTS; }

/* Digest of the sources that this library was built from. */
LMU_EXPORT const char *lmu_sources(void) { return LMU_SOURCES; }

#if defined(__x86_64__) && defined(_WIN32)
/* The functions behind __builtin_cpu_supports are not linked there. */
static int has(int leaf, int reg, int bit) {
    int registers[4];
    __cpuidex(registers, leaf, 0);
    return registers[reg] >> bit & 1;
}

static int supports_avx2(void) {
    return IsProcessorFeaturePresent(40 /* AVX2 */) && has(1, 2, 12 /* FMA */);
}

static int supports_avx512(void) {
    return supports_avx2() && IsProcessorFeaturePresent(41 /* AVX512F */) &&
           has(7, 1, 17 /* DQ */) && has(7, 1, 30 /* BW */) && has(7, 1, 31 /* VL */);
}
#elif defined(__x86_64__)
static int supports_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int supports_avx512(void) {
    return supports_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

/* 1 if the processor, and the system in saving its registers, support a variant. */
LMU_EXPORT int lmu_supports(const char *variant) {
#if defined(__x86_64__)
    if (!strcmp(variant, "avx512")) return supports_avx512();
    if (!strcmp(variant, "avx2")) return supports_avx2();
#else
    (void)variant;
#endif
    return 1;
}
