#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last[2048];

const char *graphopt_last_error(void) { return last; }

/* Drop a UTF-8 character that was cut in two at the end of a buffer that is full. */
static void whole_characters(char *text, size_t length) {
    size_t k = length;
    while (k > 0 && length - k < 4 && ((unsigned char)text[k - 1] & 0xc0) == 0x80)
        k--;
    if (k > 0 && (unsigned char)text[k - 1] >= 0xc0)
        text[k - 1] = '\0';
}

graphopt_status fail(graphopt_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(last, sizeof last, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof last)
        whole_characters(last, sizeof last - 1);
    return status;
}

graphopt_status fail_memory(void) { return fail(GRAPHOPT_NO_MEMORY, "there is no memory left"); }

void say(phrase *p, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(p->text + p->length, sizeof p->text - p->length, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    p->length += (size_t)length;
    if (p->length >= sizeof p->text) {
        p->length = sizeof p->text - 1;
        whole_characters(p->text, p->length);
    }
}

void say_dims(phrase *p, const int64_t *dims, int32_t rank) {
    say(p, "[");
    for (int32_t k = 0; k < rank; k++)
        say(p, "%s%lld", k ? ", " : "", (long long)dims[k]);
    say(p, "]");
}
