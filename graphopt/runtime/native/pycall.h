/* What runtime/host/pycall.py and pycall.c agree on. */
#ifndef GRAPHOPT_PYCALL_H
#define GRAPHOPT_PYCALL_H

#include <stddef.h>
#include <stdint.h>

#include "graphopt.h"

#define GRAPHOPT_PYCALL 1 /* of this header */

/* The head of every object. */
typedef struct object {
    intptr_t references;
    struct object *type;
} object;

typedef struct method method;       /* PyMethodDef */
typedef struct dl_tensor dl_tensor; /* DLTensor */

/* Of Python, in the order of pycall.py's table. */
typedef struct {
    object *(*new_function)(const method *, object *self, object *module);
    object *(*new_capsule)(void *pointer, const char *name, void (*end)(object *));
    void *(*in_capsule)(object *capsule, const char *name);
    object *(*call)(object *function, object *arguments, object *names);
    object *(*call_fast)(object *function, object *const *arguments, size_t count, object *names);
    object *(*new_tuple)(intptr_t count);
    int (*set_item)(object *tuple, intptr_t k, object *item);
    void (*keep)(object *);
    void (*drop)(object *);
    void *(*release_lock)(void);
    void (*take_lock)(void *state);
    void (*forget_error)(void);
    object *(*no_memory)(void);
    void (*raise)(object *type, object *error);
    object *none, *yes, *ndarray;
} py_functions;

/* A program, in the order of pycall.py's. Nothing of it is kept but by `held`. `tensor` is NULL where tensors are not taken. */
typedef struct {
    object *tensor, *parameter;        /* torch's types */
    int (*read)(object *, dl_tensor *);
    object *is_neg, *torch_empty;      /* Tensor.is_neg, torch.empty */
    object *numpy_empty;               /* numpy.empty */
    object *failed;                    /* the error to raise if compiled code fails */
    object *held;                      /* what all of this lives by */
    graphopt_pool *pool;
    graphopt_entry entry;
    const void *weights;
    size_t inputs, outputs, arena;
} py_program;

/* An input or output, in the order of pycall.py's. */
typedef struct {
    object *dtype;
    const int64_t *dims;
    int64_t rank;
    object *numpy_arguments, *torch_arguments, *torch_names; /* of what makes one; NULL for inputs */
    int64_t code, bits;                                      /* DLPack's type; 0 bits: tensors are not taken */
} py_tensor;

/* GRAPHOPT_PYCALL of the library as it was built. */
GRAPHOPT_API int graphopt_pycall_abi(void);

/* The function of a program: results for arrays that fit exactly, one or a tuple of them; None for all else. A new reference, or
 * NULL with an error. Called with Python's lock held; all three are copied, and the first must always be the same. */
GRAPHOPT_API object *graphopt_pycall_create(const py_functions *functions, const py_program *p, const py_tensor *tensors);

/* A program of one input and one output, eight bytes that become the input's address: for trying how arrays are read. */
GRAPHOPT_API int32_t graphopt_pycall_where(void **pointers);

#endif
