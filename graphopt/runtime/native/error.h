/* The text of a thread's last error. */
#ifndef GRAPHOPT_ERROR_H
#define GRAPHOPT_ERROR_H

#include "model.h"

/* Remember the text and return the status. Texts are cut off at 2 KiB. */
graphopt_status fail(graphopt_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ... that an argument of the caller's is wrong. */
#define wrong(...) fail(GRAPHOPT_BAD_ARGUMENT, __VA_ARGS__)

/* ... that there is no memory. */
graphopt_status fail_memory(void);

/* Text that is put together in a buffer: what does not fit is left out. */
typedef struct {
    char text[1024];
    size_t length;
} phrase;
void say(phrase *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "[1, 3, 32, 32]" */
void say_dims(phrase *p, const int64_t *dims, int32_t rank);

#endif
