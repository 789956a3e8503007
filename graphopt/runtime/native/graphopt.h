/* The runtime beneath a compiled program: a pool of threads, and calls that use it.
 *
 * A program is a shared object with entries `int32_t entry(void **pointers)` and, where it has parallel loops, a
 * variable __TVMBackendParallelLaunch through which it starts them; graphopt_bind sets that variable. No state is
 * global but the count of forks. Any number of threads may call at once: one of them has the pool's workers in a
 * parallel loop, the loops of the others run on their own thread meanwhile.
 */
#ifndef GRAPHOPT_H
#define GRAPHOPT_H

#include <stdint.h>

#define GRAPHOPT_ABI 1 /* of this header; model.h, the interface for applications, has a number of its own */

#ifndef GRAPHOPT_API
#define GRAPHOPT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct graphopt_pool graphopt_pool;
typedef int32_t (*graphopt_entry)(void **pointers);

/* GRAPHOPT_ABI of the library as it was built. */
GRAPHOPT_API int graphopt_abi(void);

/* A pool for calls on `threads` threads, the caller's among them. Workers start at the first parallel loop and sleep
 * when there is nothing to do. NULL without memory. After a fork the child's pool starts workers of its own. */
GRAPHOPT_API graphopt_pool *graphopt_pool_create(int threads);

/* How many threads a call has in it. */
GRAPHOPT_API int graphopt_pool_threads(const graphopt_pool *pool);

/* End the workers and free the pool, which nobody may be using. */
GRAPHOPT_API void graphopt_pool_destroy(graphopt_pool *pool);

/* Let the program start its parallel loops here. `launch` is the address of its __TVMBackendParallelLaunch, or NULL. */
GRAPHOPT_API void graphopt_bind(void *launch);

/* Run an entry with the pool's threads; `pool` may be NULL. What the entry returns: 0 where all went well. */
GRAPHOPT_API int graphopt_call(graphopt_pool *pool, graphopt_entry entry, void **pointers);

#ifdef __cplusplus
}
#endif
#endif
