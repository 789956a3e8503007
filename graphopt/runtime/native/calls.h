/* What a model in this process consists of. */
#ifndef GRAPHOPT_CALLS_H
#define GRAPHOPT_CALLS_H

#include "files.h"
#include "graphopt.h"
#include "manifest.h"
#include "workspace.h"

typedef struct {
    const listed_file *listed;
    file contents; /* mapped, where it is no code */
    void *handle;  /* of code */
} loaded;

typedef struct {
    graphopt_entry code;
    const void *weights; /* NULL where there are none */
} entry_point;

/* Nothing changes once it is made but which workspaces are idle. */
struct graphopt_model {
    memory m;
    description d;
    entry_point *entries; /* of the programs */
    loaded *loaded;
    size_t loaded_count;
    graphopt_pool *pool, *own_pool;
    int32_t threads;
    workspaces work; /* as the largest program needs them */
};

#endif
