/* Workspaces are lent without locks: each is in a slot, or with the call that took it from there. */
#define _GNU_SOURCE
#include "workspace.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define ALIGN 64                          /* of an arena, in bytes */
#define LARGE_PAGE ((size_t)2 << 20)
#define LARGE_FROM ((size_t)4 << 20)      /* bytes from which address translation is worth large pages */

static alignas(ALIGN) unsigned char nothing[ALIGN]; /* where there is nothing to point to */

static size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

void *workspace_borrow(workspaces *w) {
    for (int k = 0; k < IDLE; k++)
        if (atomic_load_explicit(&w->idle[k], memory_order_relaxed) != NULL) {
            void *found = atomic_exchange_explicit(&w->idle[k], NULL, memory_order_acquire);
            if (found != NULL)
                return found;
        }
    size_t bytes = rounded(w->arena, ALIGN) + w->pointers * sizeof(void *), unit = bytes >= LARGE_FROM ? LARGE_PAGE : ALIGN;
    void *made = aligned_alloc(unit, rounded(bytes, unit));
    if (made != NULL && unit == LARGE_PAGE)
        madvise(made, rounded(bytes, unit), MADV_HUGEPAGE); /* slower without, no worse */
    return made;
}

void **workspace_pointers(const workspaces *w, void *workspace) {
    return (void **)(void *)((unsigned char *)workspace + rounded(w->arena, ALIGN));
}

void workspace_give_back(workspaces *w, void *workspace) {
    for (int k = 0; k < IDLE; k++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&w->idle[k], &none, workspace))
            return;
    }
    free(workspace);
}

void workspaces_free(workspaces *w) {
    for (int k = 0; k < IDLE; k++)
        free(atomic_load(&w->idle[k]));
}

void *workspace_pointer(const void *data) { return data == NULL ? nothing : (void *)(uintptr_t)data; }
