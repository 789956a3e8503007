#define _GNU_SOURCE
#include "cpu.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };
enum { BASIC, MORE, LATEST, AMD }; /* leaves 1, 7, 7.1 and 0x80000001 */

/* State that the system must keep for a feature's registers (XCR0): none; xmm and ymm; these, masks and zmm; and tiles. */
enum { PLAIN = 0, YMM = 0x6, ZMM = 0xe6, TILES = 0x60000 };

/* Where cpuid tells each (Intel SDM volume 2A, AMD APM volume 3). */
static const struct {
    const char *name; /* without dots, dashes and underscores */
    uint32_t leaf, reg, bit, state;
} FEATURES[] = {
    {"sse", BASIC, EDX, 25, PLAIN},
    {"sse2", BASIC, EDX, 26, PLAIN},
    {"sse3", BASIC, ECX, 0, PLAIN},
    {"pclmul", BASIC, ECX, 1, PLAIN},
    {"ssse3", BASIC, ECX, 9, PLAIN},
    {"fma", BASIC, ECX, 12, YMM},
    {"cx16", BASIC, ECX, 13, PLAIN},
    {"sse41", BASIC, ECX, 19, PLAIN},
    {"sse42", BASIC, ECX, 20, PLAIN},
    {"movbe", BASIC, ECX, 22, PLAIN},
    {"popcnt", BASIC, ECX, 23, PLAIN},
    {"aes", BASIC, ECX, 25, PLAIN},
    {"avx", BASIC, ECX, 28, YMM},
    {"f16c", BASIC, ECX, 29, YMM},
    {"bmi", MORE, EBX, 3, PLAIN},
    {"avx2", MORE, EBX, 5, YMM},
    {"bmi2", MORE, EBX, 8, PLAIN},
    {"avx512f", MORE, EBX, 16, ZMM},
    {"avx512dq", MORE, EBX, 17, ZMM},
    {"adx", MORE, EBX, 19, PLAIN},
    {"avx512ifma", MORE, EBX, 21, ZMM},
    {"avx512cd", MORE, EBX, 28, ZMM},
    {"sha", MORE, EBX, 29, PLAIN},
    {"avx512bw", MORE, EBX, 30, ZMM},
    {"avx512vl", MORE, EBX, 31, ZMM},
    {"avx512vbmi", MORE, ECX, 1, ZMM},
    {"avx512vbmi2", MORE, ECX, 6, ZMM},
    {"gfni", MORE, ECX, 8, PLAIN},
    {"vaes", MORE, ECX, 9, YMM},
    {"vpclmulqdq", MORE, ECX, 10, YMM},
    {"avx512vnni", MORE, ECX, 11, ZMM},
    {"avx512bitalg", MORE, ECX, 12, ZMM},
    {"avx512vpopcntdq", MORE, ECX, 14, ZMM},
    {"avx512vp2intersect", MORE, EDX, 8, ZMM},
    {"amxbf16", MORE, EDX, 22, TILES},
    {"avx512fp16", MORE, EDX, 23, ZMM},
    {"amxtile", MORE, EDX, 24, TILES},
    {"amxint8", MORE, EDX, 25, TILES},
    {"avxvnni", LATEST, EAX, 4, YMM},
    {"avx512bf16", LATEST, EAX, 5, ZMM},
    {"amxfp16", LATEST, EAX, 21, TILES},
    {"avxifma", LATEST, EAX, 23, YMM},
    {"avxvnniint8", LATEST, EDX, 4, YMM},
    {"avxneconvert", LATEST, EDX, 5, YMM},
    {"amxcomplex", LATEST, EDX, 8, TILES},
    {"avxvnniint16", LATEST, EDX, 10, YMM},
    {"lzcnt", AMD, ECX, 5, PLAIN},
    {"sse4a", AMD, ECX, 6, PLAIN},
    {"xop", AMD, ECX, 11, YMM},
    {"fma4", AMD, ECX, 16, YMM},
};

static void leaf(uint32_t number, uint32_t subleaf, uint32_t r[4]) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(number, subleaf, &a, &b, &c, &d))
        a = b = c = d = 0;
    r[EAX] = a, r[EBX] = b, r[ECX] = c, r[EDX] = d;
}

void cpu_read(cpu *here) {
    leaf(1, 0, here->basic);
    leaf(7, 0, here->more);
    memset(here->latest, 0, sizeof here->latest);
    if (here->more[EAX] >= 1) /* how many subleaves there are */
        leaf(7, 1, here->latest);
    leaf(0x80000001, 0, here->amd);
    here->kept = 0;
    if (here->basic[ECX] & bit_OSXSAVE) {
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        here->kept = (uint64_t)high << 32 | low;
    }
}

int cpu_has(const cpu *here, const char *feature) {
    char name[32];
    size_t n = 0;
    for (const char *c = feature; *c; c++)
        if (strchr("._-", *c) == NULL) {
            if (n + 1 == sizeof name)
                return 0;
            name[n++] = *c;
        }
    name[n] = '\0';
    for (size_t k = 0; k < sizeof FEATURES / sizeof *FEATURES; k++)
        if (strcmp(FEATURES[k].name, name) == 0) {
            const uint32_t *r = FEATURES[k].leaf == BASIC  ? here->basic
                                : FEATURES[k].leaf == MORE ? here->more
                                : FEATURES[k].leaf == LATEST ? here->latest : here->amd;
            return (r[FEATURES[k].reg] >> FEATURES[k].bit & 1) && (here->kept & FEATURES[k].state) == FEATURES[k].state;
        }
    return 0;
}
#else
void cpu_read(cpu *here) { memset(here, 0, sizeof *here); }

int cpu_has(const cpu *here, const char *feature) {
    (void)here;
    (void)feature;
    return 0;
}
#endif

int cpu_count(void) {
    cpu_set_t set;
    long all = sysconf(_SC_NPROCESSORS_ONLN);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    return all > 0 ? (int)all : 1; /* more processors than the set has room for */
}
