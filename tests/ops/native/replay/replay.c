/* Runs recorded calls of kernels, and writes what their buffers hold afterwards.
 *
 * replay LIBRARY CALLS RESULTS. CALLS holds whole numbers of 8 bytes, and bytes, as recorded.py
 * writes them: for each call its symbol, its parts, its buffers, its arguments, and where in these
 * the address of which buffer goes.
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

/* One call; its buffers are malloc'ed one by one, so that sanitizers and emulators see their ends. */
static void replay(void *library, runner run, FILE *calls, FILE *results) {
    int64_t length = number(calls);
    char *name = bytes(calls, length + 1); /* with its zero */
    void *kernel = dlsym(library, name);
    if (!kernel) fail(name);
    int64_t parts = number(calls), buffers = number(calls);
    int64_t *sizes = calloc((size_t)buffers + 1, sizeof *sizes);
    char **buffer = calloc((size_t)buffers + 1, sizeof *buffer);
    if (!sizes || !buffer) fail("no memory");
    for (int64_t i = 0; i < buffers; i++) {
        sizes[i] = number(calls);
        buffer[i] = bytes(calls, sizes[i]);
    }
    char *arguments = bytes(calls, number(calls));
    for (int64_t left = number(calls); left > 0; left--) {
        int64_t where = number(calls), which = number(calls), offset = number(calls);
        char *address = buffer[which] + offset;
        memcpy(arguments + where, &address, sizeof address);
    }
    int64_t status = run((lmu_kernel)kernel, arguments, parts, 1, NULL, NULL);
    fwrite(&status, sizeof status, 1, results);
    for (int64_t i = 0; i < buffers; i++) {
        fwrite(buffer[i], 1, (size_t)sizes[i], results);
        free(buffer[i]);
    }
    free(arguments), free(buffer), free(sizes), free(name);
}

int main(int count, char **words) {
    if (count != 4) fail("expects LIBRARY CALLS RESULTS");
    void *library = dlopen(words[1], RTLD_NOW);
    if (!library) fail(dlerror());
    runner run = (runner)dlsym(library, "lmu_run");
    FILE *calls = fopen(words[2], "rb"), *results = fopen(words[3], "wb");
    if (!run || !calls || !results) fail("cannot open the files");
    for (int64_t left = number(calls); left > 0; left--) replay(library, run, calls, results);
    return fclose(results);
}
