/* Memory that calls work in, kept between them. */
#ifndef GRAPHOPT_WORKSPACE_H
#define GRAPHOPT_WORKSPACE_H

#include <stdatomic.h>
#include <stddef.h>

#define IDLE 32 /* workspaces that are kept */

/* Workspaces of one size: an arena, and behind it room for the pointers that compiled code takes. All zero at first, but for
 * the sizes. */
typedef struct {
    size_t arena, pointers; /* bytes, and how many */
    _Atomic(void *) idle[IDLE];
} workspaces;

/* A workspace that no other call has: its arena. NULL without memory. */
void *workspace_borrow(workspaces *w);

/* Where the pointers of a workspace are. */
void **workspace_pointers(const workspaces *w, void *workspace);

void workspace_give_back(workspaces *w, void *workspace);

/* Free those that are kept; no call may have one. */
void workspaces_free(workspaces *w);

/* The pointer that compiled code gets, which is never NULL. */
void *workspace_pointer(const void *data);

#endif
