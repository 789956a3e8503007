// Peaks of this machine, by kernels small enough to be read. Built by peaks.py with the machine's own features:
//   peaks TRIES THREADS L1 L2 L3 DRAM     bytes of each thread's buffer that lies in that level; 0 leaves it out
// prints lines `name value`: operations a second of all threads together, bytes a second of all threads together.
// Each thread keeps to a core of its own, and all start at once; a rate is the sum of theirs, and the best of some tries
// stands, since anything else on the machine can only make it smaller.
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
typedef __m512 vec;
#define LANES 16
#define SET1(x) _mm512_set1_ps(x)
#define ZERO() _mm512_setzero_ps()
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define ADD(a, b) _mm512_add_ps(a, b)
#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256 vec;
#define LANES 8
#define SET1(x) _mm256_set1_ps(x)
#define ZERO() _mm256_setzero_ps()
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, x) _mm256_storeu_ps(p, x)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define ADD(a, b) _mm256_add_ps(a, b)
#else
#error "peaks are measured with AVX2 and FMA"
#endif

enum { MAX_THREADS = 256, MAX_TRIES = 64, CHAINS = 12 };  // twelve sums in flight hide latency 4 on three ports
static const double TRY_SECONDS = 0.03;
static int tries;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// What a kernel works on: a buffer, and how often. Kernels return the operations or bytes that they did.
typedef struct { float *buffer; size_t bytes; long times; } Job;
typedef double (*Kernel)(Job *);
static volatile float sink;

static float sum(vec x) {
  float lanes[LANES], total = 0;
  STORE(lanes, x);
  for (int i = 0; i < LANES; i++) total += lanes[i];
  return total;
}

static double fma_registers(Job *job) {
  vec acc[CHAINS], b = SET1(1.0001f), c = SET1(0.9999f);
  for (int i = 0; i < CHAINS; i++) acc[i] = SET1((float)i);
  for (long t = 0; t < job->times; t++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) acc[i] = FMA(b, c, acc[i]);
    __asm__ volatile("" : "+x"(b));
  }
  for (int i = 0; i < CHAINS; i++) sink = sum(acc[i]);
  return 2.0 * LANES * CHAINS * job->times;
}

// A register tile of a matrix product, both operands from L1: what every contraction kernel does in its innermost loop.
enum { DEPTH = 128 };
#define TILE(ROWS, VECTORS)                                                                             \
  static double tile_##ROWS##x##VECTORS(Job *job) {                                                     \
    const float *a = job->buffer, *b = job->buffer + ROWS * DEPTH;                                      \
    float *out = job->buffer + ROWS * DEPTH + DEPTH * VECTORS * LANES;                                  \
    for (long t = 0; t < job->times; t++) {                                                             \
      vec acc[ROWS][VECTORS];                                                                           \
      for (int i = 0; i < ROWS; i++)                                                                    \
        for (int v = 0; v < VECTORS; v++) acc[i][v] = ZERO();                                           \
      for (int k = 0; k < DEPTH; k++) {                                                                 \
        vec right[VECTORS];                                                                             \
        _Pragma("GCC unroll 8") for (int v = 0; v < VECTORS; v++)                                       \
            right[v] = LOAD(b + (k * VECTORS + v) * LANES);                                             \
        _Pragma("GCC unroll 32") for (int i = 0; i < ROWS; i++) {                                       \
          vec left = SET1(a[k * ROWS + i]);                                                             \
          _Pragma("GCC unroll 8") for (int v = 0; v < VECTORS; v++) acc[i][v] = FMA(left, right[v], acc[i][v]); \
        }                                                                                               \
      }                                                                                                 \
      for (int i = 0; i < ROWS; i++)                                                                    \
        for (int v = 0; v < VECTORS; v++) STORE(out + (i * VECTORS + v) * LANES, acc[i][v]);            \
      __asm__ volatile("" ::: "memory");                                                                \
    }                                                                                                   \
    return 2.0 * LANES * ROWS * VECTORS * DEPTH * job->times;                                           \
  }
#if LANES == 16
TILE(6, 4) TILE(8, 3) TILE(9, 3) TILE(12, 2) TILE(14, 2) TILE(28, 1)
static const Kernel TILES[] = {tile_6x4, tile_8x3, tile_9x3, tile_12x2, tile_14x2, tile_28x1};
#else
TILE(3, 4) TILE(4, 3) TILE(6, 2) TILE(12, 1)
static const Kernel TILES[] = {tile_3x4, tile_4x3, tile_6x2, tile_12x1};
#endif

#if defined(__AVX512BF16__)
static double bf16_registers(Job *job) {
  __m512 acc[CHAINS];
  __m512i ones = _mm512_set1_epi32(0x3f803f80);
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_set1_ps((float)i);
  for (long t = 0; t < job->times; t++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_dpbf16_ps(acc[i], (__m512bh)ones, (__m512bh)ones);
    __asm__ volatile("" : "+x"(ones));
  }
  for (int i = 0; i < CHAINS; i++) sink = _mm512_reduce_add_ps(acc[i]);
  return 64.0 * CHAINS * job->times;
}
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#if defined(__AVX512VNNI__)
typedef __m512i ivec;
#define DOT(c, a, b) _mm512_dpbusd_epi32(c, a, b)
#define SET8(x) _mm512_set1_epi8(x)
#define KEEP(p, x) _mm512_storeu_si512(p, x)
#else
typedef __m256i ivec;
#define DOT(c, a, b) _mm256_dpbusd_avx_epi32(c, a, b)
#define SET8(x) _mm256_set1_epi8(x)
#define KEEP(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#endif
static double vnni_registers(Job *job) {
  ivec acc[CHAINS], b = SET8(1), c = SET8(2);
  for (int i = 0; i < CHAINS; i++) acc[i] = SET8((char)i);
  for (long t = 0; t < job->times; t++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) acc[i] = DOT(acc[i], b, c);
    __asm__ volatile("" : "+x"(b));
  }
  for (int i = 0; i < CHAINS; i++) {
    int lanes[sizeof(ivec) / sizeof(int)];
    KEEP(lanes, acc[i]);
    sink = (float)lanes[0];
  }
  return 2.0 * sizeof(ivec) * CHAINS * job->times;
}
#endif

static double read_buffer(Job *job) {
  enum { SUMS = 12 };
  size_t steps = job->bytes / (SUMS * sizeof(vec));
  vec acc[SUMS];
  for (int i = 0; i < SUMS; i++) acc[i] = ZERO();
  for (long t = 0; t < job->times; t++) {
    const float *p = job->buffer;
    for (size_t s = 0; s < steps; s++, p += SUMS * LANES) {
#pragma GCC unroll 12
      for (int i = 0; i < SUMS; i++) acc[i] = ADD(acc[i], LOAD(p + i * LANES));
    }
    __asm__ volatile("" ::: "memory");
  }
  for (int i = 0; i < SUMS; i++) sink = sum(acc[i]);
  return (double)steps * SUMS * sizeof(vec) * job->times;
}

typedef struct { Kernel kernel; size_t bytes; int core; double seconds[MAX_TRIES], amount[MAX_TRIES]; } Thread;
static pthread_barrier_t barrier;

static void *work(void *given) {
  Thread *self = given;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(self->core, &set);
  sched_setaffinity(0, sizeof set, &set);
  size_t bytes = self->bytes > (256 << 10) ? self->bytes : (256 << 10);
  Job job = {aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), self->bytes, 1};
  if (!job.buffer) { fprintf(stderr, "no memory for a buffer of %zu bytes\n", bytes); exit(1); }
  for (size_t i = 0; i < bytes / sizeof(float); i++) job.buffer[i] = 1e-3f;
  for (double took = 0; took < TRY_SECONDS / 2; ) {  // also warms up
    double start = now();
    self->kernel(&job);
    took = now() - start;
    if (took < TRY_SECONDS / 2) job.times *= 2;
  }
  for (int t = 0; t < tries; t++) {
    pthread_barrier_wait(&barrier);
    double start = now();
    self->amount[t] = self->kernel(&job);
    self->seconds[t] = now() - start;
  }
  free(job.buffer);
  return 0;
}

static double measure(Kernel kernel, size_t bytes, int threads, const int *cores) {
  static Thread pool[MAX_THREADS];
  pthread_t handle[MAX_THREADS];
  pthread_barrier_init(&barrier, 0, threads);
  for (int i = 0; i < threads; i++) {
    pool[i] = (Thread){.kernel = kernel, .bytes = bytes, .core = cores[i]};
    if (pthread_create(&handle[i], 0, work, &pool[i])) { fprintf(stderr, "no thread %d\n", i); exit(1); }
  }
  for (int i = 0; i < threads; i++) pthread_join(handle[i], 0);
  double best = 0;
  for (int t = 0; t < tries; t++) {
    double rate = 0;
    for (int i = 0; i < threads; i++) rate += pool[i].amount[t] / pool[i].seconds[t];
    if (rate > best) best = rate;
  }
  return best;
}

int main(int count, char **given) {
  if (count != 7) { fprintf(stderr, "usage: %s TRIES THREADS L1 L2 L3 DRAM\n", given[0]); return 2; }
  tries = atoi(given[1]);
  if (tries < 1 || tries > MAX_TRIES) { fprintf(stderr, "%d tries\n", tries); return 2; }
  int threads = atoi(given[2]), cores[MAX_THREADS], found = 0;
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  for (int c = 0; c < CPU_SETSIZE && found < MAX_THREADS; c++)
    if (CPU_ISSET(c, &set)) cores[found++] = c;
  if (threads < 1 || threads > found) { fprintf(stderr, "%d threads, but %d cores\n", threads, found); return 2; }
  printf("lanes %d\n", LANES);
  printf("fma %.6e\n", measure(fma_registers, 0, threads, cores));
  double best = 0;
  for (size_t i = 0; i < sizeof TILES / sizeof *TILES; i++) {
    double rate = measure(TILES[i], 0, threads, cores);
    if (rate > best) best = rate;
  }
  printf("fma_l1 %.6e\n", best);
#if defined(__AVX512BF16__)
  printf("bf16 %.6e\n", measure(bf16_registers, 0, threads, cores));
#endif
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
  printf("vnni %.6e\n", measure(vnni_registers, 0, threads, cores));
#endif
  const char *levels[] = {"l1", "l2", "l3", "dram"};
  for (int l = 0; l < 4; l++) {
    size_t bytes = strtoull(given[3 + l], 0, 10);
    if (bytes) printf("%s %.6e\n", levels[l], measure(read_buffer, bytes, threads, cores));
  }
  return 0;
}
