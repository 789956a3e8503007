/* Runs a saved model on files of raw numbers, or on made-up ones, and prints what comes out and how long it takes.
 *
 * In the folder of the model:
 *
 *     cc example.c -I. -L. -lgraphopt -Wl,-rpath,'$ORIGIN' -o example
 *     ./example
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"

static const char USAGE[] =
    "usage: example [-t THREADS] [-p PROGRAM] [-n RUNS] [-o PREFIX] [FOLDER [INPUT ...]]\n"
    "\n"
    "Runs the model saved in FOLDER (default: the current one).\n"
    "\n"
    "  INPUT        a file of an input's raw elements, row by row; without files, inputs are made up:\n"
    "               0, 1/256, 2/256, ... up to 1, and again, for floating point; 0 and 1 by turns for others;\n"
    "               values that the program is for\n"
    "  -t THREADS   threads of a call (default: as the model was compiled, at most the processors there are)\n"
    "  -p PROGRAM   run with the input shapes, and values, of this program, from 0 (default: 0)\n"
    "  -n RUNS      calls that are timed (default: 20)\n"
    "  -o PREFIX    write every output's raw elements to the file PREFIX and its number, from 0\n";

static void fail(const char *what) {
    fprintf(stderr, "example: %s\n", what);
    exit(1);
}

static void check(graphopt_status status) {
    if (status != GRAPHOPT_OK)
        fail(graphopt_last_error());
}

/* Zeroed memory, aligned to 64 bytes. */
static void *buffer(size_t bytes) {
    size_t room = (bytes / 64 + 1) * 64;
    void *made = aligned_alloc(64, room);
    if (made == NULL)
        fail("there is no memory left");
    return memset(made, 0, room);
}

static void read_file(const char *path, const graphopt_tensor *t, void *data, size_t bytes) {
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        perror(path);
        exit(1);
    }
    size_t got = fread(data, 1, bytes, f);
    if (got < bytes || fgetc(f) != EOF) {
        fprintf(stderr, "example: %s: input %s takes %zu bytes, and the file has %s\n", path, t->name, bytes,
                got < bytes ? "fewer" : "more");
        exit(1);
    }
    fclose(f);
}

static void make_up(const graphopt_tensor *t, void *data, size_t elements) {
    for (size_t k = 0; k < elements; k++)
        switch (t->dtype) {
        case GRAPHOPT_FLOAT32:
            ((float *)data)[k] = (float)(k % 257) / 256;
            break;
        case GRAPHOPT_FLOAT64:
            ((double *)data)[k] = (double)(k % 257) / 256;
            break;
        case GRAPHOPT_FLOAT16: /* 1 is 0x3c00; below it, 15 * 1024 steps of a kind: a ramp of its own */
            ((uint16_t *)data)[k] = (uint16_t)(k % 257 * 60);
            break;
        case GRAPHOPT_BFLOAT16: { /* the upper half of a float */
            float x = (float)(k % 257) / 256;
            memcpy((char *)data + 2 * k, (char *)&x + 2, 2);
            break;
        }
        default: /* whatever its size, the first byte of an integer is the lowest */
            ((unsigned char *)data)[k * t->element] = k % 2;
        }
}

static void print_element(const graphopt_tensor *t, const void *data, size_t k) {
    const unsigned char *at = (const unsigned char *)data + k * t->element;
    float x;
    switch (t->dtype) {
    case GRAPHOPT_FLOAT32:
        printf(" %g", (double)((const float *)data)[k]);
        break;
    case GRAPHOPT_FLOAT64:
        printf(" %g", ((const double *)data)[k]);
        break;
    case GRAPHOPT_BFLOAT16:
        memset(&x, 0, sizeof x);
        memcpy((char *)&x + 2, at, 2);
        printf(" %g", (double)x);
        break;
    case GRAPHOPT_INT64:
        printf(" %" PRId64, ((const int64_t *)data)[k]);
        break;
    case GRAPHOPT_INT32:
        printf(" %" PRId32, ((const int32_t *)data)[k]);
        break;
    case GRAPHOPT_INT8:
        printf(" %d", ((const int8_t *)data)[k]);
        break;
    case GRAPHOPT_UINT8:
    case GRAPHOPT_BOOL:
        printf(" %u", *at);
        break;
    default: /* the bytes, highest first */
        printf(" 0x");
        for (size_t b = t->element; b > 0; b--)
            printf("%02x", at[b - 1]);
    }
}

static void print_tensor(const char *kind, const graphopt_tensor *t, const graphopt_shape *s, const void *data) {
    printf("%s %s: %s[", kind, t->name, t->dtype_name);
    for (int32_t k = 0; k < s->rank; k++)
        printf("%s%" PRId64, k ? ", " : "", s->dims[k]);
    printf("]");
    if (s->elements > 0)
        printf(" =");
    for (size_t k = 0; k < s->elements && k < 8; k++)
        print_element(t, data, k);
    printf(s->elements > 8 ? " ...\n" : "\n");
}

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static long number(const char *option, const char *text, long least) {
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || *end != '\0' || n < least || n > 1000000) {
        fprintf(stderr, "example: %s takes a number of at least %ld, got %s\n", option, least, text);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv) {
    graphopt_options options = GRAPHOPT_OPTIONS;
    const char *prefix = NULL;
    size_t program = 0, runs = 20;
    int k = 1;
    for (; k < argc && argv[k][0] == '-'; k += 2) {
        if (strcmp(argv[k], "-h") == 0 || strcmp(argv[k], "--help") == 0) {
            fputs(USAGE, stdout);
            return 0;
        }
        if (k + 1 == argc || strlen(argv[k]) != 2 || strchr("tpno", argv[k][1]) == NULL) {
            fputs(USAGE, stderr);
            return 2;
        }
        if (argv[k][1] == 't')
            options.threads = (int32_t)number("-t", argv[k + 1], 1);
        else if (argv[k][1] == 'p')
            program = (size_t)number("-p", argv[k + 1], 0);
        else if (argv[k][1] == 'n')
            runs = (size_t)number("-n", argv[k + 1], 1);
        else
            prefix = argv[k + 1];
    }
    const char *folder = k < argc ? argv[k++] : ".";
    char **files = argv + k;
    size_t file_count = (size_t)(argc - k);

    double start = seconds();
    graphopt_model *model;
    check(graphopt_model_create(folder, &options, &model));
    printf("loaded %s in %.2f ms: code for %s, %d threads\n", folder, 1e3 * (seconds() - start), graphopt_model_target(model),
           (int)graphopt_model_threads(model));
    if (program >= graphopt_model_programs(model))
        fail("there are not that many programs");
    size_t inputs = graphopt_model_inputs(model), outputs = graphopt_model_outputs(model);
    if (file_count != 0 && file_count != inputs)
        fail("give a file for every input, or none");

    graphopt_input *x = buffer(inputs * sizeof *x);
    graphopt_output *y = buffer(outputs * sizeof *y);
    for (size_t i = 0; i < inputs; i++) {
        const graphopt_tensor *t = graphopt_model_input(model, i);
        const graphopt_shape *s = graphopt_model_program_input(model, program, i);
        void *data = buffer(s->bytes);
        if (file_count != 0)
            read_file(files[i], t, data, s->bytes);
        else if (graphopt_model_program_value(model, program, i) != NULL)
            memcpy(data, graphopt_model_program_value(model, program, i), s->bytes);
        else
            make_up(t, data, s->elements);
        print_tensor("input", t, s, data);
        x[i] = (graphopt_input){data, s->bytes, t->dtype, s->rank, s->dims};
    }
    for (size_t i = 0; i < outputs; i++) {
        const graphopt_shape *s = graphopt_model_program_output(model, program, i);
        y[i] = (graphopt_output){buffer(s->bytes), s->bytes, graphopt_model_output(model, i)->dtype, s->rank, s->dims};
    }

    check(graphopt_model_run(model, x, inputs, y, outputs)); /* the first call starts threads and takes memory */
    double *took = buffer(runs * sizeof *took);
    for (size_t i = 0; i < runs; i++) {
        double before = seconds();
        check(graphopt_model_run(model, x, inputs, y, outputs));
        took[i] = seconds() - before;
    }
    for (size_t i = 0; i < outputs; i++) {
        print_tensor("output", graphopt_model_output(model, i), graphopt_model_program_output(model, program, i), y[i].data);
        if (prefix != NULL) {
            char path[4096];
            snprintf(path, sizeof path, "%s%zu", prefix, i);
            FILE *f = fopen(path, "wb");
            if (f == NULL || fwrite(y[i].data, 1, y[i].bytes, f) != y[i].bytes || fclose(f) != 0) {
                perror(path);
                return 1;
            }
        }
    }
    qsort(took, runs, sizeof *took, by_size);
    printf("%zu calls: median %.4f ms, fastest %.4f ms\n", runs, 1e3 * took[runs / 2], 1e3 * took[0]);

    for (size_t i = 0; i < inputs; i++)
        free((void *)x[i].data);
    for (size_t i = 0; i < outputs; i++)
        free(y[i].data);
    free(x);
    free(y);
    free(took);
    graphopt_model_destroy(model);
    return 0;
}
