/* Runs recorded calls of kernels, and writes what their buffers hold afterwards.
 *
 * replay LIBRARY CALLS RESULTS. CALLS holds whole numbers of 8 bytes, and bytes, as recorded.py
 * writes them: for each call its symbol, its parts, its buffers, its arguments, and where in these
 * the address of which buffer goes. RESULTS gets each call's status and buffers.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"

typedef int (*runner)(lmu_kernel, const void *, int64_t, int64_t, lmu_fork, lmu_inside);

static void fail(const char *what) {
    fprintf(stderr, "replay: %s\n", what);
    exit(1);
}

static void *bytes(FILE *file, int64_t size) {
    void *p = malloc(size ? (size_t)size : 1);
    if (!p || fread(p, 1, (size_t)size, file) != (size_t)size) fail("the calls end too early");
    return p;
}

static int64_t number(FILE *file) {
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1) fail("the calls end too early");
    return value;
}

typedef struct {
    int64_t size;
    char *bytes;
} buffer;

/* A buffer by its number: new bytes, or what the calls before have left in it. */
static buffer *next_buffer(FILE *calls, buffer *all) {
    buffer *one = all + number(calls);
    if (number(calls)) return one;
    free(one->bytes);
    one->size = number(calls);
    one->bytes = bytes(calls, one->size); /* each on its own, so that its end is watched */
    return one;
}

static void replay(void *library, runner run, buffer *all, FILE *calls, FILE *results) {
    char *name = bytes(calls, number(calls));
    void *kernel = dlsym(library, name);
    if (!kernel) fail(name);
    int64_t parts = number(calls), count = number(calls);
    buffer **used = calloc((size_t)count + 1, sizeof *used);
    if (!used) fail("no memory");
    for (int64_t i = 0; i < count; i++) used[i] = next_buffer(calls, all);
    char *arguments = bytes(calls, number(calls));
    for (int64_t left = number(calls); left > 0; left--) {
        int64_t where = number(calls), which = number(calls), offset = number(calls);
        char *address = used[which]->bytes + offset;
        memcpy(arguments + where, &address, sizeof address);
    }
    int64_t status = run((lmu_kernel)kernel, arguments, parts, 1, NULL, NULL);
    fwrite(&status, sizeof status, 1, results);
    for (int64_t i = 0; i < count; i++)
        fwrite(used[i]->bytes, 1, (size_t)used[i]->size, results);
    free(arguments), free(used), free(name);
}

int main(int count, char **words) {
    if (count != 4) fail("expects LIBRARY CALLS RESULTS");
    void *library = dlopen(words[1], RTLD_NOW);
    if (!library) fail(dlerror());
    runner run = (runner)dlsym(library, "lmu_run");
    FILE *calls = fopen(words[2], "rb"), *results = fopen(words[3], "wb");
    if (!run || !calls || !results) fail("cannot open the files");
    int64_t buffers = number(calls);
    buffer *all = calloc((size_t)buffers + 1, sizeof *all);
    if (!all) fail("no memory");
    for (int64_t left = number(calls); left > 0; left--) replay(library, run, all, calls, results);
    for (int64_t i = 0; i < buffers; i++) free(all[i].bytes);
    free(all);
    return fclose(results);
}
