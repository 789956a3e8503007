/* The digest of a file's pieces, by instructions and without. */
#include <stdio.h>
#include <stdlib.h>

#include "cpu.h"
#include "sha256.h"

int main(int argc, char **argv) {
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (f == NULL)
        return 2;
    fseek(f, 0, SEEK_END);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    unsigned char *data = malloc(bytes + 1), digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    cpu here;
    if (data == NULL || fread(data, 1, bytes, f) != bytes)
        return 2;
    cpu_read(&here);
    for (int instructions = 0; instructions <= cpu_has(&here, "sha"); instructions++)
        for (int threads = 1; threads <= 3; threads += 2) {
            if (!sha256_of_pieces(data, bytes, instructions, threads, digest))
                return 3;
            sha256_hex(digest, hex);
            puts(hex);
        }
    free(data);
    fclose(f);
    return 0;
}
