/* Calls of a model: the caller's buffers are checked, and the program for their shapes is entered. */
#define _GNU_SOURCE
#include "calls.h"

#include <string.h>

/* The shape as the model declares it, with the names of free dims. */
static void say_declared(phrase *p, const graphopt_tensor *t) {
    say(p, "[");
    for (int32_t k = 0; k < t->rank; k++)
        if (t->dims[k] < 0)
            say(p, "%s%.64s", k ? ", " : "", t->dim_names[k]);
        else
            say(p, "%s%lld", k ? ", " : "", (long long)t->dims[k]);
    say(p, "]");
}

static int same_dims(const graphopt_shape *s, const int64_t *dims, int32_t rank) {
    return s->rank == rank && (rank == 0 || memcmp(s->dims, dims, (size_t)rank * sizeof *dims) == 0);
}

static graphopt_status refuse_shape(const graphopt_tensor *t, const graphopt_input *x) {
    phrase wanted = {"", 0}, got = {"", 0};
    say_declared(&wanted, t);
    say_dims(&got, x->dims, x->rank);
    return wrong("input %.200s: expected shape %s, got %s. Pass the shape that the model declares", t->name,
                 wanted.text, got.text);
}

/* The input's shape is one that the model declares. */
static graphopt_status check_declared(const graphopt_tensor *t, const graphopt_input *x) {
    if (x->dims == NULL && x->rank == 0)
        return GRAPHOPT_OK;
    if (x->dims == NULL)
        return wrong("input %.200s: its rank is %d, but its dims are NULL. Give them, or a rank of 0 with NULL for the only "
                     "shape that there is", t->name, (int)x->rank);
    if (x->rank < 0 || x->rank > 64)
        return wrong("input %.200s: its rank is %d. Give the number of its dims", t->name, (int)x->rank);
    if (t->rank < 0)
        return GRAPHOPT_OK;
    if (t->rank != x->rank)
        return refuse_shape(t, x);
    for (int32_t k = 0; k < t->rank; k++)
        if (x->dims[k] < 0 || (t->dims[k] >= 0 && t->dims[k] != x->dims[k]))
            return refuse_shape(t, x);
    return GRAPHOPT_OK;
}

/* Whether all programs have the same shape of an input, so that it can be left out. */
static int only_one_shape(const description *d, size_t input) {
    for (size_t k = 1; k < d->programs; k++)
        if (!same_dims(&d->program[0].inputs[input], d->program[k].inputs[input].dims, d->program[k].inputs[input].rank))
            return 0;
    return 1;
}

/* A buffer is of the tensor's type and size, and where its elements can be. `kind` is "input" or "output". */
static graphopt_status check_buffer(const char *kind, const graphopt_tensor *t, const graphopt_shape *s, const void *data,
                                    size_t bytes, graphopt_dtype dtype) {
    if (dtype != t->dtype)
        return wrong("%s %.200s: expected dtype %d (%s), got %d. Convert the data, or correct its dtype", kind,
                     t->name, (int)t->dtype, t->dtype_name, (int)dtype);
    if (bytes != s->bytes || (data == NULL && bytes > 0)) {
        phrase type = {"", 0};
        say(&type, "%s", t->dtype_name);
        say_dims(&type, s->dims, s->rank);
        if (bytes != s->bytes)
            return wrong("%s %.200s: %s takes %zu bytes, got %zu. Give a dense buffer of that size", kind, t->name, type.text,
                         s->bytes, bytes);
        return wrong("%s %.200s: its data is NULL. Give %zu bytes for %s", kind, t->name, bytes, type.text);
    }
    if ((uintptr_t)data % t->element != 0)
        return wrong("%s %.200s: its data at %p is not aligned to the %zu bytes of its elements. Copy it", kind,
                     t->name, data, t->element);
    return GRAPHOPT_OK;
}

/* " = 16000", " = 0, 1": the first elements, as bytes in hexadecimal where C has no such type. */
static void say_elements(phrase *p, const graphopt_tensor *t, const void *data, size_t elements) {
    const unsigned char *at = data;
    say(p, " =");
    for (size_t k = 0; k < elements && k < 8; k++, at += t->element) {
        int64_t n = 0;
        double real;
        float single;
        say(p, k ? ", " : " ");
        switch (t->dtype) {
        case GRAPHOPT_FLOAT64:
            memcpy(&real, at, sizeof real);
            say(p, "%g", real);
            break;
        case GRAPHOPT_FLOAT32:
            memcpy(&single, at, sizeof single);
            say(p, "%g", (double)single);
            break;
        case GRAPHOPT_INT8:
        case GRAPHOPT_INT16:
        case GRAPHOPT_INT32:
        case GRAPHOPT_INT64:
            n = at[t->element - 1] & 0x80 ? -1 : 0; /* the sign, above the bytes that there are */
            memcpy(&n, at, t->element);
            say(p, "%lld", (long long)n);
            break;
        case GRAPHOPT_BOOL:
        case GRAPHOPT_UINT8:
        case GRAPHOPT_UINT16:
        case GRAPHOPT_UINT32:
        case GRAPHOPT_UINT64:
            memcpy(&n, at, t->element);
            say(p, "%llu", (unsigned long long)n);
            break;
        default:
            for (size_t b = 0; b < t->element; b++)
                say(p, "%02x", at[b]);
        }
    }
    if (elements > 8)
        say(p, ", ...");
}

/* Whether all inputs that decide by their values have those that the program is for. */
static int same_values(const description *d, const program *p, const graphopt_input *inputs) {
    for (size_t k = 0; k < d->inputs; k++)
        if (d->decides[k] && p->inputs[k].bytes > 0 && memcmp(inputs[k].data, p->values[k], p->inputs[k].bytes) != 0)
            return 0;
    return 1;
}

static graphopt_status no_program(const description *d, const graphopt_input *inputs) {
    phrase wanted = {"", 0}, known = {"", 0};
    int deciding = 0;
    for (size_t k = 0; k < d->inputs; k++) {
        deciding |= d->decides[k];
        const graphopt_shape *only = inputs[k].dims == NULL ? &d->program[0].inputs[k] : NULL;
        say(&wanted, "%s%.64s ", k ? ", " : "", d->input[k].name);
        say_dims(&wanted, only ? only->dims : inputs[k].dims, only ? only->rank : inputs[k].rank);
        if (d->decides[k] && inputs[k].data != NULL && inputs[k].dtype == d->input[k].dtype)
            say_elements(&wanted, &d->input[k], inputs[k].data, inputs[k].bytes / d->input[k].element);
    }
    for (size_t p = 0; p < d->programs && p < 8; p++) {
        say(&known, "%s", p ? "; " : "");
        for (size_t k = 0; k < d->inputs; k++) {
            say(&known, "%s%.64s ", k ? ", " : "", d->input[k].name);
            say_dims(&known, d->program[p].inputs[k].dims, d->program[p].inputs[k].rank);
            if (d->decides[k])
                say_elements(&known, &d->input[k], d->program[p].values[k], d->program[p].inputs[k].elements);
        }
    }
    return fail(GRAPHOPT_NO_PROGRAM, "the model was not compiled for %s. It was for %s%s. Compile it for these %s too",
                wanted.text, known.text, d->programs > 8 ? "; and more" : "", deciding ? "shapes and values" : "shapes");
}

static graphopt_status find(const graphopt_model *model, const graphopt_input *inputs, size_t count, size_t *program) {
    const description *d = &model->d;
    if (count != d->inputs)
        return wrong("the model takes %zu inputs, got %zu. Give all of them, in the order of graphopt_model_input",
                     d->inputs, count);
    if (inputs == NULL && count > 0)
        return wrong("inputs: NULL. Give an array of %zu", count);
    for (size_t k = 0; k < count; k++) {
        graphopt_status status = check_declared(&d->input[k], &inputs[k]);
        if (status != GRAPHOPT_OK)
            return status;
        if (inputs[k].dims == NULL && d->input[k].rank != 0 && !only_one_shape(d, k))
            return wrong("input %.200s: its dims are NULL, but the model has it in several shapes. Give its dims",
                     d->input[k].name);
    }
    for (size_t p = 0; p < d->programs; p++) {
        size_t k = 0;
        while (k < count && (inputs[k].dims == NULL || same_dims(&d->program[p].inputs[k], inputs[k].dims, inputs[k].rank)))
            k++;
        if (k < count)
            continue;
        graphopt_status status = GRAPHOPT_OK;
        for (k = 0; status == GRAPHOPT_OK && k < count; k++) /* before their values are read */
            if (d->decides[k])
                status = check_buffer("input", &d->input[k], &d->program[p].inputs[k], inputs[k].data, inputs[k].bytes,
                                      inputs[k].dtype);
        if (status != GRAPHOPT_OK)
            return status;
        if (same_values(d, &d->program[p], inputs)) {
            *program = p;
            return GRAPHOPT_OK;
        }
    }
    return no_program(d, inputs);
}

static int overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    return a_bytes > 0 && b_bytes > 0 && (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

static graphopt_status refuse_overlap(const graphopt_tensor *output, const char *kind, const graphopt_tensor *other) {
    return wrong("output %.200s: its memory overlaps that of %s %.200s. Give every output memory of its own",
                 output->name, kind, other->name);
}

static graphopt_status check(const graphopt_model *model, const graphopt_input *inputs, size_t input_count,
                             const graphopt_output *outputs, size_t output_count, size_t *program) {
    const description *d = &model->d;
    graphopt_status status = find(model, inputs, input_count, program);
    if (status != GRAPHOPT_OK)
        return status;
    if (output_count != d->outputs || (outputs == NULL && output_count > 0))
        return wrong("the model gives %zu outputs, got %zu%s. Give all of them, in the order of graphopt_model_output",
                     d->outputs, output_count, outputs == NULL ? " at NULL" : "");
    const graphopt_shape *taken = d->program[*program].inputs, *given = d->program[*program].outputs;
    for (size_t k = 0; status == GRAPHOPT_OK && k < input_count; k++)
        status = check_buffer("input", &d->input[k], &taken[k], inputs[k].data, inputs[k].bytes, inputs[k].dtype);
    for (size_t k = 0; status == GRAPHOPT_OK && k < output_count; k++) {
        const graphopt_output *y = &outputs[k];
        if ((y->dims != NULL || y->rank != 0) && (y->dims == NULL || !same_dims(&given[k], y->dims, y->rank))) {
            phrase wanted = {"", 0}, got = {"", 0};
            say_dims(&wanted, given[k].dims, given[k].rank);
            if (y->dims != NULL && y->rank <= 64)
                say_dims(&got, y->dims, y->rank);
            return wrong("output %.200s: its shape is %s, got %s. Correct it, or give a rank of 0 with NULL for its dims",
                         d->output[k].name, wanted.text, got.length ? got.text : "no dims");
        }
        status = check_buffer("output", &d->output[k], &given[k], y->data, y->bytes, y->dtype);
    }
    for (size_t k = 0; status == GRAPHOPT_OK && k < output_count; k++) {
        for (size_t i = 0; i < input_count; i++)
            if (overlap(outputs[k].data, outputs[k].bytes, inputs[i].data, inputs[i].bytes))
                return refuse_overlap(&d->output[k], "input", &d->input[i]);
        for (size_t i = 0; i < k; i++)
            if (overlap(outputs[k].data, outputs[k].bytes, outputs[i].data, outputs[i].bytes))
                return refuse_overlap(&d->output[k], "output", &d->output[i]);
    }
    return status;
}

graphopt_status graphopt_model_find(const graphopt_model *model, const graphopt_input *inputs, size_t input_count,
                                    size_t *program) {
    if (model == NULL || program == NULL)
        return wrong("%s: NULL. Give what graphopt_model_create made, and where to put the program",
                     model == NULL ? "model" : "program");
    return find(model, inputs, input_count, program);
}

graphopt_status graphopt_model_run(graphopt_model *model, const graphopt_input *inputs, size_t input_count,
                                   const graphopt_output *outputs, size_t output_count) {
    size_t k, n = 0;
    if (model == NULL)
        return wrong("model: NULL. Give what graphopt_model_create made");
    graphopt_status status = check(model, inputs, input_count, outputs, output_count, &k);
    if (status != GRAPHOPT_OK)
        return status;
    void *workspace = workspace_borrow(&model->work);
    if (workspace == NULL)
        return fail(GRAPHOPT_NO_MEMORY, "there is no memory left for the %zu bytes that a call takes", model->work.arena);
    void **pointers = workspace_pointers(&model->work, workspace);
    for (size_t i = 0; i < input_count; i++)
        pointers[n++] = workspace_pointer(inputs[i].data);
    for (size_t i = 0; i < output_count; i++)
        pointers[n++] = workspace_pointer(outputs[i].data);
    pointers[n++] = workspace_pointer(model->entries[k].weights);
    pointers[n++] = workspace;
    int failed = graphopt_call(model->pool, model->entries[k].code, pointers);
    workspace_give_back(&model->work, workspace);
    if (failed)
        return fail(GRAPHOPT_FAILED, "compiled code failed (%d). This is a bug in graphopt; please report it", failed);
    return GRAPHOPT_OK;
}
