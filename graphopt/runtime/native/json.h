/* JSON (RFC 8259), read strictly: UTF-8, one value, at most 64 deep, no NUL in texts. */
#ifndef GRAPHOPT_JSON_H
#define GRAPHOPT_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "memory.h"

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_INTEGER, JSON_REAL, JSON_TEXT, JSON_ARRAY, JSON_OBJECT } json_kind;

typedef struct json_value {
    json_kind kind;
    const char *key;          /* of an object's member */
    struct json_value *next;  /* in the same array or object */
    int64_t integer;          /* JSON_REAL, a number with a fraction or beyond 64 bits, has no value here */
    const char *text;
    struct json_value *first; /* of an array or object */
    size_t count;
} json_value;

/* The value, in memory of `m`, or NULL with the reason (JSON_NO_MEMORY itself, or words) and its place. */
extern const char JSON_NO_MEMORY[];
const json_value *json_read(memory *m, const char *text, size_t length, const char **why, size_t *at);

/* The member of that name; NULL where there is none, more than one, or `object` is none. */
const json_value *json_member(const json_value *object, const char *key);

/* The text, or NULL where the value is none (or NULL). */
const char *json_text(const json_value *value);

/* Whether it is an integer between 0 and `most`, and which. */
int json_count(const json_value *value, int64_t most, int64_t *count);

#endif
