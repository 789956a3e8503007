/* SHA-256 (FIPS 180-4). `instructions`: by those that the processor has for it (sha, sse4.1). */
#ifndef GRAPHOPT_SHA256_H
#define GRAPHOPT_SHA256_H

#include <stddef.h>

#define SHA256_BYTES 32

void sha256(const void *data, size_t bytes, int instructions, unsigned char digest[SHA256_BYTES]);

/* The digest of a file's contents in an artifact: SHA-256 of the SHA-256 of every 8 MiB, by up to `threads` threads.
 * 0 where there is no memory. */
int sha256_of_pieces(const void *data, size_t bytes, int instructions, int threads, unsigned char digest[SHA256_BYTES]);

/* 64 hexadecimal digits and NUL. */
void sha256_hex(const unsigned char digest[SHA256_BYTES], char text[2 * SHA256_BYTES + 1]);

#endif
