#include "memory.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 16384 /* bytes of an ordinary block */
#define ALIGN alignof(max_align_t)

struct memory_block {
    memory_block *next;
    size_t used, size;
    alignas(max_align_t) unsigned char bytes[];
};

void *memory_get(memory *m, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > (size_t)-1 / 2)
        return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    memory_block *b = m->blocks;
    if (b == NULL || b->size - b->used < bytes) {
        size_t room = bytes > BLOCK ? bytes : BLOCK;
        b = calloc(1, sizeof *b + room);
        if (b == NULL)
            return NULL;
        b->next = m->blocks;
        b->size = room;
        m->blocks = b;
    }
    void *got = b->bytes + b->used;
    b->used += bytes;
    return got;
}

char *memory_text(memory *m, const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = memory_get(m, bytes, 1);
    return copy == NULL ? NULL : memcpy(copy, text, bytes);
}

void memory_free(memory *m) {
    for (memory_block *b = m->blocks, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    m->blocks = NULL;
}
