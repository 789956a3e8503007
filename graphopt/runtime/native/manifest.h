/* What the manifest of a saved model says, checked, and of its programs those for this processor. */
#ifndef GRAPHOPT_MANIFEST_H
#define GRAPHOPT_MANIFEST_H

#include "cpu.h"
#include "error.h"
#include "memory.h"

#define MANIFEST "manifest.json"

typedef struct {
    const char *name;
    size_t bytes;
    char sha256[65];
} listed_file;

typedef struct {
    const char *target, *entry;
    const char *said;   /* what `digest` is the SHA-256 of, in text */
    listed_file *code, *weights;
    const char *digest; /* that it was saved with, NULL where there is none */
    int32_t threads;
    size_t arena;
    graphopt_shape *inputs, *outputs; /* as many as the model has */
    void **values;                    /* of the inputs whose values it is for, NULL for the others */
} program;

typedef struct {
    size_t inputs, outputs, programs;
    graphopt_tensor *input, *output;
    unsigned char *decides; /* of each input, whether its value and not its shape alone says which program runs */
    program *program;
    int64_t minor; /* of the format */
} description;

/* Read a manifest's text into memory of `m`. `where` names the folder in messages. */
graphopt_status describe(description *d, memory *m, const char *text, size_t length, const cpu *here, const char *where);

#endif
