#include "manifest.h"

#include <stdio.h>
#include <string.h>

#include "files.h"
#include "json.h"

#define MOST_BYTES ((int64_t)1 << 46) /* of anything: what an address can reach */
#define MOST_DIMS 64
#define MOST_THREADS 4096
#define FORMAT_MAJOR 1
#define FORMAT_MINOR 2

static const struct {
    const char *name;
    graphopt_dtype dtype;
    size_t bytes;
} DTYPES[] = {
    {"bool", GRAPHOPT_BOOL, 1},
    {"int8", GRAPHOPT_INT8, 1},
    {"int16", GRAPHOPT_INT16, 2},
    {"int32", GRAPHOPT_INT32, 4},
    {"int64", GRAPHOPT_INT64, 8},
    {"uint8", GRAPHOPT_UINT8, 1},
    {"uint16", GRAPHOPT_UINT16, 2},
    {"uint32", GRAPHOPT_UINT32, 4},
    {"uint64", GRAPHOPT_UINT64, 8},
    {"float16", GRAPHOPT_FLOAT16, 2},
    {"bfloat16", GRAPHOPT_BFLOAT16, 2},
    {"float32", GRAPHOPT_FLOAT32, 4},
    {"float64", GRAPHOPT_FLOAT64, 8},
    {"int2", GRAPHOPT_INT2, 1},
    {"int4", GRAPHOPT_INT4, 1},
    {"uint2", GRAPHOPT_UINT2, 1},
    {"uint4", GRAPHOPT_UINT4, 1},
    {"float8_e4m3fn", GRAPHOPT_FLOAT8_E4M3FN, 1},
    {"float8_e4m3fnuz", GRAPHOPT_FLOAT8_E4M3FNUZ, 1},
    {"float8_e5m2", GRAPHOPT_FLOAT8_E5M2, 1},
    {"float8_e5m2fnuz", GRAPHOPT_FLOAT8_E5M2FNUZ, 1},
    {"float8_e8m0fnu", GRAPHOPT_FLOAT8_E8M0FNU, 1},
    {"float4_e2m1fn", GRAPHOPT_FLOAT4_E2M1FN, 1},
    {"complex64", GRAPHOPT_COMPLEX64, 8},
    {"complex128", GRAPHOPT_COMPLEX128, 16},
};

typedef struct {
    description *d;
    memory *m;
    const cpu *here;
    const char *where;
    listed_file *files;
    size_t file_count;
} reading;

static graphopt_status damaged(const reading *r, const char *what) {
    return fail(GRAPHOPT_DAMAGED, "%.500s: " MANIFEST " is damaged: %.500s. Save the model again", r->where, what);
}

/* The sizes of a concrete shape. */
static graphopt_status read_shape(const reading *r, const json_value *dims, size_t element, graphopt_shape *shape) {
    int64_t total = 1, n;
    if (dims == NULL || dims->kind != JSON_ARRAY || dims->count > MOST_DIMS)
        return damaged(r, "a program has an input or output without a shape");
    int64_t *sizes = memory_get(r->m, dims->count, sizeof *sizes), *to = sizes;
    if (sizes == NULL)
        return fail_memory();
    int empty = 0;
    for (const json_value *v = dims->first; v != NULL; v = v->next) {
        if (!json_count(v, MOST_BYTES, &n))
            return damaged(r, "a program has a dim that is no size");
        *to++ = n;
        empty |= n == 0;
        if (n > 0 && (__builtin_mul_overflow(total, n, &total) || total > MOST_BYTES / (int64_t)element))
            return damaged(r, "a program has a tensor that is too large");
    }
    total = empty ? 0 : total;
    *shape = (graphopt_shape){sizes, (int32_t)dims->count, (size_t)total, (size_t)total * element};
    return GRAPHOPT_OK;
}

static graphopt_status read_tensor(const reading *r, const json_value *v, graphopt_tensor *t) {
    const char *name = json_text(json_member(v, "name")), *type = json_text(json_member(v, "numpy"));
    const json_value *dims = json_member(v, "shape");
    if (name == NULL || dims == NULL)
        return damaged(r, "an input or output lacks its name or shape");
    t->name = memory_text(r->m, name);
    for (size_t k = 0; type != NULL && k < sizeof DTYPES / sizeof *DTYPES; k++)
        if (strcmp(DTYPES[k].name, type) == 0) {
            t->dtype_name = DTYPES[k].name;
            t->dtype = DTYPES[k].dtype;
            t->element = DTYPES[k].bytes;
        }
    if (t->dtype == 0)
        return fail(GRAPHOPT_NEWER, "%.500s: %.200s has the type %.100s, which this libgraphopt.so does not know. Use the one of "
                                    "the graphopt that made it", r->where, name, type == NULL ? "of no tensor" : type);
    if (dims->kind == JSON_NULL) {
        t->rank = -1;
        return t->name == NULL ? fail_memory() : GRAPHOPT_OK;
    }
    if (dims->kind != JSON_ARRAY || dims->count > MOST_DIMS)
        return damaged(r, "an input or output has a shape that is none");
    int64_t *sizes = memory_get(r->m, dims->count, sizeof *sizes);
    const char **names = memory_get(r->m, dims->count, sizeof *names);
    if (t->name == NULL || sizes == NULL || names == NULL)
        return fail_memory();
    size_t k = 0;
    for (const json_value *d = dims->first; d != NULL; d = d->next, k++) {
        if (d->kind == JSON_TEXT) {
            sizes[k] = -1;
            names[k] = memory_text(r->m, d->text);
            if (names[k] == NULL)
                return fail_memory();
        } else if (!json_count(d, MOST_BYTES, &sizes[k]))
            return damaged(r, "an input or output has a dim that is neither a size nor a name");
    }
    t->rank = (int32_t)dims->count;
    t->dims = sizes;
    t->dim_names = names;
    return GRAPHOPT_OK;
}

static graphopt_status read_tensors(const reading *r, const json_value *list, graphopt_tensor **tensors, size_t *count) {
    if (list == NULL || list->kind != JSON_ARRAY)
        return damaged(r, "it does not list inputs and outputs");
    *count = list->count;
    *tensors = memory_get(r->m, list->count, sizeof **tensors);
    if (*tensors == NULL)
        return fail_memory();
    graphopt_tensor *t = *tensors;
    for (const json_value *v = list->first; v != NULL; v = v->next, t++) {
        graphopt_status status = read_tensor(r, v, t);
        if (status != GRAPHOPT_OK)
            return status;
    }
    return GRAPHOPT_OK;
}

static graphopt_status read_files(reading *r, const json_value *files) {
    if (files == NULL || files->kind != JSON_OBJECT)
        return damaged(r, "it does not list its files");
    r->files = memory_get(r->m, files->count, sizeof *r->files);
    if (r->files == NULL)
        return fail_memory();
    for (const json_value *v = files->first; v != NULL; v = v->next) {
        listed_file *f = &r->files[r->file_count++];
        const char *sha256 = json_text(json_member(v, "sha256"));
        int64_t bytes;
        if (!is_inside(v->key))
            return fail(GRAPHOPT_DAMAGED, "%.500s: " MANIFEST " names a file outside of the folder: %.300s. Do not trust it",
                        r->where, v->key);
        if (!json_count(json_member(v, "bytes"), MOST_BYTES, &bytes) || sha256 == NULL || strlen(sha256) != 64)
            return damaged(r, "a file lacks its size or digest");
        f->name = memory_text(r->m, v->key);
        if (f->name == NULL)
            return fail_memory();
        f->bytes = (size_t)bytes;
        memcpy(f->sha256, sha256, sizeof f->sha256);
    }
    return GRAPHOPT_OK;
}

static listed_file *file_named(const reading *r, const char *name) {
    for (size_t k = 0; name != NULL && k < r->file_count; k++)
        if (strcmp(r->files[k].name, name) == 0)
            return &r->files[k];
    return NULL;
}

/* Whether a program's input is one of those that the model declares. */
static int is_case_of(const graphopt_tensor *t, const graphopt_shape *shape) {
    if (t->rank < 0)
        return 1;
    if (t->rank != shape->rank)
        return 0;
    for (int32_t k = 0; k < t->rank; k++)
        if (t->dims[k] >= 0 && t->dims[k] != shape->dims[k])
            return 0;
    return 1;
}

/* A member of a program; format 1.0 has one program, and some of what it needs beside it or fixed. */
static const json_value *member(const json_value *root, const json_value *v, const char *name) {
    const json_value *found = json_member(v, name);
    return found == NULL && json_member(root, "program") == v ? json_member(root, name) : found;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The bytes of the values that a program is for, which stand in hexadecimal under the names of inputs. */
static graphopt_status read_values(const reading *r, const json_value *values, program *p) {
    const description *d = r->d;
    p->values = memory_get(r->m, d->inputs, sizeof *p->values);
    if (p->values == NULL)
        return fail_memory();
    for (size_t k = 0; k < d->inputs; k++) {
        if (!d->decides[k])
            continue;
        const char *text = json_text(json_member(values, d->input[k].name));
        size_t bytes = p->inputs[k].bytes;
        if (text == NULL || strlen(text) != 2 * bytes)
            return damaged(r, "a program does not say for which value of an input it is");
        unsigned char *to = p->values[k] = memory_get(r->m, bytes + 1, 1); /* not NULL where there are none */
        if (to == NULL)
            return fail_memory();
        for (size_t i = 0; i < bytes; i++) {
            int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
            if (high < 0 || low < 0)
                return damaged(r, "the value of an input is not hexadecimal");
            to[i] = (unsigned char)(high << 4 | low);
        }
    }
    return GRAPHOPT_OK;
}

/* Which inputs decide by their values. */
static graphopt_status read_control(const reading *r, const json_value *control) {
    description *d = r->d;
    d->decides = memory_get(r->m, d->inputs, 1);
    if (d->decides == NULL)
        return fail_memory();
    if (control == NULL)
        return GRAPHOPT_OK;
    if (control->kind != JSON_ARRAY)
        return damaged(r, "control_inputs are no list");
    for (const json_value *v = control->first; v != NULL; v = v->next) {
        size_t k = 0;
        while (k < d->inputs && (json_text(v) == NULL || strcmp(d->input[k].name, v->text) != 0))
            k++;
        if (k == d->inputs)
            return damaged(r, "control_inputs name what is no input");
        d->decides[k] = 1;
    }
    return GRAPHOPT_OK;
}

/* What must be just so for a program's code to run in its own memory, as manifest.py writes it. */
static graphopt_status say_program(const reading *r, const json_value *root, const json_value *v, program *p) {
    const description *d = r->d;
    const json_value *features = member(root, v, "features");
    size_t room = 512 + strlen(p->target) + strlen(p->entry), n = 0;
    for (const json_value *f = features->first; f != NULL; f = f->next)
        room += strlen(f->text) + 1;
    for (size_t k = 0; k < d->inputs; k++)
        room += 64 + 24 * (size_t)p->inputs[k].rank + (d->decides[k] ? 2 * p->inputs[k].bytes : 0);
    for (size_t k = 0; k < d->outputs; k++)
        room += 64 + 24 * (size_t)p->outputs[k].rank;
    char *to = memory_get(r->m, room, 1);
    if (to == NULL)
        return fail_memory();
    p->said = to;
    n += (size_t)sprintf(to + n, "target %s\nfeatures", p->target);
    for (const json_value *f = features->first; f != NULL; f = f->next)
        n += (size_t)sprintf(to + n, " %s", f->text);
    n += (size_t)sprintf(to + n, "\nentry %s\nthreads %d\narena %zu\ncode %.64s\nweights %.64s\n", p->entry, (int)p->threads,
                         p->arena, p->code->sha256, p->weights->sha256);
    for (size_t k = 0; k < d->inputs + d->outputs; k++) {
        int in = k < d->inputs;
        const graphopt_shape *s = in ? &p->inputs[k] : &p->outputs[k - d->inputs];
        n += (size_t)sprintf(to + n, "%s %s", in ? "input" : "output", (in ? &d->input[k] : &d->output[k - d->inputs])->dtype_name);
        for (int32_t i = 0; i < s->rank; i++)
            n += (size_t)sprintf(to + n, " %lld", (long long)s->dims[i]);
        to[n++] = '\n';
    }
    for (size_t k = 0; k < d->inputs; k++)
        if (d->decides[k])
            n += (size_t)sprintf(to + n, "value %s\n", json_text(json_member(json_member(v, "values"), d->input[k].name)));
    to[n] = '\0';
    return GRAPHOPT_OK;
}

static graphopt_status read_program(const reading *r, const json_value *root, const json_value *v, program *p) {
    const description *d = r->d;
    int only = json_member(root, "program") == v; /* format 1.0 */
    const char *target = json_text(member(root, v, "target")), *entry = json_text(json_member(v, "entry"));
    const json_value *inputs = json_member(only ? root : v, "inputs"), *outputs = json_member(v, "outputs");
    int64_t threads, arena;
    if (target == NULL || entry == NULL || !json_count(json_member(v, "threads"), MOST_THREADS, &threads) || threads < 1 ||
        !json_count(json_member(v, "arena"), MOST_BYTES, &arena))
        return damaged(r, "a program lacks its target, entry, threads or arena");
    p->target = memory_text(r->m, target);
    p->entry = memory_text(r->m, entry);
    p->threads = (int32_t)threads;
    p->arena = (size_t)arena;
    p->code = file_named(r, only ? "model.so" : json_text(json_member(v, "code")));
    p->weights = file_named(r, only ? "weights.bin" : json_text(json_member(v, "weights")));
    if (p->code == NULL || p->weights == NULL)
        return damaged(r, "it does not list the files of a program");
    if (inputs == NULL || inputs->kind != JSON_ARRAY || inputs->count != d->inputs || outputs == NULL ||
        outputs->kind != JSON_ARRAY || outputs->count != d->outputs)
        return damaged(r, "a program has other inputs or outputs than the model");
    p->inputs = memory_get(r->m, d->inputs, sizeof *p->inputs);
    p->outputs = memory_get(r->m, d->outputs, sizeof *p->outputs);
    if (p->target == NULL || p->entry == NULL || p->inputs == NULL || p->outputs == NULL)
        return fail_memory();
    size_t k = 0;
    for (const json_value *i = inputs->first; i != NULL; i = i->next, k++) {
        graphopt_status status = read_shape(r, only ? json_member(i, "shape") : i, d->input[k].element, &p->inputs[k]);
        if (status != GRAPHOPT_OK)
            return status;
        if (!is_case_of(&d->input[k], &p->inputs[k]))
            return damaged(r, "a program has other inputs than the model");
    }
    k = 0;
    for (const json_value *o = outputs->first; o != NULL; o = o->next, k++) {
        const char *type = json_text(json_member(o, "numpy"));
        graphopt_status status = read_shape(r, json_member(o, "shape"), d->output[k].element, &p->outputs[k]);
        if (status != GRAPHOPT_OK)
            return status;
        if (type == NULL || strcmp(type, d->output[k].dtype_name) != 0)
            return damaged(r, "a program has other outputs than the model");
    }
    const json_value *digest = json_member(v, "digest");
    graphopt_status status = read_values(r, json_member(v, "values"), p);
    if (status != GRAPHOPT_OK || digest == NULL)
        return status;
    if (json_text(digest) == NULL || strlen(digest->text) != 64)
        return damaged(r, "the digest of a program is none");
    p->digest = memory_text(r->m, digest->text);
    return p->digest == NULL ? fail_memory() : say_program(r, root, v, p);
}

/* How many features a program's code needs, and those of them that are not here, in words. -1: not a list of names. */
static int count_features(const reading *r, const json_value *root, const json_value *v, phrase *lacking) {
    const json_value *features = member(root, v, "features");
    if (features == NULL || features->kind != JSON_ARRAY)
        return -1;
    for (const json_value *f = features->first; f != NULL; f = f->next) {
        if (json_text(f) == NULL)
            return -1;
        if (!cpu_has(r->here, f->text))
            say(lacking, "%s%.64s", lacking->length ? ", " : "", f->text);
    }
    return (int)features->count;
}

/* Keep the programs of the best CPU among those whose code runs here: that with the most features, the first of equals. */
static graphopt_status read_programs(const reading *r, const json_value *root) {
    const json_value *only = json_member(root, "program"), *list = json_member(root, "programs");
    const json_value *first = list != NULL && list->kind == JSON_ARRAY ? list->first : only;
    const char *best = NULL;
    size_t count = 0;
    int most = -1;
    phrase refusals = {"", 0};
    if (first == NULL)
        return damaged(r, "it has no programs");
    for (const json_value *v = first; v != NULL; v = v == only ? NULL : v->next) {
        phrase lacking = {"", 0};
        int features = count_features(r, root, v, &lacking);
        const char *target = json_text(member(root, v, "target"));
        if (features < 0 || target == NULL)
            return damaged(r, "a program does not say what it needs");
        if (lacking.length > 0) {
            const json_value *same = first; /* said of an earlier program for that CPU */
            while (same != v && strcmp(json_text(member(root, same, "target")), target) != 0)
                same = same->next;
            if (same == v)
                say(&refusals, "%sthat for %.64s needs %s", refusals.length ? "; " : "", target, lacking.text);
        } else if (features > most) {
            most = features;
            best = target;
        }
        count++;
    }
    if (best == NULL)
        return fail(GRAPHOPT_NO_CPU, "%.500s: its code needs what this processor, or the system on it, lacks: %s. Compile it for "
                                     "this machine", r->where, refusals.text);
    r->d->program = memory_get(r->m, count, sizeof *r->d->program);
    if (r->d->program == NULL)
        return fail_memory();
    for (const json_value *v = first; v != NULL; v = v == only ? NULL : v->next) {
        phrase lacking = {"", 0};
        count_features(r, root, v, &lacking);
        if (lacking.length > 0 || strcmp(json_text(member(root, v, "target")), best) != 0)
            continue;
        graphopt_status status = read_program(r, root, v, &r->d->program[r->d->programs++]);
        if (status != GRAPHOPT_OK)
            return status;
    }
    return GRAPHOPT_OK;
}

static graphopt_status read_root(reading *r, const json_value *root) {
    const json_value *format = json_member(root, "format");
    int64_t major, minor;
    if (format == NULL || format->kind != JSON_ARRAY || format->count != 2 || !json_count(format->first, 1 << 30, &major) ||
        !json_count(format->first->next, 1 << 30, &minor))
        return damaged(r, "it has no format");
    if (major != FORMAT_MAJOR || minor > FORMAT_MINOR) /* the number is that of the oldest reader that reads it */
        return fail(GRAPHOPT_NEWER, "%.500s: has format %lld.%lld, and this libgraphopt.so reads %d.0 to %d.%d. Use the one in "
                                    "the folder", r->where, (long long)major, (long long)minor, FORMAT_MAJOR, FORMAT_MAJOR,
                    FORMAT_MINOR);
    r->d->minor = minor;
    graphopt_status status = read_files(r, json_member(root, "files"));
    if (status == GRAPHOPT_OK)
        status = read_tensors(r, json_member(root, "inputs"), &r->d->input, &r->d->inputs);
    if (status == GRAPHOPT_OK)
        status = read_tensors(r, json_member(root, "outputs"), &r->d->output, &r->d->outputs);
    if (status == GRAPHOPT_OK)
        status = read_control(r, json_member(root, "control_inputs"));
    return status == GRAPHOPT_OK ? read_programs(r, root) : status;
}

graphopt_status describe(description *d, memory *m, const char *text, size_t length, const cpu *here, const char *where) {
    reading r = {d, m, here, where, NULL, 0};
    memory tree = {NULL};
    const char *why;
    size_t at, line = 1, column = 1;
    const json_value *root = json_read(&tree, text, length, &why, &at);
    graphopt_status status;
    if (root != NULL) {
        status = read_root(&r, root);
    } else if (why == JSON_NO_MEMORY) {
        status = fail_memory();
    } else {
        for (size_t k = 0; k < at; k++) {
            column = text[k] == '\n' ? 1 : column + 1;
            line += text[k] == '\n';
        }
        status = fail(GRAPHOPT_DAMAGED, "%.500s: " MANIFEST " is damaged: %s, at line %zu, column %zu. Save the model again",
                      where, why, line, column);
    }
    memory_free(&tree);
    return status;
}
