/* What this processor, and the system for it, can do. */
#ifndef GRAPHOPT_CPU_H
#define GRAPHOPT_CPU_H

#include <stdint.h>

/* What cpuid says (asking it takes microseconds in a virtual machine), and whose registers the system keeps. */
typedef struct {
    uint32_t basic[4], more[4], latest[4], amd[4];
    uint64_t kept;
} cpu;

void cpu_read(cpu *here);

/* Whether code may use that feature, by LLVM's name ("avx512vnni", "sse4.2"); dots, dashes and underscores do not matter. Not
 * one that is not known here. */
int cpu_has(const cpu *here, const char *feature);

/* How many processors this process may use. */
int cpu_count(void);

#endif
