#define _GNU_SOURCE
#include "sha256.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64
#define PIECE ((size_t)8 << 20)
#define MOST_THREADS 16

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t word(const unsigned char *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static inline void a_round(const uint32_t *a, const uint32_t *b, const uint32_t *c, uint32_t *d, const uint32_t *e, const uint32_t *f,
                           const uint32_t *g, uint32_t *h, uint32_t added) {
    uint32_t choice = (*e & *f) ^ (~*e & *g), majority = (*a & *b) ^ (*a & *c) ^ (*b & *c);
    uint32_t first = *h + (rotate(*e, 6) ^ rotate(*e, 11) ^ rotate(*e, 25)) + choice + added;
    *d += first;
    *h = first + (rotate(*a, 2) ^ rotate(*a, 13) ^ rotate(*a, 22)) + majority;
}

static void blocks_by_c(uint32_t state[8], const unsigned char *data, size_t blocks) {
    for (; blocks > 0; blocks--, data += BLOCK) {
        uint32_t w[64], s[8];
        for (int t = 0; t < 16; t++)
            w[t] = word(data + 4 * t);
        for (int t = 16; t < 64; t++) {
            uint32_t a = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
            uint32_t b = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
            w[t] = w[t - 16] + a + w[t - 7] + b;
        }
        memcpy(s, state, sizeof s);
        for (int t = 0; t < 64; t += 8)
            for (int k = 0; k < 8; k++) /* unrolled: each round moves the names of the eight on by one */
                a_round(&s[-k & 7], &s[(1 - k) & 7], &s[(2 - k) & 7], &s[(3 - k) & 7], &s[(4 - k) & 7], &s[(5 - k) & 7],
                        &s[(6 - k) & 7], &s[(7 - k) & 7], K[t + k] + w[t + k]);
        for (int k = 0; k < 8; k++)
            state[k] += s[k];
    }
}

#if defined(__x86_64__)
#include <immintrin.h>

/* Four rounds take four words of the message; the schedule makes the next ones of the last sixteen. */
__attribute__((target("sha,sse4.1"))) static void blocks_by_sha_ni(uint32_t state[8], const unsigned char *data, size_t blocks) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    /* The instructions want the state as a, b, e, f and c, d, g, h, each from the highest lane down. */
    __m128i abef = _mm_set_epi32((int)state[0], (int)state[1], (int)state[4], (int)state[5]);
    __m128i cdgh = _mm_set_epi32((int)state[2], (int)state[3], (int)state[6], (int)state[7]);
    for (; blocks > 0; blocks--, data += BLOCK) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int k = 0; k < 16; k++) {
            __m128i m;
            if (k < 4) {
                m = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(data + 16 * k)), big_endian);
            } else { /* w[k % 4] is what was made four steps ago */
                __m128i middle = _mm_alignr_epi8(w[(k + 3) % 4], w[(k + 2) % 4], 4);
                m = _mm_add_epi32(_mm_sha256msg1_epu32(w[k % 4], w[(k + 1) % 4]), middle);
                m = _mm_sha256msg2_epu32(m, w[(k + 3) % 4]);
            }
            w[k % 4] = m;
            __m128i sum = _mm_add_epi32(m, _mm_loadu_si128((const __m128i *)(const void *)(K + 4 * k)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    state[0] = (uint32_t)_mm_extract_epi32(abef, 3);
    state[1] = (uint32_t)_mm_extract_epi32(abef, 2);
    state[2] = (uint32_t)_mm_extract_epi32(cdgh, 3);
    state[3] = (uint32_t)_mm_extract_epi32(cdgh, 2);
    state[4] = (uint32_t)_mm_extract_epi32(abef, 1);
    state[5] = (uint32_t)_mm_extract_epi32(abef, 0);
    state[6] = (uint32_t)_mm_extract_epi32(cdgh, 1);
    state[7] = (uint32_t)_mm_extract_epi32(cdgh, 0);
}
#endif

static void compress(uint32_t state[8], const unsigned char *data, size_t blocks, int instructions) {
#if defined(__x86_64__)
    if (instructions) {
        blocks_by_sha_ni(state, data, blocks);
        return;
    }
#endif
    (void)instructions;
    blocks_by_c(state, data, blocks);
}

void sha256(const void *data, size_t bytes, int instructions, unsigned char digest[SHA256_BYTES]) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    size_t whole = bytes / BLOCK, rest = bytes % BLOCK, tail = rest + 9 > BLOCK ? 2 : 1;
    unsigned char last[2 * BLOCK] = {0};
    if (whole > 0)
        compress(state, data, whole, instructions);
    if (rest > 0)
        memcpy(last, (const unsigned char *)data + whole * BLOCK, rest);
    last[rest] = 0x80;
    for (size_t k = 0; k < 8; k++)
        last[tail * BLOCK - 1 - k] = (unsigned char)((uint64_t)bytes * 8 >> 8 * k);
    compress(state, last, tail, instructions);
    for (int k = 0; k < SHA256_BYTES; k++)
        digest[k] = (unsigned char)(state[k / 4] >> (24 - 8 * (k % 4)));
}

typedef struct {
    const unsigned char *data;
    size_t bytes, pieces;
    int instructions;
    unsigned char *digests;
    _Atomic size_t next;
} pieces;

static void *take_pieces(void *argument) {
    pieces *p = argument;
    for (size_t k; (k = atomic_fetch_add(&p->next, 1)) < p->pieces;) {
        size_t start = k * PIECE, left = p->bytes - start;
        sha256(p->data + start, left < PIECE ? left : PIECE, p->instructions, p->digests + k * SHA256_BYTES);
    }
    return NULL;
}

int sha256_of_pieces(const void *data, size_t bytes, int instructions, int threads, unsigned char digest[SHA256_BYTES]) {
    static const unsigned char nothing;
    size_t count = bytes == 0 ? 1 : (bytes + PIECE - 1) / PIECE;
    pieces p = {bytes == 0 ? &nothing : data, bytes, count, instructions, malloc(count * SHA256_BYTES), 0};
    pthread_t others[MOST_THREADS];
    int started = 0;
    sigset_t all, before;
    if (p.digests == NULL)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's, not those threads' */
    while (started < MOST_THREADS && started + 1 < threads && (size_t)started + 1 < count &&
           pthread_create(&others[started], NULL, take_pieces, &p) == 0)
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    take_pieces(&p);
    for (int k = 0; k < started; k++)
        pthread_join(others[k], NULL);
    sha256(p.digests, count * SHA256_BYTES, instructions, digest);
    free(p.digests);
    return 1;
}

void sha256_hex(const unsigned char digest[SHA256_BYTES], char text[2 * SHA256_BYTES + 1]) {
    static const char digits[] = "0123456789abcdef";
    for (int k = 0; k < SHA256_BYTES; k++) {
        text[2 * k] = digits[digest[k] >> 4];
        text[2 * k + 1] = digits[digest[k] & 15];
    }
    text[2 * SHA256_BYTES] = '\0';
}
