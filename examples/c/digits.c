/* Reads pictures of digits, eight lines of eight characters each (. - + # from white to black), and says which they are.
 *
 *     ./digits digits.gopt < digits.txt
 *
 * docs/c.md goes through it step by step.
 */
#include <stdio.h>
#include <string.h>

#include "model.h"

enum { MOST = 16, PIXELS = 8 * 8 };

static float images[MOST][PIXELS], probabilities[MOST][10];

/* How many pictures there are in the file; -1 where it holds something else. */
static int read_pictures(FILE *f) {
    static const char levels[] = ".-+#";
    int pixels = 0;
    for (int c; (c = fgetc(f)) != EOF;) {
        if (c == '\n')
            continue;
        const char *level = strchr(levels, c);
        if (c == '\0' || level == NULL || pixels == MOST * PIXELS)
            return -1;
        images[pixels / PIXELS][pixels % PIXELS] = (float)(level - levels) / 3;
        pixels++;
    }
    return pixels > 0 && pixels % PIXELS == 0 ? pixels / PIXELS : -1;
}

/* Probabilities for `count` pictures from the first-th on. */
static graphopt_status classify(graphopt_model *model, int first, int count) {
    const int64_t shape[] = {count, 1, 8, 8};
    graphopt_input image = {images[first], (size_t)count * sizeof images[0], GRAPHOPT_FLOAT32, 4, shape};
    graphopt_output result = {probabilities[first], (size_t)count * sizeof probabilities[0], GRAPHOPT_FLOAT32, 0, NULL};
    return graphopt_model_run(model, &image, 1, &result, 1);
}

int main(int argc, char **argv) {
    graphopt_model *model;
    if (argc != 2) {
        fprintf(stderr, "usage: digits FOLDER < PICTURES\n");
        return 2;
    }
    if (graphopt_model_create(argv[1], NULL, &model) != GRAPHOPT_OK) {
        fprintf(stderr, "digits: %s\n", graphopt_last_error());
        return 1;
    }
    int count = read_pictures(stdin), failed = count < 0;
    if (failed)
        fprintf(stderr, "digits: no pictures: eight lines of eight characters out of . - + #, at most %d times\n", MOST);

    /* All at once where the model was compiled for so many, else one by one. */
    graphopt_status status = failed ? GRAPHOPT_OK : classify(model, 0, count);
    if (status == GRAPHOPT_NO_PROGRAM) {
        status = GRAPHOPT_OK;
        for (int k = 0; k < count && status == GRAPHOPT_OK; k++)
            status = classify(model, k, 1);
    }
    if (status != GRAPHOPT_OK) {
        fprintf(stderr, "digits: %s\n", graphopt_last_error());
        failed = 1;
    }
    for (int k = 0; k < count && !failed; k++) {
        int best = 0;
        for (int digit = 1; digit < 10; digit++)
            if (probabilities[k][digit] > probabilities[k][best])
                best = digit;
        printf("a %d, with %.1f %%\n", best, 100 * (double)probabilities[k][best]);
    }
    graphopt_model_destroy(model);
    return failed;
}
