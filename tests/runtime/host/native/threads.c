/* Eight threads run one model at once, each on its own input, and compare with what the model gave before. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { THREADS = 8 };

static graphopt_model *model;
static int calls = 50; /* of each */

typedef struct {
    unsigned char *input, *output, *wanted;
    int wrong;
} job;

static graphopt_status run(const job *j, unsigned char *output) {
    const graphopt_tensor *x = graphopt_model_input(model, 0), *y = graphopt_model_output(model, 0);
    const graphopt_shape *in = graphopt_model_program_input(model, 0, 0), *out = graphopt_model_program_output(model, 0, 0);
    graphopt_input given = {j->input, in->bytes, x->dtype, in->rank, in->dims};
    graphopt_output made = {output, out->bytes, y->dtype, out->rank, out->dims};
    return graphopt_model_run(model, &given, 1, &made, 1);
}

static void *work(void *argument) {
    job *j = argument;
    size_t bytes = graphopt_model_program_output(model, 0, 0)->bytes;
    for (int k = 0; k < calls; k++)
        if (run(j, j->output) != GRAPHOPT_OK || memcmp(j->output, j->wanted, bytes) != 0)
            j->wrong++;
    return NULL;
}

int main(int argc, char **argv) {
    graphopt_options options = GRAPHOPT_OPTIONS;
    pthread_t threads[THREADS];
    job jobs[THREADS];
    int wrong = 0;
    options.threads = 3;
    if (argc == 3)
        calls = atoi(argv[2]);
    if (argc < 2 || graphopt_model_create(argv[1], &options, &model) != GRAPHOPT_OK) {
        fprintf(stderr, "%s\n", graphopt_last_error());
        return 2;
    }
    size_t in = graphopt_model_program_input(model, 0, 0)->bytes, out = graphopt_model_program_output(model, 0, 0)->bytes;
    for (int t = 0; t < THREADS; t++) {
        jobs[t] = (job){aligned_alloc(64, (in + 63) / 64 * 64), aligned_alloc(64, (out + 63) / 64 * 64), malloc(out), 0};
        for (size_t k = 0; k < in / 4; k++)
            ((float *)jobs[t].input)[k] = (float)((k * 7 + (size_t)t * 13) % 101) / 101;
        if (run(&jobs[t], jobs[t].output) != GRAPHOPT_OK)
            return 3;
        memcpy(jobs[t].wanted, jobs[t].output, out);
    }
    for (int t = 0; t < THREADS; t++)
        pthread_create(&threads[t], NULL, work, &jobs[t]);
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        wrong += jobs[t].wrong;
        free(jobs[t].input);
        free(jobs[t].output);
        free(jobs[t].wanted);
    }
    graphopt_model_destroy(model);
    printf("%d of %d calls were wrong\n", wrong, THREADS * calls);
    return wrong != 0;
}
