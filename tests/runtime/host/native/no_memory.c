/* Lets every allocation of the library fail in turn (linked with --wrap), and every call must then say so and give back the rest. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static long left = -1; /* allocations until one fails; -1: none does */

static int fails(void) { return left >= 0 && left-- == 0; }

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t unit, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t unit, size_t bytes);

void *__wrap_malloc(size_t bytes) { return fails() ? NULL : __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes) { return fails() ? NULL : __real_calloc(count, bytes); }
void *__wrap_aligned_alloc(size_t unit, size_t bytes) { return fails() ? NULL : __real_aligned_alloc(unit, bytes); }

static graphopt_status run(graphopt_model *model) {
    const graphopt_shape *in = graphopt_model_program_input(model, 0, 0), *out = graphopt_model_program_output(model, 0, 0);
    void *x = __real_calloc(1, in->bytes), *y = __real_calloc(1, out->bytes);
    graphopt_input given = {x, in->bytes, graphopt_model_input(model, 0)->dtype, 0, NULL};
    graphopt_output made = {y, out->bytes, graphopt_model_output(model, 0)->dtype, 0, NULL};
    graphopt_status status = graphopt_model_run(model, &given, 1, &made, 1);
    free(x);
    free(y);
    return status;
}

int main(int argc, char **argv) {
    int refused = 0;
    for (long n = 0; argc == 2 && n < 10000; n++) {
        graphopt_model *model;
        left = n;
        graphopt_status status = graphopt_model_create(argv[1], NULL, &model);
        if ((status == GRAPHOPT_OK) != (model != NULL))
            return 3;
        if (status == GRAPHOPT_OK)
            status = run(model);
        int all = left >= 0;
        left = -1;
        graphopt_model_destroy(model);
        if (all && status == GRAPHOPT_OK) {
            printf("%d refusals\n", refused);
            return 0;
        }
        if (status != GRAPHOPT_NO_MEMORY || strstr(graphopt_last_error(), "no memory") == NULL) {
            fprintf(stderr, "allocation %ld: status %d: %s\n", n, (int)status, graphopt_last_error());
            return 1;
        }
        refused++;
    }
    return 2;
}
