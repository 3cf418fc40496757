/* Kernels that show which threads do the parts of a job. */
#include <time.h>

#include "lmu.h"

static __thread char here; /* its address tells the threads apart */

typedef struct {
    int64_t seconds;        /* the longest wait for another thread */
    int64_t together;       /* how many threads must be at work at once */
    int64_t *done, *thread; /* of each part: how often it was done, and by whom */
    int64_t arrived, failing;
} meeting;

/* Waits until as many threads as must be here have come. */
LMU_EXPORT int NAME(meet)(const void *arguments, int64_t part, int64_t parts) {
    meeting *p = (meeting *)arguments;
    (void)parts;
    time_t start = time(NULL);
    __atomic_fetch_add(&p->arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&p->arrived, __ATOMIC_SEQ_CST) < p->together)
        if (time(NULL) - start > p->seconds) return 2;
    p->done[part]++;
    p->thread[part] = (int64_t)(intptr_t)&here;
    return part == p->failing ? LMU_NO_MEMORY : 0;
}

typedef struct {
    meeting outer;
    meeting *inner; /* one for each part */
    int64_t parts;
    lmu_fork fork;
    lmu_inside inside;
} nested;

/* A part that runs a job of its own. */
LMU_EXPORT int NAME(nest)(const void *arguments, int64_t part, int64_t parts) {
    const nested *p = arguments;
    int status = NAME(meet)(&p->outer, part, parts);
    return status ? status
                  : lmu_run(NAME(meet), p->inner + part, p->parts, 2, p->fork, p->inside);
}

typedef struct {
    const real *in; /* set by each call */
    real *out;
    int64_t calls;
} step;

/* The input, and how often it was called, which the arguments keep. */
LMU_EXPORT int NAME(count)(const void *arguments, int64_t part, int64_t parts) {
    step *p = (step *)arguments;
    p->out[0] = p->in[0] + (real)++p->calls;
    return part == 0 && parts == 1 ? 0 : 2;
}
