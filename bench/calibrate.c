// What a core takes for the parts of a matrix product, by kernels small enough to be read; calibrate.py makes coefficients of it.
//   calibrate TRIES THREADS L1 L2 L3 DRAM     bytes of each thread's buffer that lies in that level; 0 leaves it out
// prints lines `name value`: `clock` in cycles a second; sizes; and in cycles what one takes of multiply-adds that wait for the one
// before, of operations on registers, of bytes read, and of register tiles whose operands lie in L1 (of two depths), whose panels or
// rows come from L2, and, of few rows, whose panels come from L2, L3, or memory (by all threads, of all of them together).
// The harness is that of peaks.c: a thread keeps to a core, and the best of some tries stands. Here it is the thread's own time
// that counts, so that what else runs on the core does not; the clock, which changes, is measured beside every kernel.
#define _GNU_SOURCE
#include <time.h>
#undef CLOCK_MONOTONIC
#define CLOCK_MONOTONIC CLOCK_THREAD_CPUTIME_ID
#define main peaks_main
#include "peaks.c"
#undef main

enum { UNROLLED = 32 };

// A cycle each, as the next waits for it; the multiply-adds beside have time, and make the clock what it is among them.
static double additions(Job *job) {
  unsigned long x = 1, y = 3;
  vec acc[8], b = SET1(0.5f), c = SET1(0.25f);
  for (int i = 0; i < 8; i++) acc[i] = c;
  for (long t = 0; t < job->times; t++) {
#pragma GCC unroll 32
    for (int i = 0; i < UNROLLED; i++) {
      __asm__ volatile("add %1, %0" : "+r"(x) : "r"(y));  // of a register: some cores skip immediates
      acc[i % 8] = FMA(acc[i % 8], b, c);
      __asm__ volatile("" : "+x"(acc[i % 8]));
    }
  }
  for (int i = 0; i < 8; i++) sink = sum(acc[i]);
  sink = (float)x;
  return (double)UNROLLED * job->times;
}

static double waiting(Job *job) {
  vec acc = SET1(1.0f), b = SET1(0.5f), c = SET1(0.25f);
  for (long t = 0; t < job->times; t++) {
#pragma GCC unroll 32
    for (int i = 0; i < UNROLLED; i++) {
      acc = FMA(acc, b, c);
      __asm__ volatile("" : "+x"(acc));
    }
  }
  sink = sum(acc);
  return (double)UNROLLED * job->times;
}

// Tiles of `depth` steps that go through so many panels and sets of rows; rows lie an odd number of lines apart.
static long depth, panels, sets;
static long pitch(void) { return ((depth * 4 + 63) / 64 | 1) * 16; }
#define FREE_TILE(ROWS, VECTORS)                                                                                  \
  static double free_tile_##ROWS##x##VECTORS(Job *job) {                                                          \
    const long width = VECTORS * LANES, apart = pitch(), many = panels > sets ? panels : sets;                    \
    float *out = job->buffer;                                                                                     \
    const float *right = out + ROWS * width, *left = right + panels * depth * width;                              \
    for (long t = 0; t < job->times; t++)                                                                         \
      for (long n = 0; n < many; n++) {                                                                           \
        const float *b = right + n % panels * depth * width, *a = left + n % sets * ROWS * apart;                 \
        vec acc[ROWS][VECTORS];                                                                                   \
        for (int i = 0; i < ROWS; i++)                                                                            \
          for (int v = 0; v < VECTORS; v++) acc[i][v] = ZERO();                                                   \
        for (long k = 0; k < depth; k++) {                                                                        \
          vec held[VECTORS];                                                                                      \
          _Pragma("GCC unroll 8") for (int v = 0; v < VECTORS; v++) held[v] = LOAD(b + k * width + v * LANES);    \
          _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; i++) {                                               \
            vec one = SET1(a[i * apart + k]);                                                                     \
            _Pragma("GCC unroll 8") for (int v = 0; v < VECTORS; v++) acc[i][v] = FMA(one, held[v], acc[i][v]);   \
          }                                                                                                       \
        }                                                                                                         \
        for (int i = 0; i < ROWS; i++)                                                                            \
          for (int v = 0; v < VECTORS; v++) STORE(out + i * width + v * LANES, acc[i][v]);                        \
        __asm__ volatile("" ::: "memory");                                                                        \
      }                                                                                                           \
    return (double)many * job->times;                                                                             \
  }                                                                                                               \
  static size_t bytes_##ROWS##x##VECTORS(void) {                                                                  \
    return 4 * (ROWS * VECTORS * LANES + panels * depth * VECTORS * LANES + sets * ROWS * pitch());               \
  }
#if LANES == 16
enum { TALL = 8, THIN = 4, WIDE = 3 };
FREE_TILE(8, 3) FREE_TILE(4, 3)
#define TALL_TILE free_tile_8x3
#define TALL_BYTES bytes_8x3
#define THIN_TILE free_tile_4x3
#define THIN_BYTES bytes_4x3
#else
enum { TALL = 4, THIN = 2, WIDE = 3 };
FREE_TILE(4, 3) FREE_TILE(2, 3)
#define TALL_TILE free_tile_4x3
#define TALL_BYTES bytes_4x3
#define THIN_TILE free_tile_2x3
#define THIN_BYTES bytes_2x3
#endif

static int cores[MAX_THREADS];

// Cycles of one of what `kernel` counts on so many cores, all of them together.
static double cycles(Kernel kernel, size_t bytes, int threads) {
  double before = measure(additions, 0, 1, cores), rate = measure(kernel, bytes, threads, cores);
  double after = measure(additions, 0, 1, cores);
  return (before + after) / 2 / rate;
}

static void tile(const char *name, int thin, long deep, long of_panels, long of_sets, int threads) {
  depth = deep, panels = of_panels, sets = of_sets;
  if (panels && sets) printf("%s %.6e\n", name, cycles(thin ? THIN_TILE : TALL_TILE, thin ? THIN_BYTES() : TALL_BYTES(), threads));
}

int main(int count, char **given) {
  if (count != 7) { fprintf(stderr, "usage: %s TRIES THREADS L1 L2 L3 DRAM\n", given[0]); return 2; }
  tries = atoi(given[1]);
  if (tries < 1 || tries > MAX_TRIES) { fprintf(stderr, "%d tries\n", tries); return 2; }
  int threads = atoi(given[2]), found = 0;
  long l1 = atol(given[3]), l2 = atol(given[4]), l3 = atol(given[5]), dram = atol(given[6]);
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  for (int c = 0; c < CPU_SETSIZE && found < MAX_THREADS; c++)
    if (CPU_ISSET(c, &set)) cores[found++] = c;
  if (threads < 1 || threads > found) { fprintf(stderr, "%d threads, but %d cores\n", threads, found); return 2; }
  printf("clock %.6e\nwaiting %.6e\n", measure(additions, 0, 1, cores), cycles(waiting, 0, 1));
  printf("register_add %.6e\n", cycles(fma_registers, 0, 1));
  printf("l1_byte %.6e\nl2_byte %.6e\n", cycles(read_buffer, l1, 1), cycles(read_buffer, l2, 1));
  // A panel and its rows fill half of L1 at most.
  long deep = l1 / (4 * (WIDE * LANES + TALL + 1)) / 32 * 32;
  long panel = deep * WIDE * LANES * 4, row = deep * 4;
  printf("lanes %d\nrows %d\ncolumns %d\ndeep %ld\nshallow %ld\n", LANES, TALL, WIDE * LANES, deep, deep / 4);
  tile("held", 0, deep, 1, 1, 1);
  tile("held_shallow", 0, deep / 4, 1, 1, 1);
  tile("panels_from_l2", 0, deep, l2 / panel, 1, 1);
  tile("rows_from_l2", 0, deep, 1, l2 / (TALL * row), 1);
  tile("thin_held", 1, deep, 1, 1, 1);
  tile("thin_from_l2", 1, deep, l2 / panel, 1, 1);
  tile("thin_from_l3", 1, deep, l3 / panel, 1, 1);
  tile("thin_from_memory", 1, deep, dram / panel, 1, threads);
  return 0;
}
