/* Calls from Python that its interpreter has no part in: a builtin function for one program, which takes arrays and gives new
 * ones. runtime/host/pycall.py makes it.
 *
 * Compiled code streams weights through the cache, so that whatever Python looks at between two calls comes from far away; the
 * less that is, the better. The library is not linked with Python and needs none of its headers: what it calls are functions
 * of the Stable ABI (PEP 384, and PyObject_Vectorcall, which is there since 3.9), whose addresses it is given. It looks into
 * numpy's arrays by the struct that numpy documents for C (PyArrayObject_fields), and into torch's tensors by DLPack's exchange
 * interface (version 1). pycall.py tries both on arrays that it knows before it relies on them.
 *
 * What does not fit exactly gives None, and has had no effect: the caller then does the same by longer ways, or says what is
 * wrong.
 */
#include "pycall.h"

#include <stdlib.h>
#include <string.h>

#include "workspace.h"

#define FASTCALL 0x80 /* METH_FASTCALL */
#define NAME "graphopt.caller"
#define C_ORDER_ALIGNED (0x1 | 0x100) /* NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ALIGNED */
#define DL_CPU 1

typedef struct {
    object head;
    void *data;
    int rank;
    const int64_t *dims, *strides;
    object *base, *dtype;
    int flags;
} numpy_array;

struct dl_tensor {
    void *data;
    int32_t device, device_id, rank;
    uint8_t code, bits;
    uint16_t lanes;
    const int64_t *dims, *strides; /* strides, in elements, may be NULL for C order */
    uint64_t offset;
};

struct method {
    const char *name;
    object *(*function)(object *self, object *const *arguments, intptr_t count);
    int flags;
    const char *doc;
};

typedef struct {
    py_program p;
    workspaces work;
    py_tensor tensors[]; /* inputs, then outputs */
} caller;

static py_functions py; /* the same for all callers */

static int same_dims(const py_tensor *wanted, const int64_t *dims, int64_t rank) {
    if (rank != wanted->rank)
        return 0;
    for (int64_t k = 0; k < rank; k++)
        if (dims[k] != wanted->dims[k])
            return 0;
    return 1;
}

static int take_array(const py_program *p, const py_tensor *wanted, object *x, void **data) {
    (void)p;
    const numpy_array *a = (const numpy_array *)(const void *)x;
    if (x->type != py.ndarray || a->dtype != wanted->dtype || (a->flags & C_ORDER_ALIGNED) != C_ORDER_ALIGNED ||
        !same_dims(wanted, a->dims, a->rank))
        return 0;
    *data = workspace_pointer(a->data);
    return 1;
}

/* Whether a tensor with elements lies in C order. */
static int in_order(const dl_tensor *t) {
    int64_t elements = 1;
    for (int32_t k = t->rank - 1; t->strides != NULL && k >= 0; elements *= t->dims[k--])
        if (t->dims[k] != 1 && t->strides[k] != elements)
            return 0;
    return 1;
}

static int is_empty(const py_tensor *t) {
    for (int64_t k = 0; k < t->rank; k++)
        if (t->dims[k] == 0)
            return 1;
    return 0;
}

static int take_tensor(const py_program *p, const py_tensor *wanted, object *x, void **data) {
    dl_tensor t;
    if ((x->type != p->tensor && x->type != p->parameter) || wanted->bits == 0)
        return 0;
    if (p->read(x, &t) != 0) { /* what has no memory to read: sparse, meta, inside of a transformation */
        py.forget_error();
        return 0;
    }
    if (t.device != DL_CPU || t.code != wanted->code || t.bits != wanted->bits || t.lanes != 1 ||
        !same_dims(wanted, t.dims, t.rank))
        return 0;
    if (!is_empty(wanted) && (t.data == NULL || ((uintptr_t)t.data + t.offset) % (t.bits / 8u) != 0 || !in_order(&t)))
        return 0;
    object *negative = py.call_fast(p->is_neg, &x, 1, NULL);
    if (negative == NULL) {
        py.forget_error();
        return 0;
    }
    int lazily = negative == py.yes;
    py.drop(negative);
    *data = workspace_pointer(t.data == NULL ? NULL : (const char *)t.data + t.offset);
    return !lazily;
}

typedef int (*taking)(const py_program *, const py_tensor *, object *, void **);

static object *new_output(const py_program *p, const py_tensor *t, taking take) {
    return take == take_array ? py.call(p->numpy_empty, t->numpy_arguments, NULL)
                              : py.call(p->torch_empty, t->torch_arguments, t->torch_names);
}

static object *nothing(void) {
    py.keep(py.none);
    return py.none;
}

/* Outputs, new, with their memory in `pointers`: one, or a tuple. NULL with an error; None where it is not what it should be
 * (under one of torch's modes torch.empty may give anything). */
static object *make_outputs(const caller *c, void **pointers, taking take) {
    const py_tensor *t = c->tensors + c->p.inputs;
    object *all = c->p.outputs == 1 ? NULL : py.new_tuple((intptr_t)c->p.outputs);
    if (all == NULL && c->p.outputs != 1)
        return NULL;
    for (size_t k = 0; k < c->p.outputs; k++) {
        object *made = new_output(&c->p, &t[k], take);
        int fits = made != NULL && take(&c->p, &t[k], made, &pointers[k]);
        if (fits && all == NULL)
            return made;
        if (made != NULL && all != NULL)
            py.set_item(all, (intptr_t)k, made); /* which has it now */
        if (!fits) {
            if (all != NULL || made != NULL)
                py.drop(all != NULL ? all : made);
            return made == NULL ? NULL : nothing();
        }
    }
    return all;
}

/* Results for arguments that fit; None, or NULL with an error. */
static object *run(caller *c, object *const *arguments, void *workspace) {
    void **pointers = workspace_pointers(&c->work, workspace);
    taking take = c->p.inputs > 0 && arguments[0]->type != py.ndarray && c->p.tensor != NULL ? take_tensor : take_array;
    for (size_t k = 0; k < c->p.inputs; k++)
        if (!take(&c->p, &c->tensors[k], arguments[k], &pointers[k]))
            return nothing();
    object *results = make_outputs(c, pointers + c->p.inputs, take);
    if (results == NULL || results == py.none)
        return results;
    pointers[c->p.inputs + c->p.outputs] = workspace_pointer(c->p.weights);
    pointers[c->p.inputs + c->p.outputs + 1] = workspace;
    void *state = py.release_lock();
    int failed = graphopt_call(c->p.pool, c->p.entry, pointers);
    py.take_lock(state);
    if (failed) {
        py.drop(results);
        py.raise(c->p.failed->type, c->p.failed);
        return NULL;
    }
    return results;
}

static object *enter(object *self, object *const *arguments, intptr_t count) {
    caller *c = py.in_capsule(self, NAME);
    if (c == NULL || (size_t)count != c->p.inputs)
        return c == NULL ? NULL : nothing();
    void *workspace = workspace_borrow(&c->work);
    if (workspace == NULL)
        return py.no_memory();
    object *results = run(c, arguments, workspace);
    workspace_give_back(&c->work, workspace);
    return results;
}

static void end(object *capsule) {
    caller *c = py.in_capsule(capsule, NAME);
    object *held = c->p.held;
    workspaces_free(&c->work);
    free(c);
    py.drop(held);
}

int graphopt_pycall_abi(void) { return GRAPHOPT_PYCALL; }

object *graphopt_pycall_create(const py_functions *functions, const py_program *p, const py_tensor *tensors) {
    static const method entering = {"run", enter, FASTCALL,
                                    "Results for arrays that fit exactly: one, or a tuple of them; None for all else."};
    py = *functions;
    size_t bytes = (p->inputs + p->outputs) * sizeof *tensors;
    caller *c = calloc(1, sizeof *c + bytes);
    if (c == NULL)
        return py.no_memory();
    c->p = *p;
    c->work.arena = p->arena;
    c->work.pointers = p->inputs + p->outputs + 2;
    memcpy(c->tensors, tensors, bytes);
    object *capsule = py.new_capsule(c, NAME, end);
    if (capsule == NULL) {
        free(c);
        return NULL;
    }
    py.keep(p->held); /* until `end` */
    object *made = py.new_function(&entering, capsule, NULL);
    py.drop(capsule);
    return made;
}

int32_t graphopt_pycall_where(void **pointers) {
    memcpy(pointers[1], &pointers[0], sizeof pointers[0]);
    return 0;
}
