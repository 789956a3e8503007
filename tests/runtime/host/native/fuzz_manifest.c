/* Reads a manifest spoiled in every place, each time from memory of exactly its size. Built with sanitizers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "manifest.h"

static graphopt_status read(const char *text, size_t length, const cpu *here) {
    char *exact = malloc(length ? length : 1);
    memory m = {NULL};
    description d = {0};
    memcpy(exact, text, length);
    graphopt_status status = describe(&d, &m, exact, length, here, "fuzz");
    memory_free(&m);
    free(exact);
    if (status != GRAPHOPT_OK && graphopt_last_error()[0] == '\0')
        abort();
    return status;
}

int main(int argc, char **argv) {
    static char text[1 << 20];
    static const unsigned char others[] = {0x00, 0x0a, 0x22, 0x2d, 0x30, 0x39, 0x5b, 0x5c, 0x5d, 0x7b, 0x80, 0xc0, 0xe0, 0xff};
    size_t refused = 0, read_on = 0;
    cpu here;
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (f == NULL)
        return 2;
    size_t length = fread(text, 1, sizeof text, f);
    fclose(f);
    cpu_read(&here);
    if (read(text, length, &here) != GRAPHOPT_OK) {
        fprintf(stderr, "%s\n", graphopt_last_error());
        return 3;
    }
    size_t end = length;
    while (end > 0 && strchr(" \n", text[end - 1]) != NULL)
        end--;
    for (size_t k = 0; k < end; k++)
        if (read(text, k, &here) == GRAPHOPT_OK) {
            fprintf(stderr, "cut off after %zu of %zu bytes, it was taken\n", k, length);
            return 1;
        }
    for (size_t k = 0; k < length; k++) {
        char before = text[k];
        for (size_t o = 0; o < sizeof others + 8; o++) {
            text[k] = (char)(o < 8 ? before ^ 1 << o : others[o - 8]);
            if (text[k] != before)
                read(text, length, &here) == GRAPHOPT_OK ? read_on++ : refused++;
        }
        text[k] = before;
    }
    printf("%zu cut off, %zu refused, %zu read\n", end, refused, read_on);
    return 0;
}
