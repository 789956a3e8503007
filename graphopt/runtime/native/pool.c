/* A pool of threads for short parallel loops: workers spin while a program runs and sleep soon after.
 *
 * Thread k of n has slot k of every loop, so that a part's data stays in one core's cache from call to call. A slot
 * is claimed before it runs: the caller claims those that no worker has taken when its own part is done. A worker
 * that is asleep, not there or waiting for a processor therefore delays nothing, and a loop never waits for a
 * thread to start. Linux; the waits are futexes.
 *
 * The kernel likes to wake a thread where its waker runs, and leaves two threads there that each run half of the time
 * while other processors are idle. Workers therefore look where they are and move away from the caller and each other.
 */
#define _GNU_SOURCE
#include "graphopt.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINE 64               /* bytes of a cache line */
#define IDLE_NS 40000         /* how long a worker spins after the last loop outside of calls */
#define BETWEEN_NS 1000000    /* ... while a call runs: the next parallel loop is near */
#define JOIN_NS 20000         /* how long a join spins before it offers its processor to others */

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() atomic_signal_fence(memory_order_seq_cst)
#endif

/* As TVM's generated code has them: a task learns from `environment` how many there are. */
typedef struct {
    void *sync_handle;
    int32_t num_task;
} environment;
typedef int (*task)(int index, environment *env, void *closure);

typedef struct {
    alignas(LINE) _Atomic uint64_t claimed; /* the last loop whose share of this slot is taken */
    _Atomic uint64_t done;                  /* ... and finished */
    _Atomic int status;
    _Atomic int cpu;                        /* where the worker was when it last looked, -1 asleep */
    pthread_t thread;
    graphopt_pool *pool;
} slot;

struct graphopt_pool {
    /* What a launch writes and every worker reads, in one line. */
    alignas(LINE) _Atomic uint64_t loop; /* counts loops; the low half is the workers' futex */
    task run;
    void *closure;
    int32_t tasks;
    _Atomic int cpu;                     /* where the caller runs */
    alignas(LINE) _Atomic int sleepers;
    alignas(LINE) _Atomic int busy;  /* a loop is in flight */
    _Atomic int calls;               /* entries in flight */
    _Atomic int stop;
    _Atomic unsigned born;           /* the value of `forks` that the workers belong to, plus one; 0: there are none */
    int threads, workers, idle_ns;
    slot *slots;                     /* of threads 1, 2, ... at the same index; slot 0 is the caller's and unused */
};

static _Atomic unsigned forks;       /* how many forks lie between the first process and this one */
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local graphopt_pool *current; /* of the call that this thread is in */

static void in_child(void) {
    atomic_fetch_add(&forks, 1);
    pthread_mutex_init(&starting, NULL); /* a thread that the child lacks may have held it */
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint32_t *futex_of(graphopt_pool *p) { return (uint32_t *)&p->loop; /* little-endian */ }

static int share(graphopt_pool *p, int index) {
    environment env = {NULL, p->tasks};
    int status = 0;
    for (int k = index; k < p->tasks; k += p->threads)
        status |= p->run(k, &env, p->closure);
    return status;
}

/* Whether this thread is the one to run slot k of that loop. */
static int claim(graphopt_pool *p, int k, uint64_t loop) {
    uint64_t before = loop - 1;
    return atomic_compare_exchange_strong_explicit(&p->slots[k].claimed, &before, loop, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* Whether another thread of the pool runs on that processor. */
static int taken(graphopt_pool *p, slot *mine, int cpu) {
    if (cpu == atomic_load_explicit(&p->cpu, memory_order_relaxed))
        return 1;
    for (int k = 1; k < p->threads; k++)
        if (&p->slots[k] != mine && cpu == atomic_load_explicit(&p->slots[k].cpu, memory_order_relaxed))
            return 1;
    return 0;
}

/* Move this worker to a processor of its own, of those that the process may use now, where it shares one. */
static void step_aside(graphopt_pool *p, slot *mine) {
    int here = sched_getcpu();
    atomic_store_explicit(&mine->cpu, here, memory_order_relaxed);
    if (p->idle_ns == 0 || here < 0 || !taken(p, mine, here))
        return;
    cpu_set_t allowed, others;
    if (sched_getaffinity(getpid(), sizeof allowed, &allowed))
        return;
    CPU_ZERO(&others);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && !taken(p, mine, cpu))
            CPU_SET(cpu, &others);
    if (CPU_COUNT(&others) && sched_setaffinity(0, sizeof others, &others) == 0)
        atomic_store_explicit(&mine->cpu, sched_getcpu(), memory_order_relaxed);
}

static uint64_t wait_for_loop(graphopt_pool *p, slot *mine, uint64_t seen) {
    int64_t start = 0;
    for (unsigned spin = 1;; spin++) {
        uint64_t loop = atomic_load_explicit(&p->loop, memory_order_acquire);
        if (loop != seen)
            return loop;
        RELAX();
        if (spin % 32)
            continue;
        step_aside(p, mine);
        int64_t t = now();
        if (start == 0)
            start = t;
        if (t - start < (atomic_load_explicit(&p->calls, memory_order_relaxed) && p->idle_ns ? BETWEEN_NS : p->idle_ns))
            continue;
        atomic_store_explicit(&mine->cpu, -1, memory_order_relaxed);
        atomic_fetch_add(&p->sleepers, 1); /* before the kernel looks at `loop` again: a launch after that wakes us */
        while ((loop = atomic_load(&p->loop)) == seen)
            syscall(SYS_futex, futex_of(p), FUTEX_WAIT_PRIVATE, (uint32_t)seen, NULL, NULL, 0);
        atomic_fetch_sub(&p->sleepers, 1);
        step_aside(p, mine);
        return loop;
    }
}

static void *worker(void *argument) {
    slot *mine = argument;
    graphopt_pool *p = mine->pool;
    int index = (int)(mine - p->slots);
    uint64_t seen = atomic_load(&mine->claimed);
    for (;;) {
        seen = wait_for_loop(p, mine, seen);
        if (atomic_load_explicit(&p->stop, memory_order_relaxed))
            return NULL;
        if (claim(p, index, seen)) { /* what is claimed keeps its loop open: run, closure and tasks are that loop's */
            atomic_store_explicit(&mine->status, share(p, index), memory_order_relaxed);
            atomic_store_explicit(&mine->done, seen, memory_order_release);
        }
    }
}

/* Threads of its own for a pool that is new or came through a fork. Those that cannot be started are done without. */
static void start(graphopt_pool *p) {
    pthread_mutex_lock(&starting);
    unsigned generation = atomic_load(&forks) + 1;
    if (atomic_load(&p->born) != generation) {
        uint64_t loop = atomic_load(&p->loop);
        atomic_store(&p->sleepers, 0);
        atomic_store(&p->calls, 0);
        p->workers = 0;
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's, not the workers' */
        for (int k = 1; k < p->threads; k++) {
            slot *s = &p->slots[k];
            atomic_store(&s->claimed, loop);
            atomic_store(&s->done, loop);
            atomic_store(&s->cpu, -1);
            s->pool = p;
            if (p->workers == k - 1 && pthread_create(&s->thread, NULL, worker, s) == 0) {
                char name[16] = "graphopt-";
                if (k < 1000) {
                    name[9] = (char)('0' + k / 100), name[10] = (char)('0' + k / 10 % 10), name[11] = (char)('0' + k % 10);
                    pthread_setname_np(s->thread, name);
                }
                p->workers = k;
            }
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        atomic_store(&p->busy, 0);
        atomic_store(&p->born, generation);
    }
    pthread_mutex_unlock(&starting);
}

static int alone(task run, void *closure, int tasks) {
    environment env = {NULL, tasks > 0 ? tasks : 1};
    int status = 0;
    for (int k = 0; k < env.num_task; k++)
        status |= run(k, &env, closure);
    return status ? -1 : 0;
}

/* TVMBackendParallelLaunch: all tasks of a loop, done when it returns. `tasks` is 0 for as many as there are threads. */
static int launch(task run, void *closure, int tasks) {
    graphopt_pool *p = current;
    if (p == NULL || p->threads < 2 || atomic_exchange_explicit(&p->busy, 1, memory_order_acquire))
        return alone(run, closure, tasks);
    p->run = run;
    p->closure = closure;
    p->tasks = tasks > 0 ? tasks : p->threads;
    atomic_store_explicit(&p->cpu, sched_getcpu(), memory_order_relaxed);
    uint64_t loop = atomic_load_explicit(&p->loop, memory_order_relaxed) + 1;
    atomic_store(&p->loop, loop);
    if (atomic_load(&p->sleepers))
        syscall(SYS_futex, futex_of(p), FUTEX_WAKE_PRIVATE, p->threads, NULL, NULL, 0);
    int status = share(p, 0);
    for (int k = 1; k < p->threads; k++)
        if (atomic_load_explicit(&p->slots[k].claimed, memory_order_relaxed) != loop && claim(p, k, loop)) {
            status |= share(p, k);
            atomic_store_explicit(&p->slots[k].status, 0, memory_order_relaxed);
            atomic_store_explicit(&p->slots[k].done, loop, memory_order_relaxed);
        }
    for (int k = 1; k < p->threads; k++) {
        int64_t began = 0;
        for (unsigned spin = 1; atomic_load_explicit(&p->slots[k].done, memory_order_acquire) != loop; spin++) {
            RELAX();
            if (spin % 32)
                continue;
            int64_t t = now();
            if (began == 0)
                began = t;
            if (t - began > JOIN_NS)
                sched_yield();
        }
        status |= atomic_load_explicit(&p->slots[k].status, memory_order_relaxed);
    }
    atomic_store_explicit(&p->busy, 0, memory_order_release);
    return status ? -1 : 0;
}

int graphopt_abi(void) { return GRAPHOPT_ABI; }

graphopt_pool *graphopt_pool_create(int threads) {
    if (threads < 1)
        threads = 1;
    pthread_once(&once, watch_forks);
    graphopt_pool *p = aligned_alloc(LINE, sizeof *p);
    slot *slots = aligned_alloc(LINE, (size_t)threads * sizeof *slots);
    if (p == NULL || slots == NULL) {
        free(p);
        free(slots);
        return NULL;
    }
    memset(p, 0, sizeof *p);
    memset(slots, 0, (size_t)threads * sizeof *slots);
    p->threads = threads;
    p->slots = slots;
    cpu_set_t cpus;
    int free_cpus = sched_getaffinity(0, sizeof cpus, &cpus) ? threads : CPU_COUNT(&cpus);
    p->idle_ns = threads <= free_cpus ? IDLE_NS : 0; /* without a processor each, spinning takes time from who computes */
    return p;
}

void graphopt_pool_destroy(graphopt_pool *p) {
    if (p == NULL)
        return;
    if (atomic_load(&p->born) == atomic_load(&forks) + 1) {
        atomic_store(&p->stop, 1);
        atomic_fetch_add(&p->loop, 1);
        syscall(SYS_futex, futex_of(p), FUTEX_WAKE_PRIVATE, p->threads, NULL, NULL, 0);
        for (int k = 1; k <= p->workers; k++)
            pthread_join(p->slots[k].thread, NULL);
    }
    free(p->slots);
    free(p);
}

int graphopt_pool_threads(const graphopt_pool *p) { return p->threads; }

void graphopt_bind(void *variable) {
    int (**bound)(task, void *, int) = variable;
    if (bound != NULL && *bound != launch) /* code that is loaded twice may be running */
        *bound = launch;
}

int graphopt_call(graphopt_pool *p, graphopt_entry entry, void **pointers) {
    if (p == NULL || p->threads < 2)
        return entry(pointers);
    if (atomic_load_explicit(&p->born, memory_order_acquire) != atomic_load_explicit(&forks, memory_order_relaxed) + 1)
        start(p);
    graphopt_pool *outer = current;
    current = p;
    atomic_fetch_add_explicit(&p->calls, 1, memory_order_relaxed);
    int status = entry(pointers);
    atomic_fetch_sub_explicit(&p->calls, 1, memory_order_relaxed);
    current = outer;
    return status;
}
