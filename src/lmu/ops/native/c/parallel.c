#include "parallel.h"

#if defined(_WIN32)
#include <windows.h>
#else
#include <sched.h>
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

/* Numbers too small for the normal format become zero: each costs a hundred cycles otherwise. */
static unsigned long long flush_denormals(void) {
#if defined(__x86_64__) || defined(_M_X64)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* FTZ and DAZ */
    return before;
#elif defined(__aarch64__)
    unsigned long long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1ULL << 24)));
    return before;
#else
    return 0;
#endif
}

static void restore(unsigned long long before) {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

void lmu_work(void *data) {
    lmu_job *job = data;
    unsigned long long before = flush_denormals();
    for (;;) {
        int64_t part = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (part >= job->parts) break;
        int status = job->kernel(job->arguments, part, job->parts);
        if (status) __atomic_store_n(&job->status, status, __ATOMIC_RELAXED);
    }
    restore(before);
}

/* The team is PyTorch's, whole even for few parts: libgomp ends the threads that a smaller team
 * leaves out, and PyTorch's next operation would start them again. */
int lmu_run(lmu_kernel kernel, const void *arguments, int64_t parts, int64_t threads,
            lmu_fork fork, lmu_inside inside) {
    lmu_job job = {kernel, arguments, parts, 0, 0};
    if (fork && threads > 1 && parts > 1 && !inside())
        fork(lmu_work, &job, (unsigned)threads, 0);
    else
        lmu_work(&job);
    return job.status;
}

/* A moment of waiting, which after some leaves the processor to others. */
static void pause_a_moment(int *waited) {
    enum { SPINS = 2000 };
    if (++*waited < SPINS) {
#if defined(__x86_64__) || defined(_M_X64)
        _mm_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
        return;
    }
    *waited = 0;
#if defined(_WIN32)
    SwitchToThread();
#else
    sched_yield();
#endif
}

void lmu_take_part(lmu_rounds *r, lmu_chunk work, void *context, int64_t me) {
    int64_t first = __atomic_load_n(&r->done[0], __ATOMIC_ACQUIRE);
    for (int64_t round = first > 0 ? first - 1 : 0; round < r->rounds; round++) {
        for (int64_t i = 0; i < r->chunks; i++) {
            int64_t chunk = (me + i) % r->chunks, at = chunk * LMU_APART, before = round;
            if (__atomic_load_n(&r->taken[at], __ATOMIC_RELAXED) != round) continue;
            if (!__atomic_compare_exchange_n(&r->taken[at], &before, round + 1, 0, __ATOMIC_ACQ_REL,
                                             __ATOMIC_RELAXED))
                continue;
            work(context, round, chunk);
            __atomic_store_n(&r->done[at], round + 1, __ATOMIC_RELEASE);
        }
        int waited = 0;
        for (int64_t i = 0; i < r->chunks; i++)
            while (__atomic_load_n(&r->done[i * LMU_APART], __ATOMIC_ACQUIRE) <= round)
                pause_a_moment(&waited);
    }
}

int lmu_repeat(lmu_job *job, const void *in, void *out) {
    const void **places = (const void **)job->arguments;
    places[0] = in;
    places[1] = out;
    job->next = 0;
    lmu_work(job);
    return job->status;
}
