/* What a model in this process consists of. */
#ifndef GRAPHOPT_CALLS_H
#define GRAPHOPT_CALLS_H

#include <stdatomic.h>

#include "files.h"
#include "graphopt.h"
#include "manifest.h"

#define IDLE 32 /* workspaces that are kept between calls */

typedef struct {
    const listed_file *listed;
    file contents; /* mapped, where it is no code */
    void *handle;  /* of code */
} loaded;

typedef struct {
    graphopt_entry code;
    const void *weights; /* NULL where there are none */
} entry_point;

/* Nothing changes once it is made but `idle`, from which a call takes its workspace (an arena, and the pointers for the code). */
struct graphopt_model {
    memory m;
    description d;
    entry_point *entries; /* of the programs */
    loaded *loaded;
    size_t loaded_count;
    size_t arena;         /* bytes that the largest program needs */
    graphopt_pool *pool, *own_pool;
    int32_t threads;
    _Atomic(void *) idle[IDLE];
};

#endif
