/* A model compiled by graphopt, from C and C++.
 *
 * A saved model is a folder; libgraphopt.so in it runs that folder and others, with nothing but the C library beneath it:
 *
 *     graphopt_model *model;
 *     if (graphopt_model_create("net.gopt", NULL, &model) != GRAPHOPT_OK)
 *         fprintf(stderr, "%s\n", graphopt_last_error());
 *     graphopt_input x = {data, sizeof data, GRAPHOPT_FLOAT32, 4, (const int64_t[]){1, 3, 32, 32}};
 *     graphopt_output y = {result, sizeof result, GRAPHOPT_FLOAT32, 0, NULL};
 *     if (graphopt_model_run(model, &x, 1, &y, 1) != GRAPHOPT_OK)
 *         fprintf(stderr, "%s\n", graphopt_last_error());
 *     graphopt_model_destroy(model);
 *
 * A model may be run by any number of threads at once, and any number of models may be there. A model does not change
 * once it is made, so that all functions but graphopt_model_destroy may be called on it from any thread at any time. The
 * library prints nothing, ends no process, handles no signal, and has no state of its own but the text of each thread's last
 * error and a count of forks.
 *
 * Tensors are dense, row-major (the last dim is contiguous) and little-endian; dims are counted in elements. Sizes are in bytes.
 */
#ifndef GRAPHOPT_MODEL_H
#define GRAPHOPT_MODEL_H

#include <stddef.h>
#include <stdint.h>

/* The interface of this header. It grows by functions, statuses, dtypes, members at the end of the structures that the library
 * makes, and members of graphopt_options, which tells its size; the number grows when anything else changes. */
#define GRAPHOPT_MODEL_ABI 1

#ifndef GRAPHOPT_API
#define GRAPHOPT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t graphopt_status;
enum {
    GRAPHOPT_OK = 0,
    GRAPHOPT_BAD_ARGUMENT = 1, /* a call's argument: a wrong count, dtype, shape, size or pointer */
    GRAPHOPT_NO_PROGRAM = 2,   /* the model was not compiled for these shapes, or these values */
    GRAPHOPT_NO_FILE = 3,      /* a file of the folder cannot be read */
    GRAPHOPT_DAMAGED = 4,      /* a file is not as it was written, or the manifest makes no sense */
    GRAPHOPT_NEWER = 5,        /* the folder has a format that this library does not know */
    GRAPHOPT_NO_CPU = 6,       /* the code needs instructions that this machine lacks */
    GRAPHOPT_NO_MEMORY = 7,
    GRAPHOPT_FAILED = 8        /* compiled code failed: a bug in graphopt */
};

/* Types of elements. Those narrower than a byte take a byte each, in its low bits. */
typedef int32_t graphopt_dtype;
enum {
    GRAPHOPT_BOOL = 1, /* a byte, 0 or 1 */
    GRAPHOPT_INT8 = 2,
    GRAPHOPT_INT16 = 3,
    GRAPHOPT_INT32 = 4,
    GRAPHOPT_INT64 = 5,
    GRAPHOPT_UINT8 = 6,
    GRAPHOPT_UINT16 = 7,
    GRAPHOPT_UINT32 = 8,
    GRAPHOPT_UINT64 = 9,
    GRAPHOPT_FLOAT16 = 10,
    GRAPHOPT_BFLOAT16 = 11,
    GRAPHOPT_FLOAT32 = 12,
    GRAPHOPT_FLOAT64 = 13,
    GRAPHOPT_INT2 = 14,
    GRAPHOPT_INT4 = 15,
    GRAPHOPT_UINT2 = 16,
    GRAPHOPT_UINT4 = 17,
    GRAPHOPT_FLOAT8_E4M3FN = 18,
    GRAPHOPT_FLOAT8_E4M3FNUZ = 19,
    GRAPHOPT_FLOAT8_E5M2 = 20,
    GRAPHOPT_FLOAT8_E5M2FNUZ = 21,
    GRAPHOPT_FLOAT8_E8M0FNU = 22,
    GRAPHOPT_FLOAT4_E2M1FN = 23,
    GRAPHOPT_COMPLEX64 = 24, /* real and imaginary part, as C's float _Complex */
    GRAPHOPT_COMPLEX128 = 25
};

typedef struct graphopt_model graphopt_model;
typedef struct graphopt_pool graphopt_pool;

/* How to make a model. Start from GRAPHOPT_OPTIONS; what is 0 is the default. */
typedef struct graphopt_options {
    size_t size;          /* of this structure, as the caller was compiled */
    int32_t threads;      /* of a call, the caller's among them; 0: what the model was compiled for, at most the processors
                           * that this process may use */
    int32_t skip_digests; /* not 0: believe the files, whose contents are otherwise compared with the manifest's digests */
    graphopt_pool *pool;  /* threads that several models share (`threads` must be 0); NULL: a pool of the model's own */
} graphopt_options;
#define GRAPHOPT_OPTIONS {sizeof(graphopt_options), 0, 0, NULL}

/* An input or output as the model declares it. */
typedef struct graphopt_tensor {
    const char *name;             /* the source model's, UTF-8 */
    const char *dtype_name;       /* numpy's: "float32", "int64", "bool", ... */
    graphopt_dtype dtype;
    int32_t rank;                 /* -1: not declared */
    const int64_t *dims;          /* `rank` of them, -1 where the size is free */
    const char *const *dim_names; /* `rank` of them, NULL where the size is fixed; equal names are equal sizes */
    size_t element;               /* bytes of one element */
} graphopt_tensor;

/* The shape of an input or output in one of the programs. */
typedef struct graphopt_shape {
    const int64_t *dims; /* `rank` of them */
    int32_t rank;
    size_t elements;     /* their product */
    size_t bytes;
} graphopt_shape;

/* What a caller passes in. These two structures never grow: they are passed as arrays. */
typedef struct graphopt_input {
    const void *data;    /* aligned as its elements are (to 64 bytes is best); may be NULL where `bytes` is 0 */
    size_t bytes;        /* as the shape says */
    graphopt_dtype dtype;
    int32_t rank;
    const int64_t *dims; /* `rank` of them; NULL with a rank of 0: the only shape that the model has for this input */
} graphopt_input;

typedef struct graphopt_output {
    void *data;          /* as above; no other buffer of the call may overlap it */
    size_t bytes;
    graphopt_dtype dtype;
    int32_t rank;
    const int64_t *dims; /* NULL with a rank of 0: as the program gives it */
} graphopt_output;

/* GRAPHOPT_MODEL_ABI of the library. */
GRAPHOPT_API int32_t graphopt_model_abi(void);

/* What went wrong in this thread's last call that did not return GRAPHOPT_OK, in words: what, where, and what to do. Of the
 * functions that return pointers none fails. Valid until the thread's next such failure; never NULL. */
GRAPHOPT_API const char *graphopt_last_error(void);

/* Open a saved model, check it, and load its code for this processor. Its weights are mapped, and thus shared between processes.
 * `options` may be NULL. On failure *model is NULL. The folder may be replaced (by rename, as saving does) or removed later, but
 * its files must not be written to. */
GRAPHOPT_API graphopt_status graphopt_model_create(const char *folder, const graphopt_options *options, graphopt_model **model);

/* Free all that the model holds, with its descriptions. Nobody may be using it. NULL is allowed. */
GRAPHOPT_API void graphopt_model_destroy(graphopt_model *model);

/* The CPU that the loaded code was compiled for ("x86:znver4"), and the threads that a call uses. */
GRAPHOPT_API const char *graphopt_model_target(const graphopt_model *model);
GRAPHOPT_API int32_t graphopt_model_threads(const graphopt_model *model);

/* What the model takes and gives, in the order in which run() wants it. Descriptions live as long as the model; NULL where
 * there is no such input, output or program. A model that is NULL has none. */
GRAPHOPT_API size_t graphopt_model_inputs(const graphopt_model *model);
GRAPHOPT_API size_t graphopt_model_outputs(const graphopt_model *model);
GRAPHOPT_API const graphopt_tensor *graphopt_model_input(const graphopt_model *model, size_t input);
GRAPHOPT_API const graphopt_tensor *graphopt_model_output(const graphopt_model *model, size_t output);

/* The programs: a model is compiled for each set of input shapes that it can be run with, and for each set of values of the inputs
 * that shape it. */
GRAPHOPT_API size_t graphopt_model_programs(const graphopt_model *model);
GRAPHOPT_API const graphopt_shape *graphopt_model_program_input(const graphopt_model *model, size_t program, size_t input);
GRAPHOPT_API const graphopt_shape *graphopt_model_program_output(const graphopt_model *model, size_t program, size_t output);

/* The elements that an input must have for a program where they shape it (a sampling rate, axes, sizes), as many bytes as its
 * shape says; NULL where any will do. */
GRAPHOPT_API const void *graphopt_model_program_value(const graphopt_model *model, size_t program, size_t input);

/* The program for inputs of these shapes, and with it the shapes of the outputs. `rank` and `dims` of each are read; where values
 * choose the program, their `data`, `bytes` and `dtype` too. */
GRAPHOPT_API graphopt_status graphopt_model_find(const graphopt_model *model, const graphopt_input *inputs, size_t input_count,
                                                 size_t *program);

/* Run the program for the inputs' shapes, and values where they choose it. All buffers are checked first; nothing is written where one is wrong. Allocates only
 * where more calls overlap than ever before (at most 32 workspaces are kept between calls). */
GRAPHOPT_API graphopt_status graphopt_model_run(graphopt_model *model, const graphopt_input *inputs, size_t input_count,
                                                const graphopt_output *outputs, size_t output_count);

/* Threads to share between models, `threads` with the caller's among them. They sleep where there is nothing to do. One call has
 * them in a parallel loop; the loops of calls that overlap it run on their own thread meanwhile. NULL without memory. Destroy a
 * pool after the models that use it. */
GRAPHOPT_API graphopt_pool *graphopt_pool_create(int threads);
GRAPHOPT_API void graphopt_pool_destroy(graphopt_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
