/* A saved model in this process: made, described, ended. calls.c runs it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "calls.h"
#include "files.h"
#include "sha256.h"

#define MANIFEST_DIGEST "manifest.sha256"
#define MOST_MANIFEST ((size_t)256 << 20)
#define MOST_THREADS 4096

typedef struct {
    const cpu *here;
    const char *where;
    int folder, verify;
} opening;

int32_t graphopt_model_abi(void) { return GRAPHOPT_MODEL_ABI; }

static int sha_instructions(const cpu *here) { return cpu_has(here, "sha") && cpu_has(here, "sse4.1") && cpu_has(here, "ssse3"); }

static graphopt_status altered(const opening *o, const char *name, const char *what) {
    return fail(GRAPHOPT_DAMAGED, "%.500s: %.255s is not as it was written: its %s is wrong. Copy or save the model again",
                o->where, name, what);
}

/* The manifest's own digest, as sha256sum writes it, stands in a file beside it; folders of format 1.0 may have none. */
static graphopt_status check_manifest(const opening *o, const file *manifest, int64_t minor) {
    unsigned char digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    file said = NO_FILE;
    if (!o->verify || (minor == 0 && faccessat(o->folder, MANIFEST_DIGEST, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT))
        return GRAPHOPT_OK;
    graphopt_status status = file_open(&said, o->folder, o->where, MANIFEST_DIGEST);
    if (status == GRAPHOPT_OK) {
        static const char after[] = "  " MANIFEST "\n";
        sha256(manifest->data, manifest->bytes, sha_instructions(o->here), digest);
        sha256_hex(digest, hex);
        if (said.bytes != strlen(hex) + strlen(after) || memcmp(said.data, hex, strlen(hex)) != 0 ||
            memcmp((const char *)said.data + strlen(hex), after, strlen(after)) != 0)
            status = altered(o, MANIFEST, "digest");
    }
    file_close(&said);
    return status;
}

/* What is said of a program is what was saved: hands that write another size there make its code write elsewhere. */
static graphopt_status check_program(const opening *o, const program *p) {
    unsigned char digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    if (p->digest == NULL)
        return GRAPHOPT_OK;
    sha256(p->said, strlen(p->said), sha_instructions(o->here), digest);
    sha256_hex(digest, hex);
    if (strcmp(hex, p->digest) == 0)
        return GRAPHOPT_OK;
    return fail(GRAPHOPT_DAMAGED, "%.500s: " MANIFEST " is damaged: what it says of a program (%.255s) was changed since it was "
                                  "saved. Save the model again", o->where, p->code->name);
}

static graphopt_status read_manifest(graphopt_model *model, const opening *o) {
    file f = NO_FILE;
    graphopt_status status = file_open(&f, o->folder, o->where, MANIFEST);
    if (status == GRAPHOPT_OK && f.bytes > MOST_MANIFEST)
        status = altered(o, MANIFEST, "size");
    if (status == GRAPHOPT_OK) {
        status = describe(&model->d, &model->m, f.data == NULL ? "" : f.data, f.bytes, o->here, o->where);
        if (status == GRAPHOPT_OK || status == GRAPHOPT_NO_CPU) { /* the others say more than that it was altered */
            graphopt_status whole = check_manifest(o, &f, model->d.minor);
            status = whole == GRAPHOPT_OK ? status : whole;
        }
        for (size_t k = 0; status == GRAPHOPT_OK && k < model->d.programs; k++)
            status = check_program(o, &model->d.program[k]);
    }
    file_close(&f);
    return status;
}

/* Load a shared library that is open. The dynamic loader takes a path that it knows for the library that it has from there,
 * whatever the file is by now; so it gets a path that says which file it is: every bit of device and inode is a "." or none. */
static graphopt_status load(const opening *o, const char *name, const file *f, void **handle) {
    char path[2 * 128 + 64] = "/proc/./self/fd";
    const char *why, *hint = "";
    size_t n = strlen(path);
    uint64_t identity[] = {(uint64_t)f->device, (uint64_t)f->inode};
    for (int k = 0; k < 128; k++) {
        path[n++] = '/';
        if (identity[k / 64] >> k % 64 & 1)
            path[n++] = '.';
    }
    snprintf(path + n, sizeof path - n, "/%d", f->fd);
    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*handle != NULL)
        return GRAPHOPT_OK;
    why = dlerror();
    if (why == NULL)
        why = "no reason given";
    else if (strncmp(why, path, strlen(path)) == 0)
        why += strlen(path) + strspn(why + strlen(path), ": ");
    if (access("/proc/self/fd", X_OK) != 0)
        hint = ". It is loaded by way of /proc, which is not there: mount it";
    else if (strstr(why, "failed to map") != NULL)
        hint = ". Is it on a file system without permission to execute (noexec)?";
    return fail(GRAPHOPT_NO_FILE, "%.500s: %.255s cannot be loaded: %.300s%s", o->where, name, why, hint);
}

/* Open, check and load or map a file that a program needs, unless it is there already. */
static graphopt_status load_file(graphopt_model *model, const opening *o, const listed_file *listed, int code, loaded **found) {
    unsigned char digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    for (size_t k = 0; k < model->loaded_count; k++)
        if (model->loaded[k].listed == listed && (model->loaded[k].handle != NULL) == code) {
            *found = &model->loaded[k];
            return GRAPHOPT_OK;
        }
    loaded *l = *found = &model->loaded[model->loaded_count++];
    *l = (loaded){listed, NO_FILE, NULL};
    graphopt_status status = file_open(&l->contents, o->folder, o->where, listed->name);
    if (status != GRAPHOPT_OK)
        return status;
    if (l->contents.bytes != listed->bytes)
        return altered(o, listed->name, "size");
    if (o->verify) {
        if (!sha256_of_pieces(l->contents.data, l->contents.bytes, sha_instructions(o->here), cpu_count(), digest))
            return fail_memory();
        sha256_hex(digest, hex);
        if (strcmp(hex, listed->sha256) != 0)
            return altered(o, listed->name, "digest");
    }
    if (code) {
        status = load(o, listed->name, &l->contents, &l->handle);
        if (status == GRAPHOPT_OK)
            graphopt_bind(dlsym(l->handle, "__TVMBackendParallelLaunch"));
        file_close(&l->contents);
    } else {
        close(l->contents.fd); /* the mapping stays */
        l->contents.fd = -1;
    }
    return status;
}

static graphopt_status load_programs(graphopt_model *model, const opening *o) {
    const description *d = &model->d;
    model->loaded = memory_get(&model->m, 2 * d->programs, sizeof *model->loaded);
    model->entries = memory_get(&model->m, d->programs, sizeof *model->entries);
    if (model->loaded == NULL || model->entries == NULL)
        return fail_memory();
    for (size_t k = 0; k < d->programs; k++) {
        const program *p = &d->program[k];
        loaded *code, *weights;
        graphopt_status status = load_file(model, o, p->code, 1, &code);
        if (status == GRAPHOPT_OK)
            status = load_file(model, o, p->weights, 0, &weights);
        if (status != GRAPHOPT_OK)
            return status;
        void *symbol = dlsym(code->handle, p->entry);
        if (symbol == NULL)
            return fail(GRAPHOPT_DAMAGED, "%.500s: %.255s has no entry %.200s. Save the model again", o->where, p->code->name,
                        p->entry);
        memcpy(&model->entries[k].code, &symbol, sizeof symbol);
        model->entries[k].weights = weights->contents.data;
        model->work.arena = p->arena > model->work.arena ? p->arena : model->work.arena;
    }
    model->work.pointers = d->inputs + d->outputs + 2;
    return GRAPHOPT_OK;
}

static graphopt_status take_threads(graphopt_model *model, const graphopt_options *options) {
    if (options->pool != NULL) {
        model->pool = options->pool;
        model->threads = graphopt_pool_threads(options->pool);
        return GRAPHOPT_OK;
    }
    model->threads = options->threads;
    if (model->threads == 0) {
        for (size_t k = 0; k < model->d.programs; k++)
            if (model->d.program[k].threads > model->threads)
                model->threads = model->d.program[k].threads;
        if (model->threads > cpu_count())
            model->threads = cpu_count();
    }
    model->pool = model->own_pool = graphopt_pool_create(model->threads);
    return model->pool == NULL ? fail_memory() : GRAPHOPT_OK;
}

/* The options as this library knows them; members that the caller's header lacks have their defaults. */
static graphopt_status read_options(const graphopt_options *given, graphopt_options *options) {
    *options = (graphopt_options)GRAPHOPT_OPTIONS;
    if (given == NULL)
        return GRAPHOPT_OK;
    if (given->size < offsetof(graphopt_options, threads) || given->size > 4096)
        return wrong("options: its size is %zu. Start from GRAPHOPT_OPTIONS", given->size);
    for (size_t k = sizeof *options; k < given->size; k++)
        if (((const unsigned char *)given)[k] != 0)
            return wrong("options: an option is set that this libgraphopt.so does not know. Use a newer one");
    memcpy(options, given, given->size < sizeof *options ? given->size : sizeof *options);
    if (options->threads < 0 || options->threads > MOST_THREADS)
        return wrong("options: %d threads. Give 1 to %d, or 0 for the default", (int)options->threads, MOST_THREADS);
    if (options->threads != 0 && options->pool != NULL)
        return wrong("options: both threads and pool are given. The pool has its number of threads: set threads to 0");
    return GRAPHOPT_OK;
}

static graphopt_status create(const opening *o, const graphopt_options *options, graphopt_model **model) {
    graphopt_model *made = calloc(1, sizeof *made);
    graphopt_status status = made == NULL ? fail_memory() : read_manifest(made, o);
    if (status == GRAPHOPT_OK)
        status = load_programs(made, o);
    if (status == GRAPHOPT_OK)
        status = take_threads(made, options);
    if (status == GRAPHOPT_OK)
        *model = made;
    else
        graphopt_model_destroy(made);
    return status;
}

/* Whether another folder stands there by now. */
static int replaced(const opening *o) {
    struct stat now, then;
    return stat(o->where, &now) == 0 && fstat(o->folder, &then) == 0 && (now.st_dev != then.st_dev || now.st_ino != then.st_ino);
}

graphopt_status graphopt_model_create(const char *folder, const graphopt_options *given, graphopt_model **model) {
    graphopt_options options;
    if (model == NULL)
        return wrong("model: NULL. Give the address of a graphopt_model *");
    *model = NULL;
    if (folder == NULL)
        return wrong("folder: NULL. Give the path of a saved model");
    graphopt_status status = read_options(given, &options);
    if (status != GRAPHOPT_OK)
        return status;
    cpu here;
    cpu_read(&here);
    for (int attempts = 20, again = 1; again; attempts--) {
        opening o = {&here, folder, open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), !options.skip_digests};
        if (o.folder < 0 && errno == ENOENT && attempts > 0) { /* there is none for a moment where one takes another's place */
            nanosleep(&(struct timespec){0, 50000}, NULL);
            continue;
        }
        if (o.folder < 0)
            return fail(errno == ENOMEM || errno == EMFILE || errno == ENFILE ? GRAPHOPT_NO_MEMORY : GRAPHOPT_NO_FILE,
                        "%.500s: cannot be read: %s. Is it the folder of a saved model?", folder, strerror(errno));
        status = create(&o, &options, model);
        again = status != GRAPHOPT_OK && attempts > 0 && replaced(&o); /* while it was read */
        close(o.folder);
    }
    return status;
}

void graphopt_model_destroy(graphopt_model *model) {
    if (model == NULL)
        return;
    workspaces_free(&model->work);
    if (model->own_pool != NULL)
        graphopt_pool_destroy(model->own_pool);
    for (size_t k = 0; k < model->loaded_count; k++) {
        file_close(&model->loaded[k].contents);
        if (model->loaded[k].handle != NULL)
            dlclose(model->loaded[k].handle);
    }
    memory_free(&model->m);
    free(model);
}

const char *graphopt_model_target(const graphopt_model *model) { return model ? model->d.program[0].target : ""; }

int32_t graphopt_model_threads(const graphopt_model *model) { return model ? model->threads : 0; }

size_t graphopt_model_inputs(const graphopt_model *model) { return model ? model->d.inputs : 0; }

size_t graphopt_model_outputs(const graphopt_model *model) { return model ? model->d.outputs : 0; }

size_t graphopt_model_programs(const graphopt_model *model) { return model ? model->d.programs : 0; }

const graphopt_tensor *graphopt_model_input(const graphopt_model *model, size_t input) {
    return input < graphopt_model_inputs(model) ? &model->d.input[input] : NULL;
}

const graphopt_tensor *graphopt_model_output(const graphopt_model *model, size_t output) {
    return output < graphopt_model_outputs(model) ? &model->d.output[output] : NULL;
}

const graphopt_shape *graphopt_model_program_input(const graphopt_model *model, size_t program, size_t input) {
    return program < graphopt_model_programs(model) && input < model->d.inputs ? &model->d.program[program].inputs[input] : NULL;
}

const void *graphopt_model_program_value(const graphopt_model *model, size_t program, size_t input) {
    return program < graphopt_model_programs(model) && input < model->d.inputs ? model->d.program[program].values[input] : NULL;
}

const graphopt_shape *graphopt_model_program_output(const graphopt_model *model, size_t program, size_t output) {
    return program < graphopt_model_programs(model) && output < model->d.outputs ? &model->d.program[program].outputs[output] : NULL;
}
