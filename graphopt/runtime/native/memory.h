/* Memory that is freed as a whole: what a manifest is read into, and what a model says of itself. */
#ifndef GRAPHOPT_MEMORY_H
#define GRAPHOPT_MEMORY_H

#include <stddef.h>

typedef struct memory_block memory_block;
typedef struct {
    memory_block *blocks;
} memory;

/* Zeroed bytes for objects of any kind, `count` of `size`; NULL where there is no room. */
void *memory_get(memory *m, size_t count, size_t size);

/* A copy of a text; NULL where there is no room. */
char *memory_text(memory *m, const char *text);

void memory_free(memory *m);

#endif
