/*
 * Reads a golden case on a host (case.json and .npy files) and writes tensors. Memory is allocated and kept
 * until the program ends.
 */
#ifndef REFIMPL_CASE_FILE_H
#define REFIMPL_CASE_FILE_H

#include <stddef.h>
#include <stdint.h>

typedef enum { JSON_NULL, JSON_BOOL, JSON_INTEGER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_type_t;

/* A number with a fraction or an exponent is JSON_NULL: no case has one where this program reads */
typedef struct json {
    json_type_t type;
    const char *key;                /* of a member of an object, else null */
    const char *string;
    int64_t integer;                /* JSON_INTEGER, JSON_BOOL */
    size_t count;                   /* of an array or object */
    const struct json *first;       /* its first element or member */
    const struct json *next;        /* the next sibling */
} json_t;

/* Ends the program: exit code 1, an error; 2, an unsupported operator or format */
void fail(int code, const char *problem, const char *name);
void *allocate(size_t count, size_t size);
/* A new string: name, then suffix */
const char *join(const char *name, const char *suffix);

const json_t *json_read(const char *path);
/* A member by key; null where there is none */
const json_t *json_find(const json_t *object, const char *key);
/* The same, but a missing member or another type ends the program */
const json_t *json_member(const json_t *object, const char *key, json_type_t type);
int64_t json_integer(const json_t *object, const char *key);
const char *json_string(const json_t *object, const char *key);

/* The case that the program runs, and where its output goes: set once by main */
typedef struct {
    const char *folder;
    const char *out;
    const json_t *root;
    const json_t *tensors;          /* `tensors` of case.json */
} case_t;

extern case_t current_case;

/* A tensor of the case, as case.json describes it; data is null until it is loaded */
typedef struct {
    const json_t *entry;
    const char *format;
    const uint8_t *data;            /* little-endian, last index fastest */
    size_t count;
    size_t size;                    /* bytes of an element */
} file_t;

/* A missing entry, or a shape that is none, ends the program */
file_t describe(const char *name);
/* The same with the data of its file, which must be as long as case.json says */
file_t load_file(const char *name);
int has_role(const json_t *entry, const char *role);
/* An integer element, FP32 as its pattern; uint8 and BF16 unsigned */
int64_t element(const file_t *file, size_t index);
/* A constant of a step; a missing one ends the program */
const json_t *constant(const json_t *step, const char *name);
/* The constant's integer, or its FP32 pattern; one that does not fit 32 bits ends the program */
int32_t constant_integer(const json_t *step, const char *name);
uint32_t constant_f32(const json_t *step, const char *name);

/* NAME.bin in the output folder: `count` words of `size` bytes, little-endian; `more` adds to the file */
void write_words(const char *name, const void *data, size_t count, size_t size, int more);

#endif
