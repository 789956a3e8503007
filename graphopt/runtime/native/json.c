#include "json.h"

#include <string.h>

#define DEEPEST 64

const char JSON_NO_MEMORY[] = "there is no memory left";

typedef struct {
    memory *m;
    const unsigned char *at, *end;
    const char *why;
} reader;

static int refuse(reader *r, const char *why) {
    if (r->why == NULL)
        r->why = why;
    return 0;
}

static void skip_space(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

static int next_is(reader *r, unsigned char c) {
    if (r->at == r->end || *r->at != c)
        return 0;
    r->at++;
    return 1;
}

static int digit(const reader *r) { return r->at < r->end && *r->at >= '0' && *r->at <= '9'; }

static int number(reader *r, json_value *v) {
    int negative = next_is(r, '-'), fits = 1;
    int64_t n = 0;
    if (!digit(r))
        return refuse(r, "a digit is missing");
    if (*r->at == '0') {
        r->at++;
        if (digit(r))
            return refuse(r, "a number starts with 0");
    }
    for (; digit(r); r->at++) /* downwards, where there is one more number */
        fits = fits && !__builtin_mul_overflow(n, (int64_t)10, &n) && !__builtin_sub_overflow(n, (int64_t)(*r->at - '0'), &n);
    if (!negative)
        fits = fits && !__builtin_sub_overflow((int64_t)0, n, &n);
    v->kind = fits ? JSON_INTEGER : JSON_REAL;
    v->integer = fits ? n : 0;
    if (next_is(r, '.')) {
        v->kind = JSON_REAL;
        if (!digit(r))
            return refuse(r, "a digit is missing");
        while (digit(r))
            r->at++;
    }
    if (next_is(r, 'e') || next_is(r, 'E')) {
        v->kind = JSON_REAL;
        if (!next_is(r, '+'))
            next_is(r, '-');
        if (!digit(r))
            return refuse(r, "a digit is missing");
        while (digit(r))
            r->at++;
    }
    return 1;
}

/* Bytes of the UTF-8 character there, 0 where it is none (RFC 3629). */
static int character(const reader *r) {
    const unsigned char *s = r->at;
    size_t left = (size_t)(r->end - s);
    int n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    if ((size_t)n > left)
        return 0;
    for (int k = 1; k < n; k++)
        if ((s[k] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) /* longer than need be; a surrogate */
        return 0;
    if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) /* ...; beyond the last one */
        return 0;
    return n;
}

static int hex4(reader *r, unsigned *code) {
    *code = 0;
    for (int k = 0; k < 4; k++, r->at++) {
        int c = r->at < r->end ? *r->at : 0;
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0)
            return refuse(r, "four hexadecimal digits are missing");
        *code = *code * 16 + (unsigned)d;
    }
    return 1;
}

/* What follows a backslash, as UTF-8. */
static int escape(reader *r, char **to) {
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    int c = r->at < r->end ? *r->at++ : 0;
    const char *simple = c == 0 ? NULL : strchr(from, c);
    if (simple != NULL) {
        *(*to)++ = into[simple - from];
        return 1;
    }
    unsigned code, low;
    if (c != 'u')
        return refuse(r, "an unknown escape");
    if (!hex4(r, &code))
        return 0;
    if (code >= 0xd800 && code < 0xdc00) {
        if (!next_is(r, '\\') || !next_is(r, 'u'))
            return refuse(r, "half of a surrogate pair");
        if (!hex4(r, &low))
            return 0;
        if (low < 0xdc00 || low >= 0xe000)
            return refuse(r, "half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000)
        return refuse(r, "half of a surrogate pair");
    if (code == 0)
        return refuse(r, "NUL in a text");
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    *(*to)++ = (char)(lead[more] | code >> 6 * more);
    for (int k = more - 1; k >= 0; k--)
        *(*to)++ = (char)(0x80 | (code >> 6 * k & 0x3f));
    return 1;
}

/* A text behind its opening quote. */
static int text(reader *r, const char **into) {
    size_t longest = 1; /* an escape is never shorter than what it stands for */
    for (const unsigned char *s = r->at; s < r->end && *s != '"'; s++, longest++)
        if (*s == '\\' && s + 1 < r->end)
            s++, longest++;
    char *to = memory_get(r->m, longest, 1);
    if (to == NULL)
        return refuse(r, JSON_NO_MEMORY);
    *into = to;
    while (r->at < r->end && *r->at != '"') {
        if (*r->at < 0x20)
            return refuse(r, "a control character in a text");
        if (next_is(r, '\\')) {
            if (!escape(r, &to))
                return 0;
            continue;
        }
        int n = character(r);
        if (n == 0)
            return refuse(r, "not UTF-8");
        memcpy(to, r->at, (size_t)n);
        to += n;
        r->at += n;
    }
    *to = '\0';
    return next_is(r, '"') || refuse(r, "a text has no end");
}

static int word(reader *r, json_value *v, const char *name, json_kind kind) {
    size_t n = strlen(name);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, name, n) != 0)
        return refuse(r, "not a value");
    r->at += n;
    v->kind = kind;
    return 1;
}

static int value(reader *r, json_value *v, int depth);

/* An array or object behind its opening bracket. */
static int members(reader *r, json_value *v, int depth) {
    unsigned char close = v->kind == JSON_ARRAY ? ']' : '}';
    json_value **last = &v->first;
    if (depth == DEEPEST)
        return refuse(r, "nested too deep");
    skip_space(r);
    if (next_is(r, close))
        return 1;
    for (;;) {
        json_value *inner = memory_get(r->m, 1, sizeof *inner);
        if (inner == NULL)
            return refuse(r, JSON_NO_MEMORY);
        skip_space(r);
        if (v->kind == JSON_OBJECT) {
            if (!next_is(r, '"'))
                return refuse(r, "a member has no name");
            if (!text(r, &inner->key))
                return 0;
            skip_space(r);
            if (!next_is(r, ':'))
                return refuse(r, "a colon is missing");
        }
        if (!value(r, inner, depth + 1))
            return 0;
        *last = inner;
        last = &inner->next;
        v->count++;
        skip_space(r);
        if (next_is(r, close))
            return 1;
        if (!next_is(r, ','))
            return refuse(r, "a comma is missing");
    }
}

static int value(reader *r, json_value *v, int depth) {
    skip_space(r);
    if (r->at == r->end)
        return refuse(r, "it ends too early");
    switch (*r->at) {
    case '{':
    case '[':
        v->kind = *r->at++ == '{' ? JSON_OBJECT : JSON_ARRAY;
        return members(r, v, depth);
    case '"':
        r->at++;
        v->kind = JSON_TEXT;
        return text(r, &v->text);
    case 'n':
        return word(r, v, "null", JSON_NULL);
    case 't':
        return word(r, v, "true", JSON_TRUE);
    case 'f':
        return word(r, v, "false", JSON_FALSE);
    default:
        if (*r->at != '-' && !digit(r))
            return refuse(r, "not a value");
        return number(r, v);
    }
}

const json_value *json_read(memory *m, const char *text, size_t length, const char **why, size_t *at) {
    const unsigned char *start = (const unsigned char *)text;
    reader r = {m, start, start + length, NULL};
    json_value *v = memory_get(m, 1, sizeof *v);
    if (v == NULL)
        refuse(&r, JSON_NO_MEMORY);
    else if (value(&r, v, 0)) {
        skip_space(&r);
        if (r.at != r.end)
            refuse(&r, "something follows the end");
    }
    *why = r.why;
    *at = (size_t)(r.at - start);
    return r.why == NULL ? v : NULL;
}

const json_value *json_member(const json_value *object, const char *key) {
    const json_value *found = NULL;
    if (object == NULL || object->kind != JSON_OBJECT)
        return NULL;
    for (const json_value *v = object->first; v != NULL; v = v->next)
        if (strcmp(v->key, key) == 0) {
            if (found != NULL)
                return NULL;
            found = v;
        }
    return found;
}

const char *json_text(const json_value *value) { return value != NULL && value->kind == JSON_TEXT ? value->text : NULL; }

int json_count(const json_value *value, int64_t most, int64_t *count) {
    if (value == NULL || value->kind != JSON_INTEGER || value->integer < 0 || value->integer > most)
        return 0;
    *count = value->integer;
    return 1;
}
