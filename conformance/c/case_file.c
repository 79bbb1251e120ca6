#include "case_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fail(int code, const char *problem, const char *name)
{
    fprintf(stderr, "dut: %s: %s\n", name, problem);
    exit(code);
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);

    if (memory == 0) {
        fail(1, "out of memory", "allocate");
    }
    return memory;
}

const char *join(const char *name, const char *suffix)
{
    char *text = allocate(strlen(name) + strlen(suffix) + 1, 1);

    strcpy(text, name);
    return strcat(text, suffix);
}

static uint8_t *read_file(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes;
    long end;

    if (file == 0 || fseek(file, 0, SEEK_END) != 0 || (end = ftell(file)) < 0
        || fseek(file, 0, SEEK_SET) != 0) {
        fail(1, "cannot read", path);
    }
    bytes = allocate((size_t)end + 1, 1);
    if (fread(bytes, 1, (size_t)end, file) != (size_t)end) {
        fail(1, "cannot read", path);
    }
    fclose(file);
    *length = (size_t)end;
    return bytes;
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

typedef struct {
    const char *path;
    char *at;
} reader_t;

static char peek(reader_t *reader)
{
    while (*reader->at != 0 && strchr(" \t\r\n", *reader->at) != 0) {
        reader->at++;
    }
    return *reader->at;
}

static void expect(reader_t *reader, char wanted)
{
    if (peek(reader) != wanted) {
        fail(1, "not the JSON of a case", reader->path);
    }
    reader->at++;
}

/* Ends the text in place. An escaped character stands for itself: names and formats have none but quotes. */
static const char *read_string(reader_t *reader)
{
    char *start, *out;

    expect(reader, '"');
    start = out = reader->at;
    while (*reader->at != '"') {
        if (*reader->at == '\\') {
            reader->at++;
        }
        if (*reader->at == 0) {
            fail(1, "a string does not end", reader->path);
        }
        *out++ = *reader->at++;
    }
    reader->at++;
    *out = 0;
    return start;
}

static void read_number(reader_t *reader, json_t *value)
{
    char *end;

    value->type = JSON_INTEGER;
    value->integer = strtoll(reader->at, &end, 10);
    if (end == reader->at) {
        fail(1, "not the JSON of a case", reader->path);
    }
    if (*end == '.' || *end == 'e' || *end == 'E') {
        value->type = JSON_NULL;
        end += strspn(end, ".eE+-0123456789");
    }
    reader->at = end;
}

static json_t *read_value(reader_t *reader)
{
    json_t *value = allocate(1, sizeof *value);
    const char next = peek(reader);

    if (next == '{' || next == '[') {
        const char closing = next == '{' ? '}' : ']';
        const json_t **link = &value->first;

        value->type = next == '{' ? JSON_OBJECT : JSON_ARRAY;
        reader->at++;
        while (peek(reader) != closing) {
            const char *key = 0;
            json_t *member;

            if (value->count > 0) {
                expect(reader, ',');
                (void)peek(reader);
            }
            if (next == '{') {
                key = read_string(reader);
                expect(reader, ':');
            }
            member = read_value(reader);
            member->key = key;
            *link = member;
            link = &member->next;
            value->count++;
        }
        reader->at++;
    } else if (next == '"') {
        value->type = JSON_STRING;
        value->string = read_string(reader);
    } else if (strncmp(reader->at, "true", 4) == 0 || strncmp(reader->at, "false", 5) == 0) {
        value->type = JSON_BOOL;
        value->integer = next == 't';
        reader->at += next == 't' ? 4 : 5;
    } else if (strncmp(reader->at, "null", 4) == 0) {
        reader->at += 4;
    } else {
        read_number(reader, value);
    }
    return value;
}

const json_t *json_read(const char *path)
{
    reader_t reader;
    size_t length;

    reader.path = path;
    reader.at = (char *)read_file(path, &length);
    return read_value(&reader);
}

const json_t *json_find(const json_t *object, const char *key)
{
    const json_t *member;

    for (member = object->first; member != 0; member = member->next) {
        if (member->key != 0 && strcmp(member->key, key) == 0) {
            return member;
        }
    }
    return 0;
}

const json_t *json_member(const json_t *object, const char *key, json_type_t type)
{
    const json_t *member = json_find(object, key);

    if (member == 0 || member->type != type) {
        fail(1, "missing in case.json, or of another type", key);
    }
    return member;
}

int64_t json_integer(const json_t *object, const char *key)
{
    return json_member(object, key, JSON_INTEGER)->integer;
}

const char *json_string(const json_t *object, const char *key)
{
    return json_member(object, key, JSON_STRING)->string;
}

/* ---- .npy, hexadecimal floats -------------------------------------------------------------------------- */

static const uint8_t *npy_read(const char *path, const char *wanted, size_t bytes)
{
    char *text;
    const uint8_t *data;
    size_t length, header;

    data = read_file(path, &length);
    if (length < 12 || memcmp(data, "\x93NUMPY", 6) != 0 || data[6] != 1) {
        fail(1, "not an .npy file of version 1.0", path);
    }
    header = 10u + data[8] + 256u * data[9];
    if (length < header || length - header != bytes) {
        fail(1, "not as long as case.json says", path);
    }
    text = memcpy(allocate(header, 1), data + 10, header - 10);
    if (strstr(text, "'fortran_order': False") == 0 || strstr(text, wanted) == 0) {
        fail(1, "not in C order, or not the type that case.json says", path);
    }
    return data + header;
}

/* A C hexadecimal float that is an FP32 value, to its pattern */
static uint32_t f32_from_text(const char *text)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = text;
    const uint32_t sign = *at == '-' ? 0x80000000u : 0;
    uint64_t m = 0;
    int32_t exponent = 0;
    int32_t fraction = 0;

    at += sign != 0;
    if (strncmp(at, "0x", 2) != 0) {
        fail(1, "not a hexadecimal float", text);
    }
    for (at += 2; *at != 0 && *at != 'p'; at++) {
        const char *digit = strchr(digits, *at);

        if (*at == '.') {
            fraction = 1;
        } else if (digit == 0 || m >> 59 != 0) {
            fail(1, "not a hexadecimal float", text);
        } else {
            m = m * 16 + (uint64_t)(digit - digits);
            exponent -= fraction != 0 ? 4 : 0;
        }
    }
    exponent += *at == 'p' ? (int32_t)strtol(at + 1, 0, 10) : 0;
    if (m == 0) {
        return sign;
    }
    /* to a significand of 24 bits, or of fewer for a subnormal; both exactly */
    while (m < 0x00800000u && exponent > -149) {
        m *= 2;
        exponent--;
    }
    while ((m > 0x00FFFFFFu || exponent < -149) && m % 2 == 0) {
        m /= 2;
        exponent++;
    }
    if (m > 0x00FFFFFFu || exponent < -149 || exponent > 104) {
        fail(1, "not an FP32 value", text);
    }
    return sign | (uint32_t)(m < 0x00800000u ? m : m + ((uint64_t)(exponent + 149) << 23));
}

/* ---- tensors of the case ------------------------------------------------------------------------------- */

case_t current_case;

static const struct {
    const char *name;
    const char *type;               /* in the header of an .npy file */
    size_t size;
} formats[] = {
    {"int8", "i1'", 1}, {"uint8", "u1'", 1}, {"int16", "<i2'", 2}, {"bf16", "<u2'", 2},
    {"int32", "<i4'", 4}, {"f32", "<f4'", 4}, {"int64", "<i8'", 8}, {"f64", "<f8'", 8},
};

static size_t find_format(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (strcmp(name, formats[i].name) == 0) {
            return i;
        }
    }
    fail(2, "unsupported format", name);
    return 0;
}

file_t describe(const char *name)
{
    file_t file;
    const json_t *dimension;

    file.entry = json_member(current_case.tensors, name, JSON_OBJECT);
    file.format = json_string(file.entry, "format");
    file.data = 0;
    file.size = formats[find_format(file.format)].size;
    file.count = 1;
    dimension = json_member(file.entry, "shape", JSON_ARRAY)->first;
    for (; dimension != 0; dimension = dimension->next) {
        if (dimension->type != JSON_INTEGER || dimension->integer < 0 || dimension->integer > INT32_MAX
            || (dimension->integer > 0 && file.count > INT32_MAX / (size_t)dimension->integer)) {
            fail(1, "not a shape that fits memory", name);
        }
        file.count *= (size_t)dimension->integer;
    }
    return file;
}

file_t load_file(const char *name)
{
    file_t file = describe(name);
    const char *path = join(join(current_case.folder, "/"), json_string(file.entry, "file"));

    file.data = npy_read(path, formats[find_format(file.format)].type, file.count * file.size);
    return file;
}

int has_role(const json_t *entry, const char *role)
{
    return strcmp(json_string(entry, "role"), role) == 0;
}

int64_t element(const file_t *file, size_t index)
{
    const uint8_t *bytes = file->data + index * file->size;
    const int is_unsigned = file->format[0] == 'u' || file->format[0] == 'b';
    uint64_t value = 0;
    size_t i;

    for (i = 0; i < file->size; i++) {
        value |= (uint64_t)bytes[i] << 8 * i;
    }
    if (file->size < 8 && !is_unsigned && (bytes[file->size - 1] & 0x80) != 0) {
        value -= (uint64_t)1 << 8 * file->size;
    }
    return (int64_t)value;
}

const json_t *constant(const json_t *step, const char *name)
{
    const json_t *item;

    for (item = json_member(step, "constants", JSON_ARRAY)->first; item != 0; item = item->next) {
        if (strcmp(json_string(item, "name"), name) == 0) {
            return item;
        }
    }
    fail(1, "the step lacks this constant", name);
    return 0;
}

int32_t constant_integer(const json_t *step, const char *name)
{
    const int64_t value = json_integer(constant(step, name), "int");

    if (value < INT32_MIN || value > INT32_MAX) {
        fail(2, "a constant is wider than 32 bits", name);
    }
    return (int32_t)value;
}

uint32_t constant_f32(const json_t *step, const char *name)
{
    return f32_from_text(json_string(constant(step, name), "f32"));
}

void write_words(const char *name, const void *data, size_t count, size_t size, int more)
{
    const char *path = join(join(current_case.out, "/"), join(name, ".bin"));
    const uint8_t *bytes = data;
    FILE *file = fopen(path, more ? "ab" : "wb");

    if (file == 0 || fwrite(bytes, size, count, file) != count || fclose(file) != 0) {
        fail(1, "cannot write", path);
    }
}
