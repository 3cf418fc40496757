/* Large results in large pages, where the system has them for those that ask. */
#ifndef LMU_PAGES_H
#define LMU_PAGES_H

#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

enum { LARGE_PAGE = 1 << 21, LARGE_RESULT = 1 << 25 };

/* To be called before memory is first written. Page by page, the system takes longer to hand it
 * out than a kernel to fill it. Results of 32 MiB or more have mappings of their own, so that
 * nothing else is touched. */
static inline void ask_for_large_pages(void *memory, int64_t size) {
#if defined(MADV_HUGEPAGE)
    uintptr_t first = ((uintptr_t)memory + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    uintptr_t end = ((uintptr_t)memory + (uintptr_t)size) / LARGE_PAGE * LARGE_PAGE;
    if (size >= LARGE_RESULT && end > first) (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

#endif
