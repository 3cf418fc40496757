/* Work shared out to the threads of PyTorch, or to those of the caller. */
#ifndef LMU_PARALLEL_H
#define LMU_PARALLEL_H

#include <stdint.h>

#if defined(_WIN32)
#define LMU_EXPORT __declspec(dllexport)
#else
#define LMU_EXPORT __attribute__((visibility("default")))
#endif

/* Does part number `part` of `parts`; 0, or an error number. */
typedef int (*lmu_kernel)(const void *arguments, int64_t part, int64_t parts);

enum { LMU_NO_MEMORY = 1 };

/* GOMP_parallel of the OpenMP library that PyTorch has loaded: calls f(data) in each thread. */
typedef void (*lmu_fork)(void (*f)(void *), void *data, unsigned threads, unsigned flags);

/* omp_in_parallel of the same library: 1 in a thread that is one of a team's already. */
typedef int (*lmu_inside)(void);

typedef struct {
    lmu_kernel kernel;
    const void *arguments;
    int64_t parts;
    int64_t next; /* the first part that nobody does yet */
    int status;   /* of a part that failed, or 0 */
} lmu_job;

/* Takes parts of a job until none is left. Any number of threads may do so at once. */
LMU_EXPORT void lmu_work(void *job);

/* Does all parts, in a team of `threads` threads if fork is not NULL; 0, or an error number. */
LMU_EXPORT int lmu_run(lmu_kernel kernel, const void *arguments, int64_t parts, int64_t threads,
                       lmu_fork fork, lmu_inside inside);

/* Work in rounds, each of which needs all chunks of the one before. */
enum { LMU_CHUNKS = 4, LMU_APART = 16 /* numbers, so that two are in different cache lines */ };
typedef struct {
    int64_t rounds, chunks;
    int64_t taken[LMU_CHUNKS * LMU_APART], done[LMU_CHUNKS * LMU_APART]; /* rounds of each chunk */
} lmu_rounds;
typedef void (*lmu_chunk)(void *context, int64_t round, int64_t chunk);

/* Takes part in all rounds until they are done. Any number of threads may: each begins with chunk
 * number `me`, and takes the others' where these are late, so that nobody is waited for who does not
 * run. */
LMU_EXPORT void lmu_take_part(lmu_rounds *r, lmu_chunk work, void *context, int64_t me);

/* Does all parts here, with an input and an output that come first in the job's arguments. */
LMU_EXPORT int lmu_repeat(lmu_job *job, const void *in, void *out);

#endif
